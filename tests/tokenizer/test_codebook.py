import torch
import torch.nn.functional as F
from vector_quantize_pytorch import VectorQuantize

from openclef.tokenizer.codebook import Codebook, perplexity


def unit(n, dim, seed=0):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def initialised(n_codes, dim, decay=0.99, **settings):
    book = Codebook(n_codes, dim, decay=decay, **settings)
    book.codes.copy_(unit(n_codes, dim, seed=1))
    book.sums.copy_(book.codes)
    book.is_initialised.fill_(True)
    return book


def rng():
    return torch.Generator().manual_seed(0)


def test_nearest_code_is_that_of_vector_quantize_pytorch():
    book = initialised(64, 8).eval()
    oracle = VectorQuantize(dim=8, codebook_size=64, use_cosine_sim=True).eval()
    oracle._codebook.embed.copy_(book.codes[None])
    z = unit(500, 8)
    _, ids, _ = oracle(z[None])
    assert torch.equal(book.nearest(z), ids[0])


def test_one_moving_average_step_by_hand():
    book = initialised(4, 2, decay=0.9, restart_below=0.0)
    before = book.sums.clone()
    z = unit(50, 2)
    ids = book.nearest(z)
    book(z, torch.ones(50, dtype=torch.bool), rng())
    for code in range(4):
        total = 0.9 * before[code] + 0.1 * z[ids == code].sum(0)
        torch.testing.assert_close(book.codes[code], F.normalize(total, dim=0))


def test_hidden_vectors_do_not_move_the_codebook():
    z = unit(40, 4)
    visible = torch.arange(40) < 20
    one, other = initialised(8, 4), initialised(8, 4)
    one(z, visible, rng())
    other(torch.where(visible[:, None], z, unit(40, 4, seed=9)), visible, rng())
    assert torch.equal(one.codes, other.codes)


def test_nothing_visible_changes_nothing():
    book = initialised(8, 4)
    before = book.codes.clone()
    book(unit(10, 4), torch.zeros(10, dtype=torch.bool), rng())
    assert torch.equal(book.codes, before)


def test_unused_codes_restart_from_the_batch():
    book = initialised(8, 4, restart_below=2.0)
    z = unit(3, 4)
    book(z, torch.ones(3, dtype=torch.bool), rng())
    distance = 1 - (book.codes @ z.T).max(1).values
    assert (distance < 1e-5).sum() >= 5  # at most three codes can have stayed in use


def test_evaluation_never_moves_the_codebook():
    book = initialised(8, 4).eval()
    before = book.codes.clone()
    book(unit(30, 4), torch.ones(30, dtype=torch.bool), rng())
    assert torch.equal(book.codes, before)


def test_perplexity_counts_codes_in_effective_use():
    assert perplexity(torch.arange(16), 64) == torch.tensor(16.0)
    assert perplexity(torch.zeros(10, dtype=torch.int64), 64) == torch.tensor(1.0)
