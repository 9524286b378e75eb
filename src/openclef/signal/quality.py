"""The quality of one recording: faulty channels, artefacts, line noise, gaps.

Each window is measured once, second by second (`assess_window`); what needs the whole recording,
such as what is usual for a channel, is decided at its end (`summarise`). Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from openclef.errors import RecordingError
from openclef.signal.line import LINES_HZ
from openclef.signal.seconds import (
    CLIP_MIN_S,
    CLIPPED_FRACTION,
    FLAT_UV,
    Seconds,
    measure_seconds,
    spread,
)
from openclef.types import CHANNELS, BoolArray, FloatArray, Recording

# What a channel can be: each of the 19 is the first of these that applies to it.
STATES = ("missing", "flat", "clipped", "bridged", "noisy", "kept")

# A noisy channel: its amplitude is over this robust z among the channels (PREP, Bigdely-Shamlo et
# al. 2015) and over twice their median (few, similar channels have next to no spread); or mostly
# fast: fast over whole amplitude is 0.71 for white noise, 0.04 to 0.59 in `eegmat` and
# `guinea_bissau_epilepsy`.
NOISY_Z = 5.0
NOISY_RATIO = 2.0
NOISY_FAST = 0.65
MIN_CHANNELS_COMPARED = 5

# Bridged electrodes: variance of their difference, 1-30 Hz, under both limits in over half of the
# stretches (electrical distance: Alschuler et al. 2014). 5 uV^2 is EEGLAB's limit, 16 MNE's; alone
# it fails quiet EEG. 2% of the median pair is ours: `eegmat` has 0.5 and 0.9% in both recordings
# of one bridged subject, 2.5% and more elsewhere.
BRIDGED_UV2 = 5.0
BRIDGED_OF_MEDIAN = 0.02
BRIDGED_FRACTION = 0.5
_BRIDGE_HZ = (1.0, 30.0)

# Line noise is named if it has this many times the power of its neighbours.
LINE_STANDS_OUT = 2.0

# A second is usable if at least this fraction of the channels present is free of artefact.
USABLE_CHANNELS = 0.5

_MAX_STRETCHES = 40  # of 2 s, for spectra, evenly spread over the window
_LOUD_CHANNELS = 0.25  # a stretch with more channels than this in artefact is not clean


@dataclass(frozen=True, eq=False)
class WindowQuality:
    """Measures of one window.

    second_s: exact length of its "seconds", a whole number of samples. gaps: in seconds of the
    recording. n_stretches: how many 2-s stretches were looked at; line_power, floor_power: `[2,
    C]`, summed over them, at each of `LINES_HZ` and beside it (0 beyond the Nyquist frequency);
    n_bridged: `[C, C]`, in how many of them a pair looks bridged.
    """

    ch_names: tuple[str, ...]
    sfreq_hz: float
    start_s: float
    second_s: float
    seconds: Seconds
    gaps: tuple[tuple[float, float], ...]
    n_stretches: int
    line_power: NDArray[np.float64]
    floor_power: NDArray[np.float64]
    n_bridged: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Quality:
    """Quality of one recording.

    states: one of `STATES` for each of the 19 channels. amplitude_uv: usual SD of a second, of
    the channels present. line_hz: 50 or 60, None if neither stands out; line_ratio: power within
    0.5 Hz of it over that 2-5 Hz away, median over channels (None: not measurable at this rate).
    gaps: in seconds of the recording. assessed_s: of the windows read. visible_s, usable_s:
    seconds outside gaps, and those of them in which enough channels are free of artefact.
    artefact: fraction of the visible channel-seconds in artefact, flat channels left out;
    artefact_per_minute: the same for each minute of the recording, None where nothing was recorded.
    """

    sfreq_hz: float
    states: Mapping[str, str]
    amplitude_uv: Mapping[str, float]
    line_hz: float | None
    line_ratio: float | None
    gaps: tuple[tuple[float, float], ...]
    assessed_s: float
    visible_s: float
    usable_s: float
    artefact: float | None
    artefact_per_minute: tuple[float | None, ...]
    unit_verdict: str
    montage: Mapping[str, Any]
    notes: Mapping[str, str]

    def channels(self, state: str) -> list[str]:
        """Give the channels in one of `STATES`, in the order of the 19."""
        return [name for name in CHANNELS if self.states[name] == state]

    def columns(self) -> dict[str, Any]:
        """Give the columns of `sessions.parquet`; of notes the names only, as texts may identify.

        `q_amplitude_uv` has 19 entries in the order of `CHANNELS`, None for a missing channel.
        """
        values: dict[str, Any] = {state: self.channels(state) for state in STATES}
        values |= {
            "amplitude_uv": [self.amplitude_uv.get(name) for name in CHANNELS],
            "line_hz": self.line_hz,
            "line_ratio": self.line_ratio,
            "n_gaps": len(self.gaps),
            "gap_s": float(sum(stop_s - start_s for start_s, stop_s in self.gaps)),
            "assessed_s": self.assessed_s,
            "visible_s": self.visible_s,
            "usable_s": self.usable_s,
            "artefact": self.artefact,
            "artefact_per_minute": list(self.artefact_per_minute),
            "sfreq_hz": self.sfreq_hz,
            "reference": str(self.montage.get("reference") or "not stated"),
            "unit": self.unit_verdict,
            "notes": sorted(self.notes),
        }
        return {f"q_{name}": value for name, value in values.items()}

    def to_json(self) -> dict[str, Any]:
        """Give all there is, in what JSON holds (if `montage` is)."""
        return {name.removeprefix("q_"): value for name, value in self.columns().items()} | {
            "amplitude_uv": dict(self.amplitude_uv),
            "gaps": [list(gap) for gap in self.gaps],
            "montage": dict(self.montage),
            "notes": dict(self.notes),
        }


def assess_window(recording: Recording) -> WindowQuality:
    """Measure one window as it was read: no filter, native rate.

    Parameters
    ----------
    recording
        Microvolts, offsets and drifts as they are. Masked channels count as missing. Seconds that
        touch a gap are not looked at, nor is the rest after the last whole second.

    Raises
    ------
    RecordingError
        A sample outside the gaps is not a finite number, or the rate is below 2 Hz.
    """
    if recording.sfreq_hz < 2:
        raise RecordingError(f"sampled at {recording.sfreq_hz:g} Hz; at least 2 Hz are needed")
    present = ~recording.channel_mask
    signal_uv = recording.signal_uv if present.all() else recording.signal_uv[present]
    ch_names = tuple(str(name) for name in np.array(recording.ch_names)[present])
    n_second = round(recording.sfreq_hz)
    second_s = n_second / recording.sfreq_hz
    n_seconds = signal_uv.shape[1] // n_second
    seconds_CTS = signal_uv[:, : n_seconds * n_second].reshape(len(ch_names), n_seconds, n_second)
    hidden = np.zeros(n_seconds, np.bool_)
    for start_s, stop_s in recording.gaps:
        hidden[int(start_s / second_s + 1e-6) : int(np.ceil(stop_s / second_s - 1e-6))] = True

    seconds = measure_seconds(seconds_CTS, hidden, sfreq_hz=recording.sfreq_hz)
    bad = ~np.isfinite(seconds.sd_uv[:, ~hidden]).all(axis=1)
    if bad.any():
        raise RecordingError(
            f"samples that are not finite numbers in {', '.join(np.array(ch_names)[bad])}"
        )
    live = seconds.usual(seconds.sd_uv) >= FLAT_UV
    starts = _clean_stretches(seconds, live)
    freqs_hz, spectra_ECF = _spectra(seconds_CTS, starts, recording.sfreq_hz)
    line_power, floor_power = _line_noise(freqs_hz, spectra_ECF)
    return WindowQuality(
        ch_names=ch_names,
        sfreq_hz=recording.sfreq_hz,
        start_s=recording.start_s,
        second_s=second_s,
        seconds=seconds,
        gaps=tuple((recording.start_s + a, recording.start_s + b) for a, b in recording.gaps),
        n_stretches=len(starts),
        line_power=line_power,
        floor_power=floor_power,
        n_bridged=_count_bridged(freqs_hz, spectra_ECF, live),
    )


def summarise(
    windows: Sequence[WindowQuality],
    *,
    montage: Mapping[str, Any],
    unit_verdict: str,
    notes: Mapping[str, str],
    segments: Sequence[tuple[float, float]] | None = None,
) -> Quality:
    """Tell the quality of a recording from the measures of its windows.

    Parameters
    ----------
    windows
        At least one, in order, of the same channels and rate.
    montage
        How the file's labels became the 19 channels, kept as given; `reference`, if it has one,
        becomes a column.
    unit_verdict
        What is thought of the file's unit, in a word or two.
    notes
        What else was found on reading: name -> text.
    segments
        (start, stop) in seconds of what was recorded, also where no window was read; None: the
        gaps are those of the windows.
    """
    first = windows[0]
    if any((w.ch_names, w.sfreq_hz) != (first.ch_names, first.sfreq_hz) for w in windows):
        raise ValueError("windows of one recording must have the same channels and rate")
    parts = [vars(w.seconds) for w in windows]
    seconds = Seconds(**{k: np.concatenate([p[k] for p in parts], axis=-1) for k in parts[0]})
    visible = ~seconds.hidden
    n_visible = int(visible.sum())
    amplitude_uv = seconds.usual(seconds.sd_uv)
    flat = amplitude_uv < FLAT_UV
    n_clipped = seconds.clipped.sum(axis=1)
    n_bridged = np.sum([w.n_bridged for w in windows], axis=0)
    n_stretches = sum(w.n_stretches for w in windows)
    faults = {
        "flat": flat,
        "clipped": (n_clipped >= CLIP_MIN_S) & (n_clipped >= CLIPPED_FRACTION * n_visible),
        "bridged": (n_bridged > BRIDGED_FRACTION * n_stretches).any(axis=1),
        "noisy": _noisy(amplitude_uv, seconds.usual(seconds.fast_uv), ~flat),
    }
    states = dict.fromkeys(CHANNELS, "missing")
    for row, name in enumerate(first.ch_names):
        states[name] = next((fault for fault in faults if faults[fault][row]), "kept")

    artefact_CT = seconds.artefacts()
    usable = visible & (artefact_CT.mean(axis=0) <= 1 - USABLE_CHANNELS)
    per_second = artefact_CT[~flat].mean(axis=0) if not flat.all() else np.ones(len(visible))
    starts_s = [w.start_s + w.second_s * np.arange(len(w.seconds.hidden)) for w in windows]
    minutes = (np.concatenate(starts_s) + first.second_s / 2).astype(int) // 60
    counts = np.bincount(minutes[visible], minlength=minutes.max(initial=-1) + 1)
    sums = np.bincount(minutes[visible], per_second[visible], minlength=len(counts))
    line_hz, line_ratio = _line(windows, ~flat)
    return Quality(
        sfreq_hz=first.sfreq_hz,
        states=states,
        amplitude_uv={
            name: round(float(amplitude), 3)
            for name, amplitude in zip(first.ch_names, amplitude_uv, strict=True)
        },
        line_hz=line_hz,
        line_ratio=line_ratio,
        gaps=_joined([*_between(segments or ()), *(gap for w in windows for gap in w.gaps)]),
        assessed_s=len(visible) * first.second_s,
        visible_s=n_visible * first.second_s,
        usable_s=int(usable.sum()) * first.second_s,
        artefact=round(float(per_second[visible].mean()), 4) if n_visible else None,
        artefact_per_minute=tuple(
            round(float(s / n), 4) if n else None for s, n in zip(sums, counts, strict=True)
        ),
        unit_verdict=unit_verdict,
        montage=montage,
        notes=notes,
    )


def _clean_stretches(seconds: Seconds, live: BoolArray) -> NDArray[np.int64]:
    """First seconds `[E]` of stretches with few channels in artefact; if there are none, of any."""
    n = len(seconds.hidden) // 2
    visible = ~np.logical_or(seconds.hidden[0 : 2 * n : 2], seconds.hidden[1 : 2 * n : 2])
    n_loud = seconds.artefacts()[live, : 2 * n].sum(axis=0).reshape(n, 2).max(axis=1)
    clean = visible & (n_loud <= _LOUD_CHANNELS * live.sum())
    candidates = np.flatnonzero(clean if clean.any() else visible)
    return 2 * candidates[spread(len(candidates), _MAX_STRETCHES)]


def _spectra(
    seconds_CTS: FloatArray, starts: NDArray[np.int64], sfreq_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.complex64]]:
    """Frequencies `[F]` and Hann spectra `[E, C, F]` of 2-s stretches: |.|^2 is uV^2 per bin."""
    n_chans, _, n_second = seconds_CTS.shape
    n = 2 * n_second
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)).astype(np.float32)
    window *= np.sqrt(2 / (n * np.sum(window**2)))
    stretches = np.empty((len(starts), n_chans, n), np.float32)
    for stretch, start in zip(stretches, starts, strict=True):
        stretch[:] = seconds_CTS[:, start : start + 2].reshape(n_chans, n)
    stretches -= stretches.mean(axis=2, keepdims=True)
    stretches *= window
    spectra: NDArray[np.complex64] = scipy.fft.rfft(stretches)
    return np.fft.rfftfreq(n, 1 / sfreq_hz).astype(np.float64), spectra


def _line_noise(
    freqs_hz: NDArray[np.float64], spectra_ECF: NDArray[np.complex64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Power at each of `LINES_HZ` and beside it `[2, C]`, as `line.detect_line_hz` has it."""
    at_line, beside = np.zeros((2, len(LINES_HZ), spectra_ECF.shape[1]))
    for i, line_hz in enumerate(LINES_HZ):
        distance_hz = np.abs(freqs_hz - line_hz)
        at, around = distance_hz <= 0.5, (distance_hz >= 2) & (distance_hz <= 5)
        if freqs_hz[-1] > line_hz + 0.5 and around.any():
            for power, bins in ((at_line, at), (beside, around)):
                power[i] = (np.abs(spectra_ECF[..., bins]) ** 2).mean(axis=2).sum(axis=0)
    return at_line, beside


