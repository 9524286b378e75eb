"""The EHR tower: a set of codes and demographics, one learned embedding each, no positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from openclef.alignment.text import SetTransformer
from openclef.clinical import ATC, ICD10CM, load_codes, meds_code, nearest_code, split_code

MAX_DECADE = 9
SEXES = ("F", "M", "unknown")
RACES = ("ASIAN", "BLACK", "NATIVE_AMERICAN", "OTHER", "PACIFIC_ISLANDER", "WHITE", "UNKNOWN")


class EhrTowerConfig(BaseModel):
    """Paper's sizes [C]: 4 layers, 8 heads, width 512, at most 30 diagnoses and 50 medications."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 512
    n_heads: int = 8
    n_layers: int = Field(4, ge=1)
    dropout: float = 0.1
    max_diagnoses: int = Field(30, ge=0)
    max_medications: int = Field(50, ge=0)


def vocabulary() -> list[str]:
    """Every token the tower knows; index 0 is padding."""
    decades = [f"AGE//{decade}" for decade in (*range(MAX_DECADE + 1), "unknown")]
    return [
        "PAD",
        *decades,
        *(f"SEX//{sex}" for sex in SEXES),
        *(f"RACE//{race}" for race in RACES),
        *(meds_code(code, system=ICD10CM) for code in load_codes(ICD10CM)),
        *(meds_code(code, system=ATC) for code in load_codes(ATC)),
    ]


class RecordTokenizer:
    """Turns a patient's demographics and codes into indices of the vocabulary."""

    def __init__(self, config: EhrTowerConfig) -> None:
        self._config = config
        self._index = {token: index for index, token in enumerate(vocabulary())}
        self._known = {system: frozenset(load_codes(system)) for system in (ICD10CM, ATC)}

    def __call__(self, person: Mapping[str, Any], events: Iterable[str]) -> list[int]:
        """Indices of one patient: age decade, sex, race, then diagnoses and medications.

        person has `age` (years or None), `sex` and `race`. events are MEDS codes; one outside
        the vocabulary counts as its nearest ancestor there, or not at all.
        """
        age = person.get("age")
        decade = "unknown" if age is None else str(min(MAX_DECADE, max(0, int(age) // 10)))
        sex = person.get("sex") if person.get("sex") in SEXES else "unknown"
        race = person.get("race") if person.get("race") in RACES else "UNKNOWN"
        tokens = [f"AGE//{decade}", f"SEX//{sex}", f"RACE//{race}"]
        bare = {split_code(event) for event in events}
        tokens += self._nearest(bare, ICD10CM)[: self._config.max_diagnoses]
        tokens += self._nearest(bare, ATC)[: self._config.max_medications]
        return [self._index[token] for token in tokens]

    def _nearest(self, events: set[tuple[str, str]], system: str) -> list[str]:
        codes = {nearest_code(c, self._known[system]) for s, c in events if s == system}
        return sorted(meds_code(code, system=system) for code in codes if code is not None)


class EhrTower(nn.Module):
    """Code embeddings -> Transformer over the set -> mean over the codes."""

    def __init__(self, config: EhrTowerConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(vocabulary()), config.width, padding_idx=0)
        self.body = SetTransformer(config.width, config.n_heads, config.n_layers, config.dropout)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Indices `[B, L]`, 0 = padding -> `[B, width]`."""
        mean: Tensor = self.body(self.embedding(tokens_BL), tokens_BL == 0)
        return mean


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Stack index lists to `[B, L]` int64, padded with 0."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.int64)
