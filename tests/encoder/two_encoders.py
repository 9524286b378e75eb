"""What each process does in test_reconstruction.py: trains a small encoder in a folder."""

import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import torch

from openclef import artefact
from openclef.encoder.objective import EncoderLossConfig, MaskedReconstruction
from openclef.encoder.transformer import EncoderConfig
from openclef.recipes.recipe import changed
from openclef.training import checkpoint, distributed
from openclef.training.loop import TrainConfig, fit
from openclef.training.optim import OptimConfig

MODEL = EncoderConfig(
    n_codes=16, grid=(2, 2, 8), width=16, n_heads=2, n_encoder_layers=1, n_decoder_layers=1,
    dropout=0.0, inputs="codes+patches", patch_dim=4, use_channel_mask=True, use_clock=True,
)  # fmt: skip
LOSS = EncoderLossConfig(patch_weight=1.0)
TRAIN = TrainConfig(
    n_steps=10, batch_size=4, validate_every=5, checkpoint_every=5, optim=OptimConfig(lr=1e-2)
)
SHARDED = changed(TRAIN, sharding="full")


def load_batch(indices, _):
    """Items differ in how much of them is visible, so that means of means would be wrong."""
    items = []
    for index in indices:
        rng = torch.Generator().manual_seed(int(index))
        items.append(
            {
                "ids": torch.randint(16, (32,), generator=rng),
                "hidden": torch.arange(32) >= 32 - 7 * (int(index) % 5),
                "patches": torch.randn(32, 4, generator=rng),
                "channel_mask": torch.rand(19, generator=rng) < 0.3,
                "hour": torch.tensor(float(index)),
            }
        )
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class CutShortError(Exception):
    """A run that ends before its time."""


def train(folder, *, config=TRAIN, n_loads=None):
    """Weights, the best weights and the run's artefact; CutShortError after so many batches."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    objective = MaskedReconstruction(MODEL, LOSS)
    stage = artefact.begin(folder, kind="encoder", config={}, inputs={})
    loads = count()

    def load(indices, rngs):
        if next(loads) == n_loads:
            raise CutShortError
        return load_batch(indices, rngs)

    best = fit(
        objective, n_items=11, load_batch=load, validation=[load_batch(range(3), None)],
        config=config, artefact=stage, label="encoder",
    )  # fmt: skip
    return objective.state_dict(), best, stage


def main(out):
    def keep(name, tensors):
        checkpoint.save_tensors(out / f"{name}.{distributed.rank()}.safetensors", tensors)

    keep("two", train(out / "two")[0])
    keep("shards", train(out / "shards", config=SHARDED)[1])
    with suppress(CutShortError):
        train(out / "cut", config=SHARDED, n_loads=8)
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
