"""Ingest: a data set on disk becomes a cohort, by many workers, and again after any interruption.

The data set is indexed once. Each recording is then read by one worker, which puts its
spectrograms and a part that tells of them aside; once all are done, shards of the Zarr array and
the tables are made of the parts. Whatever was finished before a kill is found finished.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from openclef import artefact
from openclef.artefact import Artefact
from openclef.cohort import ehr, tables
from openclef.cohort.deidentify import OLDEST_AGE, date_shift, key_mark, site_key
from openclef.cohort.engine import Engine, LocalEngine, WorkerDied
from openclef.cohort.layouts import Source, SourceSession, read_source
from openclef.cohort.quality_page import QUALITY_COLUMNS, write_quality_page
from openclef.cohort.session import (
    SessionJob,
    StorageError,
    WindowChoice,
    finish_failed,
    ingest_session,
    part_path,
    power_path,
    read_part,
    recording_duration_s,
    storage_of,
)
from openclef.cohort.shards import WINDOW_BYTES, create_array, plan_shards, write_shard
from openclef.cohort.splits import SplitConfig, assign_splits, official_parts
from openclef.cohort.tables import Kept, Problem
from openclef.errors import ArtefactError, OpenclefError, RecordingError

INDEX = "index.parquet"
QUALITY_PAGE = "quality.html"
_CROP = "crop_s.json"  # in parts/: what "equal" came to, so that a resumed run cuts alike


class IngestConfig(BaseModel):
    """crop: "equal" cuts every recording to the shortest one (to whole seconds), so that duration
    cannot tell labels apart; "none"; or seconds. windows: of a long session all, the first, or one
    at random (by `seed`). line_hz: None detects 50 or 60. unit: None takes each file's word.
    labels: columns that tasks were asked to be made of, as `find_source` was told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: Literal["equal", "none"] | float = "none"
    windows: WindowChoice = "all"
    seed: int = 0
    line_hz: Literal[50, 60] | None = None
    unit: Literal["nV", "uV", "mV", "V"] | None = None
    labels: tuple[str, ...] = ()
    splits: SplitConfig = Field(default_factory=SplitConfig)


def find_source(
    root: Path,
    out: Path,
    *,
    layout: str,
    labels: Sequence[str],
    expected: Mapping[str, int] | None = None,
) -> Source:
    """The data set as the cohort in `out` has indexed it, else by walking its tree.

    expected: recordings that will be there once they are read, relative path -> bytes.

    Raises OpenclefError as `read_source`; ArtefactError if `out` holds something else, or the index
    of another data set or other labels.
    """
    artefact.refuse_foreign(out)  # before a walk that may last an hour
    index = out / INDEX
    if not index.exists():
        return read_source(root.absolute(), layout=layout, labels=labels, expected=expected)
    source = Source.read_index(index)
    known_labels = artefact.read_identity(out / "config.json")["config"].get("labels", [])
    for what, there, now in (
        ("data set", str(source.root.resolve()), str(root.resolve())),
        ("layout", source.layout, source.layout if layout == "auto" else layout),
        ("choice of labels", known_labels, list(labels)),
    ):
        if there != now:
            raise ArtefactError(
                f"{out}: holds the index of another {what}: {there} there, {now} asked; choose "
                "another output folder or delete this one"
            )
    if not root.is_dir() and not (out / "manifest.json").exists():
        # Not mounted, perhaps: each recording would be told missing, and stay so.
        raise OpenclefError(f"{root}: no such folder")
    return source


def ingest(
    source: Source,
    out: Path,
    *,
    config: IngestConfig,
    engine: Engine | None = None,
    progress: bool = True,
) -> Artefact:
    """Write the cohort of a data set to `out`, or resume it, or do nothing if it is complete.

    Recordings that cannot be used go to `errors.parquet` and are skipped. Raises OpenclefError if
    none can be read, or if too few patients remain for four splits: then nothing of it is left in
    `out`. Raises ArtefactError if `out` holds something else; StorageError or SourceError, with
    everything finished so far kept, if `out` cannot be written or the data set not read just now.
    """
    with engine or LocalEngine(n_workers=2) as workers:
        return _ingest(source, out, config, workers, progress=progress)


