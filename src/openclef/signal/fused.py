"""Raw samples -> multitaper power in dB: filters, resampling and tapers as one linear map.

The fast twin of `filters.preprocess` + `multitaper.multitaper_psd`, which stay as the definition
that the tests hold it to: above -20 dB it differs by 0.01 dB at the median, 0.1 dB at the 99.9th
percentile. The derivation is in `design`. Float32 throughout, a channel at a time, so that what
is at work fits the processor's cache.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from openclef.signal.design import (
    BINS,
    DEGREE,
    N_FREQS,
    N_SECONDS,
    N_TAPS,
    SLICES,
    START,
    SecondMap,
    second_map,
    taper_table,
)
from openclef.signal.line import subtract_line
from openclef.types import SFREQ_HZ, FloatArray

FLOOR_UV2_HZ = 1e-10  # keeps the logarithm finite: -100 dB
MIN_SFREQ_HZ = 100.0  # a second resampled by 20 samples of its neighbours is not exact below
MAX_SFREQ_HZ = 2048.0  # designing the map takes a second there, and grows with the cube
_HALF_SINC = 16  # samples
_TILE = 256  # frames at a time: what one bin needs stays in the fastest cache


def can_fuse(sfreq_hz: float) -> bool:
    """Whether seconds hold a whole number of samples, neither too few nor too many."""
    return float(sfreq_hz).is_integer() and MIN_SFREQ_HZ <= sfreq_hz <= MAX_SFREQ_HZ


def fused_power_db(
    signal_uv: FloatArray, *, sfreq_hz: float, line_hz: float | None
) -> NDArray[np.float32]:
    """Multitaper power of one channel every second (paper.md, 3D multitaper spectrogram [C]).

    Parameters
    ----------
    signal_uv
        `[S]` float32, finite, at least 4 s.
    sfreq_hz
        One that `can_fuse`; 200 if line_hz is None.
    line_hz
        50 or 60: raw, so drift and line are removed as by `preprocess`. None: as `preprocess`
        returns it.

    Returns
    -------
    power_db
        `[F, T]`: 10 log10(uV^2/Hz + 1e-10), T = floor(duration_s); 2 s are reflected at both
        ends.
    """
    rate, raw = round(sfreq_hz), line_hz is not None
    plan, table = second_map(rate, raw=raw), taper_table()
    cleaned = signal_uv
    if line_hz is not None:
        cleaned = subtract_line(signal_uv, sfreq_hz=sfreq_hz, line_hz=line_hz)
    n_frames = round(len(cleaned) * SFREQ_HZ / rate) // round(SFREQ_HZ)
    n_seconds = n_frames + N_SECONDS - 1
    padded = _reflected(cleaned, rate, n_frames, plan.n_margin)
    padded -= padded.mean()  # a large offset would cost float32 its last digits
    sums, differences = _fold(padded, rate, rate + 1 + 2 * plan.n_margin, n_seconds)
    rows = np.stack([plan.even @ sums.T, plan.odd @ differences.T])  # [2, R, seconds]
    if raw:
        _remove_drift(rows, plan, int(SLICES * len(cleaned) / rate))
    even, odd = rows[:, START]
    starts = np.append(even + odd, even[-1:] - odd[-1:])  # and the end of the last second
    bins = np.ascontiguousarray(rows[:, : len(BINS)])
    power = np.empty((N_FREQS, n_frames), np.float32)
    _taper(bins, starts, table.taps, table.mean, table.edge, power)
    power[0] /= 2  # one-sided: the other bins count twice, the mean once
    power += np.float32(FLOOR_UV2_HZ)
    np.log10(power, out=power)
    power *= np.float32(10)
    return power


def _reflected(signal: FloatArray, rate: int, n_frames: int, n_margin: int) -> FloatArray:
    """The signal from 2 s before its start to 2 s after its last frame, with margins."""
    n_half = N_SECONDS // 2 * rate
    n_after = max((n_frames - 1) * rate + n_half + n_margin + 1 - len(signal), 0)
    # `preprocess` reflects what it has resampled about its last sample, which is not at the time
    # of ours: our reflection is delayed by twice as much.
    last = (round(len(signal) * SFREQ_HZ / rate) - 1) * rate / SFREQ_HZ
    delay = 2 * (last - (len(signal) - 1))  # native samples; below 0 above 200 Hz
    if not delay or not n_after:
        return np.pad(signal, (n_half + n_margin, n_after), mode="reflect")
    reach = _HALF_SINC + int(np.ceil(abs(delay)))
    padded = np.pad(signal, (n_half + n_margin, n_after + reach), mode="reflect")
    lags = np.arange(-reach, reach + 1) - delay
    window = np.where(abs(lags) < _HALF_SINC, np.cos(np.pi / 2 * lags / _HALF_SINC) ** 2, 0)
    kernel = (np.sinc(lags) * window).astype(np.float32)
    delayed = np.convolve(padded[-n_after - 2 * reach :], kernel / kernel.sum(), mode="valid")
    padded = padded[:-reach]
    padded[-n_after:] = delayed
    return padded


@njit(cache=True)
def _fold(padded, rate, n_samples, n_seconds):  # type: ignore[no-untyped-def]
    """Sums and differences `[seconds, K]` of the samples either side of each second's middle.

    n_samples: of a second with its margins. The outermost pair comes first; a middle sample
    without a partner stands alone.
    """
    n_pairs = (n_samples + 1) // 2
    sums = np.empty((n_seconds, n_pairs), np.float32)
    differences = np.empty((n_seconds, n_pairs), np.float32)
    for second in range(n_seconds):
        first = second * rate
        last = first + n_samples - 1
        for k in range(n_pairs):
            earlier, later = padded[first + k], padded[last - k]
            sums[second, k] = later + earlier
            differences[second, k] = later - earlier
        if n_samples % 2:
            sums[second, n_pairs - 1] = padded[first + n_pairs - 1]
    return sums, differences


def _remove_drift(rows: FloatArray, plan: SecondMap, n_slices: int) -> None:
    """Take the drift out of the rows `[2, R, seconds]`.

    n_slices: how many slices of a second were recorded; beyond, the signal is its reflection.
    """
    even, odd = rows[:, START + 1 :]
    means = np.concatenate([(even - odd)[::-1], even + odd])  # [SLICES, seconds]
    n_before = N_SECONDS // 2 * SLICES
    recorded = means.T.reshape(-1)[n_before : n_before + n_slices]
    n_side = plan.drift_kernel.shape[1] // 2
    n_after = means.size - n_before - len(recorded)
    series = np.pad(recorded, (n_before + n_side, n_after + n_side), mode="symmetric")
    value, slope = _at_seconds(series, plan.drift_kernel)
    rows -= plan.drift @ np.stack([value[:-1], slope[:-1], value[1:], slope[1:]])


@njit(cache=True, fastmath=True)
def _at_seconds(series, kernels):  # type: ignore[no-untyped-def]
    """Correlate slices `[n]` with kernels `[2, m]` where seconds meet: `[2, seconds + 1]`."""
    n_kernels, n_taps = kernels.shape
    n_ends = (len(series) - n_taps) // SLICES + 1
    out = np.empty((n_kernels, n_ends), np.float32)
    for m in range(n_ends):
        around = series[m * SLICES : m * SLICES + n_taps]
        for i in range(n_kernels):
            total = np.float32(0)
            for k in range(n_taps):
                total += kernels[i, k] * around[k]
            out[i, m] = total
    return out


@njit(cache=True, fastmath=True)
def _five(taps, k):  # type: ignore[no-untyped-def]
    return taps[k], taps[k + 1], taps[k + 2], taps[k + 3], taps[k + 4]


@njit(cache=True, fastmath=True)
def _taper(bins, starts, taps, mean, edge, power):  # type: ignore[no-untyped-def]
    """Sum over tapers of the power of every frame.

    bins `[2, Q, seconds]`: real and imaginary parts; starts `[seconds + 1]`: the sample where
    each begins and where the last ends; taps, mean, edge: of `TaperTable`; power `[F, T]` is
    written. Every inner loop runs over frames and touches few arrays: the compiler vectorises it.
    """
    n_freqs, n_frames = power.shape
    n_tapers = taps.shape[2]
    first, end = starts[:n_frames], starts[N_SECONDS:]
    means = np.float32(0.5) * (first - end)  # trapezoids -> plain sums of 4 s
    for second in range(N_SECONDS):
        means += bins[0, DEGREE, second : second + n_frames]
    means /= np.float32(N_SECONDS * SFREQ_HZ)
    parts = np.empty((2, n_tapers, _TILE), np.float32)  # of the frames' transforms
    near = np.empty((2, N_TAPS, _TILE), np.float32)
    for begin in range(0, n_frames, _TILE):
        n = min(_TILE, n_frames - begin)
        x_first, x_end = first[begin : begin + n], end[begin : begin + n]
        x_mean = means[begin : begin + n]
        for f in range(n_freqs):
            for part in range(2):
                for v in range(n_tapers):
                    a, b, c = edge[v, f, 0, part], edge[v, f, 1, part], mean[v, f, part]
                    for t in range(n):
                        parts[part, v, t] = a * x_first[t] + b * x_end[t] - c * x_mean[t]
            for second in range(N_SECONDS):
                # Three sums and two differences of the five bins around f, shared by the tapers:
                # first of the part that the phase of the second makes real, then of the other.
                for part in range(2):
                    rows = bins[(f * second + part) % 2]
                    u = begin + second
                    r0, r1, r2 = rows[f][u : u + n], rows[f + 1][u : u + n], rows[f + 2][u : u + n]
                    r3, r4 = rows[f + 3][u : u + n], rows[f + 4][u : u + n]
                    x = near[part]
                    for t in range(n):
                        x[0, t] = r2[t]
                        x[1, t] = r1[t] + r3[t]
                        x[2, t] = r0[t] + r4[t]
                        x[3, t] = r1[t] - r3[t]
                        x[4, t] = r0[t] - r4[t]
                for part in range(2):
                    x, y = near[part], near[1 - part]
                    for v in range(0, n_tapers, 2):  # two at a time share what is loaded
                        k = N_TAPS * part
                        a0, a1, a2, a3, a4 = _five(taps[f % 4, second, v], k)
                        b0, b1, b2, b3, b4 = _five(taps[f % 4, second, v + 1], k)
                        for t in range(n):
                            x0, x1, x2, y3, y4 = x[0, t], x[1, t], x[2, t], y[3, t], y[4, t]
                            parts[part, v, t] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * y3 + a4 * y4
                            parts[part, v + 1, t] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * y3 + b4 * y4
            out = power[f][begin : begin + n]
            for t in range(n):
                total = np.float32(0)
                for part in range(2):
                    for v in range(4):
                        total += parts[part, v, t] * parts[part, v, t]
                out[t] = total
