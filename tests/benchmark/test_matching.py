from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from openclef.benchmark.matching import NO_COVARIATES, Matcher, MatchingConfig
from openclef.benchmark.tasks import Task


def _confounded(n: int, rng: np.random.Generator) -> tuple[pl.DataFrame, np.ndarray]:
    """Cases are older and come more often from the south."""
    age = rng.normal(55, 18, n).clip(1, 89)
    south = rng.random(n) < 0.4
    risk = 1 / (1 + np.exp(-(-2 + 0.05 * (age - 55) + 0.8 * south)))
    sessions = pl.DataFrame(
        {
            "subject_id": np.arange(n),
            "age": age,
            "sex": rng.choice(["F", "M"], n),
            "site": np.where(south, "south", "north"),
            "setting": rng.choice(["routine", "ltm", "emu"], n),
        }
    )
    return sessions, (rng.random(n) < risk).astype(np.int8)


def _match(sessions, labels, *, inside=None, seed=0, **config):
    matcher = Matcher(
        Task("stroke", "disease", np.asarray(labels, dtype=np.int8)),
        sessions=sessions,
        config=MatchingConfig(**config),
    )
    inside = np.ones(sessions.height, dtype=bool) if inside is None else inside
    matched = matcher.match(inside, rng=np.random.default_rng(seed))
    return matched, matcher.balance(inside, matched=matched, split="held_out")


def test_matching_balances_what_was_confounded():
    sessions, labels = _confounded(800, np.random.default_rng(1))
    matched, balance = _match(sessions, labels)
    before, after = balance["smd_before"].abs(), balance["smd_after"].abs()
    assert before.max() > 0.5
    assert after.max() < 0.15
    row = balance.row(0, named=True)
    assert (matched == 0).sum() == row["n_controls_after"]
    assert (matched == 1).sum() == row["n_cases"] - row["n_cases_dropped"]


def test_smd_is_the_difference_of_means_in_pooled_sd():
    sessions, labels = _confounded(300, np.random.default_rng(2))
    _, balance = _match(sessions, labels)
    age = sessions["age"].to_numpy()
    cases, controls = age[labels == 1], age[labels == 0]
    expected = (cases.mean() - controls.mean()) / np.sqrt((cases.var() + controls.var()) / 2)
    found = balance.filter(pl.col("covariate") == "age")["smd_before"].item()
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("ratio", [1, 2])
def test_each_control_serves_one_case_and_each_case_at_most_ratio_controls(ratio):
    sessions, labels = _confounded(300, np.random.default_rng(3))
    matched, _ = _match(sessions, labels, ratio=ratio)
    n_cases, n_controls = (matched == 1).sum(), (matched == 0).sum()
    assert n_cases <= n_controls <= ratio * n_cases


def test_a_case_far_from_every_control_is_dropped_and_counted():
    sessions = pl.DataFrame(
        {
            "subject_id": range(9),
            "age": [30.0, 31, 32, 33, 34, 35, 31, 33, 90],
            "sex": ["F"] * 9,
            "site": ["north"] * 9,
            "setting": ["routine"] * 9,
        }
    )
    matched, balance = _match(sessions, [0, 0, 0, 0, 0, 0, 1, 1, 1])
    assert matched[8] == -1
    assert matched[6:8].tolist() == [1, 1]
    assert balance["n_cases_dropped"].to_list() == [1]


def test_a_patient_is_matched_once_and_brings_its_sessions():
    sessions = pl.DataFrame(
        {
            "subject_id": [1, 1, 2, 2, 3],
            "age": [40.0, 41, 40, 41, 80],
            "sex": ["F"] * 5,
            "site": ["north"] * 5,
            "setting": ["routine"] * 5,
        }
    )
    matched, balance = _match(sessions, [0, 1, 0, 0, 0], caliper_sd=5.0)
    # Patient 1 is a case from its second session on; its negative session is no clean control.
    assert matched.tolist() == [-1, 1, 0, 0, -1]
    assert balance["n_cases"][0] == 1
    assert balance["n_controls_before"][0] == 2


def test_controls_are_sought_inside_only():
    sessions, labels = _confounded(400, np.random.default_rng(4))
    inside = np.arange(400) % 3 == 0
    matched, balance = _match(sessions, labels, inside=inside)
    assert (matched[~inside] == -1).all()
    assert (matched == 1).sum() == (matched == 0).sum() > 0
    assert balance["n_cases"][0] == labels[inside].sum()
    shuffled = np.where(inside, labels, 1 - labels)
    assert np.array_equal(_match(sessions, shuffled, inside=inside)[0], matched)


def test_missing_covariates_are_a_category_of_their_own():
    sessions, labels = _confounded(300, np.random.default_rng(5))
    unknown = np.random.default_rng(6).random(300) < 0.3
    sessions = sessions.with_columns(
        pl.when(pl.Series(unknown)).then(None).otherwise(pl.col(name)).alias(name)
        for name in ("age", "sex")
    )
    _, balance = _match(sessions, labels)
    assert {"age unknown", "sex=unknown"} <= set(balance["covariate"])


def test_without_covariates_nothing_is_matched_and_the_table_says_so():
    labels = np.array([1, 0, 0, 0, 1, 0])
    blank = pl.Series([None] * 6)
    sessions = pl.DataFrame(
        {"subject_id": range(6), "age": blank, "sex": blank, "site": blank, "setting": blank}
    )
    matched, balance = _match(sessions, labels)
    assert matched.tolist() == labels.tolist()
    row = balance.row(0, named=True)
    assert row["covariate"] == NO_COVARIATES
    assert row["smd_after"] is None
    assert row["n_controls_after"] == row["n_controls_before"] == 4


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_matches_nobody(label):
    sessions, _ = _confounded(20, np.random.default_rng(7))
    matched, balance = _match(sessions, np.full(20, label))
    assert (matched == -1).all()
    assert balance["smd_before"].is_null().all()


def test_the_same_seed_gives_the_same_controls():
    sessions, labels = _confounded(200, np.random.default_rng(8))
    first, second = (_match(sessions, labels, seed=3)[0] for _ in range(2))
    assert (first == second).all()
