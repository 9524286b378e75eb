"""Line removal, band-pass and resampling to 200 Hz: all linear, so applied as one, by FFT.

The kernels are those MNE designs (as the paper's authors use them, paper.md, Signal [C]); each
channel then costs one forward and one inverse transform. The ends are extended by reflection, so
a recording much shorter than the 33-s high-pass loses its mean and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

from openclef.errors import OpenclefError, RecordingError
from openclef.signal.gaps import bridge_gaps
from openclef.signal.line import LINES_HZ, detect_line_hz, subtract_line
from openclef.signal.montage import order_channels
from openclef.types import MIN_RECORDING_S, SFREQ_HZ, FloatArray, Recording

HIGHPASS_HZ = 0.1
LOWPASS_HZ = 75.0
MIN_SFREQ_HZ = 64.0  # the spectrogram shows 0-32 Hz
_MARGIN_HZ = 1.0  # between a filter's edge and the Nyquist frequency


def preprocess(recording: Recording, *, line_hz: float | None = None) -> Recording:
    """Filter to 0.1-75 Hz without line noise, resample to 200 Hz, order the 19 channels.

    Zero-phase FIR band-pass (paper.md, Signal [C]). In place of the notch the line is subtracted
    (`line`); the low-pass stops its multiples. Below 152 Hz sampling there is nothing to
    low-pass. Gaps are bridged first (`gaps`).

    Parameters
    ----------
    recording
        In microvolts, at its native rate, with any of the 19 channels.
    line_hz
        50 or 60; None: `detect_line_hz`.

    Returns
    -------
    Recording
        signal_uv `[19, S]` at 200 Hz; missing channels zero and hidden.

    Raises
    ------
    RecordingError
        Shorter than 4 s, sampled below 64 Hz, samples that are not finite, or none of the 19
        channels.
    OpenclefError
        Another line frequency.
    """
    ordered, line_hz = checked_for_filters(recording, line_hz)
    ordered = bridge_gaps(ordered)
    n_times = round(ordered.signal_uv.shape[1] * SFREQ_HZ / ordered.sfreq_hz)
    signal_uv = np.zeros((len(ordered.ch_names), n_times), np.float32)
    for row in np.flatnonzero(~ordered.channel_mask):
        signal_uv[row] = _filter_and_resample(
            ordered.signal_uv[row], ordered.sfreq_hz, line_hz, n_times
        )
    provenance = {**ordered.provenance, "line_hz": f"{line_hz:g}"}
    return replace(ordered, signal_uv=signal_uv, sfreq_hz=SFREQ_HZ, provenance=provenance)


def checked_for_filters(recording: Recording, line_hz: float | None) -> tuple[Recording, float]:
    """A recording in the order of the 19 that the filters can work on, and its line frequency.

    Raises as `preprocess`, which says what is checked.
    """
    if line_hz is not None and line_hz not in LINES_HZ:
        raise OpenclefError(f"line_hz {line_hz:g} is neither 50 nor 60 (None detects it)")
    if recording.sfreq_hz < MIN_SFREQ_HZ:
        raise RecordingError(
            f"sampled at {recording.sfreq_hz:g} Hz; 0-32 Hz needs at least {MIN_SFREQ_HZ:g} Hz"
        )
    if recording.duration_s < MIN_RECORDING_S:
        raise RecordingError(f"lasts {recording.duration_s:g} s; at least {MIN_RECORDING_S:g} s")
    ordered = order_channels(recording)
    check_finite(ordered)
    return ordered, line_hz or detect_line_hz(ordered)


def check_finite(recording: Recording) -> None:
    """Raise RecordingError, naming the channels, if a visible sample is NaN or infinite."""
    bad = ~np.isfinite(recording.signal_uv).all(axis=1) & ~recording.channel_mask
    if bad.any():
        names = ", ".join(np.array(recording.ch_names)[bad][:8])
        raise RecordingError(f"samples that are not finite numbers in {names}")


def _filter_and_resample(
    signal_S: FloatArray, sfreq_hz: float, line_hz: float, n_times_out: int
) -> NDArray[np.float64]:
    """Filter one channel and resample it to `SFREQ_HZ`.

    The line is first subtracted (`line` says why). The signal is then extended to a whole number
    of seconds, so that both rates have whole numbers of samples and resampling is a change of the
    inverse transform's length. (At a rate that is not a whole number the result is off by less
    than a sample over the recording.)
    """
    n_times = len(signal_S)
    least_s = int(np.ceil(len(bandpass_kernel(sfreq_hz)) / 2 / sfreq_hz))
    # The nearest to a whole number of samples: 2 s of 199.5 Hz, 5 s of 199.8 Hz.
    paddings_s = np.arange(least_s, least_s + 60)
    pad_s = int(paddings_s[np.argmin(abs(paddings_s * sfreq_hz - np.rint(paddings_s * sfreq_hz)))])
    padded_s = scipy.fft.next_fast_len(int(np.ceil(n_times / sfreq_hz)) + 2 * pad_s, real=True)
    n_padded, n_before = round(padded_s * sfreq_hz), round(pad_s * sfreq_hz)
    cleaned = subtract_line(signal_S, sfreq_hz=sfreq_hz, line_hz=line_hz)
    padded = np.pad(
        cleaned.astype(np.float64), (n_before, n_padded - n_before - n_times), mode="reflect"
    )
    spectrum = scipy.fft.rfft(padded)
    spectrum *= _response(sfreq_hz, n_padded)
    n_resampled = round(padded_s * SFREQ_HZ)
    resampled = scipy.fft.irfft(spectrum, n=n_resampled) * (n_resampled / n_padded)
    start = round(pad_s * SFREQ_HZ)
    result: NDArray[np.float64] = resampled[start : start + n_times_out]
    return result


@lru_cache(maxsize=8)
def _response(sfreq_hz: float, n_fft: int) -> NDArray[np.float64]:
    """Real (zero-phase) frequency response of the kernel on an `n_fft` grid, `[n_fft//2 + 1]`."""
    kernel = bandpass_kernel(sfreq_hz)
    half = len(kernel) // 2
    centred = np.zeros(n_fft)
    centred[: half + 1] = kernel[half:]
    centred[-half:] = kernel[:half]
    response: NDArray[np.float64] = scipy.fft.rfft(centred).real.copy()
    response[0] = 0.0  # the mean; the kernel leaves 1e-4 of it, too much of a large offset
    response[-1] = 0.0  # the Nyquist bin has no definite phase and cannot be resampled
    return response


@lru_cache(maxsize=8)
def bandpass_kernel(sfreq_hz: float, *, lowpass: bool = True) -> NDArray[np.float64]:
    """Symmetric FIR kernel of the 0.1-75-Hz band-pass, of odd length.

    Without the low-pass if asked, or where the Nyquist frequency leaves no room for one.
    """
    from mne.filter import create_filter

    has_room = sfreq_hz / 2 > LOWPASS_HZ + _MARGIN_HZ
    kernel: NDArray[np.float64] = create_filter(
        None, sfreq_hz, HIGHPASS_HZ, LOWPASS_HZ if lowpass and has_room else None, verbose="ERROR"
    )
    return kernel
