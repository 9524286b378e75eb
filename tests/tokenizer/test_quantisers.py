import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from vector_quantize_pytorch import FSQ, ResidualVQ

from openclef.tokenizer.quantisers import (
    EmaConfig,
    FsqConfig,
    ProductConfig,
    QuantiserConfig,
    ResidualConfig,
    make_quantiser,
)

LEARNED = [
    EmaConfig(n_codes=32, code_dim=6, decay=0.9),
    ResidualConfig(n_codes=32, code_dim=6, decay=0.9),
    ProductConfig(n_codes=32, code_dim=6, decay=0.9, n_quantisers=3),
    EmaConfig(n_codes=32, code_dim=6, decay=0.9, metric="euclidean"),
]
EVERY = [*LEARNED, FsqConfig(levels=(8, 5, 4))]
every = pytest.mark.parametrize("config", EVERY, ids=lambda config: config.kind)
learned = pytest.mark.parametrize("config", LEARNED, ids=lambda config: config.kind)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def ids_of(quantiser, z):
    return quantiser.encode(z, torch.ones(z.shape[:-1], dtype=torch.bool))


def started(config):
    quantiser = make_quantiser(config)
    quantiser.start(normal(400, config.code_dim, seed=7), rng())
    return quantiser


@pytest.mark.parametrize(("metric", "n_different"), [("cosine", 1), ("euclidean", 3)])
def test_the_length_of_a_latent_counts_by_distance_alone(metric, n_different):
    quantiser = make_quantiser(EmaConfig(n_codes=3, code_dim=6, metric=metric))
    lengths = torch.tensor([[1.0], [2.0], [4.0]])
    z = lengths * normal(1, 6)
    quantiser.start(z, rng())
    assert len(ids_of(quantiser, z).unique()) == n_different


def state(quantiser):
    return {name: value.clone() for name, value in quantiser.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@every
def test_shapes_and_types(config):
    z = normal(2, 3, 4, config.code_dim).bfloat16()
    codes, ids, commitment = started(config)(z, torch.ones(2, 3, 4, dtype=torch.bool), rng())
    assert (codes.shape, codes.dtype) == (z.shape, torch.float32)
    assert (ids.shape, ids.dtype) == ((2, 3, 4, config.n_quantisers), torch.int64)
    assert (commitment.shape, commitment.dtype) == ((2, 3, 4), torch.float32)
    assert 0 <= ids.min() <= ids.max() < config.n_codes


@every
def test_what_is_decoded_is_what_the_decoder_was_trained_with(config):
    quantiser, z = started(config).eval(), normal(50, config.code_dim)
    before = state(quantiser)
    quantised = quantiser(z, torch.ones(50, dtype=torch.bool), rng())
    assert torch.equal(ids_of(quantiser, z), quantised.ids)
    assert torch.equal(quantiser.decode(quantised.ids), quantised.codes)
    assert same(before, state(quantiser))  # evaluation moves nothing


@every
def test_a_step_reads_the_codes_as_they_were_before_it(config):
    quantiser, z = started(config), normal(50, config.code_dim)
    ids, codes = ids_of(quantiser, z), quantiser.decode(ids_of(quantiser, z))
    quantised = quantiser(z, torch.ones(50, dtype=torch.bool), rng())
    assert torch.equal(quantised.ids, ids)
    assert torch.equal(quantised.codes, codes)


@every
def test_gradients_pass_straight_to_the_normalised_latent(config):
    quantiser, z = started(config), normal(50, config.code_dim).requires_grad_()
    weights = normal(50, config.code_dim, seed=1)
    quantised = quantiser(z, torch.ones(50, dtype=torch.bool), rng())
    (through,) = torch.autograd.grad((quantised.codes * weights).sum(), z)
    (expected,) = torch.autograd.grad((quantiser.continuous(z) * weights).sum(), z)
    assert torch.equal(through, expected)
    assert through.any()


@learned
def test_commitment_pulls_the_latent_to_its_code(config):
    quantiser, z = started(config).eval(), normal(50, config.code_dim).requires_grad_()
    quantised = quantiser(z, torch.ones(50, dtype=torch.bool), rng())
    latent = quantiser.continuous(z)
    expected = F.mse_loss(quantised.codes.detach(), latent, reduction="none").mean(-1)
    torch.testing.assert_close(quantised.commitment, expected)
    (gradient,) = torch.autograd.grad(quantised.commitment.sum(), z)
    with torch.no_grad():
        closer = (quantised.codes - quantiser.continuous(z - 0.1 * gradient)).square().mean(-1)
    assert closer.sum() < expected.sum()


@learned
def test_hidden_latents_change_nothing(config):
    one, other = started(config), started(config)
    z, visible = normal(60, config.code_dim), torch.arange(60) % 3 > 0
    for seed in range(30):
        one(z, visible, rng(seed))
        other(torch.where(visible[:, None], z, 1e3 * normal(60, 1, seed=9)), visible, rng(seed))
    assert same(state(one), state(other))


@learned
def test_nothing_visible_changes_nothing(config):
    quantiser = started(config)
    before = state(quantiser)
    quantiser(normal(10, config.code_dim), torch.zeros(10, dtype=torch.bool), rng())
    assert same(before, state(quantiser))


@learned
def test_training_before_the_start_is_refused(config):
    quantiser, z = make_quantiser(config), normal(9, config.code_dim)
    with pytest.raises(RuntimeError, match="call start"):
        quantiser(z, torch.ones(9, dtype=torch.bool), rng())
    assert quantiser.eval()(z, torch.ones(9, dtype=torch.bool), rng()).ids.shape[0] == 9
    loaded = make_quantiser(config)
    loaded.load_state_dict(started(config).state_dict())
    loaded(z, torch.ones(9, dtype=torch.bool), rng())


@learned
def test_training_follows_the_latents(config):
    quantiser, visible = started(config), torch.ones(400, dtype=torch.bool)

    def error(seed):
        z = normal(400, config.code_dim, seed=seed) * 0.3 + 1
        latent = quantiser.continuous(z)
        before = (latent - quantiser.decode(ids_of(quantiser, z))).square().mean()
        quantiser(z, visible, rng(seed))
        return float(before)

    errors = [error(seed) for seed in range(60)]
    assert sum(errors[-5:]) < 0.5 * sum(errors[:5])


@every
@pytest.mark.parametrize("value", [0.0, 1.0, 1e6])
def test_collapsed_latents_give_no_nan(config, value):
    quantiser = make_quantiser(config)
    z = torch.full((40, config.code_dim), value, requires_grad=True)
    quantiser.start(z.detach(), rng())
    for seed in range(30):
        quantised = quantiser(z, torch.ones(40, dtype=torch.bool), rng(seed))
    (quantised.codes.square().sum() + quantised.commitment.sum()).backward()
    assert quantised.codes.isfinite().all()
    assert z.grad.isfinite().all()
    assert all(value.isfinite().all() for value in quantiser.state_dict().values())


# The others do not divide by the length.
@pytest.mark.parametrize("config", [LEARNED[0], LEARNED[2]], ids=lambda config: config.kind)
def test_a_vanishing_latent_has_no_exploding_gradient(config):
    z = (1e-9 * normal(20, config.code_dim)).requires_grad_()
    (gradient,) = torch.autograd.grad(make_quantiser(config).continuous(z).sum(), z)
    assert gradient.abs().max() < 1001


def test_ema_codes_are_the_most_similar_unit_vectors():
    quantiser, z = started(LEARNED[0]).eval(), normal(50, 6)
    codes = quantiser.books[0].codes
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(32))
    expected = F.cosine_similarity(z[:, None], codes, dim=-1).argmax(-1)
    assert torch.equal(ids_of(quantiser, z)[:, 0], expected)


