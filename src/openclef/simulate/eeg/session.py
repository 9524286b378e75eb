"""One session: first what happens, then the signal made of it."""

from __future__ import annotations

from dataclasses import dataclass

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
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.patients import Patient, Session
from openclef.types import FloatArray


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
    for module, own in zip(_DRAWN, rng.spawn(len(_DRAWN)), strict=True):
        events += module.draw(own, session, course)
    return Truth(course, tuple(group for group in events if len(group)))


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


_DRAWN = (sleep, slowing, spikes, periodic, seizures, suppression, artefacts)
_BRAIN = (background, sleep, slowing, spikes, periodic, seizures)
