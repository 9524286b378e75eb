"""The training loop: objective and batches in, the best weights on tuning patients out.

Everything random is a function of (seed, step), and batches are a function of the step, so a
checkpoint needs no sampler state: a run killed anywhere and started again takes the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from openclef.artefact import Artefact
from openclef.training import checkpoint
from openclef.training.optim import (
    OptimConfig,
    WeightAverage,
    adamw,
    clip_gradients,
    learning_rate,
)
from openclef.types import Objective

Batch = Mapping[str, Tensor]


class TrainConfig(BaseModel):
    """How long and how a stage is trained; `precision` is that of autocast. 0 steps give the
    untrained model, the benchmark's control."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_steps: int = Field(ge=0)
    batch_size: int = Field(gt=0)
    validate_every: int = Field(50, gt=0)
    checkpoint_every: int = Field(25, gt=0)
    precision: str = Field("fp32", pattern="^(fp32|bf16)$")
    seed: int = 0
    optim: OptimConfig = OptimConfig()


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """A 63-bit seed of one step of one stream, independent of all others."""
    return int(np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0] >> 1)


def epoch_order(n_items: int, *, n_steps: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Each step's indices, `[batch_size]`: shuffled epochs, an incomplete batch left out."""
    size = min(batch_size, n_items)
    epoch, order, position = 0, np.random.default_rng([seed, 0]).permutation(n_items), 0
    for _ in range(n_steps):
        if position + size > n_items:
            epoch, position = epoch + 1, 0
            order = np.random.default_rng([seed, epoch]).permutation(n_items)
        yield order[position : position + size]
        position += size


def fit(
    objective: Objective,
    *,
    n_items: int,
    load_batch: Callable[[np.ndarray, np.random.Generator], Batch],
    validation: list[Batch],
    config: TrainConfig,
    artefact: Artefact,
    label: str,
) -> dict[str, Tensor]:
    """Train, and return the state dict (moving average) that is best on the validation batches.

    `load_batch(indices, rng)` makes a batch of training items, in a background thread. Validation
    losses use one fixed seed. Without validation batches the last average is returned. Metrics go
    to the artefact's `metrics.jsonl`, the state to `checkpoints/last.safetensors` in its folder.
    """
    device = best_device()
    objective.to(device)
    if config.n_steps == 0:
        return {name: value.detach().clone() for name, value in objective.state_dict().items()}
    optimizer = adamw(objective.parameters(), config.optim)
    average = WeightAverage(objective, n_steps=config.n_steps, config=config.optim)
    best: dict[str, Tensor] = average.state
    best_loss, first_step = float("inf"), 0

    path = artefact.folder / "checkpoints" / "last.safetensors"
    if path.exists():
        tensors, notes = checkpoint.load_tensors(path)
        objective.load_state_dict(checkpoint.take_prefix(tensors, "model"))
        average.state = {k: v.to(device) for k, v in checkpoint.take_prefix(tensors, "ema").items()}
        best = checkpoint.take_prefix(tensors, "best") or average.state
        checkpoint.unpack_optimizer(optimizer, checkpoint.take_prefix(tensors, "optimizer"))
        first_step, best_loss = notes["step"], notes["best_loss"]
    artefact.keep_metrics(row for row in artefact.metrics() if row["step"] <= first_step)

    orders = epoch_order(
        n_items, n_steps=config.n_steps, batch_size=config.batch_size, seed=config.seed
    )

    def prepare(step: int, indices: np.ndarray) -> Batch:
        return load_batch(indices, np.random.default_rng([config.seed, 1, step]))

    started = time.monotonic()
    with _same_bits(device), ThreadPoolExecutor(1) as loader, _progress() as progress:
        bar = progress.add_task(label, total=config.n_steps, completed=first_step, loss="")
        pending = [(step, order) for step, order in enumerate(orders) if step >= first_step]
        upcoming = loader.submit(prepare, *pending[0]) if pending else None
        for position, (step, _) in enumerate(pending):
            assert upcoming is not None
            batch = _to(upcoming.result(), device)
            if position + 1 < len(pending):
                upcoming = loader.submit(prepare, *pending[position + 1])
            rate = learning_rate(step, n_steps=config.n_steps, config=config.optim)
            losses, norm = _train_step(objective, optimizer, batch, step, rate, config)
            average.update(objective, step=step)
            artefact.log(
                step=step + 1, split="train", lr=rate, grad_norm=norm,
                seconds=round(time.monotonic() - started, 2), **losses,
            )  # fmt: skip
            last = step + 1 == config.n_steps
            if validation and (last or (step + 1) % config.validate_every == 0):
                scores = _validate(objective, average.state, validation, config)
                artefact.log(step=step + 1, split="tuning", **scores)
                if scores["loss"] < best_loss:
                    best_loss = scores["loss"]
                    best = {name: value.clone() for name, value in average.state.items()}
            if last or (step + 1) % config.checkpoint_every == 0:
                _save(path, objective, optimizer, average, best, step + 1, best_loss)
            progress.update(bar, advance=1, loss=f"loss {losses['loss']:.3f}")
    return best if validation else average.state


@contextmanager
def _same_bits(device: torch.device) -> Iterator[None]:
    """On a CPU the same steps must give the same bits: sums in a fixed order, or an error."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _train_step(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    rate: float,
    config: TrainConfig,
) -> tuple[dict[str, float], float]:
    objective.train()
    torch.manual_seed(step_seed(config.seed, step, stream=2))  # dropout
    rng = torch.Generator().manual_seed(step_seed(config.seed, step, stream=3))
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with _autocast(config):
        losses = objective.losses(batch, rng)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    norm = clip_gradients(objective.parameters(), config.optim.clip_norm)
    if not np.isfinite(norm):
        raise FloatingPointError(f"gradients are not finite at step {step + 1}")
    optimizer.step()
    return {name: round(float(value.detach()), 6) for name, value in losses.items()}, round(norm, 6)


@torch.no_grad()
def _validate(
    objective: Objective, weights: Mapping[str, Tensor], batches: list[Batch], config: TrainConfig
) -> dict[str, float]:
    """Mean losses of the averaged weights over the validation batches, at one fixed seed."""
    current = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.load_state_dict(dict(weights))
    objective.eval()
    sums: dict[str, float] = {}
    for index, batch in enumerate(batches):
        rng = torch.Generator().manual_seed(step_seed(config.seed, index, stream=4))
        with _autocast(config):
            losses = objective.losses(_to(batch, best_device()), rng)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    objective.load_state_dict(current)
    return {name: round(total / len(batches), 6) for name, total in sums.items()}


def _save(
    path: Path, objective: Objective, optimizer: torch.optim.Optimizer, average: WeightAverage,
    best: Mapping[str, Tensor], step: int, best_loss: float,
) -> None:  # fmt: skip
    tensors = {
        **checkpoint.add_prefix(objective.state_dict(), "model"),
        **checkpoint.add_prefix(average.state, "ema"),
        **checkpoint.add_prefix(best, "best"),
        **checkpoint.add_prefix(checkpoint.pack_optimizer(optimizer), "optimizer"),
    }
    checkpoint.save_tensors(path, tensors, notes={"step": step, "best_loss": best_loss})


def _autocast(config: TrainConfig) -> torch.autocast:
    return torch.autocast(
        best_device().type, dtype=torch.bfloat16, enabled=config.precision == "bf16"
    )


def _to(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[loss]}"),
    )
