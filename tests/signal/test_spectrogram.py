"""Spectrograms: levels in dB, frames in time, and who is hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openclef.errors import OpenclefError, RecordingError
from openclef.signal import fit_to_window, preprocess, read_recording, spectrogram
from openclef.types import CHANNELS, Recording


def recording_of(
    signal_uv: np.ndarray,
    *,
    hidden: tuple[str, ...] = (),
    gaps: tuple[tuple[float, float], ...] = (),
) -> Recording:
    """The same signal in all 19 channels but the hidden ones."""
    channel_mask = np.isin(CHANNELS, hidden)
    everywhere = np.where(channel_mask[:, np.newaxis], 0, signal_uv).astype(np.float32)
    return Recording(everywhere, 200.0, CHANNELS, channel_mask, gaps=gaps)


def noise(duration_s: float) -> np.ndarray:
    return 20 * np.random.default_rng(0).standard_normal(round(duration_s * 200))


def test_a_full_window_is_19_x_128_x_1280_with_nothing_hidden() -> None:
    result = spectrogram(recording_of(noise(1280)))
    assert result.power_db.shape == (19, 128, 1280)
    assert result.power_db.dtype == np.float32
    np.testing.assert_array_equal(result.freqs_hz, np.arange(128) / 4)
    np.testing.assert_array_equal(result.times_s, np.arange(1280))
    fitted = fit_to_window(result)
    assert not fitted.time_mask.any()
    assert not fitted.channel_mask.any()
    np.testing.assert_array_equal(fitted.power_db, result.power_db)


@pytest.mark.parametrize(("duration_s", "n_frames"), [(4, 4), (61.995, 61), (62, 62), (62.9, 62)])
def test_a_frame_a_second(duration_s: float, n_frames: int) -> None:
    assert spectrogram(recording_of(noise(duration_s))).power_db.shape == (19, 128, n_frames)


def test_levels_in_db() -> None:
    """White noise of 20 uV: 2 * 400 / 200 = 4 uV^2/Hz = 6 dB; silence: the floor of -100 dB."""
    power = 10 ** (spectrogram(recording_of(noise(300))).power_db[0, 4:] / 10)
    assert power.mean() == pytest.approx(4, rel=0.03)
    silence = spectrogram(recording_of(np.zeros(2000))).power_db
    np.testing.assert_allclose(silence, -100, atol=1e-3)


def test_frame_i_is_centred_at_i_seconds() -> None:
    signal_uv = np.zeros(20 * 200)
    signal_uv[10 * 200] = 1000.0
    power_db = spectrogram(recording_of(signal_uv)).power_db[0, 40]
    assert set(np.flatnonzero(power_db > -90)) == {9, 10, 11, 12}  # 8 and 12: [8-2, 8+2) ends there
    assert power_db.argmax() == 10


def test_hidden_channels_are_zero_and_hidden() -> None:
    result = spectrogram(recording_of(noise(10), hidden=("Cz", "Fp1")))
    assert {CHANNELS[i] for i in np.flatnonzero(result.channel_mask)} == {"Cz", "Fp1"}
    assert not result.power_db[result.channel_mask].any()
    assert np.isfinite(result.power_db).all()


def test_frames_that_touch_a_gap_are_hidden() -> None:
    result = spectrogram(recording_of(noise(20), gaps=((6.0, 7.0), (15.5, 15.6))))
    # [i - 2, i + 2) meets [6, 7) for i = 5..8, and [15.5, 15.6) for i = 14..17.
    assert list(np.flatnonzero(result.time_mask)) == [5, 6, 7, 8, 14, 15, 16, 17]


@pytest.mark.parametrize(("duration_s", "n_valid"), [(62, 61), (62.9, 61), (1279, 1278), (4, 3)])
def test_fitting_hides_padding_and_the_frames_that_reach_past_the_end(
    duration_s: float, n_valid: int
) -> None:
    """Frame i is valid if i + 2 <= duration_s."""
    result = spectrogram(recording_of(noise(duration_s)))
    fitted = fit_to_window(result)
    assert fitted.power_db.shape == (19, 128, 1280)
    np.testing.assert_array_equal(np.flatnonzero(~fitted.time_mask), np.arange(n_valid))
    n_frames = result.power_db.shape[-1]
    np.testing.assert_array_equal(fitted.power_db[..., :n_frames], result.power_db)
    assert not fitted.power_db[..., n_frames:].any()
    np.testing.assert_array_equal(fitted.times_s, np.arange(1280))


def test_fitting_keeps_gaps_hidden_and_takes_other_lengths() -> None:
    result = spectrogram(recording_of(noise(20), gaps=((0.0, 1.0),)))
    fitted = fit_to_window(result, n_frames=30)
    assert list(np.flatnonzero(~fitted.time_mask)) == list(range(3, 19))
    assert not fit_to_window(result, n_frames=20).time_mask[3:].any()
    with pytest.raises(OpenclefError, match="20 frames do not fit a window of 10"):
        fit_to_window(result, n_frames=10)


def test_what_was_not_preprocessed_is_refused() -> None:
    good = recording_of(noise(10))
    reordered = replace(good, ch_names=CHANNELS[::-1])
    for wrong in (replace(good, sfreq_hz=256.0), reordered):
        with pytest.raises(RecordingError, match="call preprocess first"):
            spectrogram(wrong)
    with pytest.raises(RecordingError, match="lasts 3 s; at least 4 s"):
        spectrogram(recording_of(noise(3)))


def test_non_finite_samples_are_refused_unless_hidden() -> None:
    recording = recording_of(noise(10), hidden=("Cz",))
    recording.signal_uv[CHANNELS.index("Cz"), 5] = np.nan
    assert np.isfinite(spectrogram(recording).power_db).all()
    recording.signal_uv[CHANNELS.index("T4"), 5] = np.nan
    with pytest.raises(RecordingError, match="not finite numbers in T4"):
        spectrogram(recording)


@pytest.mark.real_data
def test_resting_alpha_is_where_it_should_be(real_data: Path) -> None:
    """eegmat rest, eyes closed: an occipital peak within 8-13 Hz above its neighbours."""
    path = real_data / "eegmat" / "edf_200hz" / "Subject00_1.edf"
    result = spectrogram(preprocess(read_recording(path)))
    occipital_db = result.power_db[: CHANNELS.index("T6")].mean(axis=(0, 2))
    band_db = [
        occipital_db[(result.freqs_hz >= low) & (result.freqs_hz < high)].mean()
        for low, high in ((5, 7), (8, 13), (15, 20))
    ]
    assert band_db[1] > max(band_db[0], band_db[2]) + 1


@pytest.mark.real_data
def test_clinical_clips_and_missing_channels_go_through(real_data: Path) -> None:
    clip = sorted((real_data / "iiic_sparcnet" / "edf").glob("*.edf"))[0]
    headset = sorted((real_data / "guinea_bissau_epilepsy" / "edf").glob("*.edf"))[0]
    for path, n_hidden, n_valid in ((clip, 0, 49), (headset, 9, 239)):
        fitted = fit_to_window(spectrogram(preprocess(read_recording(path))))
        assert fitted.channel_mask.sum() == n_hidden
        assert (~fitted.time_mask).sum() == n_valid
        assert np.isfinite(fitted.power_db).all()
