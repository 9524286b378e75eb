"""The door: a file of any EEG format -> `Recording`s in microvolts, one window at a time.

A file becomes a right recording or one `RecordingError` that names it and the cause. EDF and BDF
are decoded here, the others by MNE. Time that was not recorded stays a gap; units are converted
once; what was odd is told in `provenance` and `montage`, never in the header's own words.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np

from openclef.errors import RecordingError
from openclef.signal.edf import EdfFile, open_edf
from openclef.signal.filters import MIN_SFREQ_HZ
from openclef.signal.labels import canonical_name, plain_label, shown_label
from openclef.signal.mne_reader import MneFile, open_mne
from openclef.signal.montage import Montage, match_channels
from openclef.signal.rates import Reader, common_rate_hz, read_at_rate
from openclef.signal.units import UNITS, checked_unit, implausible, known_unit
from openclef.types import (
    MIN_LAST_WINDOW_S,
    MIN_RECORDING_S,
    WINDOW_S,
    FloatArray,
    Recording,
)

EDF_SUFFIXES = (".edf", ".bdf", ".rec")
FOLDER_SUFFIXES = (".mff", ".mefd")
SUFFIXES = (
    *EDF_SUFFIXES, *FOLDER_SUFFIXES, ".gdf", ".vhdr", ".ahdr", ".fif", ".fif.gz", ".set", ".cnt",
    ".eeg", ".raw", ".data", ".dat", ".cdt", ".nxe", ".nedf", ".lay", ".ns3",
)  # fmt: skip
# Formats of several files: the one to open, by the suffix of the one given.
_HEADER_BESIDE = {
    ".eeg": (".vhdr", ".ahdr"), ".vmrk": (".vhdr",), ".amrk": (".ahdr",), ".fdt": (".set",),
    ".dat": (".vhdr", ".lay"), ".dap": (".dat",), ".rs3": (".dat",), ".head": (".data",),
    ".21e": (".eeg",), ".pnt": (".eeg",), ".log": (".eeg",),
}  # fmt: skip
_HIGHEST_HZ = 50_000.0  # no scalp EEG is sampled faster: the header is damaged
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class RecordingFile:
    """Header of a recording; the samples stay on disk until `iter_windows` asks for them.

    sfreq_hz: of the electrodes. duration_s: from the first sample to the last, gaps included.
    segments: (start, stop) in seconds of what was recorded. montage: which channels make which
    electrode, and why others do not. start_time: wall clock as written, without zone; None if
    missing or impossible. unit: how it was found ("uV", "assumed uV (none stated)", ...).
    provenance: what was odd, in our words.
    """

    path: Path
    sfreq_hz: float
    segments: tuple[tuple[float, float], ...]
    montage: Montage
    start_time: datetime | None
    unit: str
    provenance: Mapping[str, str]
    _reader: Reader = field(repr=False)
    _scale: tuple[float, ...] = field(repr=False)

    @property
    def duration_s(self) -> float:
        return self.segments[-1][1]

    def window_bounds_s(self) -> list[tuple[float, float]]:
        """Start and stop of the windows, by the rule of `window_bounds_s`."""
        return window_bounds_s(self.duration_s, segments=self.segments)

    def iter_windows(self) -> Iterator[Recording]:
        """Yield the file's windows in order, each read from disk when asked for.

        A window without plausible EEG (every channel flat, headbox off) is skipped; `start_s`
        tells where each one lies.

        Raises
        ------
        RecordingError
            A window cannot be read, or none holds plausible EEG (wrong unit, flat file).
        """
        problem = None
        n_kept = 0
        for start_s, stop_s in self.window_bounds_s():
            recording = self.read(start_s=start_s, stop_s=stop_s)
            problem = implausible(recording, declared=self.unit)
            if problem is None:
                n_kept += 1
                yield recording
        if not n_kept:
            raise RecordingError(f"{self.path}: {problem}")

    def read(self, *, start_s: float, stop_s: float) -> Recording:
        """Read one stretch: its electrodes of the 19, native rate, microvolts, unit unchecked."""
        signal, gaps = read_at_rate(
            self._reader,
            self.montage.picks,
            sfreq_hz=self.sfreq_hz,
            start_s=start_s,
            stop_s=stop_s,
            scale=self._scale,
        )
        if self.montage.mixing is not None:
            signal = self.montage.mixing @ signal
        return Recording(
            signal_uv=signal,
            sfreq_hz=self.sfreq_hz,
            ch_names=self.montage.names,
            channel_mask=np.zeros(len(self.montage.names), np.bool_),
            gaps=gaps,
            start_s=round(start_s * self.sfreq_hz) / self.sfreq_hz,
            start_time=self.start_time,
            provenance=self.provenance,
        )


def open_recording(
    path: Path,
    *,
    unit: str | None = None,
    units_beside: Mapping[str, str] = _NOTHING,
    bad: Collection[str] = (),
) -> RecordingFile:
    """Read the header of a recording.

    Parameters
    ----------
    path
        A file of one of `SUFFIXES` (or a folder, for the formats that are folders).
    unit
        "uV", "mV", "V" or "nV": what the file's numbers are, whatever it says itself.
    units_beside
        By label, from a sidecar; asked where the file itself tells no unit.
    bad
        Labels of channels not to be used, for example those BIDS marks as bad.

    Raises
    ------
    RecordingError
        Missing, of an unknown format, damaged, shorter than 4 s, or without any of the 19
        electrodes.
    OpenclefError
        Another unit.
    """
    path = Path(path)
    override = checked_unit(unit)
    suffix = _checked_suffix(path)
    opened = _open_edf(path) if suffix in EDF_SUFFIXES else _open_mne(path, suffix)
    reader, labels = opened.reader, opened.labels
    beside_of = {plain_label(label): told for label, told in units_beside.items()}
    n_strange = sum(not any(_is_among(own, [label]) for own in labels) for label in bad)
    bad = [own for own in labels if _is_among(own, bad)]
    faults = dict(opened.faults)
    montage = _match(labels, faults, bad)
    if max((reader.rate_hz(pick) for pick in montage.picks), default=0.0) >= MIN_SFREQ_HZ:
        slow = [i for i in montage.picks if reader.rate_hz(i) < MIN_SFREQ_HZ]
        faults |= {i: f"sampled at {reader.rate_hz(i):g} Hz, below {MIN_SFREQ_HZ:g}" for i in slow}
        montage = _match(labels, faults, bad) if slow else montage
    notes = dict(opened.notes)
    if bad:
        notes["marked_bad"] = f"{len(bad)} channels"
    if n_strange:
        notes["marked_bad_unknown"] = f"{n_strange} labels that the file does not have"
    if faults:
        told = [f"{shown_label(labels[i], i)}: {why}" for i, why in sorted(faults.items())]
        notes["unusable_signals"] = "; ".join(told)
    if not montage.names:
        unusable = f" ({notes['unusable_signals']})" if faults else ""
        raise RecordingError(f"{path}: {montage.explain_empty()}{unusable}")
    longest_s = max(stop_s - start_s for start_s, stop_s in reader.segments)
    if longest_s < MIN_RECORDING_S:
        longest = f", at most {longest_s:g} s without a gap" if len(reader.segments) > 1 else ""
        raise RecordingError(
            f"{path}: lasts {reader.duration_s:g} s{longest}, shorter than the "
            f"{MIN_RECORDING_S:g} s of one frame"
        )
    sfreq_hz, resampled = common_rate_hz([reader.rate_hz(pick) for pick in montage.picks])
    if not MIN_SFREQ_HZ <= sfreq_hz <= _HIGHEST_HZ:
        raise RecordingError(
            f"{path}: sampled at {sfreq_hz:g} Hz; EEG of 0-32 Hz has from {MIN_SFREQ_HZ:g} to "
            f"{_HIGHEST_HZ:g} Hz"
        )
    if resampled:
        notes["resampled"] = resampled
    units = [opened.units[pick] for pick in montage.picks]
    beside = [known_unit(beside_of.get(plain_label(labels[i]), "")) for i in montage.picks]
    n_beside = sum(
        own is None and other is not None for own, other in zip(units, beside, strict=True)
    )
    if n_beside and override is None:
        notes["units_beside"] = f"of {n_beside} electrodes from a file beside the recording"
    units = [own or other for own, other in zip(units, beside, strict=True)]
    return RecordingFile(
        path=path,
        sfreq_hz=sfreq_hz,
        segments=reader.segments,
        montage=montage,
        start_time=opened.start_time,
        unit=_unit_verdict(units, override, is_stated=opened.is_unit_stated),
        provenance={
            "format": suffix.removeprefix("."),
            "reference": ", ".join(sorted(set(montage.references))),
            **notes,
        },
        _reader=reader,
        _scale=tuple(UNITS[override or unit or "uV"] for unit in units),
    )


def read_recording(path: Path, *, unit: str | None = None) -> Recording:
    """Read a whole short file: its electrodes of the 19, at its native rate, in microvolts.

    Longer sessions are better read window by window: `open_recording(path).iter_windows()`.

    Raises
    ------
    RecordingError
        As `open_recording`; also if the file is flat or its amplitude is not that of EEG.
    """
    file = open_recording(path, unit=unit)
    recording = file.read(start_s=0.0, stop_s=file.duration_s)
    problem = implausible(recording, declared=file.unit)
    if problem is not None:
        raise RecordingError(f"{path}: {problem}")
    return recording


def window_bounds_s(
    duration_s: float, *, segments: Sequence[tuple[float, float]] | None = None
) -> list[tuple[float, float]]:
    """Start and stop of the windows of a session.

    Windows last 1,280 s and start at multiples of that; the last one may be shorter. Those with
    less than 60 s recorded (by `segments`; default: all of it) are dropped, but for the best one
    where none has as much. A gap of days costs nothing: empty windows are never listed.
    """
    segments = [(0.0, duration_s)] if segments is None else segments
    recorded_s: dict[int, float] = {}
    for start_s, stop_s in segments:
        at = start_s
        while at < stop_s:
            window = int(at // WINDOW_S)
            end = min(stop_s, (window + 1) * float(WINDOW_S))
            recorded_s[window] = recorded_s.get(window, 0.0) + end - at
            at = end
    kept = [window for window, s in recorded_s.items() if s >= MIN_LAST_WINDOW_S]
    if not kept:
        kept = [max(recorded_s, key=lambda window: (recorded_s[window], -window))]
    bounds = [(window * float(WINDOW_S), (window + 1) * float(WINDOW_S)) for window in sorted(kept)]
    return [(start_s, min(stop_s, duration_s)) for start_s, stop_s in bounds]


def _checked_suffix(path: Path) -> str:
    """Known suffix of an existing, non-empty file."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise RecordingError(f"{path}: no such file") from None
    for header_suffix in _HEADER_BESIDE.get(path.suffix.lower(), ()):
        for header in (header_suffix, header_suffix.upper()):
            if path.with_suffix(header).exists():
                name = path.with_suffix(header).name
                raise RecordingError(f"{path}: only part of a recording; open {name} beside it")
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder and suffix not in FOLDER_SUFFIXES:
        raise RecordingError(f"{path}: a folder, not a recording")
    if suffix is None:
        raise RecordingError(
            f"{path}: not an EEG format openclef knows; known are {' '.join(SUFFIXES)}"
        )
    if not is_folder and not stat.S_ISREG(status.st_mode):
        raise RecordingError(f"{path}: neither a file nor a folder")
    if not is_folder and suffix in FOLDER_SUFFIXES:
        raise RecordingError(f"{path}: a file; a {suffix} recording is a folder")
    if not is_folder and status.st_size == 0:
        raise RecordingError(f"{path}: empty file (0 bytes)")
    return suffix


