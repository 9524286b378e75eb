"""What each process does in test_tokenizer_distributed.py: trains a small tokenizer in a folder."""

import sys
from pathlib import Path

import numpy as np
import torch

from openclef import artefact
from openclef.tokenizer.objective import TokenizerLossConfig, TokenizerObjective
from openclef.tokenizer.quantisers import EmaConfig
from openclef.tokenizer.start import start_from_components
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


def train(folder, start):
    """Weights and metrics after 20 steps, from "random" weights or from "components"."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    objective = TokenizerObjective(MODEL, LOSS, n_steps=TRAIN.n_steps)
    if start == "components":
        rngs = [np.random.default_rng(i) for i in range(11)]
        rng = torch.Generator().manual_seed(0)
        start_from_components(objective.model.eval(), [load_batch(range(11), rngs)], rng)
        objective.train()
    stage = artefact.begin(folder, kind="tokenizer", config={}, inputs={})
    fit(
        objective, n_items=11, load_batch=load_batch, validation=[], config=TRAIN, artefact=stage,
        label="tokenizer",
    )  # fmt: skip
    return objective.state_dict(), stage


if __name__ == "__main__":
    out = Path(sys.argv[1])
    weights, _ = train(out / "two", out.name)
    checkpoint.save_tensors(out / f"rank{distributed.rank()}.safetensors", weights)
    distributed.stop()
