"""Layout `bids`: EEG-BIDS, with reports, findings as the reports state them, and MEDS beside it.

`sub-*/ses-*/eeg/` recordings and their sidecars, `participants.tsv`, `sub-*_sessions.tsv`,
`phenotype/eeg_findings.tsv` (the 15 of `clinical.FINDINGS`) and `eeg_flags.tsv` (all 39 flags of
HEEDB), `reports/sub-X_ses-Y_report.txt`, `meds/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from openclef.artefact import atomic, write_json
from openclef.clinical import FINDINGS
from openclef.clinical.findings import HEEDB_FLAGS, flag_name
from openclef.simulate import records
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.events import Events, events_table
from openclef.simulate.eeg.session import Truth
from openclef.simulate.parts import Rows, write_tables
from openclef.simulate.patients import Patient, Session
from openclef.simulate.recording import channel_rows
from openclef.simulate.reports import Reading

SETTINGS = {"routine": "routine", "ltm": "ltm", "emu": "emu", "icu": "icu_or"}

_RECORDING = re.compile(
    r"sub-(?P<patient>\d+)/ses-(?P<session>\d+)/eeg/"
    r"sub-(?P=patient)_ses-(?P=session)_task-clinical_eeg\.edf"
)
_PARTICIPANTS = {
    "participant_id": pl.String, "meds_subject_id": pl.Int64, "age": pl.Float64,
    "sex": pl.String, "race": pl.String, "site": pl.String,
}  # fmt: skip
_KEYS = {"participant_id": pl.String, "session_id": pl.String}
_FINDINGS = "phenotype/eeg_findings.tsv"
_FLAGS = "phenotype/eeg_flags.tsv"
_FLAG_NAMES = {flag_name(flag): flag for flag in HEEDB_FLAGS}
_TABLES = {
    "participants.tsv": _PARTICIPANTS,
    _FINDINGS: {**_KEYS, **dict.fromkeys((finding.name for finding in FINDINGS), pl.Int8)},
    _FLAGS: {**_KEYS, **dict.fromkeys(_FLAG_NAMES, pl.Int8)},
}
# The standard's phenotype tables have one row a participant, ours one a session.
_NOT_BIDS = (
    "config.json", "manifest.json", "recordings.tsv", "meds", "phenotype", "reports", "truth",
)  # fmt: skip


def recording_path(patient: Patient, session: Session) -> str:
    """Path of a session's EDF, relative to the data set."""
    stem = f"{patient.name}_{session.name}_task-clinical_eeg"
    return f"{patient.name}/{session.name}/eeg/{stem}.edf"


def locate(path: str) -> tuple[int, int] | None:
    """Return the indices of patient and session that a path of this form is of."""
    found = _RECORDING.fullmatch(path)
    return found and (int(found["patient"]) - 1, int(found["session"]) - 1)


def write_patient(
    out: Path,
    config: SimulationConfig,
    patient: Patient,
    truths: Sequence[Truth],
    readings: Mapping[int, Reading],
) -> None:
    """Write the files of one patient's own, all but the recordings."""
    for session, truth in zip(patient.sessions, truths, strict=True):
        edf_path = out / recording_path(patient, session)
        write_sidecars(edf_path, config, patient, session)
        events_path = edf_path.with_name(edf_path.name.replace("_eeg.edf", "_events.tsv"))
        _write_tsv(events_path, _noted(truth))
        if session.index in readings:
            report = out / "reports" / f"{patient.name}_{session.name}_report.txt"
            with atomic(report) as temporary:
                temporary.write_text(readings[session.index].text, encoding="utf-8")
    visits = [
        {
            "session_id": session.name,
            "acq_time": session.start.isoformat(),
            "age": round(session.age, 1),
            "setting": SETTINGS[session.setting],
        }
        for session in patient.sessions
    ]
    stem = out / patient.name / f"{patient.name}_sessions"
    _write_tsv(stem.with_suffix(".tsv"), pl.DataFrame(visits))
    write_json(stem.with_suffix(".json"), _SESSION_COLUMNS)


def _noted(truth: Truth) -> pl.DataFrame:
    """Return what a technician notes, by time, the start first."""
    start = Events.of("start", None, [0.0], duration_s=0.0)
    table = events_table([start, *truth.of("eyes_open", "hyperventilation", "photic")])
    return table.sort("onset_s", "duration_s", maintain_order=True).select(
        onset=pl.col("onset_s").round(2),
        duration=pl.col("duration_s").cast(pl.Float64).round(2),
        trial_type="kind",
        flashes_hz=pl.col("frequency_hz").cast(pl.Float64).round(1).fill_nan(None),
    )


