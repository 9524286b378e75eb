"""From a data set to a cohort: what every layout gives, and what cannot be used."""

import dataclasses
import errno
import math
import shutil
from datetime import timedelta
from pathlib import Path

import edfio
import numpy as np
import polars as pl
import pytest
from cohorts import Here, edf_signals, files_of, read, write_folder
from trees import write_edf

from openclef.clinical import DISEASES, MEDICATIONS
from openclef.cohort import ingest as ingest_module
from openclef.cohort import session as session_module
from openclef.cohort.engine import LocalEngine, WorkerDied
from openclef.cohort.ingest import IngestConfig, find_source, ingest
from openclef.cohort.layouts import LAYOUTS, read_source
from openclef.cohort.session import (
    SessionJob,
    SourceError,
    ingest_session,
    part_path,
    read_part,
)
from openclef.cohort.sidecars import read_channels_tsv
from openclef.cohort.store import Cohort
from openclef.errors import ArtefactError, OpenclefError
from openclef.signal import open_recording, window_spectrogram
from openclef.types import CHANNELS


@pytest.fixture(scope="module")
def cohort(finished_run):
    return Cohort(finished_run / "cohort")


@pytest.fixture(scope="module")
def cohorts(trees, tmp_path_factory):
    """A cohort of each layout's tree."""
    out = tmp_path_factory.mktemp("cohorts")
    with LocalEngine(n_workers=2) as engine:
        return {
            layout: read(
                trees[layout],
                out / layout,
                labels=["diagnosis"] if layout == "folder" else (),
                engine=Shared(engine),
            )
            for layout in LAYOUTS
        }


@dataclasses.dataclass
class Shared:
    """An engine that outlives its `with` block."""

    engine: LocalEngine

    def __enter__(self):
        return self.engine

    def __exit__(self, *raised):
        pass


def labels_of(cohort: Cohort, task: str) -> dict[str, int]:
    rows = cohort.table("labels").filter(pl.col("task") == task).join(cohort.sessions, "session_id")
    return dict(rows.select("path", "label").iter_rows())


# Every layout


@pytest.mark.parametrize(
    ("layout", "n_sessions", "n_patients", "n_channels", "reference"),
    [
        ("bids", 10, 8, {18, 19}, "not stated"), ("heedb", 11, 9, {19}, "not stated"),
        ("hsp", 8, 8, {6}, "M1, M2"), ("tuab", 11, 10, {19}, "REF"),
        ("tuep", 9, 8, {19}, None), ("challenge2026", 8, 8, {6}, "M1, M2"),
        ("folder", 9, 8, {19}, "not stated"),
    ],
)  # fmt: skip
def test_each_layout_gives_its_sessions(
    cohorts, layout, n_sessions, n_patients, n_channels, reference
):
    cohort = cohorts[layout]
    assert cohort.sessions.height == n_sessions
    assert cohort.sessions["subject_id"].n_unique() == n_patients
    assert set(cohort.sessions["n_channels_present"]) <= n_channels
    assert cohort.windows["row"].to_list() == list(range(n_sessions))
    assert cohort.table("errors").is_empty()
    assert cohort.table("findings").height == n_sessions
    assert set(cohort.sessions["duration_s"]) == {8.0}
    if reference is not None:
        assert set(cohort.sessions["q_reference"]) == {reference}
    per_patient = cohort.sessions.group_by("subject_id").agg(pl.col("split").n_unique())
    assert per_patient["split"].max() == 1
    assert set(cohort.sessions["split"]) == {"train", "probe", "tuning", "held_out"}
    assert not (cohort.folder / "parts").exists()


def test_the_reference_of_each_file_is_kept(cohorts):
    sessions = cohorts["tuep"].sessions
    told = {
        Path(path).parent.name: ref for path, ref in sessions["path", "q_reference"].iter_rows()
    }
    assert told == {"01_tcp_ar": "REF", "02_tcp_le": "LE"}


def test_mastoid_montages_of_sleep_keep_six_channels_and_mask_the_rest(cohorts):
    for layout in ("hsp", "challenge2026"):
        visible = ~cohorts[layout].spectrogram(0).channel_mask
        assert {CHANNELS[i] for i in np.flatnonzero(visible)} == {
            "F3",
            "F4",
            "C3",
            "C4",
            "O1",
            "O2",
        }


