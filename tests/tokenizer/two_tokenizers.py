"""What each process does in test_tokenizer_distributed.py: trains a small tokenizer in a folder."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
import zarr

from openclef import artefact
from openclef.cohort import shards
from openclef.cohort.store import Cohort
from openclef.cohort.tables import WINDOWS
from openclef.tokenizer.objective import TokenizerLossConfig, TokenizerObjective
from openclef.tokenizer.quantisers import EmaConfig
from openclef.tokenizer.start import start_from_components
from openclef.tokenizer.train import TokenizerStage, train_tokenizer
from openclef.tokenizer.vqgan import TokenizerConfig
from openclef.training import checkpoint, distributed
from openclef.training.loop import TrainConfig, fit
from openclef.training.optim import OptimConfig

MODEL = TokenizerConfig(
    n_frames=160,
    regions="hemispheres",
    strides=((8, 5), (4, 2)),
    widths=(8, 8),
    n_blocks=1,
    quantiser=EmaConfig(n_codes=8, code_dim=4, decay=0.8, restart_below=0.5),
)
LOSS = TokenizerLossConfig(
    adversary_from=0.4, adversary_width=8, adversarial_weight=0.02, moments_weight=0.5
)
TRAIN = TrainConfig(
    n_steps=20, batch_size=4, validate_every=10, checkpoint_every=1, optim=OptimConfig(lr=1e-4)
)


STARTS = ("random", "components")  # of the weights
# The same by way of a cohort: whole windows are validated on.
STAGE = TokenizerStage(
    model=MODEL.model_copy(update={"n_frames": 1280}),
    loss=LOSS,
    train=TRAIN.model_copy(update={"n_steps": 4}),
    n_start=4,
    crop_frames=80,
    n_validation=1,
)
SPLITS = {
    "S0": "train", "S1": "held_out", "S2": "train", "S3": "tuning", "S4": "probe", "S5": "train",
}  # fmt: skip
# Of each window.
SESSIONS = ["S0"] * 3 + ["S1", "S2", "S3", "S4"] + ["S5"] * 3

# Few patterns: latents far from the borders between codes, so that rounding moves no token.
PATTERNS = 10 * np.random.default_rng(0).normal(size=(3, 19, 128, 1))


def load_batch(indices, rngs):
    """Each item is one pattern, a little noise; items differ in what of them is visible."""
    pairs = list(zip(indices, rngs, strict=True))
    power_db = [PATTERNS[i % 3] + 0.1 * rng.normal(size=(19, 128, 80)) for i, rng in pairs]
    channel_mask = [np.arange(19) < 3 * (i % 4) for i in indices]
    time_mask = [np.arange(80) >= 80 - 15 * (i % 5) for i in indices]
    dropped = [m | (rng.random(19) < 0.2) for m, rng in zip(channel_mask, rngs, strict=True)]
    arrays = {
        "power_db": np.float32(power_db), "channel_mask": channel_mask, "time_mask": time_mask,
        "dropped": dropped,
    }  # fmt: skip
    return {name: torch.from_numpy(np.stack(value)) for name, value in arrays.items()}


def write_cohort(folder):
    """A window of each of `SESSIONS`; the last is of one channel, its second half hidden."""
    stage = artefact.begin(folder, kind="cohort", config={}, inputs={})
    sessions = {"session_id": list(SPLITS), "split": list(SPLITS.values())}
    pl.DataFrame(sessions).write_parquet(folder / "sessions.parquet")
    shards.create_array(folder / "spectrograms", n_rows=len(SESSIONS))
    array, rng = zarr.open_array(folder / "spectrograms", mode="r+"), np.random.default_rng(0)
    rows = []
    for row, session in enumerate(SESSIONS):
        is_last = row == len(SESSIONS) - 1
        array[row] = np.float16(PATTERNS[row % 3] + rng.normal(size=(19, 128, 1280)).round())
        rows.append(
            {
                "row": row, "session_id": session, "window": row - SESSIONS.index(session),
                "start_s": 0.0, "channel_mask": ((np.arange(19) > 0) & is_last).tolist(),
                "time_mask": ((np.arange(1280) >= 640) & is_last).tolist(), "hash": str(row),
            }
        )  # fmt: skip
    pl.DataFrame(rows, schema=WINDOWS).write_parquet(folder / "windows.parquet")
    stage.finish(["sessions.parquet", "windows.parquet"])
    return Cohort(folder)


def started(cohort, folder):
    """Tokenizer of no step by `train_tokenizer`, and the rows of the cohort that were read."""
    read, spectrogram = [], Cohort.spectrogram

    def noting(self, row):
        read.append(int(row))
        return spectrogram(self, row)

    Cohort.spectrogram = noting
    try:
        config = STAGE.model_copy(update={"train": TRAIN.model_copy(update={"n_steps": 0})})
        train_tokenizer(cohort, folder, config=config)
    finally:
        Cohort.spectrogram = spectrogram
    return checkpoint.load_tensors(folder / "tokenizer.safetensors")[0], read


def train(folder, start, **changes):
    """Weights and metrics after training, from "random" weights or from "components"."""
    torch.set_num_threads(1)
    distributed.start()
    torch.manual_seed(0)
    config = TRAIN.model_copy(update=changes)
    objective = TokenizerObjective(
        MODEL, LOSS, n_steps=config.n_steps, accumulate=config.accumulate
    )
    if start == "components" and distributed.rank() == 0:
        rngs = [np.random.default_rng(i) for i in range(11)]
        rng = torch.Generator().manual_seed(0)
        start_from_components(objective.model.eval(), [load_batch(range(11), rngs)], rng)
        objective.train()
    stage = artefact.begin(folder, kind="tokenizer", config={}, inputs={})
    fit(
        objective, n_items=11, load_batch=load_batch, validation=[], config=config, artefact=stage,
        label="tokenizer",
    )  # fmt: skip
    return objective.state_dict(), stage


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for start in STARTS:
        weights, _ = train(out / f"two-{start}", start)
        checkpoint.save_tensors(out / f"{start}-{distributed.rank()}.safetensors", weights)
    _, read = started(Cohort(out / "cohort"), out / "started by two")
    (out / f"read by {os.environ['RANK']}.json").write_text(json.dumps(read))
    distributed.stop()
