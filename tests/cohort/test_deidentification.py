"""Names, dates and free text planted wherever a hospital writes them, and looked for after."""

import datetime
import json
import os
import shutil
from pathlib import Path

import edfio
import numpy as np
import polars as pl
import pytest
from cohorts import COMMAND, Here, edf_signals, read, start
from trees import write_text, write_tsv

from openclef.cohort import ingest as ingest_module
from openclef.cohort import session, tables
from openclef.cohort.deidentify import date_shift
from openclef.signal import montage

# In headers, sidecars, tables and reports: nowhere in a cohort, nor on the terminal.
SECRETS = (
    "Quackenbush", "Zebulon", "MRN7712345", "02-MAR-1920", "1920-03-02", "02/03/1920", "ADMIN9931",
    "Featherstone", "Wimbledon", "VentureMed", "coughs", "Bellweather", "Nightshade",
)  # fmt: skip
# In the names of files and folders: in the columns `path` of these tables, and in the index.
NAMED = "pathname77"
PATH_COLUMNS = {
    "index.parquet": {"path", "subject", "report_path"}, "sessions.parquet": {"path"},
    "errors.parquet": {"path"},
}  # fmt: skip
START = datetime.datetime(2011, 3, 1, 9, 30)


def write_recording(path: Path, *, label: str = "Quackenbush", seed: int = 0) -> None:
    """EDF+ with a name in each field that takes one."""
    signals = edf_signals(8, labels=("EEG Fp1-REF", "EEG O1-REF", label), seed=seed)
    for signal in signals:
        signal.transducer_type = "Bellweather cap"
        signal.prefiltering = "by Nightshade"
    path.parent.mkdir(parents=True, exist_ok=True)
    edfio.Edf(
        signals,
        patient=edfio.Patient(
            code="MRN7712345", sex="F", birthdate=datetime.date(1920, 3, 2),
            name="Zebulon_Quackenbush", additional=("VentureMed",),
        ),
        recording=edfio.Recording(
            startdate=START.date(), hospital_administration_code="ADMIN9931",
            investigator_technician_code="Dr_Featherstone", equipment_code="VentureMed",
        ),
        starttime=START.time(),
        annotations=[edfio.EdfAnnotation(1, 2, "Quackenbush coughs")],
    ).write(path)  # fmt: skip


@pytest.fixture(scope="module")
def hospital_of_secrets(tmp_path_factory):
    """BIDS: 6 patients that read, and 5 whose files fail in ways that may quote what they hold."""
    root = tmp_path_factory.mktemp("secrets") / "bids"
    people, sessions = [], [f"sub-{NAMED}x{i}" for i in range(11)]
    for i, name in enumerate(sessions):
        stem = root / name / "eeg" / f"{name}_task-rest"
        edf = Path(f"{stem}_eeg.edf")
        write_recording(edf, seed=i)
        write_text(Path(f"{stem}_eeg.json"), '{"InstitutionName": "Bellweather", "x": "Zebulon"}')
        channels = [{"name": c, "units": "uV", "status": "good"} for c in ("Fp1", "Quackenbush")]
        write_tsv(Path(f"{stem}_channels.tsv"), channels)
        write_tsv(Path(f"{stem}_events.tsv"), [{"onset": 1, "trial_type": "Quackenbush coughs"}])
        people.append(
            {
                "participant_id": name, "meds_subject_id": 500 + i, "sex": "F",
                "age": 93 if i else 41, "patient_name": "Zebulon Quackenbush", "group": "ab"[i % 2],
            }
        )  # fmt: skip
        write_text(
            root / "reports" / f"{name}_report.txt",
            """
            PATIENT: Zebulon Quackenbush
            DOB: 02/03/1920   MRN: MRN7712345
            TECHNOLOGIST: Penelope Wimbledon
            HISTORY: Zebulon coughs.
            FINDINGS: Slowing.
            Signed by: Dr Featherstone
            """,
        )
    broken = [next((root / name / "eeg").glob("*.edf")) for name in sessions[6:]]
    write_recording(broken[0], label="Quackenbush")
    only = edf_signals(8, labels=("Quackenbush Z",))
    edfio.Edf(only).write(broken[0])  # no electrode
    damage(broken[1], at=256 + 4 * 216, text=b"Zebulon ")  # samples in a record
    damage(broken[2], at=236, text=b"Zebulon ")  # number of records
    broken[2].write_bytes(broken[2].read_bytes()[:1300])
    broken[3].with_suffix(".vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\n"
        "DataFile=Quackenbush.eeg\nMarkerFile=Zebulon.vmrk\n"
    )
    broken[3].unlink()
    broken[4].with_name(broken[4].name.replace("_eeg.edf", "_channels.tsv")).write_text(
        "label\tunits\nQuackenbush\tuV\n"
    )
    write_tsv(root / "participants.tsv", people)
    day = [datetime.datetime(1920, 3, 2), START]
    events = pl.DataFrame(
        {"subject_id": [500, 500], "time": day, "code": ["MEDS_BIRTH", "ICD10CM//G40.909"],
         "text_value": ["Zebulon", "Quackenbush"]},
    )  # fmt: skip
    (root / "meds" / "data").mkdir(parents=True)
    events.write_parquet(root / "meds" / "data" / "0.parquet")
    return root


