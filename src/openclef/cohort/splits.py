"""The four-way split by patient: train, probe, tuning, held_out (design.md, Splits)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from openclef.cohort.layouts.source import OfficialSplit
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

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """In the order of `SPLITS`."""
        return self.train, self.probe, self.tuning, self.held_out

    @model_validator(mode="after")
    def _shares_add_up(self) -> SplitConfig:
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(
                f"shares of the splits must be positive and add to 1, got {list(self.shares)}"
            )
        return self


def official_parts(told: Iterable[tuple[int, OfficialSplit | None]]) -> dict[int, OfficialSplit]:
    """Part of the data set's own split that each patient is in, from what each session tells.

    A patient with sessions in both parts is in "eval": what was seen there must not be trained on.
    """
    parts: dict[int, OfficialSplit] = {}
    for subject, part in told:
        if part is not None and parts.get(subject) != "eval":
            parts[subject] = part
    return parts


def assign_splits(
    subject_ids: Iterable[int],
    config: SplitConfig,
    *,
    official: Mapping[int, OfficialSplit] | None = None,
) -> dict[int, str]:
    """Give each patient a split, at least one patient to each.

    Depends on the set of patients and the seed only, not on their order or their sessions. With
    an `official` split its "eval" patients, and no others, are held out; the rest is shared among
    the other splits in the configured proportions.

    Raises
    ------
    OpenclefError
        Fewer patients than splits to share them among, or no official "eval" patient.
    """
    subjects = sorted(set(subject_ids))
    if not official:
        return _share(subjects, dict(zip(SPLITS, config.shares, strict=True)), config.seed)
    held_out = [subject for subject in subjects if official.get(subject) == "eval"]
    if not held_out:
        raise OpenclefError(
            f"none of {len(subjects)} patients is in the official eval part, so none would be "
            "held out; ingest both parts"
        )
    rest = [subject for subject in subjects if official.get(subject) != "eval"]
    shares = dict(zip(SPLITS[:-1], config.shares[:-1], strict=True))
    return _share(rest, shares, config.seed) | dict.fromkeys(held_out, SPLITS[-1])


def _share(subjects: Sequence[int], shares: Mapping[str, float], seed: int) -> dict[int, str]:
    if len(subjects) < len(shares):
        raise OpenclefError(
            f"{len(subjects)} patients cannot be split into {', '.join(shares)}: "
            f"at least {len(shares)} patients are needed"
        )
    order = np.random.default_rng(seed).permutation(len(subjects))
    wanted = np.array(list(shares.values())) * len(subjects) / sum(shares.values())
    counts = np.maximum(1, np.floor(wanted).astype(int))
    while counts.sum() < len(subjects):
        counts[np.argmax(wanted - counts)] += 1
    while counts.sum() > len(subjects):
        counts[np.argmax(counts)] -= 1
    names = np.repeat(list(shares), counts)
    return {subjects[index]: str(name) for index, name in zip(order, names, strict=True)}
