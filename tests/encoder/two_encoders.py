"""What each process does in test_reconstruction.py: trains a small encoder in a folder."""

import sys
from pathlib import Path

import torch

from openclef import artefact
from openclef.encoder.objective import EncoderLossConfig, MaskedReconstruction
from openclef.encoder.transformer import EncoderConfig
from openclef.training import checkpoint, distributed
from openclef.training.loop import TrainConfig, fit
from openclef.training.optim import OptimConfig

MODEL = EncoderConfig(
    n_codes=16, grid=(2, 2, 8), width=16, n_heads=2, n_encoder_layers=1, n_decoder_layers=1,
    dropout=0.0, inputs="codes+patches", patch_dim=4, use_channel_mask=True, use_clock=True,
)  # fmt: skip
LOSS = EncoderLossConfig(patch_weight=1.0)
TRAIN = TrainConfig(n_steps=10, batch_size=4, validate_every=5, optim=OptimConfig(lr=1e-2))


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


def train(folder):
    """Weights and metrics after 10 steps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    objective = MaskedReconstruction(MODEL, LOSS)
    stage = artefact.begin(folder, kind="encoder", config={}, inputs={})
    fit(
        objective, n_items=11, load_batch=load_batch, validation=[load_batch(range(3), None)],
        config=TRAIN, artefact=stage, label="encoder",
    )  # fmt: skip
    return objective.state_dict(), stage


if __name__ == "__main__":
    out = Path(sys.argv[1])
    weights, _ = train(out / "two")
    checkpoint.save_tensors(out / f"rank{distributed.rank()}.safetensors", weights)
    distributed.stop()
