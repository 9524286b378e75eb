"""Each wrong input: one clear line on stderr, exit code 2, nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import edfio
import numpy as np
import polars as pl
import pytest
from command import openclef

from openclef.cohort.store import Cohort


def write_edf(path: Path, labels: list[str], seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    signals = [
        edfio.EdfSignal(
            20 * rng.standard_normal(200 * 20), 200, label=label, physical_dimension="uV",
            physical_range=(-500, 500),
        )
        for label in labels
    ]  # fmt: skip
    edfio.Edf(signals).write(path)


def make_folder(
    folder: Path, *, n_patients: int = 6, labels: list[str] | None = None, diagnosis: str = "ab"
) -> Path:
    folder.mkdir()
    rows = []
    for i in range(n_patients):
        write_edf(folder / f"{i}.edf", labels or ["Fp1", "O1", "C3"], seed=i)
        rows.append(f"p{i},{i}.edf,{diagnosis[i % len(diagnosis)]}")
    (folder / "labels.csv").write_text("subject,file,diagnosis\n" + "\n".join(rows) + "\n")
    return folder


def refused(source: Path, out: Path, *more: object) -> str:
    done = openclef("run", source, "--out", out, "--recipe", "tiny", *more)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("openclef: error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    assert not out.exists()
    return errors[0]


LABEL = ("--label", "diagnosis")


def test_a_missing_path(tmp_path):
    assert "no such folder" in refused(tmp_path / "nothing", tmp_path / "out", *LABEL)


def test_a_process_of_its_own_says_the_same(tmp_path):
    command = [
        sys.executable,
        "-m",
        "openclef",
        "run",
        tmp_path / "nothing",
        "--out",
        "out",
        *LABEL,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty folder" in refused(tmp_path / "empty", tmp_path / "out", *LABEL)


def test_a_file_in_the_place_of_a_data_set(tmp_path):
    (tmp_path / "notes.edf").write_text("no EEG")
    assert "is a file" in refused(tmp_path / "notes.edf", tmp_path / "out", *LABEL)


def test_files_that_are_no_eeg(tmp_path):
    source = make_folder(tmp_path / "source")
    for path in source.glob("*.edf"):
        path.write_text("a letter to the editor")
    assert "no recording could be read" in refused(source, tmp_path / "out", *LABEL)


def test_no_channel_in_common_with_the_19(tmp_path):
    source = make_folder(tmp_path / "source", labels=["ECG", "SpO2"])
    message = refused(source, tmp_path / "out", *LABEL)
    assert "ECG" in message
    assert "Fp1" in message


def test_an_unknown_label_column_names_the_nearest(tmp_path):
    source = make_folder(tmp_path / "source")
    message = refused(source, tmp_path / "out", "--label", "diagnose")
    assert "did you mean 'diagnosis'?" in message


def test_a_folder_without_a_label_names_the_columns(tmp_path):
    source = make_folder(tmp_path / "source")
    assert "columns: diagnosis" in refused(source, tmp_path / "out")


def test_a_single_class(tmp_path):
    source = make_folder(tmp_path / "source", diagnosis="a")
    assert "single class" in refused(source, tmp_path / "out", *LABEL)


def test_fewer_patients_than_splits(tmp_path):
    source = make_folder(tmp_path / "source", n_patients=3)
    assert "3 patients cannot be split" in refused(source, tmp_path / "out", *LABEL)


def test_an_unknown_recipe_names_the_nearest(tmp_path):
    source = make_folder(tmp_path / "source")
    message = refused(source, tmp_path / "out", *LABEL, "--recipe", "deno")
    assert "did you mean 'demo'?" in message


def test_an_unknown_layout_names_the_nearest(tmp_path):
    source = make_folder(tmp_path / "source")
    message = refused(source, tmp_path / "out", *LABEL, "--layout", "foldr")
    assert "did you mean 'folder'?" in message


def test_an_output_that_is_something_else(tmp_path):
    source = make_folder(tmp_path / "source")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    done = openclef("run", source, "--out", tmp_path / "out", *LABEL)
    assert done.returncode == 2
    assert "not an earlier run" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--crop", "banana", "give auto, equal, none or at least 4 seconds"),
        ("--crop", "inf", "at least 4 seconds"),
        ("--windows", "last", "allowed: all, first, random"),
        ("--unit", "uv", "did you mean 'uV'?"),
        ("--line-hz", "55", "allowed are 50 and 60"),
        ("--engine", "dask", "allowed: local, ray"),
        ("--address", "head:6379", "only --engine ray has one"),
    ],
)
def test_an_option_that_cannot_serve_is_told_before_the_data_set_is_looked_at(
    tmp_path, option, value, message
):
    done = openclef("ingest", tmp_path / "nothing", tmp_path / "out", option, value)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_ingest_with_other_labels_than_the_cohort_has_is_refused(tmp_path):
    source = make_folder(tmp_path / "source")
    assert openclef("ingest", source, tmp_path / "out", *LABEL).returncode == 0
    again = openclef("ingest", source, tmp_path / "out", *LABEL)
    assert (again.returncode, "6 sessions of 6 patients" in again.stdout) == (0, True)
    other = openclef("ingest", source, tmp_path / "out")
    assert other.returncode == 2
    assert "another choice of labels: ['diagnosis'] there, [] asked" in other.stderr


def test_ingest_needs_no_torch_and_no_mne():
    """What starts with every worker is waited for by everyone."""
    code = (
        "import sys, openclef.cohort.ingest, openclef.cohort.store; "
        "print(sorted({'torch', 'mne', 'sklearn', 'matplotlib', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_existing_output_of_another_configuration(finished_run, hospital):
    done = openclef("run", hospital, "--out", finished_run, "--recipe", "demo")
    assert done.returncode == 2
    assert done.stderr.count("openclef: error: ") == 1
    assert "another configuration" in done.stderr
    assert "there" in done.stderr


def test_embedding_a_file_that_is_no_eeg_writes_nothing(finished_run, tmp_path):
    (tmp_path / "notes.edf").write_text("no EEG")
    out = tmp_path / "e.parquet"
    done = openclef(
        "embed", tmp_path / "notes.edf", "--model", finished_run / "model", "--out", out
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_embedding_never_overwrites(finished_run, hospital, tmp_path):
    recording = next(hospital.glob("sub-*/**/*.edf"))
    (tmp_path / "e.parquet").write_text("mine")
    done = openclef(
        "embed", recording, "--model", finished_run / "model", "--out", tmp_path / "e.parquet"
    )
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert (tmp_path / "e.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    "verb",
    ["demo", "run", "simulate", "ingest", "train tokenizer", "train encoder", "train align",
     "train pool", "tokenize", "pack", "embed", "benchmark"],
)  # fmt: skip
def test_every_verb_has_help_with_an_example(verb):
    done = openclef(*verb.split(), "--help")
    assert done.returncode == 0
    assert f"openclef {verb}" in " ".join(done.stdout.split("Example:")[1].split())


def test_a_plain_folder_with_one_bad_file_ends_with_a_table(tmp_path):
    """10 to 20 s recordings, three channels, no reports and no records: still benchmarked."""
    source = make_folder(tmp_path / "source", n_patients=12)
    (source / "3.edf").write_text("no EEG")
    out = tmp_path / "out"
    done = openclef("run", source, "--out", out, "--recipe", "tiny", *LABEL)
    assert done.returncode == 0, done.stderr
    assert "skipped, this data set has neither reports nor health records" in done.stdout
    assert "1 recordings could not be read" in done.stdout
    assert "too few" in done.stdout
    assert Cohort(out / "cohort").table("errors").height == 1
    assert pl.read_parquet(out / "benchmark" / "results.parquet").height > 0
    again = openclef("run", source, "--out", out, "--recipe", "tiny", *LABEL)
    assert again.returncode == 0
    shutil.rmtree(out)
