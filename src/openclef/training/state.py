"""What a run is resumed from, as one safetensors file, and the choice of the best weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from openclef.training import checkpoint
from openclef.training.optim import OptimConfig, WeightAverage, adamw, clipping_groups
from openclef.training.precision import Precision
from openclef.types import Objective, PhasedObjective


@dataclass
class Progress:
    """How far a run is. phase: of `PhasedObjective`, when last validated; n_worse: validations
    since the best one of that phase; seconds: spent on all steps.
    """

    step: int = 0
    precision: Precision = "fp32"
    phase: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    n_worse: int = 0
    seconds: float = 0.0


class RunState:
    """All that a run needs to go on where it was; the objective's weights are its own."""

    def __init__(self, objective: Objective, config: OptimConfig, *, n_steps: int) -> None:
        self.objective = objective
        self.optimizer = adamw(objective.parameters(), config)
        self.clipping_groups = clipping_groups(objective)
        self.average = WeightAverage(objective, n_steps=n_steps, config=config)
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()

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

    def save(self, path: Path) -> None:
        """Write everything to one file, atomically."""
        tensors = {
            **checkpoint.add_prefix(self.objective.state_dict(), "model"),
            **checkpoint.add_prefix(self.average.state, "ema"),
            **checkpoint.add_prefix(self.best, "best"),
            **checkpoint.add_prefix(checkpoint.pack_optimizer(self.optimizer), "optimizer"),
        }
        checkpoint.save_tensors(path, tensors, notes=asdict(self.progress))

    def restore(self, path: Path) -> None:
        """Undo `save`; raises ArtefactError if the file cannot be read."""
        tensors, notes = checkpoint.load_tensors(path)
        self.objective.load_state_dict(checkpoint.take_prefix(tensors, "model"))
        for name, value in checkpoint.take_prefix(tensors, "ema").items():
            self.average.state[name].copy_(value)
        self.best = checkpoint.take_prefix(tensors, "best")
        checkpoint.unpack_optimizer(self.optimizer, checkpoint.take_prefix(tensors, "optimizer"))
        self.progress = Progress(**notes)
