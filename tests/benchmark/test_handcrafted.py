from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from openclef import artefact
from openclef.benchmark.rivals.handcrafted import (
    band_means,
    demographic_vectors,
    embed_handcrafted,
    spectrum_mean_sd,
)
from openclef.cohort.shards import ARRAY_SHAPE
from openclef.cohort.store import FREQ_STEP_HZ
from openclef.types import Spectrogram


def _spectrogram(power_db, *, channel_mask=None, time_mask=None) -> Spectrogram:
    n_chans, n_freqs, n_frames = power_db.shape
    return Spectrogram(
        power_db=power_db.astype(np.float32),
        freqs_hz=np.arange(n_freqs, dtype=np.float32) * np.float32(FREQ_STEP_HZ),
        times_s=np.arange(n_frames, dtype=np.float32),
        channel_mask=np.zeros(n_chans, bool) if channel_mask is None else channel_mask,
        time_mask=np.zeros(n_frames, bool) if time_mask is None else time_mask,
    )


def test_mean_and_sd_read_visible_frames_only():
    power_db = np.random.default_rng(0).normal(size=(2, 128, 20))
    time_mask = np.arange(20) >= 12
    mean, sd = spectrum_mean_sd(_spectrogram(power_db, time_mask=time_mask))
    np.testing.assert_allclose(mean, power_db[..., :12].mean(axis=-1), atol=1e-6)
    np.testing.assert_allclose(sd, power_db[..., :12].std(axis=-1), atol=1e-6)


def test_a_hidden_channel_and_a_hidden_window_are_unknown():
    power_db = np.ones((2, 128, 20))
    mean, sd = spectrum_mean_sd(_spectrogram(power_db, channel_mask=np.array([True, False])))
    assert np.isnan(mean[0]).all()
    assert np.isnan(sd[0]).all()
    assert (mean[1] == 1).all()
    mean, _ = spectrum_mean_sd(_spectrogram(power_db, time_mask=np.ones(20, bool)))
    assert np.isnan(mean).all()


def test_silence_is_clamped():
    mean, _ = spectrum_mean_sd(_spectrogram(np.full((1, 128, 20), -100.0)))
    assert (mean == -40).all()


def test_each_band_reads_its_own_frequencies():
    freqs_hz = np.arange(128) * FREQ_STEP_HZ
    alpha = np.where((freqs_hz >= 8) & (freqs_hz < 13), 10.0, 0.0)[None].astype(np.float32)
    np.testing.assert_allclose(band_means(alpha), [[0, 0, 10, 0]])


def test_demographics_mark_what_is_missing_and_leave_out_the_hospital():
    sessions = pl.DataFrame(
        {
            "session_id": ["a", "b", "c"],
            "age": [50.0, None, 70.0],
            "sex": ["F", "M", None],
            "race": ["x", "y", "z"],
            "site": ["north", "south", "north"],
        }
    )
    vectors = demographic_vectors(sessions)
    expected = [[50, 0, 1, 0, 0], [np.nan, 1, 0, 1, 0], [70, 0, 0, 0, 1]]
    np.testing.assert_array_equal(vectors, expected)


def test_demographics_are_constant_if_nothing_is_known():
    sessions = pl.DataFrame({"session_id": ["a", "b"], "age": [None, None], "sex": [None, None]})
    first, second = demographic_vectors(sessions).tolist()
    np.testing.assert_array_equal(first, second)


@pytest.fixture
def cohort(make_sessions, make_cohort):
    sessions = make_sessions(2).head(2).with_columns(sex=pl.Series(["F", "M"]))
    n_chans, _, n_frames = ARRAY_SHAPE
    windows = pl.DataFrame(
        {
            "row": [0, 1, 2],
            "session_id": ["ses-0000", "ses-0000", "ses-0001"],
            "window": [0, 1, 0],
            "start_s": [0.0, 1280.0, 0.0],
            "channel_mask": [[False] * n_chans] * 2 + [[True] + [False] * (n_chans - 1)],
            "time_mask": [
                [False] * n_frames,
                [False] * 100 + [True] * (n_frames - 100),
                [False] * n_frames,
            ],
        }
    )
    power_db = np.random.default_rng(0).normal(size=(3, *ARRAY_SHAPE)).astype(np.float16)
    return make_cohort(sessions, windows=windows, power_db=power_db)


def test_three_embeddings_artefacts_are_written(cohort, tmp_path):
    folders = embed_handcrafted(cohort, tmp_path / "embeddings", progress=False)
    widths = {"demographics": 5, "band_power": 19 * 4, "spectrum_mean_sd": 2 * 19 * 128}
    assert [folder.name for folder in folders] == list(widths)
    for folder in folders:
        made = artefact.load(folder, kind="embeddings")
        assert made.config["model"] == folder.name
        assert made.inputs == {"cohort": cohort.hash}
        table = pl.read_parquet(folder / "embeddings.parquet")
        assert table.columns == ["session_id", "window", "start_s", "vector"]
        assert table["vector"].dtype == pl.List(pl.Float32)
        assert set(table["session_id"]) == set(cohort.sessions["session_id"])
        assert table["vector"].list.len().unique().to_list() == [widths[folder.name]]
    spectrum = np.array(table["vector"].to_list()).reshape(3, 2, 19, 128)
    np.testing.assert_allclose(
        spectrum[0, 0], cohort.spectrogram(0).power_db.mean(axis=-1), atol=1e-4
    )
    assert np.isnan(spectrum[2, :, 0]).all()
    assert np.isfinite(spectrum[2, :, 1:]).all()


def test_complete_baselines_are_left_and_unfinished_ones_redone(cohort, tmp_path):
    folders = embed_handcrafted(cohort, tmp_path, progress=False)
    before = {folder: (folder / "manifest.json").stat().st_mtime_ns for folder in folders}
    (folders[1] / "manifest.json").unlink()
    first = artefact.load(folders[2], kind="embeddings").hash
    embed_handcrafted(cohort, tmp_path, progress=False)
    after = {folder: (folder / "manifest.json").stat().st_mtime_ns for folder in folders}
    assert [before[folder] == after[folder] for folder in folders] == [True, False, True]
    assert artefact.load(folders[2], kind="embeddings").hash == first
