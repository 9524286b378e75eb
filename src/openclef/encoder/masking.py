"""MAGE's masking (paper.md, Encoder [I, strong], [D]): a ratio a step, half of the tokens dropped.

Axis letters: B batch, L token. Hidden tokens (padding, missing minutes) are never seen, never
masked and never targets: ratios are of the visible ones. What is random is drawn over the batch of
all processes, of which each takes its part: several mask as one would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from openclef.training.distributed import slice_of_rank, world_size

_RAREST = 1e-3  # share of draws that must be accepted


class MaskingConfig(BaseModel):
    """Mask ratio: Gaussian (mean, std) truncated to [low, high]; low = high fixes it.

    drop_ratio of the visible tokens never enter the encoder, all of them masked ones: if a drawn
    ratio is less, so many are dropped. 0: nothing is dropped, masked tokens enter as such.

    target_share: of the masked tokens, those that are predicted; the others do not enter the
    decoder either. A step costs less by that much of the decoder and of the output (ours).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float = 0.55
    std: float = Field(0.25, gt=0)
    low: float = Field(0.5, gt=0, le=1)
    high: float = Field(1.0, gt=0, le=1)
    drop_ratio: float = Field(0.5, ge=0, lt=1)
    target_share: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _can_be_drawn(self) -> MaskingConfig:
        if self.low > self.high:
            raise ValueError(f"mask ratios from {self.low} to {self.high}: low must not be above")
        if self.low < self.high and self._share < _RAREST:
            raise ValueError(
                f"mask ratios of {self.mean} +- {self.std} hardly ever lie in [{self.low}, "
                f"{self.high}]; give a mean nearer to it, or low = high to fix the ratio"
            )
        return self

    @property
    def mean_ratio(self) -> float:
        """Mean of the truncated Gaussian; .69 as MAGE has it."""
        if self.low == self.high:
            return self.low
        a, b = ((x - self.mean) / self.std for x in (self.low, self.high))
        unit = NormalDist()
        return self.mean + self.std * (unit.pdf(a) - unit.pdf(b)) / self._share

    @property
    def _share(self) -> float:
        gaussian = NormalDist(self.mean, self.std)
        return gaussian.cdf(self.high) - gaussian.cdf(self.low)


@dataclass(frozen=True)
class Masking:
    """masked `[B, L]`: not shown. targets `[B, L]`: those of them that are predicted. kept
    `[B, K]`: positions that enter the encoder, visible ones first. kept_hidden `[B, K]`: True where
    a row has fewer than K to keep.
    """

    masked: Tensor
    targets: Tensor
    kept: Tensor
    kept_hidden: Tensor


def draw_ratio(config: MaskingConfig, rng: torch.Generator) -> float:
    """One truncated-Gaussian mask ratio, by rejection."""
    while config.low < config.high:
        ratio = config.mean + config.std * float(torch.randn((), generator=rng))
        if config.low <= ratio <= config.high:
            return ratio
    return config.low


def draw_masking(hidden: Tensor, config: MaskingConfig, rng: torch.Generator) -> Masking:
    """Choose masked and dropped tokens of each row; `hidden` `[B, L]` is True where not visible."""
    ratio = draw_ratio(config, rng)
    masking = mask_first(hidden, _noise(hidden, rng), ratio=ratio, drop_ratio=config.drop_ratio)
    if config.target_share == 1:
        return masking
    # By an order of their own: the first ones of the other are never in the encoder.
    rank = _rank(~masking.masked, _noise(hidden, rng))
    n_targets = torch.ceil(config.target_share * masking.masked.sum(1, keepdim=True))
    return replace(masking, targets=masking.masked & (rank < n_targets))


def mask_first(hidden: Tensor, noise: Tensor, *, ratio: float, drop_ratio: float) -> Masking:
    """Mask the share `ratio` of each row's visible tokens, those of the lowest `noise`, and drop
    the lowest `drop_ratio` of them; all that are masked are targets. hidden, noise `[B, L]`.
    """
    n_visible = (~hidden).sum(1, keepdim=True)
    rank = _rank(hidden, noise)
    masked = ~hidden & (rank < torch.ceil(ratio * n_visible))
    dropped = hidden | (rank < torch.floor(min(drop_ratio, ratio) * n_visible))
    return Masking(masked, masked, *keep(dropped))


def keep(dropped: Tensor) -> tuple[Tensor, Tensor]:
    """Positions not dropped, padded to the longest row: (kept `[B, K]`, kept_hidden `[B, K]`)."""
    n_kept = (~dropped).sum(1)
    width = max(1, int(n_kept.max()))
    kept = dropped.to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    kept_hidden = torch.arange(width, device=dropped.device)[None] >= n_kept[:, None]
    return kept, kept_hidden


def subsample(hidden: Tensor, n_keep: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keep at most `n_keep` random visible tokens a row: (kept `[B, K]`, kept_hidden `[B, K]`)."""
    noise = _noise(hidden, rng).masked_fill(hidden, 2.0)
    dropped = hidden | (noise.argsort(1).argsort(1) >= n_keep)
    return keep(dropped)


def _rank(excluded: Tensor, noise: Tensor) -> Tensor:
    """Rank of each token in a random order of its row's; below 0 of those excluded, `[B, L]`."""
    return noise.masked_fill(excluded, -1.0).argsort(1).argsort(1) - excluded.sum(1, keepdim=True)


def _noise(hidden: Tensor, rng: torch.Generator) -> Tensor:
    """Uniform, `[B, L]`: this process's part of what is drawn over the batch of all of them."""
    n_items = len(hidden) * world_size()
    noise = torch.rand(n_items, hidden.shape[1], generator=rng)[slice_of_rank(n_items)]
    return noise.to(hidden.device)
