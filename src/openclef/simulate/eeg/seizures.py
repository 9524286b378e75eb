"""Seizures: rhythms that begin fast and low, slow down, grow, spread, and stop at once.

Events: `seizure` is a whole seizure where it begins, at its first frequency; `seizure_spread` the
part of it that another region sees, from when it does; `postictal` what follows; `status` each
seizure or each stretch of a status epilepticus.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import i0e

from openclef.simulate.eeg.course import Course
from openclef.simulate.eeg.events import Events, Times, of_kind
from openclef.simulate.eeg.head import Place, focus
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.eeg.waveforms import (
    GENERALIZED,
    bouts,
    by_stage,
    cycles,
    fade,
    noise,
    other_side,
    peak_uv,
    spike_wave,
    uneven,
)
from openclef.simulate.patients import Finding, Region, Session
from openclef.types import FloatArray

_LAST_HZ = 2.5
_NEXT: dict[Region, tuple[Region, Region]] = {
    "temporal": ("frontal", "central"), "frontal": ("central", "temporal"),
    "central": ("frontal", "parietal"), "parietal": ("central", "temporal"),
    "occipital": ("parietal", "temporal"),
}  # fmt: skip
_FOCAL = ("spikes", "sharp_waves", "focal_slowing", "lpd", "lrda")
_P_OTHER_SIDE = 0.5


def draw(rng: np.random.Generator, session: Session, course: Course) -> list[Events]:
    """Draw one to three seizures, or a status; 3-Hz absences where nothing focal speaks against."""
    found = session.findings
    groups: list[Events] = []
    if "seizure" in found:
        groups += _draw_seizures(rng, session, course, found["seizure"])
    if "status" in found:
        groups += _draw_status(rng, session, course, found["status"])
    return groups


def _draw_seizures(
    rng: np.random.Generator, session: Session, course: Course, finding: Finding
) -> list[Events]:
    n_seconds = course.n_seconds
    n_seizures = int(min(1 + rng.poisson(0.8 * finding.rate), 3, max(1, n_seconds // 120)))
    is_absence = "spike_wave" in session.findings and not any(f in session.findings for f in _FOCAL)
    ready_T = by_stage(course, wake=1, n1=1.5, n2=2, n3=1, rem=0.3, coma=1)
    ready_T *= 1 + (8 if is_absence else 1) * course.hyperventilation
    slot_s = n_seconds / n_seizures
    low_s, high_s = (8, 25) if is_absence else (20, 90)
    duration_N = np.minimum(rng.uniform(low_s, high_s, n_seizures), 0.45 * slot_s)
    onset_N = np.empty(n_seizures)
    for number, duration_s in enumerate(duration_N):
        # One in each part of the session, early enough to leave time for what follows.
        first, last = int(number * slot_s), int((number + 1) * slot_s - 1.4 * duration_s)
        odds_T = ready_T[first : max(first + 1, last)] + 1e-6
        onset_N[number] = first + rng.choice(len(odds_T), p=odds_T / odds_T.sum()) + rng.random()
    place, peak = _origin(session, finding, is_absence)
    frequency_N = rng.normal(3.1, 0.1, n_seizures) if is_absence else rng.uniform(9, 13, n_seizures)
    amplitude_N = peak * rng.lognormal(0, 0.12, n_seizures)
    whole = Events.of(
        "seizure", place, onset_N, duration_s=duration_N, amplitude_uv=amplitude_N,
        frequency_hz=frequency_N,
    )  # fmt: skip
    if is_absence:
        return [whole]
    return [whole, *_spread(rng, whole), _after(rng, session, course, whole)]


def _draw_status(
    rng: np.random.Generator, session: Session, course: Course, finding: Finding
) -> list[Events]:
    """Draw seizures that recur through the session, or one that does not end: both in stretches."""
    n_seconds = course.n_seconds
    if rng.random() < 0.5:
        ready_T = by_stage(course, wake=1, n1=1, n2=1, n3=1, rem=1, coma=1)
        onset_N, duration_N = bouts(rng, ready_T, length_s=60, duty=0.5)
        frequency_N = rng.uniform(7, 12, len(onset_N))
    else:
        length_N = rng.uniform(8, 25, n_seconds // 8 + 2)
        onset_N = np.concatenate([[0.0], np.cumsum(length_N)])
        onset_N = onset_N[onset_N < n_seconds - 1]
        duration_N = np.diff(onset_N, append=n_seconds)
        frequency_N = rng.uniform(1.8, 3.5) * rng.lognormal(0, 0.15, len(onset_N))
    place, peak = _origin(session, finding, False)
    whole = Events.of(
        "status", place, onset_N, duration_s=duration_N,
        amplitude_uv=peak * rng.lognormal(0, 0.15, len(onset_N)),
        frequency_hz=frequency_N,
    )  # fmt: skip
    return [whole, *_spread(rng, whole)]


def _origin(session: Session, finding: Finding, is_absence: bool) -> tuple[Place, float]:
    """Return where seizures begin and the peak that they reach."""
    if is_absence:
        return GENERALIZED, peak_uv(session, finding, "diffuse", typical_uv=220, over=7)
    place = focus(finding.region or "temporal", finding.side or "left", extent=0.35)
    return place, peak_uv(session, finding, place.region, typical_uv=170, over=8)


def _spread(rng: np.random.Generator, whole: Events) -> list[Events]:
    """Draw when regions nearby, and often the other side, take part: till the common end."""
    place = whole.place
    assert place is not None
    origin: Region = next(region for region in _NEXT if region == place.region)
    near, further = _NEXT[origin]
    other = focus(origin, other_side(place.side), extent=0.4)
    groups = []
    for target, low, high, chance, size in (
        (focus(near, place.side or "left", extent=0.4), 0.15, 0.35, 1.0, 0.7),
        (focus(further, place.side or "left", extent=0.45), 0.3, 0.5, 0.8, 0.6),
        (other, 0.45, 0.65, _P_OTHER_SIDE, 0.6),
    ):
        share_N = rng.uniform(low, high, len(whole))
        joins = rng.random(len(whole)) < chance
        # The frequency that the seizure has reached by then.
        first_N = whole.frequency_hz
        reached_N = first_N * (_last_hz(first_N) / first_N) ** share_N
        groups.append(
            Events.of(
                "seizure_spread",
                target,
                (whole.onset_s + share_N * whole.duration_s)[joins],
                duration_s=((1 - share_N) * whole.duration_s)[joins],
                amplitude_uv=size * whole.amplitude_uv[joins],
                frequency_hz=reached_N[joins],
            )
        )
    return groups


def _after(rng: np.random.Generator, session: Session, course: Course, whole: Events) -> Events:
    """Draw postictal slowing: it fades, and gets faster, over a minute or so."""
    place = whole.place
    assert place is not None
    length_N = np.minimum(rng.uniform(30, 100, len(whole)), 2 * whole.duration_s) / 3
    end_N = whole.onset_s + whole.duration_s
    onset_N = np.concatenate([end_N + third * length_N for third in range(3)])
    size_N, hz_N = np.repeat([1.0, 0.8, 0.5], len(whole)), np.repeat([1.2, 1.6, 2.0], len(whole))
    # The next seizure, and the end of the session, cut it short.
    limit_N = np.append(whole.onset_s[1:], course.n_seconds)
    duration_N = np.minimum(np.tile(length_N, 3) + 0.6, np.tile(limit_N, 3) - onset_N)
    fits = duration_N > 2
    return Events.of(
        "postictal", Place(place.side, place.region, place.x, place.y, 0.6), onset_N[fits],
        duration_s=duration_N[fits],
        amplitude_uv=(0.6 * np.tile(whole.amplitude_uv, 3) * size_N)[fits],
        frequency_hz=hz_N[fits],
    )  # fmt: skip


def _last_hz(first_hz: Times | float) -> Times:
    """Return the frequency at the end, by that at the start of a seizure or of its spread."""
    return np.minimum(_LAST_HZ, 0.85 * np.asarray(first_hz))


def add(scene: Scene, events: Iterable[Events], rng: np.random.Generator) -> None:
    """Add seizures and their spread; what follows them is `slowing`'s."""
    for group in of_kind(events, "seizure", "seizure_spread", "status"):
        assert group.place is not None
        is_absence = group.place.region == "diffuse"
        for first, n_times, amplitude_uv, frequency_hz in scene.pieces(group):
            if is_absence:
                waveform_S = _absence(rng, n_times, scene.sfreq_hz, frequency_hz)
            else:
                waveform_S = _evolving(
                    rng, n_times, scene.sfreq_hz, frequency_hz,
                    low=0.45 if group.kind == "seizure_spread" else 0.22,
                )  # fmt: skip
            topography_E = uneven(rng, group.place.topography, sd=0.06)
            scene.add_short(first, amplitude_uv * waveform_S, topography_E)


