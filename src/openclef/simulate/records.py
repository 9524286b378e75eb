"""Health records in MEDS 0.4: what was coded about each patient, and when.

Diagnoses are coded at visits, drugs are ordered before the sessions that they are seen in. Records
are imperfect: a disease or a drug goes unrecorded, is coded late or less exactly, a diagnosis or an
order is wrong, a diagnosis stands at the last visit alone. Codes of the package's lists that no
task asks for occur here and there, whatever the patient has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds import CodeMetadataSchema, DataSchema, DatasetMetadataSchema, birth_code

from openclef.artefact import atomic, write_json
from openclef.clinical import (
    ATC,
    DISEASES,
    ICD10CM,
    MEDICATIONS,
    load_codes,
    meds_code,
)
from openclef.simulate.config import SimulationConfig
from openclef.simulate.parameters import Disease, Hospital, load_hospital
from openclef.simulate.parts import Rows, chunks, read_parts
from openclef.simulate.patients import Patient, Session

PATIENTS_PER_SHARD = 1000
ROWS = "meds"

_LATE = 0.12
_LESS_SPECIFIC = 0.15
_TELLS_SIDE = 0.6
_UNDATED = 0.01
_STOPPED = 0.25
# Codes that there were not before a day, and what was used until then.
_NEW_CODES = {"F32.A": (datetime(2021, 10, 1), "F32.9")}
# Probability of the most common code of no task; the others fall with the root of their rank, so
# that a thousand patients have nearly all of them.
_BACKGROUND = 0.02
_VISIT_OF = {"routine": "OUTPATIENT", "ltm": "INPATIENT", "emu": "INPATIENT", "icu": "ICU"}
_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("text_value", pa.large_string()),
        ("eeg_uri", pa.string()),
    ]
)


@dataclass(frozen=True)
class Event:
    """One row of a MEDS table; `time` is None for what never changes."""

    time: datetime | None
    code: str
    eeg_uri: str | None = None


def patient_events(
    patient: Patient, *, config: SimulationConfig, uris: Sequence[str] = ()
) -> tuple[Event, ...]:
    """Draw the record of a patient.

    Parameters
    ----------
    patient : Patient
        With diseases, and sessions with their drugs.
    config : SimulationConfig
        Seed; causes and their codes.
    uris : sequence of str
        Path of each session's recording, for the EEG events; none: they have no link.

    Returns
    -------
    tuple of Event
        Sorted by time, static ones first; empty if the patient has no record.
    """
    if not patient.has_record:
        return ()
    rng = config.generator("records", patient=patient.index)
    hospital = load_hospital(config.hospital)
    visits = _draw_visits(rng, patient)
    diagnoses = [
        *_diagnoses(rng, hospital, patient, visits),
        *_wrong_diagnoses(rng, hospital, patient, visits),
    ]
    is_undated = (rng.random(len(diagnoses)) < _UNDATED).tolist()
    orders = _orders(rng, hospital, patient)
    events = [
        Event(None, f"GENDER//{patient.sex}"),
        Event(None, f"RACE//{patient.race}"),
        Event(datetime.combine(patient.birth, time()), birth_code),
        *(Event(day, f"VISIT//{kind}") for day, kind in visits.items()),
        # A diagnosis without a date stands where the record was closed: no time would be static.
        *(
            Event(max(visits), event.code) if moves else event
            for event, moves in zip(diagnoses, is_undated, strict=True)
        ),
        *orders,
        *_stops(rng, patient, orders),
        *_background(rng, sorted(visits)),
    ]
    for session in patient.sessions:
        uri = uris[session.index] if uris else None
        events.append(Event(session.start, f"EEG//{session.setting.upper()}", uri))
    return tuple(sorted(events, key=lambda event: (event.time or datetime.min, event.code)))


def _draw_visits(rng: np.random.Generator, patient: Patient) -> dict[datetime, str]:
    """Draw when the patient came, and how: time -> kind of the visit."""
    visits = {}
    for session in patient.sessions:
        kind = _VISIT_OF[session.setting]
        if kind == "ICU":
            visits[_days_from(session.start, -rng.uniform(1, 4))] = "EMERGENCY"
        hours_before = 0.02 if kind == "OUTPATIENT" else rng.uniform(0.05, 0.9)
        visits[_days_from(session.start, -hours_before)] = kind
    first, last = patient.sessions[0].start, patient.sessions[-1].start
    for _ in range(int(rng.poisson(2.5))):
        days = rng.uniform(-900, 365 + (last - first).days)
        visits[_days_from(first, days)] = "EMERGENCY" if rng.random() < 0.15 else "OUTPATIENT"
    return visits


def _diagnoses(
    rng: np.random.Generator, hospital: Hospital, patient: Patient, visits: dict[datetime, str]
) -> list[Event]:
    """Code the diseases that the patient has; a visit is added where one is needed."""
    events = []
    for name, onset in patient.diseases.items():
        if rng.random() < hospital.noise.unrecorded:
            continue
        begins = datetime.combine(onset, time(9))
        later = sorted(day for day in visits if day > begins)
        if rng.random() < _LATE or not later:
            begins = max(begins, patient.sessions[0].start)
            first = _days_from(begins, rng.uniform(21, 730))
            visits[first] = "OUTPATIENT"
        else:
            # Mostly soon: the first visits after onset are the likeliest.
            first = later[min(int(rng.geometric(0.7)) - 1, len(later) - 1)]
        again = [day for day in sorted(visits) if day > first and rng.random() < 0.4]
        code = _draw_code(rng, hospital.diseases[name], patient)
        events.append(_coded(first, code))
        for day in again:
            if rng.random() < 0.2:
                code = _draw_code(rng, hospital.diseases[name], patient)
            told = _ancestor(rng, code, ICD10CM) if rng.random() < _LESS_SPECIFIC else code
            events.append(_coded(day, told))
    return events


def _coded(day: datetime, code: str) -> Event:
    """Code a diagnosis as it could be coded on that day."""
    first_day, before = _NEW_CODES.get(code, (datetime.min, code))
    return Event(day, meds_code(code if day >= first_day else before, system=ICD10CM))


def _draw_code(rng: np.random.Generator, disease: Disease, patient: Patient) -> str:
    of_side = disease.left_codes if patient.side == "left" else disease.right_codes
    codes = of_side if of_side and rng.random() < _TELLS_SIDE else disease.codes
    return codes[int(rng.integers(len(codes)))]


def _ancestor(rng: np.random.Generator, code: str, system: str) -> str:
    """Draw a listed ancestor of a code, a near one more likely; itself if there is none."""
    ancestors = _ancestors(code, system)
    return ancestors[min(int(rng.geometric(0.5)), len(ancestors)) - 1] if ancestors else code


@cache
def _ancestors(code: str, system: str) -> tuple[str, ...]:
    """Return the listed ancestors of a code, the nearest first; no bare letters: chapters."""
    known = frozenset(load_codes(system))
    return tuple(code[:end] for end in range(len(code) - 1, 1, -1) if code[:end] in known)


def _wrong_diagnoses(
    rng: np.random.Generator, hospital: Hospital, patient: Patient, visits: Mapping[datetime, str]
) -> list[Event]:
    events = []
    is_wrong = rng.random(len(hospital.diseases)) < hospital.noise.wrong
    for name, wrong in zip(hospital.diseases, is_wrong.tolist(), strict=True):
        if wrong and name not in patient.diseases:
            code = _draw_code(rng, hospital.diseases[name], patient)
            events.append(_coded(_any_of(rng, sorted(visits)), code))
    return events


def _orders(rng: np.random.Generator, hospital: Hospital, patient: Patient) -> list[Event]:
    """Order the drugs of each session before it, once or more, and some that were never taken."""
    events = []
    for session in patient.sessions:
        days_before = 4 if session.setting == "icu" else 120
        codes = [
            code for code, _ in session.drugs.values() if rng.random() >= hospital.noise.unrecorded
        ]
        is_wrong = rng.random(len(hospital.medications)) < hospital.noise.wrong
        for name, wrong in zip(hospital.medications, is_wrong.tolist(), strict=True):
            if wrong and name not in session.drugs:
                options = list(hospital.medications[name].drugs)
                codes.append(options[int(rng.integers(len(options)))])
        for code in codes:
            days = rng.uniform(0.1, days_before, size=1 + int(rng.poisson(1.0))).tolist()
            told = [code] * len(days)
            if rng.random() < _LESS_SPECIFIC:  # noted by its group, beside the order
                days.append(rng.uniform(0.1, days_before))
                told.append(_ancestor(rng, code, ATC))
            events += [
                Event(_days_from(session.start, -day), meds_code(told_code, system=ATC))
                for day, told_code in zip(days, told, strict=True)
            ]
    return events


def _stops(rng: np.random.Generator, patient: Patient, orders: Iterable[Event]) -> list[Event]:
    """Stop some drugs of the last session; of those before, all that the next one is without.

    What was never ordered is not stopped.
    """
    ordered_days = {(event.code, event.time) for event in orders if event.time}
    events = []
    following: Sequence[Session | None] = (*patient.sessions[1:], None)
    for session, after in zip(patient.sessions, following, strict=True):
        for name, (code, _) in session.drugs.items():
            days = rng.uniform(1, 200 if after is None else (after.start - session.start).days)
            is_stopped = rng.random() < _STOPPED if after is None else name not in after.drugs
            told = meds_code(code, system=ATC)
            is_ordered = any(c == told and day <= session.start for c, day in ordered_days)
            if is_stopped and is_ordered:
                day = _days_from(session.start, days)
                events.append(Event(day, f"MEDICATION//STOP//{told}"))
    return events


def _background(rng: np.random.Generator, visits: Sequence[datetime]) -> list[Event]:
    codes = _codes_of_no_task()
    chance = _BACKGROUND / np.sqrt(1 + np.arange(len(codes)))
    hits = np.flatnonzero(rng.random(len(codes)) < chance).tolist()
    return [Event(_any_of(rng, visits), codes[hit]) for hit in hits]


@cache
def _codes_of_no_task() -> tuple[str, ...]:
    """MEDS codes that assert no phenotype, in an order of no meaning."""
    found = []
    for system, phenotypes in ((ICD10CM, DISEASES), (ATC, MEDICATIONS)):
        prefixes = tuple(prefix for phenotype in phenotypes for prefix in phenotype.prefixes)
        found += [
            meds_code(code, system=system)
            for code in load_codes(system)
            if len(code) > 1 and not code.startswith(prefixes)
        ]
    return tuple(sorted(found, key=lambda code: hashlib.sha256(code.encode()).digest()))


def _any_of(rng: np.random.Generator, days: Sequence[datetime]) -> datetime:
    return days[int(rng.integers(len(days)))]


def _days_from(day: datetime, days: float) -> datetime:
    return (day + timedelta(days=float(days))).replace(microsecond=0)


def event_rows(patient: Patient, events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return events as a part keeps them."""
    return [
        {
            "subject_id": patient.subject_id,
            "time": event.time and event.time.isoformat(),
            "code": event.code,
            "eeg_uri": event.eeg_uri,
        }
        for event in events
    ]


