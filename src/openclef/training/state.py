"""What a run is resumed from, and the choice of the best weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from openclef.training import checkpoint, distributed, sharded_checkpoint
from openclef.training.config import TrainConfig
from openclef.training.optim import WeightAverage, adamw, clipping_groups
from openclef.training.precision import Precision
from openclef.types import Objective, PhasedObjective


@dataclass
class Progress:
    """How far a run is. phase: of `PhasedObjective`, when last validated; n_worse: validations
    since the best one of that phase; seconds: spent on all steps; n_skipped: steps left out
    because a loss or a gradient was not finite, n_skipped_in_row: the latest of them; peak_flops:
    of all processes that began the run, if the objective tells its own.
    """

    step: int = 0
    precision: Precision = "fp32"
    phase: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    n_worse: int = 0
    seconds: float = 0.0
    n_skipped: int = 0
    n_skipped_in_row: int = 0
    peak_flops: float | None = None


class RunState:
    """All that a run needs to go on where it was; the objective's weights are its own.

    In a run's `checkpoints/` it is `last.safetensors`, or a folder a step if the run is sharded.
    """

    def __init__(self, objective: Objective, config: TrainConfig) -> None:
        self.objective = objective
        self.optimizer = adamw(objective.parameters(), config.optim)
        self.clipping_groups = clipping_groups(objective)
        self.average = WeightAverage(objective, n_steps=config.n_steps, config=config.optim)
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()
        self._in_shards = config.sharding == "full"

    def judge(self, loss: float) -> None:
        """Keep the averaged weights if their validation loss is the best so far of the phase."""
        progress = self.progress
        phase = self.objective.phase if isinstance(self.objective, PhasedObjective) else 0
        if phase != progress.phase:
            progress.phase, progress.best_loss, progress.n_worse = phase, None, 0
        if progress.best_loss is not None and loss >= progress.best_loss:
            progress.n_worse += 1
            return
        progress.best_loss, progress.best_step, progress.n_worse = loss, progress.step, 0
        self.best = {name: value.clone() for name, value in self.average.state.items()}

    def save(self, folder: Path) -> None:
        """Write everything, atomically; all processes call it, the first alone writes a file."""
        if not self._in_shards and distributed.rank() > 0:
            return
        tensors = {
            **checkpoint.add_prefix(self.objective.state_dict(), "model"),
            **checkpoint.add_prefix(self.average.state, "ema"),
            **checkpoint.add_prefix(self.best, "best"),
            **checkpoint.add_prefix(checkpoint.pack_optimizer(self.optimizer), "optimizer"),
        }
        notes = asdict(self.progress)
        if self._in_shards:
            sharded_checkpoint.save(folder, self.progress.step, tensors, notes)
        else:
            checkpoint.save_tensors(state_file(folder), tensors, notes=notes)

    def restore(self, folder: Path) -> None:
        """Undo the latest `save`, if there is one; raises ArtefactError if it cannot be read."""
        if self._in_shards:
            path = sharded_checkpoint.latest(folder)
            if path is None:
                return
            tensors, notes = sharded_checkpoint.load(path, self._like())
        elif state_file(folder).exists():
            tensors, notes = checkpoint.load_tensors(state_file(folder))
        else:
            return
        self.objective.load_state_dict(checkpoint.take_prefix(tensors, "model"))
        for name, value in checkpoint.take_prefix(tensors, "ema").items():
            self.average.state[name].copy_(value)
        self.best = checkpoint.take_prefix(tensors, "best")
        checkpoint.unpack_optimizer(self.optimizer, checkpoint.take_prefix(tensors, "optimizer"))
        self.progress = Progress(**notes)

    def _like(self) -> dict[str, Tensor]:
        """Tensors that are divided among the processes as those of a checkpoint are to be."""
        weights = self.average.state
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            f"optimizer.{index}.{key}": parameter
            for index, parameter in enumerate(parameters)
            for key in ("exp_avg", "exp_avg_sq")
        }
        copies = ("model", "ema", "best")
        return moments | {f"{of}.{name}": value for of in copies for name, value in weights.items()}


def state_file(folder: Path) -> Path:
    """Where the first process keeps a run's state, of the folder of its checkpoints."""
    return folder / "last.safetensors"
