"""The simulated hospital on disk: BIDS recordings, reports, findings, a MEDS record, the truth.

An EDF is written to a temporary name and renamed, so a file with its final name is complete;
after an interruption only the missing ones are made. Each session depends on the seed and its
own indices alone: the bytes do not depend on the workers or on how often the work was resumed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import track

from openclef.artefact import Artefact, atomic, begin, check_free_disk, write_json
from openclef.clinical import FINDINGS
from openclef.simulate.causes import DISEASES
from openclef.simulate.causes import FINDINGS as STATES
from openclef.simulate.notes import Reading, read_session
from openclef.simulate.patients import Patient, Session, SimulationConfig, draw_patient
from openclef.simulate.recording import make_edf, write_sidecars, write_tsv
from openclef.simulate.records import recording_uri, write_meds
from openclef.types import CHANNELS
from openclef.workers import worker_pool

# Per session besides the samples: headers, sidecars, report, one block of each on disk.
_SIDECAR_BYTES = 32_768


def simulate(
    out: Path, *, config: SimulationConfig, n_workers: int = 2, progress: bool = True
) -> Artefact:
    """Write a simulated hospital, or finish one that was interrupted.

    Parameters
    ----------
    out : Path
        Folder of the artefact; a BIDS data set with `phenotype/`, `reports/`, `meds/` and
        `truth/` beside the subjects.
    config : SimulationConfig
        The hospital.
    n_workers : int
        Processes that make recordings; the outcome does not depend on it.
    progress : bool
        Say the space needed and show a progress bar on stderr.

    Returns
    -------
    Artefact
        Complete, of kind "simulation". Its hash covers the tables, not the EDF files.

    Raises
    ------
    ArtefactError
        If `out` holds something else, or the disk has not enough space.
    """
    artefact = begin(out, kind="simulation", config=config.model_dump(), inputs={})
    if artefact.is_complete:
        return artefact
    patients = [draw_patient(config, index=index) for index in range(config.n_patients)]
    missing = [
        (patient.index, session.index)
        for patient in patients
        for session in patient.sessions
        if not (out / recording_uri(patient, session)).exists()
    ]
    samples_bytes = len(CHANNELS) * config.duration_s * int(config.sfreq_hz) * 2
    needed_bytes = len(missing) * (samples_bytes + _SIDECAR_BYTES)
    check_free_disk(out, needed_bytes)
    console = Console(stderr=True, quiet=not progress)
    console.print(f"{len(missing)} recordings to make, {needed_bytes / 1e9:.2f} GB of disk")
    for stale in out.rglob(".*.tmp"):
        stale.unlink()
    _make_recordings(out, config, missing, n_workers, console)
    artefact.finish(_write_tables(out, config, patients))
    return artefact


def _make_recordings(
    out: Path,
    config: SimulationConfig,
    missing: list[tuple[int, int]],
    n_workers: int,
    console: Console,
) -> None:
    if not missing:
        return
    make = partial(_make_recording, out, config)
    with worker_pool(n_workers) as pool:
        made = pool.map(make, missing)
        for _ in track(made, "simulate", len(missing), console=console, disable=console.quiet):
            pass


def _make_recording(out: Path, config: SimulationConfig, key: tuple[int, int]) -> None:
    """Make one session: sidecars and report first, the EDF last, as its presence means done."""
    patient = draw_patient(config, index=key[0])
    session = patient.sessions[key[1]]
    edf_path = out / recording_uri(patient, session)
    write_sidecars(edf_path, patient=patient, session=session, config=config)
    if session.has_report:
        report = out / "reports" / f"{patient.name}_{session.name}_report.txt"
        with atomic(report) as temporary:
            temporary.write_text(read_session(patient, session, config=config).text)
    edf = make_edf(patient, session, config=config)
    with atomic(edf_path) as temporary:
        edf.write(temporary)


def _write_tables(out: Path, config: SimulationConfig, patients: list[Patient]) -> tuple[str, ...]:
    """Write everything but the recordings; return the paths that define the artefact."""
    sessions = [(patient, session) for patient in patients for session in patient.sessions]
    write_json(
        out / "dataset_description.json",
        {
            "Name": "openclef simulated hospital",
            "BIDSVersion": "1.9.0",
            "DatasetType": "raw",
            "License": "CC0-1.0",
            "GeneratedBy": [{"Name": "openclef simulate"}],
        },
    )
    with atomic(out / ".bidsignore") as temporary:
        temporary.write_text("config.json\nmanifest.json\nmetrics.jsonl\nmeds/\nreports/\ntruth/\n")
    write_json(out / "participants.json", _PARTICIPANT_COLUMNS)
    write_tsv(out / "participants.tsv", pl.DataFrame([_participant(p) for p in patients]))
    for patient in patients:
        path = out / patient.name / f"{patient.name}_sessions.tsv"
        write_tsv(path, pl.DataFrame([_session(session) for session in patient.sessions]))
    write_json(
        out / "phenotype" / "eeg_findings.json",
        {
            "MeasurementToolMetadata": {"Description": "Findings as stated by the reports"},
            **{
                finding.name: {
                    "Description": finding.description,
                    "Levels": {"1": "stated", "0": "denied", "n/a": "not mentioned"},
                }
                for finding in FINDINGS
            },
        },
    )
    findings = pl.DataFrame(
        [_findings(patient, session, config) for patient, session in sessions],
        schema_overrides={finding.name: pl.Int8 for finding in FINDINGS},
    )
    write_tsv(out / "phenotype" / "eeg_findings.tsv", findings)
    with atomic(out / "truth" / "patients.parquet") as temporary:
        pl.DataFrame([_true_patient(patient) for patient in patients]).write_parquet(temporary)
    with atomic(out / "truth" / "sessions.parquet") as temporary:
        rows = [_true_session(patient, session) for patient, session in sessions]
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(temporary)
    meds = write_meds(out / "meds", patients=patients, config=config)
    return (
        "participants.tsv",
        "phenotype/eeg_findings.tsv",
        "truth/patients.parquet",
        "truth/sessions.parquet",
        *(f"meds/{name}" for name in meds),
    )


_PARTICIPANT_COLUMNS = {
    "meds_subject_id": {"Description": "subject_id in meds/"},
    "age": {"Description": "Age at the first session", "Units": "years"},
    "sex": {"Levels": {"F": "female", "M": "male"}},
    "race": {"Description": "As registered by the hospital"},
    "site": {"Description": "Hospital"},
}


def _participant(patient: Patient) -> dict[str, Any]:
    return {
        "participant_id": patient.name,
        "meds_subject_id": patient.subject_id,
        "age": patient.sessions[0].age,
        "sex": patient.sex,
        "race": patient.race,
        "site": patient.site.name,
    }


def _session(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.name,
        "acq_time": session.start.isoformat(),
        "age": session.age,
        "setting": session.setting,
    }


def _findings(patient: Patient, session: Session, config: SimulationConfig) -> dict[str, Any]:
    """Return what the report says; a session without one has nothing mentioned."""
    silent = Reading("", dict.fromkeys(finding.name for finding in FINDINGS))
    reading = read_session(patient, session, config=config) if session.has_report else silent
    said = {name: None if value is None else int(value) for name, value in reading.findings.items()}
    return {"participant_id": patient.name, "session_id": session.name, **said}


def _true_patient(patient: Patient) -> dict[str, Any]:
    diseases = {f"disease_{name}": name in patient.diseases for name in DISEASES}
    return {"participant_id": patient.name, **vars(patient.traits), **diseases}


def _true_session(patient: Patient, session: Session) -> dict[str, Any]:
    """Return severities (0 = absent), sides and drug gains of one session."""
    row: dict[str, Any] = {"participant_id": patient.name, "session_id": session.name}
    for name in (*STATES, "spindles"):
        sign = session.findings.get(name)
        row[f"{name}_severity"] = sign.severity if sign else 0.0
    for name in ("focal_slowing", "spikes", "lpd"):
        sign = session.findings.get(name)
        row[f"{name}_side"] = sign.side if sign else None
        row[f"{name}_region"] = sign.region if sign else None
    row |= {f"{band}_log_gain": float(gain) for band, gain in session.gains.items()}
    row["drugs"] = sorted(session.drugs)
    return row
