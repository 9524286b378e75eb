import numpy as np
import polars as pl
import pytest

from openclef.benchmark import statistics
from openclef.benchmark.information import bootstrap_r2, share_above_chance
from openclef.benchmark.statistics import auroc


def predictions(noise, n=400, seed=0, tasks=("a", "b")):
    rng = np.random.default_rng(seed)
    rows = []
    for task in tasks:
        label = (rng.random(n) < 0.3).astype(np.int8)
        clean = label + rng.normal(0, 0.7, n)
        for model, sd in (("original", 0.0), ("decoded", noise)):
            score = clean + rng.normal(0, sd, n)
            columns = {"session_id": [f"s{i:03}" for i in range(n)], "label": label, "score": score}
            rows.append(pl.DataFrame(columns | {"task": task, "model": model}))
    return pl.concat(rows, how="diagonal")


def share(table, **more):
    patients = {f"s{i:03}": 1000 + i // 2 for i in range(400)}
    settings = {
        "model": "decoded",
        "reference": "original",
        "tasks": ["a", "b"],
        "n_resamples": 300,
    }
    return share_above_chance(table, patients, **settings | more)


def test_equal_scores_keep_everything():
    kept = share(predictions(0.0))
    assert (kept.value, kept.low, kept.high, kept.n_tasks) == (1.0, 1.0, 1.0, 2)


def test_the_share_is_that_of_mean_auroc_above_chance():
    table = predictions(1.5)
    kept = share(table)
    means = {
        model: np.mean(
            [
                auroc(rows["label"].to_numpy(), scores=rows["score"].to_numpy())
                for _, rows in of_model.group_by("task")
            ]
        )
        for (model,), of_model in table.group_by("model")
    }
    assert kept.value == pytest.approx((means["decoded"] - 0.5) / (means["original"] - 0.5))
    assert 0.2 < kept.low < kept.value < kept.high < 0.9


def test_pairing_makes_the_interval_narrower_than_with_other_patients_for_each_model():
    table = predictions(0.2)
    paired = share(table)
    # The same scores, but the reference's are of patients that are drawn apart.
    is_reference = pl.col("model") == "original"
    apart = table.with_columns(
        pl.when(is_reference).then("r" + pl.col("session_id")).otherwise("session_id")
        .alias("session_id")
    )  # fmt: skip
    patients = {f"s{i:03}": i // 2 for i in range(400)} | {
        f"rs{i:03}": 1000 + i // 2 for i in range(400)
    }
    unpaired = share_above_chance(
        apart, patients, model="decoded", reference="original", tasks=["a", "b"], n_resamples=300
    )
    assert unpaired.value == pytest.approx(paired.value)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_resamples_are_the_same_in_chunks_and_whoever_else_is_a_patient(monkeypatch):
    table = predictions(0.5)
    whole = share(table)
    others = {f"s{i:03}": 1000 + i // 2 for i in range(400)} | {
        f"t{i}": i - 9000 for i in range(99)
    }
    settings = {"model": "decoded", "reference": "original", "tasks": ["a", "b"]}
    assert share_above_chance(table, others, **settings, n_resamples=300) == whole
    monkeypatch.setattr(statistics, "_CHUNK", 7 * 400)
    assert share(table) == whole


def r2_sums(rng, n_patients=60, n_windows=3, unexplained=(0.5, 0.6)):
    """Errors and variances `[M, N]` whose expected ratio is `unexplained`, and patients `[N]`."""
    patients = np.repeat(np.arange(n_patients), n_windows)
    # Patients differ in variance and in how well they are explained; windows of one are alike.
    variance = rng.gamma(4, 1, n_patients)[patients] * rng.gamma(20, 0.05, len(patients))
    common = rng.gamma(10, 0.1, n_patients)[patients]
    own = rng.gamma(400, 1 / 400, (len(unexplained), n_patients))[:, patients]
    errors = np.array(unexplained)[:, None] * variance * common * own
    return errors, np.broadcast_to(variance, errors.shape), patients


def test_r2_of_everybody_is_that_of_the_sums():
    errors, variances, patients = r2_sums(np.random.default_rng(0))
    found = bootstrap_r2(errors, variances_MN=variances, patients=patients, n_resamples=100)
    np.testing.assert_allclose(found.value, 1 - errors.sum(1) / variances.sum(1))
    ratio, difference = found.ratio(0, 1), found.difference(0, 1)
    assert ratio.value == pytest.approx(found.value[0] / found.value[1])
    assert difference.value == pytest.approx(found.value[0] - found.value[1])
    assert (found.ratio(1, 1).low, found.ratio(1, 1).high) == (1, 1)
    exact = bootstrap_r2(errors * 0, variances_MN=variances, patients=patients, n_resamples=100)
    assert (exact.of(0).value, exact.of(0).low, exact.of(0).high) == (1, 1, 1)


def test_the_interval_of_r2_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        errors, variances, patients = r2_sums(rng)
        found = bootstrap_r2(errors, variances_MN=variances, patients=patients, n_resamples=300)
        for estimate, truth in (
            (found.of(0), 0.5), (found.of(1), 0.4), (found.difference(0, 1), 0.1),
            (found.ratio(0, 1), 0.5 / 0.4),
        ):  # fmt: skip
            covered.append(estimate.low <= truth <= estimate.high)
    shares = np.reshape(covered, (200, 4)).mean(0)
    assert (shares > 0.88).all()
    assert (shares < 0.99).all()


def test_windows_of_one_patient_are_drawn_together():
    errors, variances, patients = r2_sums(np.random.default_rng(2), n_windows=10)
    of = [
        bootstrap_r2(errors, variances_MN=variances, patients=p, n_resamples=300).of(0)
        for p in (patients, np.arange(len(patients)))
    ]
    assert of[0].high - of[0].low > 2 * (of[1].high - of[1].low)


def test_differences_of_r2_are_paired():
    errors, variances, patients = r2_sums(np.random.default_rng(3))
    found = bootstrap_r2(errors, variances_MN=variances, patients=patients, n_resamples=300)
    paired, alone = found.difference(0, 1), found.of(0)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_r2_is_the_same_in_chunks(monkeypatch):
    errors, variances, patients = r2_sums(np.random.default_rng(4))
    whole = bootstrap_r2(errors, variances_MN=variances, patients=patients, n_resamples=100)
    monkeypatch.setattr(statistics, "_CHUNK", 7 * 60)
    parts = bootstrap_r2(errors, variances_MN=variances, patients=patients, n_resamples=100)
    np.testing.assert_allclose(parts.resampled, whole.resampled)


def test_a_ratio_to_nothing_is_nan():
    errors, variances, patients = r2_sums(np.random.default_rng(5), unexplained=(0.5, 1.5))
    found = bootstrap_r2(errors, variances_MN=variances, patients=patients, n_resamples=100)
    assert np.isnan([found.ratio(0, 1).value, found.ratio(0, 1).low]).all()


def test_tasks_without_predictions_are_refused():
    with pytest.raises(ValueError, match="no predictions for any of 1 tasks"):
        share(predictions(0.0), tasks=["c"])