def test_tuabs_official_evaluation_part_is_held_out(cohorts):
    for path, split in cohorts["tuab"].sessions["path", "split"].iter_rows():
        assert (split == "held_out") == ("/eval/" in path)
    assert labels_of(cohorts["tuab"], "abnormal") == {
        path: int("/abnormal/" in path) for path in cohorts["tuab"].sessions["path"]
    }


def test_labels_findings_codes_and_reports_of_the_trees_arrive(cohorts):
    bids, heedb = cohorts["bids"], cohorts["heedb"]
    spikes = bids.table("findings").join(bids.sessions, "session_id")
    assert {p: v for p, v in spikes["path", "spikes"].iter_rows() if "ses-1" in p} == {
        path: int(path[5]) % 2 for path in bids.sessions["path"] if "ses-1" in path
    }
    assert bids.table("reports")["text"].to_list() == ["Spikes."]
    assert bids.table("codes")["codes"].to_list() == [["ICD10CM//G40.909"], ["ATC//N03AX14"]]
    assert sorted(heedb.table("reports")["text"]) == ["Normal.", "Slowing."]
    codes = dict(heedb.table("codes").iter_rows())
    assert codes[1] == ["ATC//N03AX14", "ATC//N05BA01", "ICD10CM//G40.209", "ICD10CM//G40.909"]
    epilepsy = labels_of(cohorts["tuep"], "epilepsy")
    assert epilepsy == {path: int(path.startswith("00_")) for path in epilepsy}
    impaired = labels_of(cohorts["challenge2026"], "cognitive_impairment")
    assert sorted(impaired.values()) == [-1, 0, 0, 0, 0, 1, 1, 1]
    assert set(cohorts["folder"].table("labels")["task"]) == {"diagnosis=Epilepsy"}


def test_a_channel_marked_bad_beside_the_file_is_hidden(cohorts):
    fz = CHANNELS.index("Fz")
    assert all(cohorts["bids"].spectrogram(row).channel_mask[fz] for row in range(10))
    assert set(cohorts["bids"].sessions["n_channels_present"]) == {18}


# What is stored


def test_every_session_of_the_hospital_has_its_row(cohort, hospital):
    assert cohort.sessions.height == len(list(hospital.glob("sub-*/**/*.edf")))


def test_stored_spectrograms_are_those_of_the_recordings_to_float16(cohort, hospital):
    for row in (0, cohort.windows.height - 1):
        name = cohort.windows["session_id"][row]
        session = cohort.sessions.row(by_predicate=pl.col("session_id") == name, named=True)
        path = hospital / session["path"]
        bad = read_channels_tsv(path).bad
        window = next(open_recording(path, bad=bad).iter_windows())
        expected, stored = window_spectrogram(window), cohort.spectrogram(row)
        np.testing.assert_array_equal(stored.power_db, expected.power_db.astype(np.float16))
        np.testing.assert_array_equal(stored.time_mask, expected.time_mask)
        np.testing.assert_array_equal(stored.channel_mask, expected.channel_mask)


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


# Sessions of any length


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """3,000 s in EDF+D, of which 1,500 to 1,600 s were not recorded; five short ones beside it."""
    folder = write_folder(tmp_path_factory.mktemp("night") / "source", n_patients=6)
    whole = edfio.Edf(edf_signals(3000, labels=("Fp1", "O1"), sfreq_hz=100))
    whole.write(folder / "0.edf")
    raw = (folder / "0.edf").read_bytes()
    (folder / "0.edf").write_bytes(with_gap(raw, first_s=1500, last_s=1600))
    return folder


