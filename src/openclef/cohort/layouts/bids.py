"""`bids`: EEG-BIDS, with reports, findings and MEDS records beside the subjects if there are any.

Read, all but the recordings optional: `participants.tsv` (age, sex, race, site, meds_subject_id,
columns to make tasks of), `sub-*_sessions.tsv` (setting, age), `*_scans.tsv` (setting and age of
one recording, before those of its session), `phenotype/eeg_findings.tsv`,
`reports/sub-X[_ses-Y]_report.txt`, `meds/data/**/*.parquet`. Dates are taken from the recordings
alone. Runs of a session are recordings of their own and share its report and findings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from openclef.cohort.deidentify import pooled_age
from openclef.cohort.layouts import tables
from openclef.cohort.layouts.source import Records, Source, SourceSession, digest_files
from openclef.cohort.layouts.tree import Tree
from openclef.errors import OpenclefError

NEEDS = "bids has sub-*/ folders with *_eeg.edf (or .bdf .vhdr .set .gdf .cnt .mff .fif) files"

Row = Mapping[str, str | None]

# BIDS allows the first four; the others are found in trees of its shape.
_RECORDING = re.compile(
    r"(?P<person>sub-[^/_]+)/(?:[^/]+/)*(?P<name>[^/]+_eeg\.(?:edf|bdf|vhdr|set|gdf|cnt|mff|fif))",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"sub-[^/]+/.*")
_SESSIONS = re.compile(r"sub-[^/]+/(?P<person>sub-[^/_]+)_sessions\.tsv")
_SCANS = re.compile(r"(?P<folder>sub-[^/]+/(?:ses-[^/]+/)?)[^/]+_scans\.tsv")
_SESSION = re.compile(r"_(ses-[^_]+)")
_FINDINGS = "phenotype/eeg_findings.tsv"
_EVENTS = re.compile(r"meds/data/.*\.parquet")


def matches(tree: Tree) -> bool:
    """Whether the tree has subjects on its top level."""
    return tree.any(_SUBJECT)


def read(tree: Tree, labels: Sequence[str]) -> Source:
    """Read a BIDS data set.

    Raises OpenclefError for a table that cannot serve, or records that no participant can be
    joined to.
    """
    root = tree.root
    where = root / "participants.tsv"
    people = pl.DataFrame({"participant_id": []})
    if "participants.tsv" in tree.files:
        people = tables.read_table(where, "\t")
    tables.require(people, ("participant_id",), where)
    tasks = tables.make_tasks(people, labels, where)
    rows: dict[str, Row] = {row["participant_id"]: row for row in people.iter_rows(named=True)}
    labels_of = dict(zip(people["participant_id"].to_list(), tasks, strict=True))
    findings = _read_findings(root / _FINDINGS) if _FINDINGS in tree.files else {}
    visits = _read_visits(tree)
    scans = _read_scans(tree)
    recordings = [(path, Path(path).name) for path, _ in tree.match(_RECORDING)]
    numbers = _subject_ids({name.split("_")[0] for _, name in recordings} | set(rows), rows, where)

    sessions = []
    for path, name in recordings:
        person = name.split("_")[0]
        found = _SESSION.search(name)
        visit_name = found.group(1) if found else ""
        row, visit = rows.get(person, {}), visits.get((person, visit_name), {})
        scan = scans.get(path, {})
        finding = findings.get((person, visit_name), {})
        report = f"reports/{person}{'_' + visit_name if visit_name else ''}_report.txt"
        has_report = report in tree.files
        sessions.append(
            SourceSession(
                path=root / path,
                subject=person,
                subject_id=numbers[person],
                site=row.get("site"),
                setting=scan.get("setting") or visit.get("setting"),
                age=pooled_age(
                    tables.number(scan.get("age") or visit.get("age") or row.get("age"))
                ),
                sex=tables.sex(row.get("sex")),
                race=(row.get("race") or "").upper() or None,
                labels={
                    **{t: ("label", v) for t, v in labels_of.get(person, {}).items()},
                    **{t: ("finding", -1 if v is None else v) for t, v in finding.items()},
                },
                findings=finding,
                report_path=root / report if has_report else None,
                report_bytes=tree.files[report] if has_report else None,
                size_bytes=tree.files[path],
            )
        )
    records = _records(tree)
    if records and sessions and all(session.subject_id < 0 for session in sessions):
        raise OpenclefError(
            f"{root}: has health records, but participants.tsv tells no meds_subject_id to join "
            "them by"
        )
    return Source(
        root,
        "bids",
        tuple(sessions),
        columns=tuple(tables.label_columns(people)),
        records=records,
        findings=tuple(sorted({name for row in findings.values() for name in row})),
    )


def _records(tree: Tree) -> Records | None:
    shards = [tree.root / path for path, _ in tree.match(_EVENTS)]
    return Records("meds", (tree.root / "meds",), digest_files(shards)) if shards else None


def _subject_ids(names: set[str], rows: Mapping[str, Row], where: Path) -> dict[str, int]:
    """MEDS subject of each participant: as `meds_subject_id` tells, else a negative number.

    A number made up here must never meet a subject of the records.
    """
    told = {n: text for n in names if (text := rows.get(n, {}).get("meds_subject_id")) is not None}
    wrong = next((text for text in told.values() if not text.isdecimal()), None)
    if wrong is not None:
        raise OpenclefError(f"{where}: meds_subject_id {wrong!r} is not a whole number")
    numbers = {name: int(text) for name, text in told.items()}
    if len(set(numbers.values())) < len(numbers):
        raise OpenclefError(f"{where}: two participants have one meds_subject_id")
    rest = sorted(name for name in names if name not in numbers)
    return numbers | {name: -number for number, name in enumerate(rest, start=1)}


def _read_visits(tree: Tree) -> dict[tuple[str, str], Row]:
    visits: dict[tuple[str, str], Row] = {}
    for path, found in tree.match(_SESSIONS):
        table = tables.read_table(tree.root / path, "\t")
        tables.require(table, ("session_id",), tree.root / path)
        for row in table.iter_rows(named=True):
            visits[found["person"], row["session_id"]] = row
    return visits


def _read_scans(tree: Tree) -> dict[str, Row]:
    """Rows of all `scans.tsv`, by the path of their recording."""
    scans: dict[str, Row] = {}
    for path, found in tree.match(_SCANS):
        table = tables.read_table(tree.root / path, "\t")
        tables.require(table, ("filename",), tree.root / path)
        scans |= {f"{found['folder']}{row['filename']}": row for row in table.iter_rows(named=True)}
    return scans


def _read_findings(path: Path) -> dict[tuple[str, str], dict[str, int | None]]:
    """Findings of each (participant, session): 1, 0, or None where the report says nothing."""
    table = tables.read_table(path, "\t")
    tables.require(table, ("participant_id", "session_id"), path)
    names = [c for c in table.columns if c not in ("participant_id", "session_id")]
    for name in names:
        wrong = set(table[name].drop_nulls()) - {"0", "1"}
        if wrong:
            raise OpenclefError(f"{path}: {name} is {min(wrong)!r}; allowed: 1, 0 or n/a")
    return {
        (row["participant_id"], row["session_id"] or ""): {
            name: None if row[name] is None else int(row[name]) for name in names
        }
        for row in table.iter_rows(named=True)
    }
