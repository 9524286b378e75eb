"""Data sets on disk, one reader a layout: which recordings, whose, and what is known of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from openclef.artefact import hash_json
from openclef.cohort.deidentify import pooled_age
from openclef.errors import OpenclefError, choose

LAYOUTS = ("bids", "folder")
MAX_CLASSES = 20
_MISSING = {"", "n/a", "na", "nan", "null", "none"}
_BIDS_EXTENSIONS = (".edf", ".bdf", ".vhdr", ".set", ".fif")


@dataclass(frozen=True)
class SourceSession:
    """One recording and what the data set says of it. labels: task -> (category, 1 / 0 / -1)."""

    path: Path
    subject: str
    subject_id: int
    site: str | None = None
    setting: str | None = None
    age: float | None = None
    sex: str | None = None
    race: str | None = None
    labels: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    findings: Mapping[str, int | None] = field(default_factory=dict)
    report: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set: its sessions in the order of their paths, and its MEDS folder if it has one.

    columns: of the table that labels can be taken from.
    """

    root: Path
    layout: str
    sessions: tuple[SourceSession, ...]
    columns: tuple[str, ...]
    meds: Path | None

    def hash(self) -> str:
        """Identity of what was read: paths, sizes, labels, reports and records."""
        rows = []
        for session in self.sessions:
            size = session.path.stat().st_size if session.path.is_file() else -1
            where = session.path.relative_to(self.root).as_posix()
            known = {k: v for k, v in vars(session).items() if k != "path"}
            rows.append([where, size, known])
        records = sorted(self.meds.rglob("*.parquet")) if self.meds else []
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in records]
        return hash_json([self.layout, rows, files])


def read_source(root: Path, *, layout: str = "auto", labels: Sequence[str] = ()) -> Source:
    """List a data set. `layout`: "auto", "bids" or "folder"; `labels`: columns to make tasks of.

    Raises OpenclefError for a path, layout or label column that is not there, or a column that is
    constant.
    """
    if not root.exists():
        raise OpenclefError(f"{root}: no such folder")
    if not root.is_dir():
        raise OpenclefError(f"{root}: is a file; a data set is a folder (for one file: embed)")
    if not any(root.iterdir()):
        raise OpenclefError(
            f"{root}: empty folder; expected one of the layouts {', '.join(LAYOUTS)}"
        )
    name = _detect(root) if layout == "auto" else choose(layout, LAYOUTS, "layout")
    sessions, columns = (_read_bids if name == "bids" else _read_folder)(root, labels)
    if not sessions:
        raise OpenclefError(f"{root}: no recordings found in layout {name}")
    # Only BIDS tells which of the records' subjects a participant is.
    meds = root / "meds" if name == "bids" and (root / "meds" / "data").is_dir() else None
    if meds is not None and all(session.subject_id < 0 for session in sessions):
        raise OpenclefError(
            f"{root}: has health records, but participants.tsv tells no meds_subject_id to join "
            "them by"
        )
    return Source(root, name, tuple(sessions), tuple(columns), meds)


def _detect(root: Path) -> str:
    if any(root.glob("sub-*")):
        return "bids"
    if (root / "labels.csv").exists():
        return "folder"
    raise OpenclefError(
        f"{root}: layout not recognised; bids has sub-*/ folders, "
        "folder has a labels.csv with the columns subject, file"
    )


