"""Stage: tokens -> `encoder/`, by masked reconstruction on train patients only."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from openclef import artefact
from openclef.artefact import Artefact, atomic
from openclef.cohort.store import Cohort
from openclef.encoder.objective import EncoderLossConfig, MaskedReconstruction
from openclef.encoder.transformer import EncoderConfig
from openclef.encoder.windows import EncoderWindows
from openclef.errors import ArtefactError, OpenclefError
from openclef.tokenizer.features import WHITENER, FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.training import checkpoint, distributed
from openclef.training.loop import Batch, TrainConfig, fit

WEIGHTS = "encoder.safetensors"
VALIDATION_BATCH = 4  # windows; each process takes its batches whole, in one part


class EncoderStage(BaseModel):
    """Everything that decides an encoder.

    n_validation: windows of tuning patients that judge it. train_share: of the train patients, who
    are drawn by `train.seed`; of one seed, those of a smaller share are among those of a larger.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: EncoderConfig = EncoderConfig()
    loss: EncoderLossConfig = EncoderLossConfig()
    train: TrainConfig
    n_validation: int = Field(64, gt=0)
    train_share: float = Field(1.0, gt=0, le=1)

    @property
    def identity(self) -> dict[str, Any]:
        """The configuration as the artefact keeps it. All train patients go without saying: an
        encoder of before there were shares is still the same one."""
        whole = {"train_share"} if self.train_share == 1 else set()
        return self.model_dump(mode="json", exclude=whole)

    @property
    def companions(self) -> frozenset[str]:
        """What a batch must hold besides tokens; "latents" and "patches" are of `features/`."""
        return self.model.companions | self.loss.regressions.keys()

    @property
    def needs_features(self) -> bool:
        return bool(self.companions & {"latents", "patches"})


def _code_counts(tokens: TokenTable, rows: np.ndarray) -> torch.Tensor:
    """How often each line of the grid shows each code in the given windows, `[G, n_codes]`."""
    n_lines, n_codes = tokens.grid[0] * tokens.grid[1], tokens.n_codes
    counts = np.zeros((n_lines, n_codes), np.int64)
    first = np.repeat(np.arange(n_lines) * n_codes, tokens.grid[2])
    for part in np.array_split(rows, max(1, -(-len(rows) // 1024))):
        states = (tokens.ids[part] + first)[~tokens.hidden(part)]
        counts += np.bincount(states, minlength=counts.size).reshape(counts.shape)
    return torch.from_numpy(counts)


def train_windows(
    tokens: TokenTable, *, share: float, seed: int, cohort: Cohort | None = None
) -> NDArray[np.int64]:
    """Rows of all windows of a share of the train patients, at least one patient.

    The patients are the first of one random order, so that shares of one seed are nested. Raises
    OpenclefError if a share is asked without the cohort, which knows whose windows they are.
    """
    rows = tokens.rows("train")
    if share == 1:
        return rows
    if cohort is None:
        raise OpenclefError(
            f"train_share {share:g}: windows are left out by patient; give the cohort"
        )
    if cohort.hash != tokens.artefact.inputs["cohort"]:
        raise ArtefactError(f"{cohort.folder}: another cohort than that of the tokens")
    patient_of = dict(cohort.sessions.select("session_id", "subject_id").iter_rows())
    of_row = np.array([patient_of[name] for name in tokens.session_id.gather(rows)])
    patients = np.unique(of_row)
    n_kept = max(1, round(share * len(patients)))
    kept = np.random.default_rng(seed).permutation(patients)[:n_kept]
    return rows[np.isin(of_row, kept)]


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
        That of the tokens; needed for masks of channels, the clock and a share of the patients.
    features : FeatureTable, optional
        Needed for continuous inputs and targets.

    Raises
    ------
    ArtefactError
        If tokens or features do not fit, or `out` holds something else.
    OpenclefError
        If the configuration reads what is not given.
    """
    vectors = check_fit(tokens, features, config)
    windows = EncoderWindows(tokens, config.companions, cohort=cohort, features=features)
    train_rows = train_windows(
        tokens, share=config.train_share, seed=config.train.seed, cohort=cohort
    )
    read = features if config.needs_features else None
    stage = artefact.begin(
        out,
        kind="encoder",
        config=config.identity,
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
    tuning_rows = tokens.rows("tuning")
    objective.model.start_codes(_code_counts(tokens, train_rows), vectors, seed=config.train.seed)

    def load_batch(indices: np.ndarray, _: Sequence[np.random.Generator]) -> Batch:
        return windows.batch(train_rows[indices])

    n_validation = min(len(tuning_rows), config.n_validation)
    # Evenly over the cohort, so that one patient's many windows do not decide.
    chosen = tuning_rows[np.linspace(0, len(tuning_rows) - 1, n_validation).astype(int)]
    weights = fit(
        objective,
        n_items=len(train_rows),
        load_batch=load_batch,
        validation=windows.batches(chosen, VALIDATION_BATCH),
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


def check_fit(
    tokens: TokenTable, features: FeatureTable | None, config: EncoderStage
) -> torch.Tensor | None:
    """Raise ArtefactError if tokens or features are of another shape than an encoder's.

    Returns the code vectors that its codes start from, `[n_codes, latent_dim]`, if they do.
    """
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
    if model.codes == "names":
        return None
    vectors = torch.from_numpy(tokens.code_vectors())
    if vectors.shape[1] != model.latent_dim:
        raise ArtefactError(
            f"{tokens.artefact.folder}: code vectors of {vectors.shape[1]} numbers; the encoder "
            f"expects {model.latent_dim} (latent_dim)"
        )
    return vectors
