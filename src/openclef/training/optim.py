"""Learning-rate schedule, weight decay, clipping and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from openclef.training.sharding import whole
from openclef.types import GroupedObjective, Objective


class OptimConfig(BaseModel):
    """AdamW with linear warm-up and cosine decay (MAGE's defaults, paper.md [D]).

    ema_decay is the ceiling of a decay that warms up: min(ema_decay, (1 + t) / (10 + t), and a
    half-life of at most a tenth of the steps), because the paper's .9999 would return the initial
    weights of a short run (paper.md, Clinical alignment). clip_norm holds for each of the
    objective's groups of parameters on its own; the rate is one for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(1.5e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.05, ge=0)
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.9999, ge=0, lt=1)


def adamw(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors (biases, norms, tokens) are not decayed."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def learning_rate(step: int, *, n_steps: int, config: OptimConfig) -> float:
    """Rate of `step` (from 0): linear warm-up over a fraction of the steps, then cosine to 0."""
    n_warmup = max(1, round(config.warmup_fraction * n_steps))
    if step < n_warmup:
        return config.lr * (step + 1) / n_warmup
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


class WeightAverage:
    """Exponential moving average of an objective's parameters; its buffers are copied."""

    def __init__(self, objective: Objective, *, n_steps: int, config: OptimConfig) -> None:
        self.state = {k: v.detach().clone() for k, v in objective.state_dict().items()}
        self._averaged = {name for name, _ in objective.named_parameters()}
        self._ceiling = min(config.ema_decay, 0.5 ** (10 / n_steps))

    @torch.no_grad()
    def update(self, objective: Objective, *, step: int) -> None:
        decay = min(self._ceiling, (1 + step) / (10 + step))
        for name, value in objective.state_dict().items():
            if name in self._averaged:
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


def clipping_groups(objective: Objective) -> list[list[nn.Parameter]]:
    """Parameters whose gradients are clipped together: the objective's groups, or all as one.

    Raises ValueError if a parameter that is trained is in no group or in several.
    """
    if not isinstance(objective, GroupedObjective):
        return [list(objective.parameters())]
    groups = objective.parameter_groups()
    given = [id(parameter) for group in groups for parameter in group]
    trained = {id(parameter) for parameter in objective.parameters() if parameter.requires_grad}
    if len(set(given)) < len(given) or not trained <= set(given):
        raise ValueError("parameter_groups must hold every trained parameter exactly once")
    return groups


def clip_gradients(groups: Iterable[Iterable[nn.Parameter]], max_norm: float) -> list[float]:
    """Scale the gradients of each group to at most `max_norm`; returns the norms before."""
    return [float(whole(nn.utils.clip_grad_norm_(group, max_norm))) for group in groups]