@dataclass(frozen=True, eq=False)
class _Opened:
    """What both ways of opening a file give.

    units: None where the file has none that is known. faults: by position, why a signal cannot be
    used.
    """

    reader: Reader
    labels: tuple[str, ...]
    units: tuple[str | None, ...]
    is_unit_stated: bool
    faults: Mapping[int, str]
    start_time: datetime | None
    notes: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _EdfReader:
    """An EDF file as a `Reader`."""

    file: EdfFile

    @property
    def duration_s(self) -> float:
        return self.file.duration_s

    @property
    def segments(self) -> tuple[tuple[float, float], ...]:
        return self.file.segments

    def rate_hz(self, pick: int) -> float:
        return self.file.signals[pick].rate_hz

    def read(
        self, picks: Sequence[int], *, start_s: float, stop_s: float, scale: Sequence[float]
    ) -> tuple[FloatArray, tuple[tuple[float, float], ...]]:
        return self.file.read(picks, start_s=start_s, stop_s=stop_s, scale=np.asarray(scale))


def _open_edf(path: Path) -> _Opened:
    file = open_edf(path)
    return _Opened(
        reader=_EdfReader(file),
        labels=tuple(signal.label for signal in file.signals),
        units=tuple(known_unit(signal.unit) for signal in file.signals),
        is_unit_stated=True,
        faults={i: s.problem for i, s in enumerate(file.signals) if s.problem is not None},
        start_time=file.start_time,
        notes=file.notes,
    )


