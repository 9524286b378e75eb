"""Small data sets of each archive's shape, with real EDFs inside (paper.md, Data sets).

`make_tree(layout, root)` writes one and returns `root`. Each has at least 8 patients, enough for
four splits, whose EEG is noise of some 20 uV. What a tree holds beside that is told by its
function: the tests of the layouts count on it.
"""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import polars as pl
from scipy.signal import lfilter

from openclef.types import CHANNELS

SFREQ_HZ = 200
DURATION_S = 8
TUH_REF = [f"EEG {name.upper()}-REF" for name in CHANNELS]
TUH_LE = [f"EEG {name.upper()}-LE" for name in CHANNELS]
PSG = ["F3-M2", "F4-M1", "C3-M2", "C4-M1", "O1-M2", "O2-M1", "E1-M2", "E2-M1", "Chin1-Chin2", "ECG"]


def write_edf(
    path: Path,
    labels: Sequence[str] = CHANNELS,
    *,
    seed: int = 0,
    patient: edfio.Patient | None = None,
) -> None:
    """Write 8 s of noise whose spectrum falls as EEG does, 20 uV, 200 Hz."""
    rng = np.random.default_rng([seed, *path.name.encode()])
    white = rng.standard_normal((len(labels), SFREQ_HZ * (DURATION_S + 1)))
    noise = lfilter([1.0], [1.0, -0.95], white, axis=1)[:, SFREQ_HZ:]
    noise_uv = np.clip(20 * noise / noise.std(axis=1, keepdims=True), -500, 500)
    signals = [
        edfio.EdfSignal(
            row, SFREQ_HZ, label=label, physical_dimension="uV", physical_range=(-500, 500)
        )
        for label, row in zip(labels, noise_uv, strict=True)
    ]
    recording = edfio.Recording(startdate=datetime.date(2011, 3, 1 + seed % 28))
    path.parent.mkdir(parents=True, exist_ok=True)
    edfio.Edf(signals, patient=patient, recording=recording, starttime=datetime.time(9, 30)).write(
        path
    )


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a BIDS table."""
    table = pl.DataFrame(rows, infer_schema_length=None)
    table.write_csv(path, separator="\t", null_value="n/a")


def write_text(path: Path, text: str) -> None:
    """Write a text without the indent it has in this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).strip() + "\n")


def make_tree(layout: str, root: Path) -> Path:
    """Write the data set of a layout below `root`."""
    _MAKERS[layout](root)
    return root


def _bids(root: Path) -> None:
    """8 patients, p0 with two sessions, p1 with two runs; p6 not in the table, p7 no record.

    p0's first session has a report, and Fz marked bad; p0-p3 are `case`, p4, p5, p7 `control`.
    """
    people, findings = [], []
    for i in range(8):
        name = f"sub-p{i}"
        sessions = ["ses-1", "ses-2"] if i == 0 else ["ses-1"]
        runs = ["_run-1", "_run-2"] if i == 1 else [""]
        stems = [
            f"{name}/{session}/eeg/{name}_{session}_task-rest{run}"
            for session in sessions
            for run in runs
        ]
        for stem in stems:
            write_edf(root / f"{stem}_eeg.edf", seed=i)
            told = [(c, "bad" if c == "Fz" else "good") for c in CHANNELS]
            channels = [{"name": c, "type": "EEG", "units": "uV", "status": s} for c, s in told]
            write_tsv(root / f"{stem}_channels.tsv", channels)
        visits = [
            {"session_id": session, "age": 30 + i + 2 * n, "setting": "routine"}
            for n, session in enumerate(sessions)
        ]
        write_tsv(root / name / f"{name}_sessions.tsv", visits)
        findings.append(
            {"participant_id": name, "session_id": "ses-1", "spikes": i % 2, "sleep": None}
        )
        if i != 6:
            people.append(
                {
                    "participant_id": name,
                    "meds_subject_id": None if i == 7 else 100 + i,
                    "sex": "F" if i % 2 else "M",
                    "group": "case" if i < 4 else "control",
                }
            )
    write_tsv(root / "participants.tsv", people)
    (root / "phenotype").mkdir()
    write_tsv(root / "phenotype" / "eeg_findings.tsv", findings)
    write_text(root / "reports" / "sub-p0_ses-1_report.txt", "FINDINGS: Spikes.")
    day = datetime.datetime(2011, 1, 1)
    codes = ["ICD10CM//G40.909", "ATC//N03AX14"]
    events = pl.DataFrame({"subject_id": [100, 101], "time": [day, day], "code": codes})
    (root / "meds" / "data").mkdir(parents=True)
    events.write_parquet(root / "meds" / "data" / "0.parquet")


