"""Recordings of every format but EDF and BDF, through MNE, with what MNE knows of their breaks."""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openclef.errors import RecordingError
from openclef.signal.intact import check_intact
from openclef.signal.units import UNITS, known_unit
from openclef.types import FloatArray

Gaps = tuple[tuple[float, float], ...]

# Stretches in which nothing was recorded, filled by the format or by MNE.
_SKIPPED = "BAD_ACQ_SKIP"
# Places where stretches were joined although time passed between them.
_JOINED = ("boundary", "New Segment/", "EDGE boundary", "BAD boundary")
_MOST_JITTER_S = 0.1  # of sample times that only tell when a file was written
# Samples of all channels read at once, as float64: MNE reads channels that are not picked, too.
_BLOCK_SAMPLES = 2**22
# Claims that only a damaged header makes: compressed formats have more than half a byte a sample.
_MOST_SAMPLES_PER_BYTE = 64
_MAX_READ_BYTES = 2**30  # of one read, unless the file itself is of that size
# Trouble of the disk or the machine, not of the recording: trying again may help.
_PASSING = frozenset(
    (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC,
     errno.ESTALE, errno.ETIMEDOUT)
)  # fmt: skip
_GDF_UNITS = {4256: "V", 4274: "mV", 4275: "uV", 4276: "nV"}  # ISO 11073-10101
_NEEDED = re.compile(r"the module ([A-Za-z0-9_]+)")  # MNE's words for a package it lacks


@dataclass(frozen=True, eq=False)
class MneFile:
    """An open recording; samples stay on disk where the format allows it.

    units: of `UNITS`, one a channel, "" where what the file states is none of them; is_stated:
    whether the file says them, or its format does. segments: (start, stop) in seconds of the
    stretches without a gap. joints: seconds at which stretches are joined without their real
    distance in time. bads: labels the file marks as bad.
    """

    path: Path
    labels: tuple[str, ...]
    units: tuple[str, ...]
    is_stated: bool
    sfreq_hz: float
    segments: Gaps
    joints: tuple[float, ...]
    start_time: datetime | None
    bads: frozenset[str]
    n_warnings: int
    n_bytes: int
    _per_volt: NDArray[np.float64] = field(repr=False)  # `[C]`, the file's own numbers in a volt
    _raw: Any = field(repr=False)

    @property
    def duration_s(self) -> float:
        return self.segments[-1][1]

    def rate_hz(self, pick: int) -> float:
        return self.sfreq_hz

    def read(
        self, picks: Sequence[int], *, start_s: float, stop_s: float, scale: Sequence[float]
    ) -> tuple[FloatArray, Gaps]:
        """Read one stretch: `[P, S]`, the file's own numbers x `scale`, and its gaps (s).

        Gaps are zero, their times count from `start_s`; a joint is a gap without duration.

        Raises RecordingError if the samples cannot be read or are not all finite.
        """
        first, last = round(start_s * self.sfreq_hz), round(stop_s * self.sfreq_hz)
        if 4 * len(picks) * (last - first) > max(_MAX_READ_BYTES, 16 * self.n_bytes):
            raise RecordingError(
                f"{self.path}: {last - first} samples of {len(picks)} channels asked for, far more "
                "than the file has"
            )
        signal = np.empty((len(picks), last - first), np.float32)
        factors = self._per_volt[list(picks), np.newaxis] * np.asarray(scale)[:, np.newaxis]
        n_block = max(1, _BLOCK_SAMPLES // len(self.labels))
        for at in range(first, last, n_block):
            until = min(at + n_block, last)
            with plain_errors(self.path), np.errstate(over="ignore", invalid="ignore"):
                volts = self._raw.get_data(picks=list(picks), start=at, stop=until)
                signal[:, at - first : until - first] = volts * factors
        gaps = tuple(
            (max(a, start_s) - start_s, min(b, stop_s) - start_s)
            for a, b in sorted([*self._gaps(), *((t, t) for t in self.joints)])
            if a < stop_s and b > start_s
        )
        for a, b in gaps:
            signal[:, round(a * self.sfreq_hz) : round(b * self.sfreq_hz)] = 0
        n_bad = int((~np.isfinite(signal)).any(axis=1).sum())
        if n_bad:
            raise RecordingError(f"{self.path}: samples that are no numbers in {n_bad} channels")
        return signal, gaps

    def _gaps(self) -> Gaps:
        edges = [0.0, *(t for segment in self.segments for t in segment)]
        return tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if b > a)


