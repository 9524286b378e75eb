"""Files -> recordings: units, windows, gaps, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import edfio
import numpy as np
import pytest

from openclef.errors import OpenclefError, RecordingError
from openclef.signal import open_recording, read_recording, window_bounds_s

SFREQ_HZ = 128


def write_edf(
    path: Path,
    signals_uv: dict[str, np.ndarray],
    *,
    unit: str = "uV",
    sfreq_hz: dict[str, int] | None = None,
    annotated: bool = False,
    limit: float = 1000,
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
                physical_range=(-limit, limit),
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
    assert len(windows) == len(file.window_bounds_s()) == 2
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


def tone_uv(duration_s: float, sfreq_hz: int, *, hz: float = 7.0) -> np.ndarray:
    return 300 + 50 * np.sin(2 * np.pi * hz * np.arange(round(duration_s * sfreq_hz)) / sfreq_hz)


@pytest.mark.parametrize(("common", "other"), [(128, 256), (256, 128), (200, 256), (500, 100)])
def test_electrodes_of_mixed_rates_are_brought_to_the_commonest(
    tmp_path: Path, common: int, other: int
) -> None:
    rates = {"C3": common, "C4": other, "Cz": common}
    signals = {label: tone_uv(1300, rate) for label, rate in rates.items()}
    file = open_recording(write_edf(tmp_path / "a.edf", signals, sfreq_hz=rates))
    assert file.sfreq_hz == common
    shown = ", ".join(f"{n} at {rate}" for rate, n in sorted({common: 2, other: 1}.items()))
    told = f"electrodes of several rates ({shown} Hz) to {common} Hz"
    assert file.provenance["resampled"] == told
    for start_s, stop_s in [(0, 1280), (1000.25, 1300)]:
        recording = file.read(start_s=start_s, stop_s=stop_s)
        expected = tone_uv(1300, common)[round(start_s * common) : round(stop_s * common)]
        inner = slice(round(0.5 * common), round(-0.5 * common))
        assert recording.signal_uv.shape == (3, len(expected))
        np.testing.assert_allclose(recording.signal_uv[0], expected, atol=0.05)
        np.testing.assert_allclose(recording.signal_uv[2, inner], expected[inner], atol=0.5)
        np.testing.assert_allclose(recording.signal_uv[2], expected, atol=25)


def test_of_as_many_electrodes_the_higher_rate_wins(tmp_path: Path) -> None:
    signals = {"C3": noise(6), "C4": noise(6, sfreq_hz=256)}
    recording = read_recording(write_edf(tmp_path / "a.edf", signals, sfreq_hz={"C4": 256}))
    assert recording.sfreq_hz == 256


def test_mixed_rates_leave_gaps_empty_and_ring_nowhere(tmp_path: Path) -> None:
    rates = {"C3": 128, "C4": 100, "Cz": 128}
    signals = {label: tone_uv(20, rate) for label, rate in rates.items()}
    path = write_edf(tmp_path / "a.edf", signals, sfreq_hz=rates, annotated=True)
    as_edf_plus_d(path, {i: str(i + 5) for i in range(8, 20)})
    recording = open_recording(path).read(start_s=0, stop_s=25)
    assert recording.gaps == ((8.0, 13.0),)
    expected = tone_uv(20, 128)
    gap = slice(8 * 128, 13 * 128)
    assert not recording.signal_uv[:, gap].any()
    without = np.delete(recording.signal_uv, np.r_[gap], axis=1)
    np.testing.assert_allclose(without[[0, 1]], [expected] * 2, atol=0.05)
    assert np.abs(without[2] - expected).max() < 30  # the tone starts anew at each edge
    far = np.abs(np.arange(len(expected)) - 8 * 128) > 64
    far &= (np.arange(len(expected)) > 64) & (np.arange(len(expected)) < len(expected) - 64)
    np.testing.assert_allclose(without[2, far], expected[far], atol=0.5)


def test_an_electrode_too_slow_for_32_hz_is_left_out_and_told(tmp_path: Path) -> None:
    signals = {"C3": noise(6), "C4": noise(6, sfreq_hz=32)}
    recording = read_recording(write_edf(tmp_path / "a.edf", signals, sfreq_hz={"C4": 32}))
    assert recording.ch_names == ("C3",)
    assert recording.provenance["unusable_signals"] == "C4: sampled at 32 Hz, below 64"
    path = write_edf(tmp_path / "slow.edf", {"C4": noise(6, sfreq_hz=32)}, sfreq_hz={"C4": 32})
    with pytest.raises(RecordingError, match=r"sampled at 32 Hz; EEG of 0-32 Hz has from 64"):
        open_recording(path)


def test_a_blank_unit_is_assumed_and_flagged_where_only_microvolts_fit(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(5)}, unit="")
    assert open_recording(path).unit == "assumed uV (none stated that is known)"
    np.testing.assert_allclose(read_recording(path).signal_uv[0], noise(5), atol=0.02)
    for factor in (0.05, 100):  # 1 and 2000 of an unknown unit
        path = write_edf(tmp_path / "b.edf", {"C3": noise(5) * factor}, unit="", limit=10_000)
        with pytest.raises(RecordingError, match=r"assumed uV.*not that of EEG \(2 to 1000 uV"):
            read_recording(path)


def test_a_unit_of_the_file_beats_the_sidecar_and_both_give_way_to_the_user(tmp_path: Path) -> None:
    beside = {"C3": "mV"}
    for stated, expected in (("", 1e3), ("uV", 1.0)):
        path = write_edf(tmp_path / f"{stated or 'blank'}.edf", {"C3": noise(5)}, unit=stated)
        file = open_recording(path, units_beside=beside)
        assert file.unit == ("uV" if stated else "mV")
        assert ("units_beside" in file.provenance) == (not stated)
        signal_uv = file.read(start_s=0, stop_s=5).signal_uv[0]
        np.testing.assert_allclose(signal_uv, noise(5) * expected, atol=0.02 * expected)
        told = open_recording(path, units_beside=beside, unit="V")
        assert told.unit == "V, as told"
        assert told.read(start_s=0, stop_s=5).signal_uv.std() == pytest.approx(2e7, rel=0.05)
    with pytest.raises(OpenclefError, match="unknown unit 'kV'; allowed: V, mV, nV, uV"):
        open_recording(path, unit="kV")


@pytest.mark.parametrize(("unit", "to"), [("V", "uV"), ("nV", "uV"), ("mV", "uV")])
def test_a_wrong_unit_is_refused_by_the_amplitude_it_gives(
    tmp_path: Path, unit: str, to: str
) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(5)}, unit=unit)
    cause = (
        rf"a\.edf: typical amplitude .* uV \(unit {unit}\) is not that of EEG \(0\.1 to 5000 uV\)"
        rf"; it would be (19\.\d|20|20\.\d) uV if the numbers were {to}"
    )
    with pytest.raises(RecordingError, match=cause):
        read_recording(path)
    with pytest.raises(RecordingError, match=cause):
        next(open_recording(path).iter_windows())
    np.testing.assert_allclose(read_recording(path, unit=to).signal_uv[0], noise(5), atol=0.02)


def edit_signal(path: Path, signal: int, start: int, width: int, text: str) -> None:
    """Overwrite a field of a signal's header; start: of its column, in bytes a signal."""
    content = bytearray(path.read_bytes())
    at = 256 + start * int(content[252:256]) + width * signal
    content[at : at + width] = text.encode().ljust(width)
    path.write_bytes(content)


