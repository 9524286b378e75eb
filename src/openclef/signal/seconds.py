"""Measures of each second of a window, and the artefacts they show.

Amplitudes are those of the signal less its sinusoids at 50 and 60 Hz: hospital EEG can hold ten
times more line noise than EEG, which `line` will remove.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from openclef.signal.line import LINES_HZ
from openclef.types import BoolArray, FloatArray

# SD of a flat second. An amplifier's own noise may reach 0.5 uV RMS (Nuwer et al. 1998, IFCN
# standards for digital EEG): nothing can be seen below that.
FLAT_UV = 0.5

# Peak to peak of an artefact second: +-500 uV. Above the seizures of `iiic_sparcnet` (945 uV at
# most), below loose electrodes and movement (millivolts). Ours.
MAX_RANGE_UV = 1000.0

# An artefact second has this many times the usual amplitude, or usual fast amplitude, of its
# channel. Ours.
BURST_RATIO = 5.0

# Clipping: the signal rests on its extreme for this many samples on end, in at least so many
# seconds and in this fraction of all. Ours.
CLIP_RUN = 3
CLIP_MIN_S = 3
CLIPPED_FRACTION = 0.005

_FAST_S = 0.01  # "fast" is half the change over 10 ms: all of 50 Hz, a third of 10 Hz
_MAX_SEEN = 20  # seconds that are enough to tell a pile of samples


@dataclass(frozen=True, eq=False)
class Seconds:
    """Measures of each second: C channels that exist, T whole seconds.

    sd_uv, range_uv, fast_uv: `[C, T]` float32, standard deviation, peak to peak and fast
    amplitude, without line noise. clipped: `[C, T]`. hidden: `[T]`, the second touches a gap.
    """

    sd_uv: FloatArray
    range_uv: FloatArray
    fast_uv: FloatArray
    clipped: BoolArray
    hidden: BoolArray

    def usual(self, measure: FloatArray) -> NDArray[np.float64]:
        """Median of each channel over the visible seconds `[C]`, 0 if there are none."""
        if self.hidden.all():
            return np.zeros(len(measure))
        return np.median(measure[:, ~self.hidden], axis=1).astype(np.float64)

    def artefacts(self) -> BoolArray:
        """Where a channel is flat, huge, clipped or far above its usual `[C, T]`."""
        return (
            (self.sd_uv < FLAT_UV)
            | (self.range_uv > MAX_RANGE_UV)
            | self.clipped
            | (self.sd_uv > BURST_RATIO * self.usual(self.sd_uv)[:, None])
            | (self.fast_uv > BURST_RATIO * self.usual(self.fast_uv)[:, None])
        )


def measure_seconds(seconds_CTS: FloatArray, hidden: BoolArray, *, sfreq_hz: float) -> Seconds:
    """Measure a window cut into seconds, `[C, T, S]` microvolts, with those in gaps `hidden` `[T]`.

    A sample that is not finite makes its second's measures so.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        sd_uv, range_uv, fast_uv, low, high = _moments(seconds_CTS, sfreq_hz)
    clipped = _clipped(seconds_CTS, low, high, (high > low) & ~hidden)
    return Seconds(sd_uv, range_uv, fast_uv, clipped, hidden)


def spread(n: int, at_most: int) -> NDArray[np.int64]:
    """At most so many indices below n, evenly spread from first to last."""
    return np.linspace(0, n - 1, min(n, at_most)).round().astype(np.int64)


def _moments(seconds_CTS: FloatArray, sfreq_hz: float) -> tuple[FloatArray, ...]:
    """SD, range and fast amplitude of each second, without the line, and its lowest and highest.

    Each `[C, T]` float32.
    """
    n_chans, n_seconds, n_second = seconds_CTS.shape
    lag = max(1, round(_FAST_S * sfreq_hz))
    waves = _waves(n_second, sfreq_hz)
    projection = np.ascontiguousarray(np.linalg.pinv(waves).T, np.float32)  # [1 + 2L, S]
    low, high, square, change = np.empty((4, n_chans, n_seconds), np.float32)
    fit = np.empty((n_chans, n_seconds, len(waves)), np.float32)
    rest = np.empty(n_second, np.float32)
    for row in range(n_chans):
        _extremes(seconds_CTS[row], low[row], high[row])
        _powers(
            seconds_CTS[row], projection, waves.astype(np.float32), lag, rest, fit[row],
            square[row], change[row],
        )  # fmt: skip
    cos, sin = np.split(fit[..., 1:], 2, axis=2)
    span = high - low - 2 * np.hypot(cos, sin).sum(axis=2)
    sd_uv, fast_uv = np.sqrt(square / n_second), np.sqrt(change / (4 * (n_second - lag)))
    return sd_uv, np.maximum(span, 0), fast_uv, low, high


