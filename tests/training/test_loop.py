import numpy as np
import pytest
import torch
from torch import nn

from openclef import artefact
from openclef.training.loop import TrainConfig, epoch_order, fit
from openclef.training.optim import OptimConfig, WeightAverage, learning_rate


class Line(nn.Module):
    """Fits y = 2x with dropout and noise from the rng: everything random that a stage may use."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def losses(self, batch, rng):
        noise = 0.01 * torch.randn(batch["x"].shape, generator=rng)
        if self.training:
            self.n_seen += len(batch["x"])
        error = self.layer(self.dropout(batch["x"]) + noise) - 2 * batch["x"]
        return {"loss": error.square().mean()}


X = torch.linspace(-1, 1, 20)[:, None]
CONFIG = TrainConfig(
    n_steps=30, batch_size=4, validate_every=10, checkpoint_every=7, optim=OptimConfig(lr=0.05)
)


def run(folder, *, stop_at=None, objective=None):
    calls = []

    def load_batch(indices, rng):
        calls.append(indices)
        if stop_at is not None and len(calls) > stop_at:
            raise KeyboardInterrupt
        return {"x": X[indices] + float(rng.normal(0, 0.001))}

    torch.manual_seed(0)
    stage = artefact.begin(folder, kind="line", config={}, inputs={})
    return stage, fit(
        objective or Line(), n_items=len(X), load_batch=load_batch, validation=[{"x": X}],
        config=CONFIG, artefact=stage, label="line",
    )  # fmt: skip


def test_learns(tmp_path):
    stage, weights = run(tmp_path / "a")
    tuning = [row["loss"] for row in stage.metrics() if row["split"] == "tuning"]
    assert tuning[-1] < tuning[0]
    assert len([row for row in stage.metrics() if row["split"] == "train"]) == CONFIG.n_steps
    assert weights["n_seen"] > 0


def test_interrupted_and_resumed_is_the_same_bit_for_bit(tmp_path):
    whole_stage, whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop_at=18)
    resumed_stage, resumed = run(tmp_path / "broken")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    def losses(stage):
        return [(row["step"], row["split"], row["loss"]) for row in stage.metrics()]

    assert losses(whole_stage) == losses(resumed_stage)


def test_nothing_of_the_untrained_control_is_changed(tmp_path):
    model = Line()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = artefact.begin(tmp_path / "a", kind="line", config={}, inputs={})
    after = fit(
        model, n_items=4, load_batch=lambda *_: {}, validation=[{"x": X}],
        config=CONFIG.model_copy(update={"n_steps": 0}), artefact=stage, label="none",
    )  # fmt: skip
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_that_are_not_finite_stop_the_run(tmp_path):
    class Broken(Line):
        def losses(self, batch, rng):
            return {"loss": super().losses(batch, rng)["loss"] * float("nan")}

    with pytest.raises(FloatingPointError, match="step 1"):
        run(tmp_path / "a", objective=Broken())


def test_every_item_comes_once_an_epoch():
    batches = list(epoch_order(10, n_steps=4, batch_size=5, seed=3))
    assert sorted(np.concatenate(batches[:2])) == list(range(10))
    assert sorted(np.concatenate(batches[2:])) == list(range(10))
    assert not np.array_equal(batches[0], batches[2])


def test_a_batch_larger_than_the_data_is_the_data():
    assert [len(b) for b in epoch_order(3, n_steps=2, batch_size=8, seed=0)] == [3, 3]


def test_learning_rate_warms_up_and_decays_to_zero():
    config = OptimConfig(lr=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, n_steps=100, config=config) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[9] == max(rates)
    assert rates[-1] < 0.01


def test_average_warms_up_to_a_half_life_of_a_tenth_of_the_steps():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, n_steps=100, config=OptimConfig(ema_decay=0.9999))
    nn.init.ones_(model.weight)
    for step in range(1000, 1010):
        average.update(model, step=step)
    assert float(average.state["weight"]) == pytest.approx(0.5)
