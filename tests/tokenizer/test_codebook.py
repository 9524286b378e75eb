import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from vector_quantize_pytorch import VectorQuantize

from openclef.tokenizer import codebook
from openclef.tokenizer.codebook import Codebook, draw, perplexity


def usage(ids, n_codes):
    """Share of the codes that occur."""
    return len(ids.unique()) / n_codes


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(normal(*shape, seed=seed), dim=-1)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def book_of(codes, *, decay=0.9, restart_below=0.0, spherical=True):
    book = Codebook(*codes.shape, decay=decay, restart_below=restart_below, spherical=spherical)
    book.codes.copy_(codes)
    book.sums.copy_(codes)
    return book


def step(book, z, seed=0):
    ids = book.nearest(z)
    book.update(z, ids, rng(seed))
    return ids


@pytest.mark.parametrize("spherical", [True, False])
def test_ten_steps_are_those_of_vector_quantize_pytorch(spherical):
    vectors = unit if spherical else normal
    book = book_of(vectors(64, 8, seed=1), decay=0.8, spherical=spherical)
    # Its Laplace smoothing adds eps vectors to each code (no difference to unit vectors, 1e-5 to
    # others), ours nothing: eps = 0 makes the two formulas the same.
    oracle = VectorQuantize(
        dim=8, codebook_size=64, use_cosine_sim=spherical, decay=0.8, eps=0.0,
        threshold_ema_dead_code=0, rotation_trick=False,
    )  # fmt: skip
    oracle._codebook.embed.copy_(book.codes[None])
    oracle._codebook.embed_avg.copy_(book.codes[None])
    for seed in range(10):
        z = vectors(500, 8, seed=10 + seed)
        codes, ids, _ = oracle(z[None])
        chosen = book.codes[book.nearest(z)]
        assert torch.equal(step(book, z), ids[0])
        torch.testing.assert_close(chosen, codes[0].detach())
        torch.testing.assert_close(book.codes, oracle._codebook.embed[0])
    assert (book.codes - vectors(64, 8, seed=1)).norm(dim=-1).mean() > 0.1


def test_one_moving_average_step_by_hand():
    book, z = book_of(unit(4, 2, seed=1)), unit(50, 2)
    before = book.sums.clone()
    ids = step(book, z)
    for code in range(4):
        total = 0.9 * before[code] + 0.1 * z[ids == code].sum(0)
        torch.testing.assert_close(book.codes[code], F.normalize(total, dim=0))


def test_no_vectors_change_nothing():
    book = book_of(unit(8, 4), restart_below=0.5)
    before = {name: value.clone() for name, value in book.state_dict().items()}
    assert step(book, torch.zeros(0, 4)).shape == (0,)
    assert all(torch.equal(before[name], value) for name, value in book.state_dict().items())


@pytest.mark.parametrize("spherical", [True, False])
def test_nearest_in_small_parts_is_nearest_by_definition(spherical, monkeypatch):
    monkeypatch.setattr(codebook, "MAX_SCORES", 1000)
    book = book_of(unit(60, 6) if spherical else normal(60, 6), spherical=spherical)
    z = normal(3, 40, 6, seed=1)
    if spherical:
        expected = F.cosine_similarity(z[:, :, None], book.codes, dim=-1).argmax(-1)
    else:
        expected = torch.cdist(z, book.codes[None]).argmin(-1)
    assert torch.equal(book.nearest(z), expected)


def test_nearest_is_searched_in_float32_under_autocast():
    book, z = book_of(unit(512, 8)), unit(300, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(book.nearest(z), (z.double() @ book.codes.double().T).argmax(-1))


@pytest.mark.parametrize("spherical", [True, False])
def test_a_code_restarts_when_the_average_one_had_ten_vectors_since_its_last(spherical):
    codes = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0], [-1.0, 0.1]]), dim=-1)
    book = book_of(codes, restart_below=0.1, spherical=spherical)
    z = codes[[0, 1]]  # half a vector a code and step: 20 steps bring ten
    for seed in range(20):
        step(book, z, seed)
    torch.testing.assert_close(book.codes, codes)
    step(book, z, 20)
    assert sorted(book.codes[2:, 1].sign().tolist()) == [-1, 1]  # both vectors, each once
    assert (book.codes[2:, 0] > 0).all()
    assert book.idle.tolist() == [0.0] * 4
    average = (1 + 1 + 2 * 0.9**21) / 4  # what the dead ones had left of their first usage
    torch.testing.assert_close(book.usage, torch.tensor([1, 1, average, average]))


