"""The simulated hospital beside real EEG: ten statistics a set, and whether they agree.

    python benchmarks/hospital_plausibility.py --data $OPENCLEF_DATA --out FOLDER [--patients 40]

Two comparisons, never pooled. **Healthy**: rest with eyes closed of the 36 students of `eegmat`
(linked ears, artefact-cleaned, 1-40 Hz) against routine sessions of people of 16 to 30 without any
cause (`effect_size=0`) at sites with linked ears, the first 180 s of wakefulness with eyes closed
that hold no artefact. **Intensive care**: the 12 clips of `iiic_sparcnet` (50 s, raw) against
one clip of 50 s, drawn at random, from each simulated intensive-care session. Simulated sessions
are written as EDF files and read like the real ones; statistics are computed by the same code.
Ten of the real clips were picked for a seizure or pattern that they hold, simulated ones were not.

A statistic agrees if the simulated median lies within the real interquartile range. Prints a table,
writes `plausibility.json` and a figure of each set to FOLDER.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import mne
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import signal

from openclef.signal.formats import open_recording
from openclef.signal.montage import order_channels
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.course import WAKE
from openclef.simulate.eeg.session import Truth, draw_truth
from openclef.simulate.findings import PATTERNS
from openclef.simulate.parameters import Setting, generator_hash
from openclef.simulate.patients import Patient, Session
from openclef.simulate.people import draw_patient
from openclef.simulate.recording import write_recording
from openclef.types import CHANNELS, SFREQ_HZ

Array = NDArray[np.number]

EPOCH_S = 4
HEALTHY_S, SHORTEST_S, CLIP_S = 180, 60, 50
HEALTHY_HZ, CLIP_HZ = (1.0, 40.0), (0.5, 40.0)
# Enough to find the patients asked for.
MOST_DRAWN = 100_000
ARTEFACTS = ("blink", "eye_movement", "muscle", "jerk", "tremor", "pop", "movement", "chewing")
FRONTAL, OCCIPITAL, POSTERIOR = ("F3", "Fz", "F4"), ("O1", "O2"), ("O1", "O2", "P3", "Pz", "P4")
LEFT = ("Fp1", "F3", "F7", "C3", "T3", "P3", "T5", "O1")
RIGHT = ("Fp2", "F4", "F8", "C4", "T4", "P4", "T6", "O2")
# One wide panel of spectra, ten small ones of statistics.
MOSAIC = [["psd", f"{i}", f"{i + 1}"] for i in range(0, 10, 2)]
CREDITS = {
    "healthy": "eegmat, Zyma et al. 2019, doi:10.3390/data4010014, PhysioNet, ODC-BY 1.0",
    "intensive care": "SPaRCNet, Jing et al. 2023, doi:10.1212/WNL.0000000000207127, ODC-BY 1.0",
}
MODERN = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}


@dataclass(frozen=True, eq=False)
class Eeg:
    """What a statistic sees: epochs `[N, C, S]` in uV, filtered, and the mean spectrum of the raw.

    freqs_hz `[F]`, psd_uv2hz `[C, F]`.
    """

    epochs: Array
    freqs_hz: Array
    psd_uv2hz: Array

    @classmethod
    def of(cls, raw_CS: Array, *, band_hz: tuple[float, float], starts_s: Array) -> Eeg:
        """Filter without lag, then cut epochs at the given seconds."""
        sos = signal.butter(4, band_hz, "bandpass", fs=SFREQ_HZ, output="sos")
        samples_NS = (starts_s * SFREQ_HZ).astype(int)[:, None] + np.arange(int(EPOCH_S * SFREQ_HZ))
        raw_CS = raw_CS - raw_CS.mean(axis=1, keepdims=True)
        epochs = signal.sosfiltfilt(sos, raw_CS, axis=1)[:, samples_NS].transpose(1, 0, 2)
        freqs_hz, psd_CNF = signal.periodogram(
            raw_CS[:, samples_NS], fs=SFREQ_HZ, window="hann", detrend="constant"
        )
        # A flat channel has a density, too, or its logarithm would be infinite.
        return cls(epochs, freqs_hz, np.maximum(psd_CNF.mean(axis=1), 1e-9))

    def band(self, low_hz: float, high_hz: float) -> Array:
        """Mean density `[C]` from low (included) to high."""
        inside = (self.freqs_hz >= low_hz) & (self.freqs_hz < high_hz)
        return self.psd_uv2hz[:, inside].mean(axis=1)

    def flat(self) -> Array:
        """All epochs in a row, `[C, N * S]`."""
        return np.concatenate(list(self.epochs), axis=1)


def rows(names: tuple[str, ...]) -> list[int]:
    return [CHANNELS.index(name) for name in names]


def decibel(ratio: Array | float) -> Array:
    return 10 * np.log10(ratio)


def aperiodic(freqs_hz: Array, psd: Array) -> tuple[float, float]:
    """Slope and offset of log10 density over log10 frequency, 2-35 Hz, alpha left out."""
    used = (freqs_hz >= 2) & (freqs_hz <= 35) & ~((freqs_hz >= 6.5) & (freqs_hz <= 14))
    # Every octave weighs the same, or the upper one alone would decide.
    weights = 1 / np.sqrt(freqs_hz[used])
    return tuple(np.polyfit(np.log10(freqs_hz[used]), np.log10(psd[used]), 1, w=weights))


def alpha_peak(eeg: Eeg) -> tuple[float, float]:
    """Frequency in Hz (centroid 1 Hz about the peak) and height over the aperiodic fit in dB."""
    psd = eeg.psd_uv2hz[rows(POSTERIOR)].mean(axis=0)
    slope, offset = aperiodic(eeg.freqs_hz, psd)
    freqs_hz = eeg.freqs_hz[1:]
    excess_db = decibel(psd[1:]) - 10 * (offset + slope * np.log10(freqs_hz))
    inside = (freqs_hz >= 7) & (freqs_hz <= 13.5)
    peak = int(np.argmax(np.where(inside, excess_db, -np.inf)))
    near = np.abs(freqs_hz - freqs_hz[peak]) <= 1
    return float(np.average(freqs_hz[near], weights=psd[1:][near])), float(excess_db[peak])


@cache
def distances_cm() -> Array:
    """Between electrodes, `[C, C]`, on MNE's spherical head."""
    positions = mne.channels.make_standard_montage("easycap-M1").get_positions()["ch_pos"]
    xyz_C3 = np.array([positions[MODERN.get(name, name)] for name in CHANNELS])
    return 100 * np.linalg.norm(xyz_C3[:, None] - xyz_C3, axis=2)


