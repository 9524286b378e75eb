"""Checkpoints to which each process writes its shards, readable by any number of processes.

torch.distributed.checkpoint pickles its metadata: these folders are read from a run's own
`checkpoints/` only, and are gone when the run is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from openclef.errors import ArtefactError
from openclef.training import distributed

_NOTES = "notes.json"
_UNFINISHED = ".unfinished"


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's `checkpoints/`."""
    return max(_complete(folder), default=None)


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write `step-<step>` in `folder`, then remove the others; all processes call it.

    It has that name only when it is complete, so a kill leaves the one before it. Nothing is done
    if it is there: a step has one state.
    """
    path = folder / f"step-{step:09d}"
    if path.exists():
        return
    unfinished = path.with_name(path.name + _UNFINISHED)
    with _without_notice():
        state_dict_saver.save(dict(tensors), checkpoint_id=unfinished)
    if distributed.rank() == 0:
        (unfinished / _NOTES).write_text(json.dumps(notes))
        os.replace(unfinished, path)
        for other in _complete(folder):
            if other != path:
                shutil.rmtree(other)
    distributed.wait()


def load(path: Path, like: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read (tensors, notes); all processes call it.

    A tensor that has its like by name and shape is divided as that one, another is given whole.
    Raises ArtefactError if the checkpoint cannot be read.
    """
    try:
        notes = json.loads((path / _NOTES).read_text())
        stored = FileSystemReader(path).read_metadata().state_dict_metadata
        tensors: dict[str, Tensor] = {}
        for name, value in stored.items():
            assert isinstance(value, TensorStorageMetadata), name
            if name in like and like[name].shape == value.size:
                tensors[name] = torch.zeros_like(like[name])
            else:
                tensors[name] = torch.zeros(value.size, dtype=value.properties.dtype)
        with _without_notice():
            state_dict_loader.load(tensors, checkpoint_id=path)
    except (Exception, CheckpointException) as e:  # of every kind, from torch and its readers
        raise ArtefactError(f"{path}: cannot be read as a checkpoint ({e})") from e
    return tensors, notes


def remove_unfinished(folder: Path) -> None:
    """Remove what killed runs left; by one process, before any saves."""
    for path in folder.glob(f"*{_UNFINISHED}"):
        shutil.rmtree(path)


@contextmanager
def _without_notice() -> Iterator[None]:
    """One process alone is no reason to warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _complete(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if not path.name.endswith(_UNFINISHED)]
