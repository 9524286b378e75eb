import shutil
from pathlib import Path

import edfio
import numpy as np
import polars as pl
import pytest

from openclef.clinical import DISEASES, MEDICATIONS
from openclef.cohort.ingest import IngestConfig, ingest
from openclef.cohort.layouts import read_source
from openclef.cohort.store import Cohort
from openclef.errors import ArtefactError, OpenclefError
from openclef.signal import open_recording, window_spectrogram
from openclef.types import CHANNELS


@pytest.fixture(scope="module")
def cohort(finished_run):
    return Cohort(finished_run / "cohort")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def small_hospital(hospital: Path, target: Path, n: int = 6) -> Path:
    """The first patients of the hospital, copied, so that files can be broken."""
    target.mkdir()
    for person in sorted(hospital.glob("sub-*"))[:n]:
        shutil.copytree(person, target / person.name)
    shutil.copy(hospital / "participants.tsv", target)
    return target


def read(source: Path, out: Path, **settings) -> Cohort:
    ingest(read_source(source), out, config=IngestConfig(**settings), n_workers=2, progress=False)
    return Cohort(out)


def test_every_session_has_its_row_and_its_patient_one_split(cohort, hospital):
    assert cohort.sessions.height == len(list(hospital.glob("sub-*/**/*.edf")))
    per_patient = cohort.sessions.group_by("subject_id").agg(pl.col("split").n_unique())
    assert per_patient["split"].max() == 1
    assert set(cohort.sessions["split"]) == {"train", "probe", "tuning", "held_out"}


def test_stored_spectrograms_are_those_of_the_recordings(cohort, hospital):
    session = cohort.sessions.row(0, named=True)
    window = next(open_recording(hospital / session["path"]).iter_windows())
    expected, stored = window_spectrogram(window), cohort.spectrogram(0)
    np.testing.assert_array_equal(stored.power_db, expected.power_db.astype(np.float16))
    np.testing.assert_array_equal(stored.time_mask, expected.time_mask)
    np.testing.assert_array_equal(stored.channel_mask, expected.channel_mask)


def test_identifiers_stay_out_of_everything_but_the_paths(cohort, finished_run):
    for path in [*finished_run.rglob("*.json*"), *finished_run.rglob("*.html")]:
        assert b"sub-" not in path.read_bytes(), path
    for name in ("windows", "labels", "findings", "codes", "reports"):
        assert b"sub-0" not in (cohort.folder / f"{name}.parquet").read_bytes(), name


def test_dates_are_shifted_in_sessions_and_records_alike(cohort, hospital):
    ours = pl.read_parquet(cohort.folder / "ehr" / "data" / "**" / "*.parquet")
    theirs = pl.read_parquet(hospital / "meds" / "data" / "**" / "*.parquet")
    subject = ours.filter(pl.col("code").str.starts_with("ICD10CM"))["subject_id"][0]

    def times(frame):
        rows = frame.filter((pl.col("subject_id") == subject) & pl.col("time").is_not_null())
        return rows.sort("time", "code")["time"]

    shift = times(theirs) - times(ours)
    assert shift.n_unique() == 1
    assert shift[0].days >= 1
    session = cohort.sessions.filter(pl.col("subject_id") == subject).row(0, named=True)
    start = open_recording(hospital / session["path"]).start_time
    assert start - session["start_time"] == shift[0]


def test_reports_hold_no_history_and_no_drugs(cohort):
    texts = " ".join(cohort.table("reports")["text"]).lower()
    assert "levetiracetam" not in texts
    assert len(texts) > 1000


def test_labels_come_from_findings_and_records(cohort):
    labels = cohort.table("labels")
    assert set(labels["category"]) == {"finding", "disease", "medication"}
    names = {phenotype.name for phenotype in (*DISEASES, *MEDICATIONS)}
    assert names <= set(labels["task"])
    without = set(cohort.sessions["subject_id"]) - set(cohort.table("codes")["subject_id"])
    rows = labels.join(cohort.sessions, on="session_id").filter(pl.col("category") == "disease")
    assert set(rows.filter(pl.col("subject_id").is_in(list(without)))["label"]) <= {-1}


def test_one_bad_file_among_many_is_recorded_and_skipped(hospital, tmp_path):
    source = small_hospital(hospital, tmp_path / "source")
    bad = sorted(source.glob("sub-*/**/*.edf"))[1]
    bad.write_bytes(b"this is no EEG")
    cohort = read(source, tmp_path / "cohort")
    errors = cohort.table("errors")
    assert errors.height == 1
    assert errors["path"][0] == str(bad)
    assert errors["stage"][0] == "open"
    assert cohort.sessions.height == len(list(source.glob("sub-*/**/*.edf"))) - 1


