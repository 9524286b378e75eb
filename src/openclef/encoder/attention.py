"""The Transformer's layer, and attention that knows how far apart two tokens of the grid are.

Axis letters: B batch, L token, D width, H head, E width of a head, R angle.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Scores at which the first head of rotary attention starts: same region, same row, same column.
NEAR = (1.0, 4.0, 6.0)


class Block(nn.Module):
    """Pre-norm self-attention and a 4x GELU layer."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    @torch.no_grad()
    def start_near(self, pairs: tuple[int, int, int]) -> None:
        """Let attention with `GridRotation` begin at what is near, all the more the earlier a head:
        constant parts of queries and keys that score highest at the same place.
        """
        bias = self.qkv.bias.view(3, self.n_heads, -1)
        # On the weights' device, whatever the default one is.
        peaks = bias.new_tensor(
            [peak / n for n, peak in zip(pairs, NEAR, strict=True) for _ in range(n)]
        )
        shares_H = torch.linspace(1, 0, self.n_heads, device=bias.device)[:, None]
        per_pair_HR = (shares_H * peaks * bias.shape[-1] ** 0.5 / 2).sqrt()
        bias[:2, :, : 2 * len(peaks)] = torch.cat([per_pair_HR, per_pair_HR], 1)

    @torch.no_grad()
    def start_copying(self) -> None:
        """Let what is attended to arrive as it is, not a thousandth of it: a masked token then
        starts with the mean of what is near, and a linear readout is all that is to be learned.
        """
        nn.init.eye_(self.qkv.weight.chunk(3)[2])
        nn.init.eye_(self.out.weight)

    def forward(self, x_BLD: Tensor, attend: Tensor | None, turns: Tensor | None) -> Tensor:
        """attend `[B, 1, 1, L]`: True where a key may be seen; None if all may. turns: of
        `GridRotation`; None without.
        """
        q, k, v = self.qkv(self.norm1(x_BLD)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (q, k, v))
        if turns is not None:
            q, k = turned(q, turns), turned(k, turns)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        h = self.out(h.transpose(1, 2).flatten(2))
        x_BLD = x_BLD + F.dropout(h, self.dropout, self.training)
        mixed: Tensor = x_BLD + self.mlp(self.norm2(x_BLD))
        return mixed


class GridRotation(nn.Module):
    """Rotary attention along the axes of the grid (RoFormer): the score of two tokens depends on
    how far apart they are.

    Of each head's numbers half are turned by time, an eighth each by row and region, and the rest
    is left as it is. Periods of time and row are spaced evenly in logarithm up to twice the axis,
    from 4 places, or from more where they would lie more than an octave apart. Regions have no
    order: theirs are such that all others are about as far. The class token has no place: its
    part that would be turned is zero.
    """

    def __init__(self, grid: tuple[int, int, int], head_width: int) -> None:
        super().__init__()
        eighth = head_width // 16  # in pairs of numbers
        self.pairs = (eighth, eighth, 4 * eighth)
        n_regions = grid[0]
        harmonics = 1 + torch.arange(eighth) % max(1, n_regions // 2)
        periods = [n_regions / harmonics]
        for size, n in zip(grid[1:], self.pairs[1:], strict=True):
            longest = math.log2(max(4, 2 * size))
            shortest = max(2, longest - (n - 1)) if n > 1 else longest
            periods.append(torch.logspace(shortest, longest, n, base=2))
        places = torch.cartesian_prod(*(torch.arange(float(size)) for size in grid))
        angles_LR = torch.cat(
            [
                2 * math.pi * at[:, None] / period
                for at, period in zip(places.T, periods, strict=True)
            ],
            1,
        )
        turns = torch.cat([angles_LR.cos(), angles_LR.sin()], 1)
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, entering_BL: Tensor) -> Tensor:
        """Cosines and sines of these tokens, a class token before them: `[B, 1, 1 + L, 2 R]`."""
        return F.pad(F.embedding(entering_BL, self.get_buffer("turns")), (0, 0, 1, 0))[:, None]


def turned(x_BHLE: Tensor, turns: Tensor) -> Tensor:
    """The first numbers of each head turned by `GridRotation`, the others as they are."""
    cos, sin = turns.to(x_BHLE.dtype).chunk(2, -1)
    n = cos.shape[-1]
    a, b, rest = x_BHLE[..., :n], x_BHLE[..., n : 2 * n], x_BHLE[..., 2 * n :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)
