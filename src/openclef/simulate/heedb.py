"""Layout `heedb`: the Harvard Electroencephalography Database on disk (paper.md, Data sets).

`EEG/bids/{SITE}/sub-{SITE}{PID}/ses-{n}/eeg/` recordings, `EEG/eeg-metadata/` a table of visits a
site with headers of its own (one leaves BDSPPatientID blank), `EEG/HEEDB_Metadata/` the flags of
each site's reports and, of all sites, patients, diagnoses and medications;
`Neurology_Reports/{year}/` the reports. BDSPPatientID is the subject_id.

It cannot hold all that the `bids` layout does: a flag is asserted or not mentioned, never denied;
codes have no dates, and there are no visits, birth dates, stops of drugs or EEG events.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import polars as pl

from openclef.artefact import atomic
from openclef.clinical import ATC, ICD10CM, split_code
from openclef.clinical.findings import HEEDB_FLAGS, flag_name
from openclef.simulate import records
from openclef.simulate.bids import write_sidecars
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.session import Truth
from openclef.simulate.parameters import load_hospital
from openclef.simulate.parts import Rows, Schema, write_tables
from openclef.simulate.patients import Patient, Session
from openclef.simulate.reports import Reading

# As `draw_patient` numbers them.
_FIRST_SUBJECT_ID = 7_000_001
_RELEASE = "2025_01_15"
_RECORDING = re.compile(
    r"EEG/bids/(?P<site>[A-Z]\d{4})/sub-(?P=site)(?P<patient>\d+)/ses-(?P<session>\d+)/eeg/"
    r"sub-(?P=site)(?P=patient)_ses-(?P=session)_task-c?EEG_eeg\.edf"
)
_SERVICES = {"routine": "Routine EEG", "ltm": "LTM", "emu": "EMU", "icu": "ICU cEEG"}
_PATIENTS = "EEG/HEEDB_Metadata/HEEDB_patients.csv"
_ICD10 = "EEG/HEEDB_Metadata/HEEDB_ICD10_for_Neurology.csv"
_ATC = "EEG/HEEDB_Metadata/HEEDB_Medication_ATC.csv"
_VISITS: Schema = {
    "SiteID": pl.String, "BDSPPatientID": pl.Int64, "BidsFolder": pl.String,
    "SessionID": pl.Int64, "StartTime": pl.String, "EndTime": pl.String,
    "DurationInSeconds": pl.Int64, "ServiceName": pl.String, "AgeAtVisit": pl.Float64,
    "SexDSC": pl.String,
}  # fmt: skip
# How the sites spell their headers, in turn; the second leaves BDSPPatientID blank.
_SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    partial(re.sub, r"(?<=[a-z])(?=[A-Z])", " "),
    partial(re.sub, r"(?<=[a-z])(?=[A-Z])", "_"),
    str.lower,
)
_BLANK = 1
_READS: Schema = {
    "SiteID": pl.String, "BDSPPatientID": pl.Int64, "BidsFolder": pl.String,
    "SessionID": pl.Int64, "ServiceName(EEG)": pl.String, "AgeAtVisit": pl.Float64,
    "SexDSC": pl.String, "DeidentifiedName(Reports)": pl.String,
    **dict.fromkeys(HEEDB_FLAGS, pl.String),
}  # fmt: skip
_WHO: Schema = {"SiteID": pl.String, "BDSPPatientID": pl.Int64, "SexDSC": pl.String}
_ABOUT: Schema = {
    "AgeAtVisitAvg": pl.Float64,
    "RaceAndEthnicityDSC": pl.String,
    "HasEEG": pl.String,
}
_ICD10_CHAPTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ATC_GROUPS = ("N", "L", "H")


def _folder(patient: Patient) -> str:
    return f"sub-{patient.site_name}{patient.subject_id}"


def recording_path(patient: Patient, session: Session) -> str:
    """Path of a session's EDF, relative to the data set."""
    folder, number = _folder(patient), session.index + 1
    task = "EEG" if session.setting == "routine" else "cEEG"
    return (
        f"EEG/bids/{patient.site_name}/{folder}/ses-{number}/eeg/"
        f"{folder}_ses-{number}_task-{task}_eeg.edf"
    )


def locate(path: str) -> tuple[int, int] | None:
    """Return the indices of patient and session that a path of this form is of."""
    found = _RECORDING.fullmatch(path)
    return found and (int(found["patient"]) - _FIRST_SUBJECT_ID, int(found["session"]) - 1)


def _report_name(patient: Patient, session: Session) -> str:
    day = session.start.strftime("%Y%m%d")
    return f"NeuroReport_{patient.subject_id}_{session.index + 1}_{day}.txt"


