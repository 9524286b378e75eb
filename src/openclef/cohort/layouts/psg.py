"""`hsp` and `challenge2026`: whole-night polysomnography of BDSP, each with a table of visits.

Human Sleep Project v3.0: `[PSG/]bids/{SITE}/sub-{SITE}{PID}/ses-{N}/eeg/*_task-psg_eeg.edf`; if
there, `bdsp_psg_master_<date>.csv` or `*psg_metadata_<date>.csv` anywhere, the newest of each name
[U]. Stages in the annotation files are not read.

PhysioNet Challenge 2026: `demographics.csv` and
`physiological_data/{SITE}/{BidsFolder}_ses-{N}.edf`, below the root or its `training_set/`; the
EDFs of annotations beside them are no recordings.

Both tables tell age, sex and race, and have columns to make tasks of; a column about cognitive
impairment that is true or false becomes the label `cognitive_impairment` unasked. Recordings
without a row are kept; rows without a recording are counted. Setting: `psg`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from openclef.cohort.deidentify import pooled_age
from openclef.cohort.layouts import bdsp, tables
from openclef.cohort.layouts.source import Source, SourceSession
from openclef.cohort.layouts.tree import Tree
from openclef.errors import OpenclefError, choose

HSP_NEEDS = "hsp has [PSG/]bids/<site>/sub-<site><patient>/ses-<n>/eeg/*_task-psg_eeg.edf"
CHALLENGE_NEEDS = (
    "challenge2026 has demographics.csv and physiological_data/<site>/sub-<..>_ses-<n>.edf"
)
TASK = "cognitive_impairment"

_HSP = re.compile(
    r"(?:PSG/)?bids/(?P<site>[A-Z]\d{4})/(?P<folder>sub-[^/]+)/(?P<session>ses-[^/]+)/eeg/"
    r"[^/]+_task-psg_eeg\.edf",
    re.IGNORECASE,
)
_HSP_TABLE = re.compile(
    r"(?:[^/]+/)*(?P<series>[^/]*psg_(?:master|metadata))(?P<date>[\d_-]*)\.csv", re.IGNORECASE
)
_CHALLENGE = re.compile(
    r"(?:training_set/)?physiological_data/(?P<site>[^/]+)/"
    r"(?P<folder>[^/]+)_(?P<session>ses-[^/_]+)\.edf",
    re.IGNORECASE,
)
_CHALLENGE_TABLE = re.compile(r"(?:training_set/)?(?P<series>demographics)(?P<date>)\.csv")
_TRUTH = {"true": 1, "1": 1, "1.0": 1, "yes": 1, "false": 0, "0": 0, "0.0": 0, "no": 0}

Labels = Mapping[str, tuple[str, int]]


def matches_hsp(tree: Tree) -> bool:
    """Whether the tree has a recording where HSP has its own."""
    return tree.any(_HSP)


def matches_challenge(tree: Tree) -> bool:
    """Whether the tree has the challenge's table and a recording where it has its own."""
    return tree.any(_CHALLENGE_TABLE) and tree.any(_CHALLENGE)


def read_hsp(tree: Tree, labels: Sequence[str]) -> Source:
    """Read HSP. Raises OpenclefError for a table that cannot serve, or labels without a table."""
    return _read(tree, "hsp", _HSP, _HSP_TABLE, labels)


def read_challenge(tree: Tree, labels: Sequence[str]) -> Source:
    """Read the challenge. Raises OpenclefError if its table is missing or cannot serve."""
    if tree.any(_CHALLENGE) and not tree.any(_CHALLENGE_TABLE):
        raise OpenclefError(
            f"{tree.root / 'demographics.csv'}: missing; layout challenge2026 needs it"
        )
    return _read(tree, "challenge2026", _CHALLENGE, _CHALLENGE_TABLE, labels)


def _read(
    tree: Tree,
    layout: str,
    pattern: re.Pattern[str],
    table_pattern: re.Pattern[str],
    labels: Sequence[str],
) -> Source:
    visits: dict[tuple[str, str], bdsp.Visit] = {}
    labels_of: dict[tuple[str, str], Labels] = {}
    columns: dict[str, None] = {}
    for where in bdsp.newest(tree, table_pattern).values():
        table = bdsp.read(where, needs=("sessionid",))
        rows = bdsp.read_visits(table, where)
        asked = [name for name in labels if name in table.columns]
        for visit, row in zip(rows, _tasks(table, asked, where), strict=True):
            visits[visit.key] = visit
            labels_of[visit.key] = {**labels_of.get(visit.key, {}), **row}
        columns |= dict.fromkeys(tables.label_columns(table))
    for name in labels:
        choose(name, columns, f"label column of layout {layout}")

    recordings = list(tree.match(pattern))
    keys = [bdsp.visit_key(found["folder"], found["session"]) for _, found in recordings]
    patients = {
        key: visits[key].patient if key in visits else bdsp.split_folder(key[0])[1] for key in keys
    }
    numbers = bdsp.subject_numbers(patients.values())
    sessions = []
    for (path, found), key in zip(recordings, keys, strict=True):
        patient = patients[key]
        visit = visits.get(key) or bdsp.Visit(key, patient)
        sessions.append(
            SourceSession(
                path=tree.root / path,
                subject=patient,
                subject_id=numbers[patient],
                site=visit.site or found["site"],
                setting="psg",
                age=pooled_age(visit.age),
                sex=tables.sex(visit.sex),
                race=visit.race,
                labels=labels_of.get(key, {}),
                size_bytes=tree.files[path],
            )
        )
    return Source(
        tree.root,
        layout,
        tuple(sessions),
        columns=tuple(columns),
        n_missing=len(visits.keys() - set(keys)),
    )


def _tasks(table: pl.DataFrame, asked: Sequence[str], where: Path) -> list[Labels]:
    """Labels of each row: cognitive impairment where the table tells it, and those asked for."""
    told = [c for c in table.columns if bdsp.loose(c) == "cognitiveimpairment"]
    asked = [name for name in asked if name not in told]
    rows = tables.make_tasks(table, asked, where)
    for name in told:
        values = [value and value.lower() for value in table[name]]
        wrong = next((v for v in values if v is not None and v not in _TRUTH), None)
        if wrong is not None:
            raise OpenclefError(f"{where}: {name} is {wrong!r}; allowed: true, false or blank")
        for row, value in zip(rows, values, strict=True):
            row[TASK] = -1 if value is None else _TRUTH[value]
    return [{task: ("label", value) for task, value in row.items()} for row in rows]
