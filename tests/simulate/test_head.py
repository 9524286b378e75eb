"""What each electrode sees of a source: topographies, foci, patches."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from numpy.typing import NDArray

from openclef.simulate.eeg.head import ELECTRODES, POSITIONS, focus, topography
from openclef.types import CHANNELS


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
