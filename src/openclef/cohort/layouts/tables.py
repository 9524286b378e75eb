"""Tables of a data set, read as text; label columns turned into tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from openclef.errors import OpenclefError, choose

MAX_CLASSES = 20
_MISSING = ("", "n/a", "na", "nan", "null", "none")
# Columns that name patients and files: no task is made of them.
_IDENTITY = frozenset(
    {"subject", "file", "participant_id", "SiteID", "BDSPPatientID", "BidsFolder", "SessionID"}
)


def read_table(path: Path, separator: str) -> pl.DataFrame:
    """Read every column as text, stripped, missing values as null.

    Raises OpenclefError if it cannot be read.
    """
    try:
        table = pl.read_csv(path, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        # Not the reader's own words: they quote cells.
        raise OpenclefError(
            f"{path}: cannot be read as a table ({type(error).__name__}); is every row as long as "
            "the header, every quote closed?"
        ) from error
    missing = pl.all().str.strip_chars().str.to_lowercase().is_in(_MISSING)
    return table.select(pl.when(~missing).then(pl.all().str.strip_chars()))


def require(table: pl.DataFrame, columns: Sequence[str], where: Path) -> None:
    """Raise OpenclefError, naming the columns there are, if one of `columns` is missing."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise OpenclefError(
            f"{where}: no column {missing[0]!r}; columns: {', '.join(table.columns)}"
        )


def number(text: str | None) -> float | None:
    """A number, or None for what is none; "89+" is 89."""
    try:
        return None if text is None else float(text.removesuffix("+"))
    except ValueError:
        return None


def sex(text: str | None) -> str | None:
    """`F`, `M`, or None for anything else."""
    return {"f": "F", "female": "F", "m": "M", "male": "M"}.get((text or "").lower())


def label_columns(table: pl.DataFrame) -> list[str]:
    """Columns that tasks may be made of: all but those that name patients and files."""
    return [column for column in table.columns if column not in _IDENTITY]


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
