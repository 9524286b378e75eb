"""Sleep: its figures come in their stages and are in the signal as they are in the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from healthy import SFREQ_HZ, make, session_of, steady
from scipy.signal import butter, sosfiltfilt, welch

from openclef.simulate.eeg import sleep
from openclef.simulate.eeg.course import N1, N2, N3, REM, WAKE
from openclef.simulate.eeg.events import of_kind
from openclef.simulate.eeg.head import ELECTRODES
from openclef.simulate.eeg.scene import Scene


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
