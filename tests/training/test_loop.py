import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import toys
from torch import nn

from openclef import artefact
from openclef.errors import OpenclefError
from openclef.training import loop, precision
from openclef.training.loop import TrainConfig, fit
from openclef.training.optim import OptimConfig


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


def load(indices, rngs):
    return {"x": X[indices] + torch.tensor([[rng.normal(0, 0.001)] for rng in rngs]).float()}


def run(folder, *, stop_at=None, make=Line, config=CONFIG):
    torch.manual_seed(0)
    calls = 0

    def load_batch(indices, rngs):
        nonlocal calls
        calls += 1
        if stop_at is not None and calls > stop_at:
            raise KeyboardInterrupt
        return load(indices, rngs)

    stage = artefact.begin(folder, kind="line", config={}, inputs={})
    return stage, fit(
        make(), n_items=len(X), load_batch=load_batch, validation=[{"x": X}],
        config=config, artefact=stage, label="line",
    )  # fmt: skip


def with_changes(**changes):
    return CONFIG.model_copy(update=changes)


def assert_same(ours, theirs):
    """Bit for bit: weights, and every row of metrics but for the clock and resumptions."""
    (our_stage, our_weights), (their_stage, their_weights) = ours, theirs
    assert our_weights.keys() == their_weights.keys()
    assert all(torch.equal(our_weights[name], value) for name, value in their_weights.items())
    splits = ("train", "tuning", "end")
    assert toys.rows(our_stage, *splits) == toys.rows(their_stage, *splits)


def test_learns(tmp_path):
    stage, weights = run(tmp_path / "a")
    tuning = [row["loss"] for row in toys.rows(stage, "tuning")]
    assert tuning[-1] < tuning[0]
    assert [row["step"] for row in toys.rows(stage, "train")] == list(range(1, 31))
    assert weights["n_seen"] > 0
    (end,) = toys.rows(stage, "end")
    best = min(toys.rows(stage, "tuning"), key=lambda row: row["loss"])
    assert (end["best_step"], end["best_loss"]) == (best["step"], best["loss"])
    assert not end["stopped_early"]


@pytest.mark.parametrize("stop_at", [3, 18, 29])
def test_interrupted_and_resumed_is_the_same_bit_for_bit(tmp_path, stop_at):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop_at=stop_at)
    assert_same(run(tmp_path / "broken"), whole)


def test_a_run_that_ended_but_was_not_published_ends_the_same_again(tmp_path):
    first = run(tmp_path / "a")
    rows = first[0].metrics()
    assert_same(run(tmp_path / "a", stop_at=0), first)
    assert len(toys.rows(first[0], "end")) == 1
    assert len(first[0].metrics()) == len(rows) + 1  # "run", at the last step


