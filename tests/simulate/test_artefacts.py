"""Artefacts and the amplifier: events are in the signal, where and when they say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import find_peaks, freqz, welch

from openclef.simulate.eeg import artefacts
from openclef.simulate.eeg.amplifier import range_uv, record
from openclef.simulate.eeg.artefact_waveforms import heart_trace
from openclef.simulate.eeg.course import COMA, N1, N2, REM, WAKE, Course
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.fields import BLINK, GAZE, MUSCLES, contact
from openclef.simulate.eeg.head import ELECTRODES, Place
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.parameters import Setting, Site
from openclef.simulate.patients import BadKind, Session
from openclef.simulate.traits import TRAITS
from openclef.types import CHANNELS, FloatArray

QUIET = Site(share=1, noise_uv=0.0, line_uv=0.0, highpass_hz=0.1, lowpass_hz=70)


def session_of(
    *,
    duration_s: int = 120,
    sfreq_hz: int = 200,
    setting: Setting = "routine",
    bad: Mapping[str, BadKind] | None = None,
    **levels: float,
) -> Session:
    healthy = {name: trait.value(0, age=40) for name, trait in TRAITS.items()}
    return Session(
        index=0, start=datetime(2015, 3, 4, 10, 30), age=40, setting=setting,
        duration_s=duration_s, sfreq_hz=sfreq_hz, drugs={}, findings={}, levels=healthy | levels,
        effects=(), bad_channels=bad or {}, has_report=True,
    )  # fmt: skip


def course_of(n_seconds: int, *, stage: int = WAKE, eyes_closed: float = 0.0) -> Course:
    zero_T = np.zeros(n_seconds, np.float32)
    return Course(
        np.full(n_seconds, stage, np.int8), zero_T + np.float32(eyes_closed), zero_T, zero_T,
        zero_T, zero_T + 1, np.zeros(0),
    )  # fmt: skip


def drawn(session: Session, course: Course, seed: int = 0) -> list[Events]:
    return artefacts.draw(np.random.default_rng(seed), session, course)


def count(events: list[Events], kind: str) -> int:
    return sum(len(group) for group in of_kind(events, kind))


def render(session: Session, course: Course, events: list[Events], seed: int = 0) -> FloatArray:
    scene = Scene(session, course, sfreq_hz=session.sfreq_hz)
    artefacts.add(scene, events, np.random.default_rng(seed))
    return scene.signal()


def recorded(
    signal_ES: FloatArray, session: Session, site: Site, names: tuple[str, ...] = CHANNELS
) -> FloatArray:
    return record(signal_ES, session, site, np.random.default_rng(5), names=names)


def at(name: str) -> int:
    return ELECTRODES.index(name)


# --- Events


def test_rates_follow_the_traits() -> None:
    session = session_of(duration_s=3600, blinks_min=15, muscle_min=3, jerks_min=2, tremor_min=2)
    course = course_of(3600)
    counts = {
        kind: np.mean([count(drawn(session, course, seed), kind) for seed in range(12)]) / 60
        for kind in ("blink", "muscle", "jerk", "tremor")
    }
    expected = {"blink": 15 * 0.87, "muscle": 3.2, "jerk": 2, "tremor": 2}
    for kind, per_minute in expected.items():
        assert counts[kind] == pytest.approx(per_minute, rel=0.25), kind


def test_eyes_move_as_the_state_has_it() -> None:
    session = session_of(duration_s=1200)
    awake = drawn(session, course_of(1200))
    closed = drawn(session, course_of(1200, eyes_closed=1))
    drowsy = drawn(session, course_of(1200, stage=N1, eyes_closed=1))
    asleep = drawn(session, course_of(1200, stage=N2, eyes_closed=1))
    dreaming = drawn(session, course_of(1200, stage=REM, eyes_closed=1))
    coma = drawn(session, course_of(1200, stage=COMA, eyes_closed=1))
    assert count(awake, "blink") > 10 * count(closed, "blink")
    assert count(drowsy, "roving") > 10
    assert count(awake, "roving") == count(asleep, "roving") == 0
    assert count(dreaming, "eye_movement") > 50
    for still in (asleep, coma):
        assert count(still, "blink") == count(still, "eye_movement") == 0


def test_arousals_bring_muscle() -> None:
    still = course_of(600, stage=N2, eyes_closed=1)
    arousals_s = np.arange(20.0, 580, 20)
    roused = Course(
        still.stage, still.eyes_closed, still.hyperventilation, still.photic_hz, still.vigilance,
        still.alpha, arousals_s,
    )  # fmt: skip
    bouts = np.concatenate(
        [g.onset_s for g in of_kind(drawn(session_of(duration_s=600), roused), "muscle")]
    )
    after_s = np.abs(bouts[:, None] - arousals_s - 0.6).min(axis=1)
    assert (after_s < 1e-6).sum() > len(arousals_s) / 3


@pytest.mark.parametrize(("bpm", "irregularity"), [(60, 0.03), (95, 0.04), (80, 0.25)])
def test_heart_beats_at_its_rate_and_irregularity(bpm: float, irregularity: float) -> None:
    session = session_of(duration_s=1200, heart_bpm=bpm, heart_irregularity=irregularity)
    (beats,) = of_kind(drawn(session, course_of(1200)), "heartbeat")
    intervals = np.diff(beats.onset_s)
    assert 60 / intervals.mean() == pytest.approx(bpm, rel=0.04)
    assert intervals.std() / intervals.mean() == pytest.approx(irregularity, rel=0.25)


def test_only_intensive_care_has_ventilators() -> None:
    course = course_of(60)
    for setting, expected in (("icu", True), ("routine", False)):
        session = session_of(duration_s=60, setting=setting)  # type: ignore[arg-type]
        seen = any(count(drawn(session, course, seed), "ventilator") for seed in range(60))
        assert seen is expected


@pytest.mark.parametrize("duration_s", [10, 64])
@pytest.mark.parametrize("stage", [WAKE, N1, N2, REM, COMA])
def test_short_sessions_work_and_repeat(duration_s: int, stage: int) -> None:
    session = session_of(duration_s=duration_s, setting="icu", muscle_min=20, jerks_min=12)
    course = course_of(duration_s, stage=stage)
    first, again = (render(session, course, drawn(session, course, 4), 9) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()


# --- Waveforms


@pytest.mark.parametrize(
    ("kind", "place", "positive", "negative"),
    [
        ("blink", BLINK, "Fp1", None),
        ("eye_movement", GAZE["left"], "F7", "F8"),
        ("eye_movement", GAZE["right"], "F8", "F7"),
        ("ventilator", contact("O2"), "O2", None),
    ],
)
def test_event_is_in_the_signal_at_its_electrode(
    kind: str, place: Place, positive: str, negative: str | None
) -> None:
    # Muscles have next to no tone in REM sleep: what is there is the event.
    session, course = session_of(duration_s=40), course_of(40, stage=REM)
    event = Events.of(
        kind, place, [20.0], duration_s=4.0, amplitude_uv=150, frequency_hz=0.25
    )  # fmt: skip
    signal_ES = render(session, course, [event])[: len(CHANNELS)]
    during_ES = signal_ES[:, 20 * 200 : 24 * 200]
    assert during_ES.max() == pytest.approx(150, rel=0.03)
    assert during_ES[at(positive)].max() > 0.99 * during_ES.max()
    assert np.abs(signal_ES[:, : 20 * 200]).max() < 5
    assert np.abs(signal_ES[:, 24 * 200 :]).max() < 5
    if negative:
        assert during_ES[at(negative)].min() == pytest.approx(-150, rel=0.03)


def test_pop_is_sudden_and_at_one_electrode_alone() -> None:
    session, course = session_of(duration_s=40), course_of(40, stage=REM)
    pop = Events.of("pop", contact("P4"), [20.0], duration_s=0.6, amplitude_uv=150)
    signal_ES = render(session, course, [pop])
    steps_ES = np.abs(np.diff(signal_ES[:, 3900:4300], axis=1))
    assert np.argmax(steps_ES[at("P4")]) == 99
    assert steps_ES[at("P4")].max() == pytest.approx(150, rel=0.05)
    assert np.delete(steps_ES, at("P4"), axis=0).max() < 5


def test_muscle_is_fast_and_lateral() -> None:
    session, course = session_of(duration_s=40), course_of(40)
    place = next(p for p in MUSCLES if p.side == "left" and p.region == "temporal")
    bout = Events.of("muscle", place, [10.0], duration_s=10, amplitude_uv=90)
    signal_ES = render(session, course, [bout])[:, 2000:4000]
    freqs_hz, psd_EF = welch(signal_ES, 200, nperseg=400)
    fast = psd_EF[:, freqs_hz > 20].sum(axis=1)
    assert fast[at("T3")] > 20 * fast[at("T4")]
    assert fast[at("T3")] > 10 * psd_EF[at("T3"), freqs_hz < 12].sum()
    assert signal_ES[at("T3")].std() == pytest.approx(30, rel=0.2)


def test_tremor_is_rhythmic_at_its_frequency() -> None:
    session, course = session_of(duration_s=40), course_of(40)
    tremor = Events.of(
        "tremor", BLINK, [5.0], duration_s=30, amplitude_uv=40, frequency_hz=5.0
    )  # fmt: skip
    freqs_hz, psd_F = welch(render(session, course, [tremor])[at("Fp1")], 200, nperseg=800)
    assert freqs_hz[np.argmax(psd_F)] == pytest.approx(5.0, abs=0.26)


def test_heart_channel_shows_every_beat_at_its_time() -> None:
    session = session_of(duration_s=120, sfreq_hz=256, heart_bpm=75)
    events = drawn(session, course_of(120))
    trace = heart_trace(events, n_times=120 * 256, sfreq_hz=256, irregularity=0.03)
    peaks, _ = find_peaks(trace, height=600, distance=60)
    (beats,) = of_kind(events, "heartbeat")
    r_waves_s = beats.onset_s + 0.05
    inside = (r_waves_s > 0.1) & (r_waves_s < 119.9)
    nearest = np.abs(peaks[:, None] / 256 - r_waves_s[inside]).min(axis=0)
    assert nearest.max() < 0.01
    assert trace.max() == pytest.approx(1000, rel=0.1)


def test_fibrillating_atria_make_no_p_wave() -> None:
    events = drawn(session_of(duration_s=60), course_of(60))
    (beats,) = of_kind(events, "heartbeat")
    p_waves = np.rint((beats.onset_s[2:-2] + 0.05 - 0.16) * 256).astype(int)
    for irregularity, uv in ((0.03, 110), (0.2, 0)):
        trace = heart_trace(events, n_times=60 * 256, sfreq_hz=256, irregularity=irregularity)
        assert np.median(trace[p_waves]) == pytest.approx(uv, abs=15)


# --- Amplifier


def sine(hz: float, *, uv: float = 100, seconds: int = 60, sfreq_hz: int = 200) -> FloatArray:
    """The same sine at all electrodes but the ears."""
    wave = uv * np.sin(2 * np.pi * hz * np.arange(seconds * sfreq_hz) / sfreq_hz)
    signal_ES = np.tile(wave.astype(np.float32), (len(ELECTRODES), 1))
    signal_ES[len(CHANNELS) :] = 0
    return signal_ES


def noise_signal(seconds: int = 60, sfreq_hz: int = 200, uv: float = 20) -> FloatArray:
    rng = np.random.default_rng(2)
    signal: NDArray[np.float64] = uv * rng.standard_normal((len(ELECTRODES), seconds * sfreq_hz))
    return signal.astype(np.float32)


def test_references_subtract_what_they_say() -> None:
    signal_ES, session = noise_signal(), session_of(duration_s=60)
    site = QUIET.model_copy(update={"highpass_hz": 0.001, "lowpass_hz": 100})
    names = ELECTRODES
    reference = {
        "linked ears": (signal_ES[at("A1")] + signal_ES[at("A2")]) / 2,
        "A1": signal_ES[at("A1")],
        "average": signal_ES[: len(CHANNELS)].mean(axis=0),
        "Cz": 0.75 * signal_ES[at("Cz")] + 0.25 * signal_ES[at("Pz")],
    }
    for name, ref_S in reference.items():
        own = site.model_copy(update={"reference": name})
        got_ES, expected_ES = recorded(signal_ES, session, own, names), signal_ES - ref_S
        # Gains differ by channel, so shapes are compared.
        for got, expected in zip(got_ES, expected_ES, strict=True):
            if expected.std() > 1:
                assert np.corrcoef(got, expected)[0, 1] > 0.999, name
            else:
                assert got.std() < 1, name
        assert got_ES[: len(CHANNELS)].std(axis=1).min() > 1, "no channel is empty"


def test_average_reference_sums_to_nothing() -> None:
    site = QUIET.model_copy(update={"reference": "average"})
    got_CS = recorded(noise_signal(), session_of(duration_s=60), site)
    assert got_CS.mean(axis=0).std() < 0.03 * got_CS.std()


def test_gain_is_the_sites_and_two_percent_of_the_channels() -> None:
    site = QUIET.model_copy(update={"gain": 1.15})
    got_CS = recorded(sine(10), session_of(duration_s=60), site)[:, 2000:]
    gain_C = got_CS.std(axis=1) / (100 / np.sqrt(2))
    assert gain_C.mean() == pytest.approx(1.15, rel=0.015)
    assert 0.005 < gain_C.std() < 0.05


@pytest.mark.parametrize(("high_hz", "low_hz"), [(0.5, 35.0), (1.0, 70.0)])
def test_filters_have_their_corner_at_minus_three_decibels(high_hz: float, low_hz: float) -> None:
    site = QUIET.model_copy(update={"highpass_hz": high_hz, "lowpass_hz": low_hz})
    impulse_ES = np.zeros((len(ELECTRODES), 12_000), np.float32)
    impulse_ES[: len(CHANNELS), 10] = 1000
    response = recorded(impulse_ES, session_of(duration_s=60), site)[0, 10:].astype(np.float64)
    _, spectrum = freqz(response, worN=[high_hz, 8.0, low_hz, 1.25 * low_hz], fs=200)
    corner_low, middle, corner_high, beyond = 20 * np.log10(np.abs(spectrum))
    assert corner_low - middle == pytest.approx(-3.01, abs=0.15)
    assert corner_high - middle == pytest.approx(-3.01, abs=0.15)
    assert beyond - corner_high < -4


@pytest.mark.parametrize("line_hz", [50, 60])
def test_mains_are_at_their_frequency_and_size(line_hz: int) -> None:
    site = QUIET.model_copy(update={"line_hz": line_hz, "line_uv": 3.0, "lowpass_hz": 240})
    session = session_of(duration_s=60, sfreq_hz=512)
    silent_ES = np.zeros((len(ELECTRODES), 60 * 512), np.float32)
    sizes = []
    for seed in range(15):
        got_CS = record(silent_ES, session, site, np.random.default_rng(seed))
        sizes.append(np.median(got_CS.std(axis=1)))
    assert 1.5 < np.median(sizes) < 7
    freqs_hz, psd_CF = welch(got_CS, 512, nperseg=1024)
    psd_F = np.median(psd_CF, axis=0)
    assert freqs_hz[np.argmax(psd_F)] == line_hz
    third = psd_F[np.argmin(np.abs(freqs_hz - 3 * line_hz))]
    assert third > 100 * np.median(psd_F)


def test_bad_channels_are_bad_in_their_own_way() -> None:
    bad: dict[str, BadKind] = {"T3": "flat", "O2": "noisy", "F3": "bridged"}
    session = session_of(duration_s=60, bad=bad)
    site = Site(share=1, line_uv=0.0)
    got_CS = recorded(noise_signal(uv=15), session, site)
    spread_C = dict(zip(CHANNELS, got_CS.std(axis=1), strict=True))
    assert 0.01 < spread_C["T3"] < 1
    assert spread_C["O2"] > 1.5 * spread_C["O1"]
    partner = max(np.corrcoef(got_CS[CHANNELS.index("F3")], x)[0, 1]
                  for name, x in zip(CHANNELS, got_CS, strict=True) if name != "F3")  # fmt: skip
    assert partner > 0.99


def test_popping_channel_pops_often() -> None:
    session = session_of(duration_s=600, bad={"C4": "popping"})
    pops = [g for g in of_kind(drawn(session, course_of(600)), "pop") if g.place == contact("C4")]
    assert len(pops) == 1
    assert len(pops[0]) > 15


def test_amplifier_clips_at_its_range() -> None:
    got_CS = recorded(sine(10, uv=9000), session_of(duration_s=60), QUIET)
    assert np.abs(got_CS).max() == pytest.approx(range_uv(QUIET))


def test_amplifier_repeats_and_leaves_its_input_alone() -> None:
    signal_ES, session = noise_signal(), session_of(duration_s=60, bad={"Fz": "noisy"})
    before = signal_ES.copy()
    first, again = (recorded(signal_ES, session, Site(share=1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(signal_ES, before)
    assert first.dtype == np.float32