def damage(path: Path, *, at: int, text: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[at : at + len(text)] = text
    path.write_bytes(raw)


def leaks(out: Path) -> set[tuple[str, str]]:
    """(file or file:column, what was found there), over raw bytes and decoded tables."""
    found = set()
    for path in (path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        raw = path.read_bytes().lower()
        found |= {(name, secret) for secret in SECRETS if secret.lower().encode() in raw}
        if name not in PATH_COLUMNS and NAMED.encode() in raw:
            found.add((name, NAMED))
        if path.suffix == ".parquet":
            for column in pl.read_parquet(path).iter_columns():
                text = json.dumps(column.to_list(), default=str).lower()
                where = f"{name}:{column.name}"
                found |= {(where, secret) for secret in SECRETS if secret.lower() in text}
                if column.name not in PATH_COLUMNS.get(name, ()) and NAMED in text:
                    found.add((where, NAMED))
    return found


@pytest.fixture(scope="module")
def run_of_secrets(hospital_of_secrets, tmp_path_factory):
    """The command with its progress bar as on a terminal: the cohort, and all that was shown."""
    out = tmp_path_factory.mktemp("run") / "cohort"
    terminal = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "200"}
    with start(COMMAND, "ingest", hospital_of_secrets, out, env=terminal) as process:
        shown = "".join(process.communicate())
    assert process.returncode == 0, shown
    return out, shown


def test_nothing_planted_reaches_an_artefact(run_of_secrets):
    out, _ = run_of_secrets
    assert leaks(out) == set()
    assert pl.read_parquet(out / "sessions.parquet").height == 6
    assert set(pl.read_parquet(out / "reports.parquet")["text"]) == {"Slowing."}


def test_what_failed_is_told_without_its_words(run_of_secrets):
    errors = pl.read_parquet(run_of_secrets[0] / "errors.parquet")
    assert errors.height == 5
    assert errors["path"].str.contains(NAMED).all()
    assert errors["message"].str.len_chars().min() > 10


def test_nothing_planted_nor_a_path_of_the_data_set_is_shown(run_of_secrets, hospital_of_secrets):
    _, shown = run_of_secrets
    assert "reading recordings" in shown
    assert "\x1b[" in shown  # the bar moved
    for secret in (*SECRETS, NAMED, str(hospital_of_secrets)):
        assert secret.lower() not in shown.lower()


def test_times_are_shifted_by_patient_and_ages_pooled(run_of_secrets, hospital_of_secrets):
    out, _ = run_of_secrets
    sessions = pl.read_parquet(out / "sessions.parquet")
    key = bytes.fromhex(os.environ["OPENCLEF_SITE_KEY"])
    shifts = []
    for path, start_time in sessions["path", "start_time"].iter_rows():
        subject = path.split("/")[0]
        shifts.append(start_time - START)
        assert shifts[-1] == date_shift(subject, key=key)
        assert datetime.timedelta(days=-3650) <= shifts[-1] <= datetime.timedelta(days=-1)
    assert len(set(shifts)) > 1
    assert sessions["age"].to_list() == [41.0] + [90.0] * 5
    events = pl.read_parquet(out / "ehr" / "data" / "**" / "*.parquet").sort("code")
    assert events["time"].to_list() == [START + shifts[0], None]  # over 89 by its own record


def test_records_and_sessions_are_shifted_alike(finished_run, hospital):
    cohort = finished_run / "cohort"
    ours = pl.read_parquet(cohort / "ehr" / "data" / "**" / "*.parquet")
    theirs = pl.read_parquet(hospital / "meds" / "data" / "**" / "*.parquet")
    subject = ours.filter(pl.col("code").str.starts_with("ICD10CM"))["subject_id"][0]

    def times(frame):
        rows = frame.filter((pl.col("subject_id") == subject) & pl.col("time").is_not_null())
        return rows.sort("time", "code")["time"]

    shift = times(theirs) - times(ours)
    assert shift.n_unique() == 1
    assert shift[0].days >= 1
    sessions = pl.read_parquet(cohort / "sessions.parquet")
    session = sessions.filter(pl.col("subject_id") == subject).row(0, named=True)
    start_time = edfio.read_edf(hospital / session["path"]).startdatetime
    assert start_time - session["start_time"] == shift[0]


def test_identifiers_stay_out_of_everything_but_the_paths(finished_run):
    for path in [*finished_run.rglob("*.json*"), *finished_run.rglob("*.html")]:
        assert b"sub-" not in path.read_bytes(), path
    for name in ("windows", "labels", "findings", "codes", "reports"):
        assert b"sub-0" not in (finished_run / "cohort" / f"{name}.parquet").read_bytes(), name


@pytest.mark.parametrize(
    ("module", "name", "without", "leak"),
    [
        (session, "_nameless", lambda text, _: text, ("errors.parquet:message", NAMED)),
        (montage, "shown_label", lambda label, _: label,
         ("sessions.parquet:quality", "Quackenbush")),
        (tables, "electrographic_text", lambda text: text, ("reports.parquet:text", "Wimbledon")),
    ],
)  # fmt: skip
def test_the_search_finds_what_gets_through_without_a_protection(
    hospital_of_secrets, tmp_path, monkeypatch, module, name, without, leak
):
    monkeypatch.setattr(module, name, without)
    read(hospital_of_secrets, tmp_path / "cohort", engine=Here())
    assert leak in leaks(tmp_path / "cohort")
    shutil.rmtree(tmp_path / "cohort")


def test_the_search_finds_a_date_that_was_not_shifted(hospital_of_secrets, tmp_path, monkeypatch):
    monkeypatch.setattr(ingest_module, "date_shift", lambda *_, **__: datetime.timedelta(0))
    cohort = read(hospital_of_secrets, tmp_path / "cohort", engine=Here())
    assert START in cohort.sessions["start_time"].to_list()


def test_a_spectrogram_holds_no_metadata_but_its_shape(run_of_secrets):
    told = json.loads((run_of_secrets[0] / "spectrograms" / "zarr.json").read_text())
    assert told["attributes"] == {}
    assert np.prod(told["shape"]) == 6 * 19 * 128 * 1280


def test_a_sidecar_without_its_header_row_is_not_quoted(hospital_of_secrets, tmp_path):
    root = shutil.copytree(hospital_of_secrets, tmp_path / "bids")
    for table in root.rglob("*_channels.tsv"):
        table.write_text("Quackenbush\tuV\n")
        break
    read(root, tmp_path / "cohort", engine=Here())
    assert leaks(tmp_path / "cohort") == set()