def _absence(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, frequency_hz: float
) -> FloatArray:
    phase_S = cycles(
        rng, n_times, sfreq_hz, first_hz=1.1 * frequency_hz, last_hz=0.85 * frequency_hz,
        jitter=0.02,
    )  # fmt: skip
    return spike_wave(phase_S) * fade(n_times, sfreq_hz, in_s=0.6, out_s=0.2)


def _evolving(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, frequency_hz: float, *, low: float
) -> FloatArray:
    """A sine at first, sharp waves later, spikes and waves at the end."""
    last_hz = float(_last_hz(frequency_hz))
    share_S = np.linspace(0, 1, n_times, dtype=np.float32)
    phase_S = cycles(rng, n_times, sfreq_hz, first_hz=frequency_hz, last_hz=last_hz, jitter=0.05)
    sharpness_S = 0.5 + 2.0 * share_S
    # A von Mises bell a cycle, less its mean: peak -1.
    mean_S = i0e(sharpness_S).astype(np.float32)
    waves_S = (mean_S - np.exp(sharpness_S * (np.cos(2 * np.pi * phase_S) - 1))) / (1 - mean_S)
    now_hz_S = frequency_hz * (last_hz / frequency_hz) ** share_S
    clonic_S = ((4.5 - now_hz_S) / 2).clip(0, 0.9) * share_S
    waves_S = (1 - clonic_S) * waves_S + clonic_S * spike_wave(phase_S + 0.62)
    growth_S = low + (1 - low) * (share_S / 0.6).clip(0, 1) ** 1.3
    size_S = growth_S * (1 + 0.15 * noise(rng, n_times, sfreq_hz, center_hz=0.6, width_hz=0.4))
    return (waves_S * size_S * fade(n_times, sfreq_hz, in_s=1.0, out_s=0.15)).astype(np.float32)
