"""Periodic discharges and rhythmic delta: in runs, at rates that wander, stirred by arousals.

Events: each periodic discharge; each run of rhythmic delta.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from openclef.simulate.eeg.course import Course
from openclef.simulate.eeg.events import Events, Times, of_kind
from openclef.simulate.eeg.head import Place, focus
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.eeg.waveforms import (
    FRONTAL,
    GENERALIZED,
    bouts,
    bump,
    by_stage,
    cycles,
    fade,
    lay,
    peak_uv,
    rows,
    since,
    uneven,
)
from openclef.simulate.patients import Finding, Session
from openclef.types import FloatArray

_TRIPHASIC_LAG_S = 0.1
_P_PLUS = 0.35


@dataclass(frozen=True)
class _Pattern:
    """Rate in Hz (low, high), length of a run in s, share of the time, peak, over background.

    width_s: of a discharge (low, high). stirred: how much more readily runs begin after arousals.
    """

    rate_hz: tuple[float, float]
    run_s: float
    duty: float
    typical_uv: float
    over: float
    width_s: tuple[float, float] = (0.0, 0.0)
    stirred: float = 0.0


_DISCHARGES = {
    "lpd": _Pattern((0.6, 1.6), 70, 0.6, 120, 7, (0.12, 0.24)),
    "bipd": _Pattern((0.5, 1.3), 70, 0.6, 110, 7, (0.12, 0.24)),
    "gpd": _Pattern((1.0, 2.0), 45, 0.5, 110, 6.5, (0.11, 0.2), stirred=2),
    "triphasic": _Pattern((1.5, 2.0), 16, 0.4, 110, 6, (0.4, 0.5), stirred=4),
}
_RHYTHMIC = {
    "lrda": _Pattern((1.2, 2.6), 9, 0.22, 85, 5.5, stirred=1),
    "grda": _Pattern((1.5, 2.8), 8, 0.22, 95, 5.5, stirred=2),
}
_RUNS_AT_LEAST = 2


def draw(rng: np.random.Generator, session: Session, course: Course) -> list[Events]:
    """Draw discharges in runs of tens of seconds, and runs of rhythmic delta."""
    groups = []
    for kind, pattern in _DISCHARGES.items():
        if kind in session.findings:
            finding = session.findings[kind]
            places = _places(rng, kind, finding)
            # Two sides are independent: own runs, own rates.
            groups += [
                _draw_discharges(rng, session, course, kind, finding, pattern, place)
                for place in places
            ]
    for kind, pattern in _RHYTHMIC.items():
        if kind in session.findings:
            finding = session.findings[kind]
            (place,) = _places(rng, kind, finding)
            groups.append(_draw_rhythmic(rng, session, course, kind, finding, pattern, place))
    return groups


def _places(rng: np.random.Generator, kind: str, finding: Finding) -> list[Place]:
    if kind == "bipd":
        region = finding.region or ("temporal", "central", "frontal")[int(rng.integers(3))]
        return [focus(region, "left", extent=0.4), focus(region, "right", extent=0.4)]
    if kind in {"lpd", "lrda"}:
        return [focus(finding.region or "temporal", finding.side or "left", extent=0.5)]
    return [FRONTAL if kind == "grda" else GENERALIZED]


def _readiness(course: Course, pattern: _Pattern) -> Times:
    """Return `[T]`: how readily a run begins."""
    stirred_T = since(course.arousals_s, course.n_seconds, fade_s=8)
    # What is stirred comes with alertness, the rest without.
    tilt = 1.5 if pattern.stirred > 1 else -1.0
    weight_T = by_stage(course, wake=1, n1=1.2, n2=0.7, n3=0.4, rem=0.4, coma=1)
    return (
        weight_T * np.exp(tilt * course.vigilance).clip(0.2, 4) * (1 + pattern.stirred * stirred_T)
    )


def _draw_discharges(
    rng: np.random.Generator,
    session: Session,
    course: Course,
    kind: str,
    finding: Finding,
    pattern: _Pattern,
    place: Place,
) -> Events:
    start_N, length_N = bouts(
        rng, _readiness(course, pattern), length_s=pattern.run_s,
        duty=float(np.clip(pattern.duty * finding.rate, 0.15, 0.9)), at_least=_RUNS_AT_LEAST,
    )  # fmt: skip
    low_hz, high_hz = pattern.rate_hz
    typical_hz = rng.uniform(low_hz, high_hz)
    onset_runs, rate_runs = [], []
    for start_s, length_s in zip(start_N, length_N, strict=True):
        alertness = float(course.vigilance[int(start_s)])
        run_hz = typical_hz * np.exp(0.3 * alertness) * rng.lognormal(0, 0.1)
        # Quasi-periodic: intervals vary by some ten per cent, and drift within the run.
        n_drawn = max(3, int(1.2 * length_s * high_hz) + 3)
        drift = np.linspace(0, rng.normal(0, 0.12), n_drawn)
        interval_N = np.exp(drift + 0.09 * rng.standard_normal(n_drawn)) / np.clip(
            run_hz, 0.8 * low_hz, 1.1 * high_hz
        )
        at_N = np.cumsum(interval_N) - interval_N[0]
        within = (at_N < length_s) & (start_s + at_N < course.n_seconds - 0.4)
        onset_runs.append(start_s + at_N[within])
        rate_runs.append(1 / interval_N[within])
    onset_N = np.concatenate(onset_runs)
    peak = peak_uv(session, finding, place.region, typical_uv=pattern.typical_uv,
                   over=pattern.over)  # fmt: skip
    return Events.of(
        kind, place, onset_N,
        duration_s=rng.uniform(*pattern.width_s) * rng.lognormal(0, 0.1, len(onset_N)),
        amplitude_uv=peak * rng.lognormal(0, 0.14, len(onset_N)),
        frequency_hz=np.concatenate(rate_runs),
    )  # fmt: skip


def _draw_rhythmic(
    rng: np.random.Generator,
    session: Session,
    course: Course,
    kind: str,
    finding: Finding,
    pattern: _Pattern,
    place: Place,
) -> Events:
    onset_N, duration_N = bouts(
        rng, _readiness(course, pattern), length_s=pattern.run_s,
        duty=float(np.clip(pattern.duty * finding.rate, 0.08, 0.6)), at_least=3,
    )  # fmt: skip
    peak = peak_uv(session, finding, place.region, typical_uv=pattern.typical_uv,
                   over=pattern.over)  # fmt: skip
    return Events.of(
        kind, place, onset_N, duration_s=duration_N.clip(max=30),
        amplitude_uv=peak * rng.lognormal(0, 0.15, len(onset_N)),
        frequency_hz=(rng.uniform(*pattern.rate_hz) * rng.lognormal(0, 0.08, len(onset_N))).clip(
            1, 3
        ),
    )  # fmt: skip


def add(scene: Scene, events: Iterable[Events], rng: np.random.Generator) -> None:
    """Add all discharges and runs."""
    events = tuple(events)
    for group in of_kind(events, "lpd", "gpd", "bipd"):
        _add_discharges(scene, group, rng)
    for group in of_kind(events, "triphasic"):
        _add_triphasic(scene, group, rng)
    for group in of_kind(events, *_RHYTHMIC):
        assert group.place is not None
        for first, n_times, amplitude_uv, frequency_hz in scene.pieces(group):
            waveform_S = _rhythmic_delta(rng, n_times, scene.sfreq_hz, frequency_hz)
            topography_E = uneven(rng, group.place.topography, sd=0.08)
            scene.add_short(first, amplitude_uv * waveform_S, topography_E)


def _add_discharges(scene: Scene, group: Events, rng: np.random.Generator) -> None:
    """Sharp, then blunt: a session's discharges look alike, some with fast activity on them."""
    assert group.place is not None
    width_N1 = group.duration_s[:, None]
    t_S = (np.arange(round(0.8 * scene.sfreq_hz)) + 0.5) / scene.sfreq_hz
    after, slow = rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.45)
    vary_N1 = rng.lognormal(0, 0.25, width_N1.shape)
    waves_NS = -bump(t_S, 0.35 * width_N1, 0.16 * width_N1, 0.2 * width_N1)
    waves_NS += after * vary_N1 * bump(t_S, 0.8 * width_N1, 0.2 * width_N1, 0.25 * width_N1)
    waves_NS -= slow * bump(t_S, 1.5 * width_N1, 0.35 * width_N1, 0.5 * width_N1)
    if rng.random() < _P_PLUS and group.kind != "gpd":
        fast_hz = rng.uniform(11, 18)
        start_N1 = rng.random(width_N1.shape)
        fast_NS = np.sin(2 * np.pi * (fast_hz * t_S + start_N1))
        waves_NS += 0.2 * fast_NS * bump(t_S, 1.1 * width_N1, 0.4 * width_N1, 0.8 * width_N1)
    scene.add(lay(scene, group, waves_NS), group.place.topography)