@njit(cache=True, fastmath=True)
def _extremes(seconds, low, high):  # type: ignore[no-untyped-def]
    """Lowest and highest of each second; anything where a sample is not a number."""
    for t in range(len(seconds)):
        least, most = seconds[t, 0], seconds[t, 0]
        for k in range(seconds.shape[1]):
            least, most = min(least, seconds[t, k]), max(most, seconds[t, k])
        low[t], high[t] = least, most


# Sums may be reordered, but a NaN must stay one: it is how bad samples are found.
@njit(cache=True, fastmath={"reassoc", "contract"})
def _powers(seconds, projection, waves, lag, rest, fit, square, change):  # type: ignore[no-untyped-def]
    """Of each second less its fitted waves: sum of squares, and of squared changes over `lag`."""
    n_second = seconds.shape[1]
    earlier, later = rest[:-lag], rest[lag:]
    for t in range(len(seconds)):
        row = seconds[t]
        for k in range(n_second):
            rest[k] = row[k]
        for w in range(len(waves)):
            level = np.float32(0)
            for k in range(n_second):
                level += projection[w, k] * row[k]
            fit[t, w] = level
            for k in range(n_second):
                rest[k] -= level * waves[w, k]
        total = np.float32(0)
        for k in range(n_second):
            total += rest[k] * rest[k]
        square[t] = total
        total = np.float32(0)
        for k in range(n_second - lag):
            total += (later[k] - earlier[k]) ** 2
        change[t] = total


def _waves(n_second: int, sfreq_hz: float) -> NDArray[np.float64]:
    """The mean, and the cosine and sine of each line below the Nyquist frequency, `[1 + 2L, S]`."""
    lines_hz = [line_hz for line_hz in LINES_HZ if line_hz < sfreq_hz / 2]
    phase = 2 * np.pi * np.outer(lines_hz, np.arange(n_second) / sfreq_hz)
    return np.vstack([np.ones(n_second), np.cos(phase), np.sin(phase)])


def _clipped(
    seconds_CTS: FloatArray, low: FloatArray, high: FloatArray, moving: BoolArray
) -> BoolArray:
    """Seconds `[C, T]` in which a channel rests on the window's highest or lowest value.

    Told by the repetition of one value, at whatever amplitude: a signal filtered or resampled
    after it was clipped has none. Constant seconds (not `moving`) are flat, not clipped.
    """
    clipped = np.zeros(high.shape, np.bool_)
    for row, here in enumerate(moving):
        for sign, tops in ((1, high[row]), (-1, -low[row])):
            touching = np.flatnonzero(here & (tops == tops[here].max(initial=-np.inf)))
            if len(touching) >= CLIP_MIN_S:
                clipped[row, touching] |= _rests_on_top(sign * seconds_CTS[row, touching])
    return clipped


def _rests_on_top(seconds_TS: FloatArray) -> BoolArray:
    """Seconds `[T]` with a run of the highest value, if samples pile up there.

    Coarse digits make runs on any peak, but then as many samples lie on the few levels below.
    """
    levels, counts = np.unique(seconds_TS[spread(len(seconds_TS), _MAX_SEEN)], return_counts=True)
    if counts[-1] <= counts[-5:-1].sum():
        return np.zeros(len(seconds_TS), np.bool_)
    on_top = seconds_TS == levels[-1]
    runs = on_top
    for shift in range(1, CLIP_RUN):
        runs = runs[:, :-1] & on_top[:, shift:]
    return np.asarray(runs.any(axis=1))
