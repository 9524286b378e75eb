import pytest
import torch

from openclef.tokenizer.quantisers import EmaConfig, FsqConfig, ProductConfig, ResidualConfig
from openclef.tokenizer.regions import REGIONS
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan, hidden_frames, scale
from openclef.types import CHANNELS

SMALL = TokenizerConfig(
    strides=((4, 5), (2, 1), (2, 1)),
    widths=(8, 8, 8),
    n_blocks=1,
    attention=False,
    quantiser=EmaConfig(n_codes=32, code_dim=4),
)


def changed(**changes):
    return TokenizerConfig.model_validate({**dict(SMALL), **changes})


def built(config):
    torch.manual_seed(0)
    model = Vqgan(config)
    for module in model.modules():  # residual branches start at zero; a test needs them to act
        for name in ("conv2", "out"):
            if hasattr(module, name):
                torch.nn.init.normal_(getattr(module, name).weight, std=0.1)
    torch.nn.init.normal_(model.missing)
    model.quantiser.start(torch.randn(200, config.quantiser.code_dim), torch.Generator())
    return model.eval()


def window(n_frames=1280, n_visible=None, seed=0):
    power_db = 10 * torch.randn(1, 19, 128, n_frames, generator=torch.Generator().manual_seed(seed))
    time_mask = torch.arange(n_frames)[None] >= (n_frames if n_visible is None else n_visible)
    return {
        "power_db": power_db * ~time_mask[:, None, None],
        "channel_mask": torch.zeros(1, 19, dtype=torch.bool),
        "time_mask": time_mask,
    }


@pytest.fixture(scope="module")
def model():
    return built(SMALL)


def tokens(model, w):
    return model.tokenize(scale(w["power_db"]), w["channel_mask"], w["time_mask"])[0]


@pytest.mark.parametrize("regions", REGIONS)
@pytest.mark.parametrize(
    "quantiser",
    [
        EmaConfig(n_codes=16, code_dim=4),
        FsqConfig(levels=(4, 4)),
        ResidualConfig(kind="residual", n_codes=16, code_dim=4),
        ProductConfig(kind="product", n_codes=16, code_dim=4),
    ],
    ids=lambda q: q.kind,
)
def test_a_session_becomes_a_grid_of_ids_and_is_decoded(regions, quantiser):
    model = built(changed(regions=regions, quantiser=quantiser, attention=True))
    w = window()
    ids, hidden = model.tokenize(scale(w["power_db"]), w["channel_mask"], w["time_mask"])
    n_regions = len(REGIONS[regions])
    assert ids.shape == (1, n_regions, 8, 256, quantiser.n_quantisers)
    assert hidden.shape == (1, n_regions, 256)
    assert ids.min() >= 0
    assert ids.max() < quantiser.n_codes
    assert model.reconstruct(ids, hidden).shape == (1, 19, 128, 1280)


def test_default_is_the_papers_codebook_and_grid():
    config = TokenizerConfig()
    assert (config.quantiser.n_codes, config.quantiser.code_dim) == (8192, 32)
    assert (config.grid, config.n_tokens) == ((1, 8, 256), 2048)


@pytest.mark.parametrize(
    ("regions", "strides", "grid"),
    [
        ("all", ((4, 5), (2, 2)), (1, 16, 128)),
        ("hemispheres", ((4, 5), (2, 2), (2, 1)), (2, 8, 128)),
        ("quadrants", ((4, 5), (2, 2), (2, 2)), (4, 8, 64)),
        ("mid_side", ((8, 5), (2, 2)), (2, 8, 128)),
    ],
)
def test_other_grids_of_2048_by_config(regions, strides, grid):
    config = changed(regions=regions, strides=strides, widths=(8,) * len(strides))
    assert (config.grid, config.n_tokens) == (grid, 2048)


def test_strides_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="does not divide 1280"):
        changed(strides=((4, 7), (2, 1), (2, 1)))


def test_every_channel_is_in_a_region_and_sides_mirror_each_other():
    for regions in REGIONS.values():
        assert {name for region in regions for name in region} == set(CHANNELS)
    for left, right in (REGIONS["hemispheres"], REGIONS["quadrants"][:2], REGIONS["quadrants"][2:]):
        mirrored = {n[:-1] + str(int(n[-1]) + 1) if n[-1].isdigit() else n for n in left}
        assert mirrored == set(right)