def test_product_quantises_each_part_by_itself():
    quantiser, z = started(LEARNED[2]).eval(), normal(50, 6)
    for part, book in enumerate(quantiser.books):
        own = slice(2 * part, 2 * part + 2)
        expected = F.cosine_similarity(z[:, None, own], book.codes, dim=-1).argmax(-1)
        assert torch.equal(ids_of(quantiser, z)[:, part], expected)
        assert torch.equal(quantiser.decode(ids_of(quantiser, z))[:, own], book.codes[expected])


def test_each_residual_code_lessens_the_error():
    quantiser, z = started(LEARNED[1]), normal(400, 6)
    first, second = quantiser.books
    ids = ids_of(quantiser, z)
    one = (z - first.codes[ids[:, 0]]).square().mean()
    both = (z - quantiser.decode(ids)).square().mean()
    assert torch.equal(ids[:, 1], second.nearest(z - first.codes[ids[:, 0]]))
    assert both < 0.75 * one


def test_residual_is_that_of_vector_quantize_pytorch():
    config = ResidualConfig(n_codes=16, code_dim=6, decay=0.8, n_quantisers=3, restart_below=0.0)
    quantiser = started(config)
    oracle = ResidualVQ(  # eps: its Laplace smoothing of the counts, which we do not have
        dim=6, num_quantizers=3, codebook_size=16, decay=0.8, eps=0.0, threshold_ema_dead_code=0,
        rotation_trick=False,
    )  # fmt: skip
    for layer, book in zip(oracle.layers, quantiser.books, strict=True):
        layer._codebook.embed.copy_(book.codes[None])
        layer._codebook.embed_avg.copy_(book.sums[None])
        layer._codebook.cluster_size.copy_(book.usage[None])
    for seed in range(10):
        z = normal(300, 6, seed=seed)
        codes, ids, _ = oracle(z[None])
        quantised = quantiser(z, torch.ones(300, dtype=torch.bool), rng())
        assert torch.equal(quantised.ids, ids[0])
        torch.testing.assert_close(quantised.codes, codes[0].detach())


