import os
import shutil

import edfio
import polars as pl
import pytest
from trees import write_text, write_tsv

from openclef.cohort.layouts import LAYOUTS, Source, make_tasks, read_report, read_source
from openclef.cohort.layouts.tree import walk
from openclef.cohort.splits import SplitConfig, assign_splits, official_parts
from openclef.errors import OpenclefError
from openclef.types import SPLITS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_detected_and_its_index_says_all(sources, layout, tmp_path):
    source = sources[layout]
    assert source.layout == layout
    paths = [session.path for session in source.sessions]
    assert paths == sorted(paths)
    assert [s.size_bytes for s in source.sessions] == [path.stat().st_size for path in paths]
    source.write(tmp_path / "index.parquet")
    again = Source.read_index(tmp_path / "index.parquet")
    assert again == source
    assert again.hash() == source.hash()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_has_recordings_that_open_and_patients_for_four_splits(sources, layout):
    source = sources[layout]
    recording = edfio.read_edf(source.sessions[0].path)
    assert recording.duration == 8
    assert 10 < recording.signals[0].data.std() < 30
    official = official_parts((s.subject_id, s.official_split) for s in source.sessions)
    splits = assign_splits(
        (s.subject_id for s in source.sessions), SplitConfig(), official=official
    )
    assert set(splits.values()) == set(SPLITS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_named_is_refused_and_the_right_one_hinted(trees, layout):
    other = "tuab" if layout != "tuab" else "tuep"
    with pytest.raises(OpenclefError, match=rf"no recordings .* {other}: .*looks like {layout}"):
        read_source(trees[layout], layout=other)


def test_an_index_moves_with_its_data_set_and_holds_no_report(sources, trees, tmp_path):
    sources["bids"].write(tmp_path / "index.parquet")
    assert b"Spikes" not in (tmp_path / "index.parquet").read_bytes()
    columns = pl.read_parquet(tmp_path / "index.parquet")
    assert columns["path"].str.starts_with("sub-").all()
    moved = Source.read_index(tmp_path / "index.parquet", root=tmp_path)
    assert moved.sessions[0].path.is_relative_to(tmp_path)
    assert moved.records.paths == (tmp_path / "meds",)
    assert moved.hash() == sources["bids"].hash()
    pl.DataFrame({"path": ["x"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(OpenclefError, match="not the index of a data set"):
        Source.read_index(tmp_path / "other.parquet")
    write_text(tmp_path / "text.parquet", "PAR")
    with pytest.raises(OpenclefError, match="cannot be read as an index"):
        Source.read_index(tmp_path / "text.parquet")


def test_the_walk_leaves_out_hidden_names_and_never_goes_round(tmp_path):
    write_text(tmp_path / "a" / "x.edf", "1234")
    write_text(tmp_path / "a" / "._x.edf", "")
    write_text(tmp_path / ".git" / "y.edf", "")
    write_text(tmp_path / "net.mff" / "signal1.bin", "123")
    write_text(tmp_path / "elsewhere.txt", "")
    os.symlink(tmp_path, tmp_path / "a" / "up")
    os.symlink(tmp_path / "nowhere", tmp_path / "a" / "annexed.edf")
    assert walk(tmp_path).files == {
        "a/annexed.edf": None, "a/x.edf": 5, "elsewhere.txt": 1, "net.mff": 4,
    }  # fmt: skip


def test_places_that_are_no_data_set(tmp_path):
    with pytest.raises(OpenclefError, match="no such folder"):
        read_source(tmp_path / "nothing")
    with pytest.raises(OpenclefError, match=r"empty folder; .*bids, heedb"):
        read_source(tmp_path)
    write_text(tmp_path / "notes.txt", "x")
    with pytest.raises(OpenclefError, match="layout not recognised; bids has") as caught:
        read_source(tmp_path)
    assert all(f"{layout} has" in str(caught.value) for layout in LAYOUTS)
    with pytest.raises(OpenclefError, match="is a file"):
        read_source(tmp_path / "notes.txt")
    with pytest.raises(OpenclefError, match=r"unknown layout 'bid'.*'bids'"):
        read_source(tmp_path, layout="bid")


def test_a_tree_of_two_layouts_wants_one_named(copy_tree, trees):
    root = copy_tree("heedb")
    shutil.copytree(trees["hsp"] / "PSG", root / "PSG")
    with pytest.raises(OpenclefError, match="fits the layouts heedb, hsp; name one"):
        read_source(root)
    assert len(read_source(root, layout="hsp").sessions) == 8
    assert len(read_source(root, layout="heedb").sessions) == 11


def test_what_is_read_decides_the_hash(copy_tree):
    root = copy_tree("bids")
    before = read_source(root, labels=["group"]).hash()
    assert read_source(root, labels=["group"]).hash() == before
    assert read_source(root).hash() != before
    report = root / "reports" / "sub-p0_ses-1_report.txt"
    changed = []
    for path in (report, root / "sub-p5/ses-1/eeg/sub-p5_ses-1_task-rest_eeg.edf"):
        path.write_bytes(path.read_bytes() + b" ")
        changed.append(read_source(root, labels=["group"]).hash())
    events = pl.read_parquet(root / "meds" / "data" / "0.parquet")
    events.reverse().write_parquet(root / "meds" / "data" / "0.parquet")
    changed.append(read_source(root, labels=["group"]).hash())
    assert len({before, *changed}) == 4


# folder


def test_folder_sessions_come_in_the_order_of_their_files(tmp_path):
    write_text(
        tmp_path / "labels.csv",
        """
        subject,file,diagnosis,flag,age,sex
        b,2.edf,Epilepsy,1,44,female
        a,./1.edf,Control,0,93,M
        a,3.edf,n/a,,93,M
        """,
    )
    write_text(tmp_path / "1.edf", "x")
    source = read_source(tmp_path, labels=["diagnosis", "flag"])
    assert [s.path.name for s in source.sessions] == ["1.edf", "2.edf", "3.edf"]
    assert [s.subject_id for s in source.sessions] == [1, 2, 1]
    assert [s.size_bytes for s in source.sessions] == [2, None, None]
    assert [(s.age, s.sex) for s in source.sessions] == [(90.0, "M"), (44.0, "F"), (90.0, "M")]
    assert [dict(s.labels) for s in source.sessions] == [
        {"diagnosis=Epilepsy": ("label", 0), "flag": ("label", 0)},
        {"diagnosis=Epilepsy": ("label", 1), "flag": ("label", 1)},
        {"diagnosis=Epilepsy": ("label", -1), "flag": ("label", -1)},
    ]


def test_three_classes_are_three_tasks(tmp_path):
    table = pl.DataFrame({"stage": ["W", "N1", "N2", None]})
    assert make_tasks(table, ["stage"], tmp_path)[1] == {
        "stage=N1": 1, "stage=N2": 0, "stage=W": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["diagnos"], r"unknown label column.*did you mean 'diagnosis'"),
        (["constant"], "single class"),
        (["subject"], "unknown label column"),
    ],
)
def test_a_label_column_that_cannot_serve_is_refused(tmp_path, labels, message):
    text = "subject,file,diagnosis,constant\na,1.edf,Control,x\nb,2.edf,Epilepsy,x"
    write_text(tmp_path / "labels.csv", text)
    with pytest.raises(OpenclefError, match=message):
        read_source(tmp_path, labels=labels)


def test_a_measurement_is_no_class(tmp_path):
    table = pl.DataFrame({"score": [str(i) for i in range(30)]})
    with pytest.raises(OpenclefError, match="30 values"):
        make_tasks(table, ["score"], tmp_path)


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("file,diagnosis\n1.edf,x\n", "no column 'subject'"),
        ("subject,file\na,1.edf\nb,./1.edf\n", "listed twice"),
        ("subject,file\n,1.edf\n", "1 rows have no subject"),
        ("subject,file\na,../1.edf\n", "outside the data set's folder"),
    ],
)
def test_a_labels_file_that_cannot_serve_is_refused(tmp_path, csv, message):
    write_text(tmp_path / "labels.csv", csv)
    with pytest.raises(OpenclefError, match=message):
        read_source(tmp_path)