def test_a_faulty_signal_is_left_out_and_told_and_its_namesake_is_not(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(5), "C4": noise(5, seed=1), "Cz": noise(5)})
    edit_signal(path, 0, 104, 8, "abc")
    edit_signal(path, 1, 0, 16, "C3")
    file = open_recording(path)
    recording = file.read(start_s=0, stop_s=5)
    assert recording.ch_names == ("C3", "Cz")
    np.testing.assert_allclose(recording.signal_uv[0], noise(5, seed=1), atol=0.02)
    why = "C3: its physical and digital ranges are not all numbers"
    assert recording.provenance["unusable_signals"] == why
    assert file.montage.labels == ("C3", "C3", "Cz")
    assert file.montage.dropped == ((0, "marked bad"),)


def test_channels_told_to_be_bad_are_left_out(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(5), "C4": noise(5)})
    assert open_recording(path, bad=["C3"]).montage.names == ("C4",)
    with pytest.raises(RecordingError, match="marked bad"):
        open_recording(path, bad=["C3", "C4"])


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
        content[at : at + len(new)] = new  # the rest of the annotations is padding
    path.write_bytes(content)


def test_edf_plus_d_without_gaps_is_read(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(8)}, annotated=True)
    as_edf_plus_d(path, {})
    assert read_recording(path).duration_s == 8


