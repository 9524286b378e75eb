"""Training steps of the encoder: against the machine's matrix peak, with length, and real ones.

    python benchmarks/encoder_training.py [--parts peak steps lengths] [--threads 2] [--batch 4]
        [--compile]
    python benchmarks/encoder_training.py --parts --real COHORT TOKENS

- peak: the fastest of square matrix products of up to 4,096 rows, before and after all else.
- steps: `train_step` of the training loop (forward, backward, clipping, AdamW, moving average) on
  `--batch` windows of 2,048 tokens, masked at the mean ratio in every step. Operations are those of
  forward and backward as PyTorch counts them, attention included, what checkpointing works out
  twice counted once (`base` does; `--keep-activations` for without); the optimiser's are not
  counted but its time is. `--compile`: compiled as `train.compile` does, before the first one.
- lengths: the same step of `small` on one window of 1,024 to 16,384 tokens, grids of (1, 8, n / 8).
  Operations by the objective's formula, which "steps" shows beside the counted ones.
- real: 20 steps of `train_encoder` on given tokens, checkpoint and validation as in any run. The
  state of `base` takes some 3 GB of the temporary folder while it runs.

Every measurement has a process of its own, whose highest resident memory (VmHWM of Linux, Python
and libraries included) is told.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

# Beside this file, which is where Python looks first.
from encoder_cost import count

from openclef.cohort.store import Cohort
from openclef.encoder.objective import MaskedReconstruction
from openclef.encoder.train import EncoderStage, train_encoder
from openclef.recipes.encoders import for_tokens, get_encoder
from openclef.recipes.recipe import changed
from openclef.tokenizer.token_table import TokenTable
from openclef.training.allocator import keep_freed_memory
from openclef.training.compiling import compile_parts
from openclef.training.config import TrainConfig
from openclef.training.optim import OptimConfig
from openclef.training.precision import DTYPES, Precision
from openclef.training.state import RunState
from openclef.training.step import train_step

Result = TypeVar("Result")

PEAK_ROWS = (512, 1024, 2048, 3072, 4096)
N_TOKENS = 2048
N_REAL_STEPS = 20
# Steps whose losses are averaged at either end: mask ratios differ from step to step.
N_SHOWN = 5


def times(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each run, sorted, after one to warm up."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)


def peak_rates(repeats: int) -> dict[tuple[Precision, int], float]:
    """Operations a second of square products by precision and rows, the fastest of the repeats."""
    rates: dict[tuple[Precision, int], float] = {}
    for precision, dtype in DTYPES.items():
        for n in PEAK_ROWS:
            a, b, c = (torch.randn(n, n).to(dtype) for _ in range(3))
            fastest = times(lambda a=a, b=b, c=c: torch.mm(a, b, out=c), repeats)[0]
            rates[precision, n] = 2 * n**3 / fastest
    return rates


def peak_memory_gib() -> float:
    """Of this process since it began: `ru_maxrss` would carry over its parent's."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20


