"""The simulated hospital on disk: one job a patient, then tables of all of them, a manifest last.

A patient's files are renamed into place when whole, its part of the tables last of all; after an
interruption only patients without a part are made. Everything depends on the seed and its own
indices alone: the bytes do not depend on workers, shards, or how often the work was resumed.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from rich.console import Console
from rich.progress import track

from openclef.artefact import (
    Artefact,
    begin,
    check_free_disk,
    has_content,
    load,
    read_identity,
    remove_stale,
)
from openclef.errors import ArtefactError, OpenclefError
from openclef.simulate import bids, heedb, parts
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.session import Truth, draw_truth
from openclef.simulate.parameters import generator_hash, load_hospital
from openclef.simulate.parts import Rows
from openclef.simulate.patients import Patient, Session
from openclef.simulate.people import draw_patient
from openclef.simulate.recording import edf_size_bytes, write_recording
from openclef.simulate.reports import Reading, read_session
from openclef.simulate.truth import TABLES, patient_events, truth_rows, write_truth
from openclef.workers import worker_pool

KIND = "simulation"

_ON_DEMAND = "on demand"
_LIST = "recordings.tsv"
# Of a session besides its recording: sidecars, report and rows; its events twice, in the part and
# in the table.
_SESSION_BYTES = 65_536
_EVENTS_BYTES_A_SECOND = 80


class _Layout(Protocol):
    """What the modules `bids` and `heedb` know of their trees."""

    def recording_path(self, patient: Patient, session: Session) -> str: ...

    def locate(self, path: str) -> tuple[int, int] | None: ...

    def write_patient(
        self,
        out: Path,
        config: SimulationConfig,
        patient: Patient,
        truths: Sequence[Truth],
        readings: Mapping[int, Reading],
    ) -> None: ...

    def patient_rows(
        self, config: SimulationConfig, patient: Patient, readings: Mapping[int, Reading]
    ) -> Rows: ...

    def write_data_set(self, out: Path, config: SimulationConfig) -> tuple[str, ...]: ...


_LAYOUTS: Mapping[str, _Layout] = {"bids": bids, "heedb": heedb}


def simulate(
    out: Path,
    *,
    config: SimulationConfig,
    n_workers: int = 2,
    progress: bool = True,
    shard: tuple[int, int] | None = None,
    recordings: bool = True,
) -> Artefact:
    """Write a simulated hospital, or a shard of it, or finish what was interrupted.

    Parameters
    ----------
    out : Path
        Folder of the artefact: a data set of the layout `config.layout`, with `truth/` beside.
    config : SimulationConfig
        The hospital.
    n_workers : int
        Processes; the outcome does not depend on it.
    progress : bool
        Say the space needed and show a progress bar on stderr.
    shard : tuple of int, optional
        `(i, n)`: only every n-th patient, from the i-th (1 to n). Shards may be made at the same
        time, by several machines that share the disk; the last one makes the tables.
    recordings : bool
        False leaves the recordings out: `make_recording` makes each when it is asked for.

    Returns
    -------
    Artefact
        Of kind "simulation"; complete once all shards are. Its hash covers the tables, not the
        recordings.

    Raises
    ------
    ArtefactError
        If `out` holds something else or the work of another simulator, or the disk is too full.
    OpenclefError
        If there is no such shard, or the hospital has fewer sites than asked for.
    """
    indices = range(config.n_patients)[_slice(shard)]
    start = partial(begin, out, kind=KIND, config=_identity(config, recordings), inputs={})
    if has_content(out) and start().is_complete:
        _clean(out)
        return start()
    missing = [index for index in indices if not parts.part_path(out, index).exists()]
    if missing:
        console = Console(stderr=True, quiet=not progress, soft_wrap=True)
        with worker_pool(n_workers) as pool:
            # Told and checked before anything is written.
            _tell_space(pool, out, config, missing, console, recordings=recordings)
            start()
            made = pool.map(partial(_make_patient, out, config, recordings), missing)
            bar = track(made, "simulate", len(missing), console=console, disable=console.quiet)
            deque(bar, maxlen=0)
    simulation = start()
    if all(parts.part_path(out, index).exists() for index in range(config.n_patients)):
        _finish(simulation, config, recordings=recordings)
    return simulation


def missing_shards(out: Path, config: SimulationConfig, *, n: int) -> list[int]:
    """Shards of `n` (from 1) of which patients are still to be made in `out`."""
    todo = [i for i in range(config.n_patients) if not parts.part_path(out, i).exists()]
    return sorted({index % n + 1 for index in todo})


def _slice(shard: tuple[int, int] | None) -> slice:
    if shard is None:
        return slice(None)
    i, n = shard
    if not 1 <= i <= n:
        raise OpenclefError(f"shard {i}/{n}: allowed are 1/{max(n, 1)} to {max(n, 1)}/{max(n, 1)}")
    return slice(i - 1, None, n)


def _identity(config: SimulationConfig, recordings: bool) -> dict[str, Any]:
    hospital = load_hospital(config.hospital)
    if config.n_sites > len(hospital.sites):
        raise OpenclefError(
            f"{config.n_sites} sites: hospital {config.hospital} has {len(hospital.sites)}"
        )
    return {
        "simulation": config.model_dump(),
        "hospital": hospital.version,
        "generator": generator_hash(),
        "recordings": "on disk" if recordings else _ON_DEMAND,
    }


def _tell_space(
    pool: ProcessPoolExecutor,
    out: Path,
    config: SimulationConfig,
    missing: Sequence[int],
    console: Console,
    *,
    recordings: bool,
) -> None:
    """Tell the space that is needed, to the byte for recordings, and refuse what will not fit."""
    sizes = list(pool.map(partial(_sizes, out, config), missing, chunksize=32))
    recording_bytes = [size for of_patient, _ in sizes for size in of_patient]
    others = sum(size for _, size in sizes)
    needed = others + (sum(recording_bytes) if recordings else 0)
    console.print(f"{len(missing)} patients to make, {needed / 1e9:.2f} GB of disk")
    if not recordings:
        console.print(
            f"each recording is made when it is read, {max(recording_bytes) / 1e6:.1f} MB at most "
            f"for each worker that reads; all would be {sum(recording_bytes) / 1e9:.2f} GB"
        )
    check_free_disk(out, needed)


def _sizes(out: Path, config: SimulationConfig, index: int) -> tuple[list[int], int]:
    """Bytes of each of a patient's recordings that is not there yet, and of all the rest."""
    layout = _LAYOUTS[config.layout]
    patient = draw_patient(config, index=index)
    recording_bytes = [
        0
        if (out / layout.recording_path(patient, session)).exists()
        else edf_size_bytes(config, patient, session)
        for session in patient.sessions
    ]
    seconds = sum(session.duration_s for session in patient.sessions)
    others = len(patient.sessions) * _SESSION_BYTES + seconds * _EVENTS_BYTES_A_SECOND
    return recording_bytes, others


