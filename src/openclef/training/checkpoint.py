"""Weights and optimiser moments as safetensors files, and completing a trained artefact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from openclef.artefact import Artefact, atomic
from openclef.errors import ArtefactError
from openclef.training import distributed

# In a run's folder until it is complete.
FOLDER = "checkpoints"


def publish(artefact: Artefact, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Complete a trained artefact: weights by file name, then the manifest, no more checkpoints.

    The first process writes; none returns before it has.
    """
    if distributed.rank() == 0:
        for name, tensors in files.items():
            save_tensors(artefact.folder / name, tensors)
        artefact.finish(files)
        shutil.rmtree(artefact.folder / FOLDER, ignore_errors=True)
    distributed.wait()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, notes: Mapping[str, Any] | None = None
) -> None:
    """Write tensors (contiguous copies on the CPU) and JSON notes, atomically."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic(path) as temporary:
        save_file(plain, temporary, metadata={"notes": json.dumps(notes or {})})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: (tensors, notes)."""
    try:
        with safe_open(path, framework="pt") as handle:
            notes = json.loads((handle.metadata() or {}).get("notes", "{}"))
        return load_file(path), notes
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(f"{path}: cannot be read as weights ({error})") from error


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict in which every tensor must match; raises ArtefactError otherwise."""
    own = module.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    )
    if wrong:
        raise ArtefactError(
            f"{source}: {len(wrong)} of {len(own)} tensors do not match the model, "
            f"first {wrong[0]!r}; nothing was loaded"
        )
    module.load_state_dict(dict(tensors))


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimiser's per-parameter tensors to `<index>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, row in state.items() for key, value in row.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `pack_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def take_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries under `prefix.`, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def add_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Put every entry under `prefix.`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
