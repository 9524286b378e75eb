"""The four-way split by patient: train, probe, tuning, held_out (design.md, Splits)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from openclef.errors import OpenclefError
from openclef.types import SPLITS


class SplitConfig(BaseModel):
    """Shares of the patients in each split; the paper's are unknown [U]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: float = 0.5
    probe: float = 0.2
    tuning: float = 0.1
    held_out: float = 0.2
    seed: int = 0

    @model_validator(mode="after")
    def _shares_add_up(self) -> SplitConfig:
        shares = [self.train, self.probe, self.tuning, self.held_out]
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares of the splits must be positive and add to 1, got {shares}")
        return self


def assign_splits(subject_ids: Iterable[int], config: SplitConfig) -> dict[int, str]:
    """Give each patient a split, at least one patient to each.

    Depends on the set of patients and the seed only, not on their order or their sessions.
    Raises OpenclefError with fewer patients than splits.
    """
    subjects = sorted(set(subject_ids))
    if len(subjects) < len(SPLITS):
        raise OpenclefError(
            f"{len(subjects)} patients cannot be split into {', '.join(SPLITS)}: "
            f"at least {len(SPLITS)} patients are needed"
        )
    order = np.random.default_rng(config.seed).permutation(len(subjects))
    shares = np.array([config.train, config.probe, config.tuning, config.held_out])
    counts = np.maximum(1, np.floor(shares * len(subjects)).astype(int))
    while counts.sum() < len(subjects):
        counts[np.argmax(shares * len(subjects) - counts)] += 1
    while counts.sum() > len(subjects):
        counts[np.argmax(counts)] -= 1
    names = np.repeat(SPLITS, counts)
    return {subjects[index]: str(name) for index, name in zip(order, names, strict=True)}
