import numpy as np
import polars as pl
import pytest

from openclef.benchmark.information import share_above_chance
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


def test_pairing_makes_the_interval_narrow():
    kept = share(predictions(0.2))
    assert kept.high - kept.low < 0.08


def test_tasks_without_predictions_are_refused():
    with pytest.raises(ValueError, match="no predictions for any of 1 tasks"):
        share(predictions(0.0), tasks=["c"])
