"""Batches of windows as the encoder reads them: tokens, and what its configuration adds to them.

Everything large stays in memory maps. Axis letters: B batch, L token, P width of a companion.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.training.batches import Batch, LazyBatches
from openclef.types import CHANNELS, BoolArray, FloatArray

_OF_COHORT = {"channel_mask", "hour"}


class EncoderWindows:
    """Rows of a `TokenTable` with what goes with them.

    Parameters
    ----------
    tokens : TokenTable
        Of the windows.
    companions : collection of str
        What a batch has besides `ids` and `hidden`: of "latents", "patches", "channel_mask" and
        "hour" (of the day at the window's start, NaN where unknown).
    cohort : Cohort, optional
        For "channel_mask" and "hour".
    features : FeatureTable, optional
        For "latents" and "patches".

    Raises
    ------
    OpenclefError
        If something is asked for whose source is not given.
    """

    def __init__(
        self,
        tokens: TokenTable,
        companions: Collection[str],
        *,
        cohort: Cohort | None = None,
        features: FeatureTable | None = None,
    ) -> None:
        self.tokens = tokens
        of_features = sorted(set(companions) - _OF_COHORT)
        if of_features and features is None:
            raise OpenclefError(
                f"this encoder reads {' and '.join(of_features)}: give the features of these "
                "tokens (train features, --features)"
            )
        if features is not None and of_features:
            features.check(tokens)
        self._features = {name: getattr(features, name) for name in of_features}
        self._of_window: dict[str, FloatArray | BoolArray] = {}
        if _OF_COHORT & set(companions):
            if cohort is None:
                raise OpenclefError(
                    "this encoder reads masks of channels or the clock: give the cohort"
                )
            if cohort.hash != tokens.artefact.inputs["cohort"]:
                raise OpenclefError(f"{cohort.folder}: another cohort than that of the tokens")
            self._of_window = {
                name: values for name, values in _of_cohort(cohort, tokens).items()
                if name in companions
            }  # fmt: skip

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """`ids [B, L]` int64 and `hidden [B, L]`; of the companions `latents` and `patches`
        `[B, L, P]` float32, `channel_mask [B, 19]` and `hour [B]`.
        """
        features = {
            name: values[rows].astype(np.float32) for name, values in self._features.items()
        }
        of_window = {name: values[rows] for name, values in self._of_window.items()}
        return {
            **self.tokens.batch(rows),
            **{name: torch.from_numpy(values) for name, values in (features | of_window).items()},
        }

    def batches(self, rows: NDArray[np.int64], size: int) -> Sequence[Batch]:
        """Batches of at most `size` of these rows, each made when it is asked for."""
        return LazyBatches(rows, size, self.batch)


def hour_of_day(start_time: datetime | None, start_s: float) -> float:
    """Hours since midnight, `start_s` after `start_time`; NaN if that is unknown."""
    if start_time is None:
        return float("nan")
    at = start_time + timedelta(seconds=start_s)
    return at.hour + at.minute / 60 + at.second / 3600


def _of_cohort(cohort: Cohort, tokens: TokenTable) -> dict[str, FloatArray | BoolArray]:
    """`channel_mask [N, 19]` and `hour [N]` of the windows of `tokens`."""
    wanted = pl.DataFrame({"session_id": tokens.session_id, "window": tokens.window})
    found = wanted.join(
        cohort.windows.select("session_id", "window", "start_s", "channel_mask"),
        on=["session_id", "window"], how="left", maintain_order="left",
    ).join(
        cohort.sessions.select("session_id", "start_time"),
        on="session_id", how="left", maintain_order="left",
    )  # fmt: skip
    hour = [
        hour_of_day(start_time, start_s)
        for start_time, start_s in found.select("start_time", "start_s").iter_rows()
    ]
    mask = found["channel_mask"].explode().to_numpy().reshape(-1, len(CHANNELS))
    return {"channel_mask": mask.astype(np.bool_), "hour": np.array(hour, np.float32)}
