"""Matrices that turn one second of EEG into its share of every multitaper frame around it.

A frame is four seconds, a step one: each second belongs to four frames, and the plain algorithm
transforms it 16 times (4 frames x 4 tapers). Here it is transformed once. `signal.fused` runs
that; this module computes the numbers, in float64, once for each sampling rate. The derivation:

1. A frame is cut into seconds as an integral is by the trapezoid rule: a sample where two seconds
   meet counts half in each. What this gets wrong at the frame's own ends, half of the first
   sample too little and half of one after the last too much, `TaperTable.edge` puts right.
2. Second u is transformed on the frame's 0.25-Hz grid, with time t counted from its middle:
   X_u(q) = sum over t of x(t) exp(-2 pi i q t / 4). In the frame whose first second is u, second
   u + j has the phase (-i)^(j q). Counted from the middle, real parts come from the even part of
   the signal and imaginary parts from the odd: samples are folded first, half the multiplications.
3. Within one second j, taper v is, to 0.06% of its peak, a trigonometric polynomial of degree 2 in
   the frame's period: w(t) = sum over m = 0..2 of c_m cos(2 pi m t / 4) + s_m sin(2 pi m t / 4).
   A product with it is a convolution of five neighbouring bins, the taps:
   cosine m gives c_m / 2 (X(q - m) + X(q + m)), sine m gives s_m / 2i (X(q - m) - X(q + m)).
4. The frame's mean, taken out by the plain algorithm first, goes as its own transform does.

All this is linear in the samples, so what comes before the transform (paper.md, Signal [C]) joins
the same matrices for raw signals at their native rate:

5. Resampling and low-pass: no resampled signal is made. Each bin of a second wants one weighted
   sum of native samples: the one that, for every sinusoid up to the Nyquist frequency, comes
   nearest (least squares) to the bin that the filtered sinusoid has at 200 Hz.
6. The 0.1-Hz high-pass is the signal less its drift, which is so slow that in one second it is a
   cubic. Its value and slope where seconds meet are weighted sums of the means of eighths of
   seconds ("slices") up to 16 s away; what a cubic puts into the bins is then subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal.windows import dpss

from openclef.signal.filters import bandpass_kernel
from openclef.signal.multitaper import BANDWIDTH_HZ, MAX_FREQ_HZ, WINDOW_S
from openclef.types import SFREQ_HZ

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Complex = NDArray[np.complex128]

N_SECONDS = int(WINDOW_S)  # seconds in a frame
N_FREQS = round(MAX_FREQ_HZ * WINDOW_S)
DEGREE = 2  # of the trigonometric polynomials
N_TAPS = 2 * DEGREE + 1
# Bins of one second's transform: those of the frames and DEGREE more on both sides.
BINS = np.arange(-DEGREE, N_FREQS + DEGREE)
START = len(BINS)  # the row after them
SLICES = 8  # in a second

_N = round(WINDOW_S * SFREQ_HZ)
_RATE = round(SFREQ_HZ)
_MARGIN = 20  # samples that a second borrows of each neighbour to be resampled
_GRID = 8  # sinusoids in a hertz, for least squares


@dataclass(frozen=True, eq=False)
class TaperTable:
    """Four tapers as five-tap convolutions over bins; the same for every sampling rate.

    Attributes
    ----------
    taps
        `[4 (q modulo 4), 4 seconds, 4 tapers, 10]`. The phase (-i)^(j q) is in them: where j q is
        odd it makes real parts of imaginary ones. "Direct" below is the part (real or imaginary
        of X) that the phase turns into the real part of the result, "other" the other one. The
        result's real part: three taps on sums of direct (X(q), X(q-1) + X(q+1), X(q-2) + X(q+2)),
        two on differences of other (X(q-1) - X(q+1), X(q-2) - X(q+2)). Its imaginary part: three
        on sums of other, two on differences of direct.
    mean
        `[4, F, 2]`, transforms of the tapers (real, imaginary), times the frame's mean.
    edge
        `[4, F, 2, 2]`, what the frame's first sample and the one after its last add (real,
        imaginary).
    """

    taps: F32
    mean: F32
    edge: F32


@dataclass(frozen=True, eq=False)
class SecondMap:
    """From the samples of a second, folded about its middle, to its bins; for one sampling rate.

    Attributes
    ----------
    n_margin
        Samples taken beyond both ends of the second.
    even, odd
        `[R, K]`, for the sums and the differences (later less earlier) of the K pairs of samples
        either side of the middle, outermost first. Rows: real (even) and imaginary (odd) parts of
        the `BINS`; then `START`: value at the second's start = even + odd, at its end = even -
        odd; then SLICES/2 rows, innermost first: mean of the later slice = even + odd, of the
        earlier = even - odd.
    drift
        `[2, R, 4]`, what a drift puts into the even and odd rows: its value and slope (a second)
        at the second's start, value and slope at its end.
    drift_kernel
        `[2, n]`, weights of the n slices around the end of a second that give the drift's value
        and slope there.
    """

    n_margin: int
    even: F32
    odd: F32
    drift: F32
    drift_kernel: F32


@lru_cache(maxsize=1)
def taper_table() -> TaperTable:
    """Fit the tapers second by second."""
    tapers = _tapers()
    angles = 2 * np.pi * np.outer(_seconds(_RATE) / N_SECONDS, np.arange(1, DEGREE + 1))
    basis = np.concatenate([np.ones((_RATE + 1, 1)), np.cos(angles), np.sin(angles)], axis=1)
    pieces = np.stack([tapers[:, j * _RATE : (j + 1) * _RATE + 1] for j in range(N_SECONDS)])
    fitted = np.linalg.lstsq(basis, pieces.reshape(-1, _RATE + 1).T, rcond=None)[0]
    cosines, sines = np.split(fitted.T.reshape(N_SECONDS, 4, N_TAPS), [DEGREE + 1], axis=-1)
    cosines[..., 1:] /= 2
    sines /= 2

    taps = np.zeros((4, N_SECONDS, 4, 2 * N_TAPS))
    for residue, second in np.ndindex(4, N_SECONDS):
        # (-i)^k turns E + iO into E + iO, O - iE, -E - iO, -O + iE; division of the sines by i
        # has them act on what the cosines do not.
        of_real, of_imaginary = ((1, 1), (1, -1), (-1, -1), (-1, 1))[residue * second % 4]
        taps[residue, second] = np.concatenate(
            [
                *(of_real * cosines[second], of_imaginary * sines[second]),
                *(of_imaginary * cosines[second], -of_real * sines[second]),
            ],
            axis=-1,
        )

    # Phases count from the middle of the frame's first second: those of its start, and of its end
    # too, four seconds later.
    start = np.exp(2j * np.pi * np.arange(N_FREQS) / (2 * N_SECONDS))
    ends = np.stack([tapers[:, 0], -tapers[:, -1]], axis=-1) / 2  # [4, 2]
    edge = ends[:, np.newaxis] * start[:, np.newaxis]  # [4, F, 2]
    mean = _transforms_of_one(taps) + edge.sum(axis=-1)
    return TaperTable(taps.astype(np.float32), _as_pair(mean), _as_pair(edge))


def _tapers() -> F64:
    """DPSS tapers `[4, N + 1]` whose plain sum of powers is the weighted PSD.

    As `multitaper._scaled_tapers`, with the sample that the periodic ones leave out.
    """
    half_bandwidth = WINDOW_S * BANDWIDTH_HZ / 2
    tapers = dpss(_N + 1, half_bandwidth, 4, sym=True)
    _, eigenvalues = dpss(_N, half_bandwidth, 4, sym=False, return_ratios=True)
    weights = 2 * eigenvalues / eigenvalues.sum() / SFREQ_HZ
    scaled: F64 = tapers * np.sqrt(weights)[:, np.newaxis]
    return scaled


def _transforms_of_one(taps: F64) -> Complex:
    """Transforms `[4, F]` of the fitted tapers: what `fused` makes of seconds that are all ones."""
    tau_s = _seconds(_RATE)
    one = np.cos(2 * np.pi * np.outer(BINS / N_SECONDS, tau_s)) @ _second_weights(tau_s, _RATE)
    total = np.zeros((4, N_FREQS), np.complex128)
    for q, second in np.ndindex(N_FREQS, N_SECONDS):
        near = one[q : q + N_TAPS]  # real, so that half of the taps find nothing
        sums = np.array([near[2], near[1] + near[3], near[0] + near[4]])
        differences = np.array([near[1] - near[3], near[0] - near[4]])
        tap = taps[q % 4, second]
        if q * second % 2:
            total[:, q] += tap[:, 3:5] @ differences + 1j * (tap[:, 5:8] @ sums)
        else:
            total[:, q] += tap[:, :3] @ sums + 1j * (tap[:, 8:] @ differences)
    return total


def _as_pair(values: Complex) -> F32:
    return np.stack([values.real, values.imag], axis=-1).astype(np.float32)


def _seconds(rate: int, n_margin: int = 0) -> F64:
    """Times `[S]` of the samples of a second, both ends and margins included, from its middle."""
    return np.arange(-n_margin, rate + n_margin + 1) / rate - 0.5


def _second_weights(tau_s: F64, rate: int) -> F64:
    """Trapezoid weights `[S]` of a second, whose sum is that of 200 Hz."""
    return _RATE * _shares(tau_s, rate, -0.5, 0.5)


def _shares(tau_s: F64, rate: int, start_s: float, stop_s: float) -> F64:
    """How much of each sample's interval lies in a stretch of time, `[S]` seconds."""
    first = np.maximum(tau_s - 0.5 / rate, start_s)
    last = np.minimum(tau_s + 0.5 / rate, stop_s)
    overlap: F64 = np.maximum(last - first, 0)
    return overlap


