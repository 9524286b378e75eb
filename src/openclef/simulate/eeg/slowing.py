"""Pathological slowing: bouts of irregular delta and theta, over one region or everywhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from openclef.simulate.eeg.course import Course
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.head import Place, focus, topography
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.eeg.waveforms import (
    GENERALIZED,
    bouts,
    by_stage,
    peak_uv,
    polymorphic,
)
from openclef.simulate.patients import Session
from openclef.types import FloatArray

_DUTY = 0.35
# Generalized slowing is no single source: these share part of their course.
_GENERATORS = ((0.0, 0.7, 0.6), (-0.6, 0.1, 0.5), (0.6, 0.1, 0.5), (0.0, -0.5, 0.6))


def draw(rng: np.random.Generator, session: Session, course: Course) -> list[Events]:
    """Draw bouts of focal and generalized slowing: longer with `slow_bout_s` at a constant share.

    Bouts come when vigilance is low, in drowsiness and after deep breathing. Frequency: of the
    dominant delta or theta.
    """
    levels, found = session.levels, session.findings
    breathing_T = levels["hv_buildup"] * course.hyperventilation
    groups = []
    if "focal_slowing" in found:
        finding = found["focal_slowing"]
        place = focus(finding.region or "temporal", finding.side or "left", extent=0.5)
        weight_T = np.exp(-2 * course.vigilance) * (0.5 + 0.5 * breathing_T)
        weight_T += by_stage(course, wake=0.5, n1=1.2, n2=0.7, n3=0.3, rem=0.5, coma=0.5)
        onset_N, duration_N = bouts(
            rng, weight_T, length_s=levels["slow_bout_s"],
            duty=float(np.clip(_DUTY * finding.rate, 0.1, 0.8)), at_least=3,
        )  # fmt: skip
        groups.append(
            Events.of(
                "focal_slowing",
                place,
                onset_N,
                duration_s=duration_N,
                amplitude_uv=peak_uv(session, finding, place.region, typical_uv=85, over=5.5)
                * rng.lognormal(0, 0.2, len(onset_N)),
                frequency_hz=(1.9 * rng.lognormal(0, 0.2, len(onset_N))).clip(1, 3),
            )
        )
    if "generalized_slowing" in found:
        finding = found["generalized_slowing"]
        weight_T = np.exp(-5 * course.vigilance).clip(0.05, 8) * (1 + 2 * breathing_T)
        weight_T *= by_stage(course, wake=1, n1=1.3, n2=0.6, n3=0.3, rem=0.6, coma=1)
        onset_N, duration_N = bouts(
            rng, weight_T, length_s=levels["slow_bout_s"],
            duty=float(np.clip(_DUTY * finding.rate, 0.1, 0.8)), at_least=3,
        )  # fmt: skip
        # The worse, the slower: theta in mild encephalopathy, delta in severe.
        typical_hz = float(np.clip(3.2 / finding.strength**1.5, 1.5, 5.5))
        groups.append(
            Events.of(
                "generalized_slowing",
                GENERALIZED,
                onset_N,
                duration_s=duration_N,
                amplitude_uv=peak_uv(session, finding, "diffuse", typical_uv=75, over=5)
                * rng.lognormal(0, 0.2, len(onset_N)),
                frequency_hz=typical_hz * rng.lognormal(0, 0.12, len(onset_N)),
            )
        )
    return groups


def add(scene: Scene, events: Iterable[Events], rng: np.random.Generator) -> None:
    """Add the bouts: irregular in time and over the head."""
    events = tuple(events)
    for group in of_kind(events, "focal_slowing", "postictal"):
        assert group.place is not None
        # A second generator beside the first, partly in step, makes the field wander.
        for amount, place in ((0.85, group.place), (0.4, _beside(group.place))):
            _add_bouts(scene, group, place.topography, amount, rng)
    for group in of_kind(events, "generalized_slowing"):
        assert group.place is not None
        _add_bouts(scene, group, group.place.topography, 0.45, rng)
        for x, y, extent in _GENERATORS:
            _add_bouts(scene, group, topography(x, y, extent), 0.5, rng)


def _beside(place: Place) -> Place:
    """Return a place next to one, on the same side."""
    return Place(place.side, place.region, 0.8 * place.x, place.y - 0.35, place.extent)


def _add_bouts(
    scene: Scene, group: Events, topography_E: FloatArray, amount: float, rng: np.random.Generator
) -> None:
    track_S = np.zeros(scene.n_times, np.float32)
    for first, n_times, amplitude_uv, frequency_hz in scene.pieces(group):
        waveform_S = polymorphic(rng, n_times, scene.sfreq_hz, center_hz=frequency_hz)
        part_S = track_S[first : first + n_times]
        part_S += amplitude_uv * waveform_S[: len(part_S)]
    scene.add(amount * track_S, topography_E)
