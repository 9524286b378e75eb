import numpy as np
import pytest
import torch
import toys

from openclef import artefact
from openclef.errors import OpenclefError
from openclef.training import loop, precision
from openclef.training.loop import TrainConfig, fit
from openclef.training.optim import OptimConfig

X = torch.linspace(-1, 1, 20)[:, None]
CONFIG = TrainConfig(
    n_steps=30, batch_size=4, validate_every=10, checkpoint_every=7, optim=OptimConfig(lr=0.05)
)


def load(indices, rngs):
    return {"x": X[indices] + torch.tensor([[rng.normal(0, 0.001)] for rng in rngs]).float()}


def run(folder, *, make=toys.Line, config=CONFIG, **kwargs):
    return toys.run(
        folder, objective=make(), n_items=len(X), load=load, validation=[{"x": X}], config=config,
        **kwargs,
    )  # fmt: skip


def with_changes(**changes):
    return toys.changed(CONFIG, **changes)


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
    toys.assert_same(run(tmp_path / "broken"), whole)


def test_a_run_that_ended_but_was_not_published_ends_the_same_again(tmp_path):
    first = run(tmp_path / "a")
    rows = first[0].metrics()
    toys.assert_same(run(tmp_path / "a", stop_at=0), first)
    assert len(toys.rows(first[0], "end")) == 1
    assert len(first[0].metrics()) == len(rows) + 1  # "run", at the last step


def test_nothing_of_the_untrained_control_is_changed(tmp_path):
    model = toys.Line()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = artefact.begin(tmp_path / "a", kind="toy", config={}, inputs={})
    after = fit(
        model, n_items=4, load_batch=lambda *_: {}, validation=[{"x": X}],
        config=CONFIG.model_copy(update={"n_steps": 0}), artefact=stage, label="none",
    )  # fmt: skip
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_to_train_on_is_one_clear_error(tmp_path):
    stage = artefact.begin(tmp_path / "a", kind="toy", config={}, inputs={})
    with pytest.raises(OpenclefError, match="nothing to train on"):
        fit(
            toys.Line(), n_items=0, load_batch=load, validation=[], config=CONFIG, artefact=stage,
            label="none",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("n_items", "allowed"),
    [
        (150, "150, all there is to train on, equally, in 4 .* multiple of 4 .nearest: 148., or"),
        (3, "3, all there is to train on, equally, in 4 .*; allowed: another number of"),
    ],
)
def test_a_small_cohort_that_cannot_be_shared_is_told_what_can(tmp_path, n_items, allowed):
    stage = artefact.begin(tmp_path / "a", kind="toy", config={}, inputs={})
    with pytest.raises(OpenclefError, match=allowed):
        fit(
            toys.Line(), n_items=n_items, load_batch=load, validation=[], artefact=stage,
            config=with_changes(batch_size=256, accumulate=4), label="none",
        )  # fmt: skip


class Turning(toys.Line):
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
        "n_skipped": 0,
    }  # fmt: skip
    assert weights["n_seen"] == 40
    for stop_at in (12, 16, 19):  # before the turn, between, and just before the end
        folder = tmp_path / str(stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(folder, make=Turning, config=config, stop_at=stop_at)
        toys.assert_same(run(folder, make=Turning, config=config), whole)
    toys.assert_same(run(tmp_path / "whole", make=Turning, config=config, stop_at=0), whole)


class Phased(toys.Line):
    """Line with a second phase from step 17 on, in both of which the tuning loss rises."""

    last_phase = 1

    @property
    def phase(self):
        return int(self.n_seen > 4 * 17)

    def losses(self, batch, rng):
        losses = super().losses(batch, rng)
        if not self.training:
            losses["loss"] = 1 + self.n_seen.float()
        return losses


def test_patience_counts_in_the_last_phase_alone(tmp_path):
    """It has run out when the last phase begins, between two validations, and begins anew."""
    config = with_changes(n_steps=50, validate_every=5, patience=2)
    whole = run(tmp_path / "whole", make=Phased, config=config)
    tuning = [row["step"] for row in toys.rows(whole[0], "tuning")]
    assert tuning == [5, 10, 15, 20, 25, 30]
    (end,) = toys.rows(whole[0], "end")
    assert (end["step"], end["best_step"], end["stopped_early"]) == (30, 20, True)
    for stop_at in (16, 19, 26):
        folder = tmp_path / str(stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(folder, make=Phased, config=config, stop_at=stop_at)
        toys.assert_same(run(folder, make=Phased, config=config), whole)


def test_without_patience_training_goes_on(tmp_path):
    stage, _ = run(tmp_path / "a", make=Turning, config=with_changes(validate_every=5))
    assert toys.rows(stage, "train")[-1]["step"] == 30


def test_items_have_the_same_randomness_in_any_part_of_a_batch(tmp_path):
    drawn = {}

    def remember(indices, rngs):
        for index, rng in zip(indices, rngs, strict=True):
            drawn.setdefault(int(index), []).append(rng.random())
        return load(indices, rngs)

    stage = artefact.begin(tmp_path / "a", kind="toy", config={}, inputs={})
    fit(
        toys.Line(), n_items=len(X), load_batch=remember, validation=[],
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
    toys.assert_same(resumed, whole)
    assert [row["precision"] for row in toys.rows(resumed[0], "run")] == ["bf16", "bf16"]
    assert whole[0].metrics()[0]["precision"] == "bf16"
    explicit = run(tmp_path / "bf16", config=with_changes(precision="bf16"))
    toys.assert_same(explicit, whole)
    assert toys.rows(run(tmp_path / "fp32")[0]) != toys.rows(whole[0])


@pytest.mark.parametrize(("gain", "expected"), [(1.19, "fp32"), (1.21, "bf16")])
def test_bf16_is_chosen_where_it_is_faster_by_a_fifth(monkeypatch, gain, expected):
    seconds = {torch.float32: 0.01 * gain, torch.bfloat16: 0.01}
    monkeypatch.setattr(precision, "_product_s", lambda dtype, _: seconds[dtype])
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
