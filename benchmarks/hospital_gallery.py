"""Pages of simulated EEG, one a finding, for a reader of EEG to look at.

    python benchmarks/hospital_gallery.py OUT [--hospital v1] [--seed 0] [--patients 4000]

Patients are drawn until each finding has a session; the page is cut where the truth says that most
of it happens. Each page shows a longitudinal bipolar montage and the same seconds against linked
ears; that of a seizure its beginning and its end. 30 mm/s, negative up, 0.5-70 Hz. OUT gets a PNG a
finding and `gallery.md`, in half a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scipy.signal import butter, sosfiltfilt

from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.events import Events
from openclef.simulate.eeg.head import ELECTRODES
from openclef.simulate.eeg.session import Truth, draw_truth, make_signal
from openclef.simulate.findings import PATTERNS
from openclef.simulate.patients import Patient, Session
from openclef.simulate.people import draw_patient
from openclef.types import CHANNELS, FloatArray

# Finding -> uV/mm of its page.
PAGES = {
    "focal_slowing": 10, "generalized_slowing": 10, "spikes": 10, "sharp_waves": 10,
    "spike_wave": 15, "polyspikes": 15, "photoparoxysmal": 15, "seizure": 15, "lpd": 10,
    "bipd": 10, "gpd": 10, "triphasic": 10, "lrda": 10, "grda": 10, "burst_suppression": 10,
    "breach": 10, "wicket": 7, "bets": 7, "posts": 7, "low_voltage": 7,
}  # fmt: skip
CHAINS = (
    ("Fp1", "F7", "T3", "T5", "O1"), ("Fp2", "F8", "T4", "T6", "O2"),
    ("Fp1", "F3", "C3", "P3", "O1"), ("Fp2", "F4", "C4", "P4", "O2"), ("Fz", "Cz", "Pz"),
)  # fmt: skip
REFERENTIAL = (
    "Fp1", "F7", "T3", "T5", "O1", "F3", "C3", "P3", "Fz", "Cz", "Pz",
    "F4", "C4", "P4", "Fp2", "F8", "T4", "T6", "O2",
)  # fmt: skip
PAGE_S, MM_PER_S, MM_PER_CHANNEL = 11, 30, 9
CANDIDATES = 8
# What hides a finding on a page.
HIDING = ("muscle", "movement", "pop", "blink", "tremor", "jerk", "chewing", "percussion")


def sessions_with(config: SimulationConfig, finding: str) -> Iterator[tuple[Patient, Session]]:
    for index in range(config.n_patients):
        patient = draw_patient(config, index=index)
        for session in patient.sessions:
            hidden = session.bad_channels or ("low_voltage" in session.findings.keys() - {finding})
            if finding in session.findings and not hidden:
                yield patient, session


def covered(groups: list[Events], n_seconds: int) -> np.ndarray:
    """Number of events under way, `[T]` at tenths of a second."""
    change = np.zeros(10 * n_seconds + 1)
    for group in groups:
        first = (10 * group.onset_s).astype(int).clip(0, 10 * n_seconds)
        last = np.ceil(10 * (group.onset_s + group.duration_s)).astype(int)
        np.add.at(change, first, 1)
        np.add.at(change, last.clip(0, 10 * n_seconds), -1)
    return np.cumsum(change)[:-1]


def best_start(truth: Truth, finding: str) -> float:
    """Second at which a page begins that shows most of a finding, and little that hides it."""
    n_seconds = truth.course.n_seconds
    shown = np.minimum(covered(truth.of(finding), n_seconds), 1)
    hidden = np.minimum(covered(truth.of(*HIDING), n_seconds), 1)
    # In the middle of the page rather than at its ends; surroundings belong to a pattern.
    page = 1 + np.hanning(10 * PAGE_S)
    filled = np.convolve(shown, page, "valid")
    score = np.minimum(filled, 0.6 * page.sum()) - 2 * np.convolve(hidden, page, "valid")
    return int(np.argmax(score)) / 10


def find(config: SimulationConfig, finding: str) -> tuple[Patient, Session, Truth] | None:
    """Of the first sessions in which a finding happens, one that shows it best, and little else."""
    found = []

    def shown(truth: Truth) -> float:
        return min(20, sum(len(group) for group in truth.of(finding))) / 5

    for patient, session in sessions_with(config, finding):
        truth = draw_truth(config, patient, session)
        if truth.of(finding):
            found.append((patient, session, truth))
        if len(found) == CANDIDATES:
            break
    return min(found, key=lambda each: len(each[1].findings) - shown(each[2]), default=None)


def bipolar(signal: FloatArray) -> tuple[list[str], FloatArray]:
    pairs = [pair for chain in CHAINS for pair in pairwise(chain)]
    row = {name: i for i, name in enumerate(ELECTRODES)}
    traces = [signal[row[a]] - signal[row[b]] for a, b in pairs]
    return [f"{a}-{b}" for a, b in pairs], np.stack(traces)


def linked_ears(signal: FloatArray) -> tuple[list[str], FloatArray]:
    ears = signal[len(CHANNELS) :].mean(axis=0)
    rows = [ELECTRODES.index(name) for name in REFERENTIAL]
    return list(REFERENTIAL), signal[rows] - ears


def draw_page(
    axes: Axes, names: list[str], traces: FloatArray, start_s: float, *, sfreq_hz: int, uv_mm: float
) -> None:
    first = round(start_s * sfreq_hz)
    cut = traces[:, first : first + PAGE_S * sfreq_hz]
    times_s = start_s + np.arange(cut.shape[1]) / sfreq_hz
    for row, (name, trace) in enumerate(zip(names, cut, strict=True)):
        # Negative up.
        axes.plot(times_s, -trace / uv_mm - row * MM_PER_CHANNEL, "k", lw=0.55)
        axes.text(start_s - 0.1, -row * MM_PER_CHANNEL, name, ha="right", va="center", fontsize=7)
    axes.set_xlim(start_s, start_s + PAGE_S)
    axes.set_ylim(-len(names) * MM_PER_CHANNEL - 4, 14)
    axes.set_xticks(np.arange(np.ceil(start_s), start_s + PAGE_S + 1e-6))
    axes.grid(axis="x", lw=0.3)
    axes.set_yticks([])


def draw_finding(
    config: SimulationConfig, finding: str, found: tuple[Patient, Session, Truth], path: Path
) -> str:
    """Draw the page of a finding; return its row of the table."""
    patient, session, truth = found
    signal = make_signal(config, patient, session, truth)
    band = butter(2, (0.5, 70), "bandpass", fs=session.sfreq_hz, output="sos")
    signal = sosfiltfilt(band, signal, axis=1)
    groups = truth.of(finding)
    if finding == "seizure":
        begin_s, length_s = groups[0].onset_s[0], groups[0].duration_s[0]
        panels = [
            (bipolar(signal), max(0.0, begin_s - 2), "beginning"),
            (bipolar(signal), begin_s + length_s - PAGE_S + 3, "end"),
        ]
    else:
        start_s = best_start(truth, finding)
        panels = [
            (bipolar(signal), start_s, "longitudinal bipolar"),
            (linked_ears(signal), start_s, "linked ears"),
        ]
    size_mm = (2 * (PAGE_S * MM_PER_S + 30), (len(REFERENTIAL) + 2) * MM_PER_CHANNEL + 25)
    figure, axes = plt.subplots(1, 2, figsize=np.array(size_mm) / 25.4, layout="constrained")
    for axis, ((names, traces), at_s, title) in zip(axes, panels, strict=True):
        uv_mm = PAGES[finding]
        draw_page(axis, names, traces, at_s, sfreq_hz=session.sfreq_hz, uv_mm=uv_mm)
        axis.set_title(f"{finding}, {title}: {PATTERNS[finding].description} ({uv_mm} uV/mm)")
    figure.savefig(path, dpi=75)
    plt.close(figure)
    n_events = sum(len(group) for group in groups)
    place = groups[0].place
    where = " ".join(filter(None, (place.side, place.region))) if place else ""
    return (
        f"| {finding} | {patient.name} {session.name} | {session.setting} | {where} | {n_events} "
        f"| {panels[0][1]:.0f} | ![{PATTERNS[finding].description}]({path.name}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--hospital", default="v1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patients", type=int, default=4000)
    parser.add_argument("--only", nargs="+", choices=list(PAGES), default=list(PAGES))
    options = parser.parse_args()
    mpl.use("Agg")
    options.out.mkdir(parents=True, exist_ok=True)
    config = SimulationConfig(
        n_patients=options.patients, seed=options.seed, hospital=options.hospital, sfreq=200
    )
    rows = [
        "| finding | session | setting | where | events | page from, s | page |",
        "|---|---|---|---|---|---|---|",
    ]
    for finding in options.only:
        found = find(config, finding)
        if found is None:
            rows.append(f"| {finding} | none among {options.patients} patients | | | | | |")
            continue
        rows.append(draw_finding(config, finding, found, options.out / f"{finding}.png"))
    (options.out / "gallery.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