def _ingest(
    source: Source, out: Path, config: IngestConfig, engine: Engine, *, progress: bool
) -> Artefact:
    key = site_key()
    # Dates are shifted by the key: another one makes another cohort.
    inputs = {"source": source.hash(), "site_key": key_mark(key)}
    settings = {"layout": source.layout, **config.model_dump(mode="json")}
    if (out / "manifest.json").exists():
        cohort = artefact.begin(out, kind="cohort", config=settings, inputs=inputs)
        shutil.rmtree(out / "parts", ignore_errors=True)  # if killed just after the manifest
        return cohort

    sessions = {f"S{i:06d}": session for i, session in enumerate(source.sessions, start=1)}
    # What can be wrong outside the recordings must be known before hours of work on them.
    events = ehr.read_events(source.records)
    _assign(source.sessions, config.splits)
    was_there = out.exists()
    if not (out / "config.json").exists():
        # At least: a long session has several windows.
        artefact.check_free_disk(out, len(sessions) * WINDOW_BYTES)
    with storage_of(out):
        cohort = artefact.begin(out, kind="cohort", config=settings, inputs=inputs)
        artefact.remove_stale(out)
        if not (out / INDEX).exists():
            source.write(out / INDEX)
    kept, problems = _read_all(source.root, sessions, cohort, config, key, engine, progress)
    try:
        _check_kept(kept, problems)
        splits = _assign([session for _, session, _ in kept], config.splits)
    except OpenclefError:
        _discard(out, keep_folder=was_there)
        raise
    _write_spectrograms(cohort, kept, engine, progress=progress)
    with storage_of(out):
        _write_tables(cohort, source, kept, problems, splits, key=key, events=events)
        shutil.rmtree(out / "parts")
    return cohort


def _assign(sessions: Sequence[SourceSession], config: SplitConfig) -> dict[int, str]:
    official = official_parts((s.subject_id, s.official_split) for s in sessions)
    return assign_splits((s.subject_id for s in sessions), config, official=official)


def _check_kept(kept: Sequence[Kept], problems: Sequence[Problem]) -> None:
    """Something was read, and every label that was asked for keeps two classes in it."""
    if not kept:
        first = problems[0]
        raise OpenclefError(f"no recording could be read; the first: {first.path}: {first.message}")
    seen: dict[str, set[int]] = {}
    for _, session, _ in kept:
        for task, (category, value) in session.labels.items():
            if category == "label" and value >= 0:
                seen.setdefault(task, set()).add(value)
    for task, values in seen.items():
        if len(values) < 2:
            raise OpenclefError(
                f"label {task!r} has a single class among the recordings that could be read"
            )


def _discard(out: Path, *, keep_folder: bool) -> None:
    """What was asked for cannot be made: remove what was put aside for it, and nothing else."""
    shutil.rmtree(out / "parts")
    (out / INDEX).unlink()
    (out / "config.json").unlink()
    if not keep_folder:
        out.rmdir()


def _read_all(
    root: Path,
    sessions: Mapping[str, SourceSession],
    cohort: Artefact,
    config: IngestConfig,
    key: bytes,
    engine: Engine,
    progress: bool,
) -> tuple[list[Kept], list[Problem]]:
    """Read every recording that has no part yet; returns those of use and what befell the rest."""
    # Absolute: another machine's workers have folders of their own to start from.
    folder = cohort.folder.absolute()

    def job(name: str, *, crop_s: float = math.inf) -> SessionJob:
        session = sessions[name]
        return SessionJob(
            session_id=name,
            root=root.absolute(),
            path=session.path.absolute(),
            size_bytes=session.size_bytes,
            folder=folder,
            line_hz=config.line_hz,
            unit=config.unit,
            windows=config.windows,
            seed=config.seed,
            crop_s=crop_s,
            date_shift=date_shift(session.subject, key=key),
        )

    if config.crop == "equal":
        crop_s = _shortest_s(folder, [job(name) for name in sessions], engine, progress)
    else:
        crop_s = math.inf if config.crop == "none" else float(config.crop)
    done = {path.stem for path in (folder / "parts").glob("S*.json")}
    waiting = [name for name in sessions if name not in done]
    with _bar("reading recordings", len(waiting), progress) as advance:
        jobs = (job(name, crop_s=crop_s) for name in waiting)
        for finished, result in engine.map(ingest_session, jobs):
            if isinstance(result, WorkerDied):
                finish_failed(finished, RecordingError("its reader crashed the process, twice"))
            advance(finished.size_bytes or 0)
    kept, problems = [], []
    for name, session in sessions.items():
        part = read_part(part_path(folder, name))
        if "error" in part:
            path = session.path.relative_to(root).as_posix()
            problems.append(Problem(path, "read", part["error"], part["message"]))
        else:
            kept.append(Kept(name, session, len(part["windows"])))
    return kept, problems


