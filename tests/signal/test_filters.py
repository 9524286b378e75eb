"""Band-pass, notch, resampling: held to MNE's filters and to known sines."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest

from openclef.errors import OpenclefError, RecordingError
from openclef.signal import detect_line_hz, preprocess, read_recording
from openclef.types import CHANNELS, Recording


def sine(freq_hz: float, *, duration_s: float = 60, sfreq_hz: float = 200.0) -> np.ndarray:
    times_s = np.arange(round(duration_s * sfreq_hz)) / sfreq_hz
    return 50 * np.sin(2 * np.pi * freq_hz * times_s)


def recording_of(*signals_uv: np.ndarray, sfreq_hz: float = 200.0) -> Recording:
    names = CHANNELS[: len(signals_uv)]
    signal_uv = np.stack(signals_uv).astype(np.float32)
    return Recording(signal_uv, sfreq_hz, names, np.zeros(len(names), np.bool_))


def noise(duration_s: float, *, sfreq_hz: float = 200.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 20 * rng.standard_normal(round(duration_s * sfreq_hz))


@pytest.mark.parametrize(("sfreq_hz", "line_hz"), [(200.0, 60.0), (200.0, 50.0), (500.0, 60.0)])
def test_away_from_the_ends_and_the_line_it_equals_mne_filter_notch_resample(
    sfreq_hz: float, line_hz: float
) -> None:
    signal_uv = noise(120, sfreq_hz=sfreq_hz)
    ours = preprocess(recording_of(signal_uv, sfreq_hz=sfreq_hz), line_hz=line_hz)
    theirs = mne.filter.filter_data(signal_uv, sfreq_hz, 0.1, 75.0, verbose="ERROR")
    lines_hz = np.arange(line_hz, sfreq_hz / 2 - 1, line_hz)
    theirs = mne.filter.notch_filter(theirs, sfreq_hz, lines_hz, verbose="ERROR")
    if sfreq_hz != 200:
        theirs = mne.filter.resample(theirs, up=200.0, down=sfreq_hz, verbose="ERROR")
    # Within 2 Hz of the line the subtraction takes what a notch leaves.
    difference = ours.signal_uv[0].astype(np.float64) - theirs
    shown = mne.filter.filter_data(difference, 200.0, None, 32.0, verbose="ERROR")
    # The mean, which we remove altogether, is what the kernel leaves of it: under 0.01 uV.
    np.testing.assert_allclose(shown[25 * 200 : 95 * 200], 0, atol=0.01)


@pytest.mark.parametrize("sfreq_hz", [128.0, 200.0, 250.0, 256.0, 512.0, 1000.0, 199.5])
def test_the_eeg_band_passes_unshifted_at_any_rate(sfreq_hz: float) -> None:
    ours = preprocess(recording_of(sine(10, sfreq_hz=sfreq_hz), sfreq_hz=sfreq_hz), line_hz=50)
    assert ours.sfreq_hz == 200
    assert ours.signal_uv.shape == (19, 60 * 200)
    inner = slice(5 * 200, 55 * 200)
    np.testing.assert_allclose(ours.signal_uv[0, inner], sine(10)[inner], atol=0.6)


@pytest.mark.parametrize("stopped_hz", [0.0, 60.0, 120.0, 180.0, 95.0, 230.0])
def test_offset_line_harmonics_and_fast_activity_are_removed(stopped_hz: float) -> None:
    signal_uv = sine(stopped_hz, sfreq_hz=500.0) if stopped_hz else np.full(30_000, 4200.0)
    ours = preprocess(recording_of(signal_uv, sfreq_hz=500.0), line_hz=60)
    # Of 50 uV; half a second of 95 Hz passes for 2% of line.
    assert np.abs(ours.signal_uv[0, 1000:-1000]).max() < (1.0 if stopped_hz == 95 else 0.5)


def test_an_aliased_tone_does_not_come_back() -> None:
    """195 Hz would fold to 5 Hz at 200 Hz."""
    ours = preprocess(recording_of(sine(195, sfreq_hz=512.0), sfreq_hz=512.0), line_hz=50)
    assert np.abs(ours.signal_uv[0, 1000:-1000]).max() < 0.3


@pytest.mark.parametrize("duration_s", [4, 5.5, 30])
def test_a_short_recording_loses_its_mean_and_keeps_its_waves(duration_s: float) -> None:
    wave = sine(5, duration_s=duration_s)
    ours = preprocess(recording_of(wave + 800), line_hz=50)
    np.testing.assert_allclose(ours.signal_uv[0], wave - wave.mean(), atol=2.5)


def test_channels_are_ordered_and_the_missing_hidden() -> None:
    recording = Recording(
        np.stack([noise(10), noise(10, seed=1)]).astype(np.float32),
        200.0,
        ("Fp2", "O1"),
        np.zeros(2, np.bool_),
        start_s=1280.0,
        provenance={"format": "edf"},
    )
    ours = preprocess(recording, line_hz=50)
    assert ours.ch_names == CHANNELS
    assert [CHANNELS[i] for i in np.flatnonzero(~ours.channel_mask)] == ["O1", "Fp2"]
    assert not ours.signal_uv[ours.channel_mask].any()
    assert ours.signal_uv.dtype == np.float32
    assert (ours.start_s, dict(ours.provenance)) == (1280.0, {"format": "edf", "line_hz": "50"})


@pytest.mark.parametrize("line_hz", [50.0, 60.0])
@pytest.mark.parametrize("sfreq_hz", [128.0, 256.0])
def test_the_line_frequency_is_found_and_removed(line_hz: float, sfreq_hz: float) -> None:
    line = sine(line_hz, sfreq_hz=sfreq_hz) / 10
    recording = recording_of(noise(60, sfreq_hz=sfreq_hz) + line, sfreq_hz=sfreq_hz)
    assert detect_line_hz(recording) == line_hz
    assert preprocess(recording).provenance["line_hz"] == f"{line_hz:g}"


def test_the_same_bytes_each_time() -> None:
    recording = recording_of(noise(30), noise(30, seed=1))
    assert preprocess(recording).signal_uv.tobytes() == preprocess(recording).signal_uv.tobytes()


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(RecordingError, match="lasts 3 s; at least 4 s"):
        preprocess(recording_of(noise(3)))
    with pytest.raises(RecordingError, match=r"sampled at 50 Hz; .* at least 64 Hz"):
        preprocess(recording_of(noise(10, sfreq_hz=50), sfreq_hz=50.0))
    with pytest.raises(OpenclefError, match="line_hz 55 is neither 50 nor 60"):
        preprocess(recording_of(noise(10)), line_hz=55)
    broken = noise(10)
    broken[7] = np.inf
    with pytest.raises(RecordingError, match="not finite numbers in O2"):
        preprocess(recording_of(noise(10), broken))


@pytest.mark.real_data
def test_emotiv_headset_10_of_19_channels_at_128_hz(real_data: Path) -> None:
    path = sorted((real_data / "guinea_bissau_epilepsy" / "edf").glob("*.edf"))[0]
    recording = read_recording(path)
    ours = preprocess(recording)
    assert (recording.sfreq_hz, ours.sfreq_hz) == (128, 200)
    assert (~ours.channel_mask).sum() == 10
    assert ours.duration_s == recording.duration_s
    assert np.abs(ours.signal_uv.mean(axis=1)).max() < 0.1  # the headset's offset is gone
