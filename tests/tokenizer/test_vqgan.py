import pytest
import torch

from openclef.tokenizer.objective import (
    TokenizerLossConfig,
    TokenizerObjective,
    mean_and_residual_error,
)
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan, hidden_tokens, scale

SMALL = TokenizerConfig(widths=(8, 8, 8), n_codes=32, code_dim=4)


def window(n_frames=1280, n_visible=None, seed=0):
    power_db = 10 * torch.randn(1, 19, 128, n_frames, generator=torch.Generator().manual_seed(seed))
    time_mask = torch.arange(n_frames)[None] >= (n_frames if n_visible is None else n_visible)
    return {
        "power_db": power_db * ~time_mask[:, None, None],
        "channel_mask": torch.zeros(1, 19, dtype=torch.bool),
        "time_mask": time_mask,
    }


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Vqgan(SMALL).eval()
    for block in model.modules():  # residual branches start at zero; a test needs them to act
        if hasattr(block, "conv2"):
            torch.nn.init.normal_(block.conv2.weight, std=0.1)
    return model


def tokens(model, w):
    return model.tokenize(scale(w["power_db"]), w["channel_mask"], w["time_mask"])


def test_a_session_is_2048_tokens_of_4_hz_by_5_s(model):
    ids = tokens(model, window())
    assert ids.shape == (1, 8, 256)
    assert model.reconstruct(ids, window()["time_mask"]).shape == (1, 19, 128, 1280)


def test_default_is_the_papers_codebook():
    assert (TokenizerConfig().n_codes, TokenizerConfig().code_dim) == (8192, 32)
    assert TokenizerConfig().grid == (8, 256)


def test_another_grid_of_2048_by_config():
    other = TokenizerConfig(strides=((4, 5), (2, 2)), widths=(8, 8))
    assert other.grid == (16, 128)


def test_strides_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="does not divide 1280"):
        TokenizerConfig(strides=((4, 7), (2, 1), (2, 1)))


def test_tokens_of_a_short_recording_do_not_depend_on_the_padding(model):
    short = window(n_frames=100)
    padded = {
        "power_db": torch.nn.functional.pad(short["power_db"], (0, 1180)),
        "channel_mask": short["channel_mask"],
        "time_mask": torch.nn.functional.pad(short["time_mask"], (0, 1180), value=True),
    }
    assert torch.equal(tokens(model, padded)[..., :20], tokens(model, short))


def test_what_hides_in_masked_channels_and_frames_is_never_seen(model):
    w = window(n_visible=700)
    w["channel_mask"][0, 4] = True
    other = {**w, "power_db": w["power_db"].clone()}
    other["power_db"][0, 4] = 33.0
    other["power_db"][..., 700:] = -7.0
    assert torch.equal(tokens(model, w), tokens(model, other))


def test_a_missing_channel_is_not_a_silent_one(model):
    torch.nn.init.normal_(model.missing)
    w = window()
    w["power_db"][0, 3] = 0.0
    masked = {**w, "channel_mask": w["channel_mask"].clone()}
    masked["channel_mask"][0, 3] = True
    assert not torch.equal(tokens(model, w), tokens(model, masked))


def test_a_token_is_hidden_if_more_than_half_of_its_frames_are():
    mask = torch.tensor([[False] * 3 + [True] * 2 + [False] * 2 + [True] * 3])
    assert hidden_tokens(mask, 5).tolist() == [[False, True]]


def test_scale_clamps_to_40_db():
    assert scale(torch.tensor([-99.0, -40.0, 0.0, 20.0, 99.0])).tolist() == [-1, -1, 0, 0.5, 1]


def test_eq_2_by_hand():
    x = torch.zeros(1, 2, 1, 1)
    y = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1)
    nothing = torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    mean, residual = mean_and_residual_error(x, y, *nothing)
    assert float(mean) == 2.0  # |mean of 3 and 1|
    assert float(residual) == 1.0  # mean of |3 - 2| and |1 - 2|


def test_masked_channels_and_frames_add_nothing_to_the_loss():
    x, y = torch.randn(2, 19, 8, 10), torch.randn(2, 19, 8, 10)
    channel_mask = torch.rand(2, 19) < 0.4
    time_mask = torch.rand(2, 10) < 0.4
    before = mean_and_residual_error(x, y, channel_mask, time_mask)
    y = torch.where(channel_mask[:, :, None, None] | time_mask[:, None, None], 1e6, y)
    assert mean_and_residual_error(x, y, channel_mask, time_mask) == before


def test_nothing_visible_is_a_loss_of_zero():
    x = torch.randn(1, 19, 8, 10)
    all_hidden = torch.ones(1, 19, dtype=torch.bool), torch.ones(1, 10, dtype=torch.bool)
    assert [float(v) for v in mean_and_residual_error(x, x + 1, *all_hidden)] == [0.0, 0.0]


def test_training_lowers_the_loss_and_reaches_every_weight():
    torch.manual_seed(0)
    objective = TokenizerObjective(SMALL, TokenizerLossConfig(channel_dropout=0.2))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    # Blocks of 16 bins by 20 frames, on or off, alike in all channels of a window.
    blocks = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
    batch = {
        "power_db": 10
        * blocks.repeat_interleave(16, 2).repeat_interleave(20, 3).expand(4, 19, -1, -1),
        "channel_mask": torch.zeros(4, 19, dtype=torch.bool),
        "time_mask": torch.zeros(4, 160, dtype=torch.bool),
    }
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        result = objective.losses(batch, torch.Generator().manual_seed(step))
        result["loss"].backward()
        if step == 1:  # at step 0 the zero-initialised convolutions block their branch
            assert [n for n, p in objective.named_parameters() if not p.grad.any()] == []
        optimizer.step()
        losses.append(float(result["loss"].detach()))
    assert losses[-1] < 0.75 * losses[0]
