"""The archives' layouts: TUAB and TUEP, HEEDB, HSP and Challenge 2026."""

import shutil
from collections import Counter

import pytest
from trees import HEEDB_FINDINGS_S0001, HEEDB_METADATA_S0001, write_edf

from openclef.clinical.findings import DENIED_BY_NORMAL
from openclef.cohort.layouts import read_report, read_source
from openclef.cohort.layouts.heedb import setting
from openclef.errors import OpenclefError

# tuab, tuep


def test_tuab_tells_labels_by_recording_age_sex_and_the_official_split(sources):
    source = sources["tuab"]
    assert len(source.sessions) == 11
    assert len({s.subject_id for s in source.sessions}) == 10
    for session in source.sessions:
        part, label = session.path.parts[-4:-2]
        i = "abcdefghij".index(session.subject[-1])
        assert session.official_split == part == ("train" if i < 6 else "eval")
        assert dict(session.labels) == {"abnormal": ("label", int(label == "abnormal"))}
        assert (session.age, session.sex) == (30 + i, "F" if i % 2 else "M")


def test_tuab_of_an_earlier_version_and_of_part_of_the_tree(copy_tree, tmp_path):
    old = tmp_path / "old" / "train" / "normal" / "01_tcp_ar" / "000" / "00000021"
    write_edf(old / "s004_2013_08_15" / "00000021_s004_t000.edf")
    (session,) = read_source(tmp_path / "old").sessions
    assert (session.subject, session.official_split, session.age) == ("00000021", "train", None)
    assert read_source(copy_tree("tuab") / "edf").layout == "tuab"


def test_tuep_is_labelled_by_patient_and_has_no_official_split(sources):
    source = sources["tuep"]
    assert {s.subject: s.labels["epilepsy"] for s in source.sessions} == {
        "aaaaaaa" + letter: ("label", int(letter in "abcd")) for letter in "abcdefgh"
    }
    assert {s.official_split for s in source.sessions} == {None}
    assert {s.path.parent.name for s in source.sessions} == {"01_tcp_ar", "02_tcp_le"}
    assert {s.age for s in source.sessions} == {None}  # 999 is no age


def test_a_tuep_patient_in_both_folders_is_an_error_that_names_no_patient(copy_tree):
    root = copy_tree("tuep")
    shutil.copytree(root / "00_epilepsy" / "aaaaaaab", root / "01_no_epilepsy" / "aaaaaaab")
    with pytest.raises(OpenclefError, match="1 patients lie in both") as caught:
        read_source(root)
    assert "aaaaaaab" not in str(caught.value)


@pytest.mark.parametrize("layout", ["tuab", "tuep", "heedb"])
def test_labels_that_a_layout_has_no_table_for_are_refused(trees, layout):
    with pytest.raises(OpenclefError, match=r"no table to take the label 'sex' from"):
        read_source(trees[layout], labels=["sex"])


# heedb


def heedb_session(source, folder, session="1"):
    (found,) = (s for s in source.sessions if f"sub-{folder}/ses-{session}/" in s.path.as_posix())
    return found


def test_heedb_reads_the_newest_table_of_each_site_whatever_its_headers(sources):
    source = sources["heedb"]
    assert source.n_missing == 1
    seen = {
        f"{s.site} {s.subject_id} {s.path.parts[-3]}": (s.age, s.sex, s.setting, s.race)
        for s in source.sessions
    }
    assert {key: value for key, value in seen.items() if key[0] == "S"} == {
        "S0001 1 ses-1": (40.0, "F", "routine", None),
        "S0001 1 ses-2": (41.0, "F", "ltm", None),
        "S0001 2 ses-1": (70.0, "M", None, "ASIAN"),  # only its findings and its patient row
        "S0001 3 ses-1": (90.0, "F", "icu_or", None),
        "S0001 4 ses-1": (70.0, "F", "emu", "ASIAN"),
        "S0002 4 ses-1": (50.5, "M", "icu_or", "ASIAN"),
        "S0002 5 ses-1": (50.5, "M", "icu_or", None),
        "S0002 6 ses-1": (50.5, "M", "icu_or", None),
    }
    born_1980 = heedb_session(source, "I00087")
    assert born_1980.age == pytest.approx(30, abs=0.01)
    assert born_1980.sex == "F"  # U in the visit, Female in the patients' table