def write_sidecars(
    edf_path: Path, config: SimulationConfig, patient: Patient, session: Session
) -> None:
    """Write `_channels.tsv` and `_eeg.json` beside a session's EDF."""
    stem = edf_path.name.removesuffix("_eeg.edf")
    task = stem.rpartition("_task-")[2]
    channels = channel_rows(config, patient, session)
    _write_tsv(edf_path.with_name(f"{stem}_channels.tsv"), pl.DataFrame(channels))
    site = patient.site
    kinds = [row["type"] for row in channels]
    write_json(
        edf_path.with_name(f"{stem}_eeg.json"),
        {
            "TaskName": task,
            "TaskDescription": f"{session.setting} EEG: rest, sleep if it comes, provocation",
            "InstitutionName": patient.site_name,
            "Manufacturer": "openclef simulate",
            "EEGReference": site.reference,
            "EEGGround": "n/a",
            "EEGPlacementScheme": "10-20",
            "SamplingFrequency": session.sfreq_hz,
            "PowerLineFrequency": site.line_hz,
            "SoftwareFilters": "n/a",
            "HardwareFilters": {
                "high-pass": {"cutoff (Hz)": site.highpass_hz, "order": 1},
                "low-pass": {"cutoff (Hz)": channels[0]["high_cutoff"], "order": 4},
            },
            "EEGChannelCount": kinds.count("EEG"),
            "ECGChannelCount": kinds.count("ECG"),
            "EOGChannelCount": kinds.count("EOG"),
            "EMGChannelCount": kinds.count("EMG"),
            "MISCChannelCount": kinds.count("MISC"),
            "TriggerChannelCount": 0,
            "RecordingDuration": session.duration_s,
            "RecordingType": "continuous",
        },
    )


def patient_rows(
    config: SimulationConfig, patient: Patient, readings: Mapping[int, Reading]
) -> Rows:
    """Rows of a patient in the tables of the data set."""
    uris = [recording_path(patient, session) for session in patient.sessions]
    events = records.patient_events(patient, config=config, uris=uris)
    said = [
        {"participant_id": patient.name, "session_id": session.name}
        | (dict(readings[session.index].said) if session.index in readings else {})
        for session in patient.sessions
    ]
    return {
        "participants.tsv": [
            {
                "participant_id": patient.name,
                "meds_subject_id": patient.subject_id,
                "age": round(patient.sessions[0].age, 1),
                "sex": patient.sex,
                "race": None if patient.race == "UNKNOWN" else patient.race,
                "site": patient.site_name,
            }
        ],
        _FINDINGS: [{name: row.get(name) for name in _TABLES[_FINDINGS]} for row in said],
        _FLAGS: [{name: row.get(name) for name in _TABLES[_FLAGS]} for row in said],
        records.ROWS: records.event_rows(patient, events),
    }


def write_data_set(out: Path, config: SimulationConfig) -> tuple[str, ...]:
    """Write the tables, from the parts in `out`, and descriptions; return the tables' paths."""
    write_json(
        out / "dataset_description.json",
        {
            "Name": "openclef simulated hospital",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "License": "CC0-1.0",
            "Authors": ["openclef simulate"],
            "GeneratedBy": [{"Name": "openclef simulate"}],
        },
    )
    with atomic(out / ".bidsignore") as temporary:
        temporary.write_text("".join(f"{name}\n" for name in _NOT_BIDS))
    with atomic(out / "README.md") as temporary:
        temporary.write_text(_README.format(**config.model_dump()))
    write_json(out / "participants.json", _PARTICIPANT_COLUMNS)
    write_json(out / "task-clinical_events.json", _EVENT_COLUMNS)
    tool = {"MeasurementToolMetadata": {"Description": "Findings as the report states them"}}
    levels = {"Levels": {"1": "stated", "0": "denied"}}
    write_json(
        out / "phenotype" / "eeg_findings.json",
        tool | {f.name: {"Description": f.description, **levels} for f in FINDINGS},
    )
    write_json(
        out / "phenotype" / "eeg_flags.json",
        tool
        | {n: {"Description": f"HEEDB's flag {f!r}", **levels} for n, f in _FLAG_NAMES.items()},
    )
    return (
        *write_tables(out, _TABLES, config.n_patients),
        *records.write_meds(out, "meds", config),
    )


def _write_tsv(path: Path, table: pl.DataFrame) -> None:
    with atomic(path) as temporary:
        table.write_csv(temporary, separator="\t", null_value="n/a")


_README = """\
# A simulated hospital

Made by `openclef simulate`: {n_patients} patients of the table of causes `{hospital}`, seed {seed}.
No one is real. Recordings lie in `sub-*/`, reports in `reports/`, what the reports state in
`phenotype/`, health records (MEDS) in `meds/`, and what is true in `truth/`.
"""
_PARTICIPANT_COLUMNS = {
    "meds_subject_id": {"Description": "subject_id in meds/"},
    "age": {"Description": "Age at the first session", "Units": "year"},
    "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
    "race": {"Description": "As registered by the hospital"},
    "site": {"Description": "Hospital"},
}
_EVENT_COLUMNS = {
    "trial_type": {
        "Description": "What the technician noted",
        "Levels": {
            "start": "the recording starts",
            "eyes_open": "eyes were open",
            "hyperventilation": "the patient breathed deeply",
            "photic": "flashes",
        },
    },
    "flashes_hz": {"Description": "Flashes a second", "Units": "Hz"},
}
_SESSION_COLUMNS = {
    "age": {"Description": "Age at the session", "Units": "year"},
    "setting": {
        "Description": "Where the session was recorded",
        "Levels": {
            "routine": "outpatient routine",
            "ltm": "long-term monitoring",
            "emu": "epilepsy monitoring unit",
            "icu_or": "intensive care or operating room",
        },
    },
}
