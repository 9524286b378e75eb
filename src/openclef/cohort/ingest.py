"""Ingest: a data set on disk becomes a cohort. One process a worker, resumable by session.

Headers are read first, before anything is written: then every window has its row in the Zarr
array, and workers write rows and a small part file a session. The tables are made from the parts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import zarr
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import track

from openclef import artefact
from openclef.artefact import Artefact, atomic, write_json
from openclef.cohort import ehr
from openclef.cohort.deidentify import OLDEST_AGE, date_shift, site_key
from openclef.cohort.layouts import Source, SourceSession
from openclef.cohort.reports import electrographic_text
from openclef.cohort.splits import SplitConfig, assign_splits
from openclef.cohort.store import ARRAY_SHAPE
from openclef.errors import OpenclefError, RecordingError
from openclef.signal import crop, open_recording, window_bounds_s, window_spectrogram
from openclef.types import MIN_RECORDING_S
from openclef.workers import worker_pool

BYTES_PER_WINDOW = 2 * int(np.prod(ARRAY_SHAPE))


class IngestConfig(BaseModel):
    """crop: "equal" cuts every recording to the shortest one (to whole seconds), so that duration
    cannot tell labels apart; "none"; or seconds. line_hz: None detects 50 or 60.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: Literal["equal", "none"] | float = "none"
    line_hz: float | None = Field(None, gt=0)
    splits: SplitConfig = SplitConfig()


@dataclass(frozen=True)
class _Job:
    session_id: str
    path: Path
    duration_s: float
    first_row: int
    n_rows: int
    line_hz: float | None
    folder: Path


@dataclass(frozen=True)
class _Problem:
    path: Path
    stage: str
    error: str
    message: str


def ingest(
    source: Source, out: Path, *, config: IngestConfig, n_workers: int = 2, progress: bool = True
) -> Artefact:
    """Write the cohort of a data set to `out`, or resume it, or do nothing if it is complete.

    Unreadable recordings go to `errors.parquet` and are skipped. Raises OpenclefError if none can
    be read, if too few patients remain for four splits, or if `out` holds something else.
    """
    inputs = {"source": source.hash()}
    settings = {"layout": source.layout, **config.model_dump(mode="json")}
    if (out / "manifest.json").exists():
        return artefact.begin(out, kind="cohort", config=settings, inputs=inputs)

    sessions = {f"S{i:06d}": session for i, session in enumerate(source.sessions, start=1)}
    # What can be wrong outside the recordings must be known before hours of work on them.
    key = site_key()
    events = ehr.read_meds(source.meds) if source.meds else ehr.no_events()
    durations, problems = _read_headers(sessions, n_workers=n_workers, progress=progress)
    if not durations:
        raise OpenclefError(f"no recording could be read; the first: {problems[0].message}")
    _check_patients(sessions[key] for key in durations)
    jobs = _plan(sessions, durations, out, config)
    n_rows = sum(job.n_rows for job in jobs)
    if not (out / "config.json").exists():
        artefact.check_free_disk(out, n_rows * BYTES_PER_WINDOW)
    assign_splits({sessions[key].subject_id for key in durations}, config.splits)

    cohort = artefact.begin(out, kind="cohort", config=settings, inputs=inputs)
    if not (out / "spectrograms" / "zarr.json").exists():
        zarr.create_array(
            out / "spectrograms", shape=(n_rows, *ARRAY_SHAPE), chunks=(1, *ARRAY_SHAPE),
            dtype="float16", fill_value=0,
        )  # fmt: skip
    parts = _process(jobs, n_workers=n_workers, progress=progress)
    problems += [
        _Problem(sessions[key].path, "ingest", part["error"], part["message"])
        for key, part in parts.items()
        if "error" in part
    ]
    read = {key: part for key, part in parts.items() if "error" not in part}
    try:
        if not read:
            raise OpenclefError(f"no recording could be read; the first: {problems[0].message}")
        _check_patients(sessions[key] for key in read)
        _write_tables(cohort, source, sessions, read, problems, config, key=key, events=events)
    except OpenclefError:
        shutil.rmtree(out)  # nothing half-written: what was asked for cannot be made
        raise
    cohort.finish(
        f"{name}.parquet"
        for name in ("sessions", "windows", "labels", "findings", "reports", "codes")
    )
    shutil.rmtree(out / "parts")
    return cohort


