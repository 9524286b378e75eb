"""What a data set is, whatever its layout: sessions, records, and their index in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from openclef.artefact import atomic, hash_file, hash_json
from openclef.errors import OpenclefError

OfficialSplit = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class SourceSession:
    """One recording and what the data set says of it.

    labels: task -> (category, 1 / 0 / -1); findings: name -> 1 / 0 / None, a name left out is not
    mentioned either. size_bytes: None if the file is listed but not there. official_split: the
    part of the set's own split that the recording lies in. report_bytes: size of the report, so
    that another text is noticed without reading it.
    """

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
    report_path: Path | None = None
    report_bytes: int | None = None
    size_bytes: int | None = None
    official_split: OfficialSplit | None = None


@dataclass(frozen=True)
class Records:
    """Where the health records are; `cohort.ehr.read_events` reads them.

    kind "meds": paths is the one MEDS folder; "heedb": HEEDB's tables of undated codes. digest:
    sha256 over their contents.
    """

    kind: Literal["meds", "heedb"]
    paths: tuple[Path, ...]
    digest: str


def digest_files(paths: Iterable[Path]) -> str:
    """One hash for the contents of several files, in the order given."""
    return hashlib.sha256("".join(hash_file(path) for path in paths).encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """A data set: its sessions in the order of their paths, and its records if it has any.

    columns: of the table that labels can be taken from. findings: all finding columns of the data
    set. n_missing: recordings that its tables list and that are not on disk.
    """

    root: Path
    layout: str
    sessions: tuple[SourceSession, ...]
    columns: tuple[str, ...] = ()
    records: Records | None = None
    findings: tuple[str, ...] = ()
    n_missing: int = 0

    def hash(self) -> str:
        """Identity of what was read: paths, sizes, labels, records. No file is opened."""
        digest = self.records.digest if self.records else None
        whole = hashlib.sha256(hash_json([self.layout, self.findings, digest]).encode())
        for session in self.sessions:
            whole.update(hash_json(self._row(session)).encode())
        return whole.hexdigest()

    def write(self, path: Path) -> None:
        """Write the index: one Parquet file that makes a second walk needless.

        Paths in it are relative to the root, which is told in the file's metadata. Texts of
        reports stay where they are.
        """
        about = {
            "root": str(self.root.absolute()),
            "layout": self.layout,
            "columns": self.columns,
            "findings": self.findings,
            "n_missing": self.n_missing,
            "records": self.records
            and {
                "kind": self.records.kind,
                "paths": [self._relative(part) for part in self.records.paths],
                "digest": self.records.digest,
            },
        }
        schema = _SCHEMA.with_metadata({_KEY: json.dumps(about)})
        with atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for first in range(0, len(self.sessions), _ROWS_AT_ONCE):
                part = self.sessions[first : first + _ROWS_AT_ONCE]
                rows = [self._row(session) for session in part]
                writer.write_table(pa.Table.from_pylist(rows, schema))

    @classmethod
    def read_index(cls, path: Path, *, root: Path | None = None) -> Source:
        """Read what `write` wrote; give `root` if the data set has moved since.

        Raises OpenclefError if the file is not such an index.
        """
        try:
            with pq.ParquetFile(path) as file:
                about = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"null"))
                if about is None:
                    raise OpenclefError(f"{path}: not the index of a data set")
                root = Path(about["root"]) if root is None else root
                sessions = tuple(
                    _session(row, root)
                    for part in file.iter_batches(_ROWS_AT_ONCE)
                    for row in part.to_pylist()
                )
        except (pa.ArrowException, OSError) as error:
            raise OpenclefError(f"{path}: cannot be read as an index ({error})") from error
        records = about["records"]
        return cls(
            root=root,
            layout=about["layout"],
            sessions=sessions,
            columns=tuple(about["columns"]),
            records=records
            and Records(
                kind=records["kind"],
                paths=tuple(root / part for part in records["paths"]),
                digest=records["digest"],
            ),
            findings=tuple(about["findings"]),
            n_missing=about["n_missing"],
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _row(self, session: SourceSession) -> dict[str, Any]:
        row = {name: getattr(session, name) for name in _SCHEMA.names}
        row["path"] = self._relative(session.path)
        row["report_path"] = session.report_path and self._relative(session.report_path)
        row["labels"] = [
            {"task": task, "category": category, "label": label}
            for task, (category, label) in session.labels.items()
        ]
        row["findings"] = [{"name": n, "value": v} for n, v in session.findings.items()]
        return row


def read_report(session: SourceSession) -> str | None:
    """The text of a session's report, None if it has none; bytes that are not UTF-8 are replaced.

    Raises OpenclefError if the file cannot be read.
    """
    if session.report_path is None:
        return None
    try:
        return session.report_path.read_text("utf-8", "replace")
    except OSError as error:
        raise OpenclefError(f"{session.report_path}: cannot be read ({error.strerror})") from error


def _session(row: dict[str, Any], root: Path) -> SourceSession:
    known = dict(row)
    known["path"] = root / row["path"]
    known["report_path"] = row["report_path"] and root / row["report_path"]
    known["labels"] = {at["task"]: (at["category"], at["label"]) for at in row["labels"]}
    known["findings"] = {at["name"]: at["value"] for at in row["findings"]}
    return SourceSession(**known)


_KEY = b"openclef"
_ROWS_AT_ONCE = 10_000
_LABEL = pa.struct({"task": pa.string(), "category": pa.string(), "label": pa.int8()})
_FINDING = pa.struct({"name": pa.string(), "value": pa.int8()})
_SCHEMA = pa.schema(
    {
        "path": pa.string(), "subject": pa.string(), "subject_id": pa.int64(),
        "site": pa.string(), "setting": pa.string(), "age": pa.float64(), "sex": pa.string(),
        "race": pa.string(), "labels": pa.list_(_LABEL), "findings": pa.list_(_FINDING),
        "report_path": pa.string(), "report_bytes": pa.int64(), "size_bytes": pa.int64(),
        "official_split": pa.string(),
    }
)  # fmt: skip
