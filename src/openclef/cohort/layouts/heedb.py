"""`heedb`: the Harvard Electroencephalography Database, BDSP v4.1 (paper.md, Data sets).

Read below the root or below its `EEG/`:

- `bids/{SITE}/sub-{SITE}{PID}/ses-{SID}/eeg/*_task-{cEEG|EEG}_eeg.edf`, the recordings;
- `eeg-metadata/{SITE}_eeg_metadata_<date>.csv`, of each site the newest. Recordings without a row
  are kept; rows without a recording are counted;
- `HEEDB_Metadata/{SITE}_EEG__reports_findings.csv` (not at all sites): a cell that is not empty
  asserts its flag, an empty one means not mentioned. All 39 flags are findings; labels are the 15
  of `clinical.FINDINGS`: 1 if asserted, 0 if the reader calls the record normal and normal records
  do not have it, else left out [U]: the table itself denies nothing;
- `HEEDB_Metadata/HEEDB_patients.csv`, for age, sex and race that the visit does not tell;
- `HEEDB_Metadata/HEEDB_ICD10_for_Neurology.csv`, `HEEDB_Medication_ATC.csv`: `cohort.ehr`;
- reports: `.txt` files in folders named by a year, anywhere, as the findings' column
  `DeidentifiedName(Reports)` names them; one report may cover several sessions. A report that no
  row names is matched if its own name tells site, patient and session
  (`[sub-]{SITE}{PID}_[ses-]{SID}*.txt`). Of two with one name neither is taken.

Dated OMOP tables are not read. The setting is ServiceName, sorted into routine, ltm, emu, icu_or.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath

import polars as pl

from openclef.clinical.findings import DENIED_BY_NORMAL, FINDINGS, HEEDB_FLAGS, flag_name
from openclef.cohort.deidentify import pooled_age
from openclef.cohort.layouts import bdsp, tables
from openclef.cohort.layouts.bdsp import Visit
from openclef.cohort.layouts.source import Records, Source, SourceSession, digest_files
from openclef.cohort.layouts.tree import Tree
from openclef.errors import OpenclefError

NEEDS = "heedb has [EEG/]bids/<site>/sub-<site><patient>/ses-<n>/eeg/*_eeg.edf, [EEG/]eeg-metadata"

_RECORDING = re.compile(
    r"(?:EEG/)?bids/(?P<site>[A-Z]\d{4})/(?P<folder>sub-[^/]+)/(?P<session>ses-[^/]+)/eeg/"
    r"(?![^/]*_task-psg_)[^/]+_eeg\.edf",
    re.IGNORECASE,
)
_METADATA = re.compile(
    r"(?:EEG/)?eeg-metadata/(?P<series>[A-Z]\d{4})_eeg_metadata(?P<date>[\d_-]*)\.csv",
    re.IGNORECASE,
)
_FINDINGS = re.compile(
    r"(?:EEG/)?HEEDB_Metadata/(?P<series>[A-Z]\d{4})_EEG_+reports_findings(?P<date>[\d_-]*)\.csv",
    re.IGNORECASE,
)
_PATIENTS = re.compile(r"(?:EEG/)?HEEDB_Metadata/HEEDB_patients\.csv")
_CODES = re.compile(
    r"(?:EEG/)?HEEDB_Metadata/(?:HEEDB_ICD10_for_Neurology|HEEDB_Medication_ATC)\.csv"
)
_REPORT = re.compile(r"(?:[^/]+/)*\d{4}/[^/]+\.txt", re.IGNORECASE)
_REPORT_NAME = re.compile(
    r"(?:sub-)?(?P<folder>[A-Z]\d{4}\d+)_(?:ses-)?(?P<session>\d+)(?:[_-].*)?\.txt", re.IGNORECASE
)
# In this order: "ICU LTM" is intensive care, "EMU long term" the epilepsy monitoring unit.
_SETTINGS = (
    ("emu", re.compile(r"\bemu\b|epilepsy monitoring")),
    ("icu_or", re.compile(r"icu\b|\bor\b|operati|intensive")),
    ("ltm", re.compile(r"ltm|long.?term|ceeg|continuous|ambulatory")),
    ("routine", re.compile(r"routine|\breeg\b")),
)

Key = tuple[str, str]


def matches(tree: Tree) -> bool:
    """Whether the tree has a recording where HEEDB has its own."""
    return tree.any(_RECORDING)


def read(tree: Tree, labels: Sequence[str]) -> Source:
    """Read HEEDB, all sites that are there.

    Raises OpenclefError without any metadata table, for a table that cannot serve, or if `labels`
    are asked for: findings and records are this data set's tasks.
    """
    if labels:
        raise OpenclefError(
            f"{tree.root}: layout heedb has no table to take the label {labels[0]!r} from; "
            "its tasks are findings and records"
        )
    recordings = list(tree.match(_RECORDING))
    metadata = bdsp.newest(tree, _METADATA)
    if recordings and not metadata:
        raise OpenclefError(
            f"{tree.root}: no eeg-metadata/<site>_eeg_metadata_<date>.csv; layout heedb needs it"
        )
    visits = {
        visit.key: visit
        for site, path in metadata.items()
        for visit in bdsp.read_visits(bdsp.read(path, needs=("sessionid",)), path, site=site)
    }
    people = _read_patients(tree)
    flags, reads = _read_findings(tree)
    reports = _find_reports(tree, reads)

    keys = [bdsp.visit_key(found["folder"], found["session"]) for _, found in recordings]
    patients = {
        key: visits[key].patient if key in visits else bdsp.split_folder(key[0])[1] for key in keys
    }
    numbers = bdsp.subject_numbers(patients.values())
    labels_of = {asserted: _labels(asserted) for asserted in set(flags.values())}
    findings_of = {asserted: dict.fromkeys(asserted, 1) for asserted in labels_of}
    sessions = []
    for (path, found), key in zip(recordings, keys, strict=True):
        patient = patients[key]
        tellers = [
            teller
            for teller in (visits.get(key), reads.get(key), people.get(patient))
            if teller is not None
        ]
        service = next((t.service for t in tellers if t.service is not None), None)
        report = reports.get(key)
        asserted = flags.get(key, ())
        sessions.append(
            SourceSession(
                path=tree.root / path,
                subject=patient,
                subject_id=numbers[patient],
                site=found["site"],
                setting=setting(service),
                age=pooled_age(next((t.age for t in tellers if t.age is not None), None)),
                sex=next((s for t in tellers if (s := tables.sex(t.sex)) is not None), None),
                race=next((t.race for t in tellers if t.race is not None), None),
                labels=labels_of.get(asserted, {}),
                findings=findings_of.get(asserted, {}),
                report_path=tree.root / report if report else None,
                report_bytes=tree.files[report] if report else None,
                size_bytes=tree.files[path],
            )
        )
    codes = tuple(tree.root / path for path, _ in tree.match(_CODES))
    return Source(
        tree.root,
        "heedb",
        tuple(sessions),
        records=Records("heedb", codes, digest_files(codes)) if codes else None,
        findings=tuple(sorted(flag_name(flag) for flag in HEEDB_FLAGS)) if flags else (),
        n_missing=len(visits.keys() - set(keys)),
    )


@cache
def setting(service: str | None) -> str | None:
    """Sort a ServiceName into routine, ltm, emu or icu_or; None for one of another kind."""
    text = (service or "").lower()
    return next((name for name, pattern in _SETTINGS if pattern.search(text)), None)


def _read_patients(tree: Tree) -> dict[str, Visit]:
    """Age, sex and race of each patient, over all visits."""
    people: dict[str, Visit] = {}
    for path, _ in tree.match(_PATIENTS):
        where = tree.root / path
        people |= {row.patient: row for row in bdsp.read_visits(bdsp.read(where), where)}
    return people


def _read_findings(tree: Tree) -> tuple[dict[Key, tuple[str, ...]], dict[Key, Visit]]:
    """Names of the findings asserted at each visit, by any of its rows, and those rows."""
    flags: dict[Key, tuple[str, ...]] = {}
    reads: dict[Key, Visit] = {}
    for site, path in bdsp.newest(tree, _FINDINGS).items():
        table = bdsp.read(path, needs=("sessionid",))
        ours = {flag: [c for c in table.columns if _is_flag(c, flag)] for flag in HEEDB_FLAGS}
        if not any(ours.values()):
            raise OpenclefError(
                f"{path}: none of HEEDB's {len(HEEDB_FLAGS)} flags is a column; "
                f"columns: {', '.join(table.columns)}"
            )
        asserted = table.select(
            pl.any_horizontal(pl.col(columns).is_not_null()).alias(flag_name(flag))
            for flag, columns in ours.items()
            if columns
        )
        visits = bdsp.read_visits(table, path, site=site)
        for visit, row in zip(visits, asserted.iter_rows(), strict=True):
            names = {name for name, value in zip(asserted.columns, row, strict=True) if value}
            flags[visit.key] = tuple(sorted(names.union(flags.get(visit.key, ()))))
            reads[visit.key] = visit
    return flags, reads


def _is_flag(column: str, flag: str) -> bool:
    return bdsp.loose(column) == bdsp.loose(flag)


def _labels(asserted: Sequence[str]) -> dict[str, tuple[str, int]]:
    denied = DENIED_BY_NORMAL if "normal" in asserted else frozenset()
    return {
        finding.name: ("finding", int(finding.name in asserted))
        for finding in FINDINGS
        if finding.name in asserted or finding.name in denied
    }


def _find_reports(tree: Tree, reads: Mapping[Key, Visit]) -> dict[Key, str]:
    by_name: dict[str, list[str]] = {}
    for path, _ in tree.match(_REPORT):
        by_name.setdefault(PurePosixPath(path).name, []).append(path)
    reports: dict[Key, str] = {}
    for name, paths in by_name.items():
        found = _REPORT_NAME.fullmatch(name)
        if found and len(paths) == 1:
            reports[bdsp.visit_key(found["folder"], found["session"])] = paths[0]
    for key, visit in reads.items():
        named = by_name.get(f"{(visit.report or '').removesuffix('.txt')}.txt", [])
        if len(named) == 1:
            reports[key] = named[0]
    return reports
