from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from openclef import artefact
from openclef.benchmark.matching import NO_COVARIATES
from openclef.benchmark.runner import BenchmarkConfig, benchmark
from openclef.errors import OpenclefError

CONFIG = BenchmarkConfig(n_resamples=200)
COLUMNS = (
    *("task", "category", "model", "protocol", "subgroup", "n_shots", "split", "metric"),
    *("value", "ci_low", "ci_high", "n_pos", "n_neg", "seed", "hashes"),
)


@pytest.fixture
def world(make_sessions, make_cohort, make_embeddings, label_rows):
    """A cohort whose first model knows the truth, and a second that is noise."""

    def make(n_patients=280, *, held_out=0.4):
        sessions = make_sessions(n_patients, held_out=held_out)
        rng = np.random.default_rng(5)
        n = sessions.height
        subject = sessions["subject_id"].to_numpy()
        spikes = rng.random(n) < 0.4
        stroke = (rng.random(n_patients) < 0.4)[subject]
        rare = np.arange(n) % 40 == 0
        labels = pl.concat(
            [
                label_rows(sessions, "spikes", "finding", spikes),
                label_rows(sessions, "rare", "finding", rare),
                label_rows(sessions, "stroke", "disease", stroke),
            ]
        )
        cohort = make_cohort(sessions, labels=labels)
        knowing, noise = rng.normal(size=(n, 8)), rng.normal(size=(n, 8))
        knowing[:, 0] += 2.5 * spikes
        knowing[:, 1] += 2.5 * stroke
        paths = [
            make_embeddings(cohort, "knowing", knowing),
            make_embeddings(cohort, "noise", noise),
        ]
        return cohort, paths

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of benchmarks of the world, which is the same every time, by protocol."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(params=["split", "cv"])
def run(request, world, finished):
    """(cohort, embeddings, configuration, a finished benchmark of them); tests only read it."""
    cohort, paths = world()
    config = CONFIG.model_copy(update={"protocol": request.param})
    out = finished / request.param
    benchmark(cohort.folder, paths, out, config=config, progress=False)
    return cohort, paths, config, out


def _value(results, task, model):
    return results.filter((pl.col("task") == task) & (pl.col("model") == model)).row(0, named=True)


def test_results_say_what_was_planted(run):
    cohort, paths, config, out = run
    results = pl.read_parquet(out / "results.parquet")
    assert tuple(results.columns) == COLUMNS
    for task in ("spikes", "stroke"):
        assert _value(results, task, "knowing")["value"] > 0.85
        noise = _value(results, task, "noise")
        assert noise["ci_low"] < 0.5 < noise["ci_high"]
    row = _value(results, "spikes", "noise")
    assert row["protocol"] == f"linear/{config.protocol}"
    assert row["split"] == {"split": "held_out", "cv": "non_train"}[config.protocol]
    hashes = {"cohort": cohort.hash, "embeddings": artefact.load(paths[1], kind="embeddings").hash}
    assert json.loads(row["hashes"]) == hashes


def test_a_rare_task_has_counts_and_no_value(run):
    *_, out = run
    row = _value(pl.read_parquet(out / "results.parquet"), "rare", "knowing")
    assert row["value"] is None
    assert 0 < row["n_pos"] < 15 < row["n_neg"]


def test_comparisons_set_the_first_model_against_the_other(run):
    *_, out = run
    comparisons = pl.read_parquet(out / "comparisons.parquet")
    numbers = ["delta", "ci_low", "ci_high", "p", "q"]
    assert comparisons.columns == ["task", "model_a", "model_b", *numbers]
    assert comparisons["task"].to_list() == ["spikes", "stroke"]
    assert set(comparisons["model_a"]) == {"knowing"}
    assert (comparisons["ci_low"] > 0).all()
    assert (comparisons["q"] < 0.05).all()


def test_predictions_are_those_of_reported_patients(run):
    cohort, _, config, out = run
    predictions = pl.read_parquet(out / "predictions.parquet").join(
        cohort.sessions.select("session_id", "split"), on="session_id"
    )
    reported = {"held_out"} if config.protocol == "split" else {"probe", "tuning", "held_out"}
    assert set(predictions["split"]) == reported
    results = pl.read_parquet(out / "results.parquet")
    rows = predictions.filter((pl.col("task") == "spikes") & (pl.col("model") == "knowing"))
    rank = rows["score"].rank()
    n_pos = rows["label"].sum()
    u = rank.filter(rows["label"] == 1).sum() - n_pos * (n_pos + 1) / 2
    expected = u / (n_pos * (rows.height - n_pos))
    assert _value(results, "spikes", "knowing")["value"] == pytest.approx(expected)