def _add_triphasic(scene: Scene, group: Events, rng: np.random.Generator) -> None:
    """A small negative, a large positive, a slow negative phase; the back follows the front."""
    assert group.place is not None
    width_N1 = group.duration_s[:, None]
    t_S = (np.arange(round(0.9 * scene.sfreq_hz)) + 0.5) / scene.sfreq_hz
    vary_N1 = rng.lognormal(0, 0.2, width_N1.shape)
    waves_NS = -0.5 * bump(t_S, 0.9 * width_N1, 0.22 * width_N1, 0.28 * width_N1)
    waves_NS += bump(t_S, 0.42 * width_N1, 0.13 * width_N1, 0.16 * width_N1)
    waves_NS -= 0.45 * vary_N1 * bump(t_S, 0.16 * width_N1, 0.09 * width_N1, 0.09 * width_N1)
    passed = rows(group.place.topography)
    for number, topography_E in enumerate(passed):
        lag = round(_TRIPHASIC_LAG_S * number / (len(passed) - 1) * scene.sfreq_hz)
        scene.add(lay(scene, group, waves_NS, lag=lag), topography_E)


def _rhythmic_delta(
    rng: np.random.Generator, n_times: int, sfreq_hz: int, frequency_hz: float
) -> FloatArray:
    """Even waves, a little steeper on one flank."""
    phase_S = cycles(
        rng, n_times, sfreq_hz, first_hz=frequency_hz, last_hz=0.95 * frequency_hz, jitter=0.03
    )
    turn_S = 2 * np.pi * phase_S
    waves_S = np.sin(turn_S + 0.35 * np.sin(turn_S))
    size_S = 1 + 0.1 * np.interp(
        np.arange(n_times), np.linspace(0, n_times, 8), rng.standard_normal(8)
    )
    return (waves_S * size_S * fade(n_times, sfreq_hz, in_s=0.5, out_s=0.4)).astype(np.float32)