def open_mne(path: Path, suffix: str) -> MneFile:
    """Open a recording with the reader that MNE has for its suffix.

    Raises
    ------
    RecordingError
        MNE cannot read it, or needs a package that is not installed; nothing was recorded; or the
        header claims far more than the file holds.
    OSError
        The file may not be read, or the disk fails.
    """
    with plain_errors(path) as heard:
        check_intact(path, suffix)
        raw = _read_raw(path, suffix)
        sfreq_hz = float(raw.info["sfreq"])
        started = raw.info["meas_date"]
        if started is not None:
            started = started.replace(tzinfo=None) + timedelta(seconds=float(raw.first_time))
        skipped, joints = _breaks(raw)
        if suffix == ".lay":
            joints = sorted({*joints, *_persyst_joints(path, sfreq_hz)})
        units, is_stated, per_volt = _units(raw, path, suffix)
    if not (np.isfinite(sfreq_hz) and sfreq_hz > 0):
        raise RecordingError(f"{path}: damaged: its sampling rate is not above zero")
    segments = _segments(skipped, int(raw.n_times) / sfreq_hz)
    if not segments:
        raise RecordingError(f"{path}: nothing recorded, all of its time is a gap")
    n_bytes = _n_bytes(path, raw)
    n_claimed = sum(b - a for a, b in segments) * sfreq_hz * len(raw.ch_names)
    if n_claimed > _MOST_SAMPLES_PER_BYTE * n_bytes:
        raise RecordingError(
            f"{path}: damaged: its header tells of {n_claimed:.3g} samples, {n_bytes} bytes cannot "
            "hold them"
        )
    return MneFile(
        path=path,
        labels=tuple(raw.ch_names),
        units=units,
        is_stated=is_stated,
        sfreq_hz=sfreq_hz,
        segments=segments,
        joints=tuple(t for t in joints if t < segments[-1][1]),
        start_time=started,
        bads=frozenset(raw.info["bads"]),
        n_warnings=len(heard),
        n_bytes=n_bytes,
        _per_volt=per_volt,
        _raw=raw,
    )


def _read_raw(path: Path, suffix: str) -> Any:
    import mne

    # Those that `mne.io.read_raw` does not find, or not with the arguments they need.
    if suffix == ".raw":
        return mne.io.read_raw_egi(path, verbose="WARNING")
    if suffix == ".data":
        with mne.utils.use_log_level("WARNING"):  # its header is read at the default verbosity
            return mne.io.read_raw_nicolet(path, ch_type="eeg", verbose="WARNING")
    if suffix == ".cnt":  # two makers; of ANT's the container is a RIFF or RF64 file
        with path.open("rb") as handle:
            is_ant = handle.read(4) in {b"RIFF", b"RF64"}
        reader = mne.io.read_raw_ant if is_ant else mne.io.read_raw_cnt
        return reader(path, verbose="WARNING")
    if suffix == ".dat":  # of Curry up to version 7 only with the parameters beside it
        is_curry = path.with_suffix(".dap").exists()
        if is_curry:
            return mne.io.read_raw_curry(path, verbose="WARNING")
        return mne.io.read_raw_bci2k(path, preload=True, verbose="WARNING")  # has no other way
    return mne.io.read_raw(path, verbose="WARNING")


def _units(raw: Any, path: Path, suffix: str) -> tuple[tuple[str, ...], bool, NDArray[np.float64]]:
    """Unit of each channel, whether the file states them, and the file's numbers in a volt."""
    n_chans = len(raw.ch_names)
    if suffix == ".gdf":
        factors = np.asarray(raw._raw_extras[0]["units"], float)
        units = _gdf_units(path)
        if len(factors) == len(units) == n_chans:
            return units, True, 1 / factors
        raise RecordingError(f"{path}: damaged: the count of its channels is in doubt")
    stated = raw._orig_units
    if stated:
        units = tuple(known_unit(stated.get(name, "")) or "" for name in raw.ch_names)
        # MNE takes the numbers of a unit it does not know as they are.
        return units, True, np.array([1e6 / UNITS[unit or "V"] for unit in units])
    unit = "V" if suffix in {".fif", ".fif.gz"} else "uV"
    return (unit,) * n_chans, False, np.full(n_chans, 1e6 / UNITS[unit])