def test_a_large_step_counts_for_half_a_vector_a_code():
    codes = unit(4, 3)
    book = book_of(codes, restart_below=0.1)
    idle = []
    for seed in range(21):
        step(book, codes[:2].repeat(50, 1), seed)
        idle.append(float(book.idle[3]))
    assert idle == [0.5 * n for n in range(1, 21)] + [0.0]


def test_more_dead_codes_than_vectors_restart_in_turn():
    book = book_of(unit(64, 4, seed=1), restart_below=0.5)
    book.idle.fill_(torch.inf)
    z = unit(10, 4)
    n_chosen = len(step(book, z).unique())
    assert int((book.idle == 0).sum()) == n_chosen + 10
    moved = (book.codes @ z.T).max(1).values > 1 - 1e-6
    assert len(book.codes[moved].unique(dim=0)) == int(moved.sum()) >= 10  # none twice


def test_restarts_fill_a_codebook_that_latents_left_behind():
    here = torch.tensor([4.0] + 7 * [0.0])
    codes = F.normalize(normal(256, 8) - here, dim=-1)
    book = book_of(codes, decay=0.99, restart_below=0.1)
    held_out = F.normalize(normal(20_000, 8, seed=1) + here, dim=-1)
    assert usage(book.nearest(held_out), 256) < 0.3
    for seed in range(80):
        step(book, F.normalize(normal(128, 8, seed=100 + seed) + here, dim=-1), seed)
    assert usage(book.nearest(held_out), 256) > 0.95


def test_k_means_is_that_of_scikit_learn():
    z = normal(2000, 5)
    book = book_of(torch.zeros(20, 5), spherical=False)
    book.start(z, rng(3))
    oracle = KMeans(20, init=draw(z, 20, rng(3)), n_init=1, max_iter=10, tol=0).fit(z.double())
    torch.testing.assert_close(book.codes, torch.from_numpy(oracle.cluster_centers_).float())
    counts = torch.bincount(torch.from_numpy(oracle.labels_).long(), minlength=20)
    torch.testing.assert_close(book.usage, counts / 100, rtol=0.05, atol=0)


def test_spherical_k_means_finds_every_cluster():
    centres = unit(16, 8)
    z = F.normalize(centres.repeat(100, 1) + 0.05 * normal(1600, 8, seed=1), dim=-1)
    book = book_of(torch.zeros(96, 8))
    book.start(z, rng())
    torch.testing.assert_close(book.codes.norm(dim=-1), torch.ones(96))
    similarity = book.codes[book.usage > 0] @ centres.T
    assert (similarity.max(0).values > 0.98).all()  # each cluster has a code
    assert (similarity.max(1).values > 0.95).all()  # each code is in a cluster


def test_a_start_from_fewer_vectors_than_codes_leaves_the_others_to_the_first_steps():
    book = book_of(torch.zeros(64, 4), restart_below=0.1)
    book.start(unit(10, 4), rng())
    assert int((book.usage == 0).sum()) >= 54 - 10
    step(book, unit(500, 4, seed=1))
    assert usage(book.nearest(unit(2000, 4, seed=2)), 64) > 0.95


def test_no_vectors_start_no_codebook():
    with pytest.raises(ValueError, match="from no vectors"):
        book_of(unit(4, 2)).start(torch.zeros(0, 2), rng())


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("collapsed", [torch.zeros(1, 4), torch.ones(1, 4) / 2])
def test_collapsed_vectors_give_no_nan(collapsed, spherical):
    book = book_of(torch.zeros(16, 4), restart_below=0.1, spherical=spherical)
    z = collapsed.expand(40, 4)
    book.start(z, rng())
    for seed in range(30):
        step(book, z, seed)
    assert book.codes.isfinite().all()
    assert usage(book.nearest(unit(2000, 4)), 16) > 0


def test_sums_do_not_depend_on_the_order_of_vectors():
    one, other = (book_of(unit(8, 4), spherical=False) for _ in range(2))
    z = normal(3000, 4, seed=1) * 100
    step(one, z)
    step(other, z[torch.randperm(3000, generator=rng())])
    assert torch.equal(one.sums, other.sums)


def test_draws_are_different_vectors_or_all():
    z = normal(30, 3)
    assert len(draw(z, 12, rng()).unique(dim=0)) == 12
    assert torch.equal(draw(z, 99, rng()).unique(dim=0), z.unique(dim=0))


def test_perplexity_counts_codes_in_effective_use():
    assert perplexity(torch.arange(16), 64) == torch.tensor(16.0)
    assert perplexity(torch.zeros(10, dtype=torch.int64), 64) == torch.tensor(1.0)
