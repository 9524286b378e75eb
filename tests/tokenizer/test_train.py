import shutil
import threading

import numpy as np
import pytest
import torch
import two_tokenizers
import zarr

from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.tokenizer import train
from openclef.tokenizer.objective import TokenizerLossConfig, TokenizerObjective
from openclef.tokenizer.train import (
    TokenizerStage,
    crop_frames,
    drop_time,
    dropped_channels,
    train_tokenizer,
)
from openclef.tokenizer.vqgan import TokenizerConfig
from openclef.training import checkpoint
from openclef.training.loop import TrainConfig
from openclef.types import Spectrogram

TRAIN = TrainConfig(n_steps=100, batch_size=2)


def stage(**changes):
    return TokenizerStage(train=TRAIN, **changes)


def rngs(n):
    return [np.random.default_rng(seed) for seed in range(n)]


@pytest.mark.parametrize("n_visible", [1, 2, 19])
@pytest.mark.parametrize("reduced", [0.0, 1.0])
def test_a_channel_always_stays_and_what_is_masked_stays_masked(n_visible, reduced):
    mask = np.arange(19) >= n_visible
    config = stage(channel_dropout=0.9, reduced_montages=reduced)
    for rng in rngs(200):
        dropped = dropped_channels(mask, config, rng)
        assert not dropped.all()
        assert dropped[mask].all()


def test_nothing_visible_stays_so():
    mask = np.ones(19, bool)
    assert dropped_channels(mask, stage(reduced_montages=1.0), rngs(1)[0]).all()


def test_reduced_montages_have_any_number_of_channels():
    config = stage(reduced_montages=1.0)
    kept = [(~dropped_channels(np.zeros(19, bool), config, rng)).sum() for rng in rngs(500)]
    assert set(kept) == set(range(1, 19))


def test_channel_dropout_is_the_share_that_is_hidden():
    config = stage(channel_dropout=0.3, reduced_montages=0.0)
    hidden = [dropped_channels(np.zeros(19, bool), config, rng).mean() for rng in rngs(500)]
    assert np.mean(hidden) == pytest.approx(0.3, abs=0.02)


def test_time_dropout_hides_one_stretch_of_at_most_a_quarter():
    config = stage(time_dropout=1.0)
    for rng in rngs(200):
        hidden = drop_time(np.zeros(640, bool), config, rng)
        (where,) = np.nonzero(hidden)
        assert 1 <= len(where) <= 160
        assert where[-1] - where[0] + 1 == len(where)


def test_time_dropout_happens_to_its_share_of_the_crops():
    config = stage(time_dropout=0.2)
    n_hit = sum(drop_time(np.zeros(640, bool), config, rng).any() for rng in rngs(1000))
    assert n_hit == pytest.approx(200, abs=45)


def test_crops_lie_within_what_was_recorded():
    time_mask = np.arange(1280) >= 900
    window = Spectrogram(
        np.zeros((19, 128, 1280), np.float32), np.arange(128) / 4, np.arange(1280.0),
        np.zeros(19, bool), time_mask,
    )  # fmt: skip
    starts = []
    for rng in rngs(300):
        crop = crop_frames(window, 640, rng)
        assert not crop.time_mask.any()
        starts.append(crop.times_s[0])
    assert 0 <= min(starts) < 10
    assert 250 < max(starts) <= 260


def test_crops_are_of_whole_tokens_and_patches():
    with pytest.raises(ValueError, match=r"multiple of 40, such as 640"):
        stage(crop_frames=642)
    with pytest.raises(ValueError, match=r"multiple of 5, such as 645"):
        stage(crop_frames=644, loss=TokenizerLossConfig(adversarial_weight=0))


def test_crops_are_no_longer_than_a_window():
    with pytest.raises(ValueError, match="at most 1280"):
        stage(crop_frames=2560)


def test_defaults_are_the_papers():
    config = stage()
    assert (config.crop_frames, config.model) == (640, TokenizerConfig())
    assert config.loss.commitment_weight == 0.25
    assert config.loss.correlation_weight == 0.1