def _gdf_units(path: Path) -> tuple[str, ...]:
    """Units of a GDF file, of which MNE knows some: text up to version 1, then codes."""
    with path.open("rb") as handle:
        header = handle.read(256)
        is_coded = header[4:5] != b"1"
        n_chans = int(np.frombuffer(header, "<u2" if is_coded else "<u4", 1, offset=252)[0])
        handle.seek(256 + (102 if is_coded else 96) * n_chans)
        if is_coded:
            codes = np.frombuffer(handle.read(2 * n_chans), "<u2").tolist()
            return tuple(_GDF_UNITS.get(code, "") for code in codes)
        texts = [handle.read(8).strip(b" \0").decode("latin-1") for _ in range(n_chans)]
        return tuple(known_unit(text) or "" for text in texts)


def _n_bytes(path: Path, raw: Any) -> int:
    """Bytes of all the files of a recording."""
    files = {path, *(Path(name) for name in raw.filenames if name is not None)}
    inside = [f for p in files for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    return sum(file.stat().st_size for file in inside)


def _breaks(raw: Any) -> tuple[list[tuple[float, float]], list[float]]:
    """Gaps (start, stop) and joints, in seconds from the first sample."""
    skipped, joints = [], []
    for onset, duration, text in zip(
        raw.annotations.onset, raw.annotations.duration, raw.annotations.description, strict=True
    ):
        start_s = float(onset) - raw.first_time
        if text == _SKIPPED and duration > 0:
            skipped.append((start_s, start_s + float(duration)))
        elif text.startswith(_JOINED) and start_s > 0:
            joints.append(start_s)
    return sorted(skipped), sorted(set(joints))


def _persyst_joints(path: Path, sfreq_hz: float) -> list[float]:
    """Seconds at which the sample times of a Persyst layout jump, which MNE does not look at."""
    section, times = "", []
    for line in path.read_text(encoding="latin-1").splitlines():
        name, _, value = line.partition("=")
        if line.startswith("["):
            section = line.strip().lower()
        elif section == "[sampletimes]" and value:
            times.append((int(name), float(value)))
    return [
        sample / sfreq_hz
        for (before, before_s), (sample, s) in pairwise(sorted(times))
        if abs(s - before_s - (sample - before) / sfreq_hz) > _MOST_JITTER_S
    ]


def _segments(skipped: Sequence[tuple[float, float]], duration_s: float) -> Gaps:
    """What lies between the skipped stretches; not what follows the last sample recorded."""
    segments, at = [], 0.0
    for start_s, stop_s in [*skipped, (duration_s, duration_s)]:
        if min(start_s, duration_s) > at:
            segments.append((at, min(start_s, duration_s)))
        at = max(at, stop_s)
    return tuple(segments)


@contextmanager
def plain_errors(path: Path) -> Iterator[list[warnings.WarningMessage]]:
    """Turn whatever a reader raises into one RecordingError; collect its warnings.

    OSErrors of the disk or of permission pass.
    """
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield heard
    except RecordingError:
        raise
    except FileNotFoundError as error:
        raise RecordingError(f"{path}: a file that belongs to it is missing") from error
    except Exception as error:  # readers fail in any way on damaged files
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise
        needed = _NEEDED.search(str(error))
        if isinstance(error, ImportError) or needed:
            package = needed[1] if needed else getattr(error, "name", None) or "a package"
            raise RecordingError(
                f"{path}: reading {path.suffix} files needs {package}, which is not installed: "
                f"pip install {package}, or 'openclef[formats]' for all formats"
            ) from error
        case = "; try a suffix in lower case" if path.suffix != path.suffix.lower() else ""
        raise RecordingError(
            f"{path}: not a readable {path.suffix} recording ({_cause(error)}){case}"
        ) from error


def _cause(error: Exception) -> str:
    """Kind of an error and its first sentence, as far as it holds no text of the file.

    A message may quote the header, so the patient: only words that stand in the code which raised
    the error are passed on.
    """
    words: set[str] = set()
    trace = error.__traceback__
    while trace is not None:
        for constant in trace.tb_frame.f_code.co_consts:
            if isinstance(constant, str) and "\n" not in constant.strip():  # no docstring
                words.update(re.findall(r"\w+", constant))
        trace = trace.tb_next
    first = str(error).strip().partition("\n")[0].partition(". ")[0]
    shown = [word for word in re.findall(r"\w+", first) if word in words]
    kind = type(error).__name__
    if 2 * len(shown) < len(re.findall(r"\w+", first)) or not shown:
        return kind  # of what the code says itself too little is left
    told = re.sub(r"\w+", lambda word: word[0] if word[0] in words else "...", first)
    told = re.sub(r"\.{3}(?:\W*\.{3})+", "...", told)
    return f"{kind}: {told[:200]}"
