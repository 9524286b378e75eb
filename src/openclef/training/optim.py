"""Learning-rate schedule, weight decay groups and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from openclef.types import Objective


class OptimConfig(BaseModel):
    """AdamW with linear warm-up and cosine decay (MAGE's defaults, paper.md [D]).

    ema_decay is the ceiling of a decay that warms up: min(ema_decay, (1 + t) / (10 + t), and a
    half-life of at most a tenth of the steps), because the paper's .9999 would return the initial
    weights of a short run (paper.md, Clinical alignment).
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


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients to at most `max_norm`; returns the norm before."""
    return float(nn.utils.clip_grad_norm_(parameters, max_norm))
