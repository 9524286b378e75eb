"""A run's scalars as a file of TensorBoard events; needs the `tensorboard` package.

TensorBoard's record writer is used, not its `SummaryWriter`: that one puts the name of the machine
in the name of the file. Times are the run's own seconds, so the file is a function of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_NOT_SCALARS = {"step", "split", "seconds"}


class EventFile:
    """A new file at `path`; each row of losses is one event, on disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = RecordWriter(path.open("wb"))
        self._write(Event(file_version="brain.Event:2"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the numbers of a row of losses as `<split>/<name>`; other rows have none."""
        if row["split"] not in ("train", "tuning"):
            return
        values = [
            Summary.Value(tag=f"{row['split']}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in _NOT_SCALARS and math.isfinite(value)
        ]
        self._write(
            Event(wall_time=row["seconds"], step=row["step"], summary=Summary(value=values))
        )

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()