def correlation(eeg: Eeg) -> tuple[float, float]:
    """Mean absolute correlation of all pairs; that of neighbours (< 8 cm) minus distant (> 12)."""
    upper = np.triu_indices(len(CHANNELS), 1)
    # A flat channel has no correlation.
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.abs(np.corrcoef(eeg.flat()))[upper]
    apart_cm = distances_cm()[upper]
    near, far = r[apart_cm < 8], r[apart_cm > 12]
    return float(np.nanmean(r)), float(np.nanmean(near) - np.nanmean(far))


def edge_hz(eeg: Eeg) -> float:
    """Frequency below which 95% of the power from 1 to 40 Hz lies, median over channels."""
    inside = (eeg.freqs_hz >= 1) & (eeg.freqs_hz <= 40)
    cumulated_CF = np.cumsum(eeg.psd_uv2hz[:, inside], axis=1)
    at = (cumulated_CF < 0.95 * cumulated_CF[:, -1:]).sum(axis=1)
    return float(np.median(eeg.freqs_hz[inside][at]))


def tail(eeg: Eeg) -> float:
    low, high = np.percentile(np.abs(eeg.flat()), (50, 99.9), axis=1)
    return float(np.median(high / np.maximum(low, 1e-3)))


def alpha_cv(eeg: Eeg) -> float:
    """How much posterior alpha waxes and wanes: SD over mean of its envelope."""
    sos = signal.butter(4, (7.5, 13), "bandpass", fs=SFREQ_HZ, output="sos")
    alpha = signal.sosfiltfilt(sos, eeg.epochs[:, rows(POSTERIOR)], axis=2)
    # Half a second at each end belongs to the filter.
    envelope = np.abs(signal.hilbert(alpha, axis=2))[:, :, 100:-100]
    return float(np.median(envelope.std(axis=(0, 2)) / envelope.mean(axis=(0, 2))))