HEEDB_SITES = {"S0001": [1, 2, 3, 4], "S0002": [4, 5, 6], "I0008": [7, 8, 9]}
HEEDB_METADATA_S0001 = "EEG/eeg-metadata/S0001_eeg_metadata_2025_01_15.csv"
HEEDB_FINDINGS_S0001 = "EEG/HEEDB_Metadata/S0001_EEG__reports_findings.csv"
HEEDB_ICD10 = "EEG/HEEDB_Metadata/HEEDB_ICD10_for_Neurology.csv"
HEEDB_ATC = "EEG/HEEDB_Metadata/HEEDB_Medication_ATC.csv"
_HEEDB_TABLES = {
    HEEDB_METADATA_S0001: """
        SiteID,BDSPPatientID,BidsFolder,SessionID,StartTime,ServiceName,AgeAtVisit,SexDSC
        S0001,1,sub-S00011,1,,Routine,40,Female
        S0001,1,sub-S00011,2,,LTM,41,Female
        S0001,1,sub-S00011,9,,EMU,42,Female
        S0001,3,sub-S00013,1,,OR,95,Female
        S0001,4,sub-S00014,1,,EMU,,Female
        """,
    "EEG/eeg-metadata/S0001_eeg_metadata_2024_12_31.csv": """
        SiteID,BDSPPatientID,BidsFolder,SessionID,ServiceName,AgeAtVisit,SexDSC
        S0001,1,sub-S00011,1,EMU,1,Male
        """,
    "EEG/eeg-metadata/S0002_eeg_metadata_20250115.csv": """
        Site ID,BDSP_patient_id,Bids Folder,session_id,Service Name,age at visit,Sex DSC
        S0002,,sub-S00024,01,ICU,50.5,M
        S0002,,sub-S00025,01,ICU,50.5,M
        S0002,,sub-S00026,01,ICU,50.5,M
        """,
    "EEG/eeg-metadata/I0008_eeg_metadata_2025_01_15.csv": """
        InstituteID,BDSPPatientID,BidsFolder,SessionID,StartDateTime,DateOfBirth,SexDSC
        X,7.0,,1.0,2010-07-01 10:00:00,1980-07-01,U
        X,8.0,,1.0,2010-07-01 10:00:00,1980-07-01,U
        X,9.0,,1.0,2010-07-01 10:00:00,1980-07-01,U
        """,
    HEEDB_FINDINGS_S0001: """
        BDSPPatientID,SessionID,AgeAtVisit,SexDSC,DeidentifiedName(Reports),normal,abnormal,N2,n2
        1,1,70,Male,NeuroReport_11_22_20110301.txt,,report,,
        1,1,70,Male,NeuroReport_11_22_20110301.txt,,,annotation,
        2,1,70,Male,,report,,,report verified
        4,1,70,Male,gone.txt,,report,,
        """,
    "EEG/HEEDB_Metadata/S0002_EEG__reports_findings.csv": """
        SiteID,BDSPPatientID,SessionID,ServiceName(EEG),vertex wave,gen slowing
        S0002,5,1,Routine,report,report annotation
        """,
    "EEG/HEEDB_Metadata/HEEDB_patients.csv": """
        SiteID,BDSPPatientID,Sex,AgeAtVisitAvg,RaceAndEthnicity,RaceAndEthnicityDSC,HasEEG
        S0001,2,Female,33.0,2,Asian,Y
        S0001,4,Female,33.0,2,Asian,Y
        I0008,7,Female,33.0,2,Asian,Y
        """,
    HEEDB_ICD10: """
        SiteID,BDSPPatientID,SexDSC,VisitCount,Epilepsy,Cerebrovascular Diseases,Score
        S0001,1,Female,3,G40.909 G40209,,7
        S0001,2,Female,3,,,7
        S0001,4,Female,3,0,I63.9,7
        S0002,5,Female,3,G40.3,,7
        """,
    HEEDB_ATC: """
        BDSPPatientID,Nervous System Drugs
        1,N03AX14 N05BA01
        3,
        """,
    "Neurology_Reports/2011/NeuroReport_11_22_20110301.txt": "IMPRESSION: Slowing.",
    "Neurology_Reports/2011/sub-S00025_ses-1_20110301.txt": "IMPRESSION: Normal.",
}


def _heedb(root: Path) -> None:
    """Three sites with headers of their own; patients 1-4 at S0001, 4-6 at S0002, 7-9 at I0008.

    Patient 1 has two sessions (the second a cEEG), 4 is seen at two sites. Of S0001's two tables
    one is older; patient 2 lacks a row there, and session 9 of patient 1 a recording. S0002 leaves
    BDSPPatientID blank. I0008 has no findings. Reports: patient 1's is named in the findings, 5's
    names its session itself, 4's is not there.
    """
    for site, patients in HEEDB_SITES.items():
        for patient in patients:
            for session in (1, 2) if patient == 1 else (1,):
                task = "cEEG" if session == 2 else "EEG"
                folder = f"sub-{site}{patient}"
                name = f"{folder}_ses-{session}_task-{task}_eeg.edf"
                path = root / "EEG" / "bids" / site / folder / f"ses-{session}" / "eeg" / name
                write_edf(path, [c.upper() for c in CHANNELS], seed=patient)
    for name, text in _HEEDB_TABLES.items():
        write_text(root / name, text)


