"""Electrodes of several sampling rates, which occur in EDF: all are brought to the commonest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
import scipy.signal

from openclef.signal.gaps import recorded_stretches
from openclef.types import FloatArray

_MARGIN_S = 2.0  # of the neighbourhood, so that a window's ends are like its middle


class Reader(Protocol):
    """An open file: its signals by position, in its own numbers; `MneFile` is one.

    `read` gives `[P, S]` at the rate that all picks must share, times `scale` `[P]`, zero in gaps,
    and (start, stop) of the gaps in seconds from `start_s`.
    """

    @property
    def duration_s(self) -> float: ...

    @property
    def segments(self) -> tuple[tuple[float, float], ...]: ...

    def rate_hz(self, pick: int) -> float: ...

    def read(
        self, picks: Sequence[int], *, start_s: float, stop_s: float, scale: Sequence[float]
    ) -> tuple[FloatArray, tuple[tuple[float, float], ...]]: ...


def common_rate_hz(rates: Sequence[float]) -> tuple[float, str | None]:
    """The rate most electrodes have (the highest of equals), and a note if there are others."""
    counts = {rate: rates.count(rate) for rate in rates}
    common = max(counts, key=lambda rate: (counts[rate], rate))
    if len(counts) == 1:
        return common, None
    shown = ", ".join(f"{counts[rate]} at {rate:g}" for rate in sorted(counts))
    return common, f"electrodes of several rates ({shown} Hz) to {common:g} Hz"


def read_at_rate(
    reader: Reader,
    picks: Sequence[int],
    *,
    sfreq_hz: float,
    start_s: float,
    stop_s: float,
    scale: Sequence[float],
) -> tuple[FloatArray, tuple[tuple[float, float], ...]]:
    """As `Reader.read`, but signals of any rate, at `sfreq_hz`, which one of them must have."""
    rows_at: dict[float, list[int]] = {}
    for row, pick in enumerate(picks):
        rows_at.setdefault(reader.rate_hz(pick), []).append(row)
    rows = rows_at.pop(sfreq_hz)
    own, gaps = reader.read(
        [picks[row] for row in rows],
        start_s=start_s,
        stop_s=stop_s,
        scale=[scale[row] for row in rows],
    )
    if not rows_at:
        return own, gaps
    n_times = own.shape[1]
    signal = np.empty((len(picks), n_times), np.float32)
    signal[rows] = own
    is_recorded = np.zeros(n_times, np.bool_)
    for first, stop in recorded_stretches(gaps, sfreq_hz=sfreq_hz, n_times=n_times):
        is_recorded[first:stop] = True
    for rate_hz, rows in rows_at.items():
        first = max(0, math.floor((start_s - _MARGIN_S) * rate_hz))
        part, part_gaps = reader.read(
            [picks[row] for row in rows],
            start_s=first / rate_hz,
            stop_s=min(reader.duration_s, stop_s + _MARGIN_S),
            scale=[scale[row] for row in rows],
        )
        stretches = recorded_stretches(part_gaps, sfreq_hz=rate_hz, n_times=part.shape[1])
        late_s = first / rate_hz - start_s
        signal[rows] = _resampled(part, stretches, rate_hz, sfreq_hz, late_s, n_times) * is_recorded
    return signal, gaps


def _resampled(
    part: FloatArray,
    stretches: Sequence[tuple[int, int]],
    rate_hz: float,
    sfreq_hz: float,
    late_s: float,
    n_times: int,
) -> FloatArray:
    """`n_times` samples at `sfreq_hz` of a part that starts `late_s` later (or earlier: below 0).

    Stretch by stretch, or the steps at gaps would ring.
    """
    ratio = Fraction(sfreq_hz / rate_hz).limit_denominator(1000)
    out = np.zeros((len(part), n_times), np.float32)
    for first, stop in stretches:
        even = scipy.signal.resample_poly(
            part[:, first:stop], ratio.numerator, ratio.denominator, axis=1, padtype="line"
        )
        # One more at each end, for the rounding of where it lies.
        even = np.pad(even, ((0, 0), (1, 1)), mode="edge")
        at = round((late_s + first / rate_hz) * sfreq_hz) - 1
        begin, end = max(0, at), min(n_times, at + even.shape[1])
        if begin < end:
            out[:, begin:end] = even[:, begin - at : end - at]
    return out
