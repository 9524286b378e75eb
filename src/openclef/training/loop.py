"""The training loop: objective and batches in, the best weights on tuning patients out.

Everything random is a function of (seed, step), and batches are a function of the step, so a
checkpoint needs no sampler state: a run killed anywhere and started again takes the same steps.
Under torchrun each process takes its part of every batch, and all hold the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from openclef.artefact import Artefact, remove_stale
from openclef.errors import ArtefactError, OpenclefError
from openclef.training import batches, checkpoint, distributed
from openclef.training.allocator import keep_freed_memory
from openclef.training.metrics import open_metrics
from openclef.training.optim import OptimConfig, clip_gradients, learning_rate
from openclef.training.precision import Precision, faster_precision
from openclef.training.state import RunState
from openclef.types import Objective

Batch = Mapping[str, Tensor]


class TrainConfig(BaseModel):
    """How long and how a stage is trained. 0 steps give the untrained model, the benchmark's
    control.

    batch_size: items of a step, over all processes. patience: stop when the loss on tuning
    patients has not improved for so many validations. precision: that of autocast; "auto" is
    measured on the machine that starts the run, so it can differ between machines.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_steps: int = Field(ge=0)
    batch_size: int = Field(gt=0)
    validate_every: int = Field(50, gt=0)
    patience: int | None = Field(None, gt=0)
    checkpoint_every: int = Field(25, gt=0)
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    seed: int = Field(0, ge=0)
    optim: OptimConfig = OptimConfig()


