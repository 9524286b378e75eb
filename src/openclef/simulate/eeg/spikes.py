"""Sharp transients: epileptiform discharges, focal and generalized, and what is mistaken for them.

Events: a spike, sharp wave or small sharp spike with its own width (its slow wave follows); a run
of spike-wave or of wicket waves, a burst of polyspikes with its slow wave; the whole session for a
breach rhythm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from openclef.simulate.eeg.course import N1, N2, N3, REM, WAKE, Course
from openclef.simulate.eeg.events import Events, Times, of_kind
from openclef.simulate.eeg.head import Place, focus
from openclef.simulate.eeg.noise import arched_noise
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.eeg.waveforms import (
    GENERALIZED,
    GENERALIZED_MIDDLE,
    bump,
    by_stage,
    cycles,
    fade,
    lay,
    noise,
    onsets,
    other_side,
    peak_uv,
    since,
    spike_wave,
    swing,
    uneven,
)
from openclef.simulate.patients import Finding, Session
from openclef.types import FloatArray

# Flashes that provoke are at least as fast.
_PROVOKING_HZ = 10


@dataclass(frozen=True)
class _Transient:
    """A focal transient: events a minute awake, width, peak at strength 1 and over background.

    slow_wave: its peak relative to the transient; stages: factors on the rate; spread: chance that
    the other side has some of its own, and how many.
    """

    per_min: float
    width_s: tuple[float, float]
    typical_uv: float
    over: float
    slow_wave: float
    extent: float
    stages: dict[str, float]
    spread: tuple[float, float]


_TRANSIENTS = {
    "spikes": _Transient(
        2.5, (0.06, 0.08), 110, 6.5, 0.45, 0.4,
        {"wake": 1, "n1": 1.7, "n2": 3, "n3": 2.5, "rem": 0.5, "coma": 1}, (0.25, 0.2),
    ),
    "sharp_waves": _Transient(
        2.0, (0.09, 0.18), 100, 6.5, 0.4, 0.45,
        {"wake": 1, "n1": 1.7, "n2": 2.2, "n3": 2, "rem": 0.5, "coma": 1}, (0.15, 0.2),
    ),
    # Below 50 uV and 50 ms, broad, of both sides in turn, in sleep alone: benign.
    "bets": _Transient(
        1.5, (0.035, 0.049), 46, 0, 0.15, 0.55, {"n1": 1, "n2": 1.2, "n3": 0.2}, (0.8, 0.4),
    ),
}  # fmt: skip


def draw(rng: np.random.Generator, session: Session, course: Course) -> list[Events]:
    """Draw every discharge; some need flashes, sleep, or rest with closed eyes to come at all."""
    groups: list[Events] = []
    found = session.findings
    for kind, transient in _TRANSIENTS.items():
        if kind in found:
            groups += _draw_transients(rng, session, course, kind, found[kind], transient)
    draws = {
        "spike_wave": _draw_spike_wave, "polyspikes": _draw_polyspikes,
        "photoparoxysmal": _draw_photoparoxysmal, "wicket": _draw_wicket, "breach": _draw_breach,
    }  # fmt: skip
    for kind, draw_kind in draws.items():
        if kind in found:
            groups += draw_kind(rng, session, course, found[kind])
    return groups


def _draw_transients(
    rng: np.random.Generator,
    session: Session,
    course: Course,
    kind: str,
    finding: Finding,
    transient: _Transient,
) -> list[Events]:
    rate_T = by_stage(course, **transient.stages) * transient.per_min / 60 * finding.rate
    rate_T *= swing(rng, course.n_seconds, tau_s=40, depth=1.0) * np.exp(-course.vigilance)
    onset_N = onsets(rng, rate_T, apart_s=0.6)
    region, side = finding.region or "temporal", finding.side or "left"
    typical_uv = transient.typical_uv
    if kind == "bets":
        region, finding = "temporal", Finding(1.0, finding.rate)
    is_other = np.zeros(len(onset_N), bool)
    chance, share = transient.spread
    if rng.random() < chance:
        # In stretches, as a focus takes over for a while; the first few stay.
        mine_T = swing(rng, course.n_seconds, tau_s=60, depth=1.0)
        is_other = mine_T[onset_N.astype(np.intp)] > np.quantile(mine_T, 1 - share)
        is_other[:3] = False
    peak = peak_uv(session, finding, region, typical_uv=typical_uv, over=transient.over)
    return [
        Events.of(
            kind, focus(region, where, extent=transient.extent), own_N,
            duration_s=rng.uniform(*transient.width_s, len(own_N)),
            amplitude_uv=peak * rng.lognormal(0, 0.18 if transient.over else 0.04, len(own_N)),
        )
        for where, own_N in ((side, onset_N[~is_other]), (other_side(side), onset_N[is_other]))
        if len(own_N)
    ]  # fmt: skip


def _draw_spike_wave(
    rng: np.random.Generator, session: Session, course: Course, finding: Finding
) -> list[Events]:
    rate_T = by_stage(course, wake=1, n1=1.2, n2=1.2, n3=0.6, rem=0.3, coma=0.5)
    rate_T *= 0.25 / 60 * finding.rate * (1 + 8 * course.hyperventilation)
    rate_T *= swing(rng, course.n_seconds, tau_s=90, depth=0.7)
    onset_N = onsets(rng, rate_T, apart_s=min(15.0, course.n_seconds / 5), tail_s=2.5)
    # Sleep breaks runs into fragments.
    asleep_N = np.isin(course.stage[onset_N.astype(np.intp)], (N1, N2, N3, REM))
    length_N = np.where(asleep_N, 2.0, 4.5) * rng.lognormal(0, 0.4, len(onset_N))
    gap_N = np.diff(onset_N, append=course.n_seconds)
    peak = peak_uv(session, finding, "diffuse", typical_uv=210, over=7)
    return [
        Events.of(
            "spike_wave", GENERALIZED, onset_N,
            duration_s=np.minimum(length_N.clip(1.5, 12), 0.8 * gap_N),
            amplitude_uv=peak * rng.lognormal(0, 0.15, len(onset_N)),
            frequency_hz=rng.normal(3.0, 0.12, len(onset_N)),
        )
    ]  # fmt: skip


def _draw_polyspikes(
    rng: np.random.Generator, session: Session, course: Course, finding: Finding
) -> list[Events]:
    flashing_T = course.photic_hz >= _PROVOKING_HZ
    asleep_T = np.isin(course.stage, (N1, N2, N3, REM))
    awakenings_s = np.flatnonzero(asleep_T[:-1] & (course.stage[1:] == WAKE)) + 1
    awaking_T = since(awakenings_s, course.n_seconds, fade_s=40)
    awaking_T += since(course.arousals_s, course.n_seconds, fade_s=6)
    rate_T = by_stage(course, wake=1, n1=1.5, n2=1.5, n3=0.8, rem=0.4, coma=0.5)
    rate_T *= 0.5 / 60 * finding.rate * (1 + 8 * flashing_T + 5 * awaking_T)
    rate_T *= swing(rng, course.n_seconds, tau_s=60, depth=0.8)
    onset_N = onsets(rng, rate_T, apart_s=1.6, tail_s=1.5)
    peak = peak_uv(session, finding, "diffuse", typical_uv=160, over=6.5)
    return [
        Events.of(
            "polyspikes", GENERALIZED, onset_N,
            duration_s=rng.uniform(0.62, 0.95, len(onset_N)),
            amplitude_uv=peak * rng.lognormal(0, 0.2, len(onset_N)),
            frequency_hz=rng.uniform(11, 16, len(onset_N)),
        )
    ]  # fmt: skip


def _draw_photoparoxysmal(
    rng: np.random.Generator, session: Session, course: Course, finding: Finding
) -> list[Events]:
    flashing_T = course.photic_hz >= _PROVOKING_HZ
    edge_N = np.flatnonzero(np.diff(flashing_T, prepend=False, append=False))
    starts_N, stops_N = edge_N[::2], edge_N[1::2]
    if not len(starts_N):
        return []
    # The range around 15 a second provokes most; one train always does.
    rate_N = course.photic_hz[starts_N]
    odds_N = 0.9 * np.exp(-(((rate_N - 16) / 7) ** 2)) * min(1.3, finding.strength)
    answers = rng.random(len(odds_N)) < odds_N
    answers[np.argmax(odds_N)] = True
    starts_N, stops_N = starts_N[answers], stops_N[answers]
    room_N = (stops_N - starts_N).astype(np.float64)
    latency_N = np.minimum(rng.uniform(0.6, 3.0, len(room_N)), 0.5 * room_N)
    peak = peak_uv(session, finding, "diffuse", typical_uv=140, over=6.5)
    return [
        Events.of(
            "photoparoxysmal", GENERALIZED_MIDDLE, starts_N + latency_N,
            duration_s=np.minimum(rng.uniform(1.2, 4.0, len(room_N)), room_N - latency_N),
            amplitude_uv=peak * rng.lognormal(0, 0.15, len(room_N)),
            frequency_hz=rng.uniform(3.2, 4.2, len(room_N)),
        )
    ]  # fmt: skip


def _draw_wicket(
    rng: np.random.Generator, session: Session, course: Course, finding: Finding
) -> list[Events]:
    side = finding.side or "left"
    rate_T = by_stage(course, n1=1, n2=0.4) + by_stage(course, wake=0.1) * course.eyes_closed
    rate_T = rate_T * 1.6 / 60 * finding.rate * swing(rng, course.n_seconds, tau_s=40, depth=0.8)
    onset_N = onsets(rng, rate_T, apart_s=2.5, tail_s=1.6)
    is_other = swing(rng, course.n_seconds, tau_s=60, depth=1.0)[onset_N.astype(np.intp)] > 1.2
    is_other[:1] = False
    peak = peak_uv(session, Finding(min(1.2, finding.strength), 1), "temporal", typical_uv=56,
                   over=3.5)  # fmt: skip
    typical_hz = rng.uniform(7, 10)
    return [
        Events.of(
            "wicket", focus("temporal", where, extent=0.4), own_N,
            duration_s=rng.uniform(0.6, 1.5, len(own_N)),
            amplitude_uv=peak * rng.lognormal(0, 0.12, len(own_N)),
            frequency_hz=(typical_hz * rng.lognormal(0, 0.06, len(own_N))).clip(6, 11),
        )
        for where, own_N in ((side, onset_N[~is_other]), (other_side(side), onset_N[is_other]))
        if len(own_N)
    ]  # fmt: skip


def _draw_breach(
    rng: np.random.Generator, session: Session, course: Course, finding: Finding
) -> list[Events]:
    place = focus(finding.region or "temporal", finding.side or "left", extent=0.32)
    peak = peak_uv(session, finding, place.region, typical_uv=55, over=3.5)
    return [
        Events.of(
            "breach", place, [0.0], duration_s=float(course.n_seconds), amplitude_uv=peak,
            frequency_hz=rng.normal(9, 0.8),
        )
    ]  # fmt: skip


def add(scene: Scene, events: Iterable[Events], rng: np.random.Generator) -> None:
    """Add all discharges."""
    events = tuple(events)
    for group in of_kind(events, *_TRANSIENTS):
        _add_transients(scene, group, _TRANSIENTS[group.kind].slow_wave, rng)
    makers = {
        "spike_wave": _spike_wave_run, "photoparoxysmal": _photoparoxysmal_run,
        "polyspikes": _polyspike_burst, "wicket": _wicket_train,
    }  # fmt: skip
    for group in of_kind(events, *makers):
        assert group.place is not None
        for first, n_times, amplitude_uv, frequency_hz in scene.pieces(group):
            waveform_S = makers[group.kind](rng, n_times, scene.sfreq_hz, frequency_hz)
            topography_E = uneven(rng, group.place.topography, sd=0.08)
            scene.add_short(first, amplitude_uv * waveform_S, topography_E)
    for group in of_kind(events, "breach"):
        _add_breach(scene, group, rng)


def _add_transients(
    scene: Scene, group: Events, slow_wave: float, rng: np.random.Generator
) -> None:
    """A steep rise, a slower fall, an overshoot; then a slow wave of a somewhat wider field."""
    assert group.place is not None
    width_N1 = group.duration_s[:, None]
    t_S = (np.arange(round(0.9 * scene.sfreq_hz)) + 0.5) / scene.sfreq_hz
    peak_N1 = 0.42 * width_N1
    skew_N1 = rng.uniform(0.85, 1.15, width_N1.shape)
    sharp_NS = -bump(t_S, peak_N1, 0.19 * width_N1 * skew_N1, 0.28 * width_N1 / skew_N1)
    sharp_NS += 0.28 * bump(t_S, 1.05 * width_N1, 0.2 * width_N1, 0.35 * width_N1)
    sharp_NS += 0.1 * bump(t_S, 0.05 * width_N1, 0.15 * width_N1, 0.1 * width_N1)
    scene.add(lay(scene, group, sharp_NS), group.place.topography)
    center_N1 = width_N1 + rng.uniform(0.16, 0.22, width_N1.shape)
    slow_N1 = slow_wave * rng.lognormal(0, 0.3, width_N1.shape)
    slow_NS = -slow_N1 * bump(t_S, center_N1, 0.1, 0.16)
    wider = Place(group.place.side, group.place.region, group.place.x, group.place.y,
                  1.25 * group.place.extent)  # fmt: skip
    scene.add(lay(scene, group, slow_NS.astype(np.float32)), wider.topography)


def _spike_wave_run(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, frequency_hz: float
) -> FloatArray:
    phase_S = cycles(
        rng, n_times, sfreq_hz, first_hz=1.1 * frequency_hz, last_hz=0.9 * frequency_hz,
        jitter=0.02,
    )  # fmt: skip
    wax_S = 1 + 0.12 * noise(rng, n_times, sfreq_hz, center_hz=0.7, width_hz=0.5)
    return spike_wave(phase_S) * wax_S * fade(n_times, sfreq_hz, in_s=0.4, out_s=0.15)


def _photoparoxysmal_run(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, frequency_hz: float
) -> FloatArray:
    """Irregular spike-wave: less even in time and size than that of absences."""
    phase_S = cycles(
        rng, n_times, sfreq_hz, first_hz=frequency_hz, last_hz=0.9 * frequency_hz, jitter=0.12
    )
    size_S = 1 + 0.3 * noise(rng, n_times, sfreq_hz, center_hz=1.5, width_hz=0.8)
    # A second spike now and then.
    double_S = bump(phase_S % 1, 0.26, 0.03, 0.03) * (np.floor(phase_S) % 2)
    waves_S = spike_wave(phase_S) - 0.6 * double_S
    return (waves_S * size_S * fade(n_times, sfreq_hz, in_s=0.3, out_s=0.1)).astype(np.float32)


def _polyspike_burst(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, frequency_hz: float
) -> FloatArray:
    t_S = np.arange(n_times) / sfreq_hz
    slow_s = 0.4
    n_spikes = max(3, math.floor((n_times / sfreq_hz - slow_s) * frequency_hz))
    center_N: Times = (0.6 + np.arange(n_spikes) + rng.normal(0, 0.1, n_spikes)) / frequency_hz
    # Of growing, uneven size.
    size_N = np.linspace(0.6, 1, n_spikes) * rng.uniform(0.6, 1, n_spikes)
    size_N /= size_N.max()
    spikes_NS = bump(t_S, center_N[:, None], 0.010, 0.014) - 0.35 * bump(
        t_S, center_N[:, None] + 0.5 / frequency_hz, 0.012, 0.014
    )
    wave_S = 0.9 * bump(t_S, center_N[-1] + 0.19, 0.08, 0.11)
    ends_S = fade(n_times, sfreq_hz, in_s=0.0, out_s=0.1)
    return (-(size_N @ spikes_NS + wave_S) * ends_S).astype(np.float32)


def _wicket_train(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, frequency_hz: float
) -> FloatArray:
    """Arches of one polarity, growing and fading; no slow wave after them."""
    phase_S = cycles(
        rng, n_times, sfreq_hz, first_hz=frequency_hz, last_hz=frequency_hz, jitter=0.05
    )
    arches_S = 0.35 - np.abs(np.cos(np.pi * phase_S)) ** 1.5
    crescendo_S = np.sin(np.pi * (np.arange(n_times) + 0.5) / n_times) ** 0.7
    return (1.5 * arches_S * crescendo_S).astype(np.float32)


def _add_breach(scene: Scene, group: Events, rng: np.random.Generator) -> None:
    """Add arched mu or alpha and beta, waxing and waning, and sharp enough to mislead."""
    assert group.place is not None
    for amplitude_uv, frequency_hz in zip(group.amplitude_uv, group.frequency_hz, strict=True):
        arched_S = arched_noise(
            rng, center_hz=frequency_hz, width_hz=0.7, arch=0.35, n_times=scene.n_times,
            sfreq_hz=scene.sfreq_hz,
        )  # fmt: skip
        beta_S = scene.rhythm(rng, 20, 3.5)
        wax_S = scene.curve(swing(rng, scene.course.n_seconds, tau_s=5, depth=0.5).clip(0, 2))
        mixed_S = (0.3 * arched_S * wax_S + 0.17 * beta_S) * amplitude_uv
        scene.add(-mixed_S.astype(np.float32), group.place.topography)
