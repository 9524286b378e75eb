"""From a latent to a few integers and back, four ways behind one interface.

Axis letters: Q quantisers (ids a token), D dimensions of the latent, N vectors in a row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from openclef.tokenizer.codebook import Codebook

MAX_CODES = 65536  # ids are stored as uint16
# Standardised latents are about sqrt(D) long. One much shorter has no direction to speak of, and
# dividing by its length would make its gradient explode.
SHORTEST = 1e-3


class _Carrying(BaseModel):
    """carry: share of what a token leaves unsaid that is added to the next latent in time (error
    diffusion, Floyd & Steinberg 1976), so that averages over a session outlive the codebook; 0:
    each latent gets its nearest code [C].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    carry: float = Field(0.0, ge=0, lt=1)


class _EmaCodebooks(_Carrying):
    """Codebooks learned by moving averages; decay and restart_below as in `Codebook`."""

    n_codes: int = Field(8192, ge=2, le=MAX_CODES)
    code_dim: int = Field(32, ge=1)
    decay: float = Field(0.99, ge=0, lt=1)
    restart_below: float = Field(0.1, ge=0, lt=1)


class EmaConfig(_EmaCodebooks):
    """One codebook (paper.md: 8,192 x 32 [C]).

    metric: "cosine" [C]+[S]: codes are unit vectors, and a latent's length is lost; "euclidean":
    it is kept, and so is more of the spectrogram (results/2026-11-24-tokenizer.md).
    """

    kind: Literal["ema"] = "ema"
    metric: Literal["cosine", "euclidean"] = "cosine"

    @property
    def n_quantisers(self) -> int:
        return 1


class ResidualConfig(_EmaCodebooks):
    """Codebooks in a row, each for what those before it left over; `n_codes` is that of each."""

    kind: Literal["residual"] = "residual"
    n_quantisers: int = Field(2, ge=1)


class ProductConfig(_EmaCodebooks):
    """The latent in equal parts, each with a codebook as `EmaConfig` has; code_dim is the whole."""

    kind: Literal["product"] = "product"
    n_quantisers: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _parts_are_equal(self) -> ProductConfig:
        if self.code_dim % self.n_quantisers:
            near = max(1, round(self.code_dim / self.n_quantisers)) * self.n_quantisers
            raise ValueError(
                f"code_dim {self.code_dim} cannot be divided into {self.n_quantisers} equal parts; "
                f"a multiple of n_quantisers can, the nearest is {near}"
            )
        return self


class FsqConfig(_Carrying):
    """Each dimension rounded to one of its levels, nothing learned (Mentzer et al. 2023)."""

    kind: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = Field((8, 8, 8, 4, 4), min_length=1)

    @model_validator(mode="after")
    def _levels_fit(self) -> FsqConfig:
        if min(self.levels) < 3:
            raise ValueError(f"levels {self.levels}: each must be at least 3, the nearest allowed")
        if self.n_codes > MAX_CODES:
            raise ValueError(
                f"levels {self.levels} make {self.n_codes} codes; at most {MAX_CODES} are allowed, "
                "as (16, 16, 16, 16) makes"
            )
        return self

    @property
    def code_dim(self) -> int:
        return len(self.levels)

    @property
    def n_codes(self) -> int:
        return math.prod(self.levels)

    @property
    def n_quantisers(self) -> int:
        return 1


QuantiserConfig = Annotated[
    EmaConfig | ResidualConfig | ProductConfig | FsqConfig, Field(discriminator="kind")
]


class Quantised(NamedTuple):
    """What became of latents `[.., T, D]`.

    Attributes
    ----------
    codes : Tensor, shape (.., T, D), float32
        What the decoder reads; its gradient passes straight through to the latent.
    ids : Tensor, shape (.., T, Q), int64
    commitment : Tensor, shape (.., T)
        Mean square over D of the (normalised) latent's distance to its code, which takes no
        gradient; with `carry`, of the latent and what was carried to it. Zero for FSQ, whose codes
        do not move and need no commitment.
    """

    codes: Tensor
    ids: Tensor
    commitment: Tensor


