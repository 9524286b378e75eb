"""Stage: encoder + reports + records -> `aligned/`. Only train patients are ever read here,
and tuning patients to choose when to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from openclef import artefact
from openclef.alignment import ehr
from openclef.alignment.contrastive import AlignmentConfig, AlignmentObjective
from openclef.alignment.text import FrozenTextEncoder
from openclef.artefact import Artefact
from openclef.cohort.store import Cohort
from openclef.encoder.load import encoder_config, load_encoder
from openclef.encoder.train import WEIGHTS
from openclef.errors import OpenclefError
from openclef.tokenizer.token_table import TokenTable
from openclef.training import checkpoint
from openclef.training.loop import Batch, TrainConfig, fit

TOWERS = "towers.safetensors"


class AlignmentStage(BaseModel):
    """Everything that decides an alignment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: AlignmentConfig = AlignmentConfig()
    train: TrainConfig
    n_validation: int = Field(64, gt=1)


class ClinicalPairs:
    """Windows of one split beside the reports and records of their sessions."""

    def __init__(
        self,
        cohort: Cohort,
        tokens: TokenTable,
        split: str,
        *,
        config: AlignmentConfig,
        encode_text: FrozenTextEncoder,
    ) -> None:
        if split not in ("train", "tuning"):
            raise ValueError(f"alignment must not see {split!r} patients; train and tuning only")
        self._tokens = tokens
        sessions = cohort.sessions.filter(pl.col("split") == split)
        rows = {row["session_id"]: row for row in sessions.iter_rows(named=True)}
        reports = cohort.table("reports").filter(pl.col("session_id").is_in(list(rows)))
        features = encode_text(reports["text"].to_list())
        self._text = dict(zip(reports["session_id"].to_list(), features, strict=True))
        self._text_width = encode_text.width
        codes = {r["subject_id"]: r["codes"] for r in cohort.table("codes").iter_rows(named=True)}
        tokenizer = ehr.RecordTokenizer(config.ehr)
        self._codes = {
            name: tokenizer(row, codes[row["subject_id"]])
            for name, row in rows.items()
            if row["subject_id"] in codes
        }
        self._subject: dict[str, int] = {name: row["subject_id"] for name, row in rows.items()}
        known = self._text.keys() | self._codes.keys()
        of_split = tokens.rows(split)
        has_either = tokens.session_id.gather(of_split).is_in(list(known)).to_numpy()
        self.rows: NDArray[np.int64] = of_split[has_either]

    def n_patients(self, rows: NDArray[np.int64]) -> int:
        """Patients of these token rows; with fewer than two a contrastive loss is 0, not good."""
        return len({self._subject[name] for name in self._tokens.session_id.gather(rows)})

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Batch of `AlignmentObjective` from token rows."""
        names = self._tokens.session_id.gather(rows).to_list()
        text, text_hidden = self._pad_text([self._text.get(name) for name in names])
        return {
            **self._tokens.batch(rows),
            "text": text,
            "text_hidden": text_hidden,
            "has_text": torch.tensor([name in self._text for name in names]),
            "codes": ehr.pad([self._codes.get(name, [0]) for name in names]),
            "has_codes": torch.tensor([name in self._codes for name in names]),
            "subject": torch.tensor([self._subject[name] for name in names]),
        }

    def _pad_text(
        self, features: Sequence[NDArray[Any] | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = [0 if f is None else len(f) for f in features]
        text = torch.zeros(len(features), max(1, *lengths), self._text_width)
        hidden = torch.ones(text.shape[:2], dtype=torch.bool)
        for i, (feature, length) in enumerate(zip(features, lengths, strict=True)):
            if feature is not None:
                text[i, :length] = torch.from_numpy(feature).float()
                hidden[i, :length] = False
        return text, hidden


def has_clinical_data(cohort: Cohort) -> bool:
    """Whether two train patients at least have reports, or records: one has nothing to contrast."""
    train = cohort.sessions.filter(pl.col("split") == "train")
    reports = train.join(cohort.table("reports"), on="session_id", how="semi")
    codes = train.join(cohort.table("codes"), on="subject_id", how="semi")
    return max(table["subject_id"].n_unique() for table in (reports, codes)) > 1


def align(
    cohort: Cohort, tokens: TokenTable, encoder_folder: Path, out: Path, *, config: AlignmentStage
) -> Artefact:
    """Align, keep the weights that are best on tuning patients, and write `out`.

    Raises OpenclefError if fewer than two train patients have reports or records.
    """
    if not has_clinical_data(cohort):
        raise OpenclefError(
            f"{cohort.folder}: fewer than two train patients have reports or records to align with"
        )
    shape = encoder_config(encoder_folder)
    if shape.companions:
        raise OpenclefError(
            f"{encoder_folder}: reads {', '.join(sorted(shape.companions))} beside the codes; "
            "alignment gives codes only, choose an encoder that reads these alone"
        )
    stage = artefact.begin(
        out,
        kind="aligned",
        config={
            **config.model_dump(mode="json"),
            "encoder": shape.model_dump(mode="json"),
        },
        inputs={
            **tokens.artefact.inputs,
            "tokens": tokens.artefact.hash,
            "encoder": artefact.load(encoder_folder, kind="encoder").hash,
        },
    )
    if stage.is_complete:
        return stage
    encode_text = FrozenTextEncoder(config.model.text)
    train, tuning = (
        ClinicalPairs(cohort, tokens, split, config=config.model, encode_text=encode_text)
        for split in ("train", "tuning")
    )
    torch.manual_seed(config.train.seed)
    objective = AlignmentObjective(shape, config.model, text_features_width=encode_text.width)
    objective.encoder.load_state_dict(load_encoder(encoder_folder).state_dict())

    rows = tuning.rows[: config.n_validation]

    def load_batch(indices: np.ndarray, _: Sequence[np.random.Generator]) -> Batch:
        return train.batch(train.rows[indices])

    weights = fit(
        objective,
        n_items=len(train.rows),
        load_batch=load_batch,
        validation=[tuning.batch(rows)] if tuning.n_patients(rows) > 1 else [],
        config=config.train,
        artefact=stage,
        label="aligning",
    )
    encoder = checkpoint.take_prefix(weights, "encoder")
    towers = {name: value for name, value in weights.items() if not name.startswith("encoder.")}
    checkpoint.publish(stage, {WEIGHTS: encoder, TOWERS: towers})
    return stage
