"""Building blocks of waveforms: noise of a given spectrum, random onsets, slow curves.

Noise is drawn in the frequency domain with one inverse FFT a source, of a length that is fast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import lfilter

from openclef.types import FloatArray


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
    n_fft = fft.next_fast_len(n_times, real=True)
    if n_fft > n_times:
        nearest_F = np.arange(len(psd_F) * n_fft // n_times) * n_times // n_fft
        psd_F = psd_F[nearest_F]
    amplitude_F = np.sqrt(psd_F * (n_fft * sfreq_hz / 4)).astype(np.float32)
    noise: FloatArray = fft.irfft(_normal(rng, amplitude_F), n=n_fft)[:n_times]
    return noise


def band_noise(
    rng: np.random.Generator, *, center_hz: float, width_hz: float, n_times: int, sfreq_hz: float
) -> FloatArray:
    """Narrow-band noise of unit RMS: a Gaussian spectral peak.

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
    n_fft = fft.next_fast_len(n_times, real=True)
    spectrum_F = _peak(rng, center_hz, width_hz, n_fft=n_fft, sfreq_hz=sfreq_hz)
    noise: FloatArray = fft.irfft(spectrum_F, n=n_fft)[:n_times]
    return noise


def arched_noise(
    rng: np.random.Generator, *, center_hz: float, width_hz: float, arch: float, n_times: int,
    sfreq_hz: float,
) -> FloatArray:  # fmt: skip
    """Narrow-band noise with a second harmonic locked to it, sharp on one side as mu is.

    Parameters
    ----------
    rng, center_hz, width_hz, n_times, sfreq_hz
        As in `band_noise`.
    arch : float
        Amplitude of the harmonic over that of the rhythm.

    Returns
    -------
    array, shape=(n_times,)
        The rhythm, of unit RMS without its harmonic.
    """
    n_fft = fft.next_fast_len(n_times)
    spectrum = np.zeros(n_fft, np.complex64)
    positive_F = _peak(rng, center_hz, width_hz, n_fft=n_fft, sfreq_hz=sfreq_hz)
    spectrum[: len(positive_F)] = 2 * positive_F
    analytic = fft.ifft(spectrum)[:n_times]
    size = np.abs(analytic)
    size += np.float32(1e-6)
    # (x + iy)^2 / size turns twice as fast, with the same envelope.
    harmonic = (analytic.real**2 - analytic.imag**2) / size
    arched: FloatArray = analytic.real + np.float32(arch) * harmonic
    return arched


def _peak(
    rng: np.random.Generator, center_hz: float, width_hz: float, *, n_fft: int, sfreq_hz: float
) -> NDArray[np.complex64]:
    """Spectrum `[F]` of a rhythm of unit RMS, up to its last frequency that is not empty."""
    step_hz = sfreq_hz / n_fft
    first = max(1, int((center_hz - 3 * width_hz) / step_hz))
    last = max(first + 1, min(n_fft // 2, int((center_hz + 3 * width_hz) / step_hz)))
    freqs_F = np.arange(first, last) * step_hz
    amplitude_F = np.exp(-0.5 * ((freqs_F - center_hz) / width_hz) ** 2)
    amplitude_F *= n_fft / (2 * np.sqrt((amplitude_F**2).sum()))
    spectrum_F = np.zeros(last, np.complex64)
    spectrum_F[first:] = _normal(rng, amplitude_F.astype(np.float32))
    return spectrum_F


def _normal(rng: np.random.Generator, amplitude_F: FloatArray) -> NDArray[np.complex64]:
    parts = rng.standard_normal(2 * len(amplitude_F), dtype=np.float32)
    spectrum_F: NDArray[np.complex64] = parts.view(np.complex64) * amplitude_F
    return spectrum_F


def waxing(
    rng: np.random.Generator, *, n_seconds: int, time_constant_s: float, depth: float
) -> NDArray[np.float64]:
    """Slow waxing and waning, as no rhythm is steady: log-normal with an exponential memory.

    Parameters
    ----------
    rng : Generator
        Randomness.
    n_seconds : int
        One value each.
    time_constant_s : float
        After which it has forgotten.
    depth : float
        Standard deviation of the logarithm.

    Returns
    -------
    array, shape=(n_seconds,)
        Factors whose mean square is 1.
    """
    memory = np.exp(-1 / time_constant_s)
    steps = rng.standard_normal(n_seconds) * np.sqrt(1 - memory**2)
    steps[0] /= np.sqrt(1 - memory**2)
    walk = lfilter([1.0], [1.0, -memory], steps)
    factors: NDArray[np.float64] = np.exp(depth * walk - depth**2)
    return factors


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
