"""Parameters, gradients and moments divided among processes: FSDP2, `fully_shard` of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from openclef.errors import OpenclefError
from openclef.training import distributed
from openclef.types import Objective


@runtime_checkable
class ShardedObjective(Protocol):
    """An objective with parts, such as the blocks of a Transformer, that are gathered only while
    they compute. A part's parameters are read in its own forward pass, nowhere else, and all
    processes call the same parts in the same order.
    """

    def shard_units(self) -> Sequence[nn.Module]: ...


def shard(objective: Objective, device: torch.device) -> None:
    """Divide the parameters among all processes, in place; buffers stay whole on each.

    What is in no unit is gathered for the whole step. Nothing is done for one process. Raises
    OpenclefError if torch is older than 2.13.
    """
    if distributed.world_size() == 1:
        return
    # The newest of what is called below; torch's version would not tell of nightly builds.
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise OpenclefError(
            f"sharding 'full' with several processes needs torch>=2.13, {torch.__version__} is "
            "installed; update torch, or train with sharding 'none'"
        )
    module = cast(nn.Module, objective)
    mesh = distributed.all_in_one_row(device)
    units = objective.shard_units() if isinstance(objective, ShardedObjective) else []
    for unit in units:
        fully_shard(unit, mesh=mesh)
    root = fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "losses")
    # Batches differ between processes, and so may the parameters that they use.
    root.set_reduce_scatter_unused_params(True)
    if dist.get_backend() == "gloo":  # which has no average
        root.set_force_sum_reduction_for_comms(True)


def is_sharded(objective: Objective) -> bool:
    """Whether `shard` divided it: its gradients are then averaged in the backward pass."""
    return isinstance(objective, FSDPModule)


def whole(x: Tensor) -> Tensor:
    """A divided tensor in one piece, on all processes, which must all ask; others as they are."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def all_whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`whole` of each."""
    return {name: whole(value) for name, value in tensors.items()}
