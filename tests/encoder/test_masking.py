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
