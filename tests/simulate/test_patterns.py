"""Findings: when their events come, and that the signal shows them."""

from __future__ import annotations

from datetime import datetime
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import find_peaks, welch

from openclef.simulate.eeg import background, periodic, seizures, slowing, spikes, suppression
from openclef.simulate.eeg.course import COMA, N2, WAKE, Course
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.head import ELECTRODES
from openclef.simulate.eeg.scene import Scene
from openclef.simulate.patients import Finding, Session
from openclef.simulate.traits import TRAITS

SFREQ_HZ = 200
DRAWN: dict[ModuleType, tuple[str, ...]] = {
    slowing: ("focal_slowing", "generalized_slowing"),
    spikes: (
        "spikes", "sharp_waves", "spike_wave", "polyspikes", "photoparoxysmal", "wicket", "bets",
        "breach",
    ),
    periodic: ("lpd", "gpd", "bipd", "triphasic", "lrda", "grda"),
    seizures: ("seizure", "status"),
    suppression: ("burst_suppression", "low_voltage"),
}  # fmt: skip
# One event may be all there is.
SINGLE = ("breach", "low_voltage", "seizure", "status", "photoparoxysmal", "burst_suppression")
MODULE = {kind: module for module, kinds in DRAWN.items() for kind in kinds}
KINDS = list(MODULE)


def make_session(
    *kinds: str, duration_s: int = 1280, z: float = 0.0, rate: float = 1.0, **levels: float
) -> Session:
    lateral = Finding(1.0, rate, "left", "temporal")
    return Session(
        index=0, start=datetime(2020, 1, 1, 9), age=40, setting="routine", duration_s=duration_s,
        sfreq_hz=SFREQ_HZ, drugs={}, findings=dict.fromkeys(kinds, lateral),
        levels={name: trait.value(z, age=40) for name, trait in TRAITS.items()} | levels,
        effects=(), bad_channels={}, has_report=True,
    )  # fmt: skip


def make_course(duration_s: int = 1280, **parts: NDArray[np.generic]) -> Course:
    zeros = np.zeros(duration_s, np.float32)
    return Course(
        stage=parts.get("stage", np.full(duration_s, WAKE)).astype(np.int8),
        eyes_closed=zeros + 1,
        hyperventilation=parts.get("hyperventilation", zeros).astype(np.float32),
        photic_hz=parts.get("photic_hz", zeros).astype(np.float32),
        vigilance=parts.get("vigilance", zeros).astype(np.float32),
        alpha=zeros + 1,
        arousals_s=np.array([]),
    )


def half_flashes(duration_s: int) -> NDArray[np.float64]:
    """Trains of 6 and 16 flashes a second, five seconds on and five off, in turn."""
    second = np.arange(duration_s)
    return np.where(second % 10 < 5, np.where(second % 20 < 10, 16.0, 6.0), 0.0)


def draw(kind: str, *, session: Session, course: Course, seed: int = 0) -> list[Events]:
    return MODULE[kind].draw(np.random.default_rng(seed), session, course)


def onsets(groups: list[Events], kind: str) -> NDArray[np.float64]:
    return np.sort(np.concatenate([group.onset_s for group in of_kind(groups, kind)]))


def render(groups: list[Events], session: Session, course: Course, seed: int = 1) -> Scene:
    scene = Scene(session, course, sfreq_hz=SFREQ_HZ)
    for module in (slowing, spikes, periodic, seizures):
        module.add(scene, groups, np.random.default_rng(seed))
    return scene


def row(name: str) -> int:
    return ELECTRODES.index(name)