def test_nothing_is_written_if_nothing_can_be_read(hospital, tmp_path):
    source = small_hospital(hospital, tmp_path / "source", n=4)
    for path in source.glob("sub-*/**/*.edf"):
        path.write_bytes(b"")
    with pytest.raises(OpenclefError, match="no recording could be read"):
        read(source, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


def test_too_few_patients_leave_nothing_behind(hospital, tmp_path):
    source = small_hospital(hospital, tmp_path / "source", n=3)
    with pytest.raises(OpenclefError, match="3 patients cannot be split"):
        read(source, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


def test_the_bytes_do_not_depend_on_workers_or_interruptions(hospital, tmp_path, monkeypatch):
    source = small_hospital(hospital, tmp_path / "source")
    whole = read(source, tmp_path / "whole")

    from openclef.cohort import ingest as module

    original = module._write_tables
    monkeypatch.setattr(
        module, "_write_tables", lambda *_, **__: (_ for _ in ()).throw(MemoryError())
    )
    with pytest.raises(MemoryError):
        read(source, tmp_path / "broken")
    monkeypatch.setattr(module, "_write_tables", original)
    parts = sorted((tmp_path / "broken" / "parts").iterdir())
    parts[0].unlink()  # as if killed before this session was done
    ingest(
        read_source(source), tmp_path / "broken", config=IngestConfig(), n_workers=1, progress=False
    )
    assert files_of(whole.folder) == files_of(tmp_path / "broken")


def test_another_configuration_of_an_existing_cohort_is_refused(finished_run, hospital):
    with pytest.raises(ArtefactError, match=r"config.crop"):
        read(hospital, finished_run / "cohort", crop=30.0)


def test_recordings_are_cropped_to_the_shortest(hospital, tmp_path):
    source = small_hospital(hospital, tmp_path / "source")
    cohort = read(source, tmp_path / "cohort", crop=20.0)
    assert set(cohort.sessions["duration_s"]) == {20.0}
    assert (~cohort.spectrogram(0).time_mask).sum() == 19  # i + 2 <= 20


@pytest.mark.real_data
def test_real_recordings_of_unequal_length_are_cropped_to_equal(real_data, tmp_path):
    """eegmat: rest lasts 182 s, arithmetic 62 s; duration would give the condition away."""
    source = tmp_path / "source"
    source.mkdir()
    table = pl.read_csv(real_data / "eegmat" / "labels.csv", infer_schema=False).head(12)
    for file in table["file"]:
        (source / file).parent.mkdir(exist_ok=True)
        shutil.copy(real_data / "eegmat" / file, source / file)
    table.write_csv(source / "labels.csv")
    found = read_source(source, labels=["condition"])
    config = IngestConfig(crop="equal")
    ingest(found, tmp_path / "cohort", config=config, n_workers=2, progress=False)
    cohort = Cohort(tmp_path / "cohort")
    assert set(cohort.sessions["duration_s"]) == {62.0}
    assert set(cohort.sessions["n_channels_present"]) == {19}
    assert set(cohort.table("labels")["task"]) == {"condition=rest"}


def test_a_recording_that_fails_after_its_header_moves_nobodys_masks(tmp_path):
    """It leaves a hole in the array; the others keep their own masks, row by row."""
    rng = np.random.default_rng(0)
    names = [["O1", "O2"], ["Fp1"], ["C3", "C4"], ["F7"], ["T5"], ["Pz"]]
    for i, labels in enumerate(names):
        flat = 0.0 if i == 0 else 20.0
        signals = [
            edfio.EdfSignal(
                flat * rng.standard_normal(200 * (10 + i)), 200, label=label,
                physical_dimension="uV", physical_range=(-500, 500),
            )
            for label in labels
        ]  # fmt: skip
        edfio.Edf(signals).write(tmp_path / f"{i}.edf")
    rows = "".join(f"p{i},{i}.edf\n" for i in range(6))
    (tmp_path / "labels.csv").write_text("subject,file\n" + rows)
    cohort = read(tmp_path, tmp_path / "cohort")
    assert cohort.table("errors")["stage"].to_list() == ["ingest"]
    assert cohort.windows["row"].to_list() == [1, 2, 3, 4, 5]
    for row in cohort.windows["row"]:
        spectrogram = cohort.spectrogram(row)
        visible = {CHANNELS[i] for i in np.flatnonzero(~spectrogram.channel_mask)}
        assert visible == set(names[row])
        assert (~spectrogram.time_mask).sum() == 10 + row - 1
        assert (np.abs(spectrogram.power_db).sum((1, 2)) > 0).sum() == len(names[row])
