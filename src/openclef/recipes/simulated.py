"""Simulated hospitals without recordings: each is made when it is read, and dropped thereafter.

`openclef simulate --no-recordings` writes everything but the recordings, which are some ten times
larger than all the rest. An ingest then needs room for as many of them as it has workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from openclef.cohort.engine import Engine
from openclef.cohort.ingest import find_source
from openclef.cohort.layouts import Source
from openclef.cohort.session import SessionJob
from openclef.simulate import expected_recordings, make_recording

Item = TypeVar("Item")


def open_data_set(
    root: Path, out: Path, *, layout: str, labels: Sequence[str], engine: Engine
) -> tuple[Source, Engine]:
    """`cohort.ingest.find_source`, and the engine to ingest it with, for any data set.

    A data set whose recordings lie on disk gets its engine back as it was given. Raises as
    `find_source`.
    """
    expected = expected_recordings(root)
    source = find_source(root, out, layout=layout, labels=labels, expected=expected)
    return source, MadeOnDemand(engine) if expected else engine


def engine_of(root: Path, engine: Engine) -> Engine:
    """The engine that reads recordings of a data set: this one, or, where they are not on disk but
    can be made, one that makes them.
    """
    return MadeOnDemand(engine) if expected_recordings(root) else engine


@contextmanager
def recording_at(root: Path, path: Path) -> Iterator[Path]:
    """The recording of a data set for as long as the block lasts, made if need be."""
    is_made = not path.exists() and path.relative_to(root).as_posix() in expected_recordings(root)
    if is_made:
        make_recording(root, path.relative_to(root).as_posix())
    try:
        yield path
    finally:
        if is_made:
            path.unlink(missing_ok=True)


class MadeOnDemand:
    """An engine whose workers make a simulated recording, read it, and delete it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._engine.__exit__(*raised)

    def map(
        self, function: Callable[[Item], Any], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Any]]:
        return self._engine.map(partial(_with_recording, function), items)


def _with_recording(function: Callable[[Item], Any], item: Item) -> Any:
    if not isinstance(item, SessionJob):
        return function(item)
    make_recording(item.root, item.path.relative_to(item.root).as_posix())
    try:
        return function(item)
    finally:
        item.path.unlink(missing_ok=True)
