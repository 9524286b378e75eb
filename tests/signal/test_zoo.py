"""Real files, odd and broken ones: each is exactly one recording or one clear error (zoo.csv).

Columns of the table: outcome `read` or `refused`; n_channels of the 19, sfreq_hz, duration_s, the
verdict on the unit and what the provenance notes of a file that is read (`name=text; ...`); the
cause that the error of a refused one gives, where `*` stands for anything.
"""

from __future__ import annotations

import csv
import re
from datetime import datetime
from pathlib import Path

import mne
import numpy as np
import pytest

from openclef.errors import RecordingError
from openclef.signal import open_recording, read_recording
from openclef.types import CHANNELS

pytestmark = pytest.mark.real_data

with Path(__file__).with_name("zoo.csv").open(encoding="utf-8", newline="") as _table:
    EXPECTED = {row["file"]: row for row in csv.DictReader(_table)}
READ = [name for name, row in EXPECTED.items() if row["outcome"] == "read"]
REFUSED = [name for name, row in EXPECTED.items() if row["outcome"] == "refused"]


@pytest.fixture(scope="module")
def zoo(real_data: Path) -> Path:
    return real_data / "format_zoo"


def test_every_file_has_an_expectation(zoo: Path) -> None:
    assert {str(path.relative_to(zoo)) for path in zoo.rglob("*")} == EXPECTED.keys()
    assert len(READ) + len(REFUSED) == len(EXPECTED)


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_the_recording_expected(zoo: Path, name: str) -> None:
    row = EXPECTED[name]
    file = open_recording(zoo / name)
    recording = read_recording(zoo / name)
    assert len(set(recording.ch_names) & set(CHANNELS)) == int(row["n_channels"])
    assert len(recording.ch_names) == int(row["n_channels"])
    assert recording.sfreq_hz == float(row["sfreq_hz"])
    assert recording.duration_s == file.duration_s == float(row["duration_s"])
    assert recording.gaps == ()
    assert file.unit == row["unit"]
    told = {k: v for k, v in recording.provenance.items() if k not in {"format", "reference"}}
    assert "; ".join(f"{key}={text}" for key, text in told.items()) == row["notes"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_file_and_cause(zoo: Path, name: str) -> None:
    cause = ".*".join(re.escape(part.strip()) for part in EXPECTED[name]["cause"].split("*"))
    with pytest.raises(RecordingError, match=cause) as caught:
        read_recording(zoo / name)
    assert str(caught.value).startswith(f"{zoo / name}: ")


# MNE warns of some, and cannot open one: the range of a signal is no number.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in READ if name != "derived_bad_physmin.edf"])
def test_microvolts_are_those_of_mne(zoo: Path, name: str) -> None:
    raw = mne.io.read_raw(zoo / name, preload=True, verbose="ERROR")
    file = open_recording(zoo / name)
    recording = file.read(start_s=0, stop_s=file.duration_s)
    expected = raw.get_data(picks=list(file.montage.picks)) * 1e6
    n_times = recording.signal_uv.shape[1]
    assert n_times == expected.shape[1]
    np.testing.assert_allclose(recording.signal_uv, expected, rtol=1e-5, atol=0.01)
    if file.start_time is not None:
        assert file.start_time.replace(microsecond=0) == raw.info["meas_date"].replace(
            tzinfo=None, microsecond=0
        )


@pytest.mark.parametrize("name", [name for name in READ if name.startswith("derived_")])
def test_all_that_derives_from_one_recording_agrees(zoo: Path, name: str) -> None:
    """Whatever the format and unit: no more apart than a step of 16 bits."""
    expected = read_recording(zoo / "derived_24bit.bdf")
    recording = read_recording(zoo / name)
    rows = [expected.ch_names.index(channel) for channel in recording.ch_names]
    n_times = recording.signal_uv.shape[1]
    np.testing.assert_allclose(
        recording.signal_uv, expected.signal_uv[rows, :n_times], atol=0.002, rtol=0
    )


def test_a_start_is_told_where_it_is_possible(zoo: Path) -> None:
    truncated = open_recording(zoo / "derived_truncated_midrecord.edf")
    assert truncated.start_time == datetime(2010, 1, 1)
    assert open_recording(zoo / "derived_bad_startdate.edf").start_time is None
