"""Chance, as a writer needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Draws from one generator; uniform numbers alone, so that each draw costs little."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.random() * len(options))]

    def weighted(self, odds: Mapping[T, float]) -> T:
        """Return a key with a probability in proportion to its value."""
        options = list(odds)
        edges = np.cumsum(list(odds.values()))
        return options[int(np.searchsorted(edges, self.rng.random() * edges[-1], side="right"))]

    def some(self, options: Sequence[T], n: int) -> list[T]:
        """Return `n` different options, or all if there are fewer, in random order."""
        return [options[i] for i in self.rng.permutation(len(options))[:n]]