def alone(work: Callable[..., Result], *arguments: object) -> Result:
    """What `work` returns, called in a new process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *arguments).result()


@dataclass(frozen=True)
class Step:
    """Of one size, batch and precision. n_tokens: of all its windows. seconds: sorted. counted,
    formula: operations a window; counted is None if not asked for.
    """

    n_parameters: int
    n_tokens: int
    seconds: list[float]
    memory_gib: float
    counted: int | None
    formula: float

    @property
    def median_s(self) -> float:
        return float(np.median(self.seconds))

    @property
    def told_s(self) -> str:
        return f"{self.median_s:.3f} | {self.seconds[0]:.3f}-{self.seconds[-1]:.3f}"


def measure_step(
    name: str,
    n_tokens: int,
    batch: int,
    precision: Precision,
    repeats: int,
    threads: int,
    is_counted: bool,
    keeps_activations: bool,
    compiles: bool,
) -> Step:
    """A step of the encoder of that name on tokens drawn at random, none hidden."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.manual_seed(0)
    stage = at_mean_ratio(get_encoder(name))
    shape = changed(stage.model, grid=(1, 8, n_tokens // 8))
    if keeps_activations:
        shape = changed(shape, checkpoint_activations=False)
    stage = changed(stage, model=shape)
    config = changed(stage.train, batch_size=batch, precision=precision)
    objective = MaskedReconstruction(stage.model, stage.loss)
    if compiles:
        compile_parts(objective, torch.device("cpu"))
    state = RunState(objective, config)
    state.progress.precision = precision
    windows = random_windows(stage, batch)

    def step() -> None:
        outcome = train_step(state, [windows], config.optim.lr, config, must_stop=False)
        if outcome.fault is not None:
            raise FloatingPointError(outcome.fault)

    taken = times(step, repeats)
    return Step(
        n_parameters=sum(p.numel() for p in objective.parameters()),
        n_tokens=batch * n_tokens,
        seconds=taken,
        memory_gib=peak_memory_gib(),  # before counting, which needs more
        counted=counted_flops(stage) if is_counted else None,
        formula=objective.flops_per_item,
    )


def at_mean_ratio(stage: EncoderStage) -> EncoderStage:
    """The same, masking as much in every step: all do the operations that are counted."""
    masking = stage.loss.masking
    fixed = changed(masking, low=masking.mean_ratio, high=masking.mean_ratio)
    return changed(stage, loss=changed(stage.loss, masking=fixed))


def random_windows(stage: EncoderStage, n: int) -> dict[str, torch.Tensor]:
    shape = n, stage.model.n_tokens
    return {
        "ids": torch.randint(stage.model.n_codes, shape),
        "hidden": torch.zeros(shape, dtype=torch.bool),
    }


def counted_flops(stage: EncoderStage) -> int:
    """Of forward and backward on one window, by PyTorch's counter."""
    config = changed(stage.model, checkpoint_activations=False)
    objective = MaskedReconstruction(config, stage.loss)
    window = random_windows(stage, 1)
    rng = torch.Generator().manual_seed(0)

    def train() -> None:
        objective.losses(window, rng)["loss"].backward()

    return count(train)


@dataclass(frozen=True)
class RealRun:
    """losses, items_per_s, tokens_per_s: of each step. tuning: after the last, of the average."""

    n_parameters: int
    precision: str
    losses: list[float]
    items_per_s: list[float]
    tokens_per_s: list[float]
    tuning: dict[str, float]
    memory_gib: float


def measure_real(
    name: str, cohort_folder: Path, tokens_folder: Path, train: TrainConfig, threads: int
) -> RealRun:
    """`train_encoder` as `openclef train encoder` calls it, in a temporary folder."""
    torch.set_num_threads(threads)
    cohort = Cohort(cohort_folder)
    tokens = TokenTable(tokens_folder, cohort)
    stage = for_tokens(get_encoder(name), tokens)
    stage = changed(stage, train=train, n_validation=2 * train.batch_size)
    with tempfile.TemporaryDirectory() as out:
        trained = train_encoder(tokens, Path(out) / "encoder", config=stage, cohort=cohort)
        rows = trained.metrics()
    memory_gib = peak_memory_gib()
    (begun,) = (row for row in rows if row["split"] == "run")
    steps = [row for row in rows if row["split"] == "train"]
    (tuning,) = (row for row in rows if row["split"] == "tuning")
    objective = MaskedReconstruction(stage.model, stage.loss)
    return RealRun(
        n_parameters=sum(p.numel() for p in objective.parameters()),
        precision=begun["precision"],
        losses=[row["loss"] for row in steps],
        items_per_s=[row["items_per_s"] for row in steps],
        tokens_per_s=[row["tokens_per_s"] for row in steps],
        tuning={key: tuning[key] for key in ("loss", "cross_entropy")},
        memory_gib=memory_gib,
    )


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def print_heads(*heads: str) -> None:
    print()
    print_row(*heads)
    print(f"|{' --- |' * len(heads)}")


def print_peaks(
    before: dict[tuple[Precision, int], float], after: dict[tuple[Precision, int], float]
) -> dict[Precision, float]:
    """Returns the peak by precision."""
    print_heads("GFLOP/s of products", *(f"{n:,} rows" for n in PEAK_ROWS), "peak")
    peaks: dict[Precision, float] = {}
    for precision in DTYPES:
        rates = [max(before[precision, n], after[precision, n]) for n in PEAK_ROWS]
        peaks[precision] = max(rates)
        print_row(precision, *(f"{rate / 1e9:.0f}" for rate in [*rates, peaks[precision]]))
    return peaks


def print_steps(
    steps: dict[tuple[str, Precision], Step], peaks: dict[Precision, float], batch: int
) -> None:
    print(f"\nSteps of {batch} windows of {N_TOKENS:,} tokens.")
    print_heads(
        "", "precision", "parameters", "step, s", "range", "tokens/s", "GFLOP a step, counted",
        "by the formula", "share of the peak", "of the bf16 peak", "peak memory, GiB",
    )  # fmt: skip
    for (name, precision), step in steps.items():
        assert step.counted is not None
        rate = batch * step.counted / step.median_s
        print_row(
            name,
            precision,
            f"{step.n_parameters / 1e6:.2f} M",
            step.told_s,
            f"{step.n_tokens / step.median_s:,.0f}",
            f"{batch * step.counted / 1e9:,.0f}",
            f"{batch * step.formula / 1e9:,.0f}",
            f"{rate / peaks[precision]:.0%}",
            f"{rate / peaks['bf16']:.0%}",
            f"{step.memory_gib:.2f}",
        )


def print_lengths(steps: dict[tuple[int, Precision], Step], peaks: dict[Precision, float]) -> None:
    print("\nSteps of one window of `small`.")
    print_heads(
        "tokens", "precision", "step, s", "range", "ms a 1,000 tokens", "GFLOP, by the formula",
        "share of the peak", "peak memory, GiB",
    )  # fmt: skip
    for (n_tokens, precision), step in steps.items():
        print_row(
            f"{n_tokens:,}",
            precision,
            step.told_s,
            f"{1e6 * step.median_s / n_tokens:.0f}",
            f"{step.formula / 1e9:,.0f}",
            f"{step.formula / step.median_s / peaks[precision]:.0%}",
            f"{step.memory_gib:.2f}",
        )


def print_real(runs: dict[str, RealRun], config: TrainConfig) -> None:
    print(f"\n{config.n_steps} steps of {config.batch_size} windows, rate {config.optim.lr:g}.")
    print_heads(
        "", "parameters", "precision", "first loss", f"mean of the first {N_SHOWN}",
        f"of the last {N_SHOWN}", "last loss", "tuning loss", "its cross-entropy", "windows/s",
        "tokens/s", "peak memory, GiB",
    )  # fmt: skip
    for name, run in runs.items():
        print_row(
            name,
            f"{run.n_parameters / 1e6:.2f} M",
            run.precision,
            f"{run.losses[0]:.3f}",
            f"{np.mean(run.losses[:N_SHOWN]):.3f}",
            f"{np.mean(run.losses[-N_SHOWN:]):.3f}",
            f"{run.losses[-1]:.3f}",
            f"{run.tuning['loss']:.3f}",
            f"{run.tuning['cross_entropy']:.3f}",
            f"{np.median(run.items_per_s):.2f}",
            f"{np.median(run.tokens_per_s):,.0f}",
            f"{run.memory_gib:.2f}",
        )


def real_config(args: argparse.Namespace) -> TrainConfig:
    """20 steps, of which the first five warm up."""
    return TrainConfig(
        n_steps=N_REAL_STEPS,
        batch_size=args.real_batch,
        accumulate=args.accumulate,
        validate_every=N_REAL_STEPS,
        checkpoint_every=N_REAL_STEPS,
        precision="auto",
        optim=OptimConfig(lr=args.lr, warmup_fraction=0.25),
    )


def length(text: str) -> int:
    """Tokens of a grid of 8 rows."""
    n_tokens = int(text)
    if n_tokens < 8 or n_tokens % 8:
        nearest = max(8, round(n_tokens / 8) * 8)
        raise argparse.ArgumentTypeError(f"{n_tokens}: give a multiple of 8, such as {nearest}")
    return n_tokens


def measure_parts(args: argparse.Namespace) -> None:
    """What needs no data: all steps lie between the two measurements of the peak."""

    def measured(name: str, precision: Precision, n: int, batch: int, is_counted: bool) -> Step:
        return alone(
            measure_step, name, n, batch, precision, args.repeats, args.threads, is_counted,
            args.keep_activations, args.compile,
        )  # fmt: skip

    before = peak_rates(args.repeats)
    steps = {
        (name, precision): measured(name, precision, N_TOKENS, args.batch, True)
        for name in (args.sizes if "steps" in args.parts else ())
        for precision in args.precisions
    }
    lengths = {
        (n_tokens, precision): measured("small", precision, n_tokens, 1, False)
        for n_tokens in (args.lengths if "lengths" in args.parts else ())
        for precision in args.precisions
    }
    peaks = print_peaks(before, peak_rates(args.repeats))
    if steps:
        print_steps(steps, peaks, args.batch)
    if lengths:
        print_lengths(lengths, peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ["peak", "steps", "lengths"]
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--sizes", nargs="+", default=["small", "medium", "base"])
    parser.add_argument("--precisions", nargs="+", choices=[*DTYPES], default=[*DTYPES])
    parser.add_argument("--batch", type=int, default=4, help="windows of a step")
    parser.add_argument(
        "--lengths", nargs="+", type=length, default=[1024, 2048, 4096, 8192, 16384]
    )
    parser.add_argument(
        "--keep-activations", action="store_true",
        help="no checkpointing, which works out layers twice and counts them once",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="steps and lengths, not real ones")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--real", nargs=2, type=Path, metavar=("COHORT", "TOKENS"))
    parser.add_argument("--real-batch", type=int, default=8, help="windows of a real step")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a real step")
    parser.add_argument("--lr", type=float, default=5e-4, help="of real steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"Threads: {args.threads}; repeats: {args.repeats}, after one to warm up; medians.")
    if args.parts:
        measure_parts(args)
    if args.real:
        config = real_config(args)
        runs = {
            name: alone(measure_real, name, *args.real, config, args.threads) for name in args.sizes
        }
        print_real(runs, config)


if __name__ == "__main__":
    main()
