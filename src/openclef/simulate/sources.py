"""Building blocks of a simulated EEG: noise of a given spectrum, event trains, topographies.

A signal is a sum of sources, each one waveform `[S]` seen by the electrodes through one
topography `[C]`. Noise is drawn in the frequency domain with one inverse FFT a source.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from openclef.types import CHANNELS, FloatArray

# Electrodes on the head seen from above: x to the right ear, y to the nose, the rim at radius 1.
POSITIONS = {
    "Fp1": (-0.31, 0.95), "Fp2": (0.31, 0.95),
    "F7": (-0.81, 0.59), "F3": (-0.42, 0.54), "Fz": (0.0, 0.5),
    "F4": (0.42, 0.54), "F8": (0.81, 0.59),
    "T3": (-1.0, 0.0), "C3": (-0.5, 0.0), "Cz": (0.0, 0.0), "C4": (0.5, 0.0), "T4": (1.0, 0.0),
    "T5": (-0.81, -0.59), "P3": (-0.42, -0.54), "Pz": (0.0, -0.5),
    "P4": (0.42, -0.54), "T6": (0.81, -0.59),
    "O1": (-0.31, -0.95), "O2": (0.31, -0.95),
}  # fmt: skip
_XY_C2 = np.array([POSITIONS[name] for name in CHANNELS])


def topography(x: float, y: float, *, width: float) -> FloatArray:
    """Gaussian fall-off from a point on the head.

    Parameters
    ----------
    x, y : float
        Centre, in the coordinates of `POSITIONS`.
    width : float
        Standard deviation, in head radii.

    Returns
    -------
    array, shape=(n_chans,)
        Weights in `CHANNELS` order, 1 at the centre.
    """
    distance2_C = ((_XY_C2 - (x, y)) ** 2).sum(axis=1)
    weights_C: FloatArray = np.exp(-distance2_C / (2 * width**2)).astype(np.float32)
    return weights_C


def shaped_noise(
    rng: np.random.Generator, *, psd_F: NDArray[np.floating], n_times: int, sfreq_hz: float
) -> FloatArray:
    """Gaussian noise of a given power spectral density.

    Parameters
    ----------
    rng : Generator
        Randomness.
    psd_F : array, shape=(n_freqs,)
        One-sided density in uV^2/Hz at `k * sfreq_hz / n_times`; frequencies beyond it are empty.
    n_times : int
        Number of samples.
    sfreq_hz : float
        Sampling frequency.

    Returns
    -------
    array, shape=(n_times,)
        The noise, in uV.
    """
    amplitude_F = (n_times / 2) * np.sqrt(psd_F * (sfreq_hz / n_times))
    normal = rng.standard_normal(2 * len(amplitude_F), dtype=np.float32)
    spectrum_F = normal.view(np.complex64) * amplitude_F.astype(np.float32)
    noise: FloatArray = fft.irfft(spectrum_F, n=n_times)
    return noise


def band_noise(
    rng: np.random.Generator, *, center_hz: float, width_hz: float, n_times: int, sfreq_hz: float
) -> FloatArray:
    """Narrow-band noise of unit RMS: a Gaussian spectral peak of the given standard deviation.

    Parameters
    ----------
    rng : Generator
        Randomness.
    center_hz, width_hz : float
        Peak and standard deviation of the amplitude spectrum.
    n_times : int
        Number of samples.
    sfreq_hz : float
        Sampling frequency.

    Returns
    -------
    array, shape=(n_times,)
        The rhythm.
    """
    step_hz = sfreq_hz / n_times
    first = max(1, int((center_hz - 3 * width_hz) / step_hz))
    last = max(first + 1, min(n_times // 2, int((center_hz + 3 * width_hz) / step_hz)))
    freqs_F = np.arange(last + 1) * step_hz
    psd_F = np.exp(-(((freqs_F - center_hz) / width_hz) ** 2))
    psd_F[:first] = 0
    psd_F /= psd_F.sum() * step_hz
    return shaped_noise(rng, psd_F=psd_F, n_times=n_times, sfreq_hz=sfreq_hz)


def train(
    onsets_N: NDArray[np.integer],
    *,
    template_S: NDArray[np.floating],
    n_times: int,
    amplitudes_N: NDArray[np.floating] | float = 1.0,
) -> FloatArray:
    """Put a template at each onset.

    Parameters
    ----------
    onsets_N : array of int, shape=(n_events,)
        First samples; an event that would pass the end is left out.
    template_S : array, shape=(n_template,)
        The waveform of one event.
    n_times : int
        Number of samples.
    amplitudes_N : float or array, shape=(n_events,)
        Factor of each event.

    Returns
    -------
    array, shape=(n_times,)
        The sum of all events.
    """
    amplitudes_N = np.broadcast_to(amplitudes_N, onsets_N.shape)
    fits_N = onsets_N + len(template_S) <= n_times
    samples_NS = onsets_N[fits_N, None] + np.arange(len(template_S))
    track = np.zeros(n_times, np.float32)
    np.add.at(track, samples_NS, (amplitudes_N[fits_N, None] * template_S).astype(np.float32))
    return track


def poisson_onsets(
    rng: np.random.Generator, *, rate_hz_T: NDArray[np.floating], sfreq_hz: float
) -> NDArray[np.intp]:
    """Onset samples of a Poisson process whose rate is given for each second.

    Parameters
    ----------
    rng : Generator
        Randomness.
    rate_hz_T : array, shape=(n_seconds,)
        Events a second.
    sfreq_hz : float
        Sampling frequency.

    Returns
    -------
    array of int
        Sorted samples.
    """
    counts_T = rng.poisson(np.clip(rate_hz_T, 0, None))
    seconds_N = np.repeat(np.arange(len(counts_T)), counts_T)
    return np.sort(((seconds_N + rng.random(len(seconds_N))) * sfreq_hz).astype(np.intp))


def each_sample(curve_T: NDArray[np.floating], *, n_times: int, sfreq_hz: float) -> FloatArray:
    """Interpolate a curve with one value a second to every sample.

    Parameters
    ----------
    curve_T : array, shape=(n_seconds + 1,)
        Values at 0, 1, ..., n_seconds seconds.
    n_times : int
        Number of samples, `n_seconds * sfreq_hz`.
    sfreq_hz : float
        Sampling frequency, a whole number.

    Returns
    -------
    array, shape=(n_times,)
        The curve.
    """
    ramp = np.arange(int(sfreq_hz), dtype=np.float32) / np.float32(sfreq_hz)
    curve = curve_T.astype(np.float32)
    rise = np.diff(curve)
    samples: FloatArray = (curve[:-1, None] + rise[:, None] * ramp).reshape(n_times)
    return samples


def mix(sources: Iterable[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """Sum sources over their topographies.

    Parameters
    ----------
    sources : iterable of (waveform `[S]`, topography `[C]`)
        At least one.

    Returns
    -------
    array, shape=(n_chans, n_times)
        The signal at the electrodes, in the waveforms' unit.
    """
    waveforms, topographies = zip(*sources, strict=True)
    signal_CS: FloatArray = np.stack(topographies, axis=1) @ np.stack(waveforms)
    return signal_CS