def test_diseases_are_matched_and_findings_are_not(run):
    _, _, config, out = run
    balance = pl.read_parquet(out / "balance.parquet")
    assert set(balance["task"]) == {"stroke"}
    parts = {"probe", "tuning", "held_out"} if config.protocol == "split" else {"non_train"}
    assert set(balance["split"]) == parts
    row = _value(pl.read_parquet(out / "results.parquet"), "stroke", "noise")
    assert row["n_pos"] == row["n_neg"]


def test_the_same_seed_gives_the_same_bytes(run, tmp_path):
    cohort, paths, config, out = run
    again = benchmark(cohort.folder, paths, tmp_path / "again", config=config, progress=False)
    assert again.hash == artefact.load(out, kind="benchmark").hash


def test_a_complete_benchmark_is_left_and_another_configuration_refused(run):
    cohort, paths, config, out = run
    before = (out / "results.parquet").stat().st_mtime_ns
    benchmark(cohort.folder, paths, out, config=config, progress=False)
    assert (out / "results.parquet").stat().st_mtime_ns == before
    with pytest.raises(OpenclefError, match="another configuration"):
        benchmark(
            cohort.folder, paths, out, config=config.model_copy(update={"seed": 1}), progress=False
        )
    with pytest.raises(OpenclefError, match="another configuration"):
        benchmark(cohort.folder, paths[::-1], out, config=config, progress=False)


def test_train_patients_are_not_used(run, make_embeddings, tmp_path):
    cohort, paths, config, out = run
    vectors = np.array(pl.read_parquet(paths[0] / "embeddings.parquet")["vector"].to_list())
    vectors[cohort.sessions["split"].to_numpy() == "train"] = 1e6
    other = make_embeddings(cohort, "knowing", vectors, folder="other")
    benchmark(cohort.folder, [other, paths[1]], tmp_path / "again", config=config, progress=False)
    first, second = (
        pl.read_parquet(folder / "predictions.parquet") for folder in (out, tmp_path / "again")
    )
    assert first.equals(second)


@pytest.mark.parametrize(("held_out", "expected"), [(0.4, "linear/split"), (0.1, "linear/cv")])
def test_auto_cross_validates_if_held_out_patients_are_few(world, tmp_path, held_out, expected):
    cohort, paths = world(160, held_out=held_out)
    benchmark(cohort.folder, paths, tmp_path / "out", config=CONFIG, progress=False)
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert results["protocol"].unique().to_list() == [expected]


def test_all_tasks_may_be_too_few(world, tmp_path):
    cohort, paths = world(24)
    benchmark(cohort.folder, paths, tmp_path / "out", config=CONFIG, progress=False)
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert results["value"].is_null().all()
    assert pl.read_parquet(tmp_path / "out" / "predictions.parquet").is_empty()
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("protocol", ["split", "cv"])
def test_age_cannot_answer_a_task_whose_controls_are_matched_on_it(
    make_sessions, make_cohort, make_embeddings, label_rows, tmp_path, protocol
):
    # Cross-validation inside one matched cohort would give about 0.37.
    sessions = make_sessions(300)
    age = sessions["age"].to_numpy()
    subject = sessions["subject_id"].to_numpy()
    rng = np.random.default_rng(1)
    risk = 1 / (1 + np.exp(-0.06 * (age - 60)))
    labels = pl.concat(
        label_rows(sessions, f"{category}-{i}", category, (rng.random(300)[subject] < risk))
        for category in ("disease", "finding")
        for i in range(6)
    )
    cohort = make_cohort(sessions, labels=labels)
    path = make_embeddings(cohort, "age", age[:, None])
    config = CONFIG.model_copy(update={"protocol": protocol})
    benchmark(cohort.folder, [path], tmp_path / "out", config=config, progress=False)
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    mean = dict(results.group_by("category").agg(pl.col("value").mean()).iter_rows())
    assert mean["finding"] > 0.65
    assert 0.44 < mean["disease"] < 0.56


