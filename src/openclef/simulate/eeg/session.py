"""One session: first what happens, then the signal made of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg import (
    artefacts,
    background,
    periodic,
    seizures,
    sleep,
    slowing,
    spikes,
    suppression,
)
from openclef.simulate.eeg.course import Course, course_events, draw_course
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.fields import MUSCLES
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.patients import Patient, Session
from openclef.types import FloatArray

# Seizures and all that takes part in them; what does not go on meanwhile.
_ICTAL = ("seizure", "seizure_spread", "status")
_DISTURBED = frozenset(
    {"spindle", "k_complex", "vertex_wave", "posts", "sawtooth", "blink", "bets", "wicket"}
)
_ICTAL_MUSCLE_UV = 40.0
_DRAWN = (sleep, slowing, spikes, periodic, seizures, suppression, artefacts)
_BRAIN = (background, sleep, slowing, spikes, periodic, seizures)


@dataclass(frozen=True, eq=False)
class Truth:
    """What happens in a session, before any signal: its course and all events."""

    course: Course
    events: tuple[Events, ...]

    def of(self, *kinds: str) -> list[Events]:
        """Return the events of some kinds, one group a kind and place."""
        return of_kind(self.events, *kinds)


def draw_truth(config: SimulationConfig, patient: Patient, session: Session) -> Truth:
    """Draw the course and the events of a session; no signal is made."""
    course = draw_course(
        config.generator("course", patient=patient.index, session=session.index), session
    )
    rng = config.generator("findings", patient=patient.index, session=session.index)
    events = [*course_events(course, session)]
    *of_modules, of_muscle = rng.spawn(len(_DRAWN) + 1)
    for module, own in zip(_DRAWN, of_modules, strict=True):
        events += module.draw(own, session, course)
    events = [*_without_disturbed(events), *_ictal_muscle(of_muscle, events)]
    return Truth(course, tuple(group for group in events if len(group)))


def _without_disturbed(events: list[Events]) -> list[Events]:
    """Leave out what a brain in a seizure does not do: sleep, and blink at leisure."""
    kept = list(events)
    for ictal in of_kind(events, *_ICTAL):
        first_N, last_N = ictal.onset_s, ictal.onset_s + ictal.duration_s
        for row, group in enumerate(kept):
            if group.kind in _DISTURBED:
                # How many have begun, less how many have ended.
                n_now = np.searchsorted(first_N, group.onset_s, side="right")
                n_now -= np.searchsorted(np.sort(last_N), group.onset_s, side="right")
                kept[row] = group.those(n_now == 0)
    return kept


def _ictal_muscle(rng: np.random.Generator, events: Iterable[Events]) -> list[Events]:
    """Tense the jaw over the last two thirds of each seizure but absences."""
    return [
        Events.of(
            "muscle", muscle, whole.onset_s + whole.duration_s / 3,
            duration_s=2 * whole.duration_s / 3,
            amplitude_uv=_ICTAL_MUSCLE_UV * rng.lognormal(0, 0.4, len(whole)),
        )
        for whole in of_kind(events, "seizure")
        if whole.place is not None and whole.place.region != "diffuse"
        for muscle in MUSCLES
        if muscle.region == "temporal"
    ]  # fmt: skip


def make_signal(
    config: SimulationConfig, patient: Patient, session: Session, truth: Truth
) -> FloatArray:
    """Make the signal of a session at the electrodes, before reference and amplifier.

    Parameters
    ----------
    config, patient, session : SimulationConfig, Patient, Session
        Seed and levels.
    truth : Truth
        From `draw_truth`.

    Returns
    -------
    array, shape=(21, n_times)
        At `head.ELECTRODES`, in uV, float32, at the session's sampling frequency.
    """
    scene = Scene(session, truth.course, sfreq_hz=session.sfreq_hz)
    rng = config.generator("background", patient=patient.index, session=session.index)
    for module, own in zip(_BRAIN, rng.spawn(len(_BRAIN)), strict=True):
        module.add(scene, truth.events, own)
    # Suppression and low voltage act on the brain, not on the artefacts.
    suppression.apply(scene, truth.events)
    artefacts.add(
        scene,
        truth.events,
        config.generator("artefacts", patient=patient.index, session=session.index),
    )
    return scene.signal()