@pytest.mark.parametrize("duration_s", [10, 64, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_a_finding_has_events_within_the_session(kind: str, duration_s: int) -> None:
    session = make_session(kind, duration_s=duration_s)
    stage = np.full(duration_s, N2 if kind == "bets" else WAKE)
    course = make_course(duration_s, stage=stage, photic_hz=half_flashes(duration_s))
    for seed in range(5):
        groups = draw(kind, session=session, course=course, seed=seed)
        found = of_kind(groups, kind)
        n_events = sum(len(group) for group in found)
        fewest = 1 if kind in SINGLE else 2
        assert n_events >= (3 if kind in {"spikes", "lpd", "wicket", "bets"} else fewest)
        for group in groups:
            assert (group.onset_s >= 0).all()
            assert (group.duration_s > 0).all()
            assert (group.onset_s + group.duration_s <= duration_s + 1e-6).all(), group
            assert (np.diff(group.onset_s) >= 0).all()
            assert group.place is not None
            assert (group.amplitude_uv > 0).all()
        assert np.isfinite(render(groups, session, course).signal()).all()


@pytest.mark.parametrize("module", DRAWN)
def test_no_finding_no_event(module: ModuleType) -> None:
    course = make_course(photic_hz=half_flashes(1280))
    assert module.draw(np.random.default_rng(0), make_session(), course) == []


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_signal(kind: str) -> None:
    session = make_session(kind, duration_s=30)
    course = make_course(30, photic_hz=half_flashes(30))
    first, again = (
        render(draw(kind, session=session, course=course, seed=4), session, course).signal()
        for _ in range(2)
    )
    assert first.tobytes() == again.tobytes()


def test_spikes_come_more_often_in_stage_2_and_in_clusters() -> None:
    stage = np.where(np.arange(1280) < 640, WAKE, N2)
    session, course = make_session("spikes"), make_course(stage=stage)
    drawn = [onsets(draw("spikes", session=session, course=course, seed=s), "spikes")
             for s in range(20)]  # fmt: skip
    asleep = np.mean([(onset_s >= 640).sum() for onset_s in drawn])
    awake = np.mean([(onset_s < 640).sum() for onset_s in drawn])
    assert 2 < asleep / awake < 4
    # Poisson counts would have a variance equal to their mean.
    counts = np.array([np.histogram(o, np.arange(640, 1281, 40))[0] for o in drawn])
    assert counts.var() / counts.mean() > 1.5


def test_spike_wave_is_provoked_by_hyperventilation() -> None:
    breathing = (np.arange(1280) < 180).astype(float)
    session, course = make_session("spike_wave"), make_course(hyperventilation=breathing)
    drawn = [onsets(draw("spike_wave", session=session, course=course, seed=s), "spike_wave")
             for s in range(20)]  # fmt: skip
    onset_s = np.concatenate(drawn)
    assert (onset_s < 180).sum() / 180 > 3 * (onset_s >= 180).sum() / 1100


def test_photoparoxysmal_needs_fast_flashes() -> None:
    session = make_session("photoparoxysmal")
    photic_hz = half_flashes(1280)
    groups = draw("photoparoxysmal", session=session, course=make_course(photic_hz=photic_hz))
    (group,) = groups
    assert len(group) > 20
    for first, last in zip(group.onset_s, group.onset_s + group.duration_s, strict=True):
        assert (photic_hz[int(first) : int(np.ceil(last))] >= 10).all()
    assert draw("photoparoxysmal", session=session, course=make_course()) == []


@pytest.mark.parametrize("kind", ["bets", "wicket"])
def test_benign_variants_belong_to_sleep(kind: str) -> None:
    stage = np.where(np.arange(1280) < 640, WAKE, N2)
    groups = draw(kind, session=make_session(kind, rate=2), course=make_course(stage=stage))
    onset_s = onsets(groups, kind)
    assert (onset_s >= 640).mean() > (0.99 if kind == "bets" else 0.6)


@pytest.mark.parametrize(("kind", "stage"), [("bets", WAKE), ("wicket", COMA)])
def test_benign_variants_stay_away_without_the_state_they_need(kind: str, stage: int) -> None:
    course = make_course(stage=np.full(1280, stage))
    groups = draw(kind, session=make_session(kind), course=course)
    assert sum(map(len, groups)) == 0
    asleep = np.where(np.arange(1280) < 1000, stage, N2)
    groups = draw(kind, session=make_session(kind), course=make_course(stage=asleep))
    assert onsets(groups, kind).min() >= 1000


def test_generalized_slowing_comes_when_vigilance_is_low() -> None:
    vigilance = 0.3 * np.sin(2 * np.pi * np.arange(1280) / 160)
    session = make_session("generalized_slowing")
    second = np.concatenate([
        onsets(draw("generalized_slowing", session=session,
                    course=make_course(vigilance=vigilance), seed=s), "generalized_slowing")
        for s in range(10)
    ]).astype(int)  # fmt: skip
    assert vigilance[second].mean() < -0.08


@pytest.mark.parametrize("kind", ["focal_slowing", "generalized_slowing"])
def test_bouts_are_longer_at_a_constant_share(kind: str) -> None:
    shares, lengths = [], []
    for bout_s in (4.0, 30.0):
        session = make_session(kind, slow_bout_s=bout_s)
        groups = [draw(kind, session=session, course=make_course(), seed=s)[0] for s in range(30)]
        shares.append(np.mean([group.duration_s.sum() / 1280 for group in groups]))
        lengths.append(np.mean(np.concatenate([group.duration_s for group in groups])))
    assert lengths[1] > 4 * lengths[0]
    assert shares[0] == pytest.approx(shares[1], rel=0.2)
    assert 0.2 < shares[0] < 0.45


def test_seizure_slows_grows_spreads_and_stops() -> None:
    session, course = make_session("seizure"), make_course()
    groups = draw("seizure", session=session, course=course, seed=3)
    (whole,) = of_kind(groups, "seizure")
    spread = of_kind(groups, "seizure_spread")
    assert {group.place.region for group in spread if group.place} > {"frontal"}
    without_after = [group for group in groups if group.kind != "postictal"]
    trace = render(without_after, session, course).signal()[row("T3")]
    first, length = int(whole.onset_s[0] * SFREQ_HZ), int(whole.duration_s[0] * SFREQ_HZ)
    parts = np.array_split(trace[first : first + length], 5)

    def peak_hz(part: NDArray[np.float32]) -> float:
        freqs_hz, power = welch(part, SFREQ_HZ, nperseg=min(400, len(part)))
        return float(freqs_hz[np.argmax(power)])

    assert peak_hz(parts[0]) > 7
    assert peak_hz(parts[-1]) < 4
    assert parts[-1].std() > 2 * parts[0].std()
    assert trace[first + length + 20 : first + length + 400].std() < 0.01 * parts[-1].std()


def test_absence_seizures_where_nothing_is_focal() -> None:
    course = make_course()
    generalized = make_session("seizure", "spike_wave")
    (group,) = draw("seizure", session=generalized, course=course)
    assert group.place is not None
    assert group.place.region == "diffuse"
    assert group.frequency_hz == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("kind", ["lpd", "spikes", "sharp_waves", "lrda", "focal_slowing"])
def test_lateral_findings_lie_on_their_side(kind: str) -> None:
    session, course = make_session(kind, duration_s=300), make_course(300)
    groups = draw(kind, session=session, course=course)
    own = [group for group in groups if group.place and group.place.side == "left"]
    # Spikes of the other side are few.
    assert sum(map(len, own)) > 0.7 * sum(map(len, groups))
    level = render(own, session, course).signal().std(axis=1)
    assert level[row("T3")] > 2.5 * level[row("T4")]


def test_bipd_has_two_sides_with_their_own_rates() -> None:
    session, course = make_session("bipd"), make_course()
    left, right = draw("bipd", session=session, course=course)
    assert left.place is not None
    assert right.place is not None
    assert (left.place.side, right.place.side) == ("left", "right")
    rates = [np.median(group.frequency_hz) for group in (left, right)]
    assert abs(rates[0] - rates[1]) > 0.02


def test_lpd_is_quasi_periodic_within_runs() -> None:
    session, course = make_session("lpd"), make_course()
    onset_s = onsets(draw("lpd", session=session, course=course), "lpd")
    interval_s = np.diff(onset_s)
    within = interval_s[interval_s < 3]
    assert 0.5 < 1 / np.median(within) < 2
    assert 0.03 < within.std() / within.mean() < 0.3
    assert len(within) > 200


def test_triphasic_waves_reach_the_back_100_ms_later() -> None:
    session, course = make_session("triphasic", duration_s=120), make_course(120)
    signal = render(draw("triphasic", session=session, course=course), session, course).signal()
    front, back = signal[row("Fp1")], signal[row("O1")]
    lags = np.arange(-60, 61)
    products = [float(front[100:-100] @ np.roll(back, -lag)[100:-100]) for lag in lags]
    assert lags[np.argmax(products)] / SFREQ_HZ == pytest.approx(0.1, abs=0.02)
    # Its main phase is positive.
    assert front.max() > -front.min()


def test_burst_suppression_is_quiet_between_bursts() -> None:
    session = make_session("burst_suppression", duration_s=300)
    course = make_course(300, stage=np.full(300, COMA))
    groups = draw("burst_suppression", session=session, course=course)
    scene = Scene(session, course, sfreq_hz=SFREQ_HZ)
    background.add(scene, groups, np.random.default_rng(0))
    suppression.apply(scene, groups)
    (bursts,) = groups
    inside = np.zeros(scene.n_times, bool)
    for first, length in zip(scene.samples(bursts), bursts.duration_s, strict=True):
        inside[first : first + int(length * SFREQ_HZ)] = True
    signal = scene.signal()[: len(ELECTRODES) - 2]
    assert 0.1 < inside.mean() < 0.6
    assert np.abs(signal[:, ~inside]).max() < 10
    assert signal[:, inside].std() > 10 * signal[:, ~inside].std()


def test_low_voltage_scales_everything() -> None:
    session, course = make_session("low_voltage", duration_s=20), make_course(20)
    groups = draw("low_voltage", session=session, course=course)
    scene = Scene(session, course, sfreq_hz=SFREQ_HZ)
    background.add(scene, groups, np.random.default_rng(0))
    before = scene.signal().copy()
    suppression.apply(scene, groups)
    np.testing.assert_allclose(scene.signal(), 0.35 * before, rtol=1e-6)


@pytest.mark.parametrize("z", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "share"), [("spikes", 0.9), ("lpd", 0.95)])
def test_a_detector_that_knows_the_template_finds_them(kind: str, share: float, z: float) -> None:
    """Whitened matched filter at T3, the threshold 0.05 false alarms a minute of background."""
    session, course = make_session(kind, z=z), make_course()
    groups = draw(kind, session=session, course=course)
    groups = [group for group in groups if group.place and group.place.side == "left"]
    events_alone = render(groups, session, course).signal()[row("T3")]
    scene = Scene(session, course, sfreq_hz=SFREQ_HZ)
    background.add(scene, groups, np.random.default_rng(2))
    noise = scene.signal()[row("T3")]
    first_N = (onsets(groups, kind) * SFREQ_HZ).astype(int)
    n_wave = 100
    template = np.mean([events_alone[first : first + n_wave] for first in first_N[:-1]], axis=0)

    n_fft = len(noise)
    freqs_hz, density = welch(noise, SFREQ_HZ, nperseg=800)
    density = np.interp(fft.rfftfreq(n_fft, 1 / SFREQ_HZ), freqs_hz, density)
    kernel = np.conj(fft.rfft(template, n_fft)) / np.maximum(density, 1e-3)

    def score(trace: NDArray[np.floating]) -> NDArray[np.float64]:
        return fft.irfft(fft.rfft(trace) * kernel, n_fft)

    peaks, _ = find_peaks(score(noise), distance=n_wave)
    n_allowed = round(0.05 * n_fft / SFREQ_HZ / 60)
    threshold = np.sort(score(noise)[peaks])[-n_allowed - 1]
    scored = score(noise + events_alone)
    found = [scored[max(0, first - 20) : first + 20].max() > threshold for first in first_N]
    assert np.mean(found) >= share
