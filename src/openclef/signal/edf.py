"""What EDF and BDF headers say that MNE does not check: lost records, gaps, units, rates.

Layout: https://www.edfplus.info/specs/edf.html and edfplus.html; BDF differs in 3-byte samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openclef.errors import RecordingError

_MAIN_HEADER_BYTES = 256
_SIGNAL_HEADER_BYTES = 256
_ANNOTATION_LABELS = ("EDF Annotations", "BDF Annotations")


@dataclass(frozen=True)
class EdfHeader:
    """The fields openclef needs; one entry a signal, annotation signals left out.

    n_records: complete data records in the file. n_records_stated: what the header says, -1 for
    unknown. rates_hz, units: per signal.
    """

    labels: tuple[str, ...]
    units: tuple[str, ...]
    rates_hz: tuple[float, ...]
    n_records: int
    n_records_stated: int

    @property
    def is_truncated(self) -> bool:
        return self.n_records < self.n_records_stated


def _number(text: bytes, field: str, path: Path) -> float:
    """Parse a header number; NUL padding and decimal commas occur in the wild."""
    shown = text.decode("latin-1").split("\x00")[0].strip()
    try:
        number = float(shown.replace(",", "."))
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise RecordingError(f"{path}: damaged EDF header: {field} is {shown!r}, expected a number")
    return number


def read_edf_header(path: Path) -> EdfHeader:
    """Read and check the header of an EDF(+) or BDF(+) file.

    Raises
    ------
    RecordingError
        Header cut short or not EDF, a field that is not a number, no data record, or an EDF+D
        file whose records leave gaps in time (MNE would join them silently).
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        main = handle.read(_MAIN_HEADER_BYTES)
        if len(main) < _MAIN_HEADER_BYTES:
            raise RecordingError(f"{path}: truncated EDF header ({size} bytes, 256 are the least)")
        if not (main[:8].strip() == b"0" or main[1:8] == b"BIOSEMI"):
            raise RecordingError(f"{path}: not an EDF or BDF file (its first bytes are not theirs)")
        n_signals = int(_number(main[252:256], "number of signals", path))
        n_stated = int(_number(main[236:244], "number of data records", path))
        record_s = _number(main[244:252], "duration of a data record", path)
        if n_signals < 1 or record_s < 0:
            raise RecordingError(
                f"{path}: damaged EDF header: {n_signals} signals in records of {record_s:g} s"
            )
        header_bytes = _MAIN_HEADER_BYTES + _SIGNAL_HEADER_BYTES * n_signals
        fields = handle.read(header_bytes - _MAIN_HEADER_BYTES)
    if len(fields) < header_bytes - _MAIN_HEADER_BYTES:
        raise RecordingError(
            f"{path}: truncated EDF header ({size} bytes, {n_signals} signals need {header_bytes})"
        )

    def column(start: int, width: int) -> list[bytes]:
        first = start * n_signals
        return [fields[first + width * i : first + width * (i + 1)] for i in range(n_signals)]

    labels = [text.decode("latin-1").strip() for text in column(0, 16)]
    units = [text.decode("latin-1").strip() for text in column(96, 8)]
    ranges = ("physical minimum", "physical maximum", "digital minimum", "digital maximum")
    for start, field in zip((104, 112, 120, 128), ranges, strict=True):
        for label, text in zip(labels, column(start, 8), strict=True):
            _number(text, f"{field} of signal {label!r}", path)
    n_samples = [
        int(_number(text, f"samples per record of signal {label!r}", path))
        for label, text in zip(labels, column(216, 8), strict=True)
    ]
    if min(n_samples) < 0:
        raise RecordingError(f"{path}: damaged EDF header: {min(n_samples)} samples per record")
    sample_bytes = 3 if main[0] == 0xFF else 2
    record_bytes = sample_bytes * sum(n_samples)
    n_records = (size - header_bytes) // record_bytes if record_bytes else 0
    if n_stated >= 0:
        n_records = min(n_records, n_stated)
    if n_records < 1:
        raise RecordingError(f"{path}: no data: the file ends after its header")

    signals = [i for i, label in enumerate(labels) if label not in _ANNOTATION_LABELS]
    if main[192:197] in (b"EDF+D", b"BDF+D"):
        first = next((i for i in range(n_signals) if i not in signals), None)
        if first is None:
            raise RecordingError(f"{path}: EDF+D without the annotations that time its records")
        offset = sample_bytes * sum(n_samples[:first])
        texts = np.memmap(
            path, np.uint8, "r", offset=header_bytes, shape=(n_records, record_bytes)
        )[:, offset : offset + sample_bytes * n_samples[first]]
        fastest = max((n_samples[i] for i in signals), default=1)
        _refuse_gaps(_record_onsets_s(texts, path), record_s, record_s / fastest, path)
    return EdfHeader(
        labels=tuple(labels[i] for i in signals),
        units=tuple(units[i] for i in signals),
        rates_hz=tuple(n_samples[i] / record_s if record_s else 0.0 for i in signals),
        n_records=n_records,
        n_records_stated=n_stated,
    )


def _record_onsets_s(texts: NDArray[np.uint8], path: Path) -> NDArray[np.float64]:
    """Start of each record: its first annotation is empty and timed, `+12.5` 0x14 0x14."""
    onsets = [bytes(text).split(b"\x14", 1)[0] for text in texts]
    return np.array([_number(onset, "onset of a data record", path) for onset in onsets])


def _refuse_gaps(
    onsets_s: NDArray[np.float64], record_s: float, tolerance_s: float, path: Path
) -> None:
    jumps_s = np.diff(onsets_s) - record_s
    broken = np.flatnonzero(np.abs(jumps_s) > tolerance_s)
    if len(broken):
        first = int(broken[0])
        at_s = onsets_s[first] + record_s - onsets_s[0]
        raise RecordingError(
            f"{path}: discontinuous (EDF+D): {len(broken)} break(s) in time, the first of "
            f"{jumps_s[first]:g} s at {at_s:g} s; split the file at its breaks first"
        )
