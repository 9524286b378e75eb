"""Fields of what is not cortex: the eyes, the heart, muscles, one electrode alone.

The eyes are dipoles of their own and the heart lies far below, so their fields at the electrodes
are written down here rather than taken from the head model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from openclef.simulate.eeg.head import ELECTRODES, POSITIONS, Place
from openclef.simulate.patients import Side
from openclef.types import CHANNELS, FloatArray

_MIRRORED = {
    "Fp1": "Fp2", "F7": "F8", "F3": "F4", "T3": "T4", "C3": "C4", "T5": "T6", "P3": "P4",
    "O1": "O2", "A1": "A2",
}  # fmt: skip


@dataclass(frozen=True)
class Field(Place):
    """A place whose field is given: `weights` at `ELECTRODES`, the largest of the 19 is 1."""

    weights: tuple[float, ...] = ()

    @property
    def topography(self) -> FloatArray:
        return np.array(self.weights, np.float32)


def _mirrored(left: Mapping[str, float], *, sign: int) -> tuple[float, ...]:
    """Weights from those of the left side and the midline; the right has them times `sign`."""
    right = {other: sign * left[name] for name, other in _MIRRORED.items()}
    weights = {**left, **right}
    return tuple(weights[name] for name in ELECTRODES)


# Both eyes up, as the lid slides over the cornea, which is positive.
BLINK = Field(
    None, "frontal", 0.0, 1.0, 0.4, _mirrored(
        {"Fp1": 1.0, "F7": 0.42, "F3": 0.4, "Fz": 0.42, "T3": 0.1, "C3": 0.16, "Cz": 0.18,
         "T5": 0.04, "P3": 0.06, "Pz": 0.07, "O1": 0.03, "A1": 0.05}, sign=1,
    ),
)  # fmt: skip
# Both eyes to one side: F7 and F8 see opposite signs.
_LEFTWARD = _mirrored(
    {"Fp1": 0.5, "F7": 1.0, "F3": 0.45, "Fz": 0.0, "T3": 0.4, "C3": 0.2, "Cz": 0.0, "T5": 0.18,
     "P3": 0.08, "Pz": 0.0, "O1": 0.04, "A1": 0.2}, sign=-1,
)  # fmt: skip
GAZE: dict[Side, Field] = {
    "left": Field("left", "frontal", -0.81, 0.59, 0.4, _LEFTWARD),
    "right": Field("right", "frontal", 0.81, 0.59, 0.4, tuple(-w for w in _LEFTWARD)),
}
# The heart's axis points left, down and back: a slope across the whole head.
_SLOPE = np.array([-0.75 * POSITIONS[name][0] - 0.55 * POSITIONS[name][1] for name in ELECTRODES])
HEART = Field(
    None, "diffuse", 0.0, 0.0, 2.0, tuple((_SLOPE / _SLOPE[: len(CHANNELS)].max()).tolist())
)
# Temporal and frontal muscles, and the share of the bouts that each has.
MUSCLES: dict[Place, float] = {
    Place("left", "temporal", -0.98, 0.15, 0.33): 0.32,
    Place("right", "temporal", 0.98, 0.15, 0.33): 0.32,
    Place("left", "frontal", -0.55, 0.85, 0.33): 0.18,
    Place("right", "frontal", 0.55, 0.85, 0.33): 0.18,
}


def contact(name: str) -> Field:
    """One electrode that sees what no other does."""
    weights = tuple(float(name == other) for other in ELECTRODES)
    return Field(None, "contact", *POSITIONS[name], 0.0, weights)
