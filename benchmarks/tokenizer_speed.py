"""Speed of tokenizers: seconds a session, and a training step against the machine's matrix peak.

    python benchmarks/tokenizer_speed.py [--recipes demo small base] [--threads 2]

The peak is the best of several square matrix products in each precision; operations of a step are
counted by PyTorch's own counter (convolutions and matrix products; a CPU's fused attention, which
`base` has, is not counted), so its share of the peak is what is left of the machine after norms,
activations and memory traffic. Freed memory is kept, as training does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from openclef.recipes.tokenizers import get_tokenizer
from openclef.tokenizer.objective import TokenizerObjective
from openclef.tokenizer.train import TokenizerStage
from openclef.tokenizer.vqgan import scale
from openclef.training.allocator import keep_freed_memory

REPEATS = 5


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time of `work` after one run to warm up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def peak_flops(dtype: torch.dtype) -> float:
    """Best rate of square matrix products, operations a second."""
    rates = []
    for n in (512, 1024, 2048):
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        rates.append(2 * n**3 / seconds(lambda a=a, b=b: a @ b))
    return max(rates)


def batch(n: int, n_frames: int) -> dict[str, torch.Tensor]:
    """Spectrograms of noise: what they hold does not change how long they take."""
    return {
        "power_db": 8 * torch.randn(n, 19, 128, n_frames),
        "channel_mask": torch.zeros(n, 19, dtype=torch.bool),
        "time_mask": torch.zeros(n, n_frames, dtype=torch.bool),
    }


def started(stage: TokenizerStage) -> TokenizerObjective:
    """An objective whose codebook has started and whose adversary plays."""
    torch.manual_seed(0)
    loss = stage.loss.model_copy(update={"adversary_from": 0.0})
    objective = TokenizerObjective(stage.model, loss, n_steps=1000)
    quantiser = objective.model.quantiser
    n = 2 * stage.model.quantiser.n_codes
    quantiser.start(torch.randn(n, stage.model.quantiser.code_dim), torch.Generator())
    return objective


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["demo", "small", "base"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    peaks = {dtype: peak_flops(dtype) for dtype in (torch.float32, torch.bfloat16)}
    for dtype, rate in peaks.items():
        print(f"peak, {args.threads} threads, {dtype}: {rate / 1e9:.0f} GFLOP/s")
    for name in args.recipes:
        stage = get_tokenizer(name)
        objective = started(stage)
        n_parameters = sum(p.numel() for p in objective.model.parameters())
        session = batch(1, stage.model.n_frames)
        model = objective.model.eval()
        tokenize_s = seconds(
            lambda m=model, s=session: m.tokenize(
                scale(s["power_db"]), s["channel_mask"], s["time_mask"]
            )
        )
        print(f"{name}: {n_parameters:,} parameters; tokenizing {tokenize_s:.3f} s a session")
        crops = batch(args.batch, stage.crop_frames)
        objective.train()

        def step(dtype: torch.dtype, objective=objective, crops=crops) -> None:
            objective.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss = objective.losses(crops, torch.Generator().manual_seed(0))["loss"]
            loss.backward()

        with FlopCounterMode(display=False) as counter:
            step(torch.float32)
        n_flops = counter.get_total_flops()
        for dtype, peak in peaks.items():
            step_s = seconds(lambda dtype=dtype: step(dtype), 3)
            print(
                f"  step of {args.batch} half sessions, {dtype}: {step_s:.3f} s, "
                f"{n_flops / 1e9:.0f} GFLOP, {n_flops / step_s / peak:.0%} of the peak"
            )


if __name__ == "__main__":
    main()
