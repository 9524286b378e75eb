import pytest
from trees import write_text

from openclef.cohort.sidecars import ChannelsTsv, read_channels_tsv
from openclef.errors import RecordingError


def test_bad_channels_and_units_of_a_bids_recording(trees):
    (recording,) = (trees["bids"] / "sub-p2").rglob("*_eeg.edf")
    told = read_channels_tsv(recording)
    assert told.bad == {"Fz"}
    assert told.units["Fp1"] == "uV"
    assert len(told.units) == 19


def test_blank_cells_short_rows_and_odd_headers(tmp_path):
    table = "\ufeffName\ttype\tUnits\tSTATUS\nFp1\tEEG\tn/a\tgood\nFz \tEEG\tmV\tBAD\nCz"
    write_text(tmp_path / "sub-a_eeg.edf", "")
    write_text(tmp_path / "sub-a_channels.tsv", table)
    assert read_channels_tsv(tmp_path / "sub-a_eeg.edf") == ChannelsTsv(
        frozenset({"Fz"}), {"Fz": "mV"}
    )


def test_a_recording_without_a_table_is_told_nothing(tmp_path):
    write_text(tmp_path / "sub-b_channels.tsv", "name\nFz\n")
    write_text(tmp_path / "_channels.tsv", "name\nFz\n")
    for name in ("sub-a_eeg.edf", "aaaaaaab_s001_t000.edf"):
        assert read_channels_tsv(tmp_path / name) is None


@pytest.mark.parametrize(
    ("text", "message"), [("label\tstatus\nFz\tbad", "'name'"), ("", "its 0 columns")]
)
def test_a_table_without_names_is_refused(tmp_path, text, message):
    write_text(tmp_path / "sub-a_channels.tsv", text)
    with pytest.raises(RecordingError, match=message):
        read_channels_tsv(tmp_path / "sub-a_eeg.edf")
