"""EDF file -> stored spectrogram: openclef against the recipe everybody pastes, on one core.

The recording: 24 channels, 256 Hz, 20 minutes, EEG-like noise with drift and line. The recipe:
MNE reads, filters 0.1-75 Hz, notches, resamples to 200 Hz, and takes `psd_array_multitaper` of
4-s windows every second, stored as float16. Ours: the same; and all that `openclef ingest` does of
a recording: quality report and checksum, and the second pass that makes a compressed, checksummed
shard of 16 of them (a sixteenth of its time). The floor: reading the file's bytes, and the bare
real FFTs of the frames.

    python benchmarks/edf_to_spectrogram.py [--repeats 5] [--json out.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

for _name in (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
    "BLOSC_NTHREADS", "ZARR_THREADING__MAX_WORKERS", "ZARR_ASYNC__CONCURRENCY",
):  # fmt: skip
    os.environ[_name] = "1"  # before numpy is imported

import edfio
import mne
import numpy as np
import scipy.fft

from openclef.cohort.session import SessionJob, ingest_session, power_path
from openclef.cohort.shards import SHARD_WINDOWS, ShardJob, create_array, write_shard
from openclef.signal import assess_window, open_recording, window_spectrogram
from openclef.types import CHANNELS

SFREQ_HZ, DURATION_S, N_CHANNELS = 256, 1200, 24


def write_recording(path: Path) -> None:
    rng = np.random.default_rng(0)
    n_times = SFREQ_HZ * DURATION_S
    times_s = np.arange(n_times) / SFREQ_HZ
    freqs_hz = np.fft.rfftfreq(n_times, 1 / SFREQ_HZ)
    shape = 1 / np.maximum(freqs_hz, 0.5)
    labels = [f"EEG {name.upper()}-REF" for name in CHANNELS] + ["EKG", "LOC", "ROC", "EMG", "RESP"]
    signals = []
    for label in labels:
        spectrum = shape * np.exp(2j * np.pi * rng.random(len(freqs_hz)))
        eeg = np.fft.irfft(spectrum, n_times)
        drift = np.cumsum(rng.standard_normal(n_times)) * 0.05
        line = 5 * np.sin(2 * np.pi * 60.01 * times_s + rng.random())
        signal = 20 * eeg / eeg.std() + drift - drift.mean() + line
        signals.append(
            edfio.EdfSignal(
                np.clip(signal, -3000, 3000), SFREQ_HZ, label=label, physical_dimension="uV",
                physical_range=(-3200, 3200),
            )
        )  # fmt: skip
    assert len(signals) == N_CHANNELS
    edfio.Edf(signals, data_record_duration=1).write(path)


def recipe(path: Path, out: Path) -> None:
    raw = mne.io.read_raw_edf(path, preload=True, verbose="ERROR")
    raw.pick([name for name in raw.ch_names if name.startswith("EEG")])
    raw.filter(0.1, 75.0, verbose="ERROR")
    raw.notch_filter(60.0, verbose="ERROR")
    raw.resample(200.0, verbose="ERROR")
    signal_uv = raw.get_data() * 1e6
    frames = np.lib.stride_tricks.sliding_window_view(signal_uv, 800, axis=-1)[:, ::200]
    psd, _ = mne.time_frequency.psd_array_multitaper(
        frames, 200.0, fmax=31.75, bandwidth=1.0, low_bias=False, adaptive=False,
        normalization="full", verbose="ERROR",
    )  # fmt: skip
    np.save(out, (10 * np.log10(psd + 1e-10)).astype(np.float16))


def ours(path: Path, out: Path) -> None:
    (window,) = open_recording(path).iter_windows()
    np.save(out, window_spectrogram(window).power_db.astype(np.float16))


def best_s(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Minimum and median seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times), float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "session_eeg.edf"
        write_recording(path)
        job = SessionJob(
            session_id="S000001", root=folder, path=path, folder=folder, line_hz=None, unit=None,
            windows="all", seed=0, crop_s=float("inf"), size_bytes=path.stat().st_size,
            date_shift=timedelta(0),
        )  # fmt: skip
        window = next(open_recording(path).iter_windows())
        create_array(folder / "array", n_rows=1000 * SHARD_WINDOWS)
        rows = itertools.count(step=SHARD_WINDOWS)
        put_aside = power_path(folder, job.session_id)
        sixteen = ((put_aside, 0),) * SHARD_WINDOWS
        frames = np.zeros((1280 * 19, 4 * SFREQ_HZ), np.float32)
        calls: dict[str, Callable[[], object]] = {
            "recipe (MNE)": lambda: recipe(path, folder / "recipe.npy"),
            "openclef, the same": lambda: ours(path, folder / "ours.npy"),
            "openclef, all of the first pass": lambda: ingest_session(job),
            "openclef, a shard of 16": lambda: write_shard(
                ShardJob(folder / "array", next(rows), sixteen)
            ),
            "  read and decode": lambda: next(open_recording(path).iter_windows()),
            "  quality report": lambda: assess_window(window),
            "  spectrogram with filters": lambda: window_spectrogram(window),
            "floor: bytes of the file": path.read_bytes,
            "floor: one real FFT a frame": lambda: scipy.fft.rfft(frames),
        }
        for call in calls.values():
            call()  # compile, cache
        rounds = [
            {n: best_s(call, 1)[0] for n, call in calls.items()} for _ in range(arguments.repeats)
        ]
    results = {n: [r[n] for r in rounds] for n in calls}
    theirs = results["recipe (MNE)"]
    print(f"{'':34}{'min s':>9}{'median s':>10}{'recipe / it':>13}")
    for name, times in results.items():
        ratio = float(np.median([a / b for a, b in zip(theirs, times, strict=True)]))
        print(f"{name:34}{min(times):9.4f}{float(np.median(times)):10.4f}{ratio:13.1f}")
    first, shards = results["openclef, all of the first pass"], results["openclef, a shard of 16"]
    whole = [a + b / SHARD_WINDOWS for a, b in zip(first, shards, strict=True)]
    ratio = float(np.median([a / b for a, b in zip(theirs, whole, strict=True)]))
    name = "openclef, all that ingest does"
    print(f"{name:34}{min(whole):9.4f}{float(np.median(whole)):10.4f}{ratio:13.1f}")
    floor = sum(min(v) for n, v in results.items() if n.startswith("floor"))
    print(f"all that ingest does / floor: {min(whole) / floor:.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