@lru_cache(maxsize=8)
def second_map(rate: int, *, raw: bool) -> SecondMap:
    """Design the map of a second sampled `rate` times.

    raw: still to be filtered and resampled; else as `preprocess` returns it, at 200 Hz.
    """
    n_margin = _MARGIN if raw else 0
    tau_s = _seconds(rate, n_margin)
    even, odd = _filtered_rows(rate, tau_s) if raw else _plain_rows(tau_s)
    slices = np.stack(
        [SLICES * _shares(tau_s, rate, k / SLICES, (k + 1) / SLICES) for k in range(SLICES // 2)]
    )
    even = np.concatenate([even, (slices + slices[:, ::-1]) / 2])
    odd = np.concatenate([odd, (slices - slices[:, ::-1]) / 2])
    s = tau_s + 0.5
    hermite = np.stack(
        [(1 + 2 * s) * (1 - s) ** 2, s * (1 - s) ** 2, s**2 * (3 - 2 * s), s**2 * (s - 1)]
    )
    return SecondMap(
        n_margin=n_margin,
        even=_of_pairs(even),
        odd=_of_pairs(odd),
        drift=np.stack([even @ hermite.T, odd @ hermite.T]).astype(np.float32),
        drift_kernel=_drift_kernel().astype(np.float32),
    )


def _of_pairs(rows: F64) -> F32:
    """Weights `[R, S]` of samples, even or odd about the middle -> of pairs `[R, K]`."""
    n_pairs = (rows.shape[1] + 1) // 2
    return np.ascontiguousarray(rows[:, ::-1][:, :n_pairs], dtype=np.float32)


def _plain_rows(tau_s: F64) -> tuple[F64, F64]:
    """Even and odd weights `[Q + 1, S]` on samples at 200 Hz: bins and start of a second."""
    angles = 2 * np.pi * np.outer(BINS / N_SECONDS, tau_s)
    weights = _second_weights(tau_s, _RATE)
    ends = np.where(np.abs(tau_s) == 0.5, 0.5, 0.0)
    return (
        np.vstack([np.cos(angles) * weights, ends]),
        np.vstack([-np.sin(angles) * weights, -np.sign(tau_s) * ends]),
    )


def _filtered_rows(rate: int, tau_s: F64) -> tuple[F64, F64]:
    """Even and odd weights `[Q + 1, S]` on native samples that give `_plain_rows` of the filtered.

    Least squares over sinusoids. Each must come out as the band-pass of `preprocess` passes it,
    below 1 Hz unchanged, for drift is subtracted afterwards; errors are weighed as EEG's
    amplitude falls with frequency.
    """
    freqs_hz = np.arange(_GRID * rate // 2) / _GRID
    weight = 1 / (freqs_hz + 0.25) + 0.03
    response = np.where(freqs_hz < 1, 1.0, _bandpass_response(rate)[: len(freqs_hz)])
    at_200_s = _seconds(_RATE)
    later_s = tau_s[::-1][: (len(tau_s) + 1) // 2]
    n_earlier = len(tau_s) // 2
    both = np.where(later_s > 0, 2.0, 1.0)  # a pair counts twice, a middle sample once

    def solve(wave: np.ufunc, plain: F64, sign: int) -> F64:
        target = plain @ wave(2 * np.pi * np.outer(at_200_s, freqs_hz)) * (response * weight)
        native = wave(2 * np.pi * np.outer(freqs_hz, later_s))
        native *= weight[:, np.newaxis] * both
        ridge = 1e-7 * np.eye(len(later_s))
        later = np.linalg.solve(native.T @ native + ridge, (target @ native).T).T
        return np.concatenate([sign * later[:, :n_earlier], later[:, ::-1]], axis=1)

    even, odd = _plain_rows(at_200_s)
    return solve(np.cos, even, 1), solve(np.sin, odd, -1)


def _bandpass_response(rate: int) -> F64:
    """Response of the band-pass of `preprocess`, every 1/_GRID Hz up to the Nyquist frequency."""
    kernel = bandpass_kernel(float(rate))
    n_fft = _GRID * rate
    lags = np.arange(len(kernel)) - len(kernel) // 2
    # Longer than n_fft: wrapped round, which leaves the frequencies of the grid exact.
    wrapped = np.bincount(lags % n_fft, weights=kernel, minlength=n_fft)
    response: F64 = np.fft.rfft(wrapped).real
    return response


def _drift_kernel() -> F64:
    """Weights `[2, n]` of slices that give the drift's value and slope where two seconds meet.

    The drift is what the high-pass of `preprocess` takes away: its kernel is an impulse less the
    high-pass, smooth but for the impulse itself, which falls between two slices.
    """
    highpass = bandpass_kernel(SFREQ_HZ, lowpass=False)
    half = len(highpass) // 2
    lags = np.delete(np.arange(-half, half + 1), half)
    kernel = -np.delete(highpass, half)
    n_slice = _RATE / SLICES  # samples
    n_side = int(half / n_slice - 0.5)
    middles_s = (np.arange(-n_side, n_side) + 0.5) / SLICES
    value = np.interp(middles_s * _RATE, lags, kernel)
    slope = -np.interp(middles_s * _RATE, lags, np.gradient(kernel, lags)) * n_slice * _RATE
    # The kernel does not end at zero: the slope sees its two steps there, too.
    step = (1 - slope @ middles_s) / (middles_s[-1] - middles_s[0])
    slope[[0, -1]] += np.array([-step, step])
    return np.stack([value / value.sum(), slope])
