"""Line noise: what is subtracted, what is left alone, and what the ends of a recording keep."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from scipy.signal import welch

from openclef.signal.line import detect_line_hz, subtract_line
from openclef.types import Recording


def pink(duration_s: float, *, sfreq_hz: float = 200, seed: int = 0) -> np.ndarray:
    """Pink noise of 20 uV."""
    rng = np.random.default_rng(seed)
    n_times = round(duration_s * sfreq_hz)
    freqs_hz = np.fft.rfftfreq(n_times, 1 / sfreq_hz)
    phases = np.exp(2j * np.pi * rng.random(len(freqs_hz)))
    signal = np.fft.irfft(phases / np.maximum(freqs_hz, 0.3) ** 0.8, n_times)
    return 20 * signal / signal.std()


def times(duration_s: float, sfreq_hz: float) -> np.ndarray:
    return np.arange(round(duration_s * sfreq_hz)) / sfreq_hz


def rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


@pytest.mark.parametrize("phase", [0, 1, 2.5])
@pytest.mark.parametrize("amplitude_uv", [1, 2000])
@pytest.mark.parametrize("line_hz", [50, 60])
def test_a_steady_line_goes_whatever_its_amplitude_and_phase(
    line_hz: float, amplitude_uv: float, phase: float
) -> None:
    line = amplitude_uv * np.sin(2 * np.pi * line_hz * times(10, 256) + phase)
    left = subtract_line(line, sfreq_hz=256, line_hz=line_hz)
    assert np.abs(left).max() < 1e-5 * amplitude_uv


@pytest.mark.parametrize("sfreq_hz", [125, 128.5, 199.8, 200, 255.97, 512])
def test_rates_at_which_half_a_second_is_no_whole_number_of_periods(sfreq_hz: float) -> None:
    """An offset, a drift and the line's own image do not pass for line."""
    times_s = times(10, sfreq_hz)
    line = 100 * np.sin(2 * np.pi * 60 * times_s + 0.4)
    slow = 1e4 + 500 * times_s
    left = subtract_line(line + slow, sfreq_hz=sfreq_hz, line_hz=60)
    np.testing.assert_allclose(left, slow, atol=0.05)


@pytest.mark.parametrize(("offset_hz", "left"), [(0.03, 0.005), (0.2, 0.04), (-0.2, 0.04)])
@pytest.mark.parametrize("sfreq_hz", [128, 199.8, 200, 512])
def test_a_line_that_is_not_quite_60_hz(sfreq_hz: float, offset_hz: float, left: float) -> None:
    line = 100 * np.sin(2 * np.pi * (60 + offset_hz) * times(20, sfreq_hz))
    residual = subtract_line(line, sfreq_hz=sfreq_hz, line_hz=60)
    assert rms(residual) < left * rms(line)


def test_a_line_whose_amplitude_changes_within_seconds() -> None:
    times_s = times(60, 256)
    line = 100 * (1 + 0.5 * np.sin(2 * np.pi * 0.2 * times_s)) * np.cos(2 * np.pi * 50 * times_s)
    assert rms(subtract_line(line, sfreq_hz=256, line_hz=50)) < 0.01 * rms(line)


@pytest.mark.parametrize("duration_s", [0.5, 0.9, 1, 1.2, 1.7, 2.4, 3])
def test_short_signals(duration_s: float) -> None:
    line = 100 * np.sin(2 * np.pi * 50 * times(duration_s, 200) + 1)
    assert np.abs(subtract_line(line, sfreq_hz=200, line_hz=50)).max() < 0.01


def test_too_short_to_measure_is_returned_as_it_is() -> None:
    signal = pink(0.4).astype(np.float32)
    np.testing.assert_array_equal(subtract_line(signal, sfreq_hz=200, line_hz=50), signal)


def test_a_line_above_the_nyquist_frequency_is_left_alone() -> None:
    signal = pink(10, sfreq_hz=100).astype(np.float32)
    np.testing.assert_array_equal(subtract_line(signal, sfreq_hz=100, line_hz=60), signal)


def test_a_signal_without_a_line_is_nearly_unchanged() -> None:
    """Little is taken at 60 Hz and, from 0 to 32 Hz, less than 0.1% of the power."""
    signal = pink(120)
    cleaned = subtract_line(signal, sfreq_hz=200, line_hz=60)
    freqs_hz, taken = welch(signal - cleaned, 200, nperseg=800)
    _, power = welch(signal, 200, nperseg=800)
    assert rms(signal - cleaned) < 0.05 * rms(signal)
    shown = (freqs_hz > 0) & (freqs_hz < 32)
    assert (taken[shown] / power[shown]).max() < 1e-3


def test_eeg_keeps_its_ends() -> None:
    """The first and last 3 s are as right as the rest; by a notch alone they are not."""
    truth = pink(60)
    line = 2000 * np.sin(2 * np.pi * 60.03 * times(60, 200) + 1)
    ours = subtract_line(truth + line, sfreq_hz=200, line_hz=60) - truth
    notched = mne.filter.notch_filter(truth + line, 200.0, 60.0, verbose="ERROR") - truth
    inner, ends = slice(600, -600), np.r_[:600, -600:0]
    assert rms(ours[ends]) < 2 * rms(ours[inner])
    assert rms(notched[ends]) > 20 * rms(notched[inner])


def test_the_input_is_untouched() -> None:
    signal = pink(5).astype(np.float32)
    before = signal.copy()
    subtract_line(signal, sfreq_hz=200, line_hz=50)
    np.testing.assert_array_equal(signal, before)


@pytest.mark.parametrize("line_hz", [50.0, 60.0])
@pytest.mark.parametrize("gaps", [(), ((30.0, 70.0),)])
def test_the_line_is_told_from_what_was_recorded(line_hz: float, gaps: tuple) -> None:
    """The middle of the window may be a gap: zeros have no line."""
    signal = pink(100) + 20 * np.sin(2 * np.pi * line_hz * times(100, 200))
    for start_s, stop_s in gaps:
        signal[round(200 * start_s) : round(200 * stop_s)] = 0
    recording = Recording(
        signal[np.newaxis].astype(np.float32), 200.0, ("C3",), np.zeros(1, np.bool_), gaps=gaps
    )
    assert detect_line_hz(recording) == line_hz
