"""One step of training, and one validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from openclef.training import batches, distributed
from openclef.training.batches import Batch
from openclef.training.config import TrainConfig
from openclef.training.distributed import best_device
from openclef.training.optim import clip_gradients
from openclef.training.precision import DTYPES
from openclef.training.sharding import is_sharded
from openclef.training.state import RunState


class Outcome(NamedTuple):
    """Of a step: its losses and gradients' norms, what was not finite, if anything, and whether
    any process was told to stop; the same on all processes.
    """

    values: dict[str, float]
    fault: str | None
    must_stop: bool


def train_step(
    state: RunState, parts: Sequence[Batch], rate: float, config: TrainConfig, *, must_stop: bool
) -> Outcome:
    """Take a step on this process's batch, given in parts of equal size.

    If a loss or a norm is not finite, weights, moments and average stay as they are, and buffers,
    which may have taken in the batch, are put back.
    """
    objective, optimizer, progress = state.objective, state.optimizer, state.progress
    place = (progress.step, distributed.rank())
    torch.manual_seed(batches.torch_seed(config.seed, batches.DROPOUT, *place))
    rng = torch.Generator().manual_seed(
        batches.torch_seed(config.seed, batches.LOSSES, progress.step)
    )
    objective.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    buffers = _copy_buffers(state)
    told = []
    for part in parts:
        with _autocast(state):
            losses = objective.losses(_to(part, best_device()), rng)
        (losses["loss"] / len(parts)).backward()  # type: ignore[no-untyped-call]
        told.append(torch.stack([value.detach().double() for value in losses.values()]))
    if not is_sharded(objective):
        distributed.average_gradients(objective.parameters())
    mean = torch.stack(told).mean(0)
    sums = distributed.all_sum(torch.cat([mean, mean.new_tensor([must_stop])])).tolist()
    values = {
        name: value / distributed.world_size()
        for name, value in zip(losses, sums[:-1], strict=True)
    }
    norms = clip_gradients(state.clipping_groups, config.optim.clip_norm)
    values |= {"grad_norm" if n == 1 else f"grad_norm_{n}": x for n, x in enumerate(norms, 1)}
    fault = not_finite(values)
    if fault is None:
        optimizer.step()
        state.average.update(objective, step=progress.step)
        progress.n_skipped_in_row = 0
    else:
        _put_back(state, buffers)
        progress.n_skipped += 1
        progress.n_skipped_in_row += 1
    progress.step += 1
    return Outcome(values, fault, must_stop=sums[-1] > 0)


@torch.no_grad()
def validate(state: RunState, validation: Sequence[Batch], config: TrainConfig) -> dict[str, float]:
    """Mean losses of the averaged weights over the validation items, at fixed seeds.

    Each process works on some of the batches, as if alone; their losses meet in one table, so that
    the means do not depend on how many there are. Raises FloatingPointError if one is not finite.
    """
    objective = state.objective
    current = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.load_state_dict(state.average.state)
    objective.eval()
    n_batches, n_processes, rank = len(validation), distributed.world_size(), distributed.rank()
    rows: dict[int, dict[str, Tensor]] = {}
    n_items: dict[int, int] = {}
    # Where the batches do not go round, some are worked on twice: every process has to learn the
    # names of the losses, and to give its shards to the others.
    for first in range(0, n_batches, n_processes):
        index = min(first + rank, n_batches - 1)
        rng = torch.Generator().manual_seed(
            batches.torch_seed(config.seed, batches.VALIDATION, index)
        )
        batch = _to(validation[index], best_device())
        with distributed.alone(), _autocast(state):
            rows[index] = objective.losses(batch, rng)
        n_items[index] = len(next(iter(batch.values())))
    objective.load_state_dict(current)
    names = list(next(iter(rows.values())))
    table = torch.zeros(n_batches, len(names) + 1, dtype=torch.float64)
    for index in range(rank, n_batches, n_processes):
        losses = torch.stack([rows[index][name].double() for name in names]).cpu()
        table[index] = n_items[index] * torch.cat([losses, losses.new_ones(1)])
    # A last batch may be shorter than the others.
    *sums, n = distributed.all_sum(table).sum(0).tolist()
    means = [value / n for value in sums]
    scores = dict(zip(names, means, strict=True))
    fault = not_finite(scores)
    if fault is not None:
        raise FloatingPointError(f"{fault} on tuning patients after step {state.progress.step}")
    return scores


def not_finite(values: Mapping[str, float]) -> str | None:
    """The first of the values that is not finite, in words."""
    for name, value in values.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    return None


def _copy_buffers(state: RunState) -> dict[str, Tensor]:
    module = cast(nn.Module, state.objective)
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def _put_back(state: RunState, buffers: Mapping[str, Tensor]) -> None:
    for name, buffer in cast(nn.Module, state.objective).named_buffers():
        buffer.copy_(buffers[name])


def _autocast(state: RunState) -> torch.autocast:
    dtype = DTYPES[state.progress.precision]
    is_bf16 = dtype == torch.bfloat16
    return torch.autocast(best_device().type, dtype=torch.bfloat16, enabled=is_bf16)


def _to(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