def test_windows_of_a_session_are_averaged(world, tmp_path):
    cohort, (path, _) = world()
    table = pl.read_parquet(path / "embeddings.parquet")
    shifted = [
        table.with_columns(
            pl.lit(window).alias("window"),
            pl.Series("vector", [list(np.add(row, shift)) for row in table["vector"]]).cast(
                pl.List(pl.Float32)
            ),
        )
        for window, shift in enumerate((-3.0, 3.0))
    ]
    target = artefact.begin(
        tmp_path / "two",
        kind="embeddings",
        config={"model": "two windows"},
        inputs={"cohort": cohort.hash},
    )
    pl.concat(shifted).write_parquet(target.folder / "embeddings.parquet")
    target.finish(["embeddings.parquet"])
    benchmark(cohort.folder, [path, target.folder], tmp_path / "out", config=CONFIG, progress=False)
    results = pl.read_parquet(tmp_path / "out" / "results.parquet").drop_nulls("value")
    one, two = results.partition_by("model")
    np.testing.assert_allclose(one["value"], two["value"], atol=0.005)


def test_a_cohort_without_covariates_is_not_matched(
    make_sessions, make_cohort, make_embeddings, label_rows, tmp_path
):
    sessions = make_sessions(160).with_columns(
        pl.lit(None).alias(name) for name in ("age", "sex", "site", "setting")
    )
    labels = label_rows(sessions, "stroke", "disease", sessions["subject_id"].to_numpy() % 2)
    cohort = make_cohort(sessions, labels=labels)
    path = make_embeddings(cohort, "noise", np.random.default_rng(0).normal(size=(len(labels), 8)))
    benchmark(cohort.folder, [path], tmp_path / "out", config=CONFIG, progress=False)
    balance = pl.read_parquet(tmp_path / "out" / "balance.parquet")
    assert set(balance["covariate"]) == {NO_COVARIATES}
    assert "not matched" in (tmp_path / "out" / "report.html").read_text()


def test_embeddings_that_do_not_fit_are_refused(
    world, make_sessions, make_cohort, make_embeddings, tmp_path
):
    cohort, paths = world()
    n = cohort.sessions.height
    other = make_cohort(make_sessions(10), name="other")
    stranger = make_embeddings(other, "stranger", np.zeros((5, 3)))
    short = make_embeddings(cohort, "short", np.zeros((n - 30, 3)))
    infinite = make_embeddings(cohort, "infinite", np.full((n, 3), np.inf))
    twin = make_embeddings(cohort, "noise", np.zeros((n, 3)), folder="twin")
    n_lost = (cohort.sessions["split"][-30:] != "train").sum()
    cases = [
        ([], "no embeddings given"),
        ([stranger], "another cohort"),
        ([short], f"{n_lost} of .* sessions outside the train split are missing"),
        ([infinite], "infinite"),
        ([*paths, twin], "'noise' is taken"),
        ([cohort.folder], "holds another artefact, cohort, not embeddings"),
    ]
    for given, words in cases:
        with pytest.raises(OpenclefError, match=words):
            benchmark(cohort.folder, given, tmp_path / "out", config=CONFIG, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_cohort_that_cannot_be_probed_is_refused(
    make_sessions, make_cohort, make_embeddings, label_rows, tmp_path
):
    def attempt(name, sessions, labels, protocol="split"):
        cohort = make_cohort(
            sessions, labels=label_rows(sessions, "spikes", "finding", labels), name=name
        )
        path = make_embeddings(cohort, "m", np.zeros((sessions.height, 2)), folder=f"e-{name}")
        config = CONFIG.model_copy(update={"protocol": protocol})
        benchmark(cohort.folder, [path], tmp_path / f"out-{name}", config=config, progress=False)

    sessions = make_sessions(60)
    n = sessions.height
    with pytest.raises(OpenclefError, match="no task has both positive and negative"):
        attempt("one-class", sessions, np.zeros(n))
    no_tuning = sessions.with_columns(pl.col("split").replace("tuning", "probe"))
    with pytest.raises(OpenclefError, match="no patients in tuning"):
        attempt("no-tuning", no_tuning, np.arange(n) % 2)
    with pytest.raises(OpenclefError, match="all patients are in train"):
        attempt("all-train", sessions.with_columns(split=pl.lit("train")), np.arange(n) % 2, "cv")


def test_configuration_refuses_unknown_fields():
    with pytest.raises(ValueError, match="n_bootstraps"):
        BenchmarkConfig(n_bootstraps=10)
