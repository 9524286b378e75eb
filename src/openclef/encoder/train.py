"""Stage: tokens -> `encoder/`, by masked reconstruction on train patients only."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from openclef import artefact
from openclef.artefact import Artefact, atomic
from openclef.cohort.store import Cohort
from openclef.encoder.objective import EncoderLossConfig, MaskedReconstruction
from openclef.encoder.transformer import EncoderConfig
from openclef.encoder.windows import EncoderWindows
from openclef.errors import ArtefactError
from openclef.tokenizer.features import WHITENER, FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.training import checkpoint, distributed
from openclef.training.loop import Batch, TrainConfig, fit

WEIGHTS = "encoder.safetensors"


class EncoderStage(BaseModel):
    """Everything that decides an encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: EncoderConfig = EncoderConfig()
    loss: EncoderLossConfig = EncoderLossConfig()
    train: TrainConfig
    n_validation: int = Field(64, gt=0)

    @property
    def companions(self) -> frozenset[str]:
        """What a batch must hold besides tokens; "latents" and "patches" are of `features/`."""
        return self.model.companions | self.loss.regressions.keys()

    @property
    def needs_features(self) -> bool:
        return bool(self.companions & {"latents", "patches"})


def _code_counts(tokens: TokenTable, rows: np.ndarray, n_codes: int) -> torch.Tensor:
    """How often each code is visible in the given windows, `[n_codes]`."""
    counts = np.zeros(n_codes, np.int64)
    for part in np.array_split(rows, max(1, -(-len(rows) // 1024))):
        counts += np.bincount(tokens.ids[part][~tokens.hidden(part)], minlength=n_codes)
    return torch.from_numpy(counts)


def train_encoder(
    tokens: TokenTable,
    out: Path,
    *,
    config: EncoderStage,
    cohort: Cohort | None = None,
    features: FeatureTable | None = None,
) -> Artefact:
    """Train, keep the weights that are best on tuning patients, and write `out`.

    Parameters
    ----------
    tokens : TokenTable
        One code a token, on the grid of `config.model`.
    out : Path
        Gets `encoder.safetensors`; and `whitener.safetensors` if the encoder has continuous
        inputs.
    config : EncoderStage
    cohort : Cohort, optional
        That of the tokens; needed for masks of channels and the clock.
    features : FeatureTable, optional
        Needed for continuous inputs and targets.

    Raises
    ------
    ArtefactError
        If tokens or features do not fit, or `out` holds something else.
    OpenclefError
        If the configuration reads what is not given.
    """
    _check_fit(tokens, features, config)
    windows = EncoderWindows(tokens, config.companions, cohort=cohort, features=features)
    read = features if config.needs_features else None
    stage = artefact.begin(
        out,
        kind="encoder",
        config=config.model_dump(mode="json"),
        inputs={
            "tokens": tokens.artefact.hash,
            **tokens.artefact.inputs,
            **({"features": read.artefact.hash} if read else {}),
        },
    )
    if stage.is_complete:
        return stage
    torch.manual_seed(config.train.seed)
    objective = MaskedReconstruction(config.model, config.loss)
    train_rows, tuning_rows = tokens.rows("train"), tokens.rows("tuning")
    objective.model.start_from_frequencies(_code_counts(tokens, train_rows, config.model.n_codes))

    def load_batch(indices: np.ndarray, _: Sequence[np.random.Generator]) -> Batch:
        return windows.batch(train_rows[indices])

    n_validation = min(len(tuning_rows), config.n_validation)
    # Evenly over the cohort, so that one patient's many windows do not decide.
    chosen = tuning_rows[np.linspace(0, len(tuning_rows) - 1, n_validation).astype(int)]
    weights = fit(
        objective,
        n_items=len(train_rows),
        load_batch=load_batch,
        validation=windows.batches(chosen, config.train.batch_size),
        config=config.train,
        artefact=stage,
        label="training the encoder",
    )
    if read and config.model.feature_dims and distributed.rank() == 0:
        # An encoder's folder is enough to use it; every later stage finds the whitener there.
        with atomic(out / WHITENER) as temporary:
            shutil.copyfile(read.whitener_path, temporary)
    checkpoint.publish(stage, {WEIGHTS: checkpoint.take_prefix(weights, "model")})
    return stage


def _check_fit(tokens: TokenTable, features: FeatureTable | None, config: EncoderStage) -> None:
    model = config.model
    if tokens.ids.ndim > 2:
        raise ArtefactError(
            f"tokens of {tokens.ids.shape[2]} codes each; the encoder reads one code a token"
        )
    if tokens.grid != model.grid or tokens.n_codes != model.n_codes:
        raise ArtefactError(
            f"tokens lie on a grid of {tokens.grid} with {tokens.n_codes} codes; the encoder "
            f"expects {model.grid} with {model.n_codes}"
        )
    if features is not None and config.needs_features:
        dims = features.latents.shape[-1], features.patches.shape[-1]
        if dims != (model.latent_dim, model.patch_dim):
            raise ArtefactError(
                f"{features.artefact.folder}: latents and patches of {dims[0]} and {dims[1]} "
                f"numbers; the encoder expects {model.latent_dim} and {model.patch_dim}"
            )
