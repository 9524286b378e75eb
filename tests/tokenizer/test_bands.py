import pytest
import torch
from pydantic import ValidationError

from openclef.tokenizer.bands import band_widths, from_bands, to_bands
from openclef.tokenizer.quantisers import EmaConfig
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan, scale
from openclef.tokenizer.whitener import Whitener

SCALE = ((48, 1), (80, 5))
CONFIG = TokenizerConfig(
    bands=SCALE, n_frames=40, strides=((4, 5), (2, 2)), widths=(8, 16), n_blocks=1,
    attention=False, quantiser=EmaConfig(n_codes=16, code_dim=4),
)  # fmt: skip


def spectrum(seed=0):
    return torch.randn(2, 19, 128, 40, generator=torch.Generator().manual_seed(seed))


def test_a_band_is_the_mean_of_its_bins_and_every_bin_gets_it_back():
    x = spectrum()
    y = to_bands(x, SCALE)
    assert y.shape == (2, 19, 64, 40)
    assert torch.equal(y[:, :, :48], x[:, :, :48])
    torch.testing.assert_close(y[:, :, 50], x[:, :, 58:63].mean(2))
    back = from_bands(y, SCALE)
    assert back.shape == x.shape
    torch.testing.assert_close(to_bands(back, SCALE), y)
    assert torch.equal(back[:, :, 58], back[:, :, 62])
    assert not torch.equal(back[:, :, 57], back[:, :, 58])


def test_without_merging_nothing_is_copied():
    x = spectrum()
    assert to_bands(x, ((128, 1),)) is x
    assert from_bands(x, ((128, 1),)) is x
    assert band_widths(((4, 2), (3, 1))) == [2, 2, 1, 1, 1]


def test_the_grid_has_rows_of_bands():
    assert CONFIG.grid == (1, 8, 4)
    assert CONFIG.row_edges == [0, 8, 16, 24, 32, 40, 48, 88, 128]
    assert TokenizerConfig().row_edges == [16 * row for row in range(9)]


@pytest.mark.parametrize(
    ("bands", "told"),
    [
        (((48, 1), (40, 5)), "are of 88 bins; give 128"),
        (((48, 1), (80, 7)), "80 bins cannot be merged 7 at a time; 77 can"),
        (((48, 0), (80, 5)), "must be at least 1"),
        (((128, 4),), "strides multiply to 48, which does not divide 32"),
    ],
)
def test_bands_that_do_not_fit_are_refused(bands, told):
    strides = ((4, 5), (12, 2)) if bands == ((128, 4),) else CONFIG.strides
    with pytest.raises(ValidationError, match=told):
        TokenizerConfig(bands=bands, strides=strides, widths=(8, 16))


def test_tokens_do_not_see_what_differs_within_a_band():
    torch.manual_seed(0)
    model = Vqgan(CONFIG).eval()
    model.quantiser.start(torch.randn(200, 4), torch.Generator())
    masks = torch.zeros(2, 19, dtype=torch.bool), torch.zeros(2, 40, dtype=torch.bool)
    power_db = 10 * spectrum()
    ripple = torch.zeros(128)
    ripple[48:53] = torch.tensor([1.0, -1.0, 0.0, 2.0, -2.0])
    there = scale(power_db) + 0.1 * ripple[:, None]
    latent = model.encode(scale(power_db), *masks).latent
    torch.testing.assert_close(model.encode(there, *masks).latent, latent)
    lower = scale(power_db) + 0.1 * ripple.roll(-40)[:, None]
    assert not torch.allclose(model.encode(lower, *masks).latent, latent, atol=1e-3)
    decoded = model.reconstruct(*model.tokenize(scale(power_db), *masks))
    assert decoded.shape == power_db.shape
    assert torch.equal(decoded[:, :, 48], decoded[:, :, 52])
    assert model.mean_db.shape == (19, 128)


def test_whitened_patches_are_of_bands():
    whitener = Whitener(CONFIG, patch_dim=4)
    masks = torch.zeros(2, 19, dtype=torch.bool), torch.zeros(2, 40, dtype=torch.bool)
    x = spectrum()
    ((patches, known, seen),) = whitener.patches(x, *masks)
    assert patches.shape == (2, 8, 4, 19 * 8)
    assert known.all()
    assert seen.all()
    last = patches[0, 7, 0].reshape(19, 8)  # 22 to 32 Hz, 10 frames
    torch.testing.assert_close(last[3, 0], x[0, 3, 88:93, :10].mean())
