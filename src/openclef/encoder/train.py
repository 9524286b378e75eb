"""Stage: tokens -> `encoder/`, by masked reconstruction on train patients only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from openclef import artefact
from openclef.artefact import Artefact
from openclef.encoder.objective import EncoderLossConfig, MaskedReconstruction
from openclef.encoder.transformer import EncoderConfig
from openclef.errors import ArtefactError
from openclef.tokenizer.token_table import TokenTable
from openclef.training import checkpoint
from openclef.training.loop import Batch, TrainConfig, fit

WEIGHTS = "encoder.safetensors"


class EncoderStage(BaseModel):
    """Everything that decides an encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: EncoderConfig = EncoderConfig()
    loss: EncoderLossConfig = EncoderLossConfig()
    train: TrainConfig
    n_validation: int = Field(64, gt=0)


def _code_counts(tokens: TokenTable, rows: np.ndarray, n_codes: int) -> torch.Tensor:
    """How often each code is visible in the given windows, `[n_codes]`."""
    counts = np.zeros(n_codes, np.int64)
    for part in np.array_split(rows, -(-len(rows) // 1024)):
        counts += np.bincount(tokens.ids[part][~tokens.hidden(part)], minlength=n_codes)
    return torch.from_numpy(counts)


def train_encoder(tokens: TokenTable, out: Path, *, config: EncoderStage) -> Artefact:
    """Train, keep the weights that are best on tuning patients, and write `out`."""
    if tokens.ids.ndim > 2:
        raise ArtefactError(
            f"tokens of {tokens.ids.shape[2]} codes each; the encoder reads one code a token"
        )
    if tokens.grid != config.model.grid or tokens.n_codes != config.model.n_codes:
        raise ArtefactError(
            f"tokens lie on a grid of {tokens.grid} with {tokens.n_codes} codes; the encoder "
            f"expects {config.model.grid} with {config.model.n_codes}"
        )
    stage = artefact.begin(
        out,
        kind="encoder",
        config=config.model_dump(mode="json"),
        inputs={"tokens": tokens.artefact.hash, **tokens.artefact.inputs},
    )
    if stage.is_complete:
        return stage
    torch.manual_seed(config.train.seed)
    objective = MaskedReconstruction(config.model, config.loss)
    train_rows = tokens.rows("train")
    objective.model.start_from_frequencies(_code_counts(tokens, train_rows, config.model.n_codes))
    tuning_rows = tokens.rows("tuning")[: config.n_validation]

    def load_batch(indices: np.ndarray, _: Sequence[np.random.Generator]) -> Batch:
        return tokens.batch(train_rows[indices])

    size = config.train.batch_size
    weights = fit(
        objective,
        n_items=len(train_rows),
        load_batch=load_batch,
        validation=[
            tokens.batch(tuning_rows[start : start + size])
            for start in range(0, len(tuning_rows), size)
        ],
        config=config.train,
        artefact=stage,
        label="training the encoder",
    )
    checkpoint.publish(stage, {WEIGHTS: checkpoint.take_prefix(weights, "model")})
    return stage
