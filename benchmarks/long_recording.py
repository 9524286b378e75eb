"""A day of intensive care in one file: 24 hours, 64 channels, 512 Hz, 16 bit, 5.7 GB.

Writes it (record by record), ingests it as `openclef ingest` would in one worker, and prints the
peak memory of the process, which must stay below 1 GiB: windows are read one at a time.

    python benchmarks/long_recording.py [--hours 24] [--folder DIR]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

import edfio
import numpy as np

from openclef.cohort.session import SessionJob, ingest_session, part_path, read_part
from openclef.cohort.shards import WINDOW_BYTES
from openclef.types import CHANNELS

SFREQ_HZ, N_CHANNELS = 512, 64


def write_day(path: Path, hours: float) -> None:
    """One hour from edfio, its records repeated with noise so that no two are alike."""
    rng = np.random.default_rng(0)
    labels = [f"EEG {name}-REF" for name in CHANNELS]
    labels += [f"X{i}" for i in range(1, N_CHANNELS - len(labels) + 1)]
    minute = [
        edfio.EdfSignal(
            np.cumsum(rng.standard_normal(60 * SFREQ_HZ)) % 100 - 50, SFREQ_HZ, label=label,
            physical_dimension="uV", physical_range=(-3200, 3200),
        )
        for label in labels
    ]  # fmt: skip
    edfio.Edf(minute, data_record_duration=1).write(path)
    content = path.read_bytes()
    header_bytes = 256 * (N_CHANNELS + 1)
    n_minutes = round(60 * hours)
    header = bytearray(content[:header_bytes])
    header[236:244] = str(60 * n_minutes).ljust(8).encode()
    records = np.frombuffer(content[header_bytes:], "<i2")
    with path.open("wb") as handle:
        handle.write(header)
        for _ in range(n_minutes):
            handle.write((records + rng.integers(-400, 400, len(records), np.int16)).tobytes())


def ingest(path: Path, folder: Path) -> None:
    job = SessionJob(
        session_id="S000001", root=folder, path=path, folder=folder, line_hz=None, unit=None,
        windows="all", seed=0, crop_s=float("inf"), size_bytes=path.stat().st_size,
        date_shift=timedelta(0),
    )  # fmt: skip
    start = time.perf_counter()
    ingest_session(job)
    seconds = time.perf_counter() - start
    n_windows = len(read_part(part_path(folder, job.session_id))["windows"])
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n_windows} windows in {seconds:.1f} s, {seconds / n_windows:.3f} s a window")
    print(f"stored: {n_windows * WINDOW_BYTES / 1e6:.0f} MB; threads: {threading.active_count()}")
    print(f"peak resident memory, the file's mapped pages included: {peak_mib:.0f} MiB of 1,024")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        path = Path(name) / "day_eeg.edf"
        write_day(path, arguments.hours)
        print(f"{path.stat().st_size / 1e9:.2f} GB written")
        # A process of its own: writing must not count.
        process = multiprocessing.get_context("spawn").Process(
            target=ingest, args=(path, Path(name))
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
