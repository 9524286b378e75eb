"""Norms of the tokenizer: of spectra, of activations, of latents.

Statistics are those of all processes that train together, and of what is visible alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openclef.training.distributed import all_sum, all_sum_with_gradient
from openclef.types import CHANNELS

_LEAST = 1e-6  # variance


class PositionNorm(nn.Module):
    """LayerNorm over the width of each position of `[B, D, F, T]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return normed


class SpectrumNorm(nn.Module):
    """Mean and deviation of each channel and band, moving averages over training batches.

    Convolutions share their weights along frequency, so the 1/f slope would have to be written
    in tokens; taken out here and put back by the decoder, the tokens are left to what differs [U].
    """

    n_frames: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, n_bands: int, *, decay: float) -> None:
        super().__init__()
        self.decay = decay
        # Moving averages of a batch's visible frames, of their sum and of that of their squares:
        # a frame weighs as much in a batch that shows few of a channel as in one that shows many.
        self.register_buffer("n_frames", torch.zeros(len(CHANNELS), 1, 1))
        self.register_buffer("total", torch.zeros(len(CHANNELS), n_bands, 1))
        self.register_buffer("squares", torch.zeros(len(CHANNELS), n_bands, 1))

    @torch.no_grad()
    def update(self, x_BCFT: Tensor, shown_BC1T: Tensor) -> None:
        """Take in a batch (zero where hidden) of all processes."""
        for average, sums in (
            (self.n_frames, shown_BC1T.sum((0, 3), keepdim=True)[0].to(x_BCFT.dtype)),
            (self.total, x_BCFT.sum((0, 3))[..., None]),
            (self.squares, x_BCFT.square().sum((0, 3))[..., None]),
        ):
            average.lerp_(all_sum(sums), 1 - self.decay)

    @property
    def mean(self) -> Tensor:
        """Mean `[19, F, 1]`; 0 of a channel that was never visible."""
        return self.total / self.n_frames.clamp(min=1e-6)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation `[19, F, 1]`, at least .4 dB; 1 of a channel never visible."""
        variance = self.squares / self.n_frames.clamp(min=1e-6) - self.mean.square()
        return torch.where(self.n_frames > 1e-6, variance.clamp(min=1e-4).sqrt(), 1.0)

    def standardise(self, x_BCFT: Tensor) -> Tensor:
        """Mean 0 and deviation 1 for each channel and frequency."""
        return (x_BCFT - self.mean) / self.deviation

    def restore(self, x_BCFT: Tensor) -> Tensor:
        """Undo `standardise`."""
        return x_BCFT * self.deviation + self.mean


class LatentNorm(nn.Module):
    """Standardise each dimension over the visible tokens, by moving statistics.

    Cosine codes need it: without it a shift that all latents share turns them all the same way,
    one code serves them all, and its commitment keeps it so (docs/log.md, 2026-11-23). What holds
    against that is the gradient through the batch's own statistics; the values are those of the
    moving ones, in training as in use (batch renormalisation, Ioffe 2017).
    """

    mean: Tensor
    square: Tensor
    is_initialised: Tensor

    def __init__(self, dim: int, *, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("square", torch.ones(dim))
        self.register_buffer("is_initialised", torch.tensor(False))

    def forward(self, z: Tensor, visible: Tensor) -> Tensor:
        """Latents `[.., D]` standardised; `visible` `[..]` are those that count."""
        n = all_sum(visible.sum().to(z.dtype)) if self.training else torch.zeros(())
        if n < 2:
            return (z - self.mean) * torch.rsqrt(self._variance() + _LEAST)
        seen = z[visible]
        mean = all_sum_with_gradient(seen.sum(0)) / n
        variance = all_sum_with_gradient((seen - mean).square().sum(0)) / n
        with torch.no_grad():
            weight = 1 - self.decay if self.is_initialised else 1.0
            self.mean.lerp_(mean, weight)
            self.square.lerp_(variance + mean.square(), weight)
            self.is_initialised.fill_(True)
            scale = torch.rsqrt(self._variance() + _LEAST)
            stretch = (variance + _LEAST).sqrt() * scale
            shift = (mean - self.mean) * scale
        return (z - mean) * torch.rsqrt(variance + _LEAST) * stretch + shift

    @torch.no_grad()
    def set(self, z_ND: Tensor) -> None:
        """Begin the moving statistics with these latents."""
        self.mean.copy_(z_ND.mean(0))
        self.square.copy_(z_ND.square().mean(0))
        self.is_initialised.fill_(True)

    def _variance(self) -> Tensor:
        return (self.square - self.mean.square()).clamp(min=0)
