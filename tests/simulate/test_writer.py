"""The simulated hospital on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import mne_bids
import polars as pl
import pyarrow.parquet as pq
import pytest
from meds import CodeMetadataSchema, DataSchema, DatasetMetadataSchema

from openclef import artefact
from openclef.artefact import hash_file, load
from openclef.clinical import FINDINGS
from openclef.clinical.findings import HEEDB_FLAGS
from openclef.errors import ArtefactError, OpenclefError
from openclef.signal import open_recording
from openclef.simulate import (
    SimulationConfig,
    expected_recordings,
    make_recording,
    simulate,
    writer,
)
from openclef.simulate.eeg.events import events_table
from openclef.simulate.eeg.session import draw_truth
from openclef.simulate.parameters import load_hospital
from openclef.simulate.people import draw_patient
from openclef.types import CHANNELS

# A seed with a session without a report and a patient without a record.
CONFIG = SimulationConfig(n_patients=7, seed=22, n_sites=4, shortest_s=10, longest_s=14)


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


def recordings(folder: Path) -> list[Path]:
    return sorted(folder.glob("sub-*/ses-*/eeg/*_eeg.edf"))


def test_it_is_a_complete_artefact_that_names_its_generator(hospital: Path) -> None:
    made = load(hospital, kind="simulation")
    outputs = set(made.manifest()["outputs"])
    assert {"participants.tsv", "meds/data/0.parquet", "truth/events/00000.parquet"} <= outputs
    assert SimulationConfig(**made.config["simulation"]) == CONFIG
    assert len(made.config["generator"]) == 64
    assert made.config["recordings"] == "on disk"
    assert not [path for path in contents(hospital) if ".parts" in path or ".tmp" in path]


@pytest.mark.usefixtures("in_process")
def test_run_again_does_nothing_and_other_work_is_refused(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(hospital)
    simulate(hospital, config=CONFIG, progress=False)
    assert contents(hospital) == before
    with pytest.raises(ArtefactError, match=r"seed: 22 there, 6 asked"):
        simulate(hospital, config=CONFIG.model_copy(update={"seed": 6}), progress=False)
    with pytest.raises(ArtefactError, match="'on disk' there, 'on demand' asked"):
        simulate(hospital, config=CONFIG, progress=False, recordings=False)
    monkeypatch.setattr(writer, "generator_hash", lambda: "another")
    with pytest.raises(ArtefactError, match="'another' asked"):
        simulate(hospital, config=CONFIG, progress=False)
    with pytest.raises(ArtefactError, match="another version of the simulator"):
        make_recording(hospital, recordings(hospital)[0].relative_to(hospital).as_posix())


SCRIPT = (
    "import sys; from pathlib import Path; from openclef.simulate import *\n"
    "if __name__ == '__main__':\n"
    "    config = SimulationConfig.model_validate_json(sys.argv[2])\n"
    "    shard = tuple(map(int, sys.argv[3:])) or None\n"
    "    simulate(Path(sys.argv[1]), config=config, n_workers=1, progress=False, shard=shard)\n"
)


def command(out: Path, *shard: int) -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(out), CONFIG.model_dump_json(), *map(str, shard)]


@pytest.mark.usefixtures("in_process")
def test_killed_and_resumed_gives_the_same_bytes_with_one_worker(
    hospital: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hospital"
    process = subprocess.Popen(command(out), start_new_session=True)
    deadline = time.monotonic() + 60
    while not recordings(out) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = recordings(out)[0]
    made_at = first.stat().st_mtime_ns
    assert not (out / "manifest.json").exists()
    (first.parent / f".{first.name}.1.tmp").write_bytes(b"cut short")

    simulate(out, config=CONFIG, progress=False)

    assert first.stat().st_mtime_ns == made_at
    assert contents(out) == contents(hospital)


@pytest.mark.usefixtures("in_process")
def test_shards_together_are_the_whole(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "hospital"
    assert not simulate(out, config=CONFIG, progress=False, shard=(2, 3)).is_complete
    assert not simulate(out, config=CONFIG, progress=False, shard=(1, 3)).is_complete
    assert len({path.name[:9] for path in recordings(out)}) == 5
    assert simulate(out, config=CONFIG, progress=False, shard=(3, 3)).is_complete
    assert contents(out) == contents(hospital)


def test_shards_at_the_same_time_are_the_whole(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "hospital"
    shards = [subprocess.Popen(command(out, i, 2)) for i in (1, 2)]
    assert [shard.wait(60) for shard in shards] == [0, 0]
    assert contents(out) == contents(hospital)


@pytest.mark.usefixtures("in_process")
def test_a_shard_that_finds_the_parts_taken_away_by_another_is_content(tmp_path: Path) -> None:
    out = tmp_path / "hospital"
    config = CONFIG.model_copy(update={"n_patients": 2})
    made = simulate(out, config=config, progress=False)
    writer._finish(made, config, recordings=True)
    (out / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError):
        writer._finish(made, config, recordings=True)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_is_none_is_refused(tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(OpenclefError, match="allowed are"):
        simulate(tmp_path / "out", config=CONFIG, progress=False, shard=shard)
    assert not (tmp_path / "out").exists()


def test_more_sites_than_the_hospital_has_are_refused(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"n_sites": 9})
    with pytest.raises(OpenclefError, match="hospital v1 has 4"):
        simulate(tmp_path / "out", config=config, progress=False)


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = SimpleNamespace(free=100_000)
    monkeypatch.setattr(artefact.shutil, "disk_usage", lambda path: free)
    with pytest.raises(ArtefactError, match="of disk"):
        simulate(tmp_path / "out", config=CONFIG)
    assert not (tmp_path / "out").exists()
    assert "7 patients to make" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_without_recordings_each_is_made_when_asked_for(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "hospital"
    simulate(out, config=CONFIG, progress=False, recordings=False)
    expected = expected_recordings(out)
    there = {p.relative_to(hospital).as_posix(): p.stat().st_size for p in recordings(hospital)}
    assert recordings(out) == []
    assert expected == there
    for path in expected:
        assert make_recording(out, path) == out / path
    ours, theirs = contents(out), contents(hospital)
    assert ours.keys() - theirs.keys() == {"recordings.tsv"}
    assert {path for path in theirs if ours[path] != theirs[path]} == {
        "config.json", "manifest.json",
    }  # fmt: skip
    assert load(out, kind="simulation").config["recordings"] == "on demand"


def test_recordings_that_are_on_disk_are_not_expected(hospital: Path, tmp_path: Path) -> None:
    assert expected_recordings(hospital) == {}
    assert expected_recordings(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"somebody": "else"}')
    assert expected_recordings(tmp_path) == {}


@pytest.mark.parametrize(
    "path",
    [
        "participants.tsv",
        "../sub-00001/ses-01/eeg/sub-00001_ses-01_task-clinical_eeg.edf",
        "sub-00008/ses-01/eeg/sub-00008_ses-01_task-clinical_eeg.edf",
        "sub-00000/ses-01/eeg/sub-00000_ses-01_task-clinical_eeg.edf",
        "sub-00001/ses-09/eeg/sub-00001_ses-09_task-clinical_eeg.edf",
        "sub-00001/ses-00/eeg/sub-00001_ses-00_task-clinical_eeg.edf",
        "sub-1/ses-1/eeg/sub-1_ses-1_task-clinical_eeg.edf",
    ],
)
def test_a_recording_that_the_hospital_does_not_know_is_not_made(hospital: Path, path: str) -> None:
    with pytest.raises(ArtefactError, match="has no recording"):
        make_recording(hospital, path)


def test_recordings_open_with_the_channels_and_times_of_their_sidecars(hospital: Path) -> None:
    for path in recordings(hospital):
        subject, visit = path.name.split("_")[:2]
        sessions = table(hospital / subject / f"{subject}_sessions.tsv")
        row = sessions.row(by_predicate=pl.col("session_id") == visit, named=True)
        about = json.loads(path.with_name(path.name.replace(".edf", ".json")).read_text())
        opened = open_recording(path)
        assert opened.montage.names == CHANNELS
        assert opened.start_time is not None
        assert opened.start_time.isoformat() == row["acq_time"]
        assert opened.duration_s == about["RecordingDuration"]
        assert opened.sfreq_hz == about["SamplingFrequency"] == 200
        site = load_hospital("v1").sites[about["InstitutionName"]]
        assert about["EEGReference"] == site.reference
        assert row["setting"] in {"routine", "ltm", "emu", "icu_or"}


def test_tables_have_one_row_a_patient_or_session(hospital: Path) -> None:
    participants = table(hospital / "participants.tsv")
    n_sessions = len(recordings(hospital))
    assert participants.columns == [
        "participant_id", "meds_subject_id", "age", "sex", "race", "site",
    ]  # fmt: skip
    assert participants.height == CONFIG.n_patients < n_sessions
    findings = table(hospital / "phenotype" / "eeg_findings.tsv")
    flags = table(hospital / "phenotype" / "eeg_flags.tsv")
    assert findings.columns[2:] == [finding.name for finding in FINDINGS]
    assert flags.width == 2 + len(HEEDB_FLAGS)
    assert findings.height == flags.height == n_sessions
    assert flags.select(findings.columns).equals(findings)
    stated = flags.unpivot(index=["participant_id", "session_id"])["value"]
    assert set(stated.cast(pl.Int8)) == {None, 0, 1}
    reported = {path.name[:16] for path in (hospital / "reports").glob("*_report.txt")}
    silent = findings.filter(
        pl.all_horizontal(pl.exclude("participant_id", "session_id").is_null())
    )
    keys = {f"{subject}_{visit}" for subject, visit in silent.select(silent.columns[:2]).rows()}
    # A report may state no finding at all: that the record cannot be read, and no more.
    assert len(reported | keys) == n_sessions
    assert 0 < len(reported) < n_sessions


def test_truth_is_what_the_patients_and_sessions_are(hospital: Path) -> None:
    truth = hospital / "truth"
    patients = pl.read_parquet(truth / "patients.parquet")
    sessions = pl.read_parquet(truth / "sessions.parquet")
    effects = pl.read_parquet(truth / "effects.parquet")
    events = pl.read_parquet(truth / "events" / "00000.parquet")
    for index in range(CONFIG.n_patients):
        patient = draw_patient(CONFIG, index=index)
        row = patients.row(index, named=True)
        assert row["birth"] == patient.birth
        assert {d["name"]: d["onset"] for d in row["diseases"]} == patient.diseases
        mine = pl.col("participant_id") == patient.name
        for session in patient.sessions:
            here = mine & (pl.col("session_id") == session.name)
            row = sessions.row(by_predicate=here, named=True)
            assert {name: row[name] for name in session.levels} == session.levels
            for name, finding in session.findings.items():
                assert row[f"{name}_strength"] == finding.strength
                assert row.get(f"{name}_side") == finding.side
            n_present = sum(row[c] is not None for c in row if c.endswith("_strength"))
            assert n_present == len(session.findings)
            assert dict(zip(row["bad_channels"], row["bad_kinds"], strict=True)) == (
                session.bad_channels
            )
            assert effects.filter(here).select("cause", "kind", "target", "value").rows() == [
                (e.cause, e.kind, e.target, e.value) for e in session.effects
            ]
            drawn = events_table(draw_truth(CONFIG, patient, session).events)
            assert events.filter(here).drop("participant_id", "session_id").equals(drawn)


def test_the_graph_has_the_edges_of_the_table(hospital: Path) -> None:
    graph = json.loads((hospital / "truth" / "graph.json").read_text())
    known = load_hospital("v1")
    found = {(e["from"], e["to"], e["kind"]): e["weight"] for e in graph["edges"]}
    assert {node for edge in graph["edges"] for node in (edge["from"], edge["to"])} <= (
        graph["nodes"].keys()
    )
    for name, medication in known.medications.items():
        for disease, probability in medication.indications.items():
            edge = (f"disease:{disease}", f"medication:{name}", "probability")
            assert found[edge] == probability
    nulls = {f"disease:{name}" for name, disease in known.diseases.items() if disease.null}
    to_eeg = [edge for edge in found if edge[1].startswith(("trait:", "finding:"))]
    assert nulls
    assert not [edge for edge in to_eeg if edge[0] in nulls]


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


def test_the_bids_validator_finds_no_error(hospital: Path) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run(
        [validator, "--json", hospital], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    # Recommended fields that a simulated device has not, and an author.
    assert {issue["code"] for issue in issues} <= {
        "SIDECAR_KEY_RECOMMENDED", "JSON_KEY_RECOMMENDED", "TOO_FEW_AUTHORS",
    }  # fmt: skip


def test_mne_bids_reads_it_whole_without_a_warning(hospital: Path) -> None:
    paths = mne_bids.find_matching_paths(hospital, extensions=".edf")
    assert len(paths) == len(recordings(hospital))
    participants = table(hospital / "participants.tsv")
    sexes = dict(participants.select("participant_id", "sex").iter_rows())
    for path in paths:
        with warnings.catch_warnings():
            # It tells of columns that MNE has no place for: site, race, MEDS subject.
            warnings.filterwarnings("ignore", "Unable to map the following column")
            raw = mne_bids.read_raw_bids(path, verbose="warning")
        raw.load_data(verbose="error")
        assert set(raw.get_channel_types()) == {"eeg"}
        assert len(raw.ch_names) == len(CHANNELS)
        assert raw.info["line_freq"] in (50, 60)
        assert raw.info["subject_info"]["sex"] == {"M": 1, "F": 2}[sexes[f"sub-{path.subject}"]]
        bad = table(path.copy().update(suffix="channels", extension=".tsv").fpath)
        assert raw.info["bads"] == bad.filter(pl.col("status") == "bad")["name"].to_list()
        assert raw.annotations.description[0] == "start"


@pytest.mark.usefixtures("in_process")
def test_native_rates_have_the_sites_own_channels(tmp_path: Path) -> None:
    config = SimulationConfig(n_patients=4, n_sites=1, shortest_s=10, longest_s=10, sfreq="native")
    simulate(tmp_path / "out", config=config, progress=False)
    path = recordings(tmp_path / "out")[0]
    channels = table(path.with_name(path.name.replace("_eeg.edf", "_channels.tsv")))
    assert channels["type"].to_list() == ["EEG"] * 21 + ["ECG"]
    about = json.loads(path.with_name(path.name.replace(".edf", ".json")).read_text())
    assert (about["SamplingFrequency"], about["ECGChannelCount"]) == (256, 1)
    shutil.rmtree(tmp_path / "out")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="not empty"):
        simulate(tmp_path, config=CONFIG, progress=False)