def _read_table(path: Path, separator: str) -> pl.DataFrame:
    """Read every column as text, missing values as null."""
    try:
        table = pl.read_csv(path, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise OpenclefError(f"{path}: cannot be read as a table ({error})") from error
    missing = pl.all().str.strip_chars().str.to_lowercase().is_in(list(_MISSING))
    return table.select(pl.when(~missing).then(pl.all().str.strip_chars()))


def _column(table: pl.DataFrame, name: str) -> list[str | None]:
    return table[name].to_list() if name in table.columns else [None] * table.height


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _sex(text: str | None) -> str | None:
    return {"f": "F", "female": "F", "m": "M", "male": "M"}.get((text or "").lower())


def _require(table: pl.DataFrame, columns: Sequence[str], where: Path) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise OpenclefError(
            f"{where}: no column {missing[0]!r}; columns: {', '.join(table.columns)}"
        )


def label_columns(table: pl.DataFrame) -> list[str]:
    """Columns that tasks may be made of: all but those that name patients and files."""
    return [c for c in table.columns if c not in ("subject", "file", "participant_id")]


def make_tasks(table: pl.DataFrame, columns: Sequence[str], where: Path) -> list[dict[str, int]]:
    """Turn label columns into 0/1 tasks, one dict a row; a missing value is -1.

    0/1 columns keep their name. Of two classes the alphabetically last is the positive one
    ("diagnosis=Epilepsy"); more classes give one task each against the rest. Raises OpenclefError
    for an unknown or constant column, or one with too many values to be classes.
    """
    rows: list[dict[str, int]] = [{} for _ in range(table.height)]
    for column in columns:
        choose(column, label_columns(table), f"label column of {where.name}")
        values = table[column].to_list()
        classes = sorted({v for v in values if v is not None})
        if len(classes) < 2:
            raise OpenclefError(
                f"{where}: label column {column!r} has a single class {classes}; two are needed"
            )
        if len(classes) > MAX_CLASSES:
            raise OpenclefError(
                f"{where}: label column {column!r} has {len(classes)} values, more than "
                f"{MAX_CLASSES} classes; give a categorical or 0/1 column"
            )
        positives = classes[-1:] if len(classes) == 2 else classes
        for positive in positives:
            task = column if classes == ["0", "1"] else f"{column}={positive}"
            for row, value in zip(rows, values, strict=True):
                row[task] = -1 if value is None else int(value == positive)
    return rows


def _read_folder(root: Path, labels: Sequence[str]) -> tuple[list[SourceSession], list[str]]:
    where = root / "labels.csv"
    if not where.exists():
        raise OpenclefError(f"{where}: missing; layout folder needs it, with columns subject, file")
    table = _read_table(where, ",")
    for needed in ("subject", "file"):
        if needed not in table.columns:
            raise OpenclefError(
                f"{where}: no column {needed!r}; columns: {', '.join(table.columns)}"
            )
        if table[needed].null_count():
            raise OpenclefError(f"{where}: {table[needed].null_count()} rows have no {needed}")
    twice = table["file"].filter(table["file"].is_duplicated())
    if len(twice):
        raise OpenclefError(f"{where}: file {twice[0]!r} is listed twice")
    outside = [f for f in table["file"] if Path(f).is_absolute() or ".." in Path(f).parts]
    if outside:
        raise OpenclefError(f"{where}: file {outside[0]!r} is outside the data set's folder")
    table = table.sort("file")
    tasks = make_tasks(table, labels, where)
    subjects = {name: i for i, name in enumerate(sorted(set(table["subject"].to_list())), start=1)}
    rows = zip(
        table["file"].to_list(), table["subject"].to_list(), _column(table, "age"),
        _column(table, "sex"), _column(table, "site"), tasks, strict=True,
    )  # fmt: skip
    sessions = [
        SourceSession(
            path=root / file,
            subject=subject,
            subject_id=subjects[subject],
            site=site,
            age=pooled_age(_number(age)),
            sex=_sex(sex),
            labels={task: ("label", value) for task, value in row.items()},
        )
        for file, subject, age, sex, site, row in rows
    ]
    return sessions, label_columns(table)


def _read_bids(root: Path, labels: Sequence[str]) -> tuple[list[SourceSession], list[str]]:
    paths = sorted(
        path
        for path in root.glob("sub-*/**/*_eeg.*")
        if path.suffix.lower() in _BIDS_EXTENSIONS and not path.name.startswith(".")
    )
    where = root / "participants.tsv"
    people = _read_table(where, "\t") if where.exists() else pl.DataFrame({"participant_id": []})
    _require(people, ("participant_id",), where)
    tasks = make_tasks(people, labels, where)
    by_person = {row["participant_id"]: row for row in people.iter_rows(named=True)}
    labels_of = dict(zip(people["participant_id"].to_list(), tasks, strict=True))
    findings = _read_findings(root / "phenotype" / "eeg_findings.tsv")
    tables = sorted(root.glob("sub-*/*_sessions.tsv"))
    visits = {key: row for table in tables for key, row in _visits(table)}
    names = sorted({path.name.split("_")[0] for path in paths} | set(by_person))
    numbers = _subject_ids(names, by_person, where)

    sessions = []
    for path in paths:
        person = path.name.split("_")[0]
        match = re.search(r"_(ses-[^_]+)", path.name)
        visit_name = match.group(1) if match else ""
        row, visit = by_person.get(person, {}), visits.get((person, visit_name), {})
        found = findings.get((person, visit_name), {})
        report = root / "reports" / f"{person}{'_' + visit_name if visit_name else ''}_report.txt"
        sessions.append(
            SourceSession(
                path=path,
                subject=person,
                subject_id=numbers[person],
                site=row.get("site"),
                setting=visit.get("setting"),
                age=pooled_age(_number(visit.get("age") or row.get("age"))),
                sex=_sex(row.get("sex")),
                race=(row.get("race") or "").upper() or None,
                labels={
                    **{t: ("label", v) for t, v in labels_of.get(person, {}).items()},
                    **{t: ("finding", -1 if v is None else v) for t, v in found.items()},
                },
                findings=found,
                report=report.read_text("utf-8", "replace") if report.exists() else None,
            )
        )
    return sessions, label_columns(people)


def _subject_ids(
    names: Sequence[str], rows: Mapping[str, Mapping[str, str | None]], where: Path
) -> dict[str, int]:
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
    rest = [name for name in names if name not in numbers]
    return numbers | {name: -number for number, name in enumerate(rest, start=1)}


def _visits(path: Path) -> list[tuple[tuple[str, str], dict[str, str | None]]]:
    table = _read_table(path, "\t")
    _require(table, ("session_id",), path)
    person = path.name.removesuffix("_sessions.tsv")
    return [((person, row["session_id"]), row) for row in table.iter_rows(named=True)]


def _read_findings(path: Path) -> dict[tuple[str, str], dict[str, int | None]]:
    """Findings of each (participant, session): 1, 0, or None where the report says nothing."""
    if not path.exists():
        return {}
    table = _read_table(path, "\t")
    _require(table, ("participant_id", "session_id"), path)
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