def with_gap(edf: bytes, *, first_s: int, last_s: int) -> bytes:
    """An EDF+D of records of 1 s, made of a plain EDF, without those from first to last."""
    n_signals = int(edf[252:256])
    header = edf[256 : 256 * (n_signals + 1)]
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    added = ("EDF Annotations", "", "", "-1", "1", "-32768", "32767", "", "10", "")
    fields, at = b"", 0
    for width, text in zip(widths, added, strict=True):
        fields += header[at : at + width * n_signals] + text.ljust(width).encode()
        at += width * n_signals
    seconds = [s for s in range(3000) if not first_s <= s < last_s]
    main = bytearray(edf[:256])
    main[184:192] = f"{256 * (n_signals + 2):<8}".encode()
    main[192:236] = b"EDF+D".ljust(44)
    main[236:244] = f"{len(seconds):<8}".encode()
    main[252:256] = f"{n_signals + 1:<4}".encode()
    n_bytes = 2 * 100 * n_signals
    data = edf[256 * (n_signals + 1) :]
    assert len(data) == 3000 * n_bytes
    records = (
        data[s * n_bytes : (s + 1) * n_bytes] + f"+{s}\x14\x14".encode().ljust(20, b"\0")
        for s in seconds
    )
    return bytes(main) + fields + b"".join(records)


def windows_of_night(night: Path, out: Path, **settings) -> tuple[Cohort, pl.DataFrame]:
    cohort = read(night, out, labels=["diagnosis"], engine=Here(), **settings)
    return cohort, cohort.windows.filter(pl.col("session_id") == "S000001")


def test_a_long_session_is_kept_whole_as_windows_with_their_times(night, tmp_path):
    cohort, windows = windows_of_night(night, tmp_path / "out")
    assert windows["start_s"].to_list() == [0.0, 1280.0, 2560.0]
    assert windows["window"].to_list() == [0, 1, 2]
    first, gap, last = (cohort.spectrogram(row).time_mask for row in windows["row"])
    assert not first[2:-2].any()
    assert gap[222:318].all()  # 1,500 to 1,600 s less 1,280
    assert not gap[4:216].any()
    assert not gap[324:1276].any()
    assert last[441:].all()  # padding
    assert not last[4:436].any()
    session = cohort.sessions.row(0, named=True)
    assert (session["duration_s"], session["n_windows"]) == (3000.0, 3)
    assert (session["q_n_gaps"], session["q_gap_s"]) == (1, 100.0)
    assert session["q_visible_s"] == pytest.approx(2900, abs=2)


def test_the_first_window_or_one_at_random(night, tmp_path):
    _, first = windows_of_night(night, tmp_path / "first", windows="first")
    assert first["start_s"].to_list() == [0.0]
    starts = []
    for seed in range(4):
        out = tmp_path / f"{seed}"
        _, one = windows_of_night(night, out, windows="random", seed=seed)
        starts += one["start_s"].to_list()
        if seed == 0:
            _, again = windows_of_night(night, tmp_path / "again", windows="random", seed=0)
            assert again.equals(one)
    assert len(starts) == 4
    assert set(starts) <= {0.0, 1280.0, 2560.0}
    assert len(set(starts)) > 1


def test_a_crop_leaves_no_scrap_of_a_window(night, tmp_path):
    """The 60 s that a last window needs are counted after the cut."""
    cohort, windows = windows_of_night(night, tmp_path / "out", crop=1300.0)
    assert windows["start_s"].to_list() == [0.0]
    assert cohort.sessions["duration_s"].max() == 1300.0


# Cropping


def test_recordings_are_cropped_to_the_shortest_and_a_resumed_run_cuts_alike(tmp_path):
    source = write_folder(tmp_path / "source", n_patients=5)
    (source / "4.edf").write_bytes(b"unreadable: it does not count")
    out = tmp_path / "out"
    cohort = read(source, out, labels=["diagnosis"], crop="equal")
    assert set(cohort.sessions["duration_s"]) == {12.0}
    assert (~cohort.spectrogram(3).time_mask).sum() == 11  # i + 2 <= 12
    assert (
        read(source, tmp_path / "s", labels=["diagnosis"], crop=9.0).sessions["duration_s"][0] == 9
    )


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
    cohort = read(source, tmp_path / "cohort", labels=["condition"], crop="equal")
    assert set(cohort.sessions["duration_s"]) == {62.0}
    assert set(cohort.sessions["n_channels_present"]) == {19}
    assert set(cohort.table("labels")["task"]) == {"condition=rest"}


# Recordings that cannot be used


