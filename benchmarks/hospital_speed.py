"""Making recordings: sessions a second, against MNE and against the machine.

    python benchmarks/hospital_speed.py [--sessions 40]

One thread. Three figures of the same sessions of 19 channels x 1,280 s at 200 Hz, from seed to EDF:

- ours: who, course, events, signal, amplifier, file (`write_recording`);
- a peer: MNE puts coloured noise of a given covariance on as many channels and samples
  (`mne.simulation.add_noise`), and nothing else: no rhythm, no event, no file;
- the limit: as many normal numbers drawn, and as many bytes written, as a recording has.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import resource
import tempfile
import time
from pathlib import Path

import mne
import numpy as np

from openclef.simulate import SimulationConfig
from openclef.simulate.people import draw_patient
from openclef.simulate.recording import write_recording
from openclef.types import CHANNELS


def peer_s(n_times: int) -> float:
    """Seconds that MNE takes for coloured noise."""
    info = mne.create_info(list(CHANNELS), 200.0, "eeg", verbose="error")
    raw = mne.io.RawArray(np.zeros((len(CHANNELS), n_times)), info, verbose="error")
    covariance = mne.make_ad_hoc_cov(raw.info, verbose="error")
    started = time.perf_counter()
    mne.simulation.add_noise(raw, covariance, iir_filter=[1, -0.9], verbose="error")
    return time.perf_counter() - started


def limit_s(n_times: int, folder: Path) -> float:
    """Seconds to draw one float32 normal a sample, and to write two bytes a sample."""
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    noise = rng.standard_normal((len(CHANNELS), n_times), dtype=np.float32)
    (folder / "bytes").write_bytes(noise.astype(np.int16).tobytes())
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=40)
    args = parser.parse_args()
    config = SimulationConfig(n_patients=args.sessions, seed=1, n_sites=4)
    ours, limits, peers = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recording(folder / "warm.edf", config, *first(config, 0))
        for index in range(args.sessions):
            started = time.perf_counter()
            patient, session = first(config, index)
            write_recording(folder / "a.edf", config, patient, session)
            ours.append(time.perf_counter() - started)
            limits.append(limit_s(session.duration_s * 200, folder))
            if index < 5:
                peers.append(peer_s(session.duration_s * 200))
    median = float(np.median(ours))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    low, high = np.percentile(ours, [5, 95])
    print(f"ours   {median:.3f} s a session (5-95%: {low:.3f}-{high:.3f}), peak {peak:.2f} GiB")
    peer, limit = float(np.median(peers)), float(np.median(limits))
    print(f"peer   {peer:.3f} s (noise alone): ours takes {median / peer:.2f} of it")
    print(f"limit  {limit:.3f} s: ours takes {median / limit:.1f} of it")


def first(config: SimulationConfig, index: int):
    patient = draw_patient(config, index=index)
    return patient, patient.sessions[0]


if __name__ == "__main__":
    main()
