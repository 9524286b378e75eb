"""Tokens of an archive of 260,000 windows: memory, time to load, batches a second.

Writes a `tokens/` as `openclef tokenize` would (8,192 codes of perplexity about 2,900, windows of
60 to 1,280 s, so that half of the tokens are padding; about 1.5 GB of disk), then maps it in a
process of its own. Batches of 16 random windows are set beside two limits of the machine: reading
the file from the page cache from end to end, and copying as many random rows that lie in memory.

    python benchmarks/tokens_scale.py [--windows 260000] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from openclef import artefact
from openclef.tokenizer.token_table import CACHE, TokenTable, fixed_lists
from openclef.tokenizer.tokens import PART_WINDOWS, part_path
from openclef.types import SPLITS

GRID = (1, 8, 256)
N_CODES = 8192
BATCH = 16
MIB = 2**20
DISK_BYTES_A_WINDOW = 6500


class Sessions:
    """What `TokenTable` asks of a cohort: one window a session."""

    hash = "synthetic"

    def __init__(self, n_windows: int) -> None:
        rng = np.random.default_rng(1)
        names = [f"S{i:06d}" for i in range(n_windows)]
        splits = rng.choice(SPLITS, n_windows, p=(0.5, 0.1, 0.2, 0.2))
        self.sessions = pl.DataFrame({"session_id": names, "split": splits})


def write_tokens(folder: Path, n_windows: int) -> None:
    rng = np.random.default_rng(0)
    weight = np.exp(1.5 * rng.standard_normal(N_CODES))
    code_of = np.searchsorted(np.cumsum(weight / weight.sum()), (np.arange(2**16) + 0.5) / 2**16)
    config = {
        "grid": list(GRID), "n_quantisers": 1, "n_codes": N_CODES, "part_windows": PART_WINDOWS,
    }  # fmt: skip
    stage = artefact.begin(folder, kind="tokens", config=config, inputs={"cohort": Sessions.hash})
    starts = range(0, n_windows, PART_WINDOWS)
    for index, start in enumerate(starts):
        n = min(PART_WINDOWS, n_windows - start)
        ids = code_of.astype(np.uint16)[rng.integers(0, 2**16, (n, *GRID), np.uint16)]
        valid = np.arange(GRID[2]) < rng.integers(12, GRID[2] + 1, (n, 1))
        part = {
            "session_id": pa.array([f"S{i:06d}" for i in range(start, start + n)], pa.string()),
            "window": pa.array(np.zeros(n, np.int64)),
            "start_s": pa.array(np.zeros(n)),
            "ids": fixed_lists(ids * valid[:, None, None, :]),
            "valid": fixed_lists(valid),
            "error": pa.nulls(n, pa.string()),
        }
        pq.write_table(pa.table(part), part_path(folder, index), compression="zstd")
    stage.finish(part_path(folder, index).name for index in range(len(starts)))


def memory_mib(field: str, file: str) -> float:
    """A line of `/proc/self/status` or `smaps_rollup`, which count in KiB."""
    lines = Path("/proc/self", file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def load(folder: Path, n_windows: int) -> dict[str, float]:
    """Map the table in this process and draw from it; memory is told beyond what imports take."""
    cohort = Sessions(n_windows)
    before = memory_mib("VmRSS", "status")
    start = time.perf_counter()
    table = TokenTable(folder, cohort)  # type: ignore[arg-type]
    results = {"imports_rss_mib": before, "load_s": time.perf_counter() - start}
    results["peak_loaded_mib"] = memory_mib("VmHWM", "status") - before
    results["rss_loaded_mib"] = memory_mib("VmRSS", "status") - before
    return results | draw(table, folder / CACHE, before)


def draw(table: TokenTable, path: Path, before_mib: float) -> dict[str, float]:
    """Batches a second, what of it the machine needs for the bytes alone, and memory after."""
    results: dict[str, float] = {}
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        chunk = bytearray(4 * MIB)
        while file.readinto(chunk):
            pass
    results["file_read_gb_s"] = path.stat().st_size / (time.perf_counter() - start) / 1e9

    # Every window once, as an epoch does: then all pages are mapped.
    rng = np.random.default_rng(0)
    order = rng.permutation(len(table))
    order = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
    start = time.perf_counter()
    for rows in order:
        table.batch(rows)
    results["first_epoch_batches_s"] = len(order) / (time.perf_counter() - start)
    results["rss_mib"] = memory_mib("VmRSS", "status") - before_mib
    results["peak_mib"] = memory_mib("VmHWM", "status") - before_mib
    results["pss_mib"] = memory_mib("Pss", "smaps_rollup")
    results["anonymous_mib"] = memory_mib("Pss_Anon", "smaps_rollup")

    start = time.perf_counter()
    for rows in order:
        table.batch(rows)
    results["batches_s"] = len(order) / (time.perf_counter() - start)
    out = np.empty((BATCH, table.ids.shape[1]), np.uint16)
    start = time.perf_counter()
    for rows in order:
        np.take(table.ids, rows, axis=0, out=out, mode="clip")
    results["copy_batches_s"] = len(order) / (time.perf_counter() - start)
    widened = np.empty((BATCH, table.ids.shape[1]), np.int64)
    start = time.perf_counter()
    for _ in order:
        np.copyto(widened, out)
    results["widen_batches_s"] = len(order) / (time.perf_counter() - start)
    limit = 1 / (1 / results["copy_batches_s"] + 1 / results["widen_batches_s"])
    results["share_of_limit"] = results["batches_s"] / limit
    results["batch_gb_s"] = results["batches_s"] * out.nbytes / 1e9
    return results


def in_a_process(folder: Path, n_windows: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--windows", str(n_windows), "--load", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--windows", type=int, default=260_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    n = arguments.windows
    if arguments.load:
        print(json.dumps(load(arguments.load, n)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tokens"
        artefact.check_free_disk(folder, n * DISK_BYTES_A_WINDOW)
        start = time.perf_counter()
        write_tokens(folder, n)
        results = {"write_s": time.perf_counter() - start}
        results["parquet_gb"] = sum(f.stat().st_size for f in folder.glob("part-*")) / 1e9
        first = in_a_process(folder, n)  # the Arrow file is made of the parts
        results["first_load_s"] = first["load_s"]
        results["first_load_peak_mib"] = first["peak_loaded_mib"]
        results["arrow_gb"] = (folder / CACHE).stat().st_size / 1e9
        results |= in_a_process(folder, n)
    for key, value in results.items():
        print(f"{key:24}{value:14,.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
