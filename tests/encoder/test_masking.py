import pytest
import torch

from openclef.encoder.masking import MaskingConfig, draw_masking, draw_ratio, subsample


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def hidden_tail(n_hidden, length=2048, rows=2):
    return (torch.arange(length) >= length - n_hidden).expand(rows, -1)


def test_ratios_are_the_truncated_gaussian_of_mage():
    ratios = torch.tensor([draw_ratio(MaskingConfig(), rng(seed)) for seed in range(2000)])
    assert ratios.min() >= 0.5
    assert ratios.max() <= 1.0
    assert float(ratios.mean()) == pytest.approx(0.69, abs=0.01)  # paper.md, Encoder


def test_the_mean_ratio_is_that_of_the_draws():
    for config in (MaskingConfig(), MaskingConfig(mean=0.5, low=0.25, high=0.75, drop_ratio=0.25)):
        ratios = [draw_ratio(config, rng(seed)) for seed in range(2000)]
        assert config.mean_ratio == pytest.approx(sum(ratios) / 2000, abs=0.01)


def test_equal_bounds_fix_the_ratio():
    hidden = hidden_tail(48)
    masking = draw_masking(hidden, MaskingConfig(low=0.75, high=0.75), rng())
    assert masking.masked.sum(1).tolist() == [1500, 1500]
    assert MaskingConfig(low=0.75, high=0.75).mean_ratio == 0.75


def test_without_dropping_all_that_is_visible_enters():
    hidden = hidden_tail(48)
    masking = draw_masking(hidden, MaskingConfig(drop_ratio=0.0), rng())
    assert masking.kept.shape == (2, 2000)
    assert not masking.kept_hidden.any()
    assert masking.masked.sum() >= 2000  # so masked tokens are among them


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.6), (0.01, 0.02)])
def test_ratios_that_can_hardly_be_drawn_are_refused(low, high):
    with pytest.raises(ValueError, match="mask ratios"):
        MaskingConfig(mean=0.9, std=0.05, low=low, high=high)


@pytest.mark.parametrize("n_hidden", [0, 700, 2000])
def test_half_of_the_visible_is_dropped_and_all_of_it_masked(n_hidden):
    hidden = hidden_tail(n_hidden)
    masking = draw_masking(hidden, MaskingConfig(), rng())
    n_visible = 2048 - n_hidden
    assert masking.kept.shape[1] == n_visible - n_visible // 2
    assert not (masking.masked & hidden).any()
    n_masked = masking.masked.sum(1)
    assert (n_masked >= n_visible // 2).all()
    for row in range(2):
        kept = torch.zeros(2048, dtype=torch.bool)
        kept[masking.kept[row][~masking.kept_hidden[row]]] = True
        assert not (kept & hidden[row]).any()
        assert (masking.masked[row] | kept | hidden[row]).all()  # what is dropped is masked


def test_rows_with_fewer_visible_tokens_are_padded_not_mixed_in():
    hidden = torch.stack([hidden_tail(0, rows=1)[0], hidden_tail(2040, rows=1)[0]])
    masking = draw_masking(hidden, MaskingConfig(), rng())
    assert masking.kept_hidden.sum(1).tolist() == [0, 1024 - 4]
    assert (masking.kept[1][~masking.kept_hidden[1]] < 8).all()


def test_the_same_seed_masks_the_same_tokens():
    hidden = hidden_tail(0)
    one, other = (draw_masking(hidden, MaskingConfig(), rng(5)) for _ in range(2))
    assert torch.equal(one.masked, other.masked)
    assert not torch.equal(one.masked, draw_masking(hidden, MaskingConfig(), rng(6)).masked)


def test_subsample_keeps_at_most_n_visible_tokens():
    hidden = torch.stack([hidden_tail(0, rows=1)[0], hidden_tail(2040, rows=1)[0]])
    kept, kept_hidden = subsample(hidden, 100, rng())
    assert (~kept_hidden).sum(1).tolist() == [100, 8]
    assert len(kept[0].unique()) == 100


@pytest.mark.parametrize("drop_ratio", [0.0, 0.5])
def test_a_share_of_the_masked_tokens_is_predicted_whether_dropped_or_not(drop_ratio):
    hidden = hidden_tail(48)
    config = MaskingConfig(low=0.8, high=0.8, drop_ratio=drop_ratio)
    whole = draw_masking(hidden, config, rng())
    part = draw_masking(hidden, config.model_copy(update={"target_share": 0.25}), rng())
    assert torch.equal(whole.targets, whole.masked)
    assert torch.equal(part.masked, whole.masked)
    assert torch.equal(part.kept, whole.kept)
    assert not (part.targets & ~part.masked).any()
    assert part.targets.sum(1).tolist() == [400, 400]
    # Of those that enter the encoder as masked ones, as large a share as of the dropped ones.
    entered = torch.zeros_like(hidden).scatter(1, part.kept, ~part.kept_hidden) & part.masked
    share = float((part.targets & entered).sum() / entered.sum())
    assert share == pytest.approx(0.25, abs=0.05)
