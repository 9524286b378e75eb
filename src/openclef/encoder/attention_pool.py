"""Attention pooling of a set of vectors: the one pooling that has seen labels.

Axis letters: B sets, N items of a set, D width, A width of the attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from openclef import artefact
from openclef.artefact import Artefact
from openclef.errors import ArtefactError, OpenclefError
from openclef.training import checkpoint

Over = Literal["tokens", "rows", "windows"]
WindowPooling = Literal["mean", "rows", "moments", "class", "attention"]
OVER: tuple[Over, ...] = get_args(Over)
POOLINGS: tuple[WindowPooling, ...] = get_args(WindowPooling)
WEIGHTS = "pool.safetensors"
_LEAST_SPREAD = 1e-3  # of the widest direction's; narrower ones are not blown up further


class PoolConfig(BaseModel):
    """What is pooled, and how wide the attention is.

    over: "tokens" of a window, the visible ones; "rows", their means over time, a frequency row of
    a region each; "windows" of a session. pooling: what made the vectors of windows, for "windows"
    only. layer: of the encoder, see `MaskedTransformer.encode`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    over: Over = "tokens"
    pooling: WindowPooling | None = None
    layer: int = Field(-1, ge=-1)
    attention_width: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _pooling_is_of_windows(self) -> PoolConfig:
        if (self.pooling is None) == (self.over == "windows"):
            raise ValueError(
                f"over {self.over!r} with pooling {self.pooling!r}: vectors of windows need one, "
                "tokens and rows have none"
            )
        return self


class AttentionPool(nn.Module):
    """Gated attention: `[B, N, D]` -> `[B, D]`, whatever N and the order of the items.

    A weighted mean, the weights softmax of w (tanh(V x) * sigmoid(U x)) over what is visible (Ilse
    et al. 2018, eq. 9); 2 D A parameters, and 3 A. With w = 0, where it starts, it is the mean.
    The scores read each direction of x in units of its spread over train patients (`fit_scale`);
    what comes out is in the units of x.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, dim: int, attention_width: int) -> None:
        super().__init__()
        self.value = nn.Linear(dim, attention_width)
        self.gate = nn.Linear(dim, attention_width)
        self.score = nn.Linear(attention_width, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def fit_scale(self, sets: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take mean and spread of each direction from visible items; each of `sets` is x, hidden.

        Nothing visible leaves them as they are.
        """
        n, total, squares = 0, torch.zeros(()), torch.zeros(())
        for x_BND, hidden_BN in sets:
            seen_MD = x_BND[~hidden_BN].cpu().double()
            n += len(seen_MD)
            total, squares = total + seen_MD.sum(0), squares + seen_MD.square().sum(0)
        if n:
            mean = total / n
            spread = (squares / n - mean.square()).clamp(min=0).sqrt()
            self.centre.copy_(mean)
            self.scale.copy_(spread.clamp(min=max(_LEAST_SPREAD * float(spread.max()), 1e-12)))

    def standardise(self, x: Tensor) -> Tensor:
        """Each direction of `[.., D]` in units of its spread, from its mean."""
        return (x - self.centre) / self.scale

    def weights(self, x_BND: Tensor, hidden_BN: Tensor) -> Tensor:
        """Share of each item, `[B, N]`: they sum to 1, of a set all hidden to 0."""
        z = self.standardise(x_BND)
        scores = self.score(torch.tanh(self.value(z)) * torch.sigmoid(self.gate(z)))
        # Not -inf: a set without anything visible would give NaN, in the gradient too.
        scores_BN = scores[..., 0].float().masked_fill(hidden_BN, torch.finfo(torch.float32).min)
        return scores_BN.softmax(1).masked_fill(hidden_BN, 0)

    def forward(self, x_BND: Tensor, hidden_BN: Tensor) -> Tensor:
        """Weighted means, `[B, D]`; a set all hidden gives zeros.

        What hidden items hold does not matter, NaN neither.
        """
        x_BND = x_BND.masked_fill(hidden_BN[..., None], 0)
        return torch.einsum("bnd,bn->bd", x_BND, self.weights(x_BND, hidden_BN))


@dataclass(frozen=True, eq=False)
class TrainedPool:
    """A complete `pool/`, ready for use."""

    artefact: Artefact
    config: PoolConfig
    attention: AttentionPool

    @property
    def tasks(self) -> list[str]:
        """Whose labels it has seen, of train patients; of tuning patients, to end its training."""
        return list(self.artefact.config["tasks"])


def load_pool(folder: Path) -> TrainedPool:
    """Load what `train_pool.train_attention_pool` wrote; every tensor must match."""
    stage = artefact.load(folder, kind="pool")
    config = artefact.read_config(stage, PoolConfig, "model")
    weights, _ = checkpoint.load_tensors(folder / WEIGHTS)
    attention = AttentionPool(stage.config["dim"], config.attention_width)
    checkpoint.load_weights(attention, weights, source=str(folder / WEIGHTS))
    return TrainedPool(stage, config, attention.eval())


def check_pool(
    pool: TrainedPool | None, *, encoder: Artefact, pooling: WindowPooling | None, layer: int
) -> None:
    """Raise ArtefactError or OpenclefError unless the pool is what this pooling reads."""
    if pool is None:
        if pooling == "attention":
            raise OpenclefError("pooling 'attention': give the folder of a trained pool (--pool)")
        return
    folder, trained = pool.artefact.folder, pool.config
    if pooling != "attention":
        raise OpenclefError(f"{folder}: a pool, which only pooling 'attention' reads")
    if trained.over == "windows":
        raise OpenclefError(
            f"{folder}: pools the windows of a session, not a window: give it as --aggregator"
        )
    _check_trained_on(pool, encoder=encoder, layer=layer)


def check_aggregator(
    aggregator: TrainedPool,
    *,
    encoder: Artefact,
    pool: TrainedPool | None,
    pooling: WindowPooling,
    layer: int,
) -> None:
    """Raise ArtefactError or OpenclefError unless it was trained on such vectors of windows."""
    folder, trained = aggregator.artefact.folder, aggregator.config
    if trained.over != "windows":
        raise OpenclefError(
            f"{folder}: pools {trained.over} of a window, not the windows of a session: give it "
            "as --pool"
        )
    if trained.pooling != pooling:
        raise OpenclefError(
            f"pooling {pooling!r}: {folder} was trained on windows of {trained.pooling!r}"
        )
    _check_trained_on(aggregator, encoder=encoder, layer=layer)
    if pool is not None and aggregator.artefact.inputs["pool"] != pool.artefact.hash:
        raise ArtefactError(f"{folder}: trained on windows of another pool")


def _check_trained_on(pool: TrainedPool, *, encoder: Artefact, layer: int) -> None:
    if pool.artefact.inputs["encoder"] != encoder.hash:
        raise ArtefactError(f"{pool.artefact.folder}: trained on another encoder")
    if pool.config.layer != layer:
        raise OpenclefError(
            f"layer {layer}: {pool.artefact.folder} was trained on layer {pool.config.layer}"
        )
