"""Time and error of the fused spectrogram beside the plain algorithm, MNE and the bare FFTs.

A session of 19 x 1,280 s at 200 Hz, one thread, rounds in turn so that all meet the same machine:

    python benchmarks/spectrogram.py [--json OUT] [--rounds 7]

The bare FFTs are those of the plain algorithm (19 channels x 1,280 frames x 4 tapers of 800
samples, float32), by scipy or torch, whichever is faster here. Errors are in dB against the
float64 algorithm where it is above -20 dB: on simulated EEG, and on real recordings, raw and
preprocessed, in the folder OPENCLEF_DATA if it is set.
"""

from __future__ import annotations

import os

os.environ.update(
    dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
)

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mne
import numpy as np
import scipy.fft
import torch

from openclef.signal.filters import preprocess
from openclef.signal.fused import fused_power_db
from openclef.signal.multitaper import multitaper_psd
from openclef.types import CHANNELS, Recording

N_CHANS, N_SECONDS, SFREQ_HZ = 19, 1280, 200
DATA_SETS = (
    ("eegmat/edf_200hz", 50),
    ("iiic_sparcnet/edf", 60),
    ("guinea_bissau_epilepsy/edf", 50),
)


def raw_eeg(n_chans: int, duration_s: float, sfreq_hz: float, line_hz: float) -> np.ndarray:
    """Pink noise of 20 uV, drift, sweat and a changing line, `[C, S]` float32."""
    rng = np.random.default_rng(0)
    times_s = np.arange(round(duration_s * sfreq_hz)) / sfreq_hz
    freqs_hz = np.fft.rfftfreq(len(times_s), 1 / sfreq_hz)
    phases = np.exp(2j * np.pi * rng.random((n_chans, len(freqs_hz))))
    pink = np.fft.irfft((freqs_hz < 75) / np.maximum(freqs_hz, 0.3) ** 0.8 * phases, len(times_s))
    drift = np.cumsum(rng.standard_normal(pink.shape), axis=1) * 14 / np.sqrt(sfreq_hz)
    sweat = 150 * np.sin(2 * np.pi * 0.2 * times_s) * np.sin(2 * np.pi * 0.013 * times_s)
    level = 30 * (1 + 0.3 * np.sin(2 * np.pi * 0.05 * times_s))
    line = level * np.sin(2 * np.pi * (line_hz + 0.03) * times_s)
    return (20 * pink / pink.std() + drift + sweat + line).astype(np.float32)


def contenders(session: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    # 128 transforms at a time, whose spectra stay in the cache: the best case for a bare FFT.
    frames = np.random.default_rng(0).standard_normal((128, 800)).astype(np.float32)
    frames_torch = torch.from_numpy(frames)
    n_blocks = N_CHANS * N_SECONDS * 4 // len(frames)
    windows = np.lib.stride_tricks.sliding_window_view(session, 800, axis=1)[:, ::SFREQ_HZ]

    def mne_psd() -> None:
        for channel in windows:
            mne.time_frequency.psd_array_multitaper(
                channel.astype(np.float64), float(SFREQ_HZ), bandwidth=1, low_bias=False,
                normalization="full", verbose="ERROR",
            )  # fmt: skip

    def repeat(rfft: Callable[[object], object], block: object) -> None:
        for _ in range(n_blocks):
            rfft(block)

    def ours(line_hz: float | None) -> None:
        for channel in session:
            fused_power_db(channel, sfreq_hz=SFREQ_HZ, line_hz=line_hz)

    return {
        "rfft_scipy": lambda: repeat(scipy.fft.rfft, frames),
        "rfft_torch": lambda: repeat(torch.fft.rfft, frames_torch),
        "plain": lambda: multitaper_psd(session, sfreq_hz=SFREQ_HZ),
        "mne": mne_psd,
        "fused": lambda: ours(None),
        "fused_raw": lambda: ours(60),
    }


def measure(runs: dict[str, Callable[[], object]], n_rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each, after one round that compiles and designs."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for counted in [False] + [True] * n_rounds:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return {name: {"min_s": min(s), "median_s": float(np.median(s))} for name, s in seconds.items()}


def recordings() -> Iterator[tuple[str, np.ndarray, float, float]]:
    """Name, `[C, S]` in microvolts, rate and line frequency of what errors are measured on."""
    for rate in (128, 200, 256, 500):
        line_hz = 60 if rate > 128 else 50
        yield f"simulated, {rate} Hz", raw_eeg(4, 300, rate, line_hz), rate, line_hz
    folder = os.environ.get("OPENCLEF_DATA")
    for name, line_hz in DATA_SETS if folder else ():
        for path in sorted(Path(str(folder), name).glob("*.edf")):
            raw = mne.io.read_raw_edf(path, preload=True, verbose="ERROR")
            signals = raw.get_data()[:N_CHANS:4] * 1e6
            yield name, signals.astype(np.float32), raw.info["sfreq"], line_hz


def errors_db() -> dict[str, list[float]]:
    """Median, 99.9th percentile and maximum by data set, of raw and of preprocessed signals."""
    errors: dict[str, list[np.ndarray]] = {}
    for name, signals, sfreq_hz, line_hz in recordings():
        names = CHANNELS[: len(signals)]
        recording = Recording(signals, sfreq_hz, names, np.zeros(len(names), np.bool_))
        filtered = preprocess(recording, line_hz=line_hz).signal_uv
        for raw, channel in zip(signals, filtered, strict=False):
            psd, _ = multitaper_psd(np.pad(channel, 400, mode="reflect"), sfreq_hz=SFREQ_HZ)
            reference = 10 * np.log10(psd[:, :-1] + 1e-10)
            shown = reference > -20
            power_db = fused_power_db(raw, sfreq_hz=sfreq_hz, line_hz=line_hz)
            errors.setdefault(f"{name}, raw", []).append((power_db - reference)[shown])
            power_db = fused_power_db(channel, sfreq_hz=SFREQ_HZ, line_hz=None)
            errors.setdefault(f"{name}, preprocessed", []).append((power_db - reference)[shown])
    return {
        name: np.quantile(np.abs(np.concatenate(parts)), [0.5, 0.999, 1]).tolist()
        for name, parts in errors.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    seconds = measure(contenders(raw_eeg(N_CHANS, N_SECONDS, SFREQ_HZ, 60)), arguments.rounds)
    bare = min(("rfft_scipy", "rfft_torch"), key=lambda name: seconds[name]["min_s"])
    ratios = {
        f"{ours}/{name}": seconds[ours]["min_s"] / seconds[name]["min_s"]
        for ours in ("fused", "fused_raw")
        for name in (bare, "plain", "mne")
    }
    errors = errors_db()
    for name, taken in seconds.items():
        print(f"{name:12s} {taken['min_s']:.4f} s (median {taken['median_s']:.4f} s)")
    for name, ratio in ratios.items():
        print(f"{name:22s} {ratio:.3f}")
    for name, quantiles in errors.items():
        print(f"{name:42s} " + " ".join(f"{error:.4f}" for error in quantiles) + " dB")
    if arguments.json:
        results = {"seconds": seconds, "ratios": ratios, "errors_db": errors}
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
