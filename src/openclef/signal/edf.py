"""EDF, EDF+, BDF and BDF+ files, from disk straight into float32: only what is asked for.

Layout: https://www.edfplus.info/specs/edf.html and edfplus.html; BDF differs in 3-byte samples.
Stretches that were not recorded stay what they are: gaps, never joined.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from io import RawIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openclef.errors import RecordingError
from openclef.signal.edf_header import EdfSignal, Header, read_header
from openclef.types import FloatArray

__all__ = ["EdfFile", "EdfSignal", "open_edf"]

_MAX_GAP_S = 30 * 86_400.0  # longer than any session: the time of a record is damaged
_MAX_READ_BYTES = 2**30  # of one read, unless the file itself is of that size
_BLOCK_SAMPLES = 2**16  # decoded and scaled while in the cache
# Vendors write onsets to the millisecond, which at high rates is more than a sample.
_ONSET_RESOLUTION_S = 1e-3
# The annotation that opens each record of EDF+: its onset and an empty text.
_ONSET = re.compile(rb"([+-]\d{1,10}(?:[.,]\d*)?)\x14\x14")
_ONSET_BYTES = 64  # far more than that needs


@dataclass(frozen=True, eq=False)
class EdfFile:
    """Header of an EDF or BDF file; the samples stay on disk until `read` asks for them.

    signals: annotation signals left out. start_time: wall clock of the first record, without
    zone; None if withheld or impossible. segments: (start, stop) in seconds from the first record
    of the stretches without a gap, one for a continuous file. notes: what was odd, in counts and
    names of fields, never the header's own text.
    """

    path: Path
    signals: tuple[EdfSignal, ...]
    record_s: float
    n_records: int
    start_time: datetime | None
    segments: tuple[tuple[float, float], ...]
    notes: Mapping[str, str]
    _segment_records: NDArray[np.int64] = field(repr=False)  # `[G + 1]`: firsts, then n_records
    _header: Header = field(repr=False)

    @property
    def duration_s(self) -> float:
        return self.segments[-1][1]

    def read(
        self,
        picks: Sequence[int],
        *,
        start_s: float,
        stop_s: float,
        scale: NDArray[np.floating] | None = None,
    ) -> tuple[FloatArray, tuple[tuple[float, float], ...]]:
        """Read one stretch of some signals, which must have one rate.

        Parameters
        ----------
        picks
            Positions in `signals`.
        start_s, stop_s
            From the first record, within 0 and `duration_s`.
        scale
            `[P]`, by which each signal is multiplied, for example its unit in microvolts.

        Returns
        -------
        signal, gaps
            `[P, S]` float32, physical values times `scale`, zero in gaps; S is the duration
            times the rate, rounded. (start, stop) of the gaps, in seconds from `start_s`.

        Raises
        ------
        ValueError
            Picks of several rates, a stretch outside the file.
        RecordingError
            A pick has a `problem`, the file became shorter, or so long a stretch of so small a
            file that only a damaged header explains it.
        """
        signals = self._picked(picks)
        rate_hz = signals[0].rate_hz
        if not 0 <= start_s <= stop_s <= self.duration_s + 0.5 / rate_hz:
            raise ValueError(
                f"{self.path}: {start_s:g} to {stop_s:g} s asked for of 0 to {self.duration_s:g} s"
            )
        # Halves go down, so that a read up to the end does not pass it by a sample.
        first = math.ceil(start_s * rate_hz - 0.5)
        n_times = round((stop_s - start_s) * rate_hz)
        most_bytes = max(_MAX_READ_BYTES, 16 * self.n_records * self._header.record_bytes)
        if 4 * len(signals) * n_times > most_bytes:
            raise RecordingError(
                f"{self.path}: {n_times} samples of {len(signals)} signals asked for, far more "
                f"than the file has: read shorter stretches along its segments"
            )
        signal = np.zeros((len(signals), n_times), np.float32)
        stretches = self._stretches(signals[0], first, first + n_times) if n_times else []
        if stretches:
            factors = np.ones(len(signals)) if scale is None else scale
            self._decode(stretches, signals, factors, out=signal)
        gaps = []
        done = 0
        for at, begin, end in [*stretches, _Stretch(n_times, 0, 0)]:
            if at > done:
                gaps.append((done / rate_hz, at / rate_hz))
            done = at + end - begin
        return signal, tuple(gaps)

    def _picked(self, picks: Sequence[int]) -> list[EdfSignal]:
        if not len(picks) or not all(0 <= pick < len(self.signals) for pick in picks):
            raise ValueError(f"picks must be among 0 to {len(self.signals) - 1}, got {picks}")
        signals = [self.signals[pick] for pick in picks]
        for pick, signal in zip(picks, signals, strict=True):
            if signal.problem is not None:
                raise RecordingError(f"{self.path}: signal {pick + 1}: {signal.problem}")
        rates = sorted({signal.rate_hz for signal in signals})
        if len(rates) > 1:
            shown = ", ".join(f"{rate:g}" for rate in rates)
            raise ValueError(f"picks must have one rate, got {shown} Hz")
        return signals

    def _stretches(self, signal: EdfSignal, first: int, stop: int) -> list[_Stretch]:
        """Where the segments' samples lie between two samples of the timeline."""
        stored = self._segment_records * signal.n_samples
        starts_s = np.array([start_s for start_s, _ in self.segments])
        begins = np.rint(starts_s * signal.rate_hz).astype(np.int64)
        ends = begins + np.diff(stored)
        stretches = []
        for i in np.flatnonzero((ends > first) & (begins < stop)).tolist():
            begin, end = max(int(begins[i]), first), min(int(ends[i]), stop)
            offset = int(stored[i] - begins[i])
            stretches.append(_Stretch(begin - first, begin + offset, end + offset))
        return stretches

    def _decode(
        self,
        stretches: Sequence[_Stretch],
        signals: Sequence[EdfSignal],
        factors: NDArray[np.floating],
        *,
        out: FloatArray,
    ) -> None:
        """Write the physical values of some stretches into `out` `[P, S]`."""
        n_samples = signals[0].n_samples
        sample_bytes, record_bytes = self._header.sample_bytes, self._header.record_bytes
        first_record = stretches[0].first // n_samples
        stop_record = -(-stretches[-1].stop // n_samples)
        # A 3-byte sample is the upper part of the 4-byte one that starts a byte before it.
        n_before = 1 if sample_bytes == 3 else 0
        mapped_from = self._header.header_bytes + first_record * record_bytes - n_before
        n_mapped = (stop_record - first_record) * record_bytes + n_before
        # Mapped anew by each read, or a day read in windows would end up resident as a whole.
        with self.path.open("rb") as handle:
            if os.fstat(handle.fileno()).st_size < mapped_from + n_mapped:
                raise RecordingError(f"{self.path}: became shorter since it was opened")
            mapped = np.memmap(handle, np.uint8, "r", offset=mapped_from, shape=(n_mapped,))
        # gain * (digital + offset / gain): terms that cancel do so in digital steps, which float32
        # holds; gain * digital + offset would round each before. What the shift itself loses is a
        # constant, in all samples alike.
        shifts = [np.float32(signal.offset / signal.gain) for signal in signals]
        gains = [np.float32(s.gain * factor) for s, factor in zip(signals, factors, strict=True)]
        for at, record, n_records, skip, n_taken in _pieces(stretches, n_samples):
            row = (record - first_record) * record_bytes + skip * sample_bytes
            for signal, shift, gain, samples in zip(signals, shifts, gains, out, strict=True):
                digital = np.ndarray(
                    (n_records, n_taken),
                    "<i4" if sample_bytes == 3 else "<i2",
                    mapped,
                    row + signal.start_byte,
                    (record_bytes, sample_bytes),
                )
                piece = samples[at : at + n_records * n_taken].reshape(n_records, n_taken)
                piece[...] = digital >> 8 if sample_bytes == 3 else digital
                piece += shift
                piece *= gain


class _Stretch(NamedTuple):
    """Samples `first` to `stop` of a signal, as stored, and where in the output they go."""

    at: int
    first: int
    stop: int


def _pieces(
    stretches: Sequence[_Stretch], n_samples: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """Cut into cache-sized blocks of whole records, and parts of single records at the ends.

    Yields where it goes, its first record, how many, and the samples to skip and take in each.
    """
    n_whole = max(1, _BLOCK_SAMPLES // n_samples)
    for stretch in stretches:
        at, first = stretch.at, stretch.first
        while first < stretch.stop:
            n_left = stretch.stop - first
            record, skip = divmod(first, n_samples)
            if skip or n_left < n_samples or n_samples > _BLOCK_SAMPLES:
                n_records, n_taken = 1, min(n_samples - skip, n_left, _BLOCK_SAMPLES)
            else:
                n_records, n_taken = min(n_left // n_samples, n_whole), n_samples
            yield at, record, n_records, skip, n_taken
            at += n_records * n_taken
            first += n_records * n_taken


def open_edf(path: Path) -> EdfFile:
    """Read and check the header of an EDF, EDF+, BDF or BDF+ file, and find its gaps.

    EDF+D is timed record by record; a file declared continuous by its first and last record, and
    by all of them only if those two are not as far apart as the records between them last.

    Raises
    ------
    RecordingError
        Not such a file, damaged or cut short (see `read_header`); records that overlap or go back
        in time, or whose times cannot be read although there are gaps.
    OSError
        The file cannot be opened or read.
    """
    path = Path(path)
    with path.open("rb", buffering=0) as handle:
        header = read_header(handle, os.fstat(handle.fileno()).st_size, path)
        notes = dict(header.notes)
        after_gap, gaps_s = np.empty(0, np.int64), np.empty(0)
        start_time = header.start_time
        if header.clock is not None:
            onset_s = _onset_reader(handle, header)
            after_gap, gaps_s = _find_gaps(onset_s, header, notes, path)
            # EDF+ keeps the fraction of the starting second here; more counts from elsewhere.
            if start_time is not None and 0 <= onset_s(0) < 1:
                start_time += timedelta(seconds=onset_s(0))
        elif not header.is_continuous:
            raise RecordingError(f"{path}: EDF+D without the annotations that time its records")
    segment_records = np.concatenate(([0], after_gap, [header.n_records]))
    starts_s = segment_records[:-1] * header.record_s + np.concatenate(([0.0], np.cumsum(gaps_s)))
    stops_s = starts_s + np.diff(segment_records) * header.record_s
    return EdfFile(
        path=path,
        signals=header.signals,
        record_s=header.record_s,
        n_records=header.n_records,
        start_time=start_time,
        segments=tuple(zip(starts_s.tolist(), stops_s.tolist(), strict=True)),
        notes=notes,
        _segment_records=segment_records,
        _header=header,
    )


def _onset_reader(handle: RawIOBase, header: Header) -> Callable[[int], float]:
    """When a record starts, by the annotation that opens it; NaN if that is not readable.

    Read, not mapped: looking at every record must not make the whole file resident.
    """
    assert header.clock is not None
    first_byte = header.header_bytes + header.clock.start_byte
    n_bytes = min(_ONSET_BYTES, header.clock.n_samples * header.sample_bytes)

    def onset_s(record: int) -> float:
        handle.seek(first_byte + record * header.record_bytes)
        match = _ONSET.match(handle.read(n_bytes) or b"")
        return float(match[1].replace(b",", b".")) if match else math.nan

    return onset_s


def _find_gaps(
    onset_s: Callable[[int], float], header: Header, notes: dict[str, str], path: Path
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Records that follow a gap, and how long each gap is.

    Less than a sample is no gap, however far it adds up: durations that are rounded in the header
    let the onsets drift.
    """
    n_records, record_s = header.n_records, header.record_s
    sample_s = 1 / max(signal.rate_hz for signal in header.signals)
    tolerance_s = min(max(sample_s, _ONSET_RESOLUTION_S), record_s / 2)
    run_s = (n_records - 1) * record_s
    no_gap = np.empty(0, np.int64), np.empty(0)
    if header.is_continuous and abs(onset_s(n_records - 1) - onset_s(0) - run_s) < tolerance_s:
        return no_gap

    onsets_s = np.empty(n_records)
    for record in range(n_records):
        onsets_s[record] = onset_s(record)
        if not header.is_continuous and np.isnan(onsets_s[record]):
            raise RecordingError(f"{path}: discontinuous, and record {record + 1} tells no time")
    known = np.flatnonzero(np.isfinite(onsets_s))
    n_unknown = n_records - len(known)
    if n_unknown:
        if len(known) and np.ptp(onsets_s[known] - known * record_s) >= tolerance_s:
            raise RecordingError(
                f"{path}: {n_unknown} of {n_records} records tell no time, and the times of the "
                f"others are not continuous"
            )
        notes["onsets"] = f"{n_unknown} of {n_records} unreadable"
        return no_gap

    jumps_s = np.diff(onsets_s) - record_s
    back = np.flatnonzero(jumps_s <= -tolerance_s)
    if len(back):
        raise RecordingError(
            f"{path}: records overlap or go back in time, {len(back)} in all, the first by "
            f"{-jumps_s[back[0]]:g} s (record {back[0] + 2})"
        )
    after_gap = np.flatnonzero(jumps_s >= tolerance_s) + 1
    gaps_s = jumps_s[after_gap - 1]
    if len(gaps_s) and gaps_s.max() > _MAX_GAP_S:
        raise RecordingError(
            f"{path}: a gap of {gaps_s.max():g} s: the time of a record is damaged"
        )
    if header.is_continuous and 2 < n_records == len(gaps_s) + 1:
        raise RecordingError(
            f"{path}: declared continuous, yet a gap before every record: either their times or "
            f"their duration of {record_s:g} s is wrong"
        )
    if len(gaps_s):
        declared = ", in a file declared continuous" if header.is_continuous else ""
        notes["gaps"] = f"{len(gaps_s)}, {gaps_s.sum():g} s in all{declared}"
    drift_s = onsets_s[-1] - onsets_s[0] - run_s - gaps_s.sum()
    if abs(drift_s) >= tolerance_s:
        notes["drift"] = f"{drift_s:g} s over {n_records} records"
    return after_gap, gaps_s
