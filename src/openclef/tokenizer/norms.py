"""Norms of the tokenizer: of spectra, of activations, of latents.

Statistics are those of all processes that train together, and of what is visible alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openclef.training.distributed import all_sum, all_sum_with_gradient
from openclef.types import CHANNELS


class PositionNorm(nn.Module):
    """LayerNorm over the width of each position of `[B, D, F, T]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return normed


class SpectrumNorm(nn.Module):
    """Mean and deviation of each channel and frequency over the train patients, moving averages.

    Convolutions share their weights along frequency, so the 1/f slope would have to be written
    in tokens; taken out here and put back by the decoder, the tokens are left to what differs [U].
    """

    mean: Tensor
    square: Tensor
    n_updates: Tensor

    def __init__(self, n_freqs: int, *, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(len(CHANNELS), n_freqs, 1))
        self.register_buffer("square", torch.ones(len(CHANNELS), n_freqs, 1))
        self.register_buffer("n_updates", torch.zeros(len(CHANNELS), 1, 1))

    @torch.no_grad()
    def update(self, x_BCFT: Tensor, shown_BC1T: Tensor) -> None:
        """Take in a batch (zero where hidden); a channel counts by how often it was visible."""
        n = all_sum(shown_BC1T.sum((0, 3), keepdim=True)[0].to(x_BCFT.dtype))
        total = all_sum(x_BCFT.sum((0, 3))[..., None])
        squares = all_sum(x_BCFT.square().sum((0, 3))[..., None])
        step = torch.where(self.n_updates > 0, 1 - self.decay, 1.0) * (n > 0)
        self.mean.lerp_(total / n.clamp(min=1), step)
        self.square.lerp_(squares / n.clamp(min=1), step)
        self.n_updates += n > 0

    @property
    def deviation(self) -> Tensor:
        """Standard deviation `[19, F, 1]`, at least .4 dB."""
        return (self.square - self.mean.square()).clamp(min=1e-4).sqrt()

    def standardise(self, x_BCFT: Tensor) -> Tensor:
        """Mean 0 and deviation 1 for each channel and frequency."""
        return (x_BCFT - self.mean) / self.deviation

    def restore(self, x_BCFT: Tensor) -> Tensor:
        """Undo `standardise`."""
        return x_BCFT * self.deviation + self.mean


class LatentNorm(nn.Module):
    """Standardise each dimension over the visible tokens: by the batch in training, later by the
    moving statistics, kept as the codebook's are.

    Cosine codes need it: without it a shift that all latents share turns them all the same way,
    one code serves them all, and its commitment keeps it so (docs/log.md, 2026-11-23).
    """

    mean: Tensor
    variance: Tensor
    is_initialised: Tensor

    def __init__(self, dim: int, *, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("is_initialised", torch.tensor(False))

    def forward(self, z: Tensor, visible: Tensor) -> Tensor:
        """Latents `[.., D]` standardised; `visible` `[..]` are those that count."""
        mean, variance = self.mean, self.variance
        if self.training:
            seen = z[visible]
            n = all_sum(visible.sum().to(z.dtype))
            if n > 1:
                mean = all_sum_with_gradient(seen.sum(0)) / n
                variance = all_sum_with_gradient((seen - mean).square().sum(0)) / (n - 1)
                weight = 1 - self.decay if self.is_initialised else 1.0
                self.mean.lerp_(mean.detach(), weight)
                self.variance.lerp_(variance.detach(), weight)
                self.is_initialised.fill_(True)
        return (z - mean) * torch.rsqrt(variance + 1e-6)
