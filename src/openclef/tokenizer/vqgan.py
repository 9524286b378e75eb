"""The convolutional vector-quantised autoencoder; EEG channels are its input channels.

Axis letters: B batch, C EEG channel, F frequency, T frame, D width; a prime (Fp, Tp) is the token
grid. Every norm is over the width at one position, and hidden positions are zeroed after each
block, so that the tokens of a padded recording do not depend on how much padding follows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from openclef.tokenizer.codebook import Codebook
from openclef.types import CHANNELS

CLAMP_DB = 40.0


class TokenizerConfig(BaseModel):
    """Shape of the tokenizer. strides: (frequency, time) of each level, their products give the
    grid: 128 / 16 = 8 rows by 1,280 / 5 = 256 columns (paper.md [I, strong]). Widths [U].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_freqs: int = 128
    n_frames: int = 1280
    strides: tuple[tuple[int, int], ...] = ((4, 5), (2, 1), (2, 1))
    widths: tuple[int, ...] = (64, 128, 128)
    n_blocks: int = Field(1, ge=1)
    n_codes: int = Field(8192, ge=2, le=65536)
    code_dim: int = Field(32, ge=1)
    codebook_decay: float = 0.99

    @model_validator(mode="after")
    def _grid_divides(self) -> TokenizerConfig:
        if len(self.strides) != len(self.widths):
            raise ValueError(f"{len(self.strides)} strides for {len(self.widths)} widths")
        for size, axis in ((self.n_freqs, 0), (self.n_frames, 1)):
            step = math.prod(stride[axis] for stride in self.strides)
            if size % step:
                raise ValueError(f"strides multiply to {step}, which does not divide {size}")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """(frequency rows, time columns) of the tokens of one window."""
        f_step = math.prod(stride[0] for stride in self.strides)
        return self.n_freqs // f_step, self.n_frames // self.frames_per_token

    @property
    def frames_per_token(self) -> int:
        return math.prod(stride[1] for stride in self.strides)


def scale(power_db: Tensor) -> Tensor:
    """Clamp decibels to [-40, 40] and scale to [-1, 1] (paper.md [C/I]).

    Rounded to half precision first, as cohorts store it: a recording gives the same tokens
    whether it comes from a file or from a cohort.
    """
    return power_db.half().float().clamp(-CLAMP_DB, CLAMP_DB) / CLAMP_DB


def hidden_tokens(time_mask: Tensor, frames_per_token: int) -> Tensor:
    """A token column is hidden if more than half of its frames are: `[B, T]` -> `[B, Tp]`."""
    return time_mask.view(len(time_mask), -1, frames_per_token).float().mean(-1) > 0.5


class PositionNorm(nn.Module):
    """LayerNorm over the width of each position of `[B, D, F, T]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return normed


class ResidualBlock(nn.Module):
    """norm - SiLU - 3 x 3 convolution, twice, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = PositionNorm(width), PositionNorm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)) * visible)
        return x + self.conv2(F.silu(self.norm2(h)) * visible)


def _patches(
    layer: type[nn.Module], width_in: int, width_out: int, stride: tuple[int, int]
) -> nn.Module:
    return layer(width_in, width_out, kernel_size=stride, stride=stride)


class Vqgan(nn.Module):
    """Encoder, codebook and decoder. The adversarial part of its training is not in yet."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        n_chans, widths = len(CHANNELS), config.widths
        # Hidden channels are zeros; a bias a channel tells them from real zeros.
        self.missing = nn.Parameter(torch.zeros(n_chans, widths[0]))
        inner = (n_chans, *widths)
        self.down = nn.ModuleList(
            _patches(nn.Conv2d, inner[i], inner[i + 1], s) for i, s in enumerate(config.strides)
        )
        self.encode_blocks = _blocks(widths, config.n_blocks)
        self.to_code = nn.Conv2d(widths[-1], config.code_dim, 1)
        self.codebook = Codebook(config.n_codes, config.code_dim, decay=config.codebook_decay)
        self.from_code = nn.Conv2d(config.code_dim, widths[-1], 1)
        self.decode_blocks = _blocks(widths, config.n_blocks)
        self.up = nn.ModuleList(
            _patches(nn.ConvTranspose2d, inner[i + 1], inner[i], s)
            for i, s in enumerate(config.strides)
        )

    def latent(self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor) -> Tensor:
        """Unit vectors before quantisation: `[B, 19, F, T]` in [-1, 1] -> `[B, code_dim, Fp, Tp]`.

        channel_mask `[B, 19]` and time_mask `[B, T]` are True where hidden.
        """
        visible = ~time_mask[:, None, None, :]
        x = x_BCFT * visible * ~channel_mask[:, :, None, None]
        for level, (down, blocks) in enumerate(zip(self.down, self.encode_blocks, strict=True)):
            x = down(x)
            if level == 0:
                x = x + (channel_mask.to(x.dtype) @ self.missing)[:, :, None, None]
            shown = self._visible(time_mask, x)
            x = x * shown
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, shown)
        return F.normalize(self.to_code(x).float(), dim=1)

    def decode(self, codes_BDFT: Tensor, time_mask: Tensor) -> Tensor:
        """Codes `[B, code_dim, Fp, Tp]` -> spectrogram `[B, 19, F, T]` in [-1, 1] units."""
        x = self.from_code(codes_BDFT)
        for up, blocks in zip(reversed(self.up), reversed(self.decode_blocks), strict=True):
            shown = self._visible(time_mask, x)
            x = x * shown
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, shown)
            x = up(x)
        return x.float()

    def forward(
        self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct; returns (spectrogram `[B, 19, F, T]`, ids `[B, Fp, Tp]`, commitment)."""
        z = self.latent(x_BCFT, channel_mask, time_mask)
        z_flat = z.movedim(1, -1).flatten(0, 2)
        seen = ~hidden_tokens(time_mask, self.config.frames_per_token)
        seen_flat = seen[:, None, :].expand(-1, z.shape[2], -1).flatten()
        codes, ids = self.codebook(z_flat, seen_flat, rng)
        commitment = (codes.detach() - z_flat)[seen_flat].square().sum(-1).mean()
        straight = z_flat + (codes - z_flat).detach()
        quantised = straight.unflatten(0, (z.shape[0], *z.shape[2:])).movedim(-1, 1)
        return self.decode(quantised, time_mask), ids.view(z.shape[0], *z.shape[2:]), commitment

    @torch.no_grad()
    def tokenize(self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor) -> Tensor:
        """Token ids `[B, Fp, Tp]` int64 of scaled spectrograms `[B, 19, F, T]`."""
        z = self.latent(x_BCFT, channel_mask, time_mask)
        ids = self.codebook.nearest(z.movedim(1, -1).flatten(0, 2))
        return ids.view(z.shape[0], *z.shape[2:])

    @torch.no_grad()
    def reconstruct(self, ids_BFT: Tensor, time_mask: Tensor) -> Tensor:
        """Token ids `[B, Fp, Tp]` -> decibels `[B, 19, F, T]`."""
        codes = self.codebook.codes[ids_BFT].movedim(-1, 1)
        return self.decode(codes, time_mask) * CLAMP_DB

    def _visible(self, time_mask: Tensor, x: Tensor) -> Tensor:
        """Visible positions at the time resolution of `x`, broadcast to it: `[B, 1, 1, t]`."""
        hidden = hidden_tokens(time_mask, time_mask.shape[1] // x.shape[-1])
        return ~hidden[:, None, None, :]


def _blocks(widths: tuple[int, ...], n_blocks: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.ModuleList(ResidualBlock(width) for _ in range(n_blocks)) for width in widths
    )
