"""The background: rhythms by state, level and provocation, each in its band and place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from healthy import SFREQ_HZ, make, session_of, steady
from scipy.signal import welch

from openclef.simulate.eeg import background
from openclef.simulate.eeg.course import N1, WAKE
from openclef.simulate.eeg.events import Events, of_kind
from openclef.simulate.eeg.head import ELECTRODES
from openclef.simulate.eeg.scene import Scene
from openclef.types import CHANNELS


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
