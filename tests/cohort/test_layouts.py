import polars as pl
import pytest

from openclef.cohort.layouts import make_tasks, read_source
from openclef.errors import OpenclefError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "labels.csv").write_text(
        "subject,file,diagnosis,flag,age,sex,constant\n"
        "b,2.edf,Epilepsy,1,44,female,x\n"
        "a,1.edf,Control,0,93,M,x\n"
        "a,3.edf,n/a,,93,M,x\n"
    )
    return tmp_path


def test_folder_sessions_come_in_the_order_of_their_files(folder):
    source = read_source(folder, labels=["diagnosis", "flag"])
    assert source.layout == "folder"
    assert [s.path.name for s in source.sessions] == ["1.edf", "2.edf", "3.edf"]
    assert [s.subject_id for s in source.sessions] == [1, 2, 1]
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
def test_a_label_column_that_cannot_serve_is_refused(folder, labels, message):
    with pytest.raises(OpenclefError, match=message):
        read_source(folder, labels=labels)


def test_a_measurement_is_no_class(tmp_path):
    table = pl.DataFrame({"score": [str(i) for i in range(30)]})
    with pytest.raises(OpenclefError, match="30 values"):
        make_tasks(table, ["score"], tmp_path)


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("file,diagnosis\n1.edf,x\n", "no column 'subject'"),
        ("subject,file\na,1.edf\nb,1.edf\n", "listed twice"),
        ("subject,file\n,1.edf\n", "1 rows have no subject"),
        ("subject,file\na,../1.edf\n", "outside the data set's folder"),
    ],
)
def test_a_labels_file_that_cannot_serve_is_refused(tmp_path, csv, message):
    (tmp_path / "labels.csv").write_text(csv)
    with pytest.raises(OpenclefError, match=message):
        read_source(tmp_path)


def test_places_that_are_no_data_set(tmp_path):
    with pytest.raises(OpenclefError, match="no such folder"):
        read_source(tmp_path / "nothing")
    with pytest.raises(OpenclefError, match="empty folder"):
        read_source(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(OpenclefError, match="layout not recognised"):
        read_source(tmp_path)
    with pytest.raises(OpenclefError, match="is a file"):
        read_source(tmp_path / "notes.txt")
    with pytest.raises(OpenclefError, match=r"unknown layout 'bid'.*'bids'"):
        read_source(tmp_path, layout="bid")


def test_what_is_read_decides_the_hash(folder):
    (folder / "1.edf").write_bytes(b"x" * 10)
    before = read_source(folder, labels=["flag"]).hash()
    assert read_source(folder, labels=["flag"]).hash() == before
    assert read_source(folder, labels=["diagnosis"]).hash() != before
    (folder / "1.edf").write_bytes(b"x" * 11)
    assert read_source(folder, labels=["flag"]).hash() != before


def bids(root, people):
    for name, _ in people:
        folder = root / name / "eeg"
        folder.mkdir(parents=True)
        (folder / f"{name}_task-rest_eeg.edf").write_bytes(b"")
    rows = "".join(f"{name}\t{number}\tx\n" for name, number in people if number is not None)
    (root / "participants.tsv").write_text("participant_id\tmeds_subject_id\tgroup\n" + rows)
    return root


def test_bids_without_sessions_and_with_people_missing_from_the_table(tmp_path):
    source = read_source(bids(tmp_path, [("sub-a", "3"), ("sub-b", None), ("sub-c", "1")]))
    assert [(s.subject, s.subject_id) for s in source.sessions] == [
        ("sub-a", 3), ("sub-b", -1), ("sub-c", 1),
    ]  # fmt: skip
    assert source.columns == ("meds_subject_id", "group")


@pytest.mark.parametrize(
    ("numbers", "message"), [(("3", "3"), "two participants"), (("x", "1"), "not a whole number")]
)
def test_subject_numbers_that_cannot_serve_are_refused(tmp_path, numbers, message):
    people = list(zip(("sub-a", "sub-b"), numbers, strict=True))
    with pytest.raises(OpenclefError, match=message):
        read_source(bids(tmp_path, people))


def test_records_that_no_participant_can_be_joined_to_are_refused(tmp_path):
    root = bids(tmp_path, [("sub-a", None), ("sub-b", None)])
    (root / "meds" / "data").mkdir(parents=True)
    with pytest.raises(OpenclefError, match="no meds_subject_id"):
        read_source(root)
