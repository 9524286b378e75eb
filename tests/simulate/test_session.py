"""A session as a whole: what a seizure ends, same bytes for the same seed, any length."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from healthy import SFREQ_HZ, course_of, make, session_of

from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.head import ELECTRODES
from openclef.simulate.eeg.session import draw_truth
from openclef.simulate.patients import Finding, Patient

# Only the index matters to what happens in a session.
SOMEBODY = cast(Patient, SimpleNamespace(index=0))


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
