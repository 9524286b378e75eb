import pytest
import torch

from openclef.tokenizer.discriminator import Discriminator, adaptive_weight, hinge_terms
from openclef.tokenizer.objective import (
    TokenizerLossConfig,
    TokenizerObjective,
    reconstruction_terms,
)
from openclef.tokenizer.quantisers import EmaConfig
from openclef.tokenizer.vqgan import TokenizerConfig

SMALL = TokenizerConfig(
    strides=((4, 5), (2, 1), (2, 1)),
    widths=(8, 8, 8),
    n_blocks=1,
    attention=True,
    quantiser=EmaConfig(n_codes=32, code_dim=4, decay=0.9),
)
NOTHING_HIDDEN = torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)


def hidden(n_chans=19, n_frames=10, batch=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, n_chans, generator=rng) < 0.4,
        torch.rand(batch, n_frames, generator=rng) < 0.4,
    )


def test_eq_2_by_hand():
    x = torch.zeros(1, 2, 1, 1)
    y = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1)
    terms = reconstruction_terms(x, y, *NOTHING_HIDDEN)
    assert float(terms["l1"]) == 2.0
    assert float(terms["mean_l1"]) == 2.0  # |mean of 3 and 1|
    assert float(terms["residual_l1"]) == 1.0  # mean of |3 - 2| and |1 - 2|


def test_decorrelation_is_one_minus_the_correlation_over_channels():
    x, y = torch.randn(2, 19, 4, 6), torch.randn(2, 19, 4, 6)
    shown = torch.zeros(2, 19, dtype=torch.bool), torch.zeros(2, 6, dtype=torch.bool)
    expected = torch.stack(
        [
            1 - torch.corrcoef(torch.stack([x[b, :, f, t], y[b, :, f, t]]))[0, 1]
            for b in range(2) for f in range(4) for t in range(6)
        ]
    ).mean()  # fmt: skip
    torch.testing.assert_close(reconstruction_terms(x, y, *shown)["decorrelation"], expected)
    assert float(reconstruction_terms(x, 3 * x + 5, *shown)["decorrelation"]) < 1e-5


def test_moments_see_a_shift_and_a_loss_of_spread_over_time():
    x = torch.randn(1, 2, 3, 400)
    shown = torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 400, dtype=torch.bool)
    flat = x.mean(-1, keepdim=True).expand_as(x)
    assert float(reconstruction_terms(x, x + 0.5, *shown)["moments"]) == pytest.approx(
        0.5, abs=1e-4
    )
    lost = reconstruction_terms(x, flat, *shown)["moments"]
    torch.testing.assert_close(lost, x.std(-1, correction=0).mean(), atol=2e-3, rtol=0)


def test_masked_channels_and_frames_add_nothing_to_any_term():
    x, y = torch.randn(2, 19, 8, 10), torch.randn(2, 19, 8, 10)
    channel_mask, time_mask = hidden()
    before = reconstruction_terms(x, y, channel_mask, time_mask)
    where = channel_mask[:, :, None, None] | time_mask[:, None, None]
    for poison in (1e6, float("nan")):
        after = reconstruction_terms(x, torch.where(where, poison, y), channel_mask, time_mask)
        assert after == before


def test_nothing_visible_is_a_loss_of_zero():
    x = torch.randn(1, 19, 8, 10)
    all_hidden = torch.ones(1, 19, dtype=torch.bool), torch.ones(1, 10, dtype=torch.bool)
    assert {float(v) for v in reconstruction_terms(x, x + 1, *all_hidden).values()} == {0.0}


def test_a_single_channel_has_no_residual_and_finite_gradients():
    x = torch.randn(1, 19, 8, 10)
    y = torch.randn(1, 19, 8, 10, requires_grad=True)
    one = torch.ones(1, 19, dtype=torch.bool)
    one[0, 3] = False
    terms = reconstruction_terms(x, y, one, torch.zeros(1, 10, dtype=torch.bool))
    assert float(terms["residual_l1"].detach()) == 0.0
    sum(terms.values()).backward()
    assert y.grad.isfinite().all()


