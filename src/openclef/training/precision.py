"""Whether bfloat16 pays on this machine."""

from __future__ import annotations

import time
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]

# A square product of this many rows takes some hundredths of a second on one CPU core.
_N_ROWS = 1024
_REQUIRED_GAIN = 1.2


def faster_precision(device: torch.device) -> Precision:
    """bf16 on CUDA devices that have it, and where a measured product gains a factor of 1.2."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    gain = _product_s(torch.float32) / _product_s(torch.bfloat16)
    return "bf16" if gain >= _REQUIRED_GAIN else "fp32"


def _product_s(dtype: torch.dtype) -> float:
    """Seconds of one matrix product on the CPU, the shortest of five after one to warm up."""
    # Not drawn at random: the run's generators must not move.
    factor = torch.full((_N_ROWS, _N_ROWS), 0.5, dtype=dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        factor @ factor
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
