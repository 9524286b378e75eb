"""MAGE's masking (paper.md, Encoder [I, strong], [D]): a ratio a step, half of the tokens dropped.

Axis letters: B batch, L token. Hidden tokens (padding, missing minutes) are never seen, never
masked and never targets: ratios are of the visible ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class MaskingConfig(BaseModel):
    """Mask ratio: Gaussian (mean, std) truncated to [low, high]; drop_ratio of the tokens never
    enter the encoder, all of them masked ones (hence drop_ratio <= low).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float = 0.55
    std: float = Field(0.25, gt=0)
    low: float = Field(0.5, gt=0, le=1)
    high: float = Field(1.0, gt=0, le=1)
    drop_ratio: float = Field(0.5, ge=0, lt=1)


@dataclass(frozen=True)
class Masking:
    """masked `[B, L]`: to be predicted. kept `[B, K]`: positions that enter the encoder, visible
    ones first. kept_hidden `[B, K]`: True where a row has fewer than K to keep.
    """

    masked: Tensor
    kept: Tensor
    kept_hidden: Tensor


def draw_ratio(config: MaskingConfig, rng: torch.Generator) -> float:
    """One truncated-Gaussian mask ratio, by rejection."""
    while True:
        ratio = config.mean + config.std * float(torch.randn((), generator=rng))
        if config.low <= ratio <= config.high:
            return ratio


def draw_masking(hidden: Tensor, config: MaskingConfig, rng: torch.Generator) -> Masking:
    """Choose masked and dropped tokens of each row; `hidden` `[B, L]` is True where not visible."""
    ratio = draw_ratio(config, rng)
    noise = torch.rand(hidden.shape, generator=rng).to(hidden.device)
    n_visible = (~hidden).sum(1, keepdim=True)
    # Rank of each visible token in a random order of its row; hidden ones come first.
    rank = noise.masked_fill(hidden, -1.0).argsort(1).argsort(1) - hidden.sum(1, keepdim=True)
    masked = ~hidden & (rank < torch.ceil(ratio * n_visible))
    dropped = hidden | (rank < torch.floor(min(config.drop_ratio, ratio) * n_visible))
    return Masking(masked, *keep(dropped))


def keep(dropped: Tensor) -> tuple[Tensor, Tensor]:
    """Positions not dropped, padded to the longest row: (kept `[B, K]`, kept_hidden `[B, K]`)."""
    n_kept = (~dropped).sum(1)
    width = max(1, int(n_kept.max()))
    kept = dropped.to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    kept_hidden = torch.arange(width, device=dropped.device)[None] >= n_kept[:, None]
    return kept, kept_hidden


def subsample(hidden: Tensor, n_keep: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keep at most `n_keep` random visible tokens a row: (kept `[B, K]`, kept_hidden `[B, K]`)."""
    noise = torch.rand(hidden.shape, generator=rng).to(hidden.device).masked_fill(hidden, 2.0)
    dropped = hidden | (noise.argsort(1).argsort(1) >= n_keep)
    return keep(dropped)