def _line(windows: Sequence[WindowQuality], live: BoolArray) -> tuple[float | None, float | None]:
    """The line that stands out, if one does, and the larger ratio, if any can be measured."""
    at_line = np.sum([w.line_power for w in windows], axis=0)[:, live]
    beside = np.sum([w.floor_power for w in windows], axis=0)[:, live]
    measured = [i for i in range(len(LINES_HZ)) if beside[i].any()]
    if not measured:
        return None, None
    floor = np.maximum(beside, np.finfo(np.float32).tiny)
    ratios = {LINES_HZ[i]: float(np.median(at_line[i] / floor[i])) for i in measured}
    line_hz = max(ratios, key=lambda line_hz: ratios[line_hz])
    stands_out = ratios[line_hz] >= LINE_STANDS_OUT
    return (line_hz if stands_out else None), round(ratios[line_hz], 3)


def _count_bridged(
    freqs_hz: NDArray[np.float64], spectra_ECF: NDArray[np.complex64], live: BoolArray
) -> NDArray[np.int64]:
    """In how many stretches each pair of channels is too close `[C, C]`."""
    n_bridged = np.zeros((len(live), len(live)), np.int64)
    pairs = np.triu_indices(int(live.sum()), k=1)
    if not len(spectra_ECF) or not len(pairs[0]):
        return n_bridged
    low_hz, high_hz = _BRIDGE_HZ
    band = spectra_ECF[:, live][..., (freqs_hz >= low_hz) & (freqs_hz <= high_hz)]
    # In float64: the difference of two nearly equal large numbers is what counts.
    waves = np.concatenate([band.real, band.imag], axis=2, dtype=np.float64)
    shared = waves @ waves.swapaxes(1, 2)
    power = np.diagonal(shared, axis1=1, axis2=2)
    distance = (power[:, :, None] + power[:, None, :] - 2 * shared)[:, *pairs]
    near = (distance < BRIDGED_UV2) & (distance < BRIDGED_OF_MEDIAN * np.median(distance))
    rows = np.flatnonzero(live)
    for i, j, count in zip(*pairs, near.sum(axis=0), strict=True):
        n_bridged[rows[i], rows[j]] = n_bridged[rows[j], rows[i]] = count
    return n_bridged


def _noisy(
    amplitude_uv: NDArray[np.float64], fast_uv: NDArray[np.float64], live: BoolArray
) -> BoolArray:
    """Channels `[C]` too large among the live ones, or too fast."""
    noisy = live & (fast_uv > NOISY_FAST * amplitude_uv)
    if live.sum() >= MIN_CHANNELS_COMPARED:
        median = np.median(amplitude_uv[live])
        robust_sd = 1.4826 * np.median(np.abs(amplitude_uv[live] - median))
        limit = max(median + NOISY_Z * robust_sd, NOISY_RATIO * median)
        noisy |= live & (amplitude_uv > limit)
    return noisy


def _between(segments: Sequence[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    ends = [stop_s for _, stop_s in segments]
    return zip(ends, [start_s for start_s, _ in segments[1:]], strict=False)


def _joined(gaps: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Gaps in order, those that touch (a window's end parts them) made one."""
    joined: list[tuple[float, float]] = []
    for start_s, stop_s in sorted(gaps):
        if joined and start_s <= joined[-1][1] + 1e-3:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop_s)
        else:
            joined.append((start_s, stop_s))
    return tuple(joined)
