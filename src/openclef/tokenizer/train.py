"""Stage: cohort -> `tokenizer/`. Trained on half-session crops of train patients only."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from openclef import artefact
from openclef.artefact import Artefact
from openclef.cohort.store import Cohort
from openclef.tokenizer.objective import TokenizerLossConfig, TokenizerObjective
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan
from openclef.training import checkpoint
from openclef.training.loop import Batch, TrainConfig, fit
from openclef.types import Spectrogram

WEIGHTS = "tokenizer.safetensors"


class TokenizerStage(BaseModel):
    """Everything that decides a tokenizer. crop_frames: 640, half a session (paper.md [C])."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: TokenizerConfig = TokenizerConfig()
    loss: TokenizerLossConfig = TokenizerLossConfig()
    train: TrainConfig
    crop_frames: int = Field(640, gt=0)
    n_validation: int = Field(32, gt=0)


def stack(spectrograms: list[Spectrogram]) -> Batch:
    """Batch of windows: `power_db [B, 19, F, T]`, `channel_mask [B, 19]`, `time_mask [B, T]`."""
    return {
        "power_db": torch.from_numpy(np.stack([s.power_db for s in spectrograms])),
        "channel_mask": torch.from_numpy(np.stack([s.channel_mask for s in spectrograms])),
        "time_mask": torch.from_numpy(np.stack([s.time_mask for s in spectrograms])),
    }


def crop_frames(spectrogram: Spectrogram, n_frames: int, rng: np.random.Generator) -> Spectrogram:
    """A random stretch of `n_frames`, within what was recorded as far as that reaches."""
    n_recorded = int(np.flatnonzero(~spectrogram.time_mask).max(initial=-1)) + 1
    start = int(rng.integers(max(1, n_recorded - n_frames + 1)))
    stretch = slice(start, start + n_frames)
    return Spectrogram(
        power_db=spectrogram.power_db[..., stretch],
        freqs_hz=spectrogram.freqs_hz,
        times_s=spectrogram.times_s[stretch],
        channel_mask=spectrogram.channel_mask,
        time_mask=spectrogram.time_mask[stretch],
    )


def train_tokenizer(cohort: Cohort, out: Path, *, config: TokenizerStage) -> Artefact:
    """Train, keep the weights that are best on tuning patients, and write `out`."""
    stage = artefact.begin(
        out, kind="tokenizer", config=config.model_dump(mode="json"), inputs={"cohort": cohort.hash}
    )
    if stage.is_complete:
        return stage
    torch.manual_seed(config.train.seed)
    objective = TokenizerObjective(config.model, config.loss)
    train_rows, tuning_rows = cohort.rows("train"), cohort.rows("tuning")

    def load_batch(indices: np.ndarray, rng: np.random.Generator) -> Batch:
        windows = [cohort.spectrogram(row) for row in train_rows[indices]]
        return stack([crop_frames(window, config.crop_frames, rng) for window in windows])

    validation = [
        stack([cohort.spectrogram(row) for row in tuning_rows[start : start + 4]])
        for start in range(0, min(len(tuning_rows), config.n_validation), 4)
    ]
    weights = fit(
        objective,
        n_items=len(train_rows),
        load_batch=load_batch,
        validation=validation,
        config=config.train,
        artefact=stage,
        label="training the tokenizer",
    )
    checkpoint.save_tensors(out / WEIGHTS, checkpoint.take_prefix(weights, "model"))
    stage.finish([WEIGHTS])
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return stage


def load_tokenizer(folder: Path) -> Vqgan:
    """Load a complete `tokenizer/` for use; every tensor must match."""
    stage = artefact.load(folder, kind="tokenizer")
    model = Vqgan(TokenizerStage.model_validate(stage.config).model)
    weights, _ = checkpoint.load_tensors(folder / WEIGHTS)
    checkpoint.load_weights(model, weights, source=str(folder / WEIGHTS))
    return model.eval()
