import math
from dataclasses import replace

import pytest
import torch

from openclef.encoder.attention import NEAR, turned
from openclef.encoder.code_space import whitened
from openclef.encoder.masking import MaskingConfig, draw_masking, keep, mask_first
from openclef.encoder.objective import EncoderLossConfig, MaskedReconstruction
from openclef.encoder.pooling import check_layer, encode_and_pool
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer
from openclef.errors import OpenclefError
from openclef.recipes.recipe import changed

TINY = EncoderConfig(
    n_codes=16, grid=(1, 4, 8), width=16, n_heads=2, n_encoder_layers=2, n_decoder_layers=1
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MaskedTransformer(TINY).eval()


def tokens(rows=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        "ids": torch.randint(16, (rows, 32), generator=rng),
        "hidden": torch.zeros(rows, 32, dtype=torch.bool),
        "latents": torch.randn(rows, 32, 32, generator=rng),
        "patches": torch.randn(rows, 32, 32, generator=rng),
        "channel_mask": torch.rand(rows, 19, generator=rng) < 0.5,
        "hour": torch.tensor([3.5, float("nan")])[:rows],
    }


def made(**changes):
    torch.manual_seed(0)
    return MaskedTransformer(changed(TINY, **changes)).eval()


def masking_of(hidden, seed=0, **changes):
    return draw_masking(hidden, MaskingConfig(**changes), torch.Generator().manual_seed(seed))


def pooled(model, batch, **options):
    return encode_and_pool(model, batch["ids"], batch["hidden"], companions=batch, **options)


THREE = torch.arange(32)[None] < 3  # targets
EVERYTHING = {"use_channel_mask": True, "use_clock": True}
CENTRED = {"inputs": "patches", "patches": "centred"}
NEAR_TOO = {"inputs": "codes+patches", "patches": "centred", "positions": "rotary", "width": 32}
INPUTS = [
    *({"inputs": name} for name in ("codes", "codes+latents", "codes+patches", "patches")),
    CENTRED,
    NEAR_TOO,
]  # fmt: skip


@pytest.mark.parametrize("grid", [(1, 4, 8), (4, 2, 4)])
@pytest.mark.parametrize("fill", ["class", "mask"])
def test_scores_over_the_codes_for_masked_tokens_only_on_any_grid(grid, fill):
    batch = tokens()
    masking = masking_of(batch["hidden"])
    n_masked = int(masking.masked.sum())
    model = made(grid=grid, fill=fill)
    assert model(batch, masking).shape == (n_masked, 16)
    assert pooled(model, batch, how="rows").shape == (2, grid[0] * grid[1] * 16)
    assert pooled(model, batch, how="mean").shape == pooled(model, batch, how="class").shape


@pytest.mark.parametrize("drop_ratio", [0.5, 0.0])
@pytest.mark.parametrize("inputs", INPUTS)
def test_masked_tokens_cannot_be_seen(inputs, drop_ratio):
    """Neither their codes nor anything continuous of them, dropped or not."""
    model, batch = made(**inputs, **EVERYTHING), tokens()
    masking = masking_of(batch["hidden"], drop_ratio=drop_ratio)
    other = replaced(batch, masking.masked)
    torch.testing.assert_close(model(batch, masking), model(other, masking), rtol=0, atol=0)
    # And of what is shown, each kind of input that is read makes a difference.
    for name in ("ids", "latents", "patches"):
        seen = {**batch, name: replaced(batch, ~masking.masked)[name]}
        changes = not torch.allclose(model(batch, masking), model(seen, masking))
        is_read = name in inputs["inputs"] or (name == "ids" and "codes" in inputs["inputs"])
        assert changes == is_read, name


@pytest.mark.parametrize("inputs", INPUTS)
def test_hidden_tokens_cannot_be_seen(inputs):
    model, batch = made(**inputs), tokens()
    batch["hidden"][:, 20:] = True
    masking = masking_of(batch["hidden"])
    other = replaced(batch, batch["hidden"])
    torch.testing.assert_close(model(batch, masking), model(other, masking))


def replaced(batch, where):
    """Other tokens in places `[B, L]`."""
    return {
        **batch,
        "ids": torch.where(where, (batch["ids"] + 1) % 16, batch["ids"]),
        "latents": torch.where(where[..., None], -batch["latents"] - 1, batch["latents"]),
        "patches": torch.where(where[..., None], -batch["patches"] - 1, batch["patches"]),
    }


@pytest.mark.parametrize("name", ["channel_mask", "hour"])
def test_what_holds_for_the_window_is_read_if_told_so(name):
    other = {"channel_mask": ~tokens()["channel_mask"], "hour": torch.tensor([15.5, 1.0])}[name]
    batch = tokens()
    for model, is_read in ((made(**EVERYTHING), True), (made(), False)):
        one = pooled(model, batch, how="mean")
        two = pooled(model, {**batch, name: other}, how="mean")
        for row in range(2):
            assert (not torch.allclose(one[row], two[row])) == is_read


def test_midnight_is_near_to_midnight():
    clock = made(**EVERYTHING).clock
    late, early, noon = clock(torch.tensor([23.99, 0.01, 12.0]))
    assert torch.dist(late, early) < 0.01 * torch.dist(late, noon)


@pytest.mark.parametrize("inputs", INPUTS)
def test_a_short_row_in_a_batch_is_as_if_alone(inputs):
    model, batch = made(**inputs), tokens()
    batch["hidden"][1, 12:] = True
    alone = {name: value[1:] for name, value in batch.items()}
    for how in ("rows", "moments", "mean", "class"):
        together = pooled(model, batch, how=how)
        torch.testing.assert_close(together[1:], pooled(model, alone, how=how))


def test_key_padding_equals_truncation():
    """Encoding with padding in the batch gives what the visible tokens alone give."""
    model, batch = made(), tokens()
    batch["hidden"][:, 20:] = True
    every = torch.arange(32).expand(2, -1)
    padded = model.encode(batch, every, batch["hidden"])
    cut = model.encode(batch, every[:, :20], batch["hidden"][:, :20])
    torch.testing.assert_close(padded[:, :21], cut)


def test_layers_of_an_encoder_are_those_of_a_shallower_one():
    deep, batch = made(n_encoder_layers=3), tokens()
    shallow = made(n_encoder_layers=2)
    weights = {n: v for n, v in deep.state_dict().items() if not n.startswith("encoder.2.")}
    shallow.load_state_dict(weights)
    one = deep.encode(batch, *keep(batch["hidden"]), layer=1)
    two = shallow.encode(batch, *keep(batch["hidden"]))
    torch.testing.assert_close(deep.encoder_norm(one), two)
    with pytest.raises(OpenclefError, match=r"layer 3: the encoder has 0 to 2, .*; nearest 2"):
        check_layer(deep, 3)
    with pytest.raises(OpenclefError, match=r"nearest -1"):
        check_layer(deep, -4)


@pytest.mark.parametrize("config", [{}, {"width": 32, "positions": "rotary"}])
def test_checkpointed_activations_change_nothing(config):
    batch = tokens()
    masking = masking_of(batch["hidden"])
    gradients = []
    for again in (False, True):
        model = made(**config, checkpoint_activations=again).train()
        torch.manual_seed(1)
        model(batch, masking).square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_learned_mask_token_replaces_the_class_token_as_filling():
    batch = tokens(rows=1)
    model = made(fill="mask")
    masking = masking_of(batch["hidden"])
    model(batch, masking).sum().backward()
    assert model.decoder_mask.grad.abs().sum() > 0
    assert "decoder_mask" not in dict(made().named_parameters())


def test_dropped_and_masked_positions_are_filled_from_the_class_token(model):
    """With the class token's output cut off, the decoder knows masked places by position only."""
    batch = tokens(rows=1)
    hidden = batch["hidden"]
    masking = masking_of(hidden)
    encoded = model.encode(batch, masking.kept, masking.kept_hidden, masked_BL=masking.masked)
    changed = encoded.clone()
    changed[:, 0] += 1.0
    one, other = (model.decode(e, masking, hidden) for e in (encoded, changed))
    assert not torch.allclose(one, other)


def test_output_table_is_tied_but_detached():
    objective = MaskedReconstruction(TINY, EncoderLossConfig())
    model = objective.model
    decoded = torch.randn(3, 16)
    model.logits(decoded, THREE).sum().backward()
    assert model.tokens.weight.grad is None
    assert model.code_bias.grad is not None


def test_the_output_table_learns_where_codes_are_no_input():
    model = made(inputs="patches")
    model.logits(torch.randn(3, 16), THREE).sum().backward()
    assert model.tokens.weight.grad.abs().sum() > 0


def test_mean_pooling_is_the_mean_of_visible_token_features(model):
    batch = tokens()
    batch["hidden"][0, 5:] = True
    found = pooled(model, batch, how="mean")
    features = model.encode(batch, *keep(batch["hidden"]))[:, 1:]
    torch.testing.assert_close(found[0], features[0, :5].mean(0))
    torch.testing.assert_close(found[1], features[1].mean(0))


def test_rows_pooling_keeps_frequency_rows_apart(model):
    batch = tokens(rows=1)
    batch["hidden"][0, 24:] = True  # the last row of the grid
    found = pooled(model, batch, how="rows").view(4, 16)
    features = model.encode(batch, *keep(batch["hidden"]))[0, 1:]
    torch.testing.assert_close(found[1], features[8:16].mean(0))
    assert not found[3].any()


def test_moments_are_of_each_row_over_time(model):
    batch = tokens(rows=1)
    batch["hidden"][0, 20:] = True  # half of the third row, and the fourth
    found = pooled(model, batch, how="moments").view(2, 4, 16)
    features = model.encode(batch, *keep(batch["hidden"]))[0, 1:]
    torch.testing.assert_close(
        found[:, 1, :], torch.stack([features[8:16].mean(0), features[8:16].std(0, correction=0)])
    )
    torch.testing.assert_close(found[1, 2], features[16:20].std(0, correction=0))
    assert not found[:, 3].any()


def test_centred_patches_are_deviations_from_the_mean_of_what_is_shown_of_their_row():
    model, batch = made(**CENTRED), tokens(rows=1)
    batch["hidden"][0, 30:] = True
    batch["patches"] *= 0.2
    batch["patches"][0, 5, 0], batch["patches"][0, 6, 0] = 900.0, -900.0  # loose electrodes
    masking = masking_of(batch["hidden"])
    found = model.patch_targets(batch, masking)
    near = batch["patches"].clamp(-4, 4)[0].view(4, 8, 32)
    shown = (~masking.masked & ~batch["hidden"])[0].view(4, 8)
    for row, column in torch.argwhere(masking.targets[0].view(4, 8)).tolist():
        mean = near[row][shown[row]].mean(0) if shown[row].any() else torch.zeros(32)
        torch.testing.assert_close(found[0], near[row, column] - mean)
        found = found[1:]
    assert not len(found)


def test_what_a_row_is_like_on_average_is_told_apart_from_its_deviations():
    model, batch = made(**CENTRED), tokens(rows=1)
    batch["patches"] *= 0.2
    masking = masking_of(batch["hidden"])
    higher = {**batch, "patches": batch["patches"] + torch.rand(4).repeat_interleave(8)[:, None]}
    one, other = (model.patch_targets(b, masking) for b in (batch, higher))
    # A row of which nothing is shown has no mean to deviate from.
    shown = (~masking.masked)[0].view(4, 8).any(1).repeat_interleave(8)[masking.targets[0]]
    torch.testing.assert_close(one[shown], other[shown], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        *(pooled(model, b, how="mean") for b in (batch, higher)), rtol=1e-2, atol=1e-2
    )
    model.row_levels.weight.data.zero_()
    torch.testing.assert_close(
        *(pooled(model, b, how="mean") for b in (batch, higher)), rtol=1e-4, atol=1e-5
    )


def rotary(**changes):
    return made(**{"width": 32, "positions": "rotary", **changes})


def test_rotary_attention_knows_of_time_only_how_far_apart_tokens_are():
    batch = tokens(rows=1)
    model = rotary()
    columns = torch.arange(32)[None] % 8
    early, late = (keep((columns < first) | (columns >= first + 5)) for first in (0, 3))
    # The same tokens three columns later, and then in another order.
    moved = {name: value.clone() for name, value in batch.items()}
    moved["ids"][0, late[0][0]] = batch["ids"][0, early[0][0]]
    encoded = model.encode(batch, *early)
    torch.testing.assert_close(encoded, model.encode(moved, *late), rtol=1e-4, atol=1e-5)
    moved["ids"][0, late[0][0]] = batch["ids"][0, early[0][0].flip(0)]
    assert not torch.allclose(encoded, model.encode(moved, *late), rtol=1e-2, atol=1e-2)


def test_the_decoder_knows_how_far_what_it_fills_in_is_from_what_is_shown():
    """Two masked tokens of one row, filled alike, differ by where they are, and only by that."""
    model, batch = rotary(grid=(1, 1, 32)), tokens(rows=1)
    hidden = batch["hidden"]

    def decoded(shown, targets):
        noise = torch.zeros(1, 32)
        noise[0, shown] = 1.0
        masking = mask_first(hidden, noise, ratio=31 / 32, drop_ratio=31 / 32)
        masking = replace(masking, targets=torch.zeros(1, 32, dtype=torch.bool))
        masking.targets[0, targets] = True
        moved = {**batch, "ids": torch.full((1, 32), 5)}
        encoded = model.encode(moved, masking.kept, masking.kept_hidden, masked_BL=masking.masked)
        return model.decode(encoded, masking, hidden)

    near, far = decoded(8, [9, 20])
    assert torch.dist(near, far) > 1e-3
    torch.testing.assert_close(decoded(8, [9, 20]), decoded(11, [12, 23]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head_width", [16, 32, 64])
@pytest.mark.parametrize("grid", [(2, 4, 32), (1, 8, 256), (4, 8, 64), (2, 8, 128)])
def test_rotary_attention_starts_near_and_the_class_token_has_no_place(grid, head_width):
    n = math.prod(grid)
    model = rotary(grid=grid, width=2 * head_width)
    block, turns = model.encoder[0], model.rotation(torch.arange(n)[None])
    q, k = (
        turned(t.expand(1, 2, n + 1, head_width), turns)
        for t in block.qkv.bias.detach().view(3, 2, 1, head_width)[:2]
    )
    first, last = (q @ k.mT)[0] / head_width**0.5
    assert not last.any()
    assert not first[0].any()
    assert not first[:, 0].any()
    scores = first[1:, 1:].view(*grid, *grid)
    at = scores[0, 1, 10]
    own = at[0, 1, 10]
    assert own == pytest.approx(sum(NEAR), rel=1e-4)
    assert own > at[0, 1, 11] > at[0, 1, 12] > at[0, 1, 20]
    rows = torch.cat([at[0, :1, 10], at[0, 2:, 10]])
    assert rows[:2].min() > rows.max() - 1e-4  # none is nearer than the next ones
    assert own - rows.max() > 0.3
    regions = at[1:, 1, 10]
    if len(regions):
        assert own - regions.max() > 0.999
        # They have no order.
        assert regions.max() - regions.min() < (0.501 if head_width > 16 else 1.001)
    torch.testing.assert_close(at[:, 3, 12], scores[0, 1, 20, :, 3, 22], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_decoder_starts_by_passing_on_what_it_attends_to():
    """Or masked tokens would start with next to nothing of those near them."""
    model = rotary(grid=(1, 4, 8), width=32)
    x = torch.randn(1, 33, 32)
    passed = {}
    for name, block in (("decoder", model.decoder[0]), ("encoder", model.encoder[0])):
        block.qkv.bias.zero_()
        block.qkv.weight[:64] = 0.0  # attend to all alike
        block.mlp[2].weight.zero_()
        passed[name] = block(x, None, None) - x
    mean = model.decoder[0].norm1(x).mean(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(passed["decoder"], mean, rtol=1e-4, atol=1e-5)
    assert passed["encoder"].norm() < 0.1 * mean.norm()


def test_centred_patches_are_of_encoders_that_read_them():
    with pytest.raises(ValueError, match=r"patches='centred' is .* this one reads codes"):
        EncoderConfig(patches="centred")


def test_data_are_not_rounded_where_training_is():
    model, batch = made(**CENTRED), tokens()
    masking = masking_of(batch["hidden"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.patch_targets(batch, masking)
    torch.testing.assert_close(rounded, model.patch_targets(batch, masking), rtol=0, atol=0)


def test_the_loss_of_centred_patches_is_of_their_deviations():
    loss = EncoderLossConfig(code_weight=0, patch_weight=1, n_directions=3)
    objective = MaskedReconstruction(changed(TINY, **CENTRED), loss).eval()
    objective.heads["patches"].weight.data.zero_()
    objective.heads["patches"].bias.data.zero_()
    batch = tokens()
    found = objective.losses(batch, torch.Generator().manual_seed(0))["patches"]
    masking = masking_of(batch["hidden"])
    deviations = objective.model.patch_targets(batch, masking)[:, :3]
    expected = torch.nn.functional.smooth_l1_loss(deviations, torch.zeros_like(deviations))
    torch.testing.assert_close(found, expected)


def test_heads_that_cannot_be_turned_are_refused():
    with pytest.raises(ValueError, match="as wide as a multiple of 16, not 8"):
        EncoderConfig(width=16, n_heads=2, positions="rotary")


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="n_heads 3 does not divide width 16"):
        EncoderConfig(width=16, n_heads=3)


def test_gradients_repeat_bit_for_bit_at_full_size_and_on_several_threads():
    """Sums over duplicate indices are split among threads only when they are large."""
    config = EncoderConfig(
        n_codes=1024, width=128, n_heads=2, n_encoder_layers=1, n_decoder_layers=1
    )
    torch.manual_seed(0)
    objective = MaskedReconstruction(config, EncoderLossConfig())
    ids = torch.randint(1024, (4, 2048))
    batch = {"ids": ids, "hidden": torch.zeros_like(ids, dtype=torch.bool)}

    def gradients():
        objective.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = objective.losses(batch, torch.Generator().manual_seed(2))["loss"]
        loss.backward()
        return [p.grad.clone() for p in objective.parameters()]

    torch.set_num_threads(2)
    try:
        first = gradients()
        for _ in range(10):
            assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
    finally:
        torch.set_num_threads(1)


def with_vectors(vectors, counts, **changes):
    model = made(n_codes=len(vectors), latent_dim=vectors.shape[1], codes="vectors", **changes)
    model.start_codes(counts, vectors)
    return model


def test_codes_that_are_vectors_start_at_the_frequencies_of_each_line():
    rng = torch.Generator().manual_seed(1)
    counts = torch.randint(100, (4, 16), generator=rng)
    model = with_vectors(torch.randn(16, 3, generator=rng), counts)
    batch = tokens()
    masking = masking_of(batch["hidden"])
    found = model(batch, masking).softmax(-1)
    line = masking.targets.nonzero()[:, 1] // 8
    expected = (counts + 1) / (counts + 1).sum(1, keepdim=True)
    torch.testing.assert_close(found, expected[line], rtol=1e-4, atol=0)


def test_a_density_about_any_vector_can_be_said():
    """What linear and squared terms are for: the score falls with the distance from a latent."""
    vectors = torch.randn(300, 2, generator=torch.Generator().manual_seed(1))
    counts = torch.ones(4, 300)
    model = with_vectors(vectors, counts)
    at = whitened(vectors, counts.sum(0))
    space = model.code_space
    centre = torch.tensor([0.7, -0.4])
    space.to_terms.bias.data = torch.cat([8 * centre, torch.full((2,), -4.0)])
    space.volume.data.zero_()
    scores = space(torch.zeros(1, 16), torch.tensor([0]))[0]
    distance = (at - centre).square().sum(1)
    torch.testing.assert_close(scores - scores.max(), -4 * (distance - distance.min()))


def test_vectors_are_white_over_their_use_and_outliers_stay_near():
    rng = torch.Generator().manual_seed(1)
    vectors = torch.randn(500, 3, generator=rng) * torch.tensor([1.0, 30.0, 0.02]) + 5
    vectors[:, 2] = 0.3  # no code differs in it
    counts = torch.randint(1, 50, (500,), generator=rng)
    vectors[0], counts[0] = torch.tensor([1e6, 0, 0.3]), 0
    at = whitened(vectors[1:], counts[1:])
    shares = (counts[1:] + 1) / (counts[1:] + 1).sum()
    covariance = (shares[:, None] * at).T @ at
    assert torch.linalg.eigvalsh(covariance)[1:] == pytest.approx([1, 1], abs=0.03)
    assert torch.linalg.eigvalsh(covariance)[0] == pytest.approx(0, abs=1e-6)
    assert whitened(vectors, counts)[0].abs().max() == 5


def test_embeddings_of_vectors_keep_who_is_near_whom_and_are_as_long_as_random_ones():
    vectors = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    model = with_vectors(vectors, torch.full((4, 400), 5), width=256)
    table = model.tokens.weight[:400].detach()
    assert table.square().sum(1).mean() == pytest.approx(1, rel=0.15)
    near, far = (torch.cdist(x, x).flatten() for x in (vectors, table))
    assert torch.corrcoef(torch.stack([near, far]))[0, 1] > 0.6
    plain = made(n_codes=400, width=256)
    assert torch.equal(model.tokens.weight[400], plain.tokens.weight[400])
    assert torch.equal(model.encoder[0].qkv.weight, plain.encoder[0].qkv.weight)


def test_codes_that_are_vectors_need_them():
    with pytest.raises(ValueError, match="give those of the tokenizer"):
        made(codes="vectors").start_codes(torch.ones(4, 16))


@pytest.mark.parametrize(
    "option",
    [{"inputs": "codes+latents"}, {"inputs": "codes+patches"}, {"use_channel_mask": True},
     {"use_clock": True}, {"fill": "mask"}, {"codes": "vectors"},
     {"width": 32, "positions": "rotary"}, CENTRED],
)  # fmt: skip
def test_what_is_optional_changes_no_other_start(option):
    plain, other = made(width=option.get("width", 16)).state_dict(), made(**option).state_dict()
    shared = plain.keys() & other.keys()
    # Starts attention near, by the biases of queries and keys, and the decoder copying.
    is_rotary = "positions" in option
    moved = {name for name in shared if "qkv.bias" in name}
    moved |= {"decoder.0.qkv.weight", "decoder.0.out.weight"}
    # The bias of names; learned columns of encoder and decoder.
    assert len(plain.keys() - shared) == (1 if "codes" in option else 2 if is_rotary else 0)
    assert is_rotary or len(other.keys() - shared) > 0
    differ = {name for name in shared if not torch.equal(plain[name], other[name])}
    assert differ == (moved if is_rotary else set())


def test_moments_have_a_gradient_where_nothing_varies():
    """Of a row with one visible token, or none, the root of its variance has no slope."""
    model, batch = made(), tokens()
    batch["hidden"][:] = True
    batch["hidden"][0, [3, 8, 9]] = False  # one of the first row, two of the second
    batch["hidden"][1, 0] = False
    vectors = pooled(model, batch, how="moments")
    vectors.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.tokens.weight.grad.any()
