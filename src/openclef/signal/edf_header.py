"""The header of an EDF, EDF+, BDF or BDF+ file: its signals, records and start.

Layout: https://www.edfplus.info/specs/edf.html and edfplus.html. What leaves the place of a sample
in doubt is refused; a range that is damaged spoils its own signal only; what is merely odd is
noted. Notes and errors never quote the header, whose fields may name the patient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, time
from io import BufferedIOBase, RawIOBase
from pathlib import Path

from openclef.errors import RecordingError

_ANNOTATION_LABELS = ("EDF Annotations", "BDF Annotations")
_BYTES_OF_VERSION = {b"0": 2, b"\xffBIOSEMI": 3}
# Limits of what is credible: a damaged header may claim anything.
_MAX_SIGNALS = 4096
_MAX_RATE_HZ = 1e5
_MAX_RECORD_S = 30 * 86_400.0
_MAX_PHYSICAL = 1e20  # in any unit; leaves float32 room for a change of unit

_NUMBER = re.compile(rb"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(rb"([+-]?\d+)(\.0*)?")
_TRIPLE = re.compile(rb"(\d{1,2})[.:/-](\d{1,2})[.:/-](\d{1,2})")
_STARTDATE = re.compile(rb"Startdate (\d{1,2})-([A-Za-z]{3})-(\d{4})(?= |$)")
_MONTHS = (b"JAN", b"FEB", b"MAR", b"APR", b"MAY", b"JUN",
           b"JUL", b"AUG", b"SEP", b"OCT", b"NOV", b"DEC")  # fmt: skip


@dataclass(frozen=True)
class EdfSignal:
    """One signal: physical = gain * digital + offset, in `unit` (as written, stripped).

    n_samples: per record. problem: why the signal cannot be used, None if it can; without credible
    ranges `gain` and `offset` are NaN. start_byte: of its samples in each record.
    """

    label: str
    unit: str
    n_samples: int
    rate_hz: float
    gain: float
    offset: float
    digital_min: int
    digital_max: int
    problem: str | None
    start_byte: int = field(repr=False)


@dataclass(frozen=True)
class Header:
    """What the header says, as far as the bytes after it agree.

    signals: those of annotations left out. clock: the first annotation signal, which times the
    records of EDF+. start_time: to the second; None if withheld or impossible.
    """

    signals: tuple[EdfSignal, ...]
    clock: EdfSignal | None
    is_continuous: bool
    record_s: float
    n_records: int
    start_time: datetime | None
    header_bytes: int
    record_bytes: int
    sample_bytes: int
    notes: Mapping[str, str]


def read_header(handle: BufferedIOBase | RawIOBase, size: int, path: Path) -> Header:
    """Read and check the header of an open file of `size` bytes.

    Raises
    ------
    RecordingError
        Not EDF or BDF; cut short in its header or first record; damaged in a field on which the
        place of all samples depends (number of signals, samples or duration of a record);
        annotations only.
    """
    main = handle.read(256)
    sample_bytes = _BYTES_OF_VERSION.get(main[:8].strip(b" \0"))
    if sample_bytes is None:
        raise RecordingError(f"{path}: not an EDF or BDF file (its first bytes are not theirs)")
    if len(main) < 256:
        raise RecordingError(f"{path}: truncated EDF header ({len(main)} of its first 256 bytes)")
    n_signals = _whole(main[252:256])
    if n_signals is None or not 1 <= n_signals <= _MAX_SIGNALS:
        raise _damaged(path, f"the number of signals must be 1 to {_MAX_SIGNALS}")
    header_bytes = 256 * (n_signals + 1)
    if size < header_bytes:
        raise RecordingError(
            f"{path}: truncated EDF header ({size} bytes, {n_signals} signals need {header_bytes})"
        )
    notes = {}
    if _whole(main[184:192]) != header_bytes:
        notes["header_bytes"] = f"not the {header_bytes} of {n_signals} signals"
    record_s = _number(main[244:252]) or 0.0
    written = _read_signals(
        handle.read(header_bytes - 256), n_signals, record_s, sample_bytes, path
    )
    signals = tuple(s for s in written if s.label not in _ANNOTATION_LABELS)
    n_inverted = sum(signal.gain < 0 for signal in signals)
    if n_inverted:
        notes["inverted"] = f"{n_inverted} signals with physical minimum above maximum"
    limit = 1 << (8 * sample_bytes - 1)
    n_beyond = sum(s.digital_min < -limit or s.digital_max >= limit for s in signals)
    if n_beyond:
        notes["digital_range"] = f"{n_beyond} signals beyond the {8 * sample_bytes} bits of samples"
    record_bytes = sample_bytes * sum(signal.n_samples for signal in written)
    return Header(
        signals=signals,
        clock=next((s for s in written if s.label in _ANNOTATION_LABELS), None),
        is_continuous=main[192:197].upper() not in (b"EDF+D", b"BDF+D"),
        record_s=record_s,
        n_records=_count_records(main, size - header_bytes, record_bytes, notes, path),
        start_time=_start_time(main, notes),
        header_bytes=header_bytes,
        record_bytes=record_bytes,
        sample_bytes=sample_bytes,
        notes=notes,
    )


def _damaged(path: Path, what: str) -> RecordingError:
    return RecordingError(f"{path}: damaged EDF header: {what}")


def _number(text: bytes) -> float | None:
    """A header number; NUL padding and decimal commas occur in the wild."""
    text = text.strip(b" \0")
    number = float(text.replace(b",", b".")) if _NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def _whole(text: bytes) -> int | None:
    match = _WHOLE.fullmatch(text.strip(b" \0"))
    return int(match[1]) if match else None


def _read_signals(
    columns: bytes, n_signals: int, record_s: float, sample_bytes: int, path: Path
) -> list[EdfSignal]:
    """All signals, those of annotations included, in the order of their samples."""

    def column(start: int, width: int) -> list[bytes]:
        first = start * n_signals
        return [columns[first + width * i : first + width * (i + 1)] for i in range(n_signals)]

    labels = [text.decode("latin-1").strip(" \0") for text in column(0, 16)]
    if all(label in _ANNOTATION_LABELS for label in labels):
        raise RecordingError(f"{path}: holds annotations only, no signal")
    if not 0 < record_s <= _MAX_RECORD_S:
        raise _damaged(path, f"a record must last above 0 and at most {_MAX_RECORD_S:g} s")
    units = [text.decode("latin-1").strip(" \0") for text in column(96, 8)]
    physical = zip(map(_number, column(104, 8)), map(_number, column(112, 8)), strict=True)
    digital = zip(map(_whole, column(120, 8)), map(_whole, column(128, 8)), strict=True)
    counts = map(_whole, column(216, 8))
    signals: list[EdfSignal] = []
    start_byte = 0
    for label, unit, limits, digital_limits, n_samples in zip(
        labels, units, physical, digital, counts, strict=True
    ):
        if n_samples is None or n_samples < 0:
            raise _damaged(path, f"samples per record of signal {len(signals) + 1} are no count")
        rate_hz = n_samples / record_s
        gain, offset, problem = _scaling(limits, digital_limits)
        if n_samples == 0:
            problem = "it has no samples"
        elif rate_hz > _MAX_RATE_HZ:
            problem = f"a rate of {rate_hz:g} Hz is not credible (above {_MAX_RATE_HZ:g} Hz)"
        signals.append(
            EdfSignal(
                label=label,
                unit=unit,
                n_samples=n_samples,
                rate_hz=rate_hz,
                gain=gain,
                offset=offset,
                digital_min=digital_limits[0] or 0,
                digital_max=digital_limits[1] or 0,
                problem=problem,
                start_byte=start_byte,
            )
        )
        start_byte += sample_bytes * n_samples
    if not any(s.n_samples for s in signals if s.label not in _ANNOTATION_LABELS):
        raise _damaged(path, "no signal has samples")
    return signals


def _scaling(
    physical: tuple[float | None, float | None], digital: tuple[int | None, int | None]
) -> tuple[float, float, str | None]:
    """Gain, offset and what is wrong with them, from the (minimum, maximum) of a signal."""
    (low, high), (digital_low, digital_high) = physical, digital
    if low is None or high is None or digital_low is None or digital_high is None:
        problem = "its physical and digital ranges are not all numbers"
    elif digital_low >= digital_high:
        problem = f"its digital range is empty ({digital_low} to {digital_high})"
    elif low == high:
        problem = "its physical range is empty"
    elif max(abs(low), abs(high)) > _MAX_PHYSICAL or abs(high - low) < 1 / _MAX_PHYSICAL:
        problem = "its physical range is not credible"
    else:
        gain = (high - low) / (digital_high - digital_low)
        return gain, low - gain * digital_low, None
    return math.nan, math.nan, problem


def _count_records(
    main: bytes, n_bytes: int, record_bytes: int, notes: dict[str, str], path: Path
) -> int:
    """Whole records to read: those stated, as far as they are there."""
    n_present, n_left = divmod(n_bytes, record_bytes)
    if not n_present:
        raise RecordingError(
            f"{path}: no data: {n_bytes} bytes follow the header, one record has {record_bytes}"
        )
    n_stated = _whole(main[236:244])
    if n_stated is None or n_stated < 1:  # -1 while recording; 0 is as little of a statement
        notes["record_count"] = f"not stated, {n_present} present"
        if n_left:
            notes["truncated"] = f"{n_present} whole records, then a part of one"
        return n_present
    if n_stated > n_present:
        notes["truncated"] = f"{n_present} of {n_stated} records present"
        return n_present
    if n_stated < n_present:
        notes["record_count"] = f"{n_stated} stated and read, {n_present} present"
    if n_bytes > n_stated * record_bytes:
        notes["trailing_bytes"] = str(n_bytes - n_stated * record_bytes)
    return n_stated


def _start_time(main: bytes, notes: dict[str, str]) -> datetime | None:
    """Date and time of the first record.

    Two digits tell a year from 1985 to 2084; EDF+ repeats the date with four in the recording
    field, which then counts, and withholds it there by an X.
    """
    day = full = started = None
    short = _TRIPLE.fullmatch(main[168:176].strip(b" \0"))
    if short:
        year = int(short[3])
        day = _date(year + (1900 if year >= 85 else 2000), int(short[2]), int(short[1]))
    long = _STARTDATE.match(main[88:168])
    if long and long[2].upper() in _MONTHS:
        full = _date(int(long[3]), _MONTHS.index(long[2].upper()) + 1, int(long[1]))
    if full is not None:
        if day is None or f"{day:%d%m%y}" != f"{full:%d%m%y}":
            notes["start_date"] = "not that of the recording field, which counts"
        day = full
    elif day == date(1985, 1, 1) and main[88:168].startswith(b"Startdate X "):
        notes["start_date"] = "withheld"
        return None
    clock = _TRIPLE.fullmatch(main[176:184].strip(b" \0"))
    if day is not None and clock:
        with suppress(ValueError):
            started = datetime.combine(day, time(int(clock[1]), int(clock[2]), int(clock[3])))
    if started is None:
        notes["start_date"] = "impossible date or time of day"
    return started


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day) if 1900 <= year < 2300 else None
    except ValueError:
        return None