def quiet_uv(eeg: Eeg) -> float:
    """Peak to peak in the quietest tenth of seconds, median over channels."""
    n_epochs, n_chans, _ = eeg.epochs.shape
    seconds = eeg.epochs.reshape(n_epochs, n_chans, EPOCH_S, int(SFREQ_HZ))
    return float(np.percentile(np.median(np.ptp(seconds, axis=3), axis=1), 10))


def asymmetry_db(eeg: Eeg) -> float:
    """Left against right, 1-30 Hz: mean over homologous pairs of the absolute difference."""
    power = eeg.band(1, 30)
    return float(np.abs(decibel(power[rows(LEFT)] / power[rows(RIGHT)])).mean())


def line_db(eeg: Eeg) -> float:
    """Density at 60 Hz over that beside it, median over channels."""
    beside = (eeg.band(53, 57) + eeg.band(63, 67)) / 2
    return float(np.median(decibel(eeg.band(59.5, 60.5) / beside)))


def exponent(eeg: Eeg) -> float:
    return float(np.median([-aperiodic(eeg.freqs_hz, psd_F)[0] for psd_F in eeg.psd_uv2hz]))


def back_to_front_db(eeg: Eeg) -> float:
    alpha_C = eeg.band(8, 13)
    return float(decibel(alpha_C[rows(OCCIPITAL)].mean() / alpha_C[rows(FRONTAL)].mean()))


def delta_share(eeg: Eeg) -> float:
    return float(np.median(3 * eeg.band(1, 4) / (29 * eeg.band(1, 30))))


Statistics = Mapping[str, Callable[[Eeg], float]]

SHARED: Statistics = {
    "aperiodic exponent": exponent,
    "SD, uV": lambda eeg: float(np.median(eeg.flat().std(axis=1))),
    "amplitude, 99.9 / 50 percentile": tail,
    "correlation of channels": lambda eeg: correlation(eeg)[0],
    "correlation, near - far": lambda eeg: correlation(eeg)[1],
    "95% spectral edge, Hz": edge_hz,
}
HEALTHY: Statistics = {
    **SHARED,
    "alpha peak, Hz": lambda eeg: alpha_peak(eeg)[0],
    "alpha peak over aperiodic, dB": lambda eeg: alpha_peak(eeg)[1],
    "alpha, back / front, dB": back_to_front_db,
    "alpha envelope, SD / mean": alpha_cv,
}
ICU: Statistics = {
    **SHARED,
    "delta share of 1-30 Hz": delta_share,
    "quiet level, uV peak to peak": quiet_uv,
    "left-right asymmetry, dB": asymmetry_db,
    "60 Hz over its surroundings, dB": line_db,
}


def read_uv(path: Path) -> Array:
    file = open_recording(path)
    # Without the check of `read_recording`: millivolts of artefact belong to intensive care.
    return order_channels(file.read(start_s=0.0, stop_s=file.duration_s)).signal_uv


def real_healthy(data: Path) -> Iterator[Eeg]:
    for raw_CS in map(read_uv, sorted((data / "eegmat" / "edf_200hz").glob("*_1.edf"))):
        duration_s = min(HEALTHY_S, int(raw_CS.shape[1] / SFREQ_HZ))
        starts_s = np.arange(0, duration_s - EPOCH_S + 1, EPOCH_S)
        yield Eeg.of(raw_CS, band_hz=HEALTHY_HZ, starts_s=starts_s)