# bids


def test_bids_joins_tables_to_recordings(trees, sources):
    source = read_source(trees["bids"], labels=["group"])
    assert source.columns == ("meds_subject_id", "sex", "group")
    assert source.findings == ("sleep", "spikes")
    subjects = [(s.subject, s.subject_id) for s in source.sessions]
    assert subjects == [
        ("sub-p0", 100), ("sub-p0", 100), ("sub-p1", 101), ("sub-p1", 101), ("sub-p2", 102),
        ("sub-p3", 103), ("sub-p4", 104), ("sub-p5", 105), ("sub-p6", -1), ("sub-p7", -2),
    ]  # fmt: skip
    first, second, run_1, run_2 = source.sessions[:4]
    assert (first.age, first.sex, first.setting) == (30.0, "M", "routine")
    assert second.age == 32.0
    assert dict(first.labels) == {
        "group=control": ("label", 0), "spikes": ("finding", 0), "sleep": ("finding", -1),
    }  # fmt: skip
    assert dict(first.findings) == {"spikes": 0, "sleep": None}
    assert read_report(first) == "FINDINGS: Spikes.\n"
    assert read_report(second) is None
    assert run_1.path.name.endswith("_run-1_eeg.edf")
    assert run_1.findings == run_2.findings == {"spikes": 1, "sleep": None}