class Quantiser(nn.Module, ABC):
    """Takes latents that are standardised in each dimension, not yet of unit length.

    The axis before the last, T, is time: along it errors are carried.
    """

    is_started: Tensor

    def __init__(self, carry: float) -> None:
        super().__init__()
        self.carry = carry
        self.register_buffer("is_started", torch.tensor(False))

    def forward(self, z: Tensor, visible: Tensor, rng: torch.Generator) -> Quantised:
        """Quantise latents `[.., T, D]`; in training the codes then move by the visible ones.

        Parameters
        ----------
        z : Tensor, shape (.., T, D)
            Standardised latents; with several processes, this one's part of the batch.
        visible : Tensor, shape (.., T), bool
            True = counts. What is not visible is quantised too, and moves nothing.
        rng : torch.Generator
            Of the CPU; in the same state on all processes. Draws the codes to restart.

        Raises
        ------
        RuntimeError
            In training, until `start` was called.
        """
        if self.training and not self.is_started:
            raise RuntimeError("the quantiser is not started: call start(latents, rng) first")
        latent = self.continuous(z)
        owed, ids = self._choose(latent.detach(), visible)
        codes = self.decode(ids)
        wanted = latent + owed
        if self.training:
            self._move(wanted.detach()[visible], ids[visible], rng)
        return Quantised(
            codes + (latent - latent.detach()), ids, (wanted - codes).square().mean(-1)
        )

    @torch.no_grad()
    def encode(self, z: Tensor, visible: Tensor) -> Tensor:
        """Ids `[.., T, Q]` int64 of latents `[.., T, D]`, of which those `visible` `[.., T]` carry
        errors on; changes nothing."""
        return self._choose(self.continuous(z), visible)[1]

    @torch.no_grad()
    def _choose(self, latent: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """What each latent `[.., T, D]` of `continuous` is given to say besides its own, and ids.

        A token that is not visible takes nothing and passes on what it was offered.
        """
        owed = torch.zeros_like(latent)
        if self.carry == 0:
            return owed, self.nearest(latent)
        ids = []
        debt = torch.zeros_like(latent[..., 0, :])
        for t, (now, seen) in enumerate(zip(latent.unbind(-2), visible.unbind(-1), strict=True)):
            owed[..., t, :] = debt * seen[..., None]
            wanted = now + owed[..., t, :]
            ids.append(self.nearest(wanted))
            left = self.carry * (wanted - self.decode(ids[-1]))
            debt = torch.where(seen[..., None], left, debt)
        return owed, torch.stack(ids, -2)

    @abstractmethod
    def continuous(self, z: Tensor) -> Tensor:
        """Latents `[.., D]` normalised as codes are, float32: what a code stands for."""

    @abstractmethod
    def nearest(self, latent: Tensor) -> Tensor:
        """Ids `[.., Q]` int64 of the codes nearest to what `continuous` gave, `[.., D]`."""

    @abstractmethod
    def decode(self, ids: Tensor) -> Tensor:
        """Codes `[.., D]` float32 of ids `[.., Q]`."""

    @abstractmethod
    def start(self, z: Tensor, rng: torch.Generator) -> None:
        """Begin the codebooks with k-means on latents `[N, D]`, this process's part of all.

        `rng` as in `forward`. Best with several times as many latents as there are codes; codes
        beyond the number of latents get theirs in the first steps of training.

        Raises
        ------
        ValueError
            If no process has a latent.
        """

    @abstractmethod
    def _move(self, latent_ND: Tensor, ids_NQ: Tensor, rng: torch.Generator) -> None:
        """Let the codes follow what `continuous` made of the visible latents."""


class ProductQuantiser(Quantiser):
    """Cosine codebooks for equal parts of the latent; with one part, the paper's codebook."""

    def __init__(self, config: EmaConfig | ProductConfig) -> None:
        super().__init__(config.carry)
        self.part_dim = config.code_dim // config.n_quantisers
        self.books = _books(config, self.part_dim, spherical=True)

    def continuous(self, z: Tensor) -> Tensor:
        parts = z.float().reshape(*z.shape[:-1], len(self.books), self.part_dim)
        return F.normalize(parts, dim=-1, eps=SHORTEST).flatten(-2)

    @torch.no_grad()
    def nearest(self, latent: Tensor) -> Tensor:
        parts = torch.split(latent, self.part_dim, -1)
        pairs = zip(self.books, parts, strict=True)
        return torch.stack([book.nearest(part) for book, part in pairs], -1)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        pairs = zip(self.books, ids.unbind(-1), strict=True)
        return torch.cat([book.codes[i] for book, i in pairs], -1)

    @torch.no_grad()
    def start(self, z: Tensor, rng: torch.Generator) -> None:
        parts = torch.split(self.continuous(z), self.part_dim, -1)
        for book, part in zip(self.books, parts, strict=True):
            book.start(part, rng)
        self.is_started.fill_(True)

    def _move(self, latent_ND: Tensor, ids_NQ: Tensor, rng: torch.Generator) -> None:
        parts = torch.split(latent_ND, self.part_dim, -1)
        for book, part, ids in zip(self.books, parts, ids_NQ.unbind(-1), strict=True):
            book.update(part, ids, rng)


class ResidualQuantiser(Quantiser):
    """Euclidean codebooks in a row, the code their sum (SoundStream, Zeghidour et al. 2021)."""

    def __init__(self, config: EmaConfig | ResidualConfig) -> None:
        super().__init__(config.carry)
        self.books = _books(config, config.code_dim, spherical=False)

    def continuous(self, z: Tensor) -> Tensor:
        return z.float()

    @torch.no_grad()
    def nearest(self, latent: Tensor) -> Tensor:
        left, ids = latent, []
        for book in self.books:
            ids.append(book.nearest(left))
            left = left - book.codes[ids[-1]]
        return torch.stack(ids, -1)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        pairs = zip(self.books, ids.unbind(-1), strict=True)
        return torch.stack([book.codes[i] for book, i in pairs]).sum(0)

    @torch.no_grad()
    def start(self, z: Tensor, rng: torch.Generator) -> None:
        left = self.continuous(z)
        for book in self.books:
            book.start(left, rng)
            left = left - book.codes[book.nearest(left)]
        self.is_started.fill_(True)

    def _move(self, latent_ND: Tensor, ids_NQ: Tensor, rng: torch.Generator) -> None:
        left = latent_ND
        for book, ids in zip(self.books, ids_NQ.unbind(-1), strict=True):
            codes = book.codes[ids]  # as they were when the ids were chosen
            book.update(left, ids, rng)
            left = left - codes


class FsqQuantiser(Quantiser):
    """Finite scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505): a fixed grid."""

    levels: Tensor
    place: Tensor

    def __init__(self, config: FsqConfig) -> None:
        super().__init__(config.carry)
        levels = torch.tensor(config.levels)
        self.register_buffer("levels", levels, persistent=False)
        # Value of one step of each dimension in the id, the first dimension least.
        self.register_buffer("place", levels.cumprod(0) // levels, persistent=False)
        self.is_started.fill_(True)

    def forward(self, z: Tensor, visible: Tensor, rng: torch.Generator) -> Quantised:
        quantised = super().forward(z, visible, rng)
        return quantised._replace(commitment=torch.zeros_like(quantised.commitment))

    def continuous(self, z: Tensor) -> Tensor:
        # A thousandth wider than the outermost levels, so that tanh can reach them.
        half_range = (self.levels - 1) * 1.001 / 2
        # An even number of levels has none in the middle: half a step aside, and back before
        # tanh, so that zero stays zero.
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(z.float() + torch.atanh(offset / half_range)) * half_range - offset
        return bounded / (self.levels // 2)

    @torch.no_grad()
    def nearest(self, latent: Tensor) -> Tensor:
        half = self.levels // 2
        digits = (latent * half).round().long() + half
        # What is carried can go beyond the outermost level.
        digits = digits.clamp(min=torch.zeros_like(self.levels), max=self.levels - 1)
        return (digits * self.place).sum(-1, keepdim=True)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        half = self.levels // 2
        return (ids // self.place % self.levels - half) / half

    def start(self, z: Tensor, rng: torch.Generator) -> None:
        """Nothing to begin."""

    def _move(self, latent_ND: Tensor, ids_NQ: Tensor, rng: torch.Generator) -> None:
        """Nothing to move."""


def make_quantiser(config: QuantiserConfig) -> Quantiser:
    """The quantiser that a configuration describes."""
    match config:
        case FsqConfig():
            return FsqQuantiser(config)
        case ResidualConfig() | EmaConfig(metric="euclidean"):
            return ResidualQuantiser(config)
        case _:
            return ProductQuantiser(config)


def _books(
    config: EmaConfig | ResidualConfig | ProductConfig, dim: int, *, spherical: bool
) -> list[Codebook]:
    # A ModuleList cannot tell a type checker what it holds.
    return nn.ModuleList(  # type: ignore[return-value]
        Codebook(
            config.n_codes, dim, decay=config.decay, restart_below=config.restart_below,
            spherical=spherical,
        )
        for _ in range(config.n_quantisers)
    )  # fmt: skip
