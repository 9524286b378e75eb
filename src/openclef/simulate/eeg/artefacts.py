"""Artefacts: when eyes, heart, muscles, bed and electrodes disturb the signal.

Their waveforms are in `artefact_waveforms`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from openclef.simulate.eeg.artefact_waveforms import add
from openclef.simulate.eeg.course import COMA, N1, N2, N3, REM, WAKE, Course
from openclef.simulate.eeg.events import Events, Times
from openclef.simulate.eeg.fields import BLINK, GAZE, HEART, MUSCLES, contact
from openclef.simulate.eeg.head import Place
from openclef.simulate.parameters import Setting
from openclef.simulate.patients import Session
from openclef.types import CHANNELS

__all__ = ["add", "draw"]

# By setting: how often an hour, or the share of sessions that have it.
_MOVEMENTS_H: dict[Setting, float] = {"routine": 3, "ltm": 8, "emu": 8, "icu": 14}
_POPS_H: dict[Setting, float] = {"routine": 2, "ltm": 6, "emu": 6, "icu": 12}
_CHEWING_H: dict[Setting, float] = {"routine": 0.5, "ltm": 2.5, "emu": 2.5, "icu": 0.3}
_SWEATS: dict[Setting, float] = {"routine": 0.06, "ltm": 0.2, "emu": 0.2, "icu": 0.15}
_VENTILATED, _PERCUSSED = 0.12, 0.06  # in intensive care only
_BAD_POPS_H = 240.0
_SACCADES_H = 420.0
_REMS_H = 700.0
_BLINKS_EYES_CLOSED = 0.02  # relative to open eyes


def draw(rng: np.random.Generator, session: Session, course: Course) -> list[Events]:
    """Draw all artefacts of a session.

    Parameters
    ----------
    rng : Generator
        Randomness.
    session : Session
        Traits, setting and bad channels.
    course : Course
        Stages and eyes: who sleeps does not blink.

    Returns
    -------
    list of Events
        Kinds `blink eye_movement roving heartbeat muscle chewing jerk tremor movement pop sweat
        ventilator percussion`.
    """
    moments = _Moments(rng, course.n_seconds)
    return [
        *_draw_eyes(moments, session, course),
        _draw_heart(moments, session),
        *_draw_muscle(moments, session, course),
        *_draw_movement(moments, session, course),
        *_draw_electrodes(moments, session),
        *(_draw_devices(moments) if session.setting == "icu" else ()),
    ]


class _Moments:
    """Draws moments, durations and sizes of events."""

    def __init__(self, rng: np.random.Generator, n_seconds: int) -> None:
        self.rng = rng
        self.n_seconds = n_seconds

    def onsets(
        self, per_hour_T: NDArray[np.floating] | float, *, swing: float = 0.0, apart_s: float = 0.0
    ) -> Times:
        """Onsets of a Poisson process; its rate swings over some 20 s, so that events cluster."""
        rate_T = np.broadcast_to(np.asarray(per_hour_T, np.float64) / 3600, (self.n_seconds,))
        if swing:
            knots = swing * self.rng.standard_normal(self.n_seconds // 20 + 2)
            slow_T = np.interp(np.arange(self.n_seconds) / 20, np.arange(len(knots)), knots)
            rate_T = rate_T * np.exp(slow_T - swing**2 / 3)
        counts_T = self.rng.poisson(rate_T)
        second_N = np.repeat(np.arange(self.n_seconds), counts_T)
        onset_N = np.sort(second_N + self.rng.random(len(second_N)))
        return onset_N[np.diff(onset_N, prepend=-math.inf) >= apart_s]

    def sizes(self, n: int, median: float, spread: float = 0.3) -> Times:
        """Log-normal sizes."""
        return median * np.exp(spread * self.rng.standard_normal(n))

    def durations(
        self, onset_N: Times, median_s: float, spread: float, low_s: float, high_s: float
    ) -> Times:
        """Log-normal durations between two limits, that end within the session."""
        duration_N = np.clip(self.sizes(len(onset_N), median_s, spread), low_s, high_s)
        return np.minimum(duration_N, self.n_seconds - onset_N)


def _draw_eyes(moments: _Moments, session: Session, course: Course) -> list[Events]:
    rng, awake_T = moments.rng, course.share(WAKE)
    open_T = awake_T * (1 - course.eyes_closed)
    blinks_H = 60 * session.levels["blinks_min"] * (open_T + _BLINKS_EYES_CLOSED * awake_T)
    blinks = moments.onsets(blinks_H, swing=0.6, apart_s=0.45)
    blink_uv = float(moments.sizes(1, 125, 0.25)[0])
    saccades = moments.onsets(_SACCADES_H * open_T, swing=0.8, apart_s=0.6)
    rems = moments.onsets(_REMS_H * course.share(REM), swing=1.5, apart_s=0.4)
    moved = np.concatenate([saccades, rems])
    held_s = np.concatenate([moments.sizes(len(saccades), 0.8, 0.5), moments.sizes(len(rems), 0.3)])
    size_uv = np.concatenate([moments.sizes(len(saccades), 45), moments.sizes(len(rems), 70)])
    is_left = rng.random(len(moved)) < 0.5
    rolls_H = 60 * session.levels["roving_min"] * course.share(N1)
    rolls = moments.onsets(rolls_H, swing=0.5, apart_s=2.5)
    roll_hz = rng.uniform(0.2, 0.5, len(rolls))
    return [
        Events.of(
            "blink", BLINK, blinks, duration_s=moments.sizes(len(blinks), 0.34, 0.15),
            amplitude_uv=moments.sizes(len(blinks), blink_uv, 0.2),
        ),
        *(
            Events.of(
                "eye_movement", place, moved[here], duration_s=held_s[here],
                amplitude_uv=size_uv[here],
            )
            for place, here in ((GAZE["left"], is_left), (GAZE["right"], ~is_left))
        ),
        Events.of(
            "roving", GAZE["left"], rolls, duration_s=rng.integers(1, 4, len(rolls)) / roll_hz,
            amplitude_uv=moments.sizes(len(rolls), 70), frequency_hz=roll_hz,
        ),
    ]  # fmt: skip


def _draw_heart(moments: _Moments, session: Session) -> Events:
    """Draw beats: breathing orders their intervals, unless they are as irregular as in AF."""
    rng, mean_s = moments.rng, 60 / session.levels["heart_bpm"]
    irregularity = session.levels["heart_irregularity"]
    n_beats = int(1.25 * moments.n_seconds / mean_s) + 8
    phase_N = 2 * math.pi * (0.25 * mean_s * np.arange(n_beats) + rng.random())
    ordered = 0.6 if irregularity < 0.1 else 0.0
    score_N = math.sqrt(2 * ordered) * np.sin(phase_N)
    score_N += math.sqrt(1 - ordered) * rng.standard_normal(n_beats)
    interval_N = mean_s * np.maximum(0.4, 1 + irregularity * score_N)
    beats = np.cumsum(interval_N) - interval_N[0] * rng.random()
    beats = beats[beats < moments.n_seconds]
    size_uv = float(moments.sizes(1, 6 if session.setting == "icu" else 4, 0.6)[0])
    return Events.of(
        "heartbeat", HEART, beats, duration_s=0.1,
        amplitude_uv=moments.sizes(len(beats), size_uv, 0.06),
    )  # fmt: skip


def _draw_muscle(moments: _Moments, session: Session, course: Course) -> list[Events]:
    rng = moments.rng
    tense_T = course.share(WAKE) + 0.3 * course.share(N1) + 0.06 * course.share(N2, N3, REM, COMA)
    bouts = moments.onsets(60 * session.levels["muscle_min"] * tense_T, swing=0.9)
    # Most arousals bring muscle, a moment after they began.
    roused = course.arousals_s[rng.random(len(course.arousals_s)) < 0.6] + 0.6
    bouts = np.concatenate([bouts, roused[roused < moments.n_seconds - 1]])
    bout_s = moments.durations(bouts, 2.5, 0.7, 0.6, 12)
    bout_uv = moments.sizes(len(bouts), 45, 0.6)
    where_N = rng.choice(len(MUSCLES), size=len(bouts), p=list(MUSCLES.values()))
    meals = moments.onsets(_CHEWING_H[session.setting] * course.share(WAKE))
    meal_s = moments.durations(meals, 12, 0.4, 5, 25)
    meal_hz, meal_uv = rng.uniform(1.0, 1.8, len(meals)), moments.sizes(len(meals), 90)
    return [
        *(
            Events.of(
                "muscle", place, bouts[where_N == row], duration_s=bout_s[where_N == row],
                amplitude_uv=bout_uv[where_N == row],
            )
            for row, place in enumerate(MUSCLES)
        ),
        *(
            Events.of(
                "chewing", place, meals, duration_s=meal_s, amplitude_uv=meal_uv,
                frequency_hz=meal_hz,
            )
            for place in MUSCLES
            if place.region == "temporal"
        ),
    ]  # fmt: skip


def _draw_movement(moments: _Moments, session: Session, course: Course) -> list[Events]:
    rng, levels = moments.rng, session.levels
    restless_T = 1 - 0.85 * course.share(N2, N3)
    jerks = moments.onsets(60 * levels["jerks_min"] * restless_T, swing=1.2, apart_s=0.25)
    bouts = moments.onsets(60 * levels["tremor_min"] * course.share(WAKE, N1), swing=0.8)
    region, y = ("occipital", -0.9) if rng.random() < 0.6 else ("central", 0.0)
    tremor_hz = rng.uniform(4, 6)
    moved = moments.onsets(_MOVEMENTS_H[session.setting] * restless_T)
    return [
        Events.of(
            "jerk", Place(None, "central", 0.0, 0.2, 0.75), jerks,
            duration_s=rng.uniform(0.05, 0.2, len(jerks)),
            amplitude_uv=moments.sizes(len(jerks), 110, 0.4),
        ),
        Events.of(
            "tremor", Place(None, region, 0.0, y, 0.55), bouts,
            duration_s=moments.durations(bouts, 7, 0.6, 2, 40),
            amplitude_uv=moments.sizes(len(bouts), 35),
            frequency_hz=rng.normal(tremor_hz, 0.15, len(bouts)),
        ),
        Events.of(
            "movement", Place(None, "diffuse", 0.0, 0.1, 1.2), moved,
            duration_s=moments.durations(moved, 4, 0.6, 1, 20),
            amplitude_uv=moments.sizes(len(moved), 320, 0.6),
            frequency_hz=rng.uniform(0.7, 2.5, len(moved)),
        ),
    ]  # fmt: skip


def _draw_electrodes(moments: _Moments, session: Session) -> list[Events]:
    """Draw pops of electrodes, and the drifts of skin that sweats."""
    rng = moments.rng
    pops_H = {str(rng.choice(CHANNELS)): _POPS_H[session.setting]}
    pops_H |= {name: _BAD_POPS_H for name, bad in session.bad_channels.items() if bad == "popping"}
    events = []
    for name, per_hour in pops_H.items():
        pops = moments.onsets(per_hour, swing=0.8, apart_s=0.2)
        events.append(
            Events.of(
                "pop", contact(name), pops, duration_s=moments.durations(pops, 0.6, 0.5, 0.1, 3),
                amplitude_uv=moments.sizes(len(pops), 160, 0.6),
            )
        )  # fmt: skip
    if rng.random() < _SWEATS[session.setting]:
        onset = np.array([0.6 * moments.n_seconds * rng.random()])
        for x, extent in ((-0.6, 0.55), (0.6, 0.5)):
            events.append(
                Events.of(
                    "sweat", Place("left" if x < 0 else "right", "frontal", x, 0.6, extent), onset,
                    duration_s=moments.durations(onset, 200, 0.7, 20, 1200),
                    amplitude_uv=moments.sizes(1, 90),
                )
            )  # fmt: skip
    return events


def _draw_devices(moments: _Moments) -> list[Events]:
    """Draw what stands at the bed in intensive care: a ventilator, percussion of the chest."""
    rng = moments.rng
    events = []
    if rng.random() < _VENTILATED:
        x, y = rng.uniform(-0.7, 0.7, 2).tolist()
        events.append(
            Events.of(
                "ventilator", Place(None, "diffuse", x, y, 0.6), [0.0],
                duration_s=moments.n_seconds, amplitude_uv=moments.sizes(1, 25),
                frequency_hz=rng.uniform(0.2, 0.35),
            )
        )  # fmt: skip
    if rng.random() < _PERCUSSED:
        onsets = moments.onsets(4.0)
        events.append(
            Events.of(
                "percussion", Place(None, "occipital", 0.0, -0.8, 0.6), onsets,
                duration_s=moments.durations(onsets, 30, 0.4, 15, 60),
                amplitude_uv=moments.sizes(len(onsets), 90), frequency_hz=rng.uniform(4.5, 6.5),
            )
        )  # fmt: skip
    return events