def _shortest_s(folder: Path, jobs: Sequence[SessionJob], engine: Engine, progress: bool) -> float:
    """Whole seconds of the shortest recording whose header can be read."""
    path = folder / "parts" / _CROP
    if path.exists():
        return float(json.loads(path.read_text()))
    shortest_s = math.inf
    with _bar("reading headers", len(jobs), progress) as advance:
        for _, duration_s in engine.map(recording_duration_s, jobs):
            if isinstance(duration_s, float):
                shortest_s = min(shortest_s, duration_s)
            advance(0)
    if math.isfinite(shortest_s):
        shortest_s = float(math.floor(shortest_s))
        with storage_of(folder):
            artefact.write_json(path, shortest_s)
    return shortest_s


def _write_spectrograms(
    cohort: Artefact, kept: Sequence[Kept], engine: Engine, *, progress: bool
) -> None:
    """Make the array's shards of what the sessions put aside, and let go of that."""
    folder = cohort.folder.absolute()
    array = folder / "spectrograms"
    with storage_of(folder):
        create_array(array, n_rows=sum(n_windows for _, _, n_windows in kept))
    jobs = plan_shards(array, ((power_path(folder, name), n) for name, _, n in kept))
    waiting = [job for job in jobs if not job.path.exists()]
    # A session's windows may lie in several shards: it is let go with the last of them.
    users = Counter(path for job in waiting for path in job.sources)
    with _bar("writing shards", len(waiting), progress) as advance:
        for job, result in engine.map(write_shard, waiting):
            if isinstance(result, WorkerDied):
                raise StorageError(
                    f"{job.path}: writing it ended the process, twice; run the command again"
                )
            for path in job.sources:
                users[path] -= 1
                if not users[path]:
                    path.unlink(missing_ok=True)
            advance(len(job.windows) * WINDOW_BYTES)


def _write_tables(
    cohort: Artefact,
    source: Source,
    kept: Sequence[Kept],
    problems: Sequence[Problem],
    splits: dict[int, str],
    *,
    key: bytes,
    events: pl.DataFrame,
) -> None:
    folder = cohort.folder
    more = tables.write_session_tables(folder, source, kept, splits=splits, events=events)
    tables.write_table(folder / "codes.parquet", tables.codes_table(events, list(splits)))
    errors = pl.DataFrame([*problems, *more], schema=tables.ERRORS, orient="row")
    tables.write_table(folder / "errors.parquet", errors)
    if source.records is not None:
        people = {session.subject_id: session.subject for _, session, _ in kept}
        shifts = {number: date_shift(subject, key=key) for number, subject in people.items()}
        old = {s.subject_id for s in source.sessions if s.age is not None and s.age >= OLDEST_AGE}
        ehr.write_meds(events, folder / "ehr", splits=splits, shifts=shifts, undatable=old)
    shown = ["session_id", "site", "setting", "duration_s", *QUALITY_COLUMNS]
    sessions = pl.read_parquet(folder / "sessions.parquet", columns=shown)
    write_quality_page(sessions, folder / QUALITY_PAGE, errors=errors)
    cohort.finish(
        f"{name}.parquet"
        for name in ("sessions", "windows", "labels", "findings", "reports", "codes")
    )


@contextmanager
def _bar(title: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar with the time left and the throughput; give each step's bytes."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    started, done = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(title, total=total, rate="")

        def advance(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            rate = done / 1e6 / max(time.monotonic() - started, 1e-3)
            bar.update(task, advance=1, rate=f"{rate:.0f} MB/s" if done else "")

        yield advance
