"""One codebook that follows its vectors by moving averages, alike on every process.

Axis letters: N vectors, K codes, D dimensions of a code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openclef.training.distributed import all_sum, rank, world_size

MAX_SCORES = 2**20  # similarities in memory at a time: 4 MiB stay in the cache
GRID = 2.0**-26  # what sums are made of, see `_totals`
N_LLOYD_STEPS = 10
# Vectors of one step come from few recordings and are alike: when counting how long a code was
# idle they are worth this many vectors a code at most.
MOST_OF_A_STEP = 0.5


class Codebook(nn.Module):
    """`n_codes` vectors of `code_dim` that each move towards the mean of the vectors nearest them.

    Nearest by cosine similarity among unit vectors (spherical), or by Euclidean distance. `usage`
    is the moving average of the vectors a step brings to a code, `sums` that of their sum.

    `idle` counts the vectors that the average code was given since this one was given its last.
    Above 1 / `restart_below` the code is dead and starts again at a vector of the current step,
    with average usage. (`usage` itself is too slow to tell: with a decay of .99 a code that
    moving latents left behind takes 230 steps to fall to a tenth of the average.)

    All processes hold the same codes, bit for bit.
    """

    codes: Tensor
    sums: Tensor
    usage: Tensor
    idle: Tensor

    def __init__(
        self, n_codes: int, code_dim: int, *, decay: float, restart_below: float, spherical: bool
    ) -> None:
        super().__init__()
        self.decay, self.restart_below, self.spherical = decay, restart_below, spherical
        self.register_buffer("codes", torch.zeros(n_codes, code_dim))
        self.register_buffer("sums", torch.randn(n_codes, code_dim))
        self.register_buffer("usage", torch.ones(n_codes))
        self.register_buffer("idle", torch.zeros(n_codes))
        self._renew()

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Index of the code nearest each vector: `[.., D]` -> `[..]` int64."""
        # |z - c|^2 = |z|^2 - 2 (z c - |c|^2 / 2), so both metrics are a matrix product.
        squares = torch.zeros_like(self.usage) if self.spherical else self.codes.square().sum(-1)
        n_rows = max(1, MAX_SCORES // len(self.codes))
        with torch.autocast(z.device.type, enabled=False):
            # On CPUs `max` finds an index in a third of the time that `argmax` takes.
            ids = [
                torch.addmm(-squares / 2, part, self.codes.T).max(-1).indices
                for part in torch.split(z.float().reshape(-1, z.shape[-1]), n_rows)
            ]
        return torch.cat(ids).view(z.shape[:-1])

    @torch.no_grad()
    def update(self, z_ND: Tensor, ids_N: Tensor, rng: torch.Generator) -> None:
        """Follow this process's vectors, whose nearest codes are `ids_N`; `rng` alike on all."""
        sums, counts = _totals(z_ND, ids_N, len(self.codes))
        if not counts.any():
            return
        self.usage.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        idle = self.idle + counts.mean().clamp(max=MOST_OF_A_STEP)
        self.idle.copy_(torch.where(counts > 0, 0.0, idle))
        dead = torch.nonzero(self.idle * self.restart_below > 1).squeeze(-1)
        if len(dead):
            vectors = draw(z_ND, len(dead), rng)
            dead = dead[: len(vectors)]  # the others stay dead until the next step
            self.usage[dead] = self.usage.mean()
            self.sums[dead] = vectors * self.usage[dead, None]
            self.idle[dead] = 0.0
        self._renew()

    @torch.no_grad()
    def start(self, z_ND: Tensor, rng: torch.Generator) -> None:
        """k-means: codes at vectors drawn from all processes', then Lloyd's steps.

        Usage is one vector a code on average. Codes that no vector chose, such as those beyond
        the number of vectors, are dead: the first update restarts them. Raises ValueError if no
        process has a vector.
        """
        first = draw(z_ND, len(self.codes), rng)
        if len(first) == 0:
            raise ValueError("a codebook cannot start from no vectors")
        self.sums.copy_(torch.randn(self.sums.shape, generator=rng))
        self.sums[: len(first)] = first
        self.usage.fill_(1.0)
        self._renew()
        for _ in range(N_LLOYD_STEPS):
            sums, counts = _totals(z_ND, self.nearest(z_ND), len(self.codes))
            self.sums.copy_(sums / counts.mean())
            self.usage.copy_(counts / counts.mean())
            self._renew()
        self.idle.copy_(torch.where(self.usage > 0, 0.0, torch.inf))

    def _renew(self) -> None:
        """Set each code to its mean vector; one whose mean is undefined stays where it is."""
        size = self.sums.norm(dim=-1) if self.spherical else self.usage
        mean = self.sums / size.clamp(min=1e-6)[:, None]
        self.codes.copy_(torch.where(size[:, None] > 1e-6, mean, self.codes))


def _totals(z_ND: Tensor, ids_N: Tensor, n_codes: int) -> tuple[Tensor, Tensor]:
    """Sums `[K, D]` and counts `[K]` of the vectors of each code, over all processes.

    Floating-point sums depend on their order, hence on the number of processes. Multiples of
    2**-26 in double precision add up exactly (below 2**27), and are rounded once, here.
    """
    ones = torch.ones_like(z_ND[:, :1])
    rows = (torch.cat([z_ND, ones], 1).double() / GRID).round() * GRID
    totals = rows.new_zeros(n_codes, rows.shape[1]).index_add_(0, ids_N, rows)
    totals = all_sum(totals).float()
    return totals[:, :-1], totals[:, -1]


def draw(z_ND: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """`n` different ones of all processes' vectors (all, if there are fewer), the same on each.

    `z_ND` is this process's part, in order of rank; `rng` in the same state on all. Which are
    drawn does not depend on the number of processes.
    """
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=z_ND.device)
    sizes[rank()] = len(z_ND)
    sizes = all_sum(sizes).cpu()
    picks = torch.randperm(int(sizes.sum()), generator=rng)[:n] - int(sizes[: rank()].sum())
    own = (picks >= 0) & (picks < len(z_ND))
    drawn = z_ND.new_zeros(len(picks), z_ND.shape[1])
    drawn[own.to(z_ND.device)] = z_ND[picks[own].to(z_ND.device)]
    return all_sum(drawn)


def perplexity(ids: Tensor, n_codes: int) -> Tensor:
    """exp(entropy) of the codes' frequencies, over all processes: how many are in effective use."""
    shares = all_sum(torch.bincount(ids.flatten(), minlength=n_codes).float())
    shares = shares / shares.sum().clamp(min=1)
    return torch.exp(-(shares * torch.log(shares.clamp(min=1e-12))).sum())
