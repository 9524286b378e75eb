"""Healthy sessions, their courses, and signal made of the two, for the tests of the EEG."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from scipy.signal import welch

from openclef.simulate.eeg import background, sleep
from openclef.simulate.eeg.course import Course, course_events, draw_course
from openclef.simulate.eeg.events import Events
from openclef.simulate.eeg.head import ELECTRODES
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.parameters import Setting
from openclef.simulate.patients import Finding, Session
from openclef.simulate.traits import TRAITS
from openclef.types import FloatArray

SFREQ_HZ = 200


def session_of(
    *findings: str,
    setting: Setting = "routine",
    duration_s: int = 1280,
    age: float = 30,
    **levels: float,
) -> Session:
    """A session with typical levels but those given."""
    typical = {name: trait.value(0.0, age=age) for name, trait in TRAITS.items()}
    return Session(
        index=0, start=datetime(2015, 5, 4, 9, 30), age=age, setting=setting,
        duration_s=duration_s, sfreq_hz=SFREQ_HZ, drugs={},
        findings={name: Finding(1.0, 1.0) for name in findings}, levels=typical | levels,
        effects=(), bad_channels={}, has_report=True,
    )  # fmt: skip


def course_of(session: Session, seed: int = 0) -> Course:
    return draw_course(np.random.default_rng(seed), session)


def steady(session: Session, stage: int, *, eyes_closed: float = 1.0) -> Course:
    """One state throughout."""
    n = session.duration_s
    return Course(
        stage=np.full(n, stage, np.int8), eyes_closed=np.full(n, eyes_closed, np.float32),
        hyperventilation=np.zeros(n, np.float32), photic_hz=np.zeros(n, np.float32),
        vigilance=np.zeros(n, np.float32), alpha=np.ones(n, np.float32), arousals_s=np.zeros(0),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Made:
    """Events and signal `[E, S]`."""

    events: list[Events]
    signal: FloatArray

    def channel(self, name: str) -> FloatArray:
        """One electrode against the mean of the ears."""
        ears_S = self.signal[-2:].mean(axis=0)
        return self.signal[ELECTRODES.index(name)] - ears_S

    def power(self, name: str, low_hz: float, high_hz: float) -> float:
        freqs_hz, psd_F = welch(self.channel(name), SFREQ_HZ, nperseg=4 * SFREQ_HZ)
        return float(psd_F[(freqs_hz >= low_hz) & (freqs_hz <= high_hz)].mean())


def make(session: Session, course: Course, *, seed: int = 0) -> Made:
    of_draw, of_background, of_sleep = np.random.default_rng(seed).spawn(3)
    events = [*course_events(course, session), *sleep.draw(of_draw, session, course)]
    scene = Scene(session, course, sfreq_hz=SFREQ_HZ)
    background.add(scene, events, of_background)
    sleep.add(scene, events, of_sleep)
    return Made(events, scene.signal())
