"""The record of a run: `metrics.jsonl`, and a copy of its scalars that TensorBoard reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from openclef.artefact import Artefact

if TYPE_CHECKING:
    from openclef.training.events import EventFile

EVENTS = "tensorboard/events.out.tfevents.openclef"


class Metrics:
    """Writes rows: a step, a split ("run" where the run starts or resumes, "train", "skipped",
    "tuning", "end"), the run's seconds, and values. Only the first process of a run is given an
    artefact; the rows of the others go nowhere.
    """

    def __init__(self, artefact: Artefact | None, events: EventFile | None) -> None:
        self._artefact, self._events = artefact, events

    def log(self, *, step: int, split: str, seconds: float, **values: Any) -> None:
        """Add a row; numbers are kept to six digits."""
        if self._artefact is None:
            return
        row = {"step": step, "split": split, "seconds": round(seconds, 2)}
        for name, value in values.items():
            row[name] = float(f"{value:.6g}") if isinstance(value, float) else value
        self._artefact.log(**row)
        if self._events:
            self._events.add(row)


@contextmanager
def open_metrics(artefact: Artefact | None, *, step: int) -> Iterator[Metrics]:
    """Metrics of a run that has come to `step`: rows of steps that will be taken again are removed.

    TensorBoard's file is written anew from what is kept, so no point stands there twice (a page
    that shows the run must be loaded again).
    """
    if artefact is None:
        yield Metrics(None, None)
        return
    rows = [row for row in artefact.metrics() if _is_kept(row, step)]
    artefact.keep_metrics(rows)
    events = _open_events(artefact, rows)
    try:
        yield Metrics(artefact, events)
    finally:
        if events:
            events.close()


def _is_kept(row: Mapping[str, Any], step: int) -> bool:
    """Whether a row is of steps taken for good; start and end are told anew."""
    before: bool = row["step"] < step
    return before or (row["step"] == step and row["split"] not in ("run", "end"))


def _open_events(artefact: Artefact, rows: list[dict[str, Any]]) -> EventFile | None:
    try:
        from openclef.training.events import EventFile
    except ImportError as error:
        _say_once(f"no files for TensorBoard ({error}): pip install 'openclef[train]' adds them")
        return None
    events = EventFile(artefact.folder / EVENTS)
    for row in rows:
        events.add(row)
    return events


@cache
def _say_once(message: str) -> None:
    print(message, file=sys.stderr)