def interrupted(monkeypatch, n_steps, run):
    """Run for so many steps."""
    losses, n_done = TokenizerObjective.losses, 0

    def interrupting(self, batch, rng):
        nonlocal n_done
        if n_done == n_steps:
            raise KeyboardInterrupt
        n_done += 1
        return losses(self, batch, rng)

    with monkeypatch.context() as patched:
        patched.setattr(TokenizerObjective, "losses", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return two_tokenizers.train(tmp_path_factory.mktemp("unbroken") / "one", "random")[0]


@pytest.mark.parametrize("last", [0, 5, 13], ids=["continuous", "quantised", "with adversary"])
def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(last, unbroken, tmp_path, monkeypatch):
    interrupted(monkeypatch, last + 1, lambda: two_tokenizers.train(tmp_path / "one", "random"))
    weights, stage = two_tokenizers.train(tmp_path / "one", "random")
    starts = [row["step"] for row in stage.metrics() if row["split"] == "run"]
    assert starts[-1] == last + 1
    assert all(torch.equal(weights[name], value) for name, value in unbroken.items())


def test_phases_begin_with_the_same_step_in_any_number_of_parts(tmp_path):
    """A border within a step would leave its parts with unlike terms."""
    phases = []
    for n_parts in (1, 2):
        _, stage = two_tokenizers.train(
            tmp_path / str(n_parts), "random", n_steps=6, accumulate=n_parts
        )
        rows = [row for row in stage.metrics() if row["split"] == "train"]
        phases.append([(row["commitment"] > 0, "hinge" in row) for row in rows])
    assert phases[0] == phases[1] == [(False, False), (True, False)] + [(True, True)] * 4


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return two_tokenizers.write_cohort(tmp_path_factory.mktemp("cohort") / "cohort")


def weights_of(stage):
    return checkpoint.load_tensors(stage.folder / "tokenizer.safetensors")[0]


def test_only_train_patients_are_started_from_and_trained_on(cohort, tmp_path, monkeypatch):
    read = {"start": [], "training": [], "validation": []}
    spectrogram, start, is_started = Cohort.spectrogram, train.start_from_components, False

    def noting(self, row):
        is_main = threading.current_thread() is threading.main_thread()
        use = ("validation" if is_started else "start") if is_main else "training"
        read[use].append(int(row))
        return spectrogram(self, row)

    def noting_start(*arguments):
        nonlocal is_started
        start(*arguments)
        is_started = True

    monkeypatch.setattr(Cohort, "spectrogram", noting)
    monkeypatch.setattr(train, "start_from_components", noting_start)
    train_tokenizer(cohort, tmp_path / "a", config=two_tokenizers.STAGE)
    train_rows = cohort.rows("train").tolist()
    assert train_rows == [0, 1, 2, 4, 7, 8, 9]
    assert read["start"] == [0, 2, 7, 9]  # spread over the patients
    assert set(read["training"]) == set(train_rows)
    assert set(read["validation"]) == set(cohort.rows("tuning"))


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "tokenizer"
    return train_tokenizer(cohort, out, config=two_tokenizers.STAGE)


@pytest.mark.parametrize("n_steps", [0, 2])
def test_a_started_run_goes_on_to_the_same_bits(n_steps, cohort, whole, tmp_path, monkeypatch):
    """And is not started again where a checkpoint takes the place of the start."""
    config, n_started = two_tokenizers.STAGE, 0
    start = train.start_from_components

    def counting(*arguments):
        nonlocal n_started
        n_started += 1
        start(*arguments)

    monkeypatch.setattr(train, "start_from_components", counting)
    out = tmp_path / "broken"
    interrupted(monkeypatch, n_steps, lambda: train_tokenizer(cohort, out, config=config))
    resumed = train_tokenizer(cohort, out, config=config)
    assert n_started == (2 if n_steps == 0 else 1)
    ours, theirs = weights_of(resumed), weights_of(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert resumed.hash == whole.hash


def test_the_start_is_what_training_begins_with(cohort, tmp_path):
    """The untrained control of a started tokenizer is started."""
    weights, _ = two_tokenizers.started(cohort, tmp_path / "a")
    assert bool(weights["quantiser.is_started"])
    assert bool(weights["latent_norm.is_initialised"])


@pytest.mark.parametrize("n_start", [0, 4])
def test_a_visible_value_that_is_not_finite_names_the_session(cohort, tmp_path, n_start):
    broken = Cohort(shutil.copytree(cohort.folder, tmp_path / "cohort"))
    # Any batch of four of the seven rows of train patients has one of them.
    for row in (0, 2, 7, 8):
        zarr.open_array(broken.folder / "spectrograms", mode="r+")[row, 4, 5, 6] = np.nan
    config = two_tokenizers.STAGE.model_copy(update={"n_start": n_start})
    with pytest.raises(OpenclefError, match=r"session S[05]: .* frames, the first at 6 .* Pz"):
        train_tokenizer(broken, tmp_path / "a", config=config)


@pytest.mark.parametrize("n_steps", [0, 4])
def test_no_train_patients_is_one_clear_error(cohort, tmp_path, monkeypatch, n_steps):
    monkeypatch.setattr(Cohort, "rows", lambda *_: np.array([], int))
    config = two_tokenizers.STAGE
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"n_steps": n_steps})}
    )
    with pytest.raises(OpenclefError, match="cannot start from 0 windows of train patients"):
        train_tokenizer(cohort, tmp_path / "a", config=config)
