"""How fast this machine multiplies matrices, and whether bfloat16 pays on it."""

from __future__ import annotations

import time
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
# A square product of this many rows takes some hundredths of a second on one CPU core, and some
# thousandths on a current GPU.
_N_ROWS = {"cpu": 1024, "cuda": 8192}
_REQUIRED_GAIN = 1.2


def faster_precision(device: torch.device) -> Precision:
    """bf16 on CUDA devices that have it, and where a measured product gains a factor of 1.2."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    gain = _product_s(torch.float32, device) / _product_s(torch.bfloat16, device)
    return "bf16" if gain >= _REQUIRED_GAIN else "fp32"


def peak_flops(device: torch.device, precision: Precision) -> float:
    """Floating-point operations a second of a large matrix product, measured in under a second."""
    flops: int = 2 * _N_ROWS[device.type] ** 3
    return flops / _product_s(DTYPES[precision], device)


def _product_s(dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of one matrix product, the shortest of five after one to warm up."""
    # Not drawn at random: the run's generators must not move.
    n_rows = _N_ROWS[device.type]
    factor = torch.full((n_rows, n_rows), 0.5, dtype=dtype, device=device)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        factor @ factor
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