def test_killed_while_saving_and_resumed_is_the_same_bit_for_bit(tmp_path):
    """`kill -9` when half of the second checkpoint is written."""
    whole = run(tmp_path / "whole")
    code = """
import os, signal, sys, pathlib
import test_loop
from openclef.training import checkpoint

saved = checkpoint.save_file
def half(tensors, path, metadata):
    saved(tensors, path, metadata=metadata)
    if (pathlib.Path(sys.argv[1]) / "checkpoints" / "last.safetensors").exists():
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = half
test_loop.run(pathlib.Path(sys.argv[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "broken")],
        cwd=os.path.dirname(__file__), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "broken" / "checkpoints"
    assert len(list(folder.iterdir())) == 2  # the first checkpoint, and half of another
    assert_same(run(tmp_path / "broken"), whole)
    assert [path.name for path in folder.iterdir()] == ["last.safetensors"]


def test_nothing_of_the_untrained_control_is_changed(tmp_path):
    model = Line()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = artefact.begin(tmp_path / "a", kind="line", config={}, inputs={})
    after = fit(
        model, n_items=4, load_batch=lambda *_: {}, validation=[{"x": X}],
        config=CONFIG.model_copy(update={"n_steps": 0}), artefact=stage, label="none",
    )  # fmt: skip
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_to_train_on_is_one_clear_error(tmp_path):
    stage = artefact.begin(tmp_path / "a", kind="line", config={}, inputs={})
    with pytest.raises(OpenclefError, match="nothing to train on"):
        fit(
            Line(), n_items=0, load_batch=load, validation=[], config=CONFIG, artefact=stage,
            label="none",
        )  # fmt: skip


class Faulty(Line):
    """Line with one fault at step 3."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def losses(self, batch, rng):
        losses = {**super().losses(batch, rng), "other": torch.zeros(())}
        if self.training and self.n_seen == 12:
            if self.fault == "gradient":  # of the square root, at zero
                losses["loss"] = losses["loss"] + (0 * self.layer.weight.sum()).sqrt()
            elif self.fault in losses:
                losses[self.fault] = losses[self.fault] + float("inf")
        if not self.training and self.fault == "tuning":
            losses["loss"] = losses["loss"] * float("nan")
        return losses


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loss", "^loss is inf in training at step 3$"),
        ("other", "^other is inf in training at step 3$"),
        ("gradient", "^grad_norm is nan in training at step 3$"),
        ("tuning", "^loss is nan on tuning patients after step 10$"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_is_named(tmp_path, fault, message):
    model = Faulty(fault)
    with pytest.raises(FloatingPointError, match=message):
        run(tmp_path / "a", make=lambda: model)
    n_steps = 10 if fault == "tuning" else 2
    metrics = artefact.Artefact(tmp_path / "a", "line", {}, {}).metrics()
    assert [row["step"] for row in metrics if row["split"] == "train"][-1] == n_steps
    assert all(torch.isfinite(p).all() for p in model.parameters())


class Turning(Line):
    """Line whose tuning loss falls until step 10 and rises after it."""

    def losses(self, batch, rng):
        losses = super().losses(batch, rng)
        if not self.training:
            losses["loss"] = 1 + (self.n_seen.float() / 4 - 10).abs()
        return losses


def test_training_stops_after_so_many_validations_without_a_better_one(tmp_path):
    config = with_changes(validate_every=5, patience=2)
    whole = run(tmp_path / "whole", make=Turning, config=config)
    stage, weights = whole
    assert [row["step"] for row in toys.rows(stage, "tuning")] == [5, 10, 15, 20]
    assert toys.rows(stage, "train")[-1]["step"] == 20
    (end,) = toys.rows(stage, "end")
    assert end == {
        "step": 20, "split": "end", "best_step": 10, "best_loss": 1.0, "stopped_early": True,
    }  # fmt: skip
    assert weights["n_seen"] == 40
    for stop_at in (12, 16, 19):  # before the turn, between, and just before the end
        folder = tmp_path / str(stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(folder, make=Turning, config=config, stop_at=stop_at)
        assert_same(run(folder, make=Turning, config=config), whole)
    assert_same(run(tmp_path / "whole", make=Turning, config=config, stop_at=0), whole)


def test_without_patience_training_goes_on(tmp_path):
    stage, _ = run(tmp_path / "a", make=Turning, config=with_changes(validate_every=5))
    assert toys.rows(stage, "train")[-1]["step"] == 30


def test_items_have_the_same_randomness_in_any_part_of_a_batch(tmp_path):
    drawn = {}

    def remember(indices, rngs):
        for index, rng in zip(indices, rngs, strict=True):
            drawn.setdefault(int(index), []).append(rng.random())
        return load(indices, rngs)

    stage = artefact.begin(tmp_path / "a", kind="line", config={}, inputs={})
    fit(
        Line(), n_items=len(X), load_batch=remember, validation=[],
        config=with_changes(n_steps=10), artefact=stage, label="line",
    )  # fmt: skip
    values = [value for values in drawn.values() for value in values]
    assert len(values) == len(set(values)) == 40
    again = np.concatenate(
        [[rng.random() for rng in loop.batches.item_rngs(0, step, range(4))] for step in range(10)]
    )
    assert sorted(values) == sorted(again)
    halves = [loop.batches.item_rngs(0, 3, part) for part in (range(2), range(2, 4))]
    assert [rng.random() for half in halves for rng in half] == list(again[12:16])


def test_precision_is_chosen_once_and_kept_when_resumed(tmp_path, monkeypatch):
    config = with_changes(precision="auto")
    monkeypatch.setattr(loop, "faster_precision", lambda device: "bf16")
    whole = run(tmp_path / "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", config=config, stop_at=18)
    monkeypatch.setattr(loop, "faster_precision", lambda device: "fp32")
    resumed = run(tmp_path / "broken", config=config)
    assert_same(resumed, whole)
    assert [row["precision"] for row in toys.rows(resumed[0], "run")] == ["bf16", "bf16"]
    assert whole[0].metrics()[0]["precision"] == "bf16"
    explicit = run(tmp_path / "bf16", config=with_changes(precision="bf16"))
    assert_same(explicit, whole)
    assert toys.rows(run(tmp_path / "fp32")[0]) != toys.rows(whole[0])


@pytest.mark.parametrize(("gain", "expected"), [(1.19, "fp32"), (1.21, "bf16")])
def test_bf16_is_chosen_where_it_is_faster_by_a_fifth(monkeypatch, gain, expected):
    seconds = {torch.float32: 0.01 * gain, torch.bfloat16: 0.01}
    monkeypatch.setattr(precision, "_product_s", seconds.__getitem__)
    assert precision.faster_precision(torch.device("cpu")) == expected


def test_measuring_precision_moves_no_generator():
    before = torch.get_rng_state()
    assert precision.faster_precision(torch.device("cpu")) in ("fp32", "bf16")
    assert torch.equal(before, torch.get_rng_state())


def test_groups_of_parameters_are_clipped_apart(tmp_path):
    """The adversary's large gradients must not shrink the others'."""
    stage, _ = toys.run(tmp_path / "a")
    rows = toys.rows(stage, "train")
    assert all({"grad_norm", "grad_norm_2"} <= row.keys() for row in rows)
    assert rows[0]["grad_norm_2"] > rows[0]["grad_norm"] > 0
