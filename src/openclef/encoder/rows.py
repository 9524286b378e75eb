"""Rows of the token grid: a frequency row of one region, over time.

Axis letters: B batch, K kept token, D width or any number of features, R row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_means(
    features_BKD: Tensor, kept_BK: Tensor, kept_hidden: Tensor, *, n_rows: int, n_columns: int
) -> tuple[Tensor, Tensor]:
    """Means `[B, R, D]` over the visible tokens of each row, and which rows have none `[B, R]`;
    theirs are 0.

    kept: places of the tokens in the window. kept_hidden: True where one is not visible.
    """
    weight = (~kept_hidden).to(features_BKD.dtype)
    row = torch.nn.functional.one_hot(kept_BK // n_columns, n_rows).to(weight.dtype)
    shares = row * weight[..., None]
    total = torch.einsum("bkd,bkr->brd", features_BKD, shares)
    n_visible = shares.sum(1)
    return total / n_visible.clamp(min=1)[..., None], n_visible == 0


def of_own_row(means_BRD: Tensor, kept_BK: Tensor, *, n_columns: int) -> Tensor:
    """Of each token what its row has: `[B, K, D]`."""
    row = (kept_BK // n_columns)[..., None].expand(-1, -1, means_BRD.shape[-1])
    return means_BRD.gather(1, row)
