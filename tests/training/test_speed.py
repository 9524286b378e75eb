import time

import pytest
import torch
import toys

from openclef.training import loop, precision
from openclef.training.speed import Speed

SPEEDS = {"items_per_s", "tokens_per_s", "peak_share"}


def test_speed_is_told_in_every_row_of_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "peak_flops", lambda *_: 1e9)
    stage, _ = toys.run(tmp_path / "a", objective=toys.SmallTransformer(), config=toys.SHORT)
    for row in stage.metrics():
        assert (row.keys() >= SPEEDS) == (row["split"] == "train")
    rows = [row for row in stage.metrics() if row["split"] == "train"]
    for row in rows:
        assert row["tokens_per_s"] == pytest.approx(toys.WIDTH * row["items_per_s"], rel=1e-5)
        assert row["peak_share"] == pytest.approx(1e4 * row["items_per_s"] / 1e9, rel=1e-5)
    seconds = sum(8 / row["items_per_s"] for row in rows)
    assert 0 < seconds <= rows[-1]["seconds"] + 0.01


def test_the_wait_for_a_batch_is_told(tmp_path):
    """The first batch is waited for whatever else a machine does."""

    def slow(indices, rngs):
        time.sleep(0.2)
        return toys.load_batch(indices, rngs)

    stage, _ = toys.run(tmp_path / "a", config=toys.SHORT, load=slow)
    rows = [row for row in stage.metrics() if row["split"] == "train"]
    assert rows[0]["wait_s"] >= 0.2
    assert all(0 <= row["wait_s"] <= 8 / row["items_per_s"] + 1e-3 for row in rows)


def test_an_objective_that_tells_nothing_has_items_only(tmp_path, monkeypatch):
    monkeypatch.delattr(loop, "peak_flops")  # nor is anything measured
    stage, _ = toys.run(tmp_path / "a", config=toys.SHORT)
    rows = [row for row in stage.metrics() if row["split"] == "train"]
    assert all(row.keys() & SPEEDS == {"items_per_s"} for row in rows)


def test_the_peak_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "peak_flops", lambda *_: 1e9)
    with pytest.raises(KeyboardInterrupt):
        toys.run(tmp_path / "a", objective=toys.SmallTransformer(), stop_at=12)
    monkeypatch.delattr(loop, "peak_flops")
    stage, _ = toys.run(tmp_path / "a", objective=toys.SmallTransformer())
    row = stage.metrics()[-3]
    assert row["step"] == 20
    assert row["peak_share"] == pytest.approx(1e4 * row["items_per_s"] / 1e9, rel=1e-5)


def test_columns_of_a_step():
    speed = Speed(toys.SmallTransformer(), n_items=10, peak_flops=1e6)
    assert speed.of(0.5) == {"items_per_s": 20, "tokens_per_s": 120, "peak_share": 0.2}


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_the_peak_is_that_of_a_product_in_the_precision(monkeypatch, name):
    seconds = {torch.float32: 0.5, torch.bfloat16: 0.25}
    monkeypatch.setattr(precision, "_product_s", lambda dtype, _: seconds[dtype])
    peak = precision.peak_flops(torch.device("cpu"), name)
    assert peak == 2 * 1024**3 / seconds[precision.DTYPES[name]]