def write_patient(
    out: Path,
    config: SimulationConfig,
    patient: Patient,
    truths: Sequence[Truth],
    readings: Mapping[int, Reading],
) -> None:
    """Write the files of one patient's own, all but the recordings."""
    for session in patient.sessions:
        write_sidecars(out / recording_path(patient, session), config, patient, session)
        if session.index in readings:
            folder = out / "Neurology_Reports" / str(session.start.year)
            with atomic(folder / _report_name(patient, session)) as temporary:
                temporary.write_text(readings[session.index].text, encoding="utf-8")


def patient_rows(
    config: SimulationConfig, patient: Patient, readings: Mapping[int, Reading]
) -> Rows:
    """Rows of a patient in the tables of the data set."""
    site = patient.site_name
    sites = _sites(config)
    spell = _SPELLINGS[sites.index(site) % len(_SPELLINGS)]
    is_blank = sites.index(site) == _BLANK
    visits, reads = [], []
    for session in patient.sessions:
        end = session.start + timedelta(seconds=session.duration_s)
        visit = {
            "SiteID": site,
            "BDSPPatientID": None if is_blank else patient.subject_id,
            "BidsFolder": _folder(patient),
            "SessionID": session.index + 1,
            "StartTime": session.start.isoformat(sep=" "),
            "EndTime": end.isoformat(sep=" "),
            "DurationInSeconds": session.duration_s,
            "ServiceName": _SERVICES[session.setting],
            "AgeAtVisit": round(session.age, 1),
            "SexDSC": {"F": "Female", "M": "Male"}[patient.sex],
        }
        visits.append({spell(name): value for name, value in visit.items()})
        if session.index in readings:
            said = readings[session.index].said
            read = visit | {
                "ServiceName(EEG)": visit["ServiceName"],
                "DeidentifiedName(Reports)": _report_name(patient, session),
                **{flag: "report" for flag in HEEDB_FLAGS if said[flag_name(flag)]},
            }
            reads.append({name: read.get(name) for name in _READS})
    return {
        _visits_path(site): visits,
        _reads_path(site): reads,
        **_patient_tables(config, patient),
    }


def _patient_tables(config: SimulationConfig, patient: Patient) -> Rows:
    """Return the patient's rows in the tables of all sites; codes only of those with a record."""
    ages = [session.age for session in patient.sessions]
    who = {
        "SiteID": patient.site_name,
        "BDSPPatientID": patient.subject_id,
        "SexDSC": {"F": "Female", "M": "Male"}[patient.sex],
    }
    about = {
        "AgeAtVisitAvg": round(sum(ages) / len(ages), 1),
        "RaceAndEthnicityDSC": patient.race,
        "HasEEG": "Y",
    }
    events = records.patient_events(patient, config=config)
    codes = sorted({split_code(event.code) for event in events})
    tables: Rows = {_PATIENTS: [{**who, **about}]}
    for path, system, letters in (
        (_ICD10, ICD10CM, _ICD10_CHAPTERS),
        (_ATC, ATC, _ATC_GROUPS),
    ):
        cells = {
            f"{system} {letter}": " ".join(
                code for told, code in codes if told == system and code[0] == letter
            )
            for letter in letters
        }
        tables[path] = [{**who, **{n: cell or None for n, cell in cells.items()}}] * bool(events)
    return tables


def write_data_set(out: Path, config: SimulationConfig) -> tuple[str, ...]:
    """Write the tables, from the parts in `out`; return their paths."""
    tables: dict[str, Schema] = {
        _PATIENTS: {**_WHO, **_ABOUT},
        _ICD10: {**_WHO, **{f"{ICD10CM} {c}": pl.String for c in _ICD10_CHAPTERS}},
        _ATC: {**_WHO, **{f"{ATC} {c}": pl.String for c in _ATC_GROUPS}},
    }
    for number, site in enumerate(_sites(config)):
        spell = _SPELLINGS[number % len(_SPELLINGS)]
        tables[_visits_path(site)] = {spell(name): kind for name, kind in _VISITS.items()}
        tables[_reads_path(site)] = _READS
    return write_tables(out, tables, config.n_patients)


def _sites(config: SimulationConfig) -> list[str]:
    return list(load_hospital(config.hospital).sites)[: config.n_sites]


def _visits_path(site: str) -> str:
    return f"EEG/eeg-metadata/{site}_eeg_metadata_{_RELEASE}.csv"


def _reads_path(site: str) -> str:
    return f"EEG/HEEDB_Metadata/{site}_EEG__reports_findings.csv"