def test_heedb_flags_assert_and_an_empty_cell_says_nothing(sources):
    source = sources["heedb"]
    assert len(source.findings) == 39
    assert {"sleep", "burst_suppression", "vertex_wave", "k_complexes"} < set(source.findings)
    one = heedb_session(source, "S00011")
    assert dict(one.findings) == {"abnormal": 1, "sleep": 1}  # two rows, N2 for n2
    assert dict(one.labels) == {"abnormal": ("finding", 1), "sleep": ("finding", 1)}
    normal = heedb_session(source, "S00012")
    assert dict(normal.findings) == {"normal": 1, "sleep": 1}
    assert dict(normal.labels) == {
        "sleep": ("finding", 1), **dict.fromkeys(DENIED_BY_NORMAL, ("finding", 0)),
    }  # fmt: skip
    assert not heedb_session(source, "S00011", "2").labels
    assert not heedb_session(source, "I00087").findings


def test_heedb_reports_by_the_table_or_by_their_own_name(sources):
    source = sources["heedb"]
    assert read_report(heedb_session(source, "S00011")) == "IMPRESSION: Slowing.\n"
    assert read_report(heedb_session(source, "S00025")) == "IMPRESSION: Normal.\n"
    assert sum(s.report_path is not None for s in source.sessions) == 2


def test_of_two_heedb_reports_with_one_name_neither_is_taken(copy_tree):
    root = copy_tree("heedb")
    shutil.copytree(root / "Neurology_Reports" / "2011", root / "Neurology_Reports" / "2012")
    assert {s.report_path for s in read_source(root).sessions} == {None}


def test_heedb_below_its_eeg_folder(trees):
    assert len(read_source(trees["heedb"] / "EEG").sessions) == 11


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        (HEEDB_METADATA_S0001, "SessionID", "Run", "no column sessionid, in any spelling"),
        (HEEDB_METADATA_S0001, "sub-S00013", "S13", "BidsFolder in 1 rows, the first in line 5"),
        (HEEDB_FINDINGS_S0001, "normal,abnormal,N2,n2", "a,b,c,d", "none of HEEDB's 39 flags"),
    ],
)
def test_a_heedb_table_that_cannot_serve_is_refused(copy_tree, table, old, new, message):
    root = copy_tree("heedb")
    (root / table).write_text((root / table).read_text().replace(old, new))
    with pytest.raises(OpenclefError, match=message):
        read_source(root)


def test_heedb_without_its_metadata_is_refused(copy_tree):
    root = copy_tree("heedb")
    shutil.rmtree(root / "EEG" / "eeg-metadata")
    with pytest.raises(OpenclefError, match=r"no eeg-metadata/<site>_eeg_metadata_<date>.csv"):
        read_source(root)


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("Routine", "routine"), ("rEEG", "routine"), ("LTM", "ltm"), ("cEEG", "ltm"),
        ("Long-term monitoring", "ltm"), ("EMU", "emu"), ("EMU LTM", "emu"), ("OR", "icu_or"),
        ("ICU/LTM", "icu_or"), ("NeuroICU", "icu_or"), ("Portable", None), (None, None),
    ],
)  # fmt: skip
def test_a_service_is_sorted_into_a_setting(service, name):
    assert setting(service) == name


# hsp, challenge2026


def test_hsp_has_nights_with_or_without_a_row(trees):
    source = read_source(trees["hsp"], labels=["StudyType"])
    assert [(s.subject_id, s.age, s.sex) for s in source.sessions] == [
        *((i, 20.0 + i, "M") for i in range(1, 8)), (8, None, None),
    ]  # fmt: skip
    tasks = [s.labels.get("StudyType=Split Night") for s in source.sessions]
    assert tasks == [("label", i % 2) for i in range(7)] + [None]
    with pytest.raises(OpenclefError, match="unknown label column of layout hsp 'Study'"):
        read_source(trees["hsp"], labels=["Study"])


def test_the_challenge_brings_its_label_and_no_annotations(trees, sources):
    source = sources["challenge2026"]
    assert source.n_missing == 1
    assert len(source.sessions) == 8
    labels = {s.subject_id: dict(s.labels) for s in source.sessions}
    assert labels == {
        i: {"cognitive_impairment": ("label", -1 if i == 8 else int(i % 2 == 0))}
        for i in range(1, 9)
    }
    assert Counter((s.site, s.race) for s in source.sessions) == {
        (site, race): 2 for site in ("S0001", "I0002") for race in ("WHITE", None)
    }
    more = read_source(trees["challenge2026"], labels=["Race", "Cognitive_Impairment"])
    assert set(more.sessions[0].labels) == {"cognitive_impairment", "Race=White"}


@pytest.mark.parametrize("word", ["2", "maybe"])
def test_impairment_is_true_false_or_blank(copy_tree, word):
    table = copy_tree("challenge2026") / "demographics.csv"
    table.write_text(table.read_text().replace("True", word, 1))
    with pytest.raises(OpenclefError, match=rf"Cognitive_Impairment is '{word}'; allowed: true"):
        read_source(table.parent)