def _open_mne(path: Path, suffix: str) -> _Opened:
    file = open_mne(path, suffix)
    return _Opened(
        reader=file,
        labels=file.labels,
        units=tuple(unit or None for unit in file.units),
        is_unit_stated=file.is_stated,
        faults={i: "marked bad in it" for i, label in enumerate(file.labels) if label in file.bads},
        start_time=file.start_time,
        notes=_mne_notes(file),
    )


def _mne_notes(file: MneFile) -> dict[str, str]:
    notes = {}
    gaps_s = [b[0] - a[1] for a, b in pairwise(file.segments)]
    if gaps_s:
        notes["gaps"] = f"{len(gaps_s)}, {sum(gaps_s):g} s in all"
    if file.joints:
        notes["joined"] = f"{len(file.joints)} places where stretches meet; frames there are hidden"
    # Counted only: their texts may quote the header, so the patient.
    if file.n_warnings:
        notes["warnings"] = str(file.n_warnings)
    return notes


def _is_among(label: str, marked: Collection[str]) -> bool:
    """Sidecars spell labels their own way: `Fp1` marks `EEG FP1-REF`."""
    electrode = canonical_name(label)
    return any(
        plain_label(label) == plain_label(other)
        or (electrode is not None and electrode == canonical_name(other))
        for other in marked
    )


def _match(labels: Sequence[str], faults: Collection[int], bad: Collection[str]) -> Montage:
    """Montage of a file without its faulty signals, whose labels good ones may share."""
    marked = tuple(f"{label} unusable" if i in faults else label for i, label in enumerate(labels))
    montage = match_channels(marked, bad={*bad, *(marked[i] for i in faults)})
    return replace(montage, labels=tuple(labels))


def _unit_verdict(units: Sequence[str | None], override: str | None, *, is_stated: bool) -> str:
    if override is not None:
        return f"{override}, as told"
    known = ", ".join(sorted({unit for unit in units if unit}))
    if None in units:
        return f"assumed uV (none stated that is known{f', besides {known}' if known else ''})"
    return known if is_stated else f"{known}, as the format has it"
