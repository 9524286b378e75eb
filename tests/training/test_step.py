"""Steps in parts, steps that are left out, and activations that are computed twice."""

import numpy as np
import pytest
import torch
import toys

from openclef import artefact
from openclef.errors import OpenclefError
from openclef.training.loop import TrainConfig


class Faulty(toys.SmallTransformer):
    """With one fault at step 3, again whenever it is tried."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def losses(self, batch, rng):
        losses = super().losses(batch, rng)
        if self.training and self.n_seen == 24:
            if self.fault == "gradient":  # of the square root, at zero
                losses["loss"] = losses["loss"] + (0 * self.positions.sum()).sqrt()
            elif self.fault in losses:
                losses[self.fault] = losses[self.fault] + float("inf")
        if not self.training and self.fault == "tuning":
            losses["loss"] = losses["loss"] * float("nan")
        return losses


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loss", r"^loss is inf in training at step 5; steps skipped in a row: 3$"),
        ("absolute", r"^absolute is inf in training at step 5; steps"),
        ("gradient", r"^grad_norm is nan in training at step 5; steps"),
        ("tuning", r"^loss is nan on tuning patients after step 5$"),
    ],
)
def test_what_stays_not_finite_stops_the_run_and_is_named(tmp_path, fault, message):
    model = Faulty(fault)
    with pytest.raises(FloatingPointError, match=message):
        toys.run(tmp_path / "a", objective=model)
    n_steps = 5 if fault == "tuning" else 2
    metrics = artefact.Artefact(tmp_path / "a", "toy", {}, {}).metrics()
    assert [row["step"] for row in metrics if row["split"] == "train"][-1] == n_steps
    skipped = [row["n_skipped"] for row in metrics if row["split"] == "skipped"]
    assert skipped == ([] if fault == "tuning" else [1, 2, 3])
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_items_of_a_short_last_batch_count_like_all_others(tmp_path):
    told = []
    for name, validation in {"parts": toys.VALIDATION, "one": [toys.whole(0, 19)]}.items():
        stage, _ = toys.run(
            tmp_path / name, objective=toys.SmallTransformer(), config=toys.SHORT,
            validation=validation,
        )  # fmt: skip
        told.append([row["absolute"] for row in toys.rows(stage, "tuning")])
    assert len(told[0]) >= 1
    np.testing.assert_allclose(told[0], told[1], rtol=1e-6)


def run_with_a_nan(folder, **kwargs):
    return toys.run(folder, load=toys.load_with_a_nan, **kwargs)


def test_a_step_with_a_broken_item_is_left_out_and_told(tmp_path):
    """`MaskedLine` takes batches into a moving mean as it works on them."""
    model = toys.MaskedLine()
    whole = run_with_a_nan(tmp_path / "whole", objective=model)
    skipped = toys.rows(whole[0], "skipped")
    assert len(skipped) > 3  # about one an epoch, which is three steps
    assert [row["n_skipped"] for row in skipped] == list(range(1, len(skipped) + 1))
    assert {row["fault"] for row in skipped} == {"loss is nan"}
    trained = [row["step"] for row in toys.rows(whole[0], "train")]
    assert sorted(trained + [row["step"] for row in skipped]) == list(range(1, 21))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert model.n_seen == 8 * len(trained)
    assert toys.rows(whole[0], "end")[0]["n_skipped"] == len(skipped)
    with pytest.raises(KeyboardInterrupt):
        run_with_a_nan(tmp_path / "broken", stop_at=12)
    toys.assert_same(run_with_a_nan(tmp_path / "broken"), whole)


def test_a_step_left_out_moves_nothing(tmp_path):
    """Neither weights nor their average: all steps but the first are broken."""

    def load(indices, rngs):
        batch = toys.load_batch(indices, rngs)
        calls.append(len(calls))
        return {"x": batch["x"] * (1 if len(calls) == 1 else float("nan"))}

    weights = []
    for n_steps in (1, 3):
        calls = []
        config = toys.changed(toys.CONFIG, n_steps=n_steps, optim=toys.STEADY)
        model = toys.SmallTransformer()
        _, average = toys.run(
            tmp_path / str(n_steps), objective=model, load=load, config=config, validation=[]
        )
        weights.append([*model.state_dict().values(), *average.values()])
    assert all(torch.equal(one, three) for one, three in zip(*weights, strict=True))


@pytest.mark.parametrize("n_parts", [2, 4])
def test_a_batch_in_parts_gives_the_losses_of_the_whole(tmp_path, n_parts):
    sizes = []

    def load(indices, rngs):
        sizes.append(len(indices))
        return toys.load_batch(indices, rngs)

    runs = []
    for name, config in (
        ("whole", toys.CONFIG),
        ("parts", toys.changed(toys.CONFIG, accumulate=n_parts)),
    ):
        model = toys.SmallTransformer()
        stage, _ = toys.run(tmp_path / name, objective=model, load=load, config=config)
        runs.append((toys.rows(stage), model.state_dict()))
    (whole, whole_weights), (parts, weights) = runs
    assert sizes == [8] * 20 + [8 // n_parts] * 20 * n_parts
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4), ours["step"]
    for name, value in whole_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-4)


def test_a_batch_in_unequal_parts_is_one_clear_error(tmp_path):
    config = TrainConfig(n_steps=1, batch_size=8, accumulate=3)
    with pytest.raises(OpenclefError, match=r"batch of 8 equally, in 3 part.*multiple of 3.*9"):
        toys.run(tmp_path / "a", config=config)


def test_activations_computed_twice_change_no_bit(tmp_path):
    """`torch.utils.checkpoint` draws the same dropout again, in a run that was resumed too."""
    plain = toys.run(tmp_path / "plain", objective=toys.SmallTransformer(dropout=0.2))
    twice = [toys.SmallTransformer(dropout=0.2, checkpoint_activations=True) for _ in range(3)]
    toys.assert_same(toys.run(tmp_path / "twice", objective=twice[0]), plain)
    with pytest.raises(KeyboardInterrupt):
        toys.run(tmp_path / "broken", objective=twice[1], stop_at=12)
    toys.assert_same(toys.run(tmp_path / "broken", objective=twice[2]), plain)
    without = toys.run(tmp_path / "without", objective=toys.SmallTransformer())
    assert not np.isclose(toys.rows(without[0])[0]["loss"], toys.rows(plain[0])[0]["loss"])
