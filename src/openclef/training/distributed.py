"""What several processes of one training run must agree on; one process agrees with itself."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from openclef.errors import OpenclefError

_MESHES: list[DeviceMesh] = []
# Of the thread, not of the process: a background loader goes on as one of several.
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def start() -> None:
    """Join the processes that torchrun started with this one; without torchrun nothing is done.

    Tensors on CUDA meet by NCCL, one device a process, those on the CPU by gloo. To call it again
    is harmless. Raises OpenclefError if there are fewer devices than processes on a machine.
    """
    if dist.is_initialized() or "LOCAL_RANK" not in os.environ:
        return
    # Its functions have the group of all processes as a default argument, bound when torch first
    # imports it. Were that after the start, the group's threads would outlive `stop` and could
    # abort the interpreter as it ends (pytorch issue 190489).
    import torch.distributed.nn.functional

    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return
    if local_rank() >= torch.cuda.device_count():
        raise OpenclefError(
            f"process {local_rank() + 1} of this machine has no CUDA device of its own; give "
            f"torchrun --nproc-per-node={torch.cuda.device_count()} at most"
        )
    torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl")


def stop() -> None:
    """Leave them, at the end of a command; without them nothing is done.

    Whoever holds a sharded objective has let go of it: see `start` on threads that stay.
    """
    if dist.is_initialized():
        for mesh in _MESHES:
            # Caches of DTensor keep the mesh, and it would keep the group; torch 2.13 has no
            # public way to empty either.
            getattr(mesh, "_pg_registry", {}).clear()
        _MESHES.clear()
        gc.collect()  # sharded modules are in cycles
        dist.destroy_process_group()


def all_in_one_row(device: torch.device) -> DeviceMesh:
    """The mesh of all processes along one axis."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    _MESHES.append(mesh)
    return mesh


def local_rank() -> int:
    """This process among those of its machine, from 0: the CUDA device that is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def best_device() -> torch.device:
    """CUDA where there is one, the process's own under torchrun, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank())
    return torch.device("cpu")


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() and not _ALONE.get() else 1


def rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() and not _ALONE.get() else 0


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process counts as the only one: work on what the others do not have."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


@torch.no_grad()
def all_sum(x: Tensor) -> Tensor:
    """Sum of `x` over all processes, the same on each; no gradient flows through it."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_sum(gradients[0])


def all_sum_with_gradient(x: Tensor) -> Tensor:
    """Sum of `x` over all processes, through which gradients flow back to each of them."""
    if world_size() == 1:
        return x
    total: Tensor = _AllSum.apply(x)  # type: ignore[no-untyped-call]
    return total


def slice_of_rank(n_items: int) -> slice:
    """The consecutive part of a global batch that this process works on.

    Parts in order of rank make the batch again, so that what is drawn over it (codes to restart,
    for one) is the same with any number of processes.
    """
    size, extra = divmod(n_items, world_size())
    if extra:
        raise ValueError(f"a batch of {n_items} cannot be shared by {world_size()} processes")
    return slice(rank() * size, (rank() + 1) * size)


@torch.no_grad()
def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process; none returns before all have come here."""
    if world_size() == 1:
        return
    for tensor in tensors:
        value = tensor.contiguous()
        dist.broadcast(value, 0)
        tensor.copy_(value)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each parameter the mean of its gradients over all processes, by one sum of all of them.

    A parameter that no process used keeps None, as with one process. Unlike
    DistributedDataParallel, whose buckets change after its first backward pass, the order of the
    sum is always the same, so a resumed run repeats bit for bit; and parts that a step leaves out,
    on some processes or on all, need no option. The price: the sum does not overlap with backward.
    """
    if world_size() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([used, *(gradient.flatten() for gradient in gradients)])
    dist.all_reduce(flat)
    sizes = [len(trained), *(parameter.numel() for parameter in trained)]
    used, *means = torch.split(flat / world_size(), sizes)
    for parameter, mean, share in zip(trained, means, used.tolist(), strict=True):
        parameter.grad = mean.view_as(parameter) if share > 0 else None


def wait() -> None:
    """Return when all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def gather(value: int) -> list[int]:
    """This number as each process gives it, in order of rank."""
    slots = torch.zeros(world_size(), dtype=torch.int64)
    slots[rank()] = value
    return all_sum(slots).tolist()
