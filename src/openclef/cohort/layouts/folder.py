"""`folder`: any recordings, and a `labels.csv` with the columns subject, file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import polars as pl

from openclef.cohort.deidentify import pooled_age
from openclef.cohort.layouts import tables
from openclef.cohort.layouts.source import Source, SourceSession
from openclef.cohort.layouts.tree import Tree
from openclef.errors import OpenclefError

NEEDS = "folder has a labels.csv with the columns subject, file"
_TABLE = "labels.csv"


def matches(tree: Tree) -> bool:
    """Whether the tree has its table."""
    return _TABLE in tree.files


def read(tree: Tree, labels: Sequence[str]) -> Source:
    """Read `labels.csv`: subject, file, and if there age, sex, site and columns to make tasks of.

    Raises OpenclefError for a table without these columns or with a row that cannot serve.
    """
    where = tree.root / _TABLE
    if not matches(tree):
        raise OpenclefError(f"{where}: missing; layout folder needs it, with columns subject, file")
    table = tables.read_table(where, ",")
    tables.require(table, ("subject", "file"), where)
    for needed in ("subject", "file"):
        if table[needed].null_count():
            raise OpenclefError(f"{where}: {table[needed].null_count()} rows have no {needed}")
    files = [PurePosixPath(file) for file in table["file"]]
    outside = next((f for f in files if f.is_absolute() or ".." in f.parts), None)
    if outside is not None:
        raise OpenclefError(f"{where}: file {str(outside)!r} is outside the data set's folder")
    table = table.with_columns(file=pl.Series([str(file) for file in files], dtype=pl.String))
    twice = table["file"].filter(table["file"].is_duplicated())
    if len(twice):
        raise OpenclefError(f"{where}: file {twice[0]!r} is listed twice")
    table = table.sort("file")
    tasks = tables.make_tasks(table, labels, where)
    subjects = {name: i for i, name in enumerate(sorted(set(table["subject"])), start=1)}
    sessions = tuple(
        SourceSession(
            path=tree.root / row["file"],
            subject=row["subject"],
            subject_id=subjects[row["subject"]],
            site=row.get("site"),
            age=pooled_age(tables.number(row.get("age"))),
            sex=tables.sex(row.get("sex")),
            labels={task: ("label", value) for task, value in task_row.items()},
            size_bytes=tree.files.get(row["file"]),
        )
        for row, task_row in zip(table.iter_rows(named=True), tasks, strict=True)
    )
    return Source(tree.root, "folder", sessions, columns=tuple(tables.label_columns(table)))
