from types import SimpleNamespace

import numpy as np
import pytest
import torch

from openclef.tokenizer.evaluate import Decoded, measure
from openclef.types import Spectrogram

N_FRAMES = 20


def tokenizer(expected_db=0.0, n_codes=4, n_quantisers=1):
    return SimpleNamespace(
        config=SimpleNamespace(
            quantiser=SimpleNamespace(n_codes=n_codes, n_quantisers=n_quantisers)
        ),
        spectrum=SimpleNamespace(mean=torch.full((19, 128, 1), expected_db / 40)),
    )


def window(decode, seed=0, hidden_frames=(), hidden_channels=(), ids=None):
    power_db = np.random.default_rng(seed).normal(0, 5, (19, 128, N_FRAMES)).astype(np.float32)
    channel_mask, time_mask = np.zeros(19, bool), np.zeros(N_FRAMES, bool)
    channel_mask[list(hidden_channels)] = True
    time_mask[list(hidden_frames)] = True
    original = Spectrogram(
        power_db, np.arange(128) / 4, np.arange(N_FRAMES, dtype=float), channel_mask, time_mask
    )
    ids = np.zeros((1, 8, 4, 1), np.int64) if ids is None else ids
    return Decoded(0, original, decode(power_db), ids, np.zeros((1, 4), bool))


def mean_only(power_db):
    return power_db.mean(0, keepdims=True).repeat(len(power_db), 0)


def test_what_is_decoded_exactly_is_explained_in_full():
    found = measure(tokenizer(), iter([window(np.copy)]))
    assert (found.mean_r2, found.residual_r2, found.mae_db.max()) == (1.0, 1.0, 0.0)


def test_the_mean_over_channels_alone_explains_the_mean_part_and_nothing_of_the_residual():
    found = measure(tokenizer(), iter([window(mean_only), window(mean_only, seed=1)]))
    assert found.mean_r2 == pytest.approx(1.0)
    assert found.residual_r2 == pytest.approx(0.0, abs=1e-6)
    bands = found.r2_by_band({"low": (0, 4), "high": (4, 32)})
    assert [pytest.approx((1.0, 0.0), abs=1e-6)] * 2 == list(bands.values())


def test_what_is_known_without_a_token_explains_nothing():
    found = measure(tokenizer(3.0), iter([window(lambda x: np.full_like(x, 3.0))]))
    assert (found.mean_r2, found.residual_r2) == (0.0, 0.0)


def test_hidden_cells_do_not_count():
    def poisoned(power_db):
        decoded = power_db + 1
        decoded[3], decoded[:, :, 5:9] = np.nan, np.inf
        return decoded

    found = measure(
        tokenizer(), iter([window(poisoned, hidden_channels=[3], hidden_frames=range(5, 9))])
    )
    assert found.n[3].sum() == 0
    assert found.n[0, 0] == N_FRAMES - 4
    np.testing.assert_allclose(np.delete(found.mae_db, 3, 0), 1.0, rtol=1e-5)


def test_codes_are_counted_where_tokens_are_visible():
    ids = np.zeros((1, 8, 4, 2), np.int64)
    ids[..., 0, 0], ids[..., 1, 0], ids[..., 1] = 1, 3, 2
    one = window(np.copy, ids=ids)
    one.hidden[0, 3] = True
    found = measure(tokenizer(n_quantisers=2), iter([one]))
    assert found.code_counts.tolist() == [[8, 8, 0, 8], [0, 0, 24, 0]]
    assert found.n_tokens == 24
    assert found.usage == [0.75, 0.25]
    assert found.perplexity == pytest.approx([3.0, 1.0])


def test_no_window_is_an_error():
    with pytest.raises(ValueError, match="no window"):
        measure(tokenizer(), iter([]))
