"""What training over a hospital's archive costs: counted operations, stated assumptions.

    python benchmarks/encoder_cost.py [--sessions 260000] [--recipes small base]

PyTorch counts the operations of one step (convolutions, matrix products, attention) of the encoder
on one window and of the base tokenizer on one half session; hours follow from the peak of a GPU
and the share of it that training reaches, which is an assumption until measured there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openclef.encoder.objective import MaskedReconstruction
from openclef.recipes.encoders import get_encoder
from openclef.recipes.tokenizers import get_tokenizer
from openclef.tokenizer.objective import TokenizerObjective
from openclef.tokenizer.vqgan import scale

PEAK_FLOPS = 989e12  # H100 SXM, bf16 without sparsity, NVIDIA's data sheet
SHARES = (0.25, 0.4, 0.5)
N_GPUS = (1, 8)


def count(work: Callable[[], object]) -> int:
    """As plain matrix products: the counter does not know a CPU's fused attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    n_flops: int = counter.get_total_flops()
    return n_flops


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tokenizer_flops() -> tuple[int, int]:
    """Of a training step on half a session, adversary and all, and of tokenizing a session."""
    stage = get_tokenizer("base")
    loss = stage.loss.model_copy(update={"adversary_from": 0.0})
    objective = TokenizerObjective(stage.model, loss, n_steps=1)
    n_codes, dim = stage.model.quantiser.n_codes, stage.model.quantiser.code_dim
    objective.model.quantiser.start(torch.randn(n_codes, dim), rng())

    def window(n_frames: int) -> dict[str, torch.Tensor]:
        return {
            "power_db": torch.randn(1, 19, 128, n_frames),
            "channel_mask": torch.zeros(1, 19, dtype=torch.bool),
            "time_mask": torch.zeros(1, n_frames, dtype=torch.bool),
        }

    crop, whole = window(stage.crop_frames), window(stage.model.n_frames)

    def train() -> None:
        objective.losses(crop, rng())["loss"].backward()

    step = count(train)
    model = objective.model.eval()
    masks = whole["channel_mask"], whole["time_mask"]
    return step, count(lambda: model.tokenize(scale(whole["power_db"]), *masks))


def encoder_flops(name: str) -> tuple[int, float, int]:
    """Of a training step on a window, counted and by the objective's formula; parameters."""
    stage = get_encoder(name)
    config = stage.model.model_copy(update={"checkpoint_activations": False})
    objective = MaskedReconstruction(config, stage.loss)
    batch = {
        "ids": torch.randint(config.n_codes, (1, config.n_tokens)),
        "hidden": torch.zeros(1, config.n_tokens, dtype=torch.bool),
    }

    def train() -> None:
        objective.losses(batch, rng())["loss"].backward()

    return count(train), objective.flops_per_item, sum(p.numel() for p in objective.parameters())


def tell(what: str, n_flops: float) -> None:
    print(f"{what}: {n_flops:.2e} operations")
    for n_gpus in N_GPUS:
        hours = [n_flops / (n_gpus * share * PEAK_FLOPS) / 3600 for share in SHARES]
        at = ", ".join(f"{h:.3g} h at {share:.0%}" for h, share in zip(hours, SHARES, strict=True))
        print(f"    {n_gpus} H100: {at}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=260_000)
    parser.add_argument("--recipes", nargs="+", default=["small", "medium", "base"])
    args = parser.parse_args()
    print(f"Peak {PEAK_FLOPS / 1e12:.0f} TFLOP/s a GPU; one window of 1,280 s a session.")
    step, once = tokenizer_flops()
    train = get_tokenizer("base").train
    n_steps, size = train.n_steps, train.batch_size
    print(f"base tokenizer: {step:.3e} a half session and step, {once:.3e} to tokenize a session")
    tell(f"  training, {n_steps:,} steps of {size}", step * n_steps * size)
    tell(f"  tokenizing {args.sessions:,} sessions", once * args.sessions)
    for name in args.recipes:
        counted, formula, n_parameters = encoder_flops(name)
        train = get_encoder(name).train
        n_windows = train.n_steps * train.batch_size
        print(
            f"{name}, {n_parameters:,} parameters: {counted:.3e} a window and step "
            f"(formula at the mean mask ratio {formula:.3e})"
        )
        tell(
            f"  training, {train.n_steps:,} steps of {train.batch_size} "
            f"({n_windows / args.sessions:.0f} epochs)",
            counted * n_windows,
        )
        tell("  one epoch", counted * args.sessions)


if __name__ == "__main__":
    main()
