"""Files of any EEG format that MNE reads -> `Recording`s in microvolts, one window at a time.

A file becomes a right recording or one `RecordingError` that names it and the cause. Units are
converted once, here, and checked: a wrong or blank unit shows as an impossible amplitude.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openclef.errors import RecordingError
from openclef.signal.edf import EdfHeader, read_edf_header
from openclef.signal.montage import ChannelMatch, match_channels
from openclef.types import MIN_LAST_WINDOW_S, MIN_RECORDING_S, WINDOW_S, FloatArray, Recording

EDF_SUFFIXES = (".edf", ".bdf")
FOLDER_SUFFIXES = (".mff", ".mefd")
SUFFIXES = (
    *EDF_SUFFIXES, *FOLDER_SUFFIXES, ".gdf", ".vhdr", ".ahdr", ".fif", ".fif.gz", ".set", ".cnt",
    ".eeg", ".data", ".cdt", ".nxe", ".nedf", ".lay",
)  # fmt: skip
# Formats of several files: the one to open, by the suffix of the one given.
_HEADER_BESIDE = {".eeg": ".vhdr", ".vmrk": ".vhdr", ".fdt": ".set"}

# Median over channels of the typical 1-s SD. Scalp EEG has 1 to 100 uV, an unfiltered consumer
# headset some 200 uV; microvolts taken for volts or millivolts miss this range by far.
PLAUSIBLE_UV = (0.1, 5000.0)


@dataclass(frozen=True, eq=False)
class RecordingFile:
    """Header of a recording; the samples stay on disk until `iter_windows` asks for them.

    duration_s: of the whole file. labels: all channels, as written. channels: which of them are
    among the 19. start_time: wall clock as written, without zone; None if missing or impossible.
    n_windows: by the rule of `window_bounds_s`. unit: as declared, if the format declares one.
    """

    path: Path
    sfreq_hz: float
    duration_s: float
    labels: tuple[str, ...]
    channels: ChannelMatch
    start_time: datetime | None
    unit: str | None
    provenance: Mapping[str, str]
    _raw: Any = field(repr=False)
    _picks: tuple[int, ...] = field(repr=False)

    @property
    def n_windows(self) -> int:
        return len(window_bounds_s(self.duration_s))

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
        for start_s, stop_s in window_bounds_s(self.duration_s):
            recording = self.read(start_s=start_s, stop_s=stop_s)
            problem = implausible(recording, self.unit)
            if problem is None:
                n_kept += 1
                yield recording
        if not n_kept:
            raise RecordingError(f"{self.path}: {problem}")

    def read(self, *, start_s: float, stop_s: float) -> Recording:
        """Read one stretch: its channels of the 19, native rate, microvolts, unit unchecked."""
        first, last = round(start_s * self.sfreq_hz), round(stop_s * self.sfreq_hz)
        with _plain_errors(self.path) as heard:
            signal_v = self._raw.get_data(picks=list(self._picks), start=first, stop=last)
        if not np.isfinite(signal_v).all():
            rows = np.flatnonzero(~np.isfinite(signal_v).all(axis=1))
            names = ", ".join(list(self.channels.index)[row] for row in rows[:8])
            raise RecordingError(f"{self.path}: samples that are not numbers (NaN) in {names}")
        signal_v *= 1e6
        return Recording(
            signal_uv=signal_v.astype(np.float32),
            sfreq_hz=self.sfreq_hz,
            ch_names=tuple(self.channels.index),
            channel_mask=np.zeros(len(self.channels.index), np.bool_),
            start_s=first / self.sfreq_hz,
            start_time=self.start_time,
            provenance=_with_warnings(self.provenance, len(heard)),
        )


def open_recording(path: Path) -> RecordingFile:
    """Read the header of a recording.

    Parameters
    ----------
    path
        A file of one of `SUFFIXES` (or a folder, for the formats that are folders).

    Raises
    ------
    RecordingError
        Missing, of an unknown format, damaged, discontinuous, shorter than 4 s, or without any
        of the 19 electrodes.
    """
    path = Path(path)
    suffix = _checked_suffix(path)
    provenance = {"format": suffix.removeprefix(".")}
    header = channels = None
    options: dict[str, Any] = {}
    if suffix in EDF_SUFFIXES:
        header = read_edf_header(path)
        channels = _matched(path, header.labels)
        # Only the electrodes: a faster ECG beside them would have MNE resample the EEG to its
        # rate. latin-1: annotations are not read here and must not stop us by their encoding.
        wanted = [header.labels[i] for i in channels.index.values()]
        options = {"include": wanted, "encoding": "latin1"}
        provenance |= _edf_notes(header, wanted)

    with _plain_errors(path) as heard:
        import mne

        raw = mne.io.read_raw(path, preload=False, verbose="WARNING", **options)
        sfreq_hz = float(raw.info["sfreq"])
        duration_s = raw.n_times / sfreq_hz
        started = raw.info["meas_date"]
    in_raw = _matched(path, raw.ch_names)
    channels = channels or in_raw
    if duration_s < MIN_RECORDING_S:
        raise RecordingError(
            f"{path}: lasts {duration_s:g} s, shorter than the {MIN_RECORDING_S:g} s of one frame"
        )
    provenance["reference"] = ", ".join(channels.references) or "not stated"
    return RecordingFile(
        path=path,
        sfreq_hz=sfreq_hz,
        duration_s=duration_s,
        labels=channels.labels,
        channels=channels,
        start_time=None if started is None else started.replace(tzinfo=None),
        unit=_declared_unit(header, channels) if header else None,
        provenance=_with_warnings(provenance, len(heard)),
        _raw=raw,
        _picks=tuple(in_raw.index.values()),
    )


def read_recording(path: Path) -> Recording:
    """Read a whole short file: its channels of the 19, at its native rate, in microvolts.

    Longer sessions are better read window by window: `open_recording(path).iter_windows()`.

    Raises
    ------
    RecordingError
        As `open_recording`; also if the file is flat or its amplitude is not that of EEG.
    """
    file = open_recording(path)
    recording = file.read(start_s=0.0, stop_s=file.duration_s)
    problem = implausible(recording, file.unit)
    if problem is not None:
        raise RecordingError(f"{path}: {problem}")
    return recording


def window_bounds_s(duration_s: float) -> list[tuple[float, float]]:
    """Start and stop of the windows of a session.

    Windows last 1,280 s; the last one may be shorter, and is dropped below 60 s unless it is the
    only one.
    """
    starts = np.arange(0.0, duration_s, WINDOW_S)
    bounds = [(float(start), float(min(start + WINDOW_S, duration_s))) for start in starts]
    return [b for i, b in enumerate(bounds) if i == 0 or b[1] - b[0] >= MIN_LAST_WINDOW_S]


def crop(recording: Recording, *, duration_s: float) -> Recording:
    """Keep the first `duration_s` seconds.

    Raises
    ------
    RecordingError
        The recording is shorter than that, or less than 4 s are asked for.
    """
    n_times = round(duration_s * recording.sfreq_hz)
    if duration_s < MIN_RECORDING_S or n_times > recording.signal_uv.shape[1]:
        raise RecordingError(
            f"cannot crop to {duration_s:g} s: from {MIN_RECORDING_S:g} s up to the recording's "
            f"{recording.duration_s:g} s are possible"
        )
    gaps = tuple((a, min(b, duration_s)) for a, b in recording.gaps if a < duration_s)
    return replace(recording, signal_uv=recording.signal_uv[:, :n_times], gaps=gaps)


def typical_amplitude_uv(signal_uv: FloatArray, *, sfreq_hz: float) -> NDArray[np.float64]:
    """Robust amplitude of each channel `[C]` in microvolts, free of offset and drift.

    The median over 1-s stretches of the standard deviation; exactly 0 for a flat channel.
    """
    n_chunk = max(2, round(sfreq_hz))
    n_chunks = signal_uv.shape[1] // n_chunk
    chunks = signal_uv[:, : n_chunks * n_chunk].reshape(len(signal_uv), n_chunks, n_chunk)
    # From the first sample of each: a large constant offset then leaves no rounding residue.
    sd = np.std(chunks - chunks[..., :1], axis=-1, dtype=np.float64)
    amplitude: NDArray[np.float64] = np.median(sd, axis=-1)
    return amplitude


def implausible(recording: Recording, unit: str | None = None) -> str | None:
    """Why this is not EEG in microvolts, or None if it may be."""
    amplitude_uv = typical_amplitude_uv(recording.signal_uv, sfreq_hz=recording.sfreq_hz)
    live = amplitude_uv > 0
    if not live.any():
        return f"all {len(amplitude_uv)} EEG channels are flat"
    typical_uv = float(np.median(amplitude_uv[live]))
    if PLAUSIBLE_UV[0] <= typical_uv <= PLAUSIBLE_UV[1]:
        return None
    read_as = {None: "unit as the format defines it", "": "blank unit, read as volts"}.get(
        unit, f"unit {unit!r}; an unknown unit is read as volts"
    )
    return (
        f"typical amplitude {typical_uv:.3g} uV ({read_as}) is not that of EEG "
        f"({PLAUSIBLE_UV[0]:g} to {PLAUSIBLE_UV[1]:g} uV): correct the unit in the file"
    )


def _checked_suffix(path: Path) -> str:
    """Known suffix of an existing, non-empty file."""
    if not path.exists():
        raise RecordingError(f"{path}: no such file")
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    header_suffix = _HEADER_BESIDE.get(path.suffix.lower())
    if header_suffix and path.with_suffix(header_suffix).exists():
        header_name = path.with_suffix(header_suffix).name
        raise RecordingError(f"{path}: only part of a recording; open {header_name} beside it")
    if path.is_dir() and suffix not in FOLDER_SUFFIXES:
        raise RecordingError(f"{path}: a folder, not a recording")
    if suffix is None:
        raise RecordingError(
            f"{path}: not an EEG format openclef knows; known are {' '.join(SUFFIXES)}"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise RecordingError(f"{path}: empty file (0 bytes)")
    return suffix


@contextmanager
def _plain_errors(path: Path) -> Iterator[list[warnings.WarningMessage]]:
    """Turn whatever a reader raises into one RecordingError; collect its warnings."""
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield heard
    except Exception as error:  # readers fail in any way on damaged files
        cause = str(error).strip().partition("\n")[0].partition(". ")[0][:200]
        raise RecordingError(
            f"{path}: not a readable {path.suffix} recording ({type(error).__name__}: {cause})"
        ) from error


def _matched(path: Path, labels: Iterable[str]) -> ChannelMatch:
    channels = match_channels(labels)
    if not channels.index:
        raise RecordingError(f"{path}: {channels.explain_empty()}")
    return channels


def _edf_notes(header: EdfHeader, wanted: list[str]) -> dict[str, str]:
    notes = {}
    rates = {r for label, r in zip(header.labels, header.rates_hz, strict=True) if label in wanted}
    if len(rates) > 1:
        shown = ", ".join(f"{rate:g}" for rate in sorted(rates))
        notes["resampled"] = f"channels at {shown} Hz brought to the highest"
    if header.is_truncated:
        notes["truncated"] = f"{header.n_records} of {header.n_records_stated} records present"
    return notes


def _declared_unit(header: EdfHeader, channels: ChannelMatch) -> str:
    return ", ".join(sorted({header.units[i] for i in channels.index.values()}))


def _with_warnings(provenance: Mapping[str, str], n_heard: int) -> dict[str, str]:
    """Count a reader's warnings only: their texts may quote the header, so the patient."""
    total = int(provenance.get("warnings", "0")) + n_heard
    return {**provenance, "warnings": str(total)} if total else dict(provenance)
