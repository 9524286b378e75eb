"""The course of a session: stages and how they follow, provocations, and their events."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from healthy import SFREQ_HZ, course_of, make, session_of, steady
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt

from openclef.simulate.eeg import background, sleep
from openclef.simulate.eeg.course import COMA, N1, N2, N3, REM, STAGES, WAKE, course_events
from openclef.simulate.eeg.events import of_kind
from openclef.simulate.parameters import Setting
from openclef.simulate.patients import Session

NEXT = {
    WAKE: {N1}, N1: {WAKE, N2, REM}, N2: {WAKE, N1, N3, REM}, N3: {WAKE, N1, N2}, REM: {WAKE, N2},
}  # fmt: skip


@pytest.mark.parametrize("setting", ["routine", "ltm", "emu", "icu"])
def test_stages_follow_one_another_as_sleep_does(setting: Setting) -> None:
    for seed in range(40):
        course = course_of(session_of(setting=setting, sleep_drive=1.5), seed)
        assert course.stage[0] == WAKE
        changes = np.flatnonzero(np.diff(course.stage))
        for before, after in zip(course.stage[changes], course.stage[changes + 1], strict=True):
            assert after in NEXT[before], f"{STAGES[before]} to {STAGES[after]}"
        assert np.all(course.eyes_closed[course.stage != WAKE] == 1)


def test_some_doze_fewer_sleep_and_more_do_on_the_ward_and_when_sleepy() -> None:
    scores = np.random.default_rng(0).standard_normal(200)

    def share(setting: Setting, stage: int, *, more: float = 0.0) -> float:
        sessions = [session_of(setting=setting, sleep_drive=more + z) for z in scores]
        found = [(course_of(one, i).stage == stage).any() for i, one in enumerate(sessions)]
        return float(np.mean(found))

    assert 0.95 > share("routine", N1) > share("routine", N2) > share("routine", N3) > 0.03
    assert share("ltm", N2, more=0.9) > share("routine", N2)
    assert share("routine", N2, more=1.5) > 1.3 * share("routine", N2, more=-1.5)


def test_traits_shape_the_architecture_of_sleep() -> None:
    def seconds(stage: int, **levels: float) -> float:
        sessions = session_of(setting="ltm", duration_s=3600, sleep_drive=2.0, **levels)
        return float(np.mean([(course_of(sessions, i).stage == stage).sum() for i in range(40)]))

    assert seconds(N3, deep_sleep=2.0) > 3 * seconds(N3, deep_sleep=-2.0)
    assert seconds(REM, rem_drive=2.5) > 4 * seconds(REM)
    assert seconds(N1, sleep_inertia_s=1200) > 1.5 * seconds(N1, sleep_inertia_s=100)


def departures(setting: Setting, n_sessions: int, **levels: float) -> NDArray[np.int64]:
    """Changes of stage in sessions of four hours, `[N, 3]`: from, to, at which second."""
    session = session_of(setting=setting, duration_s=4 * 3600, stage_shifts_h=90, **levels)
    found = []
    for seed in range(n_sessions):
        stage = course_of(session, seed).stage.astype(int)
        last = np.flatnonzero(np.diff(stage))
        found.append(np.stack([stage[last], stage[last + 1], last], axis=1))
    return np.concatenate(found)


def share_of(stage: int, moves: NDArray[np.int64], *, out_of: int) -> float:
    """Share of a stage in what follows another one, but for waking: technologists wake people."""
    asleep = (moves[:, 0] == out_of) & (moves[:, 1] != WAKE)
    assert asleep.sum() > 400
    return float(np.mean(moves[asleep, 1] == stage))


@pytest.mark.parametrize(
    ("rem_drive", "after_n1", "after_n2"),
    [
        # exp(2.5 (rem - 1.2)) against e for N2; 0.03 exp(rem) against 1 for N3 and 0.5 for N1.
        (-1.0, 0.0015, 0.0073),
        (1.2, 0.269, 0.0623),
        (2.5, 0.905, 0.196),
    ],
)
def test_rem_follows_n2_by_its_drive_and_n1_only_when_driven_hard(
    rem_drive: float, after_n1: float, after_n2: float
) -> None:
    moves = departures("ltm", 25, rem_drive=rem_drive, sleep_drive=0.0, deep_sleep=0.0)
    assert share_of(REM, moves, out_of=N1) == pytest.approx(after_n1, rel=0.1, abs=0.005)
    assert share_of(REM, moves, out_of=N2) == pytest.approx(after_n2, rel=0.2, abs=0.005)


@pytest.mark.parametrize("setting", get_args(Setting))
def test_the_odds_of_rem_depend_neither_on_the_setting_nor_on_the_time_of_the_session(
    setting: Setting,
) -> None:
    moves = departures(setting, 40, rem_drive=1.2, sleep_drive=0.0, deep_sleep=0.0)
    is_early = moves[:, 2] < 2 * 3600
    for half in (moves[is_early], moves[~is_early]):
        assert share_of(REM, half, out_of=N1) == pytest.approx(0.269, abs=0.05)
        assert share_of(REM, half, out_of=N2) == pytest.approx(0.0623, abs=0.025)


def test_arousals_come_at_their_rate_and_regularly_in_apnoea() -> None:
    restless = session_of(setting="ltm", duration_s=3600, sleep_drive=3.0, arousals_h=80)
    apnoeic = replace(restless, levels={**restless.levels, "arousal_regularity": 2.5})
    spreads = []
    for session in (restless, apnoeic):
        courses = [course_of(session, seed) for seed in range(30)]
        asleep_h = sum((course.stage != WAKE).sum() for course in courses) / 3600
        assert sum(len(c.arousals_s) for c in courses) == pytest.approx(80 * asleep_h, rel=0.15)
        gaps = np.concatenate([np.diff(c.arousals_s) for c in courses])
        spreads.append(np.subtract(*np.percentile(gaps, (75, 25))) / np.median(gaps))
        assert all((c.stage[c.arousals_s.astype(int)] != WAKE).all() for c in courses)
    assert spreads[1] < 0.5 * spreads[0]


def test_overbreathing_builds_up_and_fades_and_is_not_asked_of_the_very_ill() -> None:
    slow = session_of(hv_recovery_s=200)
    quick = session_of(hv_recovery_s=10)
    course = next(c for c in (course_of(slow, i) for i in range(20)) if c.hyperventilation.any())
    (breathing,) = of_kind(course_events(course, slow), "hyperventilation")
    start, length = int(breathing.onset_s[0]), int(breathing.duration_s[0])
    assert length == 180
    assert np.all(np.diff(course.hyperventilation[start : start + length]) > 0)

    def after(session: Session) -> float:
        depths = [course_of(session, i).hyperventilation for i in range(20)]
        return float(np.mean([d[d.argmax() + 60] for d in depths if d.any()]))

    assert after(slow) > 5 * after(quick)
    for other in (session_of(setting="icu"), session_of(age=85), session_of("lpd")):
        assert not any(course_of(other, i).hyperventilation.any() for i in range(20))


def test_flashes_come_in_trains_of_ten_seconds_and_find_people_awake() -> None:
    session = session_of(sleep_drive=3.0)
    course = next(c for c in (course_of(session, i) for i in range(20)) if c.photic_hz.any())
    trains = of_kind(course_events(course, session), "photic")
    assert [train.frequency_hz[0] for train in trains] == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert all(len(train) == 1 and train.duration_s[0] == 10 for train in trains)
    assert np.all(course.stage[course.photic_hz > 0] == WAKE)
    comatose = session_of("burst_suppression")
    assert not any(course_of(comatose, i).photic_hz.any() for i in range(20))


def test_bursts_of_alpha_are_events_where_alpha_is_large() -> None:
    session = session_of(duration_s=1200)
    waxing_T = course_of(session).alpha
    course = replace(steady(session, WAKE), alpha=waxing_T)
    made = make(session, course)
    (bursts,) = of_kind(made.events, "alpha_burst")
    inside = background.covered(bursts, 1200) > 0
    assert 0.05 < inside.mean() < 0.5
    sos = butter(4, np.array((-1.5, 1.5)) + session.levels["pdr_hz"], "bandpass", fs=SFREQ_HZ,
                 output="sos")  # fmt: skip
    seconds = (sosfiltfilt(sos, made.channel("O1")).reshape(1200, -1) ** 2).mean(axis=1)
    assert seconds[inside].mean() > 1.5 * seconds[~inside].mean()
    absent = session_of("absent_pdr", duration_s=1200)
    assert not of_kind(course_events(course, absent), "alpha_burst")


def test_burst_suppression_is_a_coma() -> None:
    course = course_of(session_of("burst_suppression", "absent_pdr", setting="icu"))
    assert np.all(course.stage == COMA)


@pytest.mark.parametrize("duration_s", [10, 64, 1280])
def test_each_second_has_one_stage_in_the_events(duration_s: int) -> None:
    for seed in range(10):
        session = session_of("posts", "diffuse_beta", duration_s=duration_s, sleep_drive=1.0)
        course = course_of(session, seed)
        assert course.n_seconds == duration_s
        stages = of_kind(course_events(course, session), *STAGES)
        covered = np.sum([background.covered(group, duration_s) for group in stages], axis=0)
        np.testing.assert_array_equal(covered, 1)
        for group in sleep.draw(np.random.default_rng(seed), session, course):
            assert np.all((group.onset_s >= 0) & (group.onset_s < duration_s))
            assert len(group) or group.kind != "diffuse_beta"
