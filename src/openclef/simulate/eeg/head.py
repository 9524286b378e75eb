"""The head: where electrodes and sources are, and how a source is seen at each electrode.

A sphere of three shells (brain, skull, scalp); a source is a patch of radial dipoles in the
cortex. Potentials are the series of Legendre polynomials of Ary, Klein and Fender (IEEE
Transactions on Biomedical Engineering 28:447, 1981), in which a patch, spread over the sphere as
heat spreads, only adds a factor to each degree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial.legendre import legval
from numpy.typing import NDArray

from openclef.simulate.patients import Region, Side
from openclef.types import CHANNELS, FloatArray

# Electrodes on the head seen from above: x to the right ear, y to the nose. The distance from Cz is
# the angle from it over 90 degrees, so that the rim of the 10-20 system is at radius 1; the ears,
# which a recording may be referred to, lie beyond it.
POSITIONS = {
    "Fp1": (-0.31, 0.95), "Fp2": (0.31, 0.95),
    "F7": (-0.81, 0.59), "F3": (-0.42, 0.54), "Fz": (0.0, 0.5),
    "F4": (0.42, 0.54), "F8": (0.81, 0.59),
    "T3": (-1.0, 0.0), "C3": (-0.5, 0.0), "Cz": (0.0, 0.0), "C4": (0.5, 0.0), "T4": (1.0, 0.0),
    "T5": (-0.81, -0.59), "P3": (-0.42, -0.54), "Pz": (0.0, -0.5),
    "P4": (0.42, -0.54), "T6": (0.81, -0.59),
    "O1": (-0.31, -0.95), "O2": (0.31, -0.95),
    "A1": (-1.35, -0.15), "A2": (1.35, -0.15),
}  # fmt: skip
# The 19 in the order of the recording, then the ears.
ELECTRODES = (*CHANNELS, "A1", "A2")

_REGION_XY: dict[str, tuple[float, float]] = {
    "frontal": (-0.5, 0.6), "temporal": (-0.9, 0.05), "central": (-0.5, 0.0),
    "parietal": (-0.45, -0.5), "occipital": (-0.32, -0.88),
}  # fmt: skip
# Radii over that of the scalp; conductivity of skull over that of brain and scalp.
_INNER_SKULL, _OUTER_SKULL, _CORTEX = 0.87, 0.92, 0.82
_SKULL_CONDUCTIVITY = 1 / 40


@dataclass(frozen=True)
class Place:
    """Where a source lies. side: None for the midline or both; region: also "diffuse".

    x, y: as in `POSITIONS`; extent: standard deviation of its patch of cortex, head radii.
    """

    side: Side | None
    region: str
    x: float
    y: float
    extent: float

    @property
    def topography(self) -> FloatArray:
        """Weights `[E]` at `ELECTRODES`, the largest of the 19 channels is 1."""
        return topography(self.x, self.y, self.extent)

    @property
    def channels(self) -> tuple[str, ...]:
        """Electrodes that see at least half of it."""
        weights = np.abs(self.topography[: len(CHANNELS)])
        return tuple(name for name, w in zip(CHANNELS, weights, strict=True) if w >= 0.5)


def focus(region: Region, side: Side, *, extent: float = 0.4) -> Place:
    """Return the place of a focus over one region of one side."""
    x, y = _REGION_XY[region]
    return Place(side, region, x if side == "left" else -x, y, extent)


@lru_cache(maxsize=4096)
def topography(x: float, y: float, extent: float) -> FloatArray:
    """How a patch of radial dipoles is seen.

    Parameters
    ----------
    x, y : float
        Centre, in the coordinates of `POSITIONS`.
    extent : float
        Standard deviation of the patch along the sphere, in head radii.

    Returns
    -------
    array, shape=(21,)
        Potential at `ELECTRODES`, 1 at the channel that sees it best; small and of the other sign
        far away.
    """
    cosine_E = _ELECTRODES_E3 @ _on_sphere(x, y)
    spread = np.exp(-_DEGREES * (_DEGREES + 1) * extent**2 / 2)
    potential_E = legval(cosine_E, np.append(0, _SHELLS * spread))
    weights_E: FloatArray = (potential_E / potential_E[: len(CHANNELS)].max()).astype(np.float32)
    weights_E.setflags(write=False)
    return weights_E


def _on_sphere(x: float, y: float) -> NDArray[np.float64]:
    """Unit vector `[3]` (right, front, up) of a point seen from above."""
    distance = float(np.hypot(x, y))
    angle = distance * np.pi / 2
    outward = np.sin(angle) / distance if distance else 0.0
    return np.array([x * outward, y * outward, np.cos(angle)])


def _shells() -> NDArray[np.float64]:
    """Weight of each degree in the potential of a radial dipole, up to a factor."""
    n, twice, k = _DEGREES, 2 * _DEGREES + 1, _SKULL_CONDUCTIVITY
    above = (n + 1) * k + n
    denominator = (
        above * (n * k / (n + 1) + 1)
        + (1 - k) * above * (_INNER_SKULL**twice - _OUTER_SKULL**twice)
        - n * (1 - k) ** 2 * (_INNER_SKULL / _OUTER_SKULL) ** twice
    )
    weights: NDArray[np.float64] = twice**3 / ((n + 1) * denominator) * _CORTEX ** (n - 1)
    return weights


_DEGREES = np.arange(1, 61)
_SHELLS = _shells()
_ELECTRODES_E3 = np.array([_on_sphere(*POSITIONS[name]) for name in ELECTRODES])
