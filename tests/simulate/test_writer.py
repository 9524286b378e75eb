"""The simulated hospital on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import edfio
import mne
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from meds import CodeMetadataSchema, DataSchema, DatasetMetadataSchema

from openclef.artefact import hash_file, load
from openclef.errors import ArtefactError
from openclef.simulate import SimulationConfig, simulate
from openclef.types import CHANNELS

CONFIG = SimulationConfig(n_patients=8, seed=5, duration_s=60, second_session_share=0.4)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "hospital"
    simulate(out, config=CONFIG, n_workers=2, progress=False)
    return out


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    # The manifest names library versions, the same here, so it is compared as well.
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def table(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, separator="\t", null_values="n/a")


def test_it_is_a_complete_artefact(hospital: Path) -> None:
    artefact = load(hospital, kind="simulation")
    assert "meds/data/0.parquet" in artefact.manifest()["outputs"]
    assert SimulationConfig(**artefact.config) == CONFIG


def test_run_again_does_nothing_and_another_configuration_is_refused(hospital: Path) -> None:
    before = contents(hospital)
    simulate(hospital, config=CONFIG, progress=False)
    assert contents(hospital) == before
    with pytest.raises(ArtefactError, match="seed"):
        simulate(hospital, config=CONFIG.model_copy(update={"seed": 6}), progress=False)


def test_killed_and_resumed_gives_the_same_bytes_with_one_worker(
    hospital: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hospital"
    script = (
        "import sys; from pathlib import Path; from openclef.simulate import *\n"
        "if __name__ == '__main__':\n"
        "    config = SimulationConfig.model_validate_json(sys.argv[2])\n"
        "    simulate(Path(sys.argv[1]), config=config, n_workers=1, progress=False)\n"
    )
    arguments = [sys.executable, "-c", script, str(out), CONFIG.model_dump_json()]
    process = subprocess.Popen(arguments, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("sub-*/ses-*/eeg/*.edf")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = min(out.glob("sub-*/ses-*/eeg/*.edf"), key=lambda path: path.name)
    made_at = first.stat().st_mtime_ns
    assert not (out / "manifest.json").exists()
    (first.parent / f".{first.name}.1.tmp").write_bytes(b"cut short")

    simulate(out, config=CONFIG, n_workers=1, progress=False)

    assert first.stat().st_mtime_ns == made_at
    assert contents(out) == contents(hospital)


def test_edf_reads_back_in_microvolts_and_names_nobody(hospital: Path) -> None:
    paths = sorted(hospital.glob("sub-*/ses-*/eeg/*.edf"))
    assert len(paths) >= 8
    for path in paths[:4]:
        edf = edfio.read_edf(path)
        assert edf.duration == 60
        assert {s.physical_dimension for s in edf.signals} == {"uV"}
        assert {s.sampling_frequency for s in edf.signals} == {200}
        assert edf.patient.code == "X"
        assert edf.patient.name == "X"
        assert edf.patient.sex == "X"
        subject, session = path.name.split("_")[:2]
        sessions = table(hospital / subject / f"{subject}_sessions.tsv")
        acquired = sessions.filter(pl.col("session_id") == session)["acq_time"].item()
        assert f"{edf.startdate}T{edf.starttime}" == acquired
        raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
        volts_CS = raw.get_data()
        np.testing.assert_allclose(
            volts_CS[3] * 1e6, edf.signals[3].data, atol=1e-3, err_msg=str(session)
        )
        rms_uv = 1e6 * np.median(volts_CS.std(axis=1))
        assert 1 < rms_uv < 100


def test_sites_spell_channels_their_own_way(hospital: Path) -> None:
    first = table(next(hospital.glob("sub-0001/ses-01/eeg/*_channels.tsv")))
    second = table(next(hospital.glob("sub-0002/ses-01/eeg/*_channels.tsv")))
    assert first["name"].to_list() == [f"EEG {name}-REF" for name in CHANNELS]
    assert second["name"].to_list() == list(CHANNELS)
    assert set(first["units"]) == {"uV"}
    assert set(first["status"]) <= {"good", "bad"}


def test_tables_have_one_row_a_patient_or_session(hospital: Path) -> None:
    participants = table(hospital / "participants.tsv")
    findings = table(hospital / "phenotype" / "eeg_findings.tsv")
    n_sessions = len(list(hospital.glob("sub-*/ses-*/eeg/*.edf")))
    assert participants.columns == [
        "participant_id", "meds_subject_id", "age", "sex", "race", "site",
    ]  # fmt: skip
    assert participants.height == CONFIG.n_patients
    assert findings.height == n_sessions > CONFIG.n_patients
    assert findings.width == 2 + 15
    assert findings["lrda"].null_count() == n_sessions
    for name in ("sleep", "abnormal"):
        assert set(findings[name].drop_nulls()) <= {0, 1}
    truth = pl.read_parquet(hospital / "truth" / "sessions.parquet")
    assert truth.height == n_sessions


def test_reports_belong_to_sessions_and_some_are_missing(tmp_path: Path) -> None:
    config = SimulationConfig(n_patients=3, duration_s=10, no_report_share=1.0)
    simulate(tmp_path / "silent", config=config, n_workers=1, progress=False)
    assert not (tmp_path / "silent" / "reports").exists()
    findings = table(tmp_path / "silent" / "phenotype" / "eeg_findings.tsv")
    assert findings["abnormal"].null_count() == findings.height


def test_each_report_is_named_by_its_session(hospital: Path) -> None:
    reports = list((hospital / "reports").glob("*.txt"))
    assert reports
    for report in reports:
        subject, session = report.name.split("_")[:2]
        assert list((hospital / subject / session / "eeg").glob("*.edf"))


def test_meds_is_valid_sorted_and_linked_to_the_recordings(hospital: Path) -> None:
    data = pq.read_table(hospital / "meds" / "data" / "0.parquet")
    DataSchema.validate(data)
    events = pl.from_arrow(data)
    assert isinstance(events, pl.DataFrame)
    keys = events.select("subject_id", "time")
    assert keys.equals(keys.sort("subject_id", "time", nulls_last=False))
    for uri in events["eeg_uri"].drop_nulls():
        assert (hospital / uri).exists()
    eeg = events.filter(pl.col("eeg_uri").is_not_null())["code"]
    assert set(eeg) <= {"EEG//ROUTINE", "EEG//LTM", "EEG//EMU", "EEG//ICU"}
    codes = pq.read_table(hospital / "meds" / "metadata" / "codes.parquet")
    CodeMetadataSchema.validate(codes)
    assert set(events["code"]) == set(codes["code"].to_pylist())
    metadata = json.loads((hospital / "meds" / "metadata" / "dataset.json").read_text())
    DatasetMetadataSchema.validate(metadata)
    assert metadata["additional_value_modality_columns"] == ["eeg_uri"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="not empty"):
        simulate(tmp_path, config=CONFIG, progress=False)
