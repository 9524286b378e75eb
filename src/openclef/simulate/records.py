"""Health records in MEDS 0.4: what was coded about each patient, and when.

Coding is imperfect: a disease or drug may go unrecorded, and a wrong diagnosis may be entered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds import CodeMetadataSchema, DataSchema, DatasetMetadataSchema, birth_code

from openclef.artefact import atomic, write_json
from openclef.clinical import ATC, ICD10CM, meds_code
from openclef.simulate.causes import DISEASES, OTHER_CODES, OTHER_DRUGS
from openclef.simulate.patients import Patient, Session, SimulationConfig

PATIENTS_PER_SHARD = 1000
_RECORDED = 0.92
_WRONG = 0.015
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
    """One row of a MEDS table; `time` is None for a static fact."""

    time: datetime | None
    code: str
    eeg_uri: str | None = None


def recording_uri(patient: Patient, session: Session) -> str:
    """Path of a session's EDF, relative to the data set."""
    stem = f"{patient.name}_{session.name}_task-clinical_eeg"
    return f"{patient.name}/{session.name}/eeg/{stem}.edf"


def patient_events(patient: Patient, *, config: SimulationConfig) -> tuple[Event, ...]:
    """Draw the record of a patient.

    Parameters
    ----------
    patient : Patient
        With sessions and their drugs.
    config : SimulationConfig
        The seed.

    Returns
    -------
    tuple of Event
        Sorted by time, static ones first; empty if the patient has no record.
    """
    if not patient.has_record:
        return ()
    rng = config.generator("records", patient=patient.index)
    events = [
        Event(None, f"GENDER//{patient.sex}"),
        Event(None, f"RACE//{patient.race}"),
        Event(datetime.combine(patient.birth, time()), birth_code),
    ]
    for session in patient.sessions:
        uri = recording_uri(patient, session)
        events.append(Event(session.start, f"EEG//{session.setting.upper()}", uri))
        events += _drug_events(rng, session)
    events += _diagnosis_events(rng, patient)
    return tuple(sorted(events, key=lambda event: (event.time or datetime.min, event.code)))


def _diagnosis_events(rng: np.random.Generator, patient: Patient) -> list[Event]:
    first = patient.sessions[0].start
    events = []
    for name, cause in DISEASES.items():
        recorded = rng.random() < (_RECORDED if name in patient.diseases else _WRONG)
        code = cause.codes[int(rng.integers(len(cause.codes)))]
        n_visits = 1 + int(rng.poisson(1.0))
        visits = [_around(rng, first, days_before=900, days_after=120) for _ in range(n_visits)]
        if recorded:
            events += [Event(visit, meds_code(code, system=ICD10CM)) for visit in visits]
    for code, probability in OTHER_CODES.items():
        visit = _around(rng, first, days_before=900, days_after=120)
        if rng.random() < probability:
            events.append(Event(visit, meds_code(code, system=ICD10CM)))
    return events


def _drug_events(rng: np.random.Generator, session: Session) -> list[Event]:
    days_before = 5 if session.setting == "icu" else 120
    events = []
    for code, _ in session.drugs.values():
        n_orders = 1 + int(rng.poisson(1.0))
        orders = [
            _around(rng, session.start, days_before=days_before, days_after=0)
            for _ in range(n_orders)
        ]
        if rng.random() < _RECORDED:
            events += [Event(order, meds_code(code, system=ATC)) for order in orders]
    for code, probability in OTHER_DRUGS.items():
        order = _around(rng, session.start, days_before=days_before, days_after=30)
        if rng.random() < probability:
            events.append(Event(order, meds_code(code, system=ATC)))
    return events


def _around(
    rng: np.random.Generator, start: datetime, *, days_before: int, days_after: int
) -> datetime:
    """Draw a time around a session: mostly before it, after it only where `days_after` allows."""
    before = days_after == 0 or rng.random() < 0.85
    days = -rng.uniform(0.1, days_before) if before else rng.uniform(0.1, days_after)
    return (start + timedelta(days=float(days))).replace(microsecond=0)


def write_meds(
    folder: Path, *, patients: Iterable[Patient], config: SimulationConfig
) -> tuple[str, ...]:
    """Write a MEDS data set.

    Parameters
    ----------
    folder : Path
        Becomes the MEDS root.
    patients : iterable of Patient
        In order of subject_id.
    config : SimulationConfig
        The seed.

    Returns
    -------
    tuple of str
        Paths of the files, relative to `folder`.
    """
    written = []
    codes: set[str] = set()
    patients = list(patients)
    for shard, start in enumerate(range(0, len(patients), PATIENTS_PER_SHARD)):
        rows = [
            (patient.subject_id, event)
            for patient in patients[start : start + PATIENTS_PER_SHARD]
            for event in patient_events(patient, config=config)
        ]
        codes |= {event.code for _, event in rows}
        table = pa.table(
            {
                "subject_id": [subject for subject, _ in rows],
                "time": [event.time for _, event in rows],
                "code": [event.code for _, event in rows],
                "numeric_value": [None] * len(rows),
                "text_value": [None] * len(rows),
                "eeg_uri": [event.eeg_uri for _, event in rows],
            },
            schema=_SCHEMA,
        )
        DataSchema.validate(table)
        written.append(_write_table(folder, f"data/{shard}.parquet", table))
    table = pa.table(
        {
            "code": sorted(codes),
            "description": [None] * len(codes),
            "parent_codes": [None] * len(codes),
        },
        schema=CodeMetadataSchema.schema(),
    )
    CodeMetadataSchema.validate(table)
    written.append(_write_table(folder, "metadata/codes.parquet", table))
    metadata = DatasetMetadataSchema(
        dataset_name="openclef simulated hospital",
        dataset_version=f"seed {config.seed}",
        etl_name="openclef simulate",
        meds_version="0.4",
        license="CC0-1.0",
        additional_value_modality_columns=["eeg_uri"],
    )
    write_json(folder / "metadata" / "dataset.json", metadata.to_dict())
    return (*written, "metadata/dataset.json")


def _write_table(folder: Path, name: str, table: pa.Table) -> str:
    with atomic(folder / name) as temporary:
        pq.write_table(table, temporary)
    return name
