"""The training loop: objective and batches in, the best weights on tuning patients out.

Everything random is a function of (seed, step), and batches are a function of the step, so a
checkpoint needs no sampler state: a run killed anywhere and started again takes the same steps.
Under torchrun each process takes its part of every batch, and all hold the same weights, or a
share of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from openclef.artefact import Artefact, remove_stale
from openclef.errors import ArtefactError, OpenclefError
from openclef.training import (
    batches,
    checkpoint,
    distributed,
    sharded_checkpoint,
    sharding,
    signals,
)
from openclef.training.allocator import keep_freed_memory
from openclef.training.batches import Batch
from openclef.training.compiling import compile_parts
from openclef.training.config import TrainConfig
from openclef.training.distributed import best_device
from openclef.training.metrics import open_metrics
from openclef.training.optim import learning_rate
from openclef.training.precision import Precision, faster_precision, peak_flops
from openclef.training.speed import Speed, flops_per_item
from openclef.training.state import RunState, state_file
from openclef.training.step import train_step, validate
from openclef.types import Objective, PhasedObjective

__all__ = ["Batch", "TrainConfig", "best_device", "fit", "has_checkpoint"]


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
    `metrics.jsonl` (and `tensorboard/`), from the first process only, the state to `checkpoints/`
    in its folder. A sharded objective stays so; what is returned is whole, on every process.

    A step whose losses or gradients are not finite is left out. Raises FloatingPointError after
    `max_skipped` of them in a row, or if a validation loss is not finite; `signals.Stopped` (a
    SystemExit) after SIGTERM or SIGUSR1, once the step is taken and saved; and OpenclefError if
    there are no items, the processes cannot share a batch or do not see the same checkpoint, or
    the objective cannot be compiled as asked.
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
    size = min(config.batch_size, n_items)
    parts = _parts_of_batch(size, config.accumulate, n_items)
    if config.compile:
        compile_parts(objective, device)
    if config.sharding == "full":
        sharding.shard(objective, device)
    state = RunState(objective, config)
    folder = artefact.folder / checkpoint.FOLDER
    state.restore(folder)
    progress = state.progress
    first_step, began = progress.step, time.monotonic() - progress.seconds
    if len(set(distributed.gather(first_step))) > 1:
        raise ArtefactError(
            f"{folder}: not the same on all processes; they need a folder in common"
        )
    if first_step == 0:
        progress.precision = _choose_precision(config, device)
        if is_first and flops_per_item(objective) is not None:
            peak = peak_flops(device, progress.precision)
            progress.peak_flops = distributed.world_size() * peak
    if is_first:
        sharded_checkpoint.remove_unfinished(folder)
        remove_stale(artefact.folder)

    def load(step: int, indices: np.ndarray) -> list[Batch]:
        return [
            load_batch(
                indices[part],
                batches.item_rngs(config.seed, step, range(part.start, part.stop)),
            )
            for part in parts
        ]

    orders = batches.epoch_order(
        n_items, n_steps=config.n_steps, batch_size=config.batch_size, seed=config.seed
    )
    loads = (partial(load, *order) for order in enumerate(orders) if order[0] >= first_step)
    speed = Speed(objective, n_items=size, peak_flops=progress.peak_flops)
    is_done = progress.step == config.n_steps or _has_no_patience(state, config)
    with (
        signals.deferred() as request,
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
            started = time.monotonic()
            rate = learning_rate(progress.step, n_steps=config.n_steps, config=config.optim)
            batch = next(loaded)
            wait_s = time.monotonic() - started
            taken = train_step(state, batch, rate, config, must_stop=request.number is not None)
            del batch  # not to be kept through validation
            progress.seconds = time.monotonic() - began
            if taken.fault is None:
                metrics.log(
                    step=progress.step, split="train", seconds=progress.seconds, lr=rate,
                    wait_s=wait_s, **taken.values, **speed.of(time.monotonic() - started),
                )  # fmt: skip
            else:
                metrics.log(
                    step=progress.step, split="skipped", seconds=progress.seconds,
                    fault=taken.fault, n_skipped=progress.n_skipped,
                )  # fmt: skip
                _check_skipped(taken.fault, state, config)
            is_last = progress.step == config.n_steps
            if validation and (is_last or progress.step % config.validate_every == 0):
                scores = validate(state, validation, config)
                state.judge(scores["loss"])
                progress.seconds = time.monotonic() - began
                metrics.log(step=progress.step, split="tuning", seconds=progress.seconds, **scores)
            is_done = is_last or _has_no_patience(state, config)
            if is_done or taken.must_stop or progress.step % config.checkpoint_every == 0:
                state.save(folder)
            bar.update(task, advance=1, loss=f"loss {taken.values['loss']:.3f}")
            if taken.must_stop:
                distributed.wait()  # for the first to have saved: others' ends may end it
                if is_first:
                    _tell_stop(label, state, config)
                raise request.stopped()
        metrics.log(
            step=progress.step, split="end", seconds=progress.seconds,
            best_step=progress.best_step, best_loss=progress.best_loss,
            stopped_early=progress.step < config.n_steps, n_skipped=progress.n_skipped,
        )  # fmt: skip
    return sharding.all_whole(state.best or state.average.state)


def has_checkpoint(artefact: Artefact, config: TrainConfig) -> bool:
    """Whether `fit` would go on from a checkpoint, whatever weights it is given."""
    folder = artefact.folder / checkpoint.FOLDER
    if config.sharding == "full":
        return sharded_checkpoint.latest(folder) is not None
    return state_file(folder).exists()


def _parts_of_batch(size: int, n_parts: int, n_items: int) -> list[slice]:
    """Positions in a batch of so many of the items that this process loads, in parts."""
    n = distributed.world_size()
    unit = n * n_parts
    if size % unit:
        all_there_is = ", all there is to train on," if size == n_items else ""
        most = n_items // unit * unit
        nearest = min(max(1, round(size / unit)) * unit, most)
        sizes = f"batch_size of a multiple of {unit} (nearest: {nearest}), or " if most else ""
        raise OpenclefError(
            f"{n} processes cannot share a batch of {size}{all_there_is} equally, in {n_parts} "
            f"part(s) each; allowed: {sizes}another number of processes or of parts (accumulate)"
        )
    mine = distributed.slice_of_rank(size)
    length = size // unit
    return [slice(start, start + length) for start in range(mine.start, mine.stop, length)]


def _choose_precision(config: TrainConfig, device: torch.device) -> Precision:
    """The configured precision, or what the first process measures to be faster."""
    if config.precision != "auto":
        return config.precision
    is_bf16 = distributed.rank() == 0 and faster_precision(device) == "bf16"
    return "bf16" if distributed.gather(is_bf16)[0] else "fp32"


def _has_no_patience(state: RunState, config: TrainConfig) -> bool:
    """In phases before the last, what has ceased to improve is not what training ends with."""
    if config.patience is None or state.progress.n_worse < config.patience:
        return False
    # The phase of the latest validation, which `n_worse` is of: the objective may be further.
    objective = state.objective
    last_phase = objective.last_phase if isinstance(objective, PhasedObjective) else 0
    return state.progress.phase == last_phase


def _check_skipped(fault: str, state: RunState, config: TrainConfig) -> None:
    progress = state.progress
    if progress.n_skipped_in_row >= config.max_skipped:
        raise FloatingPointError(
            f"{fault} in training at step {progress.step}; steps skipped in a row: "
            f"{progress.n_skipped_in_row}"
        )


def _tell_stop(label: str, state: RunState, config: TrainConfig) -> None:
    print(
        f"{label}: told to stop, saved after step {state.progress.step} of {config.n_steps}; "
        "the same command goes on from here",
        file=sys.stderr,
    )


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


def _progress_bar(*, disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[loss]}"),
        disable=disable,
    )
