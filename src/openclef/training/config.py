"""How long and how a stage is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from openclef.training.optim import OptimConfig


class TrainConfig(BaseModel):
    """How long and how a stage is trained. 0 steps give the untrained model, the benchmark's
    control.

    batch_size: items of a step, over all processes. accumulate: parts, one after the other, in
    which each process works on its share of a batch; only the largest part has to fit in memory.
    Gradients are those of the whole batch if the loss is a mean over items that count alike, and
    not if items meet in it (contrastive losses, counts of what is masked, batch statistics).
    patience: stop when the loss on tuning patients has not improved for so many validations; of an
    objective with phases, in its last phase alone.
    precision: that of autocast; "auto" is measured on the machine that starts the run, so it can
    differ between machines. compile: torch.compile the parts that the objective names. sharding:
    "full" divides parameters, gradients and moments among the processes (FSDP2). max_skipped: so
    many steps in a row without a finite loss and gradient stop the run; fewer are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_steps: int = Field(ge=0)
    batch_size: int = Field(gt=0)
    accumulate: int = Field(1, gt=0)
    validate_every: int = Field(50, gt=0)
    patience: int | None = Field(None, gt=0)
    checkpoint_every: int = Field(25, gt=0)
    max_skipped: int = Field(3, gt=0)
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    compile: bool = False
    sharding: Literal["none", "full"] = "none"
    seed: int = Field(0, ge=0)
    optim: OptimConfig = OptimConfig()
