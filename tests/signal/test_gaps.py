"""What the filters are given where nothing was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from openclef.signal.gaps import bridge_gaps, recorded_stretches
from openclef.types import Recording

SFREQ_HZ = 100.0


def recording(signal_uv: np.ndarray, gaps: tuple[tuple[float, float], ...]) -> Recording:
    signal_uv = np.atleast_2d(signal_uv).astype(np.float32)
    names = tuple(f"C{i}" for i in range(len(signal_uv)))
    return Recording(signal_uv, SFREQ_HZ, names, np.zeros(len(names), np.bool_), gaps=gaps)


def steps(*levels: tuple[float, float]) -> np.ndarray:
    """(seconds, microvolts) one after the other."""
    return np.concatenate([np.full(round(s * SFREQ_HZ), uv) for s, uv in levels])


def test_without_gaps_nothing_is_copied() -> None:
    given = recording(np.arange(500), ())
    assert bridge_gaps(given) is given


@pytest.mark.parametrize(
    "gaps",
    [((2.0, 3.0),), ((2.0, 2.5), (2.5, 3.0)), ((2.4, 3.0), (2.0, 2.6)), ((2.0, 3.0), (2.2, 2.4))],
)
def test_levels_meet_and_the_input_stays(gaps: tuple[tuple[float, float], ...]) -> None:
    given = recording(
        np.stack([steps((2, 7), (1, 0), (2, -90)), steps((2, 1), (1, 0), (2, 1))]), gaps
    )
    before = given.signal_uv.copy()
    bridged = bridge_gaps(given)
    np.testing.assert_allclose(bridged.signal_uv, [[7.0] * 500, [1.0] * 500])
    np.testing.assert_array_equal(given.signal_uv, before)
    assert bridged.gaps == gaps


def test_a_joint_without_duration_loses_its_step() -> None:
    bridged = bridge_gaps(recording(steps((2, 7), (3, 1000)), ((2.0, 2.0),)))
    np.testing.assert_allclose(bridged.signal_uv, 7)


def test_each_stretch_keeps_its_shape() -> None:
    rng = np.random.default_rng(0)
    signal = np.concatenate(
        [rng.standard_normal(200), np.zeros(100), rng.standard_normal(200) + 50]
    )
    bridged = bridge_gaps(recording(signal, ((2.0, 3.0),))).signal_uv[0]
    np.testing.assert_array_equal(bridged[:200], signal[:200].astype(np.float32))
    shift = bridged[300:] - signal[300:]
    assert np.ptp(shift) < 1e-4
    assert abs(bridged[300:].mean()) < 1


def test_gaps_at_the_ends_take_the_nearest_level() -> None:
    given = recording(steps((1, 0), (2, 30), (2, 0)), ((0.0, 1.0), (3.0, 5.0)))
    np.testing.assert_allclose(bridge_gaps(given).signal_uv, 30)


def test_all_gap_stays_as_it_is() -> None:
    given = recording(steps((5, 0)), ((0.0, 5.0),))
    np.testing.assert_array_equal(bridge_gaps(given).signal_uv, given.signal_uv)


def test_stretches_are_what_lies_between() -> None:
    def stretches(*gaps: tuple[float, float]) -> list[tuple[int, int]]:
        return recorded_stretches(gaps, sfreq_hz=SFREQ_HZ, n_times=500)

    assert stretches() == [(0, 500)]
    assert stretches((0, 5)) == []
    assert stretches((4, 9), (-1, 1)) == [(100, 400)]
    assert stretches((2, 2), (3, 3.001)) == [(0, 200), (200, 300), (300, 500)]
