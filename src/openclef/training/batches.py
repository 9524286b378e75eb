"""Which items make up each step, the seeds of all that is random, and loading ahead or late.

Everything here is a function of (seed, step), so a checkpoint needs no sampler state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Batch = Mapping[str, Tensor]
Loaded = TypeVar("Loaded")

# Streams of randomness of one run.
ORDER, ITEMS, DROPOUT, LOSSES, VALIDATION, START = range(6)


def torch_seed(seed: int, *place: int) -> int:
    """A 63-bit seed for one place (stream, step, ..) of a run, independent of all others."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)


def item_rngs(seed: int, step: int, positions: range) -> list[np.random.Generator]:
    """A generator for each position in a step's global batch, whichever process loads it."""
    return [np.random.default_rng([seed, ITEMS, step, position]) for position in positions]


def epoch_order(
    n_items: int, *, n_steps: int, batch_size: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Each step's indices, `[batch_size]`: shuffled epochs, an incomplete batch left out."""
    size = min(batch_size, n_items)
    epoch, position = -1, n_items
    for _ in range(n_steps):
        if position + size > n_items:
            epoch, position = epoch + 1, 0
            order = np.random.default_rng([seed, ORDER, epoch]).permutation(n_items)
        yield order[position : position + size]
        position += size


def load_ahead(
    loads: Iterable[Callable[[], Loaded]], *, n_ahead: int = 3
) -> Generator[Loaded, None, None]:
    """Results of `loads` in order, from a background thread that is at most `n_ahead` further."""
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(1) as loader:
        try:
            for load in loads:
                waiting.append(loader.submit(load))
                if len(waiting) > n_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class LazyBatches(Sequence[Batch]):
    """Batches of at most `size` of these rows, each made by `make` when it is asked for."""

    def __init__(
        self, rows: NDArray[np.int64], size: int, make: Callable[[NDArray[np.int64]], Batch]
    ) -> None:
        self._parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        self._make = make

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self._make(self._parts[index])