def batch(n=4, n_frames=160):
    # Blocks of 16 bins by 20 frames, on or off, alike in all channels of a window.
    blocks = torch.randn(n, 1, 8, n_frames // 20, generator=torch.Generator().manual_seed(0)).sign()
    return {
        "power_db": 10
        * blocks.repeat_interleave(16, 2).repeat_interleave(20, 3).expand(n, 19, -1, -1),
        "channel_mask": torch.zeros(n, 19, dtype=torch.bool),
        "time_mask": torch.zeros(n, n_frames, dtype=torch.bool),
    }


def test_training_lowers_the_loss_and_reaches_every_weight():
    torch.manual_seed(0)
    config = TokenizerLossConfig(adversary_from=0.5, adversary_width=8, moments_weight=0.1)
    objective = TokenizerObjective(SMALL, config, n_steps=60)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        result = objective.losses(batch(), torch.Generator().manual_seed(step))
        result["loss"].backward()
        if step == 31:  # at step 0 the zero-initialised convolutions block their branch
            missing = [n for n, p in objective.named_parameters() if not p.grad.any()]
            assert missing == ["model.missing"]  # no channel was hidden
        optimizer.step()
        losses.append(float(result["mean_l1"].detach() + result["residual_l1"].detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert bool(objective.model.quantiser.is_started)


def test_the_codebook_starts_after_the_continuous_share():
    objective = TokenizerObjective(
        SMALL, TokenizerLossConfig(continuous_share=0.3, adversarial_weight=0), n_steps=10
    )
    started = []
    for step in range(5):
        objective.losses(batch(), torch.Generator().manual_seed(step))
        started.append(bool(objective.model.quantiser.is_started))
    assert started == [False, False, False, True, True]


def playing(**changes):
    """An objective whose game has begun and whose codebook has started."""
    torch.manual_seed(0)
    config = TokenizerLossConfig(
        adversary_from=0, adversary_width=8, continuous_share=0, moments_weight=0.5, **changes
    )
    objective = TokenizerObjective(SMALL, config, n_steps=10)
    objective.losses(batch(), torch.Generator().manual_seed(0))
    return objective


def gradients(objective, loss):
    """(names with a gradient in the tokenizer, in the adversary)."""
    objective.zero_grad(set_to_none=True)
    loss.backward()
    named = [
        (n, p.grad is not None and bool(p.grad.any())) for n, p in objective.named_parameters()
    ]
    moved = [name for name, has in named if has]
    return (
        [name for name in moved if name.startswith("model.")],
        [name for name in moved if name.startswith("adversary.")],
    )


@pytest.mark.parametrize(("term", "side"), [("hinge", 1), ("adversarial", 0)])
def test_neither_side_of_the_game_moves_the_others_weights(term, side):
    objective = playing()
    terms = objective.losses(batch(), torch.Generator().manual_seed(1))
    moved = gradients(objective, terms[term])
    assert moved[side]
    assert not moved[1 - side]


def test_phases_tell_continuous_quantised_and_playing_apart():
    config = TokenizerLossConfig(adversary_from=0.5, adversary_width=8, continuous_share=0.2)
    objective = TokenizerObjective(SMALL, config, n_steps=10)
    phases = [objective.phase]
    for step in range(8):
        objective.losses(batch(), torch.Generator().manual_seed(step))
        phases.append(objective.phase)
    assert phases == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert objective.last_phase == 2


@pytest.mark.parametrize("changes", [{"adversarial_weight": 0}, {"adversary_from": 1}])
def test_training_without_an_adversary_ends_quantised(changes):
    config = TokenizerLossConfig(adversary_width=8, continuous_share=0, **changes)
    objective = TokenizerObjective(SMALL, config, n_steps=2)
    for step in range(2):
        objective.losses(batch(), torch.Generator().manual_seed(step))
    assert objective.phase == objective.last_phase == 1


GAME = {"adversarial", "hinge", "adaptive_weight"}


def test_the_adversary_plays_from_its_first_step_on_and_never_in_evaluation():
    config = TokenizerLossConfig(adversary_from=0.5, adversary_width=8, continuous_share=0)
    objective = TokenizerObjective(SMALL, config, n_steps=4)
    played = []
    for step in range(4):
        rng = torch.Generator().manual_seed(step)
        played.append(GAME & objective.train().losses(batch(), rng).keys())
        assert not GAME & objective.eval().losses(batch(), rng).keys()
    assert played == [set(), set(), GAME, GAME]


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("residual_weight", [None, 1.0, 4.0])
def test_the_loss_is_the_weighted_sum_of_its_terms(residual_weight, is_training):
    torch.manual_seed(0)
    config = TokenizerLossConfig(
        residual_weight=residual_weight, correlation_weight=0.3, moments_weight=0.7,
        commitment_weight=60.0, adversarial_weight=5.0, adversary_from=0, adversary_width=8,
        continuous_share=0,
    )  # fmt: skip
    objective = TokenizerObjective(SMALL, config, n_steps=10)
    # More latents than codes, all different, so that none is its code.
    b = batch()
    b["power_db"] = b["power_db"] + torch.randn(b["power_db"].shape)
    objective.losses(b, torch.Generator().manual_seed(0))
    losses = objective.train(is_training).losses(b, torch.Generator().manual_seed(1))
    terms = {name: float(value.detach()) for name, value in losses.items()}
    if residual_weight is None:
        parts = [terms["l1"]]
    else:
        parts = [terms["mean_l1"], residual_weight * terms["residual_l1"]]
    parts += [0.3 * terms["decorrelation"], 0.7 * terms["moments"], 60 * terms["commitment"]]
    if is_training:
        parts += [terms["hinge"], 5 * terms["adaptive_weight"] * terms["adversarial"]]
    assert min(abs(part) for part in parts) > 1e-3 * abs(terms["loss"])
    assert terms["loss"] == pytest.approx(sum(parts), rel=1e-5)


def rows(objective, b):
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    terms = objective.losses(b, torch.Generator().manual_seed(2))
    objective.load_state_dict(state)
    return {name: float(value.detach()) for name, value in terms.items()}


def test_what_is_hidden_adds_nothing_to_any_term_even_if_it_is_not_finite():
    objective, b = playing(), batch()
    b["channel_mask"][0, :7], b["time_mask"][1, 100:] = True, True
    poisoned = {**b, "power_db": b["power_db"].clone()}
    poisoned["power_db"][0, :7] = float("nan")
    poisoned["power_db"][1, :, :, 100:] = float("inf")
    assert rows(objective, poisoned) == rows(objective, b)


def test_a_window_with_nothing_visible_changes_no_term():
    objective, b = playing(), batch()
    nothing = {name: value[:1].clone() for name, value in b.items()}
    nothing["channel_mask"][:] = True
    more = {name: torch.cat([value, nothing[name]]) for name, value in b.items()}
    one, other = rows(objective, b), rows(objective, more)
    assert one.keys() == other.keys() > {"adversarial", "hinge", "adaptive_weight"}
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name


def test_frozen_scores_are_the_adversarys():
    torch.manual_seed(0)
    adversary, x = Discriminator(8), torch.randn(2, 19, 128, 160)
    assert torch.equal(adversary(x), adversary.frozen(x))
    assert adversary(x).shape == (2, 16, 20)


def test_a_discriminator_learns_to_tell_recorded_from_smoothed():
    torch.manual_seed(0)
    adversary = Discriminator(8)
    optimizer = torch.optim.Adam(adversary.parameters(), lr=1e-3)
    for _ in range(40):
        recorded = torch.randn(4, 19, 32, 40)
        smoothed = torch.nn.functional.avg_pool2d(recorded, 3, 1, 1)
        loss = hinge_terms(adversary(recorded), adversary(smoothed)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


def test_the_adaptive_weight_makes_both_gradients_alike():
    weight = adaptive_weight(torch.full((4,), 3.0), torch.full((4,), 0.5))
    assert float(weight) == pytest.approx(6.0, rel=1e-3)
    assert float(adaptive_weight(torch.ones(1), torch.zeros(1))) == 1e4
