"""Healthy EEG: the course of a session, and what each state looks like in the signal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import cast

import mne
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt, welch

from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg import background, sleep
from openclef.simulate.eeg.course import (
    COMA,
    N1,
    N2,
    N3,
    REM,
    STAGES,
    WAKE,
    Course,
    course_events,
    draw_course,
)
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.head import ELECTRODES, POSITIONS, focus, topography
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.eeg.session import draw_truth
from openclef.simulate.parameters import Setting
from openclef.simulate.patients import Finding, Patient, Session
from openclef.simulate.traits import TRAITS
from openclef.types import CHANNELS, FloatArray

SFREQ_HZ = 200
# Only the index matters to what happens in a session.
SOMEBODY = cast(Patient, SimpleNamespace(index=0))
NEXT = {
    WAKE: {N1}, N1: {WAKE, N2, REM}, N2: {WAKE, N1, N3, REM}, N3: {WAKE, N1, N2}, REM: {WAKE, N2},
}  # fmt: skip


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


# The course.


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


# The head.


def test_topographies_are_those_of_mne_for_a_dipole_in_three_shells() -> None:
    def on_sphere(x: float, y: float) -> NDArray[np.float64]:
        angle, azimuth = np.hypot(x, y) * np.pi / 2, np.arctan2(y, x)
        return np.array(
            [np.sin(angle) * np.cos(azimuth), np.sin(angle) * np.sin(azimuth), np.cos(angle)]
        )

    radius_m = 0.09
    sphere = mne.make_sphere_model(
        r0=(0, 0, 0), head_radius=radius_m, relative_radii=(0.87, 0.92, 1.0),
        sigmas=(0.33, 0.33 / 40, 0.33), verbose="error",
    )  # fmt: skip
    info = mne.create_info(list(ELECTRODES), 200, "eeg")
    places = {name: radius_m * on_sphere(*xy) for name, xy in POSITIONS.items()}
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    at_3 = on_sphere(-0.4, 0.3)
    dipole = mne.Dipole([0], [0.82 * radius_m * at_3], [1e-8], [at_3], [1.0])
    forward, _ = mne.make_forward_dipole(dipole, sphere, info, verbose="error")
    oracle_E = forward["sol"]["data"][:, 0]
    np.testing.assert_allclose(
        topography(-0.4, 0.3, 0.0), oracle_E / oracle_E[: len(CHANNELS)].max(), atol=0.01
    )


@pytest.mark.parametrize(
    ("region", "best"),
    [("frontal", "F3"), ("temporal", "T3"), ("central", "C3"), ("occipital", "O1")],
)
def test_a_focus_is_seen_best_above_it_less_around_and_reversed_far_away(
    region: str, best: str
) -> None:
    left = focus(region, "left")  # type: ignore[arg-type]
    weights = dict(zip(ELECTRODES, left.topography.tolist(), strict=True))
    assert weights[best] == 1
    assert best in left.channels
    assert len(left.channels) < 6
    mirrored = focus(region, "right").topography  # type: ignore[arg-type]
    assert mirrored.max() == 1
    assert weights["A2"] < 0
    assert max(abs(weights["A1"]), abs(weights["A2"])) < 0.6


def test_a_wider_patch_is_seen_by_more_electrodes() -> None:
    seen = [int((topography(-0.5, 0.0, extent) > 0.3).sum()) for extent in (0.2, 0.4, 0.8)]
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


# Wakefulness.


def test_alpha_is_posterior_blocks_with_open_eyes_and_is_gone_in_sleep() -> None:
    session = session_of(duration_s=120)
    low, high = session.levels["pdr_hz"] - 1, session.levels["pdr_hz"] + 1
    closed = make(session, steady(session, WAKE))
    opened = make(session, steady(session, WAKE, eyes_closed=0.0))
    asleep = make(session, steady(session, N1))
    assert closed.power("O1", low, high) > 2 * closed.power("Fp1", low, high)
    assert closed.power("O1", low, high) > 4 * opened.power("O1", low, high)
    assert closed.power("O1", low, high) > 4 * asleep.power("O1", low, high)
    # Mu does not care for the eyes.
    mu = [
        make(replace(session, levels={**session.levels, "mu_uv": 12.0, "alpha_uv": 0.5}), course)
        for course in (steady(session, WAKE), steady(session, WAKE, eyes_closed=0.0))
    ]
    assert mu[1].power("C3", low, high) == pytest.approx(mu[0].power("C3", low, high), rel=0.1)


def test_levels_set_frequency_and_size_of_the_posterior_rhythm() -> None:
    slow = session_of(duration_s=120, pdr_hz=7.0)
    made = make(slow, steady(slow, WAKE))
    assert made.power("O2", 6.5, 7.5) > 4 * made.power("O2", 10, 11)
    absent = session_of("absent_pdr", duration_s=120, pdr_hz=7.0)
    without = make(absent, steady(absent, WAKE))
    assert without.power("O2", 6.5, 7.5) < 0.4 * made.power("O2", 6.5, 7.5)


@pytest.mark.parametrize(
    ("trait", "channel", "low_hz", "high_hz"),
    [("beta_uv", "Fz", 15, 22), ("theta_uv", "Fz", 5, 6.5), ("delta_uv", "C3", 1.5, 2.5)],
)
def test_a_trait_raises_its_own_band_alone(
    trait: str, channel: str, low_hz: float, high_hz: float
) -> None:
    plain = session_of(duration_s=120)
    raised = replace(plain, levels={**plain.levels, trait: 6 * plain.levels[trait]})
    before = make(plain, steady(plain, WAKE))
    after = make(raised, steady(plain, WAKE))
    assert after.power(channel, low_hz, high_hz) > 2.5 * before.power(channel, low_hz, high_hz)
    assert after.power(channel, 30, 45) == pytest.approx(before.power(channel, 30, 45), rel=0.05)


def test_the_background_has_the_exponent_and_size_asked_for() -> None:
    silent = dict.fromkeys(("alpha_uv", "theta_uv", "delta_uv", "beta_uv", "mu_uv"), 1e-3)
    session = session_of(duration_s=300, exponent=1.5, background_uv=10.0, **silent)
    made = make(session, steady(session, WAKE))
    freqs_hz, psd_EF = welch(made.signal, SFREQ_HZ, nperseg=800)
    used = (freqs_hz >= 3) & (freqs_hz <= 45)
    slopes = [np.polyfit(np.log(freqs_hz[used]), np.log(psd_F[used]), 1)[0] for psd_F in psd_EF]
    assert -np.mean(slopes) == pytest.approx(1.5, abs=0.05)
    in_band = (freqs_hz >= 1) & (freqs_hz <= 40)
    power = psd_EF[: len(CHANNELS), in_band].sum(axis=1) * freqs_hz[1]
    assert np.sqrt(power.mean()) == pytest.approx(10, rel=0.1)


def test_the_occiput_is_driven_at_the_rate_of_the_flashes() -> None:
    session = session_of(duration_s=60, photic_drive=3.0, alpha_uv=1.0)
    course = steady(session, WAKE)
    course.photic_hz[10:20] = course.photic_hz[30:40] = 12
    made = make(session, course)
    flashing = made.channel("O1")[10 * SFREQ_HZ : 20 * SFREQ_HZ]
    dark = made.channel("O1")[20 * SFREQ_HZ : 30 * SFREQ_HZ]
    at_12 = [abs(np.fft.rfft(stretch)[120]) for stretch in (flashing, dark)]
    beside = [abs(np.fft.rfft(flashing)[k]) for k in (110, 115, 125, 130)]
    assert at_12[0] > 6 * at_12[1]
    assert at_12[0] > 6 * max(beside)
    frontal = made.channel("Fp1")[10 * SFREQ_HZ : 20 * SFREQ_HZ]
    assert at_12[0] > 3 * abs(np.fft.rfft(frontal)[120])


def test_overbreathing_slows_the_young_more_than_the_old() -> None:
    ratios = []
    for age in (15, 70):
        session = session_of(duration_s=60, age=age)
        course = steady(session, WAKE)
        before = make(session, course)
        course.hyperventilation[:] = 0.9
        ratios.append(make(session, course).power("Fz", 2, 6) / before.power("Fz", 2, 6))
    assert ratios[1] > 1.5
    assert ratios[0] > 1.5 * ratios[1]


# Sleep.


def test_spindles_and_k_complexes_come_in_stage_2_few_spindles_in_3_none_awake() -> None:
    session = session_of(setting="ltm", duration_s=3600, spindles_min=6.0)
    seconds_of = {}
    for stage in (WAKE, N1, N2, N3, REM):
        groups = sleep.draw(np.random.default_rng(0), session, steady(session, stage))
        seconds_of[stage] = {
            kind: sum(len(group) for group in of_kind(groups, kind))
            for kind in ("spindle", "k_complex", "vertex_wave", "sawtooth")
        }
    # Sixty minutes of stage 2 at 6 a minute, and some that follow K-complexes.
    assert 300 < seconds_of[N2]["spindle"] < 420
    assert 0 < seconds_of[N3]["spindle"] < 0.25 * seconds_of[N2]["spindle"]
    assert seconds_of[N2]["k_complex"] == pytest.approx(90, rel=0.3)
    assert seconds_of[N1]["vertex_wave"] > 2 * seconds_of[N2]["vertex_wave"] > 0
    assert not any(seconds_of[WAKE].values())
    assert seconds_of[REM] == {"spindle": 0, "k_complex": 0, "vertex_wave": 0,
                               "sawtooth": seconds_of[REM]["sawtooth"]}  # fmt: skip
    assert seconds_of[REM]["sawtooth"]


@pytest.mark.parametrize(
    ("kind", "channel", "sign"), [("k_complex", "Fz", -1), ("vertex_wave", "Cz", -1),
                                  ("posts", "O1", 1)],
)  # fmt: skip
def test_waves_of_sleep_are_in_the_signal_where_and_when_they_are_in_the_truth(
    kind: str, channel: str, sign: int
) -> None:
    session = session_of("posts", duration_s=900)
    made = make(session, steady(session, N2))
    (group,) = of_kind(made.events, kind)
    around = np.arange(-SFREQ_HZ // 4, SFREQ_HZ)
    first_N = np.rint(group.onset_s * SFREQ_HZ).astype(int)
    first_N = first_N[(first_N > 100) & (first_N < 900 * SFREQ_HZ - 300)]
    mean_S = made.signal[ELECTRODES.index(channel)][first_N[:, None] + around].mean(axis=0)
    peak = int(np.argmax(sign * mean_S))
    assert sign * mean_S[peak] > 0.5 * group.amplitude_uv.mean()
    assert 0 < around[peak] / SFREQ_HZ < group.duration_s.max()


def test_posts_need_sleep() -> None:
    session = session_of("posts")
    for stage in (WAKE, N3, REM):
        groups = sleep.draw(np.random.default_rng(0), session, steady(session, stage))
        assert not of_kind(groups, "posts")


def test_a_seizure_ends_sleep_and_blinks_stops_alpha_and_tenses_the_jaw() -> None:
    n_checked = 0
    for index in range(20):
        session = replace(session_of(setting="emu", sleep_drive=1.0), index=index, findings={
            name: Finding(1.0, 2.0, "left", "temporal") for name in ("seizure", "posts", "bets")
        })  # fmt: skip
        truth = draw_truth(SimulationConfig(n_patients=1), SOMEBODY, session)
        (seizures,) = truth.of("seizure")
        for first, duration in zip(seizures.onset_s, seizures.duration_s, strict=True):
            last = first + duration
            for group in truth.of("spindle", "k_complex", "vertex_wave", "posts", "bets", "blink"):
                assert not ((group.onset_s >= first) & (group.onset_s < last)).any()
            tense = [group for group in truth.of("muscle")
                     if np.isclose(group.onset_s + group.duration_s, last).any()]  # fmt: skip
            assert {group.place.side for group in tense if group.place} == {"left", "right"}
            n_checked += 1
        assert truth.of("blink")
    assert n_checked >= 20


def test_alpha_gives_way_to_a_seizure() -> None:
    session = session_of(duration_s=120)
    course = steady(session, WAKE)
    seizure = Events.of("seizure", None, [40.0], duration_s=40, amplitude_uv=0)
    scenes = []
    for events in ([], [seizure]):
        scene = Scene(session, course, sfreq_hz=SFREQ_HZ)
        background.add(scene, events, np.random.default_rng(0))
        scenes.append(scene.signal()[ELECTRODES.index("O1")])
    without, with_seizure = scenes
    gone = without - with_seizure
    assert gone[42 * SFREQ_HZ : 78 * SFREQ_HZ].std() > 2
    assert np.abs(gone[: 38 * SFREQ_HZ]).max() < 0.01


def test_spindles_have_their_frequency_length_and_size() -> None:
    quiet = dict.fromkeys(
        ("alpha_uv", "theta_uv", "delta_uv", "beta_uv", "mu_uv", "background_uv"), 1e-3
    )
    session = session_of(duration_s=600, spindle_hz=13.5, spindle_s=1.2, **quiet)
    course = steady(session, N2)
    groups = [g for g in sleep.draw(np.random.default_rng(1), session, course)
              if g.kind == "spindle" and g.place and g.place.region == "central"]  # fmt: skip
    scene = Scene(session, course, sfreq_hz=SFREQ_HZ)
    sleep.add(scene, groups, np.random.default_rng(2))
    cz = scene.signal()[ELECTRODES.index("Cz")]
    freqs_hz, psd_F = welch(cz, SFREQ_HZ, nperseg=400)
    assert freqs_hz[psd_F.argmax()] == pytest.approx(13.5, abs=0.5)
    assert np.median(groups[0].duration_s) == pytest.approx(1.2, rel=0.1)
    for onset, duration_s, uv in zip(
        scene.samples(groups[0]), groups[0].duration_s, groups[0].amplitude_uv, strict=True
    ):
        stretch = scene.signal()[:19, onset : onset + int(duration_s * SFREQ_HZ)]
        if stretch.shape[1] >= int(duration_s * SFREQ_HZ):
            assert np.abs(stretch).max() == pytest.approx(uv, rel=0.02)


def test_deep_sleep_has_slow_waves_above_75_microvolts_over_the_front() -> None:
    session = session_of(duration_s=120)
    # The band in which slow waves are scored.
    sos = butter(2, (0.5, 4), "bandpass", fs=SFREQ_HZ, output="sos")
    swings = {}
    for stage in (WAKE, N3):
        waves = sosfiltfilt(sos, make(session, steady(session, stage)).channel("Fz"))
        swings[stage] = np.ptp(waves.reshape(60, -1), axis=1)
    assert np.mean(swings[N3] > 75) > 0.8
    assert np.mean(swings[WAKE] > 75) < 0.1


def test_arousals_leave_no_spindle_within_and_raise_alpha() -> None:
    session = session_of(duration_s=600, spindles_min=12.0)
    arousals_s = np.arange(10.0, 590, 30)
    made = make(session, replace(steady(session, N2), arousals_s=arousals_s))
    (arousals,) = of_kind(made.events, "arousal")
    spindles_s = np.concatenate([g.onset_s for g in of_kind(made.events, "spindle")])
    assert len(spindles_s)
    inside = (spindles_s[:, None] >= arousals.onset_s) & (
        spindles_s[:, None] < arousals.onset_s + arousals.duration_s
    )
    assert not inside.any()


def test_diffuse_beta_comes_in_bouts_of_large_beta() -> None:
    session = session_of("diffuse_beta", duration_s=300)
    plain = session_of(duration_s=300)
    made, without = (make(s, steady(s, WAKE)) for s in (session, plain))
    (bouts,) = of_kind(made.events, "diffuse_beta")
    assert 0.4 < bouts.duration_s.sum() / 300 < 0.95
    hz = float(bouts.frequency_hz[0])
    for channel in ("F3", "C4", "P3"):
        assert made.power(channel, hz - 2, hz + 2) > 4 * without.power(channel, hz - 2, hz + 2)
    assert not of_kind(without.events, "diffuse_beta")


# Everything.


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    session = session_of("posts", duration_s=64, sleep_drive=2.0)
    first, again, other = (make(session, course_of(session, s), seed=s) for s in (5, 5, 6))
    assert first.signal.tobytes() == again.signal.tobytes()
    assert first.signal.dtype == np.float32
    assert first.signal.tobytes() != other.signal.tobytes()
    for group, same in zip(first.events, again.events, strict=True):
        assert group.onset_s.tobytes() == same.onset_s.tobytes()


@pytest.mark.parametrize("duration_s", [10, 61, 64])
@pytest.mark.parametrize("findings", [(), ("burst_suppression",), ("diffuse_beta", "posts")])
def test_short_sessions_are_whole(duration_s: int, findings: tuple[str, ...]) -> None:
    session = session_of(*findings, duration_s=duration_s, sleep_drive=2.0)
    made = make(session, course_of(session))
    assert made.signal.shape == (len(ELECTRODES), duration_s * SFREQ_HZ)
    assert np.isfinite(made.signal).all()
    assert np.all(made.signal[:19].std(axis=1) > 1)
