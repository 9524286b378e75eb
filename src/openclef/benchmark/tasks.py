"""Tasks: what the benchmark asks of an embedding, one 0/1 label a session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError

CATEGORIES = ("finding", "disease", "medication", "label")
EXCLUDED = -1


@dataclass(frozen=True, eq=False)
class Task:
    """One question. labels: `[N]` int8 in the order of `cohort.sessions`; -1 = excluded."""

    name: str
    category: str
    labels: NDArray[np.int8]


def load_tasks(cohort: Cohort) -> list[Task]:
    """Read the tasks of a cohort from its `labels.parquet`, by category and then by name.

    Labels are 1, 0 or -1 (excluded); a session without a row is excluded too (paper.md, Benchmark
    protocol [P]). Raises OpenclefError if there is no task, or a row that cannot be placed.
    """
    where = cohort.folder / "labels.parquet"
    table = cohort.table("labels") if where.exists() else pl.DataFrame()
    if table.is_empty():
        raise OpenclefError(
            f"{where}: no tasks; ingest a data set with findings, records or labels"
        )
    _check(table, where=str(where), session_ids=cohort.sessions["session_id"])
    index = cohort.sessions.select("session_id").with_row_index("position")
    table = table.join(index, on="session_id").sort("task", "position")
    tasks = []
    for (name, category), rows in table.group_by("task", "category", maintain_order=True):
        labels = np.full(cohort.sessions.height, EXCLUDED, dtype=np.int8)
        labels[rows["position"].to_numpy()] = rows["label"].to_numpy()
        tasks.append(Task(str(name), str(category), labels))
    return sorted(tasks, key=lambda task: (CATEGORIES.index(task.category), task.name))


def _check(table: pl.DataFrame, *, where: str, session_ids: pl.Series) -> None:
    wrong = table.filter(~pl.col("label").is_in([1, 0, EXCLUDED]) | pl.col("label").is_null())
    if wrong.height:
        raise OpenclefError(
            f"{where}: {wrong.height} labels are not 1, 0 or -1, e.g. {wrong['label'][0]!r} "
            f"for task {wrong['task'][0]!r}"
        )
    unknown = sorted(set(table["category"].unique()) - set(CATEGORIES))
    if unknown:
        raise OpenclefError(f"{where}: category {unknown[0]!r}; allowed: {', '.join(CATEGORIES)}")
    n_strangers = len(set(table["session_id"]) - set(session_ids))
    if n_strangers:
        raise OpenclefError(f"{where}: {n_strangers} labelled sessions are not in sessions.parquet")
    twice = table.filter(pl.struct("task", "session_id").is_duplicated())
    if twice.height:
        raise OpenclefError(
            f"{where}: session {twice['session_id'][0]!r} has two labels for {twice['task'][0]!r}"
        )
    mixed = table.group_by("task").agg(pl.col("category").n_unique()).filter(pl.col("category") > 1)
    if mixed.height:
        raise OpenclefError(f"{where}: task {mixed['task'][0]!r} is in two categories")
