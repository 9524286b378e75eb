"""What the tests of the simulated hospital share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace

import pytest

from openclef.simulate import writer


@contextmanager
def _serial(n_workers: int) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(map=lambda function, items, chunksize=1: map(function, items))


@contextmanager
def _without_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "worker_pool", _serial)
        yield


@pytest.fixture
def in_process() -> Iterator[None]:
    """The test works without worker processes, whose start takes longer than all the rest."""
    with _without_workers():
        yield


@pytest.fixture(scope="module")
def in_process_while_made() -> AbstractContextManager[None]:
    """What a fixture of a whole module is made in, for the same reason."""
    return _without_workers()
