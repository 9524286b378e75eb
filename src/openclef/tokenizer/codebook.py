"""Vector quantisation by cosine similarity, the codebook learned by moving averages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        if self.training and int(visible.sum()) > 1:
            mean, variance = z[visible].mean(0), z[visible].var(0)
            weight = 1 - self.decay if self.is_initialised else 1.0
            self.mean.lerp_(mean.detach(), weight)
            self.variance.lerp_(variance.detach(), weight)
            self.is_initialised.fill_(True)
        return (z - mean) * torch.rsqrt(variance + 1e-6)


class Codebook(nn.Module):
    """`n_codes` unit vectors of `code_dim`, EMA-updated (paper.md: 8,192 x 32, L2-normalised [C]).

    The first training batch initialises the codes with its own vectors; a code whose use falls
    below `restart_below` of the average one is set anew to a vector of the current batch.
    """

    codes: Tensor
    usage: Tensor
    sums: Tensor
    is_initialised: Tensor

    def __init__(
        self, n_codes: int, code_dim: int, *, decay: float = 0.99, restart_below: float = 0.1
    ) -> None:
        super().__init__()
        self.decay, self.restart_below = decay, restart_below
        codes = F.normalize(torch.randn(n_codes, code_dim), dim=-1)
        self.register_buffer("codes", codes)
        self.register_buffer("sums", codes.clone())
        self.register_buffer("usage", torch.ones(n_codes))
        self.register_buffer("is_initialised", torch.tensor(False))

    def nearest(self, z: Tensor) -> Tensor:
        """Index of the most similar code of each unit vector: `[.., code_dim]` -> `[..]` int64."""
        with torch.autocast(z.device.type, enabled=False):
            return torch.argmax(z @ self.codes.T, dim=-1)

    def forward(self, z: Tensor, visible: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Quantise unit vectors `z` `[.., code_dim]`; returns (codes `[.., code_dim]`, ids `[..]`).

        Only `visible` `[..]` (True = counts) vectors move the codebook, and only in training.
        """
        if self.training and not self.is_initialised:
            self._initialise(z.detach()[visible], rng)
        ids = self.nearest(z)
        if self.training:
            self._update(z.detach()[visible], ids[visible], rng)
        return self.codes[ids], ids

    def _draw(self, z: Tensor, n: int, rng: torch.Generator) -> Tensor:
        picks = torch.randint(len(z), (n,), generator=rng).to(z.device)
        return z[picks]

    @torch.no_grad()
    def _initialise(self, z: Tensor, rng: torch.Generator) -> None:
        if len(z) == 0:
            return
        self.codes.copy_(self._draw(z, len(self.codes), rng))
        self.usage.fill_(len(z) / len(self.codes))
        self.sums.copy_(self.codes * self.usage[:, None])
        self.is_initialised.fill_(True)

    @torch.no_grad()
    def _update(self, z: Tensor, ids: Tensor, rng: torch.Generator) -> None:
        if len(z) == 0:
            return
        counts = torch.bincount(ids, minlength=len(self.codes)).to(z.dtype)
        totals = torch.zeros_like(self.sums).index_add_(0, ids, z)
        self.usage.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(totals, 1 - self.decay)
        average = self.usage.mean()
        dead = torch.nonzero(self.usage < self.restart_below * average).squeeze(-1)
        if len(dead):
            self.sums[dead] = self._draw(z, len(dead), rng) * average
            self.usage[dead] = average
        self.codes.copy_(F.normalize(self.sums, dim=-1))


def perplexity(ids: Tensor, n_codes: int) -> Tensor:
    """exp(entropy) of the codes' frequencies: how many codes are in effective use."""
    shares = torch.bincount(ids.flatten(), minlength=n_codes).float()
    shares = shares / shares.sum().clamp(min=1)
    return torch.exp(-(shares * torch.log(shares.clamp(min=1e-12))).sum())
