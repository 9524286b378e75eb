import pytest
import torch

from openclef.errors import OpenclefError
from openclef.tokenizer.quantisers import EmaConfig, FsqConfig, ProductConfig, ResidualConfig
from openclef.tokenizer.regions import REGIONS
from openclef.tokenizer.start import start_from_components
from openclef.tokenizer.vqgan import CLAMP_DB, TokenizerConfig, Vqgan

RANK = 3
# Regions share all but the first weights: each of four has its own three dimensions.
EUCLIDEAN = EmaConfig(n_codes=64, code_dim=RANK * 4, metric="euclidean")
# Patches of 8 bins x 10 frames, which two levels see.
SHAPE = TokenizerConfig(
    n_frames=80, strides=((4, 5), (2, 2)), widths=(24, 24), n_blocks=1, quantiser=EUCLIDEAN
)


def windows(n, *, seed, hidden_frames=0):
    """Spectrograms whose patches have `RANK` dimensions, as all their recordings share."""
    shapes = torch.randn(RANK, 19, 8, 10, generator=torch.Generator().manual_seed(99))
    sizes = torch.randn(n, RANK, 16, 8, generator=torch.Generator().manual_seed(seed))
    power_db = torch.einsum("rcft,brpq->bcpfqt", 3 * shapes, sizes).reshape(n, 19, 128, 80)
    time_mask = torch.zeros(n, 80, dtype=torch.bool)
    time_mask[:, 80 - hidden_frames :] = True
    return {
        "power_db": power_db,
        "channel_mask": torch.zeros(n, 19, dtype=torch.bool),
        "time_mask": time_mask,
    }


def started(config, batches, seed=0):
    torch.manual_seed(seed)
    model = Vqgan(config).eval()
    start_from_components(model, batches, torch.Generator().manual_seed(0))
    return model


@torch.no_grad()
def explained(model, batch, *, quantised):
    """R2 of what is decoded, of the visible frames."""
    x = batch["power_db"] / CLAMP_DB
    encoded = model.encode(x, batch["channel_mask"], batch["time_mask"])
    latent = model.quantiser.continuous(encoded.latent)
    if quantised:
        latent = model.quantiser.decode(model.quantiser.encode(encoded.latent, encoded.visible))
    y = model.decode(latent, encoded.hidden)
    seen = (~batch["time_mask"])[:, None, None, :].expand(x.shape)
    return float(1 - (x - y)[seen].square().sum() / x[seen].square().sum())


@pytest.mark.parametrize("regions", REGIONS)
def test_what_a_linear_code_can_keep_is_kept_before_any_step(regions):
    config = SHAPE.model_copy(update={"regions": regions})
    batches = [windows(8, seed=0), windows(8, seed=1, hidden_frames=20)]
    model, unseen = started(config, batches), windows(8, seed=2, hidden_frames=20)
    assert explained(model, unseen, quantised=False) > 0.97
    assert explained(model, unseen, quantised=True) > 0.6
    assert bool(model.quantiser.is_started)
    torch.manual_seed(0)
    assert explained(Vqgan(config).eval(), unseen, quantised=False) < 0.2


@pytest.mark.parametrize(
    ("quantiser", "least"),
    [
        (EmaConfig(n_codes=64, code_dim=8), 0.4),  # the length of a latent is lost
        (ResidualConfig(kind="residual", n_codes=64, code_dim=8), 0.8),
        (ProductConfig(kind="product", n_codes=64, code_dim=8), 0.4),
        (FsqConfig(levels=(8, 8, 8)), 0.7),
    ],
)
def test_every_quantiser_starts_with_a_decoder_that_fits_it(quantiser, least):
    config = SHAPE.model_copy(update={"quantiser": quantiser})
    model = started(config, [windows(8, seed=0), windows(8, seed=1)])
    assert explained(model, windows(8, seed=2), quantised=True) > least


def test_distances_between_latents_are_those_between_spectrograms():
    model, batch = started(SHAPE, [windows(8, seed=0)]), windows(8, seed=1)
    x = model.standardise(batch["power_db"] / CLAMP_DB, batch["channel_mask"], batch["time_mask"])
    patches = x.unflatten(3, (8, 10)).unflatten(2, (16, 8)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    encoded = model.encode(batch["power_db"] / CLAMP_DB, batch["channel_mask"], batch["time_mask"])
    of_latents = torch.pdist(encoded.latent.detach().flatten(0, -2)[:200])
    of_patches = torch.pdist(patches.flatten(0, -2)[:200])
    assert torch.corrcoef(torch.stack([of_latents, of_patches]))[0, 1] > 0.97


def test_the_same_windows_give_the_same_weights_whatever_they_were():
    batches = [windows(4, seed=0), windows(4, seed=1)]
    one, two = (started(SHAPE, batches, seed=seed).state_dict() for seed in (0, 1))
    blocks = {name for name in one if "conv1" in name or "to_qkv" in name}
    for name in one.keys() - blocks:
        assert torch.equal(one[name], two[name]), name
    assert not all(torch.equal(one[name], two[name]) for name in blocks)


def test_dimensions_beyond_those_of_the_input_do_nothing_and_break_nothing():
    wide = SHAPE.model_copy(update={"strides": ((1, 1), (8, 10)), "widths": (32, 24)})
    model = started(wide, [windows(8, seed=0)])
    assert not model.down[0].weight[19:].any()
    assert explained(model, windows(4, seed=2), quantised=False) > 0.97


@pytest.mark.parametrize("regions", REGIONS)
@torch.no_grad()
def test_regions_without_a_visible_channel_are_in_no_statistic_and_no_code(regions):
    batch = windows(12, seed=0)
    batch["channel_mask"][4:] = True
    batch["channel_mask"][4:, 0] = regions == "all"  # in others, one channel
    x = batch["power_db"] / CLAMP_DB
    model = started(SHAPE.model_copy(update={"regions": regions}), [batch])
    encoded = model.encode(x, batch["channel_mask"], batch["time_mask"])
    assert not encoded.visible.flatten(2).any(-1).all()
    seen = encoded.latent[encoded.visible]
    used = seen.square().mean(0) > 0.1
    assert used.sum() >= 10
    torch.testing.assert_close(
        seen.var(0, correction=0)[used], torch.ones(int(used.sum())), atol=1e-3, rtol=0
    )
    # k-means counts in vectors a code: it has taken in the visible ones alone.
    (book,) = model.quantiser.books
    ids = model.quantiser.encode(encoded.latent, encoded.visible)[..., 0]
    n_seen = torch.bincount(ids[encoded.visible], minlength=64).float()
    assert float((book.usage * len(seen) / 64 - n_seen).abs().sum() / len(seen)) < 0.2


@pytest.mark.parametrize("n_windows", [0, 3])
def test_nothing_visible_to_start_from_is_one_clear_error(n_windows):
    batch = windows(3, seed=0)
    batch["channel_mask"][:2], batch["time_mask"][2] = True, True
    batches = [batch] if n_windows else []
    with pytest.raises(OpenclefError, match=f"cannot start from {n_windows} windows"):
        started(SHAPE, batches)
