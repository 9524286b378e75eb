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

from openclef.tokenizer.codebook import Codebook, LatentNorm
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
        """Take in a batch, weighing each channel by how often it has been visible so far."""
        n = shown_BC1T.sum((0, 3), keepdim=True)[0].to(x_BCFT.dtype)
        n_cells = n.clamp(min=1)
        step = torch.where(self.n_updates > 0, 1 - self.decay, 1.0) * (n > 0)
        self.mean.lerp_((x_BCFT * shown_BC1T).sum((0, 3))[..., None] / n_cells, step)
        self.square.lerp_((x_BCFT.square() * shown_BC1T).sum((0, 3))[..., None] / n_cells, step)
        self.n_updates += n > 0

    @property
    def deviation(self) -> Tensor:
        """Standard deviation `[19, F, 1]`, at least .4 dB."""
        return (self.square - self.mean.square()).clamp(min=1e-4).sqrt()


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


_Patches = type[nn.Conv2d] | type[nn.ConvTranspose2d]


def _patches(layer: _Patches, n_in: int, n_out: int, stride: tuple[int, int]) -> nn.Module:
    """A convolution whose kernel is its stride: patches that do not overlap, variance kept."""
    patches = layer(n_in, n_out, kernel_size=stride, stride=stride)
    n_inputs = n_in if layer is nn.ConvTranspose2d else n_in * math.prod(stride)
    nn.init.normal_(patches.weight, std=n_inputs**-0.5)
    return patches


class Vqgan(nn.Module):
    """Encoder, codebook and decoder. The adversarial part of its training is not in yet."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        n_chans, widths = len(CHANNELS), config.widths
        # Hidden channels are zeros; a bias a channel tells them from real zeros.
        self.missing = nn.Parameter(torch.zeros(n_chans, widths[0]))
        inner = (n_chans, *widths)
        self.spectrum = SpectrumNorm(config.n_freqs, decay=config.codebook_decay)
        self.down = nn.ModuleList(
            _patches(nn.Conv2d, inner[i], inner[i + 1], s) for i, s in enumerate(config.strides)
        )
        self.encode_blocks = _blocks(widths, config.n_blocks)
        self.to_code = nn.Conv2d(widths[-1], config.code_dim, 1, bias=False)
        self.latent_norm = LatentNorm(config.code_dim, decay=config.codebook_decay)
        self.codebook = Codebook(config.n_codes, config.code_dim, decay=config.codebook_decay)
        self.from_code = nn.Conv2d(config.code_dim, widths[-1], 1)
        self.decode_blocks = _blocks(widths, config.n_blocks)
        self.up = nn.ModuleList(
            _patches(nn.ConvTranspose2d, inner[i + 1], inner[i], s)
            for i, s in enumerate(config.strides)
        )
        # Norms run over the width: channels last spares a copy each (twice as fast on a CPU).
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def latent(self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor) -> Tensor:
        """Unit vectors before quantisation: `[B, 19, F, T]` in [-1, 1] -> `[B, Fp, Tp, code_dim]`.

        channel_mask `[B, 19]` and time_mask `[B, T]` are True where hidden.
        """
        shown = ~(channel_mask[:, :, None, None] | time_mask[:, None, None, :])
        if self.training:
            self.spectrum.update(x_BCFT, shown)
        x = (x_BCFT - self.spectrum.mean) / self.spectrum.deviation * shown
        x = x.contiguous(memory_format=torch.channels_last)
        for level, (down, blocks) in enumerate(zip(self.down, self.encode_blocks, strict=True)):
            x = down(x)
            if level == 0:
                x = x + (channel_mask.to(x.dtype) @ self.missing)[:, :, None, None]
            visible = self._visible(time_mask, x)
            x = x * visible
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, visible)
        z = self.to_code(x).float().movedim(1, -1)
        return F.normalize(self.latent_norm(z, self._seen(z, time_mask)), dim=-1)

    def _seen(self, z_BFTD: Tensor, time_mask: Tensor) -> Tensor:
        """Visible tokens, `[B, Fp, Tp]`."""
        hidden = hidden_tokens(time_mask, self.config.frames_per_token)
        return ~hidden[:, None, :].expand(z_BFTD.shape[:-1])

    def decode(self, codes_BDFT: Tensor, time_mask: Tensor) -> Tensor:
        """Codes `[B, code_dim, Fp, Tp]` -> spectrogram `[B, 19, F, T]` in [-1, 1] units."""
        x = self.from_code(codes_BDFT)
        for up, blocks in zip(reversed(self.up), reversed(self.decode_blocks), strict=True):
            shown = self._visible(time_mask, x)
            x = x * shown
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, shown)
            x = up(x)
        return x.float() * self.spectrum.deviation + self.spectrum.mean

    def forward(
        self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct; returns (spectrogram `[B, 19, F, T]`, ids `[B, Fp, Tp]`, commitment)."""
        z = self.latent(x_BCFT, channel_mask, time_mask)
        seen = self._seen(z, time_mask)
        codes, ids = self.codebook(z, seen, rng)
        commitment = (codes.detach() - z)[seen].square().sum() / max(1, z[seen].numel())
        straight = z + (codes - z).detach()
        return self.decode(straight.movedim(-1, 1), time_mask), ids, commitment

    @torch.no_grad()
    def tokenize(self, x_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor) -> Tensor:
        """Token ids `[B, Fp, Tp]` int64 of scaled spectrograms `[B, 19, F, T]`."""
        return self.codebook.nearest(self.latent(x_BCFT, channel_mask, time_mask))

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