@pytest.mark.parametrize("levels", [(8, 8, 8, 4, 4), (8, 5, 5, 5), (3, 7, 16)])
def test_fsq_is_that_of_vector_quantize_pytorch(levels):
    quantiser, oracle = make_quantiser(FsqConfig(levels=levels)), FSQ(list(levels))
    z = 2 * normal(2000, len(levels))
    z.requires_grad_()
    quantised = quantiser(z, torch.ones(2000, dtype=torch.bool), rng())
    codes, ids = oracle(z[None])
    assert torch.equal(quantised.ids[:, 0], ids[0].long())
    torch.testing.assert_close(quantised.codes, codes[0])
    ours, theirs = (torch.autograd.grad(c.square().sum(), z)[0] for c in (quantised.codes, codes))
    torch.testing.assert_close(ours, theirs)
    assert not quantised.commitment.any()


def test_fsq_ids_count_every_code_once():
    config = FsqConfig(levels=(4, 3, 5))
    quantiser, ids = make_quantiser(config), torch.arange(60)[:, None]
    codes = quantiser.decode(ids)
    assert len(codes.unique(dim=0)) == 60
    assert codes.min() == -1
    assert codes.max() == 1
    scaled = (codes * (quantiser.levels // 2)).unique()
    assert torch.equal(scaled, scaled.round())
    assert set(quantiser.state_dict()) == {"is_started"}


def test_configs_know_the_shape_of_a_token():
    shapes = [(c.code_dim, c.n_codes, c.n_quantisers) for c in (EmaConfig(), FsqConfig())]
    assert shapes == [(32, 8192, 1), (5, 8192, 1)]
    shapes = [(c.code_dim, c.n_codes, c.n_quantisers) for c in (ResidualConfig(), ProductConfig())]
    assert shapes == [(32, 8192, 2), (32, 8192, 2)]


@every
def test_a_config_survives_json(config):
    union = TypeAdapter(QuantiserConfig)
    assert union.validate_json(union.dump_json(config)) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "product", "code_dim": 32, "n_quantisers": 3}, "nearest is 33"),
        ({"kind": "fsq", "levels": (16, 16, 16, 16, 3)}, "make 196608 codes; at most 65536"),
        ({"kind": "fsq", "levels": (8, 2)}, "at least 3"),
        ({"kind": "fsq", "levels": ()}, "at least 1 item"),
        ({"kind": "ema", "n_codes": 65537}, "less than or equal to 65536"),
        ({"kind": "ema", "decay": 1.0}, "less than 1"),
        ({"kind": "ema", "n_quantisers": 2}, "Extra inputs"),
        ({"kind": "lookup-free"}, "'ema', 'residual', 'product', 'fsq'"),
    ],
)
def test_impossible_configs_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(QuantiserConfig).validate_python(given)


def carrying(config, carry=0.9):
    return started(config.model_copy(update={"carry": carry}))


@every
def test_what_is_carried_keeps_the_mean_over_time(config):
    # A constant latent falls to one code for ever, unless what it leaves unsaid is passed on.
    z = 0.5 * normal(20, 1, config.code_dim).expand(20, 200, config.code_dim)

    def error_of_mean(quantiser):
        codes = quantiser.decode(ids_of(quantiser, z)).mean(1)
        return (codes - quantiser.continuous(z)[:, 0]).norm(dim=-1).mean()

    assert error_of_mean(carrying(config)) < 0.6 * error_of_mean(started(config))


@every
def test_ids_depend_on_the_past_alone(config):
    quantiser, z = carrying(config), normal(5, 40, config.code_dim)
    assert torch.equal(ids_of(quantiser, z)[:, :25], ids_of(quantiser, z[:, :25]))
    changed = z.clone()
    changed[:, 0] += 1.0
    assert not torch.equal(ids_of(quantiser, z)[:, 1:], ids_of(quantiser, changed)[:, 1:])


@every
def test_what_is_hidden_carries_nothing(config):
    quantiser, z = carrying(config), normal(5, 40, config.code_dim)
    visible = torch.ones(5, 40, dtype=torch.bool)
    visible[:, 10:20] = False
    ids = quantiser.encode(z, visible)
    without = quantiser.encode(torch.cat([z[:, :10], z[:, 20:]], 1), visible[:, visible[0]])
    assert torch.equal(ids[:, visible[0]], without)


@learned
def test_codes_follow_what_they_are_to_say(config):
    quantiser, z = carrying(config, 0.5), normal(30, 50, config.code_dim)
    visible = torch.ones(30, 50, dtype=torch.bool)
    first = quantiser(z, visible, rng()).commitment.mean()
    for seed in range(10):
        last = quantiser(z, visible, rng(seed)).commitment.mean()
    assert last < first
