"""Stage: cohort -> `tokenizer/`. Trained on half-session crops of train patients only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from openclef import artefact
from openclef.artefact import Artefact
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.tokenizer.objective import TokenizerLossConfig, TokenizerObjective
from openclef.tokenizer.start import start_from_components
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan
from openclef.training import checkpoint, distributed
from openclef.training.batches import START, Batch, LazyBatches, torch_seed
from openclef.training.loop import TrainConfig, fit, has_checkpoint
from openclef.types import CHANNELS, BoolArray, Spectrogram

WEIGHTS = "tokenizer.safetensors"
VALIDATION_BATCH = 4  # whole windows


class TokenizerStage(BaseModel):
    """Everything that decides a tokenizer.

    n_start: windows whose principal components the weights begin as, see `start`; 0: random [U].
    The codes are there from the first step then, whatever `continuous_share` says.
    crop_frames: 640, half a session (paper.md [C]). What is hidden at random from the encoder in
    training, so that reduced montages and gaps work (shares [U]): channel_dropout of the channels,
    which the decoder must guess; all but a random few channels in reduced_montages of the crops;
    a stretch of up to a quarter of the crop in time_dropout of the crops, as if not recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: TokenizerConfig = TokenizerConfig()
    loss: TokenizerLossConfig = TokenizerLossConfig()
    train: TrainConfig
    n_start: int = Field(0, ge=0)
    crop_frames: int = Field(640, gt=0)
    channel_dropout: float = Field(0.1, ge=0, lt=1)
    reduced_montages: float = Field(0.1, ge=0, le=1)
    time_dropout: float = Field(0.2, ge=0, le=1)
    n_validation: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _crop_is_whole_tokens(self) -> TokenizerStage:
        if self.crop_frames > self.model.n_frames:
            raise ValueError(f"crops of {self.crop_frames} frames: at most {self.model.n_frames}")
        # The adversary scores stretches of eight frames.
        step = math.lcm(self.model.frames_per_token, 8 if self.loss.adversarial_weight > 0 else 1)
        if self.crop_frames % step:
            nearest = max(step, round(self.crop_frames / step) * step)
            raise ValueError(
                f"crops of {self.crop_frames} frames: give a multiple of {step}, such as {nearest}"
            )
        return self


def check_finite(spectrogram: Spectrogram) -> None:
    """Raise OpenclefError, naming channels and frames, if a visible value is NaN or infinite."""
    bad_CT: BoolArray = np.logical_not(np.isfinite(spectrogram.power_db).all(axis=1))
    bad_CT &= ~(spectrogram.channel_mask[:, None] | spectrogram.time_mask)
    if bad_CT.any():
        names = [name for name, bad in zip(CHANNELS, bad_CT, strict=True) if bad.any()]
        frames = np.flatnonzero(bad_CT.any(axis=0))
        raise OpenclefError(
            f"spectrogram holds NaN or infinite values in {len(frames)} visible frames, the first "
            f"at {frames[0]} of {bad_CT.shape[1]}, channels {', '.join(names)}; hide those frames "
            "(time_mask) or channels (channel_mask)"
        )


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


def dropped_channels(
    channel_mask: BoolArray, config: TokenizerStage, rng: np.random.Generator
) -> BoolArray:
    """Channels `[19]` to hide from the encoder: the masked ones, and some at random, never all."""
    visible = np.flatnonzero(~channel_mask)
    if rng.random() < config.reduced_montages and len(visible) > 1:
        kept = rng.choice(visible, rng.integers(1, len(visible)), replace=False)
        return ~np.isin(np.arange(len(channel_mask)), kept)
    dropped = channel_mask | (rng.random(len(channel_mask)) < config.channel_dropout)
    return channel_mask if dropped.all() else dropped


def drop_time(time_mask: BoolArray, config: TokenizerStage, rng: np.random.Generator) -> BoolArray:
    """Frames `[T]` hidden, a random stretch more in some crops."""
    if rng.random() >= config.time_dropout:
        return time_mask
    n_hidden = int(rng.integers(1, len(time_mask) // 4 + 1))
    start = int(rng.integers(len(time_mask) - n_hidden + 1))
    frames = np.arange(len(time_mask))
    return time_mask | ((frames >= start) & (frames < start + n_hidden))


def train_tokenizer(cohort: Cohort, out: Path, *, config: TokenizerStage) -> Artefact:
    """Train, keep the weights that are best on tuning patients, and write `out`."""
    stage = artefact.begin(
        out, kind="tokenizer", config=config.model_dump(mode="json"), inputs={"cohort": cohort.hash}
    )
    if stage.is_complete:
        return stage
    distributed.start()
    torch.manual_seed(config.train.seed)
    objective = TokenizerObjective(
        config.model, config.loss, n_steps=config.train.n_steps, accumulate=config.train.accumulate
    )
    train_rows, tuning_rows = cohort.rows("train"), cohort.rows("tuning")

    def load_batch(indices: np.ndarray, rngs: Sequence[np.random.Generator]) -> Batch:
        crops, dropped = [], []
        for row, rng in zip(train_rows[indices], rngs, strict=True):
            crop = crop_frames(read_finite(cohort, row), config.crop_frames, rng)
            crop = replace(crop, time_mask=drop_time(crop.time_mask, config, rng))
            crops.append(crop)
            dropped.append(dropped_channels(crop.channel_mask, config, rng))
        return {**stack(crops), "dropped": torch.from_numpy(np.stack(dropped))}

    def read_batch(rows: np.ndarray) -> Batch:
        return stack([read_finite(cohort, row) for row in rows])

    # `fit` gives the first process's weights to the others, and all of them a checkpoint's.
    if config.n_start and distributed.rank() == 0 and not has_checkpoint(stage, config.train):
        n_start = min(len(train_rows), config.n_start)
        spread = train_rows[np.linspace(0, len(train_rows) - 1, n_start).astype(int)]
        start_from_components(
            objective.model.eval(),
            LazyBatches(spread, VALIDATION_BATCH, read_batch),
            torch.Generator().manual_seed(torch_seed(config.train.seed, START)),
        )
        objective.train()
    n_validation = min(len(tuning_rows), config.n_validation)
    # Evenly over the cohort, so that one patient's many windows do not decide.
    chosen = tuning_rows[np.linspace(0, len(tuning_rows) - 1, n_validation).astype(int)]
    weights = fit(
        objective,
        n_items=len(train_rows),
        load_batch=load_batch,
        validation=LazyBatches(chosen, VALIDATION_BATCH, read_batch),
        config=config.train,
        artefact=stage,
        label="training the tokenizer",
    )
    checkpoint.publish(stage, {WEIGHTS: checkpoint.take_prefix(weights, "model")})
    return stage


def read_finite(cohort: Cohort, row: int) -> Spectrogram:
    """A window that is finite where it is visible; OpenclefError names its session if not."""
    spectrogram = cohort.spectrogram(row)
    try:
        check_finite(spectrogram)
    except OpenclefError as error:
        name = cohort.windows.filter(pl.col("row") == row)["session_id"][0]
        raise OpenclefError(f"{cohort.folder}: session {name}: {error}") from error
    return spectrogram


def load_tokenizer(folder: Path) -> Vqgan:
    """Load a complete `tokenizer/` for use; every tensor must match."""
    stage = artefact.load(folder, kind="tokenizer")
    model = Vqgan(artefact.read_config(stage, TokenizerStage).model)
    weights, _ = checkpoint.load_tensors(folder / WEIGHTS)
    checkpoint.load_weights(model, weights, source=str(folder / WEIGHTS))
    return model.eval()