def _check_patients(sessions: Iterable[SourceSession]) -> None:
    """Every label that was asked for keeps two classes among what is left."""
    seen: dict[str, set[int]] = {}
    for session in sessions:
        for task, (category, value) in session.labels.items():
            if category == "label" and value >= 0:
                seen.setdefault(task, set()).add(value)
    for task, values in seen.items():
        if len(values) < 2:
            raise OpenclefError(
                f"label {task!r} has a single class among the recordings that could be read"
            )


def _read_headers(
    sessions: dict[str, SourceSession], *, n_workers: int, progress: bool
) -> tuple[dict[str, float], list[_Problem]]:
    """Durations in seconds of the recordings that open, and the problems of the others."""
    durations, problems = {}, []
    items = list(sessions.items())
    with worker_pool(n_workers) as pool:
        found = pool.map(_read_header, [s.path for _, s in items], chunksize=8)
        shown = track(found, "reading headers", total=len(items), disable=not progress)
        for (key, session), result in zip(items, shown, strict=True):
            if isinstance(result, float):
                durations[key] = result
            else:
                problems.append(_Problem(session.path, "open", *result))
    return durations, problems


def _read_header(path: Path) -> float | tuple[str, str]:
    try:
        return open_recording(path).duration_s
    except (RecordingError, OSError) as error:
        return type(error).__name__, str(error)


def _plan(
    sessions: dict[str, SourceSession],
    durations: dict[str, float],
    out: Path,
    config: IngestConfig,
) -> list[_Job]:
    longest = float("inf")
    if config.crop == "equal":
        longest = float(np.floor(min(durations.values())))
    elif config.crop != "none":
        longest = float(config.crop)
    jobs, row = [], 0
    for key, duration_s in durations.items():
        kept_s = min(duration_s, longest)
        n_rows = len(window_bounds_s(kept_s))
        jobs.append(_Job(key, sessions[key].path, kept_s, row, n_rows, config.line_hz, out))
        row += n_rows
    return jobs


def _process(jobs: Sequence[_Job], *, n_workers: int, progress: bool) -> dict[str, dict[str, Any]]:
    """Run the jobs that have no part yet; returns the parts of all, by session."""
    waiting = [job for job in jobs if not _part_path(job).exists()]
    if waiting:
        with worker_pool(n_workers) as pool:
            futures = [pool.submit(_ingest_session, job) for job in waiting]
            done = as_completed(futures)
            for future in track(done, "ingesting", total=len(futures), disable=not progress):
                future.result()
    return {job.session_id: json.loads(_part_path(job).read_text()) for job in jobs}


def _part_path(job: _Job) -> Path:
    return job.folder / "parts" / f"{job.session_id}.json"


def _ingest_session(job: _Job) -> None:
    """Write the windows of one session to their rows, then its part."""
    try:
        part = _write_windows(job)
    except (OpenclefError, OSError) as error:
        part = {"error": type(error).__name__, "message": str(error)}
    write_json(_part_path(job), part)


def _write_windows(job: _Job) -> dict[str, Any]:
    array = zarr.open_array(job.folder / "spectrograms", mode="r+")
    file = open_recording(job.path)
    windows: list[dict[str, Any]] = []
    n_present = 0
    for window in file.iter_windows():
        left_s = job.duration_s - window.start_s
        if left_s < MIN_RECORDING_S or len(windows) == job.n_rows:
            break
        if left_s < window.duration_s:
            window = crop(window, duration_s=left_s)  # noqa: PLW2901
        spectrogram = window_spectrogram(window, line_hz=job.line_hz)
        stored = spectrogram.power_db.astype(np.float16)
        row = job.first_row + len(windows)
        array[row] = stored
        n_present = max(n_present, int((~spectrogram.channel_mask).sum()))
        windows.append(
            {
                "row": row,
                "start_s": window.start_s,
                "channel_mask": spectrogram.channel_mask.tolist(),
                "time_mask": spectrogram.time_mask.tolist(),
                "hash": hashlib.sha256(stored.tobytes()).hexdigest()[:16],
            }
        )
    if not windows:
        raise RecordingError(f"{job.path}: no plausible EEG in its first {job.duration_s:g} s")
    start = file.start_time
    return {
        "windows": windows,
        "duration_s": job.duration_s,
        "n_channels_present": n_present,
        "start_time": start.isoformat() if start else None,
        "quality": {"sfreq_hz": file.sfreq_hz, **file.provenance},
    }


