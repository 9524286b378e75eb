"""The tables of a cohort, written block by block: never all their rows are in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from openclef.artefact import atomic
from openclef.cohort import ehr
from openclef.cohort.layouts import Source, SourceSession, read_report
from openclef.cohort.quality_page import QUALITY_COLUMNS
from openclef.cohort.reports import electrographic_text
from openclef.cohort.session import part_path, read_part
from openclef.errors import OpenclefError
from openclef.types import CHANNELS, WINDOW_S

_WINDOWS_AT_ONCE = 1000

SESSIONS: dict[str, Any] = {
    "session_id": pl.String, "recording_id": pl.String, "subject_id": pl.Int64,
    "site": pl.String, "setting": pl.String, "start_time": pl.Datetime("us"), "age": pl.Float64,
    "sex": pl.String, "race": pl.String, "duration_s": pl.Float64,
    "n_channels_present": pl.Int64, "n_windows": pl.Int64, "split": pl.String,
    "path": pl.String, "quality": pl.String, **QUALITY_COLUMNS,
}  # fmt: skip
WINDOWS: dict[str, Any] = {
    "row": pl.Int64, "session_id": pl.String, "window": pl.Int64, "start_s": pl.Float64,
    "channel_mask": pl.List(pl.Boolean), "time_mask": pl.List(pl.Boolean), "hash": pl.String,
}  # fmt: skip
LABELS: dict[str, Any] = {
    "session_id": pl.String, "task": pl.String, "category": pl.String, "label": pl.Int8,
}  # fmt: skip
REPORTS: dict[str, Any] = {"session_id": pl.String, "text": pl.String}
ERRORS: dict[str, Any] = dict.fromkeys(("path", "stage", "error", "message"), pl.String)


class Kept(NamedTuple):
    """A session that could be read."""

    session_id: str
    session: SourceSession
    n_windows: int


class Problem(NamedTuple):
    """A row of `errors.parquet`; path: relative to the data set."""

    path: str
    stage: str
    error: str
    message: str


def write_session_tables(
    folder: Path,
    source: Source,
    kept: Sequence[Kept],
    *,
    splits: Mapping[int, str],
    events: pl.DataFrame,
) -> list[Problem]:
    """Write `sessions`, `windows`, `labels`, `findings` and `reports` of the sessions read.

    splits: of each patient. events: the health records, for the labels they give. Returns the
    reports that cannot be read: their sessions are kept without.
    """
    codes = ehr.patient_codes(events)
    systems = ehr.recorded_systems(events)
    findings = {"session_id": pl.String, **dict.fromkeys(source.findings, pl.Int8)}
    schemas = {
        "sessions": SESSIONS, "windows": WINDOWS, "labels": LABELS, "findings": findings,
        "reports": REPORTS,
    }  # fmt: skip
    problems = []
    with ExitStack() as stack:
        writers = {}
        for name, schema in schemas.items():
            temporary = stack.enter_context(atomic(folder / f"{name}.parquet"))
            arrow = pl.DataFrame(schema=schema).to_arrow().schema
            writers[name] = stack.enter_context(pq.ParquetWriter(temporary, arrow))
        first_row = 0
        for block in _blocks(kept):
            rows: dict[str, list[Any]] = {name: [] for name in schemas}
            for name, session, n_windows in block:
                part = read_part(part_path(folder, name))
                rows["sessions"].append(_session_row(name, session, part, source, splits))
                rows["windows"] += _window_rows(name, part, first_row)
                first_row += n_windows
                rows["labels"] += _label_rows(name, session, source, codes, systems)
                rows["findings"].append({"session_id": name, **session.findings})
                try:
                    text = electrographic_text(read_report(session) or "")
                except OpenclefError as error:
                    problems.append(_report_problem(session, source, error))
                    continue
                if text is not None:
                    rows["reports"].append({"session_id": name, "text": text})
            for name, schema in schemas.items():
                frame = pl.DataFrame(rows[name], schema=schema, orient="row")
                writers[name].write_table(frame.to_arrow().cast(writers[name].schema))
    return problems


def _blocks(kept: Sequence[Kept]) -> Iterator[list[Kept]]:
    """Sessions in blocks of about as many windows, for one may have a hundred of them."""
    block: list[Kept] = []
    n_windows = 0
    for one in kept:
        block.append(one)
        n_windows += one.n_windows
        if n_windows >= _WINDOWS_AT_ONCE:
            yield block
            block, n_windows = [], 0
    if block:
        yield block


def _report_problem(session: SourceSession, source: Source, error: OpenclefError) -> Problem:
    assert session.report_path is not None
    path = session.report_path.relative_to(source.root).as_posix()
    message = str(error).replace(f"{session.report_path}: ", "")
    return Problem(path, "report", type(error).__name__, message)


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write one table, whole or not at all."""
    with atomic(path) as temporary:
        frame.write_parquet(temporary)


def codes_table(events: pl.DataFrame, subjects: Sequence[int]) -> pl.DataFrame:
    """Codes of each patient of the cohort that has any: `subject_id, codes`."""
    codes = ehr.patient_codes(events)
    return pl.DataFrame(
        [(number, codes[number]) for number in subjects if number in codes],
        schema={"subject_id": pl.Int64, "codes": pl.List(pl.String)},
        orient="row",
    ).sort("subject_id")


def _session_row(
    name: str,
    session: SourceSession,
    part: Mapping[str, Any],
    source: Source,
    splits: Mapping[int, str],
) -> dict[str, Any]:
    started = part["start_time"]
    return {
        "session_id": name,
        "recording_id": name,
        "subject_id": session.subject_id,
        "site": session.site,
        "setting": session.setting,
        "start_time": datetime.fromisoformat(started) if started else None,
        "age": session.age,
        "sex": session.sex,
        "race": session.race,
        "duration_s": part["duration_s"],
        "n_channels_present": part["n_channels_present"],
        "n_windows": len(part["windows"]),
        "split": splits[session.subject_id],
        "path": session.path.relative_to(source.root).as_posix(),
        "quality": json.dumps(part["quality"], sort_keys=True),
        **part["columns"],
    }


def _window_rows(name: str, part: Mapping[str, Any], first_row: int) -> Iterator[dict[str, Any]]:
    for number, window in enumerate(part["windows"]):
        frames = np.zeros(WINDOW_S, np.bool_)
        for first, last in window["hidden_frames"]:
            frames[first:last] = True
        channels = np.zeros(len(CHANNELS), np.bool_)
        channels[window["hidden_channels"]] = True
        yield {
            "row": first_row + number,
            "session_id": name,
            "window": number,
            "start_s": window["start_s"],
            "channel_mask": channels.tolist(),
            "time_mask": frames.tolist(),
            "hash": window["hash"],
        }


def _label_rows(
    name: str,
    session: SourceSession,
    source: Source,
    codes: Mapping[int, list[str]],
    systems: Mapping[int, frozenset[str]],
) -> Iterator[tuple[str, str, str, int]]:
    labels = dict(session.labels)
    if source.records is not None:
        number = session.subject_id
        labels |= ehr.record_labels(codes.get(number, ()), systems.get(number, ()))
    for task, (category, value) in labels.items():
        yield name, task, category, value
