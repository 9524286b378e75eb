"""From tokens of a window to one vector: encode everything visible, then pool.

Axis letters: B batch, L token, K kept token, N what is pooled, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from openclef.encoder.attention_pool import Over, WindowPooling
from openclef.encoder.masking import keep, subsample
from openclef.encoder.rows import of_own_row, row_means
from openclef.encoder.transformer import MaskedTransformer
from openclef.errors import OpenclefError, choose

Pooling = Literal["mean", "rows", "moments", "class"]


def pool(
    features_BKD: Tensor,
    kept_BK: Tensor,
    kept_hidden: Tensor,
    *,
    n_rows: int,
    n_columns: int,
    how: Literal["mean", "rows", "moments"],
) -> Tensor:
    """Average token features `[B, K, D]` over what is visible.

    "mean": over all tokens, `[B, D]` (the paper's [C]). "rows": over time, a frequency row of a
    region at a time, `[B, n_rows * D]`, which a small model needs
    (docs/decisions/0003-pooling.md). "moments": of each row the mean and then, of all rows, the
    standard deviation over time, `[B, 2 * n_rows * D]`: what a session varies in. A row without a
    visible token gives zeros, a window without one NaN (`nan_if_unseen`).
    """
    weight = (~kept_hidden).to(features_BKD.dtype)
    if how == "mean":
        total = torch.einsum("bkd,bk->bd", features_BKD, weight)
        return nan_if_unseen(total / weight.sum(1, keepdim=True).clamp(min=1), kept_hidden)
    means, _ = row_means(features_BKD, kept_BK, kept_hidden, n_rows=n_rows, n_columns=n_columns)
    if how == "rows":
        return nan_if_unseen(means.flatten(1), kept_hidden)
    centred = features_BKD - of_own_row(means, kept_BK, n_columns=n_columns)
    squares, _ = row_means(
        centred.square(), kept_BK, kept_hidden, n_rows=n_rows, n_columns=n_columns
    )
    # Where nothing varies the root has no slope: 0 there, and so is its gradient.
    varies = squares > 0
    deviations = torch.where(varies, squares, 1.0).sqrt() * varies
    return nan_if_unseen(torch.cat([means, deviations], 1).flatten(1), kept_hidden)


def nan_if_unseen(pooled_BD: Tensor, hidden_BN: Tensor) -> Tensor:
    """NaN for windows of which nothing is visible: they have no vector, and zeros would be one.

    Training must put something else in their place, or their NaN becomes everybody's.
    """
    return pooled_BD.masked_fill(hidden_BN.all(1, keepdim=True), torch.nan)


def encode_and_pool(
    model: MaskedTransformer,
    ids_BL: Tensor,
    hidden_BL: Tensor,
    *,
    how: Pooling,
    layer: int = -1,
    n_keep: int | None = None,
    rng: torch.Generator | None = None,
    companions: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Pooled float32 features of a batch of windows; `n_keep` random tokens of each, or all.

    ids `[B, L]` codes, hidden `[B, L]` True where not visible. how: as `pool`, or "class", the
    class token's output. layer: see `MaskedTransformer.encode`. companions: what else the encoder
    reads of a batch, if it does. Returns `[B, D]`, of "rows" `[B, rows * D]`, of
    "moments" twice that; NaN of a window without a visible token.
    """
    if n_keep is None:
        kept, kept_hidden = keep(hidden_BL)
    else:
        if rng is None:
            raise TypeError("n_keep needs rng")
        kept, kept_hidden = subsample(hidden_BL, n_keep, rng)
    batch = {**(companions or {}), "ids": ids_BL, "hidden": hidden_BL}
    encoded = model.encode(batch, kept, kept_hidden, layer=layer).float()
    return pool_encoded(encoded, kept, kept_hidden, grid=model.config.grid, how=how)


def pool_encoded(
    encoded_BND: Tensor,
    kept_BN: Tensor,
    kept_hidden_BN: Tensor,
    *,
    grid: tuple[int, int, int],
    how: Pooling,
) -> Tensor:
    """What `MaskedTransformer.encode` gives, the class token first, pooled over the kept tokens.

    encoded `[B, 1 + N, D]`; kept, kept_hidden `[B, N]`: places in the window, True where one is not
    visible. grid: regions, rows, columns. Returns `[B, D]`, of "rows" `[B, rows * D]`, of
    "moments" twice that; NaN of a window without a visible token.
    """
    get_pooling(how)  # "attention" is a trained pool's, not this
    if how == "class":
        return nan_if_unseen(encoded_BND[:, 0], kept_hidden_BN)
    n_regions, n_rows, n_columns = grid
    return pool(
        encoded_BND[:, 1:], kept_BN, kept_hidden_BN,
        n_rows=n_regions * n_rows, n_columns=n_columns, how=how,
    )  # fmt: skip


def encode_items(
    model: MaskedTransformer,
    batch: Mapping[str, Tensor],
    *,
    over: Over,
    layer: int,
) -> tuple[Tensor, Tensor]:
    """What attention pools of each window: `[B, N, D]` float32, and what of it is hidden `[B, N]`.

    batch: as `EncoderWindows` makes it. over: "tokens", but for the class token, or "rows".
    """
    if over == "windows":
        raise ValueError("windows are pooled of a session; of a window, tokens or rows")
    kept, kept_hidden = keep(batch["hidden"])
    encoded = model.encode(batch, kept, kept_hidden, layer=layer).float()[:, 1:]
    if over == "tokens":
        return encoded, kept_hidden
    n_regions, n_rows, n_columns = model.config.grid
    return row_means(encoded, kept, kept_hidden, n_rows=n_regions * n_rows, n_columns=n_columns)


def pooled_width(model: MaskedTransformer, pooling: WindowPooling) -> int:
    """Numbers of a window's vector."""
    n_regions, n_rows, _ = model.config.grid
    return model.config.width * n_vectors(pooling, n_regions * n_rows)


def n_vectors(pooling: WindowPooling, n_rows: int) -> int:
    """How many vectors as wide as the encoder a pooled one is made of."""
    return {"rows": n_rows, "moments": 2 * n_rows}.get(pooling, 1)


def get_pooling(name: str) -> Pooling:
    """A pooling that has seen no labels; raises OpenclefError naming the nearest one."""
    poolings: dict[str, Pooling] = {each: each for each in get_args(Pooling)}
    return poolings[choose(name, poolings, "pooling")]


def check_layer(model: MaskedTransformer, layer: int) -> None:
    """Raise OpenclefError unless the encoder has that layer."""
    n_layers = model.config.n_encoder_layers
    if not -1 <= layer < n_layers:
        raise OpenclefError(
            f"layer {layer}: the encoder has 0 to {n_layers - 1}, and -1, the last one normed; "
            f"nearest {min(max(layer, -1), n_layers - 1)}"
        )
