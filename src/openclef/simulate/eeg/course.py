"""The course of a session, second by second: vigilance, eyes, hyperventilation, flashes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openclef.simulate.eeg.events import Events
from openclef.simulate.eeg.noise import waxing
from openclef.simulate.patients import Session

STAGES = ("wake", "n1", "n2", "n3", "rem", "coma")
WAKE, N1, N2, N3, REM, COMA = range(len(STAGES))

# A session shorter than a routine one runs through its states faster, so that all can occur.
_ROUTINE_S = 1200
_SHORTEST_STAGE_S = 8
_HV_S, _HV_BUILDUP_S, _HV_SHORTEST_SESSION_S = 180, 60, 400
# Ten trains of flashes, ten seconds on and ten off, if they take no more than a fifth.
_FLASHES_HZ = (3, 6, 9, 12, 15, 18, 21, 24, 27, 30)
_TRAIN_S, _PHOTIC_SHARE = 10, 0.2
_P_HV = {"routine": 0.75, "emu": 0.4}
_P_PHOTIC = {"routine": 0.8, "emu": 0.4}
# Nobody breathes deeply for the technologist with these, nor after 80.
_NO_HV = ("burst_suppression", "seizure", "status", "lpd", "gpd", "bipd", "triphasic")
# Slow swings of vigilance below this, and waxing of alpha above that, are events.
_LAPSE, _ALPHA_BURST = -0.2, 1.2
# Peaks of a rhythm are some three times its RMS.
_PEAK = 3.0
# Response to flashes at the rate of the own rhythm, peak, for a `photic_drive` of 1.
PHOTIC_UV = 7.0
# Mean seconds with eyes closed and open, awake: told to keep them closed, or living on a ward.
_EYES_S = {"routine": (70, 12), "ltm": (25, 60), "emu": (30, 50), "icu": (60, 25)}


@dataclass(frozen=True, eq=False)
class Course:
    """What goes on at each second; T is the session's length in whole seconds.

    stage: `[T]` index into `STAGES`. eyes_closed, hyperventilation: `[T]` in [0, 1] (build-up and
    recovery included). photic_hz: `[T]` flashes a second, 0 without. vigilance: `[T]`, a slow swing
    about 0 that slowing and rhythms follow (above 0: more alert). alpha: `[T]`, waxing and waning
    of the posterior rhythm about 1. arousals_s: `[N]` onsets.
    """

    stage: NDArray[np.int8]
    eyes_closed: NDArray[np.float32]
    hyperventilation: NDArray[np.float32]
    photic_hz: NDArray[np.float32]
    vigilance: NDArray[np.float32]
    alpha: NDArray[np.float32]
    arousals_s: NDArray[np.float64]

    @property
    def n_seconds(self) -> int:
        return len(self.stage)

    def share(self, *stages: int) -> NDArray[np.float32]:
        """Return `[T]` in [0, 1]: how much of each second belongs to the stages, edges smooth."""
        inside = np.isin(self.stage, stages).astype(np.float32)
        padded = np.pad(inside, 1, mode="edge")
        return ((padded[:-2] + padded[1:-1] + padded[2:]) / 3).astype(np.float32)


def draw_course(rng: np.random.Generator, session: Session) -> Course:
    """Draw the course of a session.

    Parameters
    ----------
    rng : Generator
        Randomness.
    session : Session
        Length, setting, age, findings and levels.

    Returns
    -------
    Course
        Coma throughout under burst suppression, and often in intensive care without a posterior
        rhythm; else wakefulness with provocations and, by `sleep_drive`, sleep.
    """
    vigilance = _draw_vigilance(rng, session)
    hyperventilation, photic_hz = _draw_provocations(rng, session)
    busy = (photic_hz > 0) | (hyperventilation > 0.3)
    stage = np.full(session.duration_s, COMA, np.int8)
    without_rhythm = session.setting == "icu" and "absent_pdr" in session.findings
    if "burst_suppression" not in session.findings and not (without_rhythm and rng.random() < 0.7):
        stage = _draw_stages(rng, session, busy)
    return Course(
        stage=stage,
        eyes_closed=_draw_eyes(rng, session, stage, busy),
        hyperventilation=hyperventilation,
        photic_hz=photic_hz,
        vigilance=vigilance,
        alpha=waxing(
            rng, n_seconds=session.duration_s, time_constant_s=session.levels["alpha_spindle_s"],
            depth=0.3,
        ).astype(np.float32),
        arousals_s=_draw_arousals(rng, session, stage),
    )  # fmt: skip


def _draw_vigilance(rng: np.random.Generator, session: Session) -> NDArray[np.float32]:
    """Return `[T]` of SD `fluctuation`, swinging with a period about `fluctuation_s`."""
    period_s = session.levels["fluctuation_s"]
    # A sum of some sinusoids about the period: noise without any wrap-around.
    periods_s = period_s * np.exp(rng.normal(0, 0.4, 6))
    weights = rng.standard_normal((2, 6)) / math.sqrt(6)
    angle = 2 * np.pi * np.arange(session.duration_s)[:, None] / periods_s
    swing = np.cos(angle) @ weights[0] + np.sin(angle) @ weights[1]
    return (session.levels["fluctuation"] * swing).astype(np.float32)


def _draw_stages(
    rng: np.random.Generator, session: Session, busy: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Return `[T]`: a semi-Markov chain of stages; provocations wake who sleeps."""
    levels, n_seconds = session.levels, session.duration_s
    pace = min(1.0, n_seconds / _ROUTINE_S)
    drive, deep, rem = levels["sleep_drive"], levels["deep_sleep"], levels["rem_drive"]
    dwell_s = 3600 / levels["stage_shifts_h"]
    # The sleepier, the sooner: who comes for an EEG has slept little, and lies in a dark room.
    latency_s = 500 * math.exp(-0.8 * drive)
    odds = {
        WAKE: {N1: 1.0},
        N1: {N2: math.exp(1.0 + 0.6 * drive), WAKE: 1.0, REM: math.exp(2.5 * (rem - 1.2))},
        N2: {
            N3: math.exp(0.8 * deep), N1: 0.5, WAKE: 0.5 * math.exp(-0.5 * drive),
            REM: 0.03 * math.exp(rem),
        },
        N3: {N2: 1.0, N1: 0.1, WAKE: 0.1},
        REM: {N2: 0.6, WAKE: 0.4},
    }  # fmt: skip
    means_s = {
        WAKE: 0.3 * latency_s, N1: 0.3 * dwell_s, N2: dwell_s,
        N3: dwell_s * math.exp(0.4 * deep), REM: dwell_s * math.exp(0.3 * rem),
    }  # fmt: skip
    # The technologist wakes people 5 s before, and they stay awake for 15 s.
    woken = np.convolve(busy, np.ones(20))[5 : 5 + n_seconds] > 0
    stage = np.full(n_seconds, WAKE, np.int8)
    at, state, length_s = 0, WAKE, latency_s * rng.lognormal(0, 0.35)
    has_slept = False
    while True:
        end = at + max(_SHORTEST_STAGE_S, round(pace * length_s))
        if state != WAKE and woken[at:end].any():
            end = at + int(woken[at:end].argmax())
            stage[at:end] = state
            rest = ~woken[end:]
            at, state = end + (int(rest.argmax()) if rest.any() else n_seconds), WAKE
        else:
            stage[at:end] = state
            weights = np.array(list(odds[state].values()))
            chosen = np.searchsorted(np.cumsum(weights / weights.sum()), rng.random())
            at, state = end, list(odds[state])[int(chosen)]
        if at >= n_seconds:
            return stage
        length_s = means_s[state] * rng.gamma(2.0) / 2
        if state == N1 and not has_slept:
            length_s = levels["sleep_inertia_s"] * rng.lognormal(0, 0.2)
            has_slept = True


