"""`openclef ingest` on many sessions: throughput with one and two workers, memory, bytes on disk.

Sessions are links to one file (24 channels, 256 Hz, 20 minutes), so what is measured is the
machine, not the disk it would read from; the page cache holds the input. Prints core-hours and
bytes for 260,000 such sessions, extrapolated from the seconds a session takes.

    python benchmarks/ingest_scale.py [--sessions 64] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from edf_to_spectrogram import write_recording

ARCHIVE = 260_000


def make_archive(folder: Path, n_sessions: int) -> None:
    folder.mkdir()
    write_recording(folder / "0.edf")
    for i in range(1, n_sessions):
        (folder / f"{i}.edf").hardlink_to(folder / "0.edf")
    rows = pl.DataFrame(
        {
            "subject": [f"p{i}" for i in range(n_sessions)],
            "file": [f"{i}.edf" for i in range(n_sessions)],
        }
    )
    rows.write_csv(folder / "labels.csv")


def ingest(source: Path, out: Path, *, n_workers: int) -> tuple[float, float]:
    """Wall seconds of the whole command, and of reading recordings alone (by its parts' times)."""
    command = [
        sys.executable, "-c", "from openclef.cli import main; main()", "ingest", str(source),
        str(out), "--crop", "none", "--workers", str(n_workers),
    ]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    n = arguments.sessions
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_archive(folder / "few", 8)
        make_archive(folder / "many", 8 + n)
        for n_workers in (1, 2):
            # Start-up, tables and page cancel in the difference of two archives.
            seconds = {}
            for size in ("few", "many"):
                out = folder / f"{size}{n_workers}"
                seconds[size] = ingest(folder / size, out, n_workers=n_workers)
                n_bytes = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
                shutil.rmtree(out)
            results[f"s_a_session_{n_workers}"] = (seconds["many"] - seconds["few"]) / n
            results[f"start_s_{n_workers}"] = (
                seconds["few"] - 8 * results[f"s_a_session_{n_workers}"]
            )
            results["bytes_a_session"] = n_bytes / (8 + n)
    one, two = results["s_a_session_1"], results["s_a_session_2"]
    results["two_over_one"] = one / two
    results["peak_child_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    results["archive_core_hours"] = ARCHIVE * one / 3600
    results["archive_tb"] = ARCHIVE * results["bytes_a_session"] / 1e12
    for key, value in results.items():
        print(f"{key:22}{value:12.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
