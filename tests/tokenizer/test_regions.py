import pytest
import torch

from openclef.tokenizer.regions import (
    REGIONS,
    from_planes,
    hidden_planes,
    membership,
    to_planes,
)
from openclef.types import CHANNELS, LEFT, RIGHT

C3, C4 = CHANNELS.index("C3"), CHANNELS.index("C4")
SHOWN = torch.zeros(2, 19, dtype=torch.bool)


def spectra():
    return torch.randn(2, 19, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("regions", REGIONS)
def test_planes_are_undone(regions):
    x = spectra()
    torch.testing.assert_close(from_planes(to_planes(x, SHOWN, regions), regions), x)


def test_sum_and_difference_of_a_pair():
    x = spectra()
    planes = to_planes(x, SHOWN, "mid_side")
    torch.testing.assert_close(planes[:, C3], (x[:, C3] + x[:, C4]) / 2)
    torch.testing.assert_close(planes[:, C4], (x[:, C3] - x[:, C4]) / 2)


def test_a_mirrored_head_differs_in_the_differences_alone():
    x = spectra()
    left, right = ([CHANNELS.index(name) for name in side] for side in (LEFT, RIGHT))
    mirrored = x.clone()
    mirrored[:, left], mirrored[:, right] = x[:, right], x[:, left]
    planes, other = (to_planes(z, SHOWN, "mid_side") for z in (x, mirrored))
    mid, side = membership("mid_side")
    torch.testing.assert_close(other[:, mid], planes[:, mid])
    torch.testing.assert_close(other[:, side], -planes[:, side])


def test_of_half_a_pair_the_mean_is_what_is_there_and_the_difference_is_hidden():
    x, hidden = spectra(), SHOWN.clone()
    hidden[0, C3], x[0, C3] = True, 0.0
    planes, is_hidden = to_planes(x, hidden, "mid_side"), hidden_planes(hidden, "mid_side")
    torch.testing.assert_close(planes[0, C3], x[0, C4])
    assert not planes[0, C4].any()
    assert is_hidden[0].nonzero().flatten().tolist() == [C4]
    assert not is_hidden[1].any()


def test_without_a_pair_both_of_its_planes_are_hidden():
    hidden = SHOWN.clone()
    hidden[0, [C3, C4]] = True
    assert torch.equal(hidden_planes(hidden, "mid_side"), hidden)


def test_every_plane_is_in_one_half():
    assert membership("mid_side").sum(0).eq(1).all()