def _make_patient(out: Path, config: SimulationConfig, recordings: bool, index: int) -> None:
    """Make everything of one patient, the part last, as its presence means done."""
    layout = _LAYOUTS[config.layout]
    patient = draw_patient(config, index=index)
    readings: dict[int, Reading] = {}
    truths = []
    listed = []
    for session in patient.sessions:
        truth = draw_truth(config, patient, session)
        truths.append(truth)
        if session.has_report:
            earlier = readings[max(readings)] if readings else None
            readings[session.index] = read_session(config, patient, session, truth, earlier=earlier)
        path = layout.recording_path(patient, session)
        listed.append({"path": path, "bytes": edf_size_bytes(config, patient, session)})
        if recordings and not (out / path).exists():
            write_recording(out / path, config, patient, session)
    layout.write_patient(out, config, patient, truths, readings)
    authors = {number: reading.author for number, reading in readings.items()}
    rows = {
        _LIST: listed,
        **layout.patient_rows(config, patient, readings),
        **truth_rows(patient, authors),
    }
    parts.write_part(out, index, rows, patient_events(patient, truths))


def _finish(simulation: Artefact, config: SimulationConfig, *, recordings: bool) -> None:
    """Make the tables of all parts, then the manifest.

    Shards that end together all do it, with the same bytes; the first one to finish takes the
    parts away from the others, who then find the manifest.
    """
    out = simulation.folder
    tables = TABLES if recordings else {**TABLES, _LIST: {"path": pl.String, "bytes": pl.Int64}}
    try:
        simulation.finish(
            (
                *_LAYOUTS[config.layout].write_data_set(out, config),
                *parts.write_tables(out, tables, config.n_patients),
                *write_truth(out, config),
            )
        )
        _clean(out)
    except FileNotFoundError:
        if not simulation.is_complete:
            raise


def _clean(out: Path) -> None:
    """Take away the parts of a complete data set, and what killed workers left."""
    folder = out / parts.FOLDER
    if folder.exists():
        remove_stale(out)
        shutil.rmtree(folder, ignore_errors=True)


def expected_recordings(folder: Path) -> dict[str, int]:
    """Recordings that `make_recording` would make: path relative to `folder` -> size in bytes.

    Empty for a data set whose recordings are on disk, whoever made it. Raises ArtefactError if the
    data set is one without recordings and not complete.
    """
    path = folder / "config.json"
    if not path.exists():
        return {}
    try:
        identity = read_identity(path)
    except ArtefactError:
        return {}
    if identity["kind"] != KIND or identity["config"].get("recordings") != _ON_DEMAND:
        return {}
    load(folder, kind=KIND)
    table = pl.read_csv(folder / _LIST, separator="\t")
    return dict(table.select("path", "bytes").iter_rows())


def make_recording(folder: Path, path: str) -> Path:
    """Make one recording of a simulated data set, from its `config.json` alone.

    Parameters
    ----------
    folder : Path
        The data set.
    path : str
        Of the recording, relative to `folder`.

    Returns
    -------
    Path
        Of the file; one that is there already is left alone.

    Raises
    ------
    ArtefactError
        If `folder` is no simulated data set, was made by another version of the simulator, or has
        no such recording.
    """
    identity = read_identity(folder / "config.json")
    if identity["kind"] != KIND:
        raise ArtefactError(f"{folder}: holds {identity['kind']}, not a simulated data set")
    config = SimulationConfig.model_validate(identity["config"]["simulation"])
    unknown = ArtefactError(f"{folder}: has no recording {path}")
    layout = _LAYOUTS[config.layout]
    index, number = layout.locate(path) or (-1, -1)
    if not 0 <= index < config.n_patients:
        raise unknown
    there, ours = identity["config"]["generator"], generator_hash()
    if there != ours:
        raise ArtefactError(
            f"{folder}: made by another version of the simulator (generator {there[:12]} there, "
            f"{ours[:12]} here); simulate it again"
        )
    patient = draw_patient(config, index=index)
    session = dict(enumerate(patient.sessions)).get(number)
    if session is None or layout.recording_path(patient, session) != path:
        raise unknown
    if not (folder / path).exists():
        write_recording(folder / path, config, patient, session)
    return folder / path
