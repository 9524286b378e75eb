from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from openclef.errors import OpenclefError
from openclef.tokenizer.evaluate import (
    Decoded,
    decode_windows,
    load_fidelity,
    measure,
    train_mean_db,
)
from openclef.types import Spectrogram

N_FRAMES = 20


def tokenizer(n_codes=4, n_quantisers=1):
    return SimpleNamespace(
        config=SimpleNamespace(
            quantiser=SimpleNamespace(n_codes=n_codes, n_quantisers=n_quantisers)
        )
    )


def measured(*windows, about_db=0.0, **more):
    return measure(tokenizer(**more), windows, mean_db=np.full((19, 128), about_db, np.float32))


def window(decode, seed=0, hidden_frames=(), hidden_channels=(), ids=None, row=0):
    power_db = np.random.default_rng(seed).normal(0, 5, (19, 128, N_FRAMES)).astype(np.float32)
    channel_mask, time_mask = np.zeros(19, bool), np.zeros(N_FRAMES, bool)
    channel_mask[list(hidden_channels)] = True
    time_mask[list(hidden_frames)] = True
    original = Spectrogram(
        power_db, np.arange(128) / 4, np.arange(N_FRAMES, dtype=float), channel_mask, time_mask
    )
    ids = np.zeros((1, 8, 4, 1), np.int64) if ids is None else ids
    return Decoded(row, original, decode(power_db), ids, np.zeros((1, 4), bool))


def mean_only(power_db):
    return power_db.mean(0, keepdims=True).repeat(len(power_db), 0)


def test_what_is_decoded_exactly_is_explained_in_full():
    found = measured(window(np.copy))
    assert (found.mean_r2, found.residual_r2, found.mae_db.max()) == (1.0, 1.0, 0.0)


def test_the_mean_over_channels_alone_explains_the_mean_part_and_nothing_of_the_residual():
    found = measured(window(mean_only), window(mean_only, seed=1))
    assert found.mean_r2 == pytest.approx(1.0)
    assert found.residual_r2 == pytest.approx(0.0, abs=1e-6)


def test_what_is_known_without_a_token_explains_nothing():
    found = measured(window(lambda x: np.full_like(x, 3.0)), about_db=3.0)
    assert (found.mean_r2, found.residual_r2) == (0.0, 0.0)


def test_of_one_channel_there_is_no_residual_to_explain():
    found = measured(window(lambda x: x / 2, hidden_channels=range(1, 19)))
    assert found.mean_r2 == pytest.approx(0.75)
    assert found.mean_correlation == pytest.approx(1.0)
    assert np.isnan([found.residual_r2, found.residual_correlation]).all()


def test_hidden_cells_do_not_count():
    def poisoned(power_db):
        decoded = power_db + 1
        decoded[3], decoded[:, :, 5:9] = np.nan, np.inf
        return decoded

    found = measured(window(poisoned, hidden_channels=[3], hidden_frames=range(5, 9)))
    assert found.n[3].sum() == 0
    assert found.n[0, 0] == N_FRAMES - 4
    np.testing.assert_allclose(np.delete(found.mae_db, 3, 0), 1.0, rtol=1e-5)


def test_codes_are_counted_where_tokens_are_visible():
    ids = np.zeros((1, 8, 4, 2), np.int64)
    ids[..., 0, 0], ids[..., 1, 0], ids[..., 1] = 1, 3, 2
    one = window(np.copy, ids=ids)
    one.hidden[0, 3] = True
    found = measured(one, n_quantisers=2)
    assert found.code_counts.tolist() == [[8, 8, 0, 8], [0, 0, 24, 0]]
    assert found.n_tokens == 24
    assert found.usage == [0.75, 0.25]
    assert found.perplexity == pytest.approx([3.0, 1.0])


def test_no_window_is_an_error():
    with pytest.raises(ValueError, match="no window"):
        measured()


def test_sums_of_single_windows_add_up_and_are_kept_on_disk(tmp_path):
    found = measured(window(mean_only, row=7), window(lambda x: x / 2, seed=1, row=9))
    assert found.rows.tolist() == [7, 9]
    names = ("mean_error", "mean_variance", "residual_error", "residual_variance")
    np.testing.assert_allclose(
        found.by_window.sum(0), [getattr(found, name).sum() for name in names], rtol=1e-6
    )
    alone = measured(window(mean_only, row=7))
    np.testing.assert_allclose(found.by_window[0], alone.by_window[0])
    found.save(tmp_path / "fidelity.npz")
    again = load_fidelity(tmp_path / "fidelity.npz")
    assert (again.n_windows, again.residual_r2) == (2, found.residual_r2)
    assert np.array_equal(again.code_counts, found.code_counts)


def test_correlation_is_that_of_decoded_and_original_about_the_mean_spectrum():
    rng = np.random.default_rng(0)
    one = window(lambda x: 0.3 * x + rng.normal(0, 2, x.shape).astype(np.float32))
    found = measured(one, about_db=1.0)
    x, y = one.original.power_db - 1.0, one.power_db - 1.0
    for r, (a, b) in {
        found.mean_correlation: (x.mean(0), y.mean(0)),
        found.residual_correlation: (x - x.mean(0), y - y.mean(0)),
    }.items():
        expected = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
        assert r == pytest.approx(expected, abs=1e-4)


def in_memory(*windows, split="train"):
    sessions = pl.DataFrame({"row": range(len(windows)), "session_id": ["S1"] * len(windows)})
    return SimpleNamespace(
        folder="cohort",
        windows=sessions,
        rows=lambda *splits: np.arange(len(windows) if not splits or split in splits else 0),
        spectrogram=lambda row: windows[row],
    )


def test_the_mean_spectrum_is_of_visible_clamped_cells_of_train_windows():
    first = window(np.copy, hidden_channels=[3, 4], hidden_frames=range(10)).original
    second = window(np.copy, seed=1, hidden_channels=[4]).original
    first.power_db[:, :, :10], first.power_db[0], second.power_db[4] = np.nan, 100.0, np.inf
    found = train_mean_db(in_memory(first, second))
    assert found.shape == (19, 128)
    for channel in (0, 3, 5):
        seen = [] if channel == 3 else [first.power_db[channel, :, 10:]]
        cells = np.concatenate([*seen, second.power_db[channel]], axis=-1).clip(-40, 40)
        np.testing.assert_allclose(found[channel], cells.mean(-1), rtol=1e-5)
    assert (found[4] == 0).all()  # never visible
    assert (train_mean_db(in_memory(first, second, split="held_out")) == 0).all()


def test_the_mean_spectrum_is_of_a_draw_that_is_the_same_each_time():
    cohort = in_memory(*(window(np.copy, seed=seed).original for seed in range(12)))
    found = [train_mean_db(cohort, n_windows=n) for n in (4, 4, 12)]
    assert np.array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_a_window_that_is_not_finite_is_not_decoded_and_its_session_named():
    broken = window(np.copy).original
    broken.power_db[2, 3, 4] = np.nan
    with pytest.raises(OpenclefError, match=r"cohort: session S1: .*NaN or infinite"):
        next(decode_windows(torch.nn.Identity(), in_memory(broken), np.array([0])))
    with pytest.raises(OpenclefError, match="session S1"):
        train_mean_db(in_memory(broken))
    none = decode_windows(torch.nn.Identity(), in_memory(broken), np.array([0]),
                          skip_not_finite=True)  # fmt: skip
    assert list(none) == []
