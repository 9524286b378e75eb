import pytest
import torch

from openclef.encoder.embed import encode_and_pool
from openclef.encoder.masking import MaskingConfig, draw_masking, keep
from openclef.encoder.objective import EncoderLossConfig, MaskedReconstruction
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer

TINY = EncoderConfig(
    n_codes=16, grid=(1, 4, 8), width=16, n_heads=2, n_encoder_layers=2, n_decoder_layers=1
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MaskedTransformer(TINY).eval()


def tokens(rows=2, seed=0):
    ids = torch.randint(16, (rows, 32), generator=torch.Generator().manual_seed(seed))
    return ids, torch.zeros(rows, 32, dtype=torch.bool)


def masking_of(hidden, seed=0):
    return draw_masking(hidden, MaskingConfig(), torch.Generator().manual_seed(seed))


def test_the_papers_sizes():
    """12 + 8 layers at width 256, 512, 768 are about 17, 66 and 148 M (paper.md, Encoder [I])."""
    for width, heads, millions in ((256, 4, 18.0), (512, 8, 67.5), (768, 12, 148.5)):
        with torch.device("meta"):
            model = MaskedTransformer(EncoderConfig(width=width, n_heads=heads))
        n_parameters = sum(p.numel() for p in model.parameters())
        assert n_parameters / 1e6 == pytest.approx(millions, rel=0.08)


def test_scores_over_the_codes_for_masked_tokens_only(model):
    ids, hidden = tokens()
    masking = masking_of(hidden)
    assert model(ids, hidden, masking).shape == (int(masking.masked.sum()), 16)


def test_masked_codes_cannot_be_seen(model):
    ids, hidden = tokens()
    masking = masking_of(hidden)
    other = torch.where(masking.masked, (ids + 1) % 16, ids)
    torch.testing.assert_close(model(ids, hidden, masking), model(other, hidden, masking))


def test_hidden_tokens_cannot_be_seen(model):
    ids, hidden = tokens()
    hidden[:, 20:] = True
    masking = masking_of(hidden)
    other = torch.where(hidden, (ids + 1) % 16, ids)
    torch.testing.assert_close(model(ids, hidden, masking), model(other, hidden, masking))


def test_a_short_row_in_a_batch_is_as_if_alone(model):
    ids, hidden = tokens()
    hidden[1, 12:] = True
    together = encode_and_pool(model, ids, hidden, how="rows")
    alone = encode_and_pool(model, ids[1:], hidden[1:], how="rows")
    torch.testing.assert_close(together[1:], alone)


def test_dropped_and_masked_positions_are_filled_from_the_class_token(model):
    """With the class token's output cut off, the decoder knows masked places by position only."""
    ids, hidden = tokens(rows=1)
    masking = masking_of(hidden)
    encoded = model.encode(
        ids.masked_fill(masking.masked, model.mask_id), masking.kept, masking.kept_hidden
    )
    changed = encoded.clone()
    changed[:, 0] += 1.0
    one, other = (model.decode(e, masking, hidden) for e in (encoded, changed))
    assert not torch.allclose(one, other)


def test_output_table_is_tied_but_detached():
    objective = MaskedReconstruction(TINY, EncoderLossConfig())
    model = objective.model
    decoded = torch.randn(3, 16)
    model.logits(decoded).sum().backward()
    assert model.tokens.weight.grad is None
    assert model.code_bias.grad is not None


def test_mean_pooling_is_the_mean_of_visible_token_features(model):
    ids, hidden = tokens()
    hidden[0, 5:] = True
    pooled = encode_and_pool(model, ids, hidden, how="mean")
    kept, kept_hidden = keep(hidden)
    features = model.encode(ids, kept, kept_hidden)[:, 1:]
    torch.testing.assert_close(pooled[0], features[0, :5].mean(0))
    torch.testing.assert_close(pooled[1], features[1].mean(0))


def test_rows_pooling_keeps_frequency_rows_apart(model):
    ids, hidden = tokens(rows=1)
    hidden[0, 24:] = True  # the last row of the grid
    pooled = encode_and_pool(model, ids, hidden, how="rows").view(4, 16)
    kept, kept_hidden = keep(hidden)
    features = model.encode(ids, kept, kept_hidden)[0, 1:]
    torch.testing.assert_close(pooled[1], features[8:16].mean(0))
    assert not pooled[3].any()


def test_training_learns_a_row_pattern():
    torch.manual_seed(0)
    objective = MaskedReconstruction(TINY.model_copy(update={"dropout": 0.0}), EncoderLossConfig())
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    ids = torch.arange(4).repeat_interleave(8).expand(8, -1)  # each row of the grid has its code
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    for step in range(60):
        optimizer.zero_grad()
        result = objective.losses(
            {"ids": ids, "hidden": hidden}, torch.Generator().manual_seed(step)
        )
        result["loss"].backward()
        optimizer.step()
    assert float(result["accuracy"]) == 1.0
    assert float(result["cross_entropy"]) < 0.5


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
