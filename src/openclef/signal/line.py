"""Line noise: which frequency it has, and taking it out as a sinusoid that changes slowly.

A notch filter alone rings for three seconds wherever the line's phase breaks, and at the ends of
a recording, which filters extend by a reflection, it always does: at a line of 2 mV the first
frames were wrong by up to 30 dB (docs/log.md). Subtracting it, half second
by half second, does not ring.
"""

from __future__ import annotations

import numpy as np
import scipy.signal
from numba import njit
from numpy.typing import NDArray

from openclef.types import Recording

LINES_HZ = (50.0, 60.0)
_MOST_STRETCHES = 15
_BLOCK_S = 0.5
_BELOW_NYQUIST_HZ = 1.2  # nearer, it cannot be told from its own mirror image


def detect_line_hz(recording: Recording) -> float:
    """Tell the line frequency, 50 or 60 Hz, by which one stands out more from its neighbours.

    Power within 0.5 Hz over that 2-5 Hz away on both sides, median over channels, in up to 15
    stretches of 2 s that were recorded, evenly spread. Where the amplifier has removed the line
    already, the answer is arbitrary, and does no harm.
    """
    n_stretch = round(2 * recording.sfreq_hz)
    n_stretches = recording.signal_uv.shape[1] // n_stretch
    recorded = np.ones(n_stretches, np.bool_)
    for start_s, stop_s in recording.gaps:
        first = int(start_s * recording.sfreq_hz) // n_stretch
        recorded[first : int(stop_s * recording.sfreq_hz) // n_stretch + 1] = False
    kept = np.flatnonzero(recorded) if recorded.any() else np.arange(n_stretches)
    kept = kept[np.linspace(0, len(kept) - 1, min(len(kept), _MOST_STRETCHES)).astype(int)]
    present = recording.signal_uv[~recording.channel_mask]
    stretches = present[:, : n_stretches * n_stretch].reshape(len(present), -1, n_stretch)[:, kept]
    freqs_hz, power = scipy.signal.periodogram(stretches, recording.sfreq_hz, window="hann")
    power = power.mean(axis=1)

    def prominence(line_hz: float) -> float:
        distance_hz = np.abs(freqs_hz - line_hz)
        at, around = distance_hz <= 0.5, (distance_hz >= 2) & (distance_hz <= 5)
        if not at.any() or not around.any():
            return 0.0
        floor = np.maximum(power[:, around].mean(axis=1), np.finfo(np.float32).tiny)
        return float(np.median(power[:, at].mean(axis=1) / floor))

    return max(LINES_HZ, key=prominence)


def subtract_line(
    signal_uv: NDArray[np.floating], *, sfreq_hz: float, line_hz: float
) -> NDArray[np.float32]:
    """Take the line out of one channel.

    Its harmonics are left to the low-pass, which stops everything above 94 Hz. The complex
    amplitude of each half second is measured; within it the amplitude follows the parabola through
    its neighbours, so that a line 0.25 Hz off, or one that changes within seconds, goes, too.

    Parameters
    ----------
    signal_uv
        `[S]`, of any length; less than half a second is returned as it is.
    sfreq_hz
        Not necessarily a whole number.
    line_hz
        Nothing is done where the Nyquist frequency is too near.

    Returns
    -------
    cleaned_uv
        `[S]`, a copy.
    """
    cleaned = np.array(signal_uv, np.float32)
    n_times, per_block = len(cleaned), sfreq_hz * _BLOCK_S
    if n_times < per_block or line_hz > sfreq_hz / 2 - _BELOW_NYQUIST_HZ:
        return cleaned
    n_blocks = round(n_times / per_block)
    n_block = n_times // n_blocks
    starts = np.arange(n_blocks + 1) * n_times // n_blocks  # some blocks are a sample longer
    radians = 2 * np.pi * line_hz / sfreq_hz * np.arange(n_block + 1)
    cosine, sine = np.cos(radians), -np.sin(radians)
    blocks = np.lib.stride_tricks.sliding_window_view(cleaned, n_block)[starts[:-1]]
    measured = blocks @ _measuring(cosine[:n_block], sine[:n_block]).T
    # Each block counts time from its own start; `turn` refers all phases to that of the signal.
    turn = np.exp(1j * radians[1] * starts[:-1])
    level = (measured[:, 0] + 1j * measured[:, 1]) / turn
    terms = (_parabolas(level) * turn).astype(np.complex64)
    waves = cosine.astype(np.float32), sine.astype(np.float32)
    _subtract(cleaned, starts, *waves, terms.real.copy(), terms.imag.copy())
    return cleaned


def _measuring(cosine: NDArray[np.float64], sine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weights `[2, n]` that give a block's amplitudes of cosine and sine.

    By least squares beside a straight line, so that an offset or a drift does not pass for line
    noise where a block is no whole number of periods.
    """
    n_block = len(cosine)
    straight = np.linspace(-1, 1, n_block)
    basis = np.stack([np.ones(n_block), straight, cosine, sine], axis=1)
    return np.linalg.pinv(basis)[2:].astype(np.float32)


def _parabolas(level: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Coefficients `[3, blocks]` of the amplitude within each block, in blocks from its middle.

    A quadratic spline whose means over the blocks are the measured ones: a jump or a bend between
    blocks would spread what is subtracted at the line over all frequencies. Beyond the ends the
    last three blocks are extrapolated; fewer than three have a constant amplitude.
    """
    terms = np.zeros((3, len(level)), np.complex128)
    terms[0] = level
    if len(level) < 3:
        return terms
    for _ in range(2):
        first = 3 * (level[0] - level[1]) + level[2]
        last = 3 * (level[-1] - level[-2]) + level[-3]
        level = np.concatenate([[first], level, [last]])
    # The mean of a spline over a block is (1, 4, 1) / 6 of its weights; this undoes that.
    weights = level[1:-1] - np.diff(level, 2) / 6
    before, here, after = weights[:-2], weights[1:-1], weights[2:]
    terms[0] = (before + 6 * here + after) / 8
    terms[1] = (after - before) / 2
    terms[2] = (after - 2 * here + before) / 2
    return terms


@njit(cache=True, fastmath=True)
def _subtract(signal, starts, cosine, sine, real, imaginary):  # type: ignore[no-untyped-def]
    """signal -= Re(amplitude x exp(i t)), block by block.

    starts: of the blocks, and the end; cosine, sine: over a block; real, imaginary: `_parabolas`.
    """
    for m in range(len(starts) - 1):
        block = signal[starts[m] : starts[m + 1]]
        a0, a1, a2 = real[0, m], real[1, m], real[2, m]
        b0, b1, b2 = imaginary[0, m], imaginary[1, m], imaginary[2, m]
        for k in range(len(block)):
            tau = np.float32(k) / np.float32(len(block)) - np.float32(0.5)
            x = a0 + tau * (a1 + tau * a2)
            y = b0 + tau * (b1 + tau * b2)
            block[k] -= x * cosine[k] + y * sine[k]