def write_meds(out: Path, folder: str, config: SimulationConfig) -> tuple[str, ...]:
    """Write a MEDS data set from the parts in `out`; return the paths of its files.

    Parameters
    ----------
    out : Path
        The data set; its parts hold the events under `ROWS`, patients in order of subject_id.
    folder : str
        Becomes the MEDS root, below `out`.
    config : SimulationConfig
        Seed and number of patients.
    """
    written = []
    codes: set[str] = set()
    for shard, indices in enumerate(chunks(config.n_patients, PATIENTS_PER_SHARD)):
        table = _table(read_parts(out, indices))
        DataSchema.validate(table)
        codes |= set(table["code"].unique().to_pylist())
        written.append(_write_table(out, f"{folder}/data/{shard}.parquet", table))
    table = pa.table(
        {
            "code": sorted(codes),
            "description": [None] * len(codes),
            "parent_codes": [None] * len(codes),
        },
        schema=CodeMetadataSchema.schema(),
    )
    CodeMetadataSchema.validate(table)
    written.append(_write_table(out, f"{folder}/metadata/codes.parquet", table))
    metadata = DatasetMetadataSchema(
        dataset_name="openclef simulated hospital",
        dataset_version=f"{config.hospital}, seed {config.seed}",
        etl_name="openclef simulate",
        meds_version="0.4",
        license="CC0-1.0",
        additional_value_modality_columns=["eeg_uri"],
    )
    write_json(out / folder / "metadata" / "dataset.json", metadata.to_dict())
    return (*written, f"{folder}/metadata/dataset.json")


def _table(parts: Rows) -> pa.Table:
    rows = parts.get(ROWS, [])
    times = [row["time"] and datetime.fromisoformat(row["time"]) for row in rows]
    columns = {
        "subject_id": [row["subject_id"] for row in rows],
        "time": times,
        "code": [row["code"] for row in rows],
        "numeric_value": [None] * len(rows),
        "text_value": [None] * len(rows),
        "eeg_uri": [row["eeg_uri"] for row in rows],
    }
    return pa.table(columns, schema=_SCHEMA)


def _write_table(out: Path, name: str, table: pa.Table) -> str:
    with atomic(out / name) as temporary:
        pq.write_table(table, temporary)
    return name
