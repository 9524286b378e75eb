import numpy as np
import pytest
import torch
import two_tokenizers

from openclef.tokenizer.objective import TokenizerLossConfig, TokenizerObjective
from openclef.tokenizer.train import TokenizerStage, crop_frames, drop_time, dropped_channels
from openclef.tokenizer.vqgan import TokenizerConfig
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


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return two_tokenizers.train(tmp_path_factory.mktemp("unbroken") / "one", "random")[0]


@pytest.mark.parametrize("last", [0, 5, 13], ids=["continuous", "quantised", "with adversary"])
def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(last, unbroken, tmp_path, monkeypatch):
    losses, n_done = TokenizerObjective.losses, 0

    def interrupted(self, batch, rng):
        nonlocal n_done
        if n_done > last:
            raise KeyboardInterrupt
        n_done += 1
        return losses(self, batch, rng)

    with monkeypatch.context() as patched:
        patched.setattr(TokenizerObjective, "losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            two_tokenizers.train(tmp_path / "one", "random")
    weights, stage = two_tokenizers.train(tmp_path / "one", "random")
    starts = [row["step"] for row in stage.metrics() if row["split"] == "run"]
    assert starts[-1] == last + 1
    assert all(torch.equal(weights[name], value) for name, value in unbroken.items())
