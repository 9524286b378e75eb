"""torch.compile of the parts that an objective names."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from openclef.errors import OpenclefError
from openclef.types import Objective


@runtime_checkable
class CompiledObjective(Protocol):
    """An objective with parts that compile: modules of which each is called, such as the blocks.

    Blocks alike share one compilation, where a whole model would be compiled as one long function.
    """

    def compile_units(self) -> Sequence[nn.Module]: ...


def compile_parts(objective: Objective, device: torch.device) -> None:
    """Compile them in place, at their first call; names of parameters stay the same.

    Raises OpenclefError if the objective names none, or the machine has no C++ compiler to make
    code for its CPU.
    """
    if not isinstance(objective, CompiledObjective):
        raise OpenclefError(
            f"{type(objective).__name__} names nothing to compile; allowed: compile=False, or an "
            "objective with compile_units()"
        )
    if device.type == "cpu":
        name = os.environ.get("CXX") or ("clang++" if platform.system() == "Darwin" else "g++")
        if shutil.which(name) is None:
            raise OpenclefError(
                f"compile needs a C++ compiler on a CPU and {name!r} is not there; install g++ or "
                "clang++, name another in the variable CXX, or set compile to False"
            )
    for unit in objective.compile_units():
        unit.compile()