def test_a_scan_tells_more_than_its_session(copy_tree):
    root = copy_tree("bids")
    rows = [{"filename": "eeg/sub-p1_ses-1_task-rest_run-2_eeg.edf", "age": 70, "setting": "emu"}]
    write_tsv(root / "sub-p1" / "ses-1" / "sub-p1_ses-1_scans.tsv", rows)
    run_1, run_2 = (s for s in read_source(root).sessions if s.subject == "sub-p1")
    assert (run_1.age, run_1.setting) == (31.0, "routine")
    assert (run_2.age, run_2.setting) == (70.0, "emu")


@pytest.mark.parametrize("extension", ["BDF", "vhdr", "set", "gdf", "cnt", "fif"])
def test_bids_takes_other_formats_and_no_companions(tmp_path, extension):
    stem = tmp_path / "sub-a" / "eeg" / "sub-a_task-rest_eeg"
    for suffix in (extension, "json", "eeg", "fdt"):
        write_text(stem.with_suffix(f".{suffix}"), "")
    assert [s.path.suffix for s in read_source(tmp_path).sessions] == [f".{extension}"]


@pytest.mark.parametrize(
    ("number", "message"), [("101", "two participants"), ("x", "not a whole number")]
)
def test_subject_numbers_that_cannot_serve_are_refused(copy_tree, number, message):
    root = copy_tree("bids")
    table = root / "participants.tsv"
    table.write_text(table.read_text().replace("\t102\t", f"\t{number}\t"))
    with pytest.raises(OpenclefError, match=message):
        read_source(root)


def test_records_that_no_participant_can_be_joined_to_are_refused(copy_tree):
    root = copy_tree("bids")
    (root / "participants.tsv").unlink()
    with pytest.raises(OpenclefError, match="no meds_subject_id"):
        read_source(root)


def test_a_finding_is_one_zero_or_blank(copy_tree):
    root = copy_tree("bids")
    table = root / "phenotype" / "eeg_findings.tsv"
    table.write_text(table.read_text().replace("\t1\tn/a", "\tyes\tn/a", 1))
    with pytest.raises(OpenclefError, match=r"spikes is 'yes'; allowed: 1, 0 or n/a"):
        read_source(root)
