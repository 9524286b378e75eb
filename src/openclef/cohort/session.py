"""One recording of an ingest: read, judged, transformed, and put aside until all are there.

Runs in the workers. A session leaves two files: its spectrograms, and then, renamed into place
last, a small JSON part that tells of them or of what went wrong. A part means done.

Trouble with a recording is part of the result; trouble with the output ends the run. The first is
caught where the recording is read, so every other `OSError` is the second.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from openclef.artefact import atomic, write_json
from openclef.cohort.sidecars import read_channels_tsv
from openclef.errors import OpenclefError, RecordingError
from openclef.signal import (
    RecordingFile,
    assess_window,
    detect_line_hz,
    implausible,
    open_recording,
    summarise,
    window_bounds_s,
    window_spectrogram,
)
from openclef.types import MIN_RECORDING_S, BoolArray, Recording

WindowChoice = Literal["all", "first", "random"]


# Trouble of the machine or the mount, not of a file: another try may succeed.
PASSING = frozenset({errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE})


class StorageError(OpenclefError):
    """The output cannot be written: the run stops, where a bad recording would be skipped."""


class SourceError(OpenclefError):
    """The data set cannot be read just now: the run stops, and no recording is given up."""


@contextmanager
def storage_of(folder: Path) -> Iterator[None]:
    """Any `OSError` of the block is trouble with the output."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written ({error.strerror or error}); once it can be, the same "
            "command goes on from here"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Trouble of the block is the recording's, whatever it is: one file must not end the others.

    What no reader foresaw is told by its place in the code alone: its text may quote the header.
    """
    try:
        yield
    except OpenclefError:
        raise
    except MemoryError as error:
        raise SourceError("out of memory; with fewer workers the same command goes on") from error
    except OSError as error:
        if error.errno in PASSING:
            raise SourceError(
                f"the data set cannot be read ({error.strerror}); once it can be, the same command "
                "goes on from here"
            ) from error
        raise RecordingError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise RecordingError(
            f"{path}: {type(error).__name__} in {Path(at.filename).name}, line {at.lineno}; please "
            "report this"
        ) from error


@dataclass(frozen=True, slots=True)
class SessionJob:
    """A recording to read.

    root: of its data set. size_bytes: when the data set was indexed. crop_s: read no further;
    date_shift: what its clock is moved by.
    """

    session_id: str
    root: Path
    path: Path
    size_bytes: int | None
    folder: Path
    line_hz: float | None
    unit: str | None
    windows: WindowChoice
    seed: int
    crop_s: float
    date_shift: timedelta


def part_path(folder: Path, session_id: str) -> Path:
    """What a session's reading came to, as JSON."""
    return folder / "parts" / f"{session_id}.json"


def power_path(folder: Path, session_id: str) -> Path:
    """Spectrograms `[W, 19, 128, 1280]` of a session, float16, as they lie in memory."""
    return folder / "parts" / f"{session_id}.f16"


def ingest_session(job: SessionJob) -> None:
    """Read one recording, and leave its part.

    Raises StorageError if the result cannot be written, SourceError if it is the machine or the
    mount that fails, not the recording: then no part is left.
    """
    with failing_alone(job):
        with (
            atomic(power_path(job.folder, job.session_id)) as temporary,
            temporary.open("wb") as power,
        ):
            part = _read(job, power)
        write_json(part_path(job.folder, job.session_id), part)


@contextmanager
def failing_alone(job: SessionJob) -> Iterator[None]:
    """What is wrong with the recording that is read inside leaves a part that says so, and is not
    raised; errors of the machine are (`ingest_session`).
    """
    with storage_of(job.folder):
        try:
            yield
        except SourceError:
            raise
        except OpenclefError as error:
            if not job.root.is_dir():
                raise SourceError(
                    f"{job.root}: no such folder any more; once it is back, the same command goes "
                    "on from here"
                ) from error
            finish_failed(job, error)


def open_unchanged(job: SessionJob) -> RecordingFile:
    """Open the recording as it was when it was indexed, with what its sidecar tells of channels."""
    with reading(job.path):
        check_unchanged(job)
        sidecar = read_channels_tsv(job.path)
        return open_recording(
            job.path,
            unit=job.unit,
            units_beside=sidecar.units if sidecar else {},
            bad=sidecar.bad if sidecar else (),
        )


def finish_failed(job: SessionJob, error: OpenclefError) -> None:
    """Leave the part of a recording that cannot be used. Its message names no path."""
    part = {"error": type(error).__name__, "message": _nameless(str(error), job.path)}
    with storage_of(job.folder):
        write_json(part_path(job.folder, job.session_id), part)


