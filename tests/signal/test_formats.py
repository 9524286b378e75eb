"""Files -> recordings: units, windows, gaps, and what is refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest

from openclef.errors import RecordingError
from openclef.signal import crop, open_recording, read_recording, window_bounds_s
from openclef.types import CHANNELS, Recording

SFREQ_HZ = 128


def write_edf(
    path: Path,
    signals_uv: dict[str, np.ndarray],
    *,
    unit: str = "uV",
    sfreq_hz: dict[str, int] | None = None,
    annotated: bool = False,
) -> Path:
    """Write microvolts as they are, whatever `unit` then claims of them."""
    rates = sfreq_hz or {}
    edfio.Edf(
        [
            edfio.EdfSignal(
                signal,
                rates.get(label, SFREQ_HZ),
                label=label,
                physical_dimension=unit,
                physical_range=(-1000, 1000),
            )
            for label, signal in signals_uv.items()
        ],
        starttime=None,
        data_record_duration=1,
        annotations=[edfio.EdfAnnotation(1, None, "BAD artefact")] if annotated else None,
    ).write(path)
    return path


def noise(duration_s: float, *, seed: int = 0, sfreq_hz: int = SFREQ_HZ) -> np.ndarray:
    return 20 * np.random.default_rng(seed).standard_normal(round(duration_s * sfreq_hz))


@pytest.mark.parametrize(
    ("duration_s", "lengths_s"),
    [
        (4, [4]),
        (59, [59]),  # below the minimum of a last window, but all there is
        (1280, [1280]),
        (1339.9, [1280]),
        (1340, [1280, 60]),
        (3000, [1280, 1280, 440]),
    ],
)
def test_windows_last_1280_s_and_a_last_one_below_60_s_is_dropped(
    duration_s: float, lengths_s: list[float]
) -> None:
    bounds = window_bounds_s(duration_s)
    assert [stop - start for start, stop in bounds] == pytest.approx(lengths_s)
    assert [start for start, _ in bounds] == [1280 * i for i in range(len(bounds))]


def test_microvolts_come_back_as_written_with_the_19_only(tmp_path: Path) -> None:
    written = {"EEG C4-REF": noise(10), "EKG": noise(10, seed=1), "EEG T7-REF": noise(10, seed=2)}
    path = write_edf(tmp_path / "a.edf", written, annotated=True)
    recording = read_recording(path)
    assert recording.ch_names == ("T3", "C4")
    assert recording.sfreq_hz == SFREQ_HZ
    assert recording.signal_uv.dtype == np.float32
    half_step_uv = 2000 / 65535
    np.testing.assert_allclose(recording.signal_uv[0], written["EEG T7-REF"], atol=half_step_uv)
    np.testing.assert_allclose(recording.signal_uv[1], written["EEG C4-REF"], atol=half_step_uv)
    assert recording.provenance["reference"] == "REF"


def test_iter_windows_is_the_whole_file_cut(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(1400), "Cz": noise(1400, seed=1)})
    file = open_recording(path)
    windows = list(file.iter_windows())
    assert len(windows) == file.n_windows == 2
    assert [w.start_s for w in windows] == [0.0, 1280.0]
    whole = read_recording(path)
    joined = np.concatenate([w.signal_uv for w in windows], axis=1)
    np.testing.assert_array_equal(joined, whole.signal_uv)


def test_a_window_with_the_headbox_off_is_skipped(tmp_path: Path) -> None:
    signal_uv = noise(1400)
    signal_uv[: 1280 * SFREQ_HZ] = 0.0
    path = write_edf(tmp_path / "a.edf", {"C3": signal_uv})
    assert [w.start_s for w in open_recording(path).iter_windows()] == [1280.0]


def test_of_two_channels_of_one_electrode_the_first_wins(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"T3": noise(5), "T7": noise(5, seed=1)})
    recording = read_recording(path)
    assert recording.ch_names == ("T3",)
    np.testing.assert_allclose(recording.signal_uv[0], noise(5), atol=0.05)


def test_a_faster_ecg_does_not_change_the_rate_of_the_eeg(tmp_path: Path) -> None:
    signals = {"C3": noise(6), "ECG": noise(6, sfreq_hz=512)}
    path = write_edf(tmp_path / "a.edf", signals, sfreq_hz={"ECG": 512})
    recording = read_recording(path)
    assert recording.sfreq_hz == SFREQ_HZ
    assert "resampled" not in recording.provenance


def test_electrodes_of_mixed_rates_are_told(tmp_path: Path) -> None:
    signals = {"C3": noise(6), "C4": noise(6, sfreq_hz=256)}
    recording = read_recording(write_edf(tmp_path / "a.edf", signals, sfreq_hz={"C4": 256}))
    assert recording.sfreq_hz == 256
    assert recording.provenance["resampled"] == "channels at 128, 256 Hz brought to the highest"


@pytest.mark.parametrize(("unit", "shown"), [("", "blank unit"), ("V", "'V'"), ("nV", "'nV'")])
def test_a_wrong_unit_is_refused_by_the_amplitude_it_gives(
    tmp_path: Path, unit: str, shown: str
) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(5)}, unit=unit)
    with pytest.raises(RecordingError, match=rf"a\.edf: typical amplitude .* uV .*{shown}"):
        read_recording(path)
    with pytest.raises(RecordingError, match=r"\(0\.1 to 5000 uV\)"):
        next(open_recording(path).iter_windows())


def test_flat_channels_do_not_count_but_a_flat_file_is_refused(tmp_path: Path) -> None:
    flat = np.full(5 * SFREQ_HZ, 300.0)
    some = write_edf(tmp_path / "some.edf", {"C3": noise(5), "C4": flat, "Cz": flat})
    assert len(read_recording(some).ch_names) == 3
    every = write_edf(tmp_path / "all.edf", {"C3": flat, "C4": flat})
    with pytest.raises(RecordingError, match=r"all\.edf: all 2 EEG channels are flat"):
        read_recording(every)


def as_edf_plus_d(path: Path, onset_of: dict[int, str]) -> None:
    """Turn an EDF+C of 1-s records into EDF+D, with some records at other times."""
    content = bytearray(path.read_bytes())
    content[192:197] = b"EDF+D"
    for record, onset in onset_of.items():
        old, new = (f"+{text}\x14\x14\x00".encode() for text in (record, onset))
        at = content.rindex(old) if record else content.index(old)
        content[at : at + len(old)] = new
    path.write_bytes(content)


def test_edf_plus_d_without_gaps_is_read(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(8)}, annotated=True)
    as_edf_plus_d(path, {})
    assert read_recording(path).duration_s == 8


def test_edf_plus_d_with_a_gap_is_refused(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(8)}, annotated=True)
    as_edf_plus_d(path, {5: "6", 6: "7", 7: "8"})
    with pytest.raises(RecordingError, match=r"a\.edf: discontinuous .* 1 break.* 1 s at 5 s"):
        open_recording(path)


def test_nan_samples_are_refused_by_channel(tmp_path: Path) -> None:
    data_v = 1e-5 * np.random.default_rng(0).standard_normal((2, 2000))
    data_v[1, 700] = np.nan
    raw = mne.io.RawArray(data_v, mne.create_info(["C3", "Pz"], 200.0, "eeg"), verbose="ERROR")
    path = tmp_path / "a_raw.fif"
    raw.save(path, verbose="ERROR")
    with pytest.raises(RecordingError, match=r"a_raw\.fif: .*NaN.* in Pz"):
        read_recording(path)


def test_what_is_no_recording_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.edf").write_text("not an EDF, but long enough to hold its header" * 9)
    (tmp_path / "short.edf").write_text("0")
    (tmp_path / "empty.bdf").touch()
    (tmp_path / "notes.docx").write_text("x")
    for name, cause in {
        "absent.edf": "no such file",
        "text.edf": "not an EDF or BDF file",
        "short.edf": "truncated EDF header",
        "empty.bdf": "empty file",
        "notes.docx": r"known are \.edf \.bdf",
    }.items():
        with pytest.raises(RecordingError, match=rf"{name}: .*{cause}"):
            open_recording(tmp_path / name)
    with pytest.raises(RecordingError, match="a folder, not a recording"):
        open_recording(tmp_path)


def test_shorter_than_4_s_is_refused(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(3)})
    with pytest.raises(RecordingError, match="lasts 3 s, shorter than the 4 s"):
        open_recording(path)


def test_damaged_files_end_in_a_recording_or_one_recording_error(tmp_path: Path) -> None:
    whole = write_edf(tmp_path / "whole.edf", {"C3": noise(8)}, annotated=True).read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.5 else whole)
        for at in rng.integers(0, min(800, len(content)), 6):
            content[at] = rng.integers(32, 127)
        path = tmp_path / "damaged.edf"
        path.write_bytes(content)
        try:
            assert read_recording(path).ch_names == ("C3",)
        except RecordingError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 60
    assert all("damaged.edf: " in message for message in messages)


def test_crop_keeps_the_first_seconds() -> None:
    signal_uv = np.arange(2000, dtype=np.float32)[np.newaxis]
    gaps = ((1.0, 2.0), (5.0, 9.0), (8.0, 9.0))
    recording = Recording(signal_uv, 200.0, ("C3",), np.zeros(1, np.bool_), gaps=gaps)
    cropped = crop(recording, duration_s=6)
    np.testing.assert_array_equal(cropped.signal_uv, signal_uv[:, :1200])
    assert cropped.gaps == ((1.0, 2.0), (5.0, 6))
    for wrong_s in (3.9, 10.5):
        with pytest.raises(RecordingError, match=rf"crop to {wrong_s:g} s: from 4 s up to .* 10 s"):
            crop(recording, duration_s=wrong_s)


# The odd, varied and broken files of format_zoo: (channels of the 19, Hz, seconds), or the words
# of the error.
ZOO_READ = {
    "chtypes_edf.edf": (19, 200, 5),
    "derived_24bit.bdf": (19, 500, 24),
    "derived_bad_startdate.edf": (19, 500, 24),
    "derived_clinical_annotations.edf": (19, 500, 24),
    "derived_missing_channels.edf": (16, 500, 24),
    "derived_modern_names_reordered.edf": (19, 500, 24),
    "derived_nrecords_minus1.edf": (19, 500, 24),
    "derived_raw.fif": (19, 500, 24),
    "derived_truncated_midrecord.edf": (19, 500, 10),
    "derived_tuh_style_names.edf": (19, 500, 24),
    "derived_units_V.edf": (19, 500, 24),
    "edfio_test_subsecond.edf": (1, 128, 698),
    "eegmat_8ch_Subject00_2.edf": (8, 500, 62),
    "mne_test_edf_stim_channel.edf": (19, 128, 9.59375),
}
ZOO_REFUSED = {
    "Brainvision": "a folder",
    "Brainvision/test_NO.eeg": r"open test_NO\.vhdr beside it",
    "Brainvision/test_NO.vhdr": r"no channel is one of the 19 .* given \(65\): 1, 2",
    "Brainvision/test_NO.vmrk": r"open test_NO\.vhdr beside it",
    "README.md": "not an EEG format openclef knows",
    "SC4001EC-Hypnogram.edf": r"given \(0\): none",
    "derived_bad_physmin.edf": "physical minimum of signal 'EEG Fp1' is 'abc', expected a number",
    "derived_bipolar_banana.edf": "18 of them: bipolar derivation",
    "derived_empty.edf": "empty file",
    "derived_header_only.edf": "no data",
    "guinea_bissau_signal-1.csv.gz": "not an EEG format",
    "iiic_GPD_sample1.mat": "not an EEG format",
    "index.csv": "not an EEG format",
    "mne_test.bdf": "lasts 1 s",
    "mne_test_uneven_samp.edf": r"given \(2\): 3Hz",
    "short_psg.bdf": "2 of them: bipolar derivation",
    "short_psg.edf": "2 of them: bipolar derivation",
    "test_1ch.gdf": r"given \(1\): ECG",
    "test_CA_208.cnt": r"not a readable \.cnt recording",
    "test_egi.raw": "not an EEG format",
    "test_raw.fdt": r"open test_raw\.set beside it",
    "test_raw.set": "EEG 000",
    "test_reduced.edf": "numbered grid or cap",
}


@pytest.mark.real_data
def test_every_file_of_the_zoo_has_an_expectation(real_data: Path) -> None:
    zoo = real_data / "format_zoo"
    files = {str(path.relative_to(zoo)) for path in zoo.rglob("*")}
    assert files == ZOO_READ.keys() | ZOO_REFUSED.keys()


@pytest.mark.real_data
@pytest.mark.parametrize("name", ZOO_READ)
def test_zoo_files_that_are_read(real_data: Path, name: str) -> None:
    n_chans, sfreq_hz, duration_s = ZOO_READ[name]
    recording = read_recording(real_data / "format_zoo" / name)
    assert len(recording.ch_names) == len(set(recording.ch_names) & set(CHANNELS)) == n_chans
    assert recording.sfreq_hz == sfreq_hz
    assert recording.duration_s == duration_s


@pytest.mark.real_data
@pytest.mark.parametrize("name", ZOO_REFUSED)
def test_zoo_files_that_are_refused(real_data: Path, name: str) -> None:
    with pytest.raises(RecordingError, match=ZOO_REFUSED[name]) as caught:
        read_recording(real_data / "format_zoo" / name)
    assert str(real_data / "format_zoo" / name) in str(caught.value)


@pytest.mark.real_data
@pytest.mark.parametrize("name", [name for name in ZOO_READ if name.startswith("derived_")])
def test_whatever_the_format_and_unit_the_microvolts_agree(real_data: Path, name: str) -> None:
    """All derive from one recording; they differ by no more than the step of a 16-bit file."""
    expected = read_recording(real_data / "format_zoo" / "derived_24bit.bdf")
    recording = read_recording(real_data / "format_zoo" / name)
    rows = [expected.ch_names.index(channel) for channel in recording.ch_names]
    n_times = recording.signal_uv.shape[1]
    np.testing.assert_allclose(
        recording.signal_uv, expected.signal_uv[rows, :n_times], atol=0.002, rtol=0
    )


@pytest.mark.real_data
def test_headers_tell_truncation_and_survive_a_bad_date(real_data: Path) -> None:
    zoo = real_data / "format_zoo"
    truncated = open_recording(zoo / "derived_truncated_midrecord.edf")
    assert truncated.provenance["truncated"] == "10 of 24 records present"
    assert truncated.start_time == datetime(2010, 1, 1)
    assert open_recording(zoo / "derived_bad_startdate.edf").start_time is None