@pytest.mark.parametrize("regions", ["hemispheres", "quadrants", "mid_side"])
def test_a_region_is_made_of_its_own_channels_alone(regions):
    model = built(changed(regions=regions))
    w = window(n_frames=100)
    for index, channel in enumerate(CHANNELS):
        other = {**w, "power_db": w["power_db"].clone()}
        other["power_db"][0, index] += 15.0
        latents = [
            model.encode(scale(x["power_db"]), x["channel_mask"], x["time_mask"]).latent
            for x in (w, other)
        ]
        moved = (latents[0] != latents[1]).flatten(2).any(-1)[0]
        assert moved.tolist() == [channel in region for region in REGIONS[regions]]


def test_a_region_without_a_channel_is_hidden_and_guessed_from_the_others():
    model = built(changed(regions="hemispheres"))
    w = window(n_frames=100)
    left = [CHANNELS.index(name) for name in REGIONS["hemispheres"][0]]
    w["channel_mask"][0, left] = True
    ids, hidden = model.tokenize(scale(w["power_db"]), w["channel_mask"], w["time_mask"])
    assert hidden.all(-1).tolist() == [[True, False]]
    before = model.reconstruct(ids, hidden)
    ids[:, 0] = 3
    assert torch.equal(model.reconstruct(ids, hidden), before)


def test_tokens_of_a_short_recording_do_not_depend_on_the_padding(model):
    short = window(n_frames=100)
    padded = {
        "power_db": torch.nn.functional.pad(short["power_db"], (0, 1180)),
        "channel_mask": short["channel_mask"],
        "time_mask": torch.nn.functional.pad(short["time_mask"], (0, 1180), value=True),
    }
    assert torch.equal(tokens(model, padded)[..., :20, :], tokens(model, short))


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("poison", [33.0, float("nan"), float("inf")])
def test_what_hides_in_masked_channels_and_frames_is_never_seen(attention, poison):
    model = built(changed(attention=attention))
    w = window(n_visible=700)
    w["channel_mask"][0, 4] = True
    other = {**w, "power_db": w["power_db"].clone()}
    other["power_db"][0, 4] = poison
    other["power_db"][..., 700:] = poison
    assert torch.equal(tokens(model, w), tokens(model, other))


def test_a_missing_channel_is_not_a_silent_one(model):
    w = window()
    w["power_db"][0, 3] = 0.0
    masked = {**w, "channel_mask": w["channel_mask"].clone()}
    masked["channel_mask"][0, 3] = True
    assert not torch.equal(tokens(model, w), tokens(model, masked))


@pytest.mark.parametrize("attention", [False, True])
def test_nothing_visible_is_all_hidden_and_finite(attention):
    model = built(changed(attention=attention))
    w = window(n_visible=0)
    ids, hidden = model.tokenize(scale(w["power_db"]), w["channel_mask"], w["time_mask"])
    assert hidden.all()
    assert model.reconstruct(ids, hidden).isfinite().all()


def test_one_channel_alone_is_tokenised_and_decoded(model):
    w = window()
    w["channel_mask"][0, 1:] = True
    ids, hidden = model.tokenize(scale(w["power_db"]), w["channel_mask"], w["time_mask"])
    assert not hidden.any()
    assert model.reconstruct(ids, hidden).isfinite().all()


def test_attention_reads_visible_positions_of_the_whole_window():
    model = built(changed(attention=True))
    w = window(n_frames=200, n_visible=150)
    other = {**w, "power_db": w["power_db"].clone()}
    other["power_db"][..., 100:150] += 10.0
    latents = [
        model.encode(scale(x["power_db"]), x["channel_mask"], x["time_mask"]).latent[..., 0, :]
        for x in (w, other)
    ]
    assert not torch.equal(*latents)  # the first column, 100 s away


def test_a_token_is_hidden_if_more_than_half_of_its_frames_are():
    mask = torch.tensor([[False] * 3 + [True] * 2 + [False] * 2 + [True] * 3])
    assert hidden_frames(mask, 2).tolist() == [[False, True]]


def test_scale_clamps_to_40_db():
    assert scale(torch.tensor([-99.0, -40.0, 0.0, 20.0, 99.0])).tolist() == [-1, -1, 0, 0.5, 1]