def test_what_cannot_be_read_is_recorded_and_skipped(tmp_path):
    """A folder, a link to nothing, no EEG, an empty file, and a flat recording."""
    source = write_folder(tmp_path / "source", n_patients=10)
    for i in range(5):
        (source / f"{i}.edf").unlink()
    (source / "0.edf").symlink_to("gone.edf")
    (source / "1.edf").mkdir()
    (source / "2.edf").write_text("this is no EEG")
    (source / "3.edf").touch()
    flat = edf_signals(12, labels=("O1",))
    flat[0].update_data(np.zeros(12 * 200))
    edfio.Edf(flat).write(source / "4.edf")
    cohort = read(source, tmp_path / "cohort", labels=["diagnosis"])
    errors = cohort.table("errors")
    assert errors["path"].to_list() == [f"{i}.edf" for i in range(5)]
    assert set(errors["stage"]) == {"read"}
    for message, part in zip(
        errors["message"], ("no such file", "a folder", "not an EDF", "empty file", "flat"),
        strict=True,
    ):  # fmt: skip
        assert part in message
        assert "source" not in message
    assert cohort.sessions["path"].to_list() == [f"{i}.edf" for i in range(5, 10)]
    assert cohort.windows["row"].to_list() == list(range(5))


def test_a_file_that_the_disk_does_not_give_is_recorded(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", n_patients=6)
    opened = session_module.open_recording

    def fail(path, **told):
        if path.name == "2.edf":
            raise OSError(5, "Input/output error")
        if path.name == "3.edf":
            raise KeyError("John Smith, born 1950")  # a bug of a reader's
        return opened(path, **told)

    monkeypatch.setattr(session_module, "open_recording", fail)
    cohort = read(source, tmp_path / "cohort", labels=["diagnosis"], engine=Here())
    (lost, surprise) = cohort.table("errors").iter_rows(named=True)
    assert lost["message"] == "cannot be read (Input/output error)"
    assert surprise["path"] == "3.edf"
    assert surprise["message"].startswith("KeyError in test_ingest.py, line ")
    assert "Smith" not in surprise["message"]


def test_a_recording_that_ends_its_process_is_recorded(tmp_path):
    class Deadly(Here):
        def map(self, function, items):
            for item in items:
                dies = isinstance(item, SessionJob) and item.path.name == "2.edf"
                yield item, WorkerDied() if dies else function(item)

    source = write_folder(tmp_path / "source", n_patients=6)
    cohort = read(source, tmp_path / "cohort", labels=["diagnosis"], engine=Deadly())
    assert cohort.table("errors")["path"].to_list() == ["2.edf"]
    assert "crashed the process" in cohort.table("errors")["message"][0]


def test_a_file_that_changed_since_it_was_indexed_is_told(tmp_path):
    """The identity of a cohort is that of the files its index saw."""
    source = write_folder(tmp_path / "source", n_patients=6)
    found = read_source(source, labels=["diagnosis"])
    with (source / "1.edf").open("ab") as handle:
        handle.write(b"more")
    config = IngestConfig(labels=("diagnosis",))
    ingest(found, tmp_path / "out", config=config, engine=Here(), progress=False)
    (row,) = Cohort(tmp_path / "out").table("errors").iter_rows(named=True)
    assert row["path"] == "1.edf"
    assert "changed since the data set was indexed" in row["message"]


def test_a_report_that_cannot_be_read_costs_its_session_nothing_else(copy_tree, tmp_path):
    root = copy_tree("bids")
    found = read_source(root)
    (root / "reports" / "sub-p0_ses-1_report.txt").unlink()
    ingest(found, tmp_path / "out", config=IngestConfig(), engine=Here(), progress=False)
    cohort = Cohort(tmp_path / "out")
    (row,) = cohort.table("errors").iter_rows(named=True)
    assert (row["path"], row["stage"]) == ("reports/sub-p0_ses-1_report.txt", "report")
    assert "sub-p0" not in row["message"]
    assert cohort.sessions.height == 10
    assert cohort.table("reports").is_empty()


def test_masks_stay_with_their_windows_when_others_fail(tmp_path):
    names = [["O1", "O2"], ["Fp1"], ["C3", "C4"], ["F7"], ["T5"], ["Pz"]]
    source = write_folder(tmp_path / "source", n_patients=6)
    for i, labels in enumerate(names):
        edfio.Edf(edf_signals(10 + i, labels=labels, seed=i)).write(source / f"{i}.edf")
    (source / "0.edf").write_text("no EEG")
    cohort = read(source, tmp_path / "cohort", labels=["diagnosis"])
    for row in cohort.windows["row"]:
        spectrogram = cohort.spectrogram(row)
        visible = {CHANNELS[i] for i in np.flatnonzero(~spectrogram.channel_mask)}
        assert visible == set(names[row + 1])
        assert (~spectrogram.time_mask).sum() == 10 + row
        assert (np.abs(spectrogram.power_db).sum((1, 2)) > 0).sum() == len(names[row + 1])


# What cannot be made leaves nothing; what is there stays


@pytest.mark.parametrize("made_by_user", [False, True])
def test_nothing_is_left_if_nothing_can_be_read(tmp_path, made_by_user):
    source = write_folder(tmp_path / "source", n_patients=4)
    for path in source.glob("*.edf"):
        path.write_bytes(b"")
    out = tmp_path / "out"
    if made_by_user:
        out.mkdir()
    with pytest.raises(
        OpenclefError, match=r"no recording could be read; the first: 0\.edf: empty"
    ):
        read(source, out, labels=["diagnosis"], engine=Here())
    assert out.exists() == made_by_user  # a folder that we did not make is not ours to remove
    assert not made_by_user or not list(out.iterdir())


def test_labels_left_with_a_single_class_leave_nothing(tmp_path):
    source = write_folder(tmp_path / "source", n_patients=8)
    for i in range(1, 8, 2):
        (source / f"{i}.edf").write_text("no EEG")
    with pytest.raises(OpenclefError, match="single class among the recordings that could be read"):
        read(source, tmp_path / "out", labels=["diagnosis"], engine=Here())
    assert not (tmp_path / "out").exists()


def test_too_few_patients_leave_nothing(tmp_path):
    source = write_folder(tmp_path / "source", n_patients=3)
    with pytest.raises(OpenclefError, match="3 patients cannot be split"):
        read(source, tmp_path / "out", labels=["diagnosis"], engine=Here())
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused_before_the_walk(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", n_patients=4)
    monkeypatch.setattr(ingest_module, "read_source", None)
    with pytest.raises(ArtefactError, match="not empty and not an openclef artefact"):
        read(source, source, labels=["diagnosis"])
    with pytest.raises(ArtefactError, match="is a file"):
        read(source, source / "0.edf", labels=["diagnosis"])
    assert len(list(source.iterdir())) == 5


# Again


@pytest.fixture
def made(tmp_path):
    """A finished cohort of its own, and its data set."""
    source = write_folder(tmp_path / "source", n_patients=6)
    return source, read(source, tmp_path / "out", labels=["diagnosis"], engine=Here()).folder


def test_a_complete_cohort_is_left_as_it_is_without_its_data_set(made):
    source, out = made
    before = files_of(out)
    (out / "parts").mkdir()  # as if killed right after the manifest
    shutil.rmtree(source)
    read(source, out, labels=["diagnosis"])
    assert files_of(out) == before
    assert not (out / "parts").exists()


def test_a_data_set_that_is_gone_stops_an_unfinished_cohort(made):
    """Else every recording not yet read would be told missing, for good."""
    source, out = made
    (out / "manifest.json").unlink()
    source.rename(source.with_name("unmounted"))
    with pytest.raises(OpenclefError, match="no such folder"):
        read(source, out, labels=["diagnosis"])


def test_the_index_spares_a_second_walk_and_knows_its_root(made, monkeypatch):
    source, out = made
    monkeypatch.setattr(ingest_module, "read_source", None)
    monkeypatch.chdir(source.parent)
    again = find_source(Path("source"), out, layout="auto", labels=["diagnosis"])
    assert again.root == source
    assert find_source(source / ".." / "source", out, layout="folder", labels=["diagnosis"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, r"another choice of labels: \['diagnosis'\] there, \[\] asked"),
        ({"layout": "bids"}, "another layout: folder there, bids asked"),
        ({"root": "elsewhere"}, "another data set: "),
    ],
)
def test_what_the_index_does_not_hold_is_refused(made, change, message):
    source, out = made
    root = source.parent / change.get("root", source.name)
    asked = {"layout": "auto", "labels": ["diagnosis"]} | change
    with pytest.raises(ArtefactError, match=message):
        find_source(root, out, layout=asked["layout"], labels=asked["labels"])


def test_another_configuration_or_site_key_is_refused(made, monkeypatch):
    source, out = made
    with pytest.raises(ArtefactError, match=r"config.crop: 'none' there, 30.0 asked"):
        read(source, out, labels=["diagnosis"], crop=30.0)
    monkeypatch.setenv("OPENCLEF_SITE_KEY", "cd" * 32)
    with pytest.raises(ArtefactError, match=r"inputs.site_key"):
        read(source, out, labels=["diagnosis"])


def test_recordings_that_failed_stay_failed_and_none_is_read_twice(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", n_patients=6)
    (source / "2.edf").write_text("no EEG")
    out, seen = tmp_path / "out", []

    class Counted(Here):
        def map(self, function, items):
            for item in items:
                if isinstance(item, SessionJob):
                    seen.append(item.session_id)
                    if len(seen) == 4:
                        raise KeyboardInterrupt
                yield item, function(item)

    with pytest.raises(KeyboardInterrupt):
        read(source, out, labels=["diagnosis"], engine=Counted())
    monkeypatch.chdir(tmp_path)
    read(Path("source"), Path("out"), labels=["diagnosis"], engine=Counted())
    assert seen == [f"S00000{i}" for i in (1, 2, 3, 4, 4, 5, 6)]
    whole = read(source, tmp_path / "whole", labels=["diagnosis"], engine=Here())
    assert files_of(out) == files_of(whole.folder)


def test_a_part_names_neither_the_file_nor_its_neighbours(tmp_path):
    """BIDS writes the patient into every file's name."""
    write_edf(tmp_path / "sub-smith_eeg.edf")
    (tmp_path / "sub-smith_channels.tsv").write_text("label\nFp1\n")
    path = tmp_path / "sub-smith_eeg.edf"
    ingest_session(job_of(path, tmp_path / "out"))
    part = read_part(part_path(tmp_path / "out", "S1"))
    assert part["message"] == "*_channels.tsv: no column 'name' among its 1 columns"


def job_of(path, out):
    return SessionJob(
        session_id="S1", root=path.parent, path=path, size_bytes=path.stat().st_size, folder=out,
        line_hz=None, unit=None, windows="all", seed=0, crop_s=math.inf, date_shift=timedelta(0),
    )  # fmt: skip


@pytest.mark.parametrize("trouble", [OSError(errno.ESTALE, "Stale file handle"), MemoryError()])
def test_trouble_of_the_mount_or_the_machine_gives_no_recording_up(tmp_path, monkeypatch, trouble):
    write_edf(tmp_path / "a.edf")

    def fail(*_, **__):
        raise trouble

    monkeypatch.setattr("openclef.cohort.session.open_recording", fail)
    with pytest.raises(SourceError, match="the same command goes on"):
        ingest_session(job_of(tmp_path / "a.edf", tmp_path / "out"))
    assert not part_path(tmp_path / "out", "S1").exists()


def test_a_data_set_that_goes_away_stops_the_run(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_edf(source / "a.edf")
    job = job_of(source / "a.edf", tmp_path / "out")
    source.rename(tmp_path / "unmounted")
    with pytest.raises(SourceError, match="no such folder any more"):
        ingest_session(job)
    assert not part_path(tmp_path / "out", "S1").exists()


def test_windows_without_eeg_are_counted_and_gaps_between_windows_too(tmp_path):
    rng = np.random.default_rng(0)
    signal = 20 * rng.standard_normal(2600 * 128)
    signal[: 1280 * 128] = 0.0  # the headbox is off
    edf = edfio.EdfSignal(
        signal, 128, label="C3", physical_dimension="uV", physical_range=(-500, 500)
    )
    edfio.Edf([edf]).write(tmp_path / "a.edf")
    ingest_session(job_of(tmp_path / "a.edf", tmp_path / "out"))
    part = read_part(part_path(tmp_path / "out", "S1"))
    assert [window["start_s"] for window in part["windows"]] == [1280.0]
    told = part["quality"]["notes"]["skipped_windows"]
    assert told.startswith("1 of 2, the last: all 1 EEG channels are flat")
    assert part["columns"]["q_assessed_s"] == 1280.0
