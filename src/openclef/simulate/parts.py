"""Parts: all that the tables will say of one patient, put aside until every patient is there.

A part is written last of all that belongs to its patient, so its presence means that the patient
is done. Tables are made of the parts chunk by chunk, in the order of the patients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from openclef.artefact import atomic

FOLDER = ".parts"
PATIENTS_AT_ONCE = 256

Row = Mapping[str, Any]
Rows = dict[str, list[dict[str, Any]]]
Schema = Mapping[str, Any]


def chunks(n_patients: int, size: int = PATIENTS_AT_ONCE) -> list[range]:
    """Indices of the patients, some at a time."""
    return [range(first, min(first + size, n_patients)) for first in range(0, n_patients, size)]


def part_path(out: Path, index: int) -> Path:
    """Where the part of a patient lies."""
    return out / FOLDER / f"{index:06d}.json"


def write_part(out: Path, index: int, rows: Rows, events: pl.DataFrame) -> None:
    """Put aside the rows of each table, by its name, and the events of a patient."""
    path = part_path(out, index)
    with atomic(path.with_suffix(".parquet")) as temporary:
        events.write_parquet(temporary)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(rows))


def read_parts(out: Path, indices: Sequence[int]) -> Rows:
    """Return the rows of some patients, each table's one after the other."""
    together: Rows = {}
    for index in indices:
        for table, rows in json.loads(part_path(out, index).read_text()).items():
            together.setdefault(table, []).extend(rows)
    return together


def read_events(out: Path, indices: Sequence[int]) -> pl.DataFrame:
    """Return the events of some patients."""
    return pl.concat(
        pl.read_parquet(part_path(out, index).with_suffix(".parquet")) for index in indices
    )


def write_tables(out: Path, schemas: Mapping[str, Schema], n_patients: int) -> tuple[str, ...]:
    """Write tables from the parts of all patients; memory holds one chunk of them.

    Parameters
    ----------
    out : Path
        The data set.
    schemas : mapping
        Path of each table, relative to `out` -> its columns, name -> polars type. Paths are the
        tables' names in the parts; the suffix tells the format: `.tsv` as BIDS has it, `.csv` or
        `.parquet`. Dates are days since 1970 in the parts.
    n_patients : int
        Of the hospital.

    Returns
    -------
    tuple of str
        The paths.
    """
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_writer(out / name, schema))
            for name, schema in schemas.items()
        }
        for indices in chunks(n_patients):
            rows = read_parts(out, indices)
            for name, write in writers.items():
                write(rows.get(name, []))
    return tuple(schemas)


@contextmanager
def _writer(path: Path, schema: Schema) -> Iterator[Callable[[Iterable[Row]], object]]:
    kept = {name: _in_json(kind) for name, kind in schema.items()}
    casts = [pl.col(name).cast(kind) for name, kind in schema.items()]

    def frame(rows: Iterable[Row]) -> pl.DataFrame:
        return pl.DataFrame(list(rows), schema=kept).select(casts)

    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            with pq.ParquetWriter(temporary, frame([]).to_arrow().schema) as parquet:
                yield lambda rows: parquet.write_table(frame(rows).to_arrow())
        else:
            separator, null = ("\t", "n/a") if path.suffix == ".tsv" else (",", "")
            with temporary.open("w", encoding="utf-8") as handle:
                handle.write(separator.join(schema) + "\n")
                yield lambda rows: handle.write(
                    frame(rows).write_csv(
                        separator=separator, null_value=null, include_header=False
                    )
                )


def _in_json(kind: Any) -> Any:
    """The type that a part keeps a value in: dates are numbers, wherever they are."""
    if kind == pl.Date:
        return pl.Int32
    if isinstance(kind, pl.List):
        return pl.List(_in_json(kind.inner))
    if isinstance(kind, pl.Struct):
        return pl.Struct({field.name: _in_json(field.dtype) for field in kind.fields})
    return kind
