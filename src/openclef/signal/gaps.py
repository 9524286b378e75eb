"""Stretches in which nothing was recorded."""

from __future__ import annotations

from dataclasses import replace

from openclef.types import Recording

_NEIGHBOURHOOD_S = 0.25


def recorded_stretches(
    gaps: tuple[tuple[float, float], ...], *, sfreq_hz: float, n_times: int
) -> list[tuple[int, int]]:
    """First and one past the last sample of what lies between the gaps, in order.

    A joint, which is a gap without duration, separates two stretches.
    """
    stretches, first = [], 0
    for start_s, stop_s in sorted(gaps):
        begin = min(max(round(start_s * sfreq_hz), 0), n_times)
        if begin > first:
            stretches.append((first, begin))
        first = max(first, min(round(stop_s * sfreq_hz), n_times))
    return [*stretches, (first, n_times)] if first < n_times else stretches


def bridge_gaps(recording: Recording) -> Recording:
    """Bring both sides of each gap to one level and fill it with that, so that filters can pass.

    A step would ring through the seconds around it. What follows a gap is shifted as a whole (by
    means of 0.25 s), which the high-pass cannot tell from what was recorded; frames that touch the
    gap are hidden whatever fills it. Without gaps the recording is returned as it is.
    """
    if not recording.gaps:
        return recording
    signal_uv = recording.signal_uv.copy()
    n_near = max(1, round(_NEIGHBOURHOOD_S * recording.sfreq_hz))
    stretches = recorded_stretches(
        recording.gaps, sfreq_hz=recording.sfreq_hz, n_times=signal_uv.shape[1]
    )
    filled, level = 0, None
    for first, stop in stretches:
        piece = signal_uv[:, first:stop]
        begins_at = piece[:, :n_near].mean(axis=1, keepdims=True)
        if level is None:
            level = begins_at
        else:
            piece += level - begins_at
        signal_uv[:, filled:first] = level
        filled, level = stop, piece[:, -n_near:].mean(axis=1, keepdims=True)
    if level is not None:
        signal_uv[:, filled:] = level
    return replace(recording, signal_uv=signal_uv)