def test_a_gap_stays_a_gap_in_every_window(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(8)}, annotated=True)
    as_edf_plus_d(path, {5: "6", 6: "7", 7: "8"})
    recording = read_recording(path)
    assert recording.gaps == ((5.0, 6.0),)
    assert recording.duration_s == 9
    gap = slice(5 * SFREQ_HZ, 6 * SFREQ_HZ)
    assert not recording.signal_uv[0, gap].any()
    kept = np.delete(recording.signal_uv[0], np.r_[gap])
    np.testing.assert_allclose(kept, noise(8), atol=0.02)
    assert recording.provenance["gaps"] == "1, 1 s in all"
    late = open_recording(path).read(start_s=5.5, stop_s=9)
    assert late.gaps == ((0.0, 0.5),)
    np.testing.assert_array_equal(
        late.signal_uv, recording.signal_uv[:, -late.signal_uv.shape[1] :]
    )


def test_windows_without_a_minute_recorded_are_not_read(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(200)}, annotated=True)
    # 95 s, then a gap over the second and third window, then 105 s in the fourth.
    as_edf_plus_d(path, {i: str(i + 4000) for i in range(95, 200)})
    file = open_recording(path)
    assert file.duration_s == 4200
    assert file.window_bounds_s() == [(0.0, 1280.0), (3840.0, 4200.0)]
    first, last = file.iter_windows()
    assert first.gaps == ((95.0, 1280.0),)
    assert last.gaps == ((0.0, 255.0),)
    assert last.start_s == 3840
    assert window_bounds_s(4200.0, segments=[(0.0, 50.0), (3890.0, 3949.0)]) == [(3840.0, 4200.0)]


def test_nothing_of_4_s_without_a_gap_is_refused(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(8)}, annotated=True)
    as_edf_plus_d(path, {3: "4", 4: "5", 5: "6", 6: "8", 7: "9"})
    with pytest.raises(RecordingError, match="lasts 10 s, at most 3 s without a gap"):
        open_recording(path)


def test_what_is_no_recording_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.edf").write_text("not an EDF, but long enough to hold its header" * 9)
    (tmp_path / "short.edf").write_text("0")
    (tmp_path / "empty.bdf").touch()
    (tmp_path / "notes.docx").write_text("x")
    (tmp_path / "dangling.edf").symlink_to("nowhere")
    (tmp_path / "a.mff").write_text("x")
    os.mkfifo(tmp_path / "pipe.edf")
    for name, cause in {
        "absent.edf": "no such file",
        "dangling.edf": "no such file",
        "text.edf/below.edf": "no such file",
        "a.mff": r"a file; a \.mff recording is a folder",
        "pipe.edf": "neither a file nor a folder",
        "text.edf": "not an EDF or BDF file",
        "short.edf": "truncated EDF header",
        "empty.bdf": "empty file",
        "notes.docx": r"known are \.edf \.bdf",
    }.items():
        with pytest.raises(RecordingError, match=rf"{name}: .*{cause}"):
            open_recording(tmp_path / name)
    with pytest.raises(RecordingError, match="a folder, not a recording"):
        open_recording(tmp_path)


@pytest.mark.parametrize("suffix", [".edf", ".fif", ".set"])
def test_a_file_that_may_not_be_read_is_no_damaged_recording(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read it tomorrow reads it then; root may always, so the refusal is made here."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"0" * 4000)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("mne.io.read_raw", refuse)
    with pytest.raises(PermissionError):
        open_recording(path)


def test_links_and_upper_case_suffixes_are_followed(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "A.EDF", {"C3": noise(5)})
    (tmp_path / "link.edf").symlink_to(path)
    for given in (path, tmp_path / "link.edf"):
        assert read_recording(given).ch_names == ("C3",)


def test_edf_and_bdf_are_told_by_their_content(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"C3": noise(5)})
    for name in ("b.bdf", "b.rec"):
        (tmp_path / name).write_bytes(path.read_bytes())
        np.testing.assert_allclose(
            read_recording(tmp_path / name).signal_uv[0], noise(5), atol=0.02
        )


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


def test_a_sidecar_marks_channels_in_its_own_spelling(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", {"EEG FP1-REF": noise(6), "EEG C4-REF": noise(6, seed=1)})
    file = open_recording(path, bad=["Fp1", "Oz"])
    assert file.montage.names == ("C4",)
    assert file.provenance["marked_bad"] == "1 channels"
    assert file.provenance["marked_bad_unknown"] == "1 labels that the file does not have"
    unitless = write_edf(tmp_path / "b.edf", {"EEG C4-REF": noise(6)}, unit="")
    assert open_recording(unitless, units_beside={"EEG C4-Ref.": "uV"}).unit == "uV"