def _write_tables(
    cohort: Artefact,
    source: Source,
    sessions: dict[str, SourceSession],
    parts: dict[str, dict[str, Any]],
    problems: list[_Problem],
    config: IngestConfig,
    *,
    key: bytes,
    events: pl.DataFrame,
) -> None:
    people = {sessions[name].subject_id: sessions[name].subject for name in parts}
    splits = assign_splits(people, config.splits)
    shifts = {number: date_shift(subject, key=key) for number, subject in people.items()}
    codes = ehr.patient_codes(events)

    def row_of(name: str) -> dict[str, Any]:
        session, part = sessions[name], parts[name]
        return {
            "session_id": name,
            "recording_id": name,
            "subject_id": session.subject_id,
            "site": session.site,
            "setting": session.setting,
            "start_time": part["start_time"],
            "age": session.age,
            "sex": session.sex,
            "race": session.race,
            "duration_s": part["duration_s"],
            "n_channels_present": part["n_channels_present"],
            "n_windows": len(part["windows"]),
            "split": splits[session.subject_id],
            "path": session.path.relative_to(source.root).as_posix(),
            "quality": json.dumps(part["quality"], sort_keys=True),
        }

    table = pl.DataFrame([row_of(name) for name in parts], schema=_SESSIONS)
    moved = pl.col("subject_id").replace_strict(shifts, return_dtype=pl.Duration("us"))
    table = table.with_columns(start_time=pl.col("start_time").str.to_datetime() + moved)
    windows = [
        {"session_id": name, "window": number, **window}
        for name, part in parts.items()
        for number, window in enumerate(part["windows"])
    ]
    tables = {
        "sessions": table,
        "windows": pl.DataFrame(windows, schema=_WINDOWS),
        "labels": pl.DataFrame(
            _label_rows(sessions, parts, codes if source.meds else None),
            schema=_LABELS,
            orient="row",
        ),
        "findings": _findings(sessions, parts),
        "reports": pl.DataFrame(
            [
                (name, text)
                for name in parts
                if (text := electrographic_text(sessions[name].report or "")) is not None
            ],
            schema={"session_id": pl.String, "text": pl.String},
            orient="row",
        ),
        "codes": pl.DataFrame(
            [(number, codes[number]) for number in splits if number in codes],
            schema={"subject_id": pl.Int64, "codes": pl.List(pl.String)},
            orient="row",
        ).sort("subject_id"),
        "errors": pl.DataFrame(
            [(str(p.path), p.stage, p.error, p.message) for p in problems],
            schema=dict.fromkeys(("path", "stage", "error", "message"), pl.String),
            orient="row",
        ),
    }
    for name, frame in tables.items():
        with atomic(cohort.folder / f"{name}.parquet") as temporary:
            frame.write_parquet(temporary)
    if source.meds:
        old = {s.subject_id for s in sessions.values() if s.age is not None and s.age >= OLDEST_AGE}
        ehr.write_meds(events, cohort.folder / "ehr", splits=splits, shifts=shifts, undatable=old)


def _label_rows(
    sessions: dict[str, SourceSession],
    parts: Iterable[str],
    codes: dict[int, list[str]] | None,
) -> Iterator[tuple[str, str, str, int]]:
    for name in parts:
        session = sessions[name]
        labels = dict(session.labels)
        if codes is not None:
            labels |= ehr.record_labels(codes, session.subject_id)
        for task, (category, value) in labels.items():
            yield name, task, category, value


def _findings(sessions: dict[str, SourceSession], parts: Iterable[str]) -> pl.DataFrame:
    names = sorted({finding for session in sessions.values() for finding in session.findings})
    rows = [{"session_id": part, **sessions[part].findings} for part in parts]
    return pl.DataFrame(rows, schema={"session_id": pl.String, **dict.fromkeys(names, pl.Int8)})


_SESSIONS: dict[str, Any] = {
    "session_id": pl.String, "recording_id": pl.String, "subject_id": pl.Int64,
    "site": pl.String, "setting": pl.String, "start_time": pl.String, "age": pl.Float64,
    "sex": pl.String, "race": pl.String, "duration_s": pl.Float64,
    "n_channels_present": pl.Int64, "n_windows": pl.Int64, "split": pl.String,
    "path": pl.String, "quality": pl.String,
}  # fmt: skip
_WINDOWS: dict[str, Any] = {
    "row": pl.Int64, "session_id": pl.String, "window": pl.Int64, "start_s": pl.Float64,
    "channel_mask": pl.List(pl.Boolean), "time_mask": pl.List(pl.Boolean), "hash": pl.String,
}  # fmt: skip
_LABELS: dict[str, Any] = {
    "session_id": pl.String, "task": pl.String, "category": pl.String, "label": pl.Int8,
}  # fmt: skip