def recording_duration_s(job: SessionJob) -> float | None:
    """What the recording's header tells, None if it cannot be read (`ingest_session` says why)."""
    try:
        with reading(job.path):
            return open_recording(job.path, unit=job.unit).duration_s
    except OpenclefError:
        return None


def _read(job: SessionJob, power: BinaryIO) -> dict[str, Any]:
    file = open_unchanged(job)
    windows, measures = [], []
    notes = {k: v for k, v in file.provenance.items() if k not in ("format", "reference")}
    line_hz = job.line_hz
    for recording in _chosen(file, job, notes):
        with reading(job.path):
            measures.append(assess_window(recording))
            line_hz = line_hz or detect_line_hz(recording)  # one for all windows
            spectrogram = window_spectrogram(recording, line_hz=line_hz)
        stored = spectrogram.power_db.astype(np.float16)
        power.write(stored.data)
        windows.append(
            {
                "start_s": recording.start_s,
                "hidden_channels": np.flatnonzero(spectrogram.channel_mask).tolist(),
                "hidden_frames": _runs(spectrogram.time_mask),
                "hash": hashlib.sha256(stored.data).hexdigest()[:16],
            }
        )
    with reading(job.path):
        quality = summarise(
            measures,
            montage={**file.montage.record(), "reference": file.provenance["reference"]},
            unit_verdict=file.unit,
            notes=notes,
            segments=[(a, min(b, job.crop_s)) for a, b in file.segments if a < job.crop_s],
        )
        started = file.start_time
        return {
            "windows": windows,
            "duration_s": min(file.duration_s, job.crop_s),
            "n_channels_present": len(file.montage.names),
            "start_time": (started + job.date_shift).isoformat() if started else None,
            "columns": quality.columns(),
            "quality": {**quality.to_json(), "line_hz_removed": line_hz},
        }


def check_unchanged(job: SessionJob) -> None:
    """The artefact's identity is that of the files as they were indexed."""
    if not job.path.is_file():
        return  # formats that are folders; `open_recording` tells what is missing
    size_bytes = job.path.stat().st_size
    if size_bytes != job.size_bytes:
        then = "missing" if job.size_bytes is None else f"{job.size_bytes} bytes"
        raise RecordingError(
            f"{job.path}: changed since the data set was indexed ({then} then, {size_bytes} bytes "
            "now); ingest it anew into another folder"
        )


def _chosen(file: RecordingFile, job: SessionJob, notes: dict[str, str]) -> Iterator[Recording]:
    """The windows asked for that hold plausible EEG; raises RecordingError if there is none.

    Those without go to `notes`.
    """
    segments = [(a, min(b, job.crop_s)) for a, b in file.segments if a < job.crop_s]
    bounds = window_bounds_s(min(file.duration_s, job.crop_s), segments=segments)
    bounds = [
        (start_s, stop_s) for start_s, stop_s in bounds if stop_s - start_s >= MIN_RECORDING_S
    ]
    if job.windows == "random":
        name = hashlib.sha256(f"{job.seed}/{job.session_id}".encode()).digest()
        bounds = np.random.default_rng(list(name)).permutation(bounds).tolist()
    problem: str | None = f"crop: less than {MIN_RECORDING_S:g} s of it would be left"
    n_kept = n_skipped = 0
    for start_s, stop_s in bounds:
        with reading(job.path):
            recording = file.read(start_s=start_s, stop_s=stop_s)
            problem = implausible(recording, declared=file.unit)
        if problem is None:
            n_kept += 1
            yield recording
            if job.windows != "all":
                return
        else:
            n_skipped += 1
            notes["skipped_windows"] = f"{n_skipped} of {len(bounds)}, the last: {problem}"
    if not n_kept:
        raise RecordingError(f"{job.path}: {problem}")


def _runs(mask: BoolArray) -> list[list[int]]:
    """First and one past the last of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False]))))
    return edges.reshape(-1, 2).tolist()


def _nameless(message: str, path: Path) -> str:
    """The message without the recording's path; its neighbours' names, too, can hold a patient."""
    stem = path.name.rpartition("_eeg.")[0] or path.stem
    names = re.compile(rf"{re.escape(stem)}(?=[._][A-Za-z])")
    return names.sub("*", message.replace(f"{path}: ", "").replace(f"{path.parent}/", ""))


def read_part(path: Path) -> dict[str, Any]:
    """What `ingest_session` or `finish_failed` left."""
    part: dict[str, Any] = json.loads(path.read_text())
    return part
