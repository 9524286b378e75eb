from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from openclef.benchmark.tasks import load_tasks
from openclef.errors import OpenclefError


def test_labels_follow_the_order_of_the_sessions_and_default_to_excluded(
    make_sessions, make_cohort, label_rows
):
    sessions = make_sessions(3, held_out=0.4).head(3)
    rows = label_rows(sessions, "spikes", "finding", np.array([1, 0, -1]))
    cohort = make_cohort(sessions, labels=rows[[1, 0]])
    (task,) = load_tasks(cohort)
    assert task.labels.tolist() == [1, 0, -1]


def test_tasks_come_by_category_then_name(make_sessions, make_cohort, label_rows):
    sessions = make_sessions(4)
    zeros = np.zeros(sessions.height)
    order = [("m", "medication"), ("b", "disease"), ("z", "finding"), ("a", "disease")]
    labels = pl.concat([label_rows(sessions, name, category, zeros) for name, category in order])
    tasks = load_tasks(make_cohort(sessions, labels=labels))
    assert [task.name for task in tasks] == ["z", "a", "b", "m"]


def test_a_cohort_without_labels_is_refused(make_sessions, make_cohort):
    with pytest.raises(OpenclefError, match="no tasks"):
        load_tasks(make_cohort(make_sessions(4)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pl.lit(2, dtype=pl.Int8).alias("label"), "not 1, 0 or -1"),
        (pl.lit("symptom").alias("category"), "'symptom'; allowed: finding"),
        (pl.lit("stranger").alias("session_id"), "not in sessions.parquet"),
        (pl.col("session_id").first(), "two labels for 'spikes'"),
        (pl.Series("category", ["finding", "disease", "finding"]), "in two categories"),
    ],
)
def test_labels_that_cannot_be_placed_are_refused(
    make_sessions, make_cohort, label_rows, change, words
):
    sessions = make_sessions(3).head(3)
    labels = label_rows(sessions, "spikes", "finding", np.array([1, 0, 0])).with_columns(change)
    with pytest.raises(OpenclefError, match=words):
        load_tasks(make_cohort(sessions, labels=labels))