def _draw_provocations(
    rng: np.random.Generator, session: Session
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return hyperventilation and flash rate, `[T]` each."""
    n_seconds = session.duration_s
    hyperventilation, photic_hz = np.zeros((2, n_seconds), np.float32)
    p_hv, p_photic, p_early, when = rng.random(4)
    first_free = 0
    n_trains = min(len(_FLASHES_HZ), int(_PHOTIC_SHARE * n_seconds / (2 * _TRAIN_S)))
    is_asked = "burst_suppression" not in session.findings
    if is_asked and p_photic < _P_PHOTIC.get(session.setting, 0.0):
        length, is_early = 2 * _TRAIN_S * n_trains, p_early < 0.3
        start = 5 if is_early else n_seconds - length - 5
        first_free = start + length + 15 if is_early else 0
        # A short session has the middle of the staircase.
        skipped = (len(_FLASHES_HZ) - n_trains) // 2
        for number, rate_hz in enumerate(_FLASHES_HZ[skipped : skipped + n_trains]):
            first = start + 2 * _TRAIN_S * number
            photic_hz[first : first + _TRAIN_S] = rate_hz
    breathes = p_hv < _P_HV.get(session.setting, 0.0) and n_seconds >= _HV_SHORTEST_SESSION_S
    if breathes and session.age <= 80 and not any(name in session.findings for name in _NO_HV):
        # In the first third, so that what it provokes has time to fade.
        length = min(_HV_S, int(0.15 * n_seconds))
        start = max(first_free, int((0.08 + 0.22 * when) * n_seconds))
        t = np.arange(n_seconds - start)
        depth = 1 - np.exp(-(t[:length] + 1) / _HV_BUILDUP_S)
        fading = depth[-1] * np.exp(-(t[length:] - length + 1) / session.levels["hv_recovery_s"])
        hyperventilation[start:] = np.concatenate([depth, fading])
    return hyperventilation, photic_hz


def _draw_eyes(
    rng: np.random.Generator,
    session: Session,
    stage: NDArray[np.int8],
    busy: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return `[T]`, 1 with closed eyes: awake, they open now and then."""
    closed_s, open_s = _EYES_S[session.setting]
    n_pairs = int(session.duration_s / (0.35 * (closed_s + open_s))) + 4
    lengths = rng.gamma(2.0, 0.5, (n_pairs, 2)) * (closed_s, open_s)
    # Early on the technologist asks for it.
    lengths[:2] = rng.uniform((8, 8), (18, 14), (2, 2))
    edges = np.cumsum(np.maximum(4, lengths).round()).astype(int)
    opened = np.searchsorted(edges, np.arange(session.duration_s), side="right") % 2 == 1
    opened &= (stage == WAKE) & ~busy
    return (~opened).astype(np.float32)


def _draw_arousals(
    rng: np.random.Generator, session: Session, stage: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Return onsets: a renewal process in the time asleep, the more regular the more periodic."""
    asleep = np.flatnonzero(np.isin(stage, (N1, N2, N3, REM)))
    mean_s = 3600 / session.levels["arousals_h"]
    shape = math.exp(1.2 * session.levels["arousal_regularity"])
    n_drawn = int(2 * len(asleep) / mean_s) + 20
    within_s = np.cumsum(rng.gamma(shape, mean_s / shape, n_drawn))
    within_s = within_s[within_s < len(asleep)]
    return asleep[within_s.astype(np.intp)] + within_s % 1


def hyperventilation_uv(session: Session) -> float:
    """RMS of the theta that the deepest breathing brings, most in the young."""
    young = math.exp(-max(0.0, session.age - 20) / 30)
    return 16 * session.levels["hv_buildup"] * young


def course_events(course: Course, session: Session) -> list[Events]:
    """Return what the course consists of: stages, open eyes, provocations and their effects.

    Sizes are those of the rhythm that comes or goes: `eyes_open` has the alpha that is blocked,
    `hyperventilation_slowing` what builds up and fades, `photic` the response, `alpha_burst` the
    rhythm at its best. `lapse`: a low of vigilance.
    """
    levels = session.levels
    awake = course.stage == WAKE
    has_alpha = "absent_pdr" not in session.findings
    alpha_uv = _PEAK * levels["alpha_uv"] * has_alpha
    # Deep breathing is what builds up; what fades after it is not.
    breathing = np.diff(course.hyperventilation, prepend=np.float32(0)) > 0
    closed = awake & (course.eyes_closed > 0.5)
    found = [_intervals(name, course.stage == index) for index, name in enumerate(STAGES)]
    found += [
        _intervals("eyes_open", course.eyes_closed < 0.5, uv=alpha_uv * levels["reactivity"]),
        _intervals("hyperventilation", breathing),
        _intervals(
            "hyperventilation_slowing", course.hyperventilation > 0.3,
            uv=_PEAK * hyperventilation_uv(session),
        ),
        _intervals("lapse", course.vigilance < _LAPSE),
        _intervals(
            "alpha_burst", closed & (course.alpha > _ALPHA_BURST) & has_alpha,
            uv=_ALPHA_BURST * alpha_uv, frequency_hz=levels["pdr_hz"],
        ),
    ]  # fmt: skip
    found += [
        _intervals(
            "photic", course.photic_hz == rate, frequency_hz=float(rate),
            uv=PHOTIC_UV * levels["photic_drive"],
        )
        for rate in np.unique(course.photic_hz[course.photic_hz > 0])
    ]  # fmt: skip
    return [group for group in found if len(group)]


def _intervals(
    kind: str, inside: NDArray[np.bool_], *, uv: float = 0.0, frequency_hz: float = math.nan
) -> Events:
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    return Events.of(
        kind, None, edges[::2], duration_s=edges[1::2] - edges[::2], amplitude_uv=uv,
        frequency_hz=frequency_hz,
    )  # fmt: skip