def real_icu(data: Path) -> Iterator[Eeg]:
    return map(clip, map(read_uv, sorted((data / "iiic_sparcnet" / "edf").glob("*.edf"))))


def clip(raw_CS: Array) -> Eeg:
    """Take a clip of 50 s as it is: 12 whole epochs."""
    return Eeg.of(raw_CS, band_hz=CLIP_HZ, starts_s=np.arange(0, CLIP_S - EPOCH_S + 1, EPOCH_S))


def simulated_healthy(seed: int) -> Iterator[Eeg]:
    config = SimulationConfig(seed=seed, n_patients=MOST_DRAWN, effect_size=0)
    for patient, session in sessions(config, "routine"):
        is_alike = 16 <= session.age <= 30 and patient.site.reference == "linked ears"
        is_normal = not any(PATTERNS[name].abnormal for name in session.findings)
        if not (is_alike and is_normal) or session.bad_channels:
            continue
        starts_s = quiet_epochs(draw_truth(config, patient, session))
        if len(starts_s) >= SHORTEST_S / EPOCH_S:
            raw_CS = simulate_uv(config, patient, session)
            yield Eeg.of(raw_CS, band_hz=HEALTHY_HZ, starts_s=starts_s)


def quiet_epochs(truth: Truth) -> Array:
    """Starts of the first epochs of wakefulness with eyes closed, unprovoked, free of artefacts."""
    course = truth.course
    is_used = (course.stage == WAKE) & (course.eyes_closed > 0.95)
    is_used &= (course.hyperventilation < 0.05) & (course.photic_hz == 0)
    for events in truth.of(*ARTEFACTS):
        for onset_s, stop_s in zip(events.onset_s, events.onset_s + events.duration_s, strict=True):
            is_used[int(onset_s) : int(np.ceil(stop_s))] = False
    starts: list[int] = []
    for second in range(len(is_used) - EPOCH_S + 1):
        if is_used[second : second + EPOCH_S].all():
            starts.append(second)
            is_used[second : second + EPOCH_S] = False  # no two epochs overlap
    return np.array(starts[: HEALTHY_S // EPOCH_S])


def simulated_icu(seed: int) -> Iterator[Eeg]:
    config = SimulationConfig(seed=seed, n_patients=MOST_DRAWN)
    for patient, session in sessions(config, "icu"):
        rng = np.random.default_rng([seed, patient.index])
        first = int(rng.integers(session.duration_s - CLIP_S) * SFREQ_HZ)
        raw_CS = simulate_uv(config, patient, session)
        yield clip(raw_CS[:, first : first + int(CLIP_S * SFREQ_HZ)])


def sessions(config: SimulationConfig, setting: Setting) -> Iterator[tuple[Patient, Session]]:
    """First session of each patient, if it is of the setting."""
    for index in range(config.n_patients):
        patient = draw_patient(config, index=index)
        if patient.sessions[0].setting == setting:
            yield patient, patient.sessions[0]


def simulate_uv(config: SimulationConfig, patient: Patient, session: Session) -> Array:
    """Write a session as a file and read it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session.edf"
        write_recording(path, config, patient, session)
        return read_uv(path)


@dataclass(frozen=True)
class Row:
    """One statistic: its values, real and simulated."""

    name: str
    real: Array
    simulated: Array

    @property
    def quartiles(self) -> tuple[Array, Array]:
        """First quartile, median and third of the real and of the simulated values."""
        return np.percentile(self.real, (25, 50, 75)), np.percentile(self.simulated, (25, 50, 75))

    @property
    def verdict(self) -> str:
        """Whether the simulated median lies within the real interquartile range."""
        (low, _, high), (_, median, _) = self.quartiles
        return "low" if median < low else "high" if median > high else "inside"

    def record(self) -> dict[str, object]:
        values = {"real": self.real.tolist(), "simulated": self.simulated.tolist()}
        return {"verdict": self.verdict, "quartiles": np.array(self.quartiles).tolist(), **values}


def print_table(title: str, table: list[Row]) -> None:
    n_inside = sum(row.verdict == "inside" for row in table)
    print(f"\n## {title}: {n_inside} of {len(table)} inside\n")
    n_real, n_simulated = len(table[0].real), len(table[0].simulated)
    print(f"| median [IQR] | {n_real} real | {n_simulated} simulated | simulated median is |")
    print("| --- | --- | --- | --- |")
    for row in table:
        cells = [f"{q[1]:.3g} [{q[0]:.3g}, {q[2]:.3g}]" for q in row.quartiles]
        print(f"| {row.name} | {cells[0]} | {cells[1]} | {row.verdict} |")


def draw(path: Path, title: str, table: list[Row], real: list[Eeg], simulated: list[Eeg]) -> None:
    """Spectra on the left (median and interquartile range), the ten statistics on the right."""
    colors = {"real": "#444444", "simulated": "#1f77b4"}
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    axis, *panels = figure.subplot_mosaic(MOSAIC, width_ratios=(1.3, 1, 1)).values()
    for (name, color), side in zip(colors.items(), (real, simulated), strict=True):
        psd_db = np.array([np.median(decibel(eeg.psd_uv2hz[:, 1:]), axis=0) for eeg in side])
        low, median, high = np.percentile(psd_db, (25, 50, 75), axis=0)
        axis.fill_between(side[0].freqs_hz[1:], low, high, color=color, alpha=0.2, lw=0)
        axis.plot(side[0].freqs_hz[1:], median, color=color, label=f"{name}, n={len(side)}")
    ticks_hz = (1, 2, 4, 8, 16, 32, 64)
    axis.set(xscale="log", xlim=(0.5, 90), ylim=(-45, 35), xticks=ticks_hz, xticklabels=ticks_hz)
    axis.set(xlabel="Hz", ylabel="dB re 1 uV$^2$/Hz", title=title)
    axis.legend(frameon=False)
    for panel, row in zip(panels, table, strict=True):
        boxes = panel.boxplot(
            (row.simulated, row.real), orientation="horizontal", widths=0.6, whis=(5, 95),
            showfliers=False, patch_artist=True, medianprops={"color": "black"},
        )  # fmt: skip
        for box, color in zip(boxes["boxes"], reversed(colors.values()), strict=True):
            box.set(facecolor=color, alpha=0.5)
        panel.axvspan(*row.quartiles[0][[0, 2]], color="#444444", alpha=0.12, lw=0)
        panel.set_yticks(())
        outside = "" if row.verdict == "inside" else f" (simulated {row.verdict})"
        panel.set_title(row.name + outside, fontsize=9)
        panel.tick_params(labelsize=8)
    figure.supxlabel(f"Grey: {CREDITS[title]}. Blue: simulated.", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="holds eegmat/, iiic_sparcnet/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=40, help="simulated, of each set")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets = {
        "healthy": (HEALTHY, real_healthy(args.data), simulated_healthy(args.seed)),
        "intensive care": (ICU, real_icu(args.data), simulated_icu(args.seed)),
    }
    report: dict[str, object] = {"generator_sha256": generator_hash(), "seed": args.seed}
    for title, (statistics, reals, simulations) in sets.items():
        real, simulated = list(reals), list(islice(simulations, args.patients))
        table = [
            Row(name, *(np.array([statistic(eeg) for eeg in side]) for side in (real, simulated)))
            for name, statistic in statistics.items()
        ]
        print_table(title, table)
        draw(args.out / f"{title.replace(' ', '_')}.png", title, table, real, simulated)
        report[title] = {row.name: row.record() for row in table}
    (args.out / "plausibility.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
