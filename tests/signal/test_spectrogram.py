"""Spectrograms: levels in dB, frames in time, and who is hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openclef.errors import OpenclefError, RecordingError
from openclef.signal import (
    fit_to_window,
    open_recording,
    preprocess,
    read_recording,
    spectrogram,
    window_spectrogram,
)
from openclef.types import CHANNELS, Recording, Spectrogram


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
    # Frame 8, [6, 10), ends just before it; below -20 dB nothing is promised, so not -100 there.
    assert set(np.flatnonzero(power_db > -50)) == {9, 10, 11, 12}
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


def raw_recording(
    duration_s: float,
    *,
    sfreq_hz: int = 256,
    gaps: tuple[tuple[float, float], ...] = (),
    step_uv: float = 0.0,
) -> Recording:
    """Three channels of EEG-like noise with an offset and a line; after a gap, `step_uv` more."""
    rng = np.random.default_rng(1)
    times_s = np.arange(round(duration_s * sfreq_hz)) / sfreq_hz
    slow = np.cumsum(rng.standard_normal((3, len(times_s))), axis=1)
    signal_uv = 10 * rng.standard_normal(slow.shape) + slow + 500
    signal_uv += 30 * np.sin(2 * np.pi * 50 * times_s)
    for start_s, stop_s in gaps:
        signal_uv[:, times_s >= stop_s] += step_uv
        signal_uv[:, (times_s >= start_s) & (times_s < stop_s)] = 0
    names = ("Fp1", "Cz", "O2")
    mask = np.zeros(3, np.bool_)
    return Recording(signal_uv.astype(np.float32), float(sfreq_hz), names, mask, gaps=gaps)


def assert_one_spectrogram(fused: Spectrogram, exact: Spectrogram) -> None:
    """Equal masks, and within 0.01 / 0.1 / 0.5 dB where visible and above -20 dB."""
    np.testing.assert_array_equal(fused.channel_mask, exact.channel_mask)
    np.testing.assert_array_equal(fused.time_mask, exact.time_mask)
    np.testing.assert_array_equal(fused.times_s, exact.times_s)
    np.testing.assert_array_equal(fused.freqs_hz, exact.freqs_hz)
    shown = exact.power_db[~exact.channel_mask][..., ~exact.time_mask]
    error_db = np.abs(fused.power_db[~exact.channel_mask][..., ~exact.time_mask] - shown)
    error_db = error_db[shown > -20]
    assert error_db.size > 1000
    assert np.median(error_db) < 0.01
    assert np.quantile(error_db, 0.999) < 0.1
    assert error_db.max() < 0.5


@pytest.mark.parametrize("sfreq_hz", [128, 200, 250, 256, 500, 512])
@pytest.mark.parametrize("gaps", [(), ((0.0, 3.0), (31.25, 40.0), (62.5, 62.5), (89.0, 97.3))])
def test_a_window_equals_filters_then_spectrogram(
    sfreq_hz: int, gaps: tuple[tuple[float, float], ...]
) -> None:
    recording = raw_recording(97.3, sfreq_hz=sfreq_hz, gaps=gaps)
    fused = window_spectrogram(recording, line_hz=50)
    exact = fit_to_window(spectrogram(preprocess(recording, line_hz=50)))
    assert fused.power_db.shape == (19, 128, 1280)
    assert_one_spectrogram(fused, exact)


def test_a_rate_that_cannot_be_fused_goes_the_long_way() -> None:
    recording = replace(raw_recording(60), sfreq_hz=256.4)
    fused = window_spectrogram(recording, line_hz=50)
    exact = fit_to_window(spectrogram(preprocess(recording, line_hz=50)))
    np.testing.assert_array_equal(fused.power_db, exact.power_db)


@pytest.mark.parametrize("gap", [(60.0, 60.0), (60.0, 61.5), (60.0, 90.0)])
@pytest.mark.parametrize("step_uv", [0, 20_000])
def test_what_was_not_recorded_is_hidden_and_spoils_nothing_around(
    gap: tuple[float, float], step_uv: float
) -> None:
    """Also if the amplifier's offset is another one afterwards."""
    found = window_spectrogram(raw_recording(150, gaps=(gap,), step_uv=step_uv), line_hz=50)
    whole = window_spectrogram(raw_recording(150), line_hz=50)
    hidden = np.flatnonzero(found.time_mask & ~whole.time_mask)
    assert list(hidden) == list(range(59, int(np.ceil(gap[1] + 2))))
    names = [CHANNELS.index(name) for name in ("Fp1", "Cz", "O2")]
    error_db = np.abs(found.power_db - whole.power_db)[names][..., ~found.time_mask]
    # Above 1 Hz; the slowest waves are those whose filter reaches across the gap.
    assert np.quantile(error_db[:, 4:], 0.99) < 0.2
    assert np.quantile(error_db[:, 4:], 0.5) < 0.005


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["guinea_bissau_epilepsy", "iiic_sparcnet"])
def test_windows_of_real_eeg_equal_filters_then_spectrogram(real_data: Path, folder: str) -> None:
    for path in sorted((real_data / folder / "edf").glob("*.edf"))[:2]:
        recording = next(open_recording(path).iter_windows())
        fused = window_spectrogram(recording, line_hz=50)
        exact = fit_to_window(spectrogram(preprocess(recording, line_hz=50)))
        assert_one_spectrogram(fused, exact)


@pytest.mark.real_data
def test_clinical_clips_and_missing_channels_go_through(real_data: Path) -> None:
    clip = sorted((real_data / "iiic_sparcnet" / "edf").glob("*.edf"))[0]
    headset = sorted((real_data / "guinea_bissau_epilepsy" / "edf").glob("*.edf"))[0]
    for path, n_hidden, n_valid in ((clip, 0, 49), (headset, 9, 239)):
        fitted = fit_to_window(spectrogram(preprocess(read_recording(path))))
        assert fitted.channel_mask.sum() == n_hidden
        assert (~fitted.time_mask).sum() == n_valid
        assert np.isfinite(fitted.power_db).all()