def _hsp(root: Path) -> None:
    """8 patients, the last without a row; odd ones diagnostic; annotations beside them."""
    rows = []
    for patient in range(1, 9):
        folder = f"sub-S0001{patient}"
        stem = f"PSG/bids/S0001/{folder}/ses-1/eeg/{folder}_ses-1_task-psg"
        write_edf(root / f"{stem}_eeg.edf", PSG, seed=patient)
        stages = "epoch,time,duration,event\n1,22:00:00,30,Sleep_stage_N2"
        write_text(root / f"{stem}_annotations.csv", stages)
        study = "Diagnostic" if patient % 2 else "Split Night"
        rows.append(f"S0001,{patient},{folder},1,{20 + patient},Male,{study}")
    header = "SiteID,BDSPPatientID,BidsFolder,SessionID,AgeAtVisit,SexDSC,StudyType"
    table = root / "PSG" / "metadata" / "bdsp_psg_master_20231101.csv"
    write_text(table, "\n".join([header, *rows[:-1]]))


def tuh_patient(name: str, sex: str, age: int) -> edfio.Patient:
    """The EDF patient field as TUH writes it: `aaaaaaab F 01-JAN-1970 aaaaaaab Age:55`."""
    return edfio.Patient(
        code=name, sex=sex, birthdate=datetime.date(1970, 1, 1), name=name,
        additional=(f"Age:{age}",),
    )  # fmt: skip


def _tuab(root: Path) -> None:
    """10 patients: 6 in train, 4 in eval, half of each abnormal, aged 30 to 39; aaaaaaaa twice."""
    for i in range(10):
        part = "train" if i < 6 else "eval"
        label = "abnormal" if i % 2 else "normal"
        name = "aaaaaaa" + "abcdefghij"[i]
        for session in ("s001", "s003") if i == 0 else ("s001",):
            write_edf(
                root / "edf" / part / label / "01_tcp_ar" / f"{name}_{session}_t000.edf",
                TUH_REF,
                seed=i,
                patient=tuh_patient(name, "F" if i % 2 else "M", 30 + i),
            )


def _tuep(root: Path) -> None:
    """8 patients, 4 with epilepsy; the first has two sessions, one of them `-LE`; ages 999."""
    for i in range(8):
        folder = "00_epilepsy" if i < 4 else "01_no_epilepsy"
        name = "aaaaaaa" + "abcdefgh"[i]
        montages = [("s001_2003", "01_tcp_ar", TUH_REF)]
        if i == 0:
            montages.append(("s002_2005", "02_tcp_le", TUH_LE))
        for session, montage, labels in montages:
            write_edf(
                root / folder / name / session / montage / f"{name}_{session[:4]}_t000.edf",
                labels,
                seed=i,
                patient=tuh_patient(name, "F", 999),
            )


def _challenge2026(root: Path) -> None:
    """8 patients at two sites, even ones impaired but the last, who is unknown; annotation EDFs.

    The table lists a ninth, whose recording is not there.
    """
    rows = []
    for patient in range(1, 10):
        site = "S0001" if patient < 5 else "I0002"
        folder = f"sub-{site}{patient}"
        impaired = "" if patient == 8 else str(patient % 2 == 0)
        race = "White" if patient % 2 else "Unavailable"
        rows.append(f"{site},{patient},{folder},1.0,{60 + patient}.0,Female,{race},,{impaired}")
        if patient < 9:
            name = f"{folder}_ses-1"
            write_edf(root / "physiological_data" / site / f"{name}.edf", PSG, seed=patient)
            annotations = root / "algorithmic_annotations" / site / f"{name}_caisr_annotations.edf"
            write_edf(annotations, ["stage_caisr"], seed=patient)
    header = (
        "SiteID,BDSPPatientID,BidsFolder,SessionID,Age,Sex,Race,Time_to_Event,Cognitive_Impairment"
    )
    write_text(root / "demographics.csv", "\n".join([header, *rows]))


def _folder(root: Path) -> None:
    """8 patients, p0 with two files; half of them `Epilepsy`, the others `Control`."""
    rows = []
    for i in range(9):
        write_edf(root / "recordings" / f"{i}.edf", seed=i)
        diagnosis = "Epilepsy" if i % 8 % 2 else "Control"
        rows.append(f"p{i % 8},recordings/{i}.edf,{30 + i % 8},{'FM'[i % 8 % 2]},{diagnosis}")
    write_text(root / "labels.csv", "\n".join(["subject,file,age,sex,diagnosis", *rows]))


_MAKERS = {
    "bids": _bids,
    "heedb": _heedb,
    "hsp": _hsp,
    "tuab": _tuab,
    "tuep": _tuep,
    "challenge2026": _challenge2026,
    "folder": _folder,
}