def best_device() -> torch.device:
    """CUDA where there is one, the process's own under torchrun, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", distributed.local_rank())
    return torch.device("cpu")


def fit(
    objective: Objective,
    *,
    n_items: int,
    load_batch: Callable[[np.ndarray, Sequence[np.random.Generator]], Batch],
    validation: Sequence[Batch],
    config: TrainConfig,
    artefact: Artefact,
    label: str,
) -> dict[str, Tensor]:
    """Train, and return the state dict (moving average) that is best on the validation batches.

    `load_batch(indices, rngs)` makes a batch of training items, with one generator an item, in a
    background thread. Validation losses use fixed seeds. Without validation batches the last
    average is returned, and `patience` has no effect. Metrics go to the artefact's
    `metrics.jsonl` (and `tensorboard/`), the state to `checkpoints/last.safetensors` in its
    folder, both from the first process only.

    Raises FloatingPointError if a loss or a gradient is not finite, before the step is taken, and
    OpenclefError if there are no items, or the processes cannot share a batch or do not see the
    same checkpoint.
    """
    distributed.start()
    keep_freed_memory()
    is_first = distributed.rank() == 0
    device = best_device()
    objective.to(device)
    distributed.copy_from_first(objective.state_dict().values())
    if config.n_steps == 0:
        return {name: value.detach().clone() for name, value in objective.state_dict().items()}
    if n_items == 0:
        raise OpenclefError(f"{artefact.folder}: nothing to train on, no item is of train patients")
    mine = _part_of_batch(min(config.batch_size, n_items))
    state = RunState(objective, config.optim, n_steps=config.n_steps)
    path = artefact.folder / checkpoint.FOLDER / "last.safetensors"
    if path.exists():
        state.restore(path)
    progress = state.progress
    first_step, began = progress.step, time.monotonic() - progress.seconds
    if len(set(distributed.gather(first_step))) > 1:
        raise ArtefactError(f"{path}: not the same on all processes; they need a folder in common")
    if first_step == 0:
        progress.precision = _choose_precision(config, device)
    if is_first:
        remove_stale(artefact.folder)

    def load(step: int, indices: np.ndarray) -> Batch:
        rngs = batches.item_rngs(config.seed, step, range(mine.start, mine.stop))
        return load_batch(indices[mine], rngs)

    orders = batches.epoch_order(
        n_items, n_steps=config.n_steps, batch_size=config.batch_size, seed=config.seed
    )
    loads = (partial(load, *order) for order in enumerate(orders) if order[0] >= first_step)
    is_done = progress.step == config.n_steps or _has_no_patience(state, config)
    with (
        _same_bits(device),
        open_metrics(artefact if is_first else None, step=first_step) as metrics,
        closing(batches.load_ahead(loads)) as loaded,
        _progress_bar(disable=not is_first) as bar,
    ):
        metrics.log(
            step=first_step, split="run", seconds=progress.seconds, precision=progress.precision,
            device=device.type, n_processes=distributed.world_size(),
        )  # fmt: skip
        task = bar.add_task(label, total=config.n_steps, completed=first_step, loss="")
        while not is_done:
            rate = learning_rate(progress.step, n_steps=config.n_steps, config=config.optim)
            losses, norms = _train_step(state, _to(next(loaded), device), rate, config)
            state.average.update(objective, step=progress.step)
            progress.step += 1
            progress.seconds = time.monotonic() - began
            metrics.log(
                step=progress.step, split="train", seconds=progress.seconds, lr=rate,
                **norms, **losses,
            )  # fmt: skip
            is_last = progress.step == config.n_steps
            if validation and (is_last or progress.step % config.validate_every == 0):
                scores = _validate(state, validation, config)
                state.judge(scores["loss"])
                progress.seconds = time.monotonic() - began
                metrics.log(step=progress.step, split="tuning", seconds=progress.seconds, **scores)
            is_done = is_last or _has_no_patience(state, config)
            if is_first and (is_done or progress.step % config.checkpoint_every == 0):
                state.save(path)
            bar.update(task, advance=1, loss=f"loss {losses['loss']:.3f}")
        metrics.log(
            step=progress.step, split="end", seconds=progress.seconds,
            best_step=progress.best_step, best_loss=progress.best_loss,
            stopped_early=progress.step < config.n_steps,
        )  # fmt: skip
    return state.best or state.average.state


def _part_of_batch(size: int) -> slice:
    """Positions in a batch that this process loads."""
    n = distributed.world_size()
    if size % n:
        raise OpenclefError(
            f"{n} processes cannot share a batch of {size} equally; allowed: batches of a multiple "
            f"of {n} (nearest: {max(n, round(size / n) * n)}), or another number of processes"
        )
    return distributed.slice_of_rank(size)


def _choose_precision(config: TrainConfig, device: torch.device) -> Precision:
    """The configured precision, or what the first process measures to be faster."""
    if config.precision != "auto":
        return config.precision
    is_bf16 = distributed.rank() == 0 and faster_precision(device) == "bf16"
    return "bf16" if distributed.gather(is_bf16)[0] else "fp32"


def _has_no_patience(state: RunState, config: TrainConfig) -> bool:
    return config.patience is not None and state.progress.n_worse >= config.patience


@contextmanager
def _same_bits(device: torch.device) -> Iterator[None]:
    """On a CPU the same steps must give the same bits: sums in a fixed order, or an error."""
    before = torch.are_deterministic_algorithms_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    # Filling every new tensor would make reads of what was never written repeatable, not right.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def _train_step(
    state: RunState, batch: Batch, rate: float, config: TrainConfig
) -> tuple[dict[str, float], dict[str, float]]:
    """Take a step; returns its losses and the norms of its gradients."""
    objective, optimizer, step = state.objective, state.optimizer, state.progress.step
    objective.train()
    torch.manual_seed(batches.torch_seed(config.seed, batches.DROPOUT, step, distributed.rank()))
    rng = torch.Generator().manual_seed(batches.torch_seed(config.seed, batches.LOSSES, step))
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with _autocast(state):
        losses = objective.losses(batch, rng)
    values = torch.stack([value.detach().double() for value in losses.values()])
    means = (distributed.all_sum(values) / distributed.world_size()).tolist()
    told = dict(zip(losses, means, strict=True))
    _check_finite(told, f"in training at step {step + 1}")
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    distributed.average_gradients(objective.parameters())
    norms = {
        "grad_norm" if n == 1 else f"grad_norm_{n}": norm
        for n, norm in enumerate(clip_gradients(state.clipping_groups, config.optim.clip_norm), 1)
    }
    _check_finite(norms, f"in training at step {step + 1}")
    optimizer.step()
    return told, norms


@torch.no_grad()
def _validate(
    state: RunState, validation: Sequence[Batch], config: TrainConfig
) -> dict[str, float]:
    """Mean losses of the averaged weights over the validation batches, at fixed seeds.

    Each process works on some of the batches, as if alone; their losses meet in one table, so that
    the means do not depend on how many there are.
    """
    objective = state.objective
    current = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.load_state_dict(state.average.state)
    objective.eval()
    n_batches, n_processes, rank = len(validation), distributed.world_size(), distributed.rank()
    rows: dict[int, dict[str, Tensor]] = {}
    # Without a batch of its own a process still has to learn the names of the losses.
    for index in range(rank, n_batches, n_processes) or range(1):
        rng = torch.Generator().manual_seed(
            batches.torch_seed(config.seed, batches.VALIDATION, index)
        )
        with distributed.alone(), _autocast(state):
            rows[index] = objective.losses(_to(validation[index], best_device()), rng)
    objective.load_state_dict(current)
    names = list(next(iter(rows.values())))
    table = torch.zeros(n_batches, len(names), dtype=torch.float64)
    for index in range(rank, n_batches, n_processes):
        table[index] = torch.stack([rows[index][name].double() for name in names]).cpu()
    means = distributed.all_sum(table).mean(0).tolist()
    scores = dict(zip(names, means, strict=True))
    _check_finite(scores, f"on tuning patients after step {state.progress.step}")
    return scores


def _check_finite(values: Mapping[str, float], where: str) -> None:
    for name, value in values.items():
        if not np.isfinite(value):
            raise FloatingPointError(f"{name} is {value} {where}")


def _autocast(state: RunState) -> torch.autocast:
    is_bf16 = state.progress.precision == "bf16"
    return torch.autocast(best_device().type, dtype=torch.bfloat16, enabled=is_bf16)


def _to(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _progress_bar(*, disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[loss]}"),
        disable=disable,
    )
