"""Every other format: written here by hand or by MNE, back in microvolts at the right times."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.io

from openclef.errors import RecordingError
from openclef.signal import open_recording, read_recording
from openclef.signal.matfile import check_mat_file
from openclef.signal.mne_reader import open_mne, plain_errors

LABELS = ("Fp1", "C4", "ECG", "O2")
SFREQ_HZ = 200
DURATION_S = 10
STEP_UV = 0.1


def signals_uv(*, seed: int = 0) -> np.ndarray:
    """`[4, 2000]`: offsets and noise, in whole steps."""
    rng = np.random.default_rng(seed)
    noise = 20 * rng.standard_normal((len(LABELS), DURATION_S * SFREQ_HZ))
    return np.round((noise + np.array([[0], [300], [-50], [-300]])) / STEP_UV) * STEP_UV


# Writers: the folder and `[4, S]` in microvolts -> the file to open


def write_brainvision(
    folder: Path,
    data_uv: np.ndarray,
    *,
    unit: str = "µV",
    kind: str = "INT_16",
    orientation: str = "MULTIPLEXED",
    markers: tuple[str, ...] = (),
    suffix: str = ".vhdr",
) -> Path:
    """In `unit` as the header states it; blank: microvolts."""
    step = STEP_UV / {"µV": 1, "mV": 1e3, "V": 1e6, "nV": 1e-3, "": 1}[unit]
    samples = np.round(data_uv / STEP_UV) if kind == "INT_16" else data_uv / STEP_UV
    samples = samples.astype("<i2" if kind == "INT_16" else "<f4")
    (folder / "a.eeg").write_bytes(
        (samples.T if orientation == "MULTIPLEXED" else samples).tobytes()
    )
    lines = [f"Ch{i}={label},,{step:.12f},{unit}" for i, label in enumerate(LABELS, 1)]
    header = (
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=a.eeg\nMarkerFile=a.vmrk\nDataFormat=BINARY\n"
        f"DataOrientation={orientation}\nNumberOfChannels={len(LABELS)}\n"
        f"SamplingInterval={1e6 / SFREQ_HZ:g}\n\n[Binary Infos]\nBinaryFormat={kind}\n\n"
        "[Channel Infos]\n" + "\n".join(lines) + "\n"
    )
    marks = ["New Segment,,1,1,0,20170305210409000000", *markers]
    (folder / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=a.eeg\n\n[Marker Infos]\n"
        + "".join(f"Mk{i}={mark}\n" for i, mark in enumerate(marks, 1)),
        encoding="utf-8",
    )
    (folder / f"a{suffix}").write_text(header, encoding="utf-8")
    return folder / f"a{suffix}"


def write_eeglab(
    folder: Path,
    data_uv: np.ndarray,
    *,
    embedded: bool = True,
    boundaries: tuple[float, ...] = (),
    is_compressed: bool = False,
) -> Path:
    events = [{"type": "boundary", "latency": at, "duration": 90.0} for at in boundaries]
    if not embedded:
        (folder / "a.fdt").write_bytes(data_uv.T.astype("<f4").tobytes())
    names = [{"labels": label} for label in LABELS]
    eeg = {
        "setname": "a", "nbchan": len(data_uv), "trials": 1, "pnts": data_uv.shape[1],
        "srate": SFREQ_HZ, "xmin": 0.0, "xmax": (data_uv.shape[1] - 1) / SFREQ_HZ,
        "data": data_uv.astype(np.float32) if embedded else "a.fdt", "chanlocs": names,
        "event": events, "icawinv": [], "icaweights": [], "icasphere": [],
        "chaninfo": {"nosedir": "+X"}, "epoch": [], "ref": "common",
    }  # fmt: skip
    scipy.io.savemat(folder / "a.set", {"EEG": eeg}, appendmat=False, do_compression=is_compressed)
    return folder / "a.set"


def raw_of(data_uv: np.ndarray, *, factor: float = 1e-6) -> mne.io.RawArray:
    types = ["eeg", "eeg", "ecg", "eeg"]
    info = mne.create_info(list(LABELS), SFREQ_HZ, types)
    return mne.io.RawArray(data_uv * factor, info, verbose="ERROR")


def write_fif(folder: Path, data_uv: np.ndarray, *, name: str = "a_raw.fif") -> Path:
    raw_of(data_uv).save(folder / name, verbose="ERROR")
    return folder / name


def write_gdf(folder: Path, data_uv: np.ndarray, *, unit: int | str = 4275) -> Path:
    """Version 2.20 with a unit code, or 1.25 with a text; 1-s records of int16."""
    step = STEP_UV * {4274: 1e-3, 4256: 1e-6, "mV": 1e-3, "V": 1e-6}.get(unit, 1.0)
    n, n_records = len(LABELS), data_uv.shape[1] // SFREQ_HZ
    high = np.full(n, 32767.0)
    limits = [-high * step, high * step]
    labels = b"".join(label.encode().ljust(16, b"\0") for label in LABELS)
    if isinstance(unit, int):
        head = bytearray(b"GDF 2.20".ljust(256, b"\0"))
        struct.pack_into("<Q", head, 168, 736_759 << 32)  # days since year 0
        struct.pack_into("<H", head, 184, n + 1)
        struct.pack_into("<qII", head, 236, n_records, 1, 1)
        struct.pack_into("<H", head, 252, n)
        columns = [labels, bytes(86 * n), np.full(n, unit, "<u2").tobytes()]
        columns += [x.astype("<f8").tobytes() for x in (*limits, -high, high)]
        columns += [bytes(80 * n), np.full(n, SFREQ_HZ, "<i4").tobytes()]
        columns += [np.full(n, 3, "<i4").tobytes(), bytes(32 * n)]
    else:
        head = bytearray(b"GDF 1.25".ljust(256, b"\0"))
        head[168:184] = b"2017030521040900"
        struct.pack_into("<q", head, 184, 256 * (n + 1))
        struct.pack_into("<qIII", head, 236, n_records, 1, 1, n)
        columns = [labels, bytes(80 * n), unit.encode().ljust(8) * n]
        columns += [x.astype("<f8").tobytes() for x in limits]
        columns += [x.astype("<i8").tobytes() for x in (-high, high)]
        columns += [bytes(80 * n), np.full(n, SFREQ_HZ, "<i4").tobytes()]
        columns += [np.full(n, 3, "<i4").tobytes(), bytes(32 * n)]
    header = bytes(head) + b"".join(columns)
    assert len(header) == 256 * (n + 1)
    samples = np.round(data_uv / STEP_UV).astype("<i2").reshape(n, n_records, SFREQ_HZ)
    no_events = b"" if isinstance(unit, int) else bytes(8)
    (folder / "a.gdf").write_bytes(header + samples.transpose(1, 0, 2).tobytes() + no_events)
    return folder / "a.gdf"


def write_nicolet(folder: Path, data_uv: np.ndarray) -> Path:
    (folder / "a.head").write_text(
        f"start_ts=2017-03-05 21:04:09.000\nnum_samples={data_uv.shape[1]}\n"
        f"sample_freq={SFREQ_HZ}\nconversion_factor={STEP_UV}\nnum_channels={len(LABELS)}\n"
        f"elec_names=[{','.join(LABELS)}]\npat_id=1\nadm_id=2\nrec_id=3\nduration_in_sec=10\n"
    )
    (folder / "a.data").write_bytes(np.round(data_uv / STEP_UV).astype("<i2").T.tobytes())
    return folder / "a.data"


def write_persyst(folder: Path, data_uv: np.ndarray, *, times: str = "0=75849\n") -> Path:
    channels = "".join(f"{label}-Ref={i}\n" for i, label in enumerate(LABELS, 1))
    (folder / "a.lay").write_text(
        f"[FileInfo]\nFile=a.dat\nFileType=Interleaved\nSamplingRate={SFREQ_HZ}\nHeaderLength=0\n"
        f"Calibration={STEP_UV}\nWaveformCount={len(LABELS)}\nDataType=0\n[ChannelMap]\n{channels}"
        f"[SampleTimes]\n{times}[Patient]\nFirst=SECRET\nLast=SECRET\nSex=F\nHand=R\nID=1\n"
        "BirthDate=01/02/50\nTestDate=03/05/2017\nTestTime=21:04:09\n[Comments]\n"
    )
    (folder / "a.dat").write_bytes(np.round(data_uv / STEP_UV).astype("<i2").T.tobytes())
    return folder / "a.lay"


def write_nihon_kohden(folder: Path, data_uv: np.ndarray) -> Path:
    """EEG-1100C: one control block, one data block; electrodes by their numbers."""
    step_uv = 3200 / 32768  # of the EEG inputs, fixed by the maker
    version, numbers = b"EEG-1100C V01.00", (0, 5, 9)
    data_at = 0x2000
    head = bytearray(data_at + 0x27 + 10 * len(numbers))
    head[:16] = head[0x81:0x91] = version
    head[0x91] = 1
    struct.pack_into("<I", head, 0x92, 0x400)
    head[0x400 + 17] = 1
    struct.pack_into("<I", head, 0x400 + 18, data_at)
    head[0x17FE] = 1
    head[data_at + 0x14 : data_at + 0x1A] = bytes((0x17, 3, 5, 0x21, 4, 9))
    struct.pack_into("<HI", head, data_at + 0x1A, 0xC000 | SFREQ_HZ, 10 * DURATION_S)
    head[data_at + 0x26] = len(numbers)
    for i, number in enumerate(numbers):
        head[data_at + 0x27 + 10 * i] = number
    digital = np.round(data_uv[[0, 1, 3]] / step_uv).astype(np.int64) + 0x8000
    marks = np.zeros((1, digital.shape[1]), np.int64)
    samples = np.concatenate([digital, marks]).astype("<u2")
    (folder / "a.eeg").write_bytes(bytes(head) + samples.T.tobytes())
    (folder / "a.21E").write_text("[ELECTRODE]\n0000=Fp1\n0005=C4\n0009=O2\n")
    return folder / "a.eeg"


def write_egi(folder: Path, data_uv: np.ndarray) -> Path:
    """Version 4: float32 microvolts, one event row."""
    head = struct.pack(">i6hi5hih", 4, 2017, 3, 5, 21, 4, 9, 0, SFREQ_HZ, len(LABELS), 1, 0, 0,
                       data_uv.shape[1], 1)  # fmt: skip
    events = np.zeros((1, data_uv.shape[1]))
    events[0, 7] = 1
    rows = np.concatenate([data_uv, events]).astype(">f4")
    (folder / "a.raw").write_bytes(head + b"mark" + rows.T.tobytes())
    return folder / "a.raw"


def write_neuroscan(folder: Path, data_uv: np.ndarray) -> Path:
    n, n_times = data_uv.shape
    head = bytearray(900 + 75 * n)
    head[:12] = b"Version 3.0\0"
    head[225:245] = b"03/05/17\0\0" + b"21:04:09\0\0"
    struct.pack_into("<H", head, 370, n)
    struct.pack_into("<H", head, 376, SFREQ_HZ)
    struct.pack_into("<i", head, 864, n_times)
    struct.pack_into("<i", head, 886, len(head) + 2 * n * n_times)
    for i, label in enumerate(LABELS):
        at = 900 + 75 * i
        head[at : at + 10] = label.encode().ljust(10, b"\0")
        struct.pack_into("<ff", head, at + 19, 10.0 * i, 5.0 * i + 1)
        struct.pack_into("<f", head, at + 59, STEP_UV * 204.8)
        struct.pack_into("<f", head, at + 71, 1.0)
    samples = np.round(data_uv / STEP_UV).astype("<i2")
    events = struct.pack("<Bii", 1, 0, 0)
    (folder / "a.cnt").write_bytes(bytes(head) + samples.T.tobytes() + events)
    return folder / "a.cnt"


def write_exported_edf(folder: Path, data_uv: np.ndarray) -> Path:
    raw_of(data_uv).export(folder / "a.edf", physical_range=(-2000, 2000), verbose="ERROR")
    return folder / "a.edf"


def write_exported_bdf(folder: Path, data_uv: np.ndarray) -> Path:
    raw_of(data_uv).export(folder / "a.bdf", physical_range=(-2000, 2000), verbose="ERROR")
    return folder / "a.bdf"


Writer = Callable[[Path, np.ndarray], Path]
STARTED = datetime(2017, 3, 5, 21, 4, 9)
FORMATS: dict[str, tuple[Writer, str, datetime | None]] = {
    "EDF": (write_exported_edf, "uV", None),
    "BDF": (write_exported_bdf, "uV", None),
    "FIF": (write_fif, "V, as the format has it", None),
    "FIF zipped": (
        lambda f, d: write_fif(f, d, name="a_raw.fif.gz"), "V, as the format has it", None
    ),
    "BrainVision": (write_brainvision, "uV", STARTED),
    "BrainVision float": (
        lambda f, d: write_brainvision(f, d, kind="IEEE_FLOAT_32"), "uV", STARTED
    ),
    "BrainVision vectors": (
        lambda f, d: write_brainvision(f, d, orientation="VECTORIZED"), "uV", STARTED
    ),
    "BrainVision mV": (lambda f, d: write_brainvision(f, d, unit="mV"), "mV", STARTED),
    "BrainVision V": (lambda f, d: write_brainvision(f, d, unit="V"), "V", STARTED),
    "BrainVision nV": (lambda f, d: write_brainvision(f, d, unit="nV"), "nV", STARTED),
    "BrainVision blank": (lambda f, d: write_brainvision(f, d, unit=""), "uV", STARTED),
    "EEGLAB": (write_eeglab, "uV, as the format has it", None),
    "EEGLAB fdt": (
        lambda f, d: write_eeglab(f, d, embedded=False), "uV, as the format has it", None
    ),
    "GDF 2": (write_gdf, "uV", datetime(2017, 3, 5)),
    "GDF 2 mV": (lambda f, d: write_gdf(f, d, unit=4274), "mV", datetime(2017, 3, 5)),
    "GDF 2 V": (lambda f, d: write_gdf(f, d, unit=4256), "V", datetime(2017, 3, 5)),
    "GDF 2 none": (
        lambda f, d: write_gdf(f, d, unit=0), "assumed uV (none stated that is known)",
        datetime(2017, 3, 5),
    ),
    "GDF 1": (lambda f, d: write_gdf(f, d, unit="uV"), "uV", STARTED),
    "GDF 1 mV": (lambda f, d: write_gdf(f, d, unit="mV"), "mV", STARTED),
    "Nicolet": (write_nicolet, "uV, as the format has it", STARTED),
    "Persyst": (write_persyst, "uV, as the format has it", STARTED),
    "Nihon Kohden": (write_nihon_kohden, "uV, as the format has it", None),
    "Neuroscan": (write_neuroscan, "uV, as the format has it", STARTED),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_comes_back_as_written(tmp_path: Path, name: str) -> None:
    write, unit, started = FORMATS[name]
    data_uv = signals_uv()
    path = write(tmp_path, data_uv)
    file = open_recording(path)
    recording = read_recording(path)
    assert recording.ch_names == ("O2", "C4", "Fp1")
    assert recording.sfreq_hz == SFREQ_HZ
    assert recording.duration_s == file.duration_s == DURATION_S
    assert recording.gaps == ()
    assert file.unit == unit
    np.testing.assert_allclose(recording.signal_uv, data_uv[[3, 1, 0]], rtol=1e-5, atol=0.06)
    part = file.read(start_s=2.5, stop_s=7)
    np.testing.assert_array_equal(part.signal_uv, recording.signal_uv[:, 500:1400])
    assert part.start_s == 2.5
    if name not in {"EDF", "BDF"}:  # whose export has to make up a date
        assert file.start_time == started


def test_egi_has_numbered_electrodes_but_is_read_right(tmp_path: Path) -> None:
    """None of the 19 in it, so refused; what would be read is right all the same."""
    data_uv = signals_uv()
    path = write_egi(tmp_path, data_uv)
    with pytest.raises(RecordingError, match=r"no channel is one of the 19 .* E1, E2, E3"):
        open_recording(path)
    file = open_mne(path, ".raw")
    signal, gaps = file.read([0, 3], start_s=1, stop_s=10, scale=[1, 10])
    np.testing.assert_allclose(signal, data_uv[[0, 3], 200:] * [[1], [10]], rtol=1e-5)
    assert gaps == ()
    assert file.start_time == STARTED


# Breaks


def test_joints_hide_frames_but_no_sample(tmp_path: Path) -> None:
    data_uv = signals_uv()
    later = "New Segment,,801,1,0,20170305220409000000"
    notes = ("Comment,boundary of something,400,1,0", later)
    eeglab, brainvision = tmp_path / "e", tmp_path / "b"
    eeglab.mkdir()
    brainvision.mkdir()
    for path, joint_s in [
        (write_brainvision(brainvision, data_uv, markers=notes), 4.0),
        (write_eeglab(eeglab, data_uv, boundaries=(801.5,)), 4.0025),
        (write_persyst(tmp_path, data_uv, times="0=75849\n400=75851\n800=79449\n"), 4.0),
    ]:
        recording = read_recording(path)
        assert len(recording.gaps) == 1
        assert recording.gaps[0] == pytest.approx((joint_s, joint_s))
        assert recording.provenance["joined"].startswith("1 places")
        np.testing.assert_allclose(recording.signal_uv, data_uv[[3, 1, 0]], atol=0.06)
        part = open_recording(path).read(start_s=3, stop_s=9)
        assert part.gaps[0] == pytest.approx((joint_s - 3, joint_s - 3))
        assert open_recording(path).read(start_s=5, stop_s=9).gaps == ()


@pytest.mark.parametrize("dated", [True, False])
def test_time_that_fif_skipped_is_a_gap(tmp_path: Path, dated: bool) -> None:
    """Also if the file was cut out of a longer one, so that its first sample is not number 0."""
    data_uv = np.tile(signals_uv(), 3)
    raw = raw_of(data_uv)
    if dated:
        raw.set_meas_date(STARTED.replace(tzinfo=UTC))
    raw.crop(5, None)
    raw.set_annotations(
        mne.Annotations([6 + 5 * dated, 20 + 5 * dated], [2, 5], "BAD_ACQ_SKIP",
                        orig_time=raw.info["meas_date"])
    )  # fmt: skip
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    file = open_recording(tmp_path / "a_raw.fif")
    assert file.duration_s == 20  # nothing after
    np.testing.assert_allclose(file.segments, [(0, 6), (8, 20)])
    if dated:
        assert file.start_time == STARTED.replace(second=14)
    recording = file.read(start_s=1, stop_s=20)
    assert recording.gaps == ((5.0, 7.0),)
    gap = slice(1000, 1400)
    expected = data_uv[[3, 1, 0], 1200:5000].copy()
    expected[:, gap] = 0
    np.testing.assert_allclose(recording.signal_uv, expected, rtol=1e-5, atol=1e-3)


def test_bad_channels_of_the_header_are_left_out_and_told(tmp_path: Path) -> None:
    raw = raw_of(signals_uv())
    raw.info["bads"] = ["C4"]
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    file = open_recording(tmp_path / "a_raw.fif")
    assert file.montage.names == ("O2", "Fp1")
    assert file.provenance["unusable_signals"] == "C4: marked bad in it"


def test_samples_that_are_no_numbers_are_refused_unless_in_a_gap(tmp_path: Path) -> None:
    data_uv = signals_uv()
    data_uv[1, 700:720] = np.nan
    raw = raw_of(data_uv)
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    with pytest.raises(RecordingError, match=r"a_raw\.fif: .* no numbers in 1 channels"):
        read_recording(tmp_path / "a_raw.fif")
    folder = tmp_path / "b"
    folder.mkdir()
    path = write_brainvision(folder, data_uv, kind="IEEE_FLOAT_32")
    with pytest.raises(RecordingError, match="no numbers in 1 channels"):
        next(open_recording(path).iter_windows())


# Units


@pytest.mark.parametrize("name", ["FIF", "BrainVision mV", "BrainVision", "EEGLAB", "GDF 1 mV"])
def test_a_unit_given_means_the_numbers_of_the_file_itself(tmp_path: Path, name: str) -> None:
    write, unit, _ = FORMATS[name]
    path = write(tmp_path, signals_uv())
    own = unit.partition(",")[0]
    right = read_recording(path).signal_uv
    np.testing.assert_allclose(read_recording(path, unit=own).signal_uv, right, rtol=1e-6)
    other = {"V": "mV", "mV": "uV", "uV": "mV"}[own]
    with pytest.raises(RecordingError, match=rf"if the numbers were {own}: correct the unit"):
        read_recording(path, unit=other)


def test_microvolts_saved_as_volts_are_found_out_and_put_right(tmp_path: Path) -> None:
    data_uv = signals_uv()
    raw_of(data_uv, factor=1.0).save(tmp_path / "a_raw.fif", verbose="ERROR")
    with pytest.raises(RecordingError, match=r"unit V, as .* would be .* if the numbers were uV"):
        read_recording(tmp_path / "a_raw.fif")
    recording = read_recording(tmp_path / "a_raw.fif", unit="uV")
    np.testing.assert_allclose(recording.signal_uv, data_uv[[3, 1, 0]], rtol=1e-5, atol=1e-3)


# What cannot be read


@pytest.mark.parametrize(("suffix", "package"), [(".cnt", "antio"), (".mff", "mffpy")])
def test_a_package_that_is_missing_is_named_with_the_extra(
    tmp_path: Path, suffix: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".mff":
        path.mkdir()
        (path / "info.xml").write_text("<a/>")
    else:
        path.write_bytes(b"RIFF" + bytes(4000))
    monkeypatch.setitem(sys.modules, package, None)  # so that it cannot be imported
    with pytest.raises(RecordingError, match=rf"needs {package}, .* 'openclef\[formats\]'"):
        open_recording(path)


def test_a_part_that_is_missing_is_told(tmp_path: Path) -> None:
    path = write_brainvision(tmp_path, signals_uv())
    (tmp_path / "a.eeg").unlink()
    with pytest.raises(RecordingError, match=r"a\.vhdr: a file that belongs to it is missing"):
        open_recording(path)


@pytest.mark.parametrize(
    ("given", "asked"), [("a.eeg", "a.vhdr"), ("a.vmrk", "a.vhdr"), ("a.dat", "a.lay"),
                         ("a.head", "a.data"), ("a.fdt", "a.set")]
)  # fmt: skip
def test_a_part_given_for_the_whole_tells_what_to_open(
    tmp_path: Path, given: str, asked: str
) -> None:
    (tmp_path / given).write_bytes(b"1")
    (tmp_path / asked).write_bytes(b"1")
    with pytest.raises(RecordingError, match=f"{given}: only part of a recording; open {asked}"):
        open_recording(tmp_path / given)


@pytest.mark.parametrize("suffix", [".edf", ".set", ".fif", ".cnt", ".eeg", ".gdf", ".lay", ".raw"])
def test_a_suffix_that_lies_ends_in_one_error(tmp_path: Path, suffix: str) -> None:
    content = write_brainvision(tmp_path, signals_uv()).read_bytes()
    path = tmp_path / f"lie{suffix}"
    path.write_bytes(content * 20)
    with pytest.raises(RecordingError, match=rf"lie\{suffix}: not "):
        open_recording(path)


def overwritten(path: Path, at: int, value: bytes) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[:at] + value + content[at + len(value) :])
    return path


def test_damage_that_would_hang_or_crash_a_reader_is_found_before(tmp_path: Path) -> None:
    fif = write_fif(tmp_path, signals_uv())
    for at, value, cause in [
        (12, b"\0\0\0\x10", None),  # the next tag is at 16, in the first one
        (28, b"\0\0\0\0", None),
        (8, b"\xff\xff\xff\xf0", "size below zero"),
    ]:
        with pytest.raises(RecordingError, match=cause or r"a_raw\.fif: not a readable"):
            open_recording(overwritten(fif, at, value))
    loop = write_fif(tmp_path, signals_uv(), name="loop_raw.fif")
    size = int.from_bytes(loop.read_bytes()[8:12], "big")
    overwritten(loop, 16 + size + 12, (16 + size).to_bytes(4, "big"))  # the second follows itself
    with pytest.raises(RecordingError, match="round in circles"):
        open_recording(loop)
    zipped = write_fif(tmp_path, signals_uv(), name="z_raw.fif.gz")
    with pytest.raises(RecordingError, match="does not unpack"):
        open_recording(overwritten(zipped, 2000, b"nan"))
    gdf = write_gdf(tmp_path, signals_uv(), unit="uV")
    with pytest.raises(RecordingError, match="not the number of channels"):
        open_recording(overwritten(gdf, 252, b"\xff\xff\xff\x7f"))


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_damaged_mat_file_is_refused_and_a_whole_one_is_not(
    tmp_path: Path, is_compressed: bool
) -> None:
    """SciPy's reader crashes on some: cut and flip wherever a size or type may be."""
    path = write_eeglab(tmp_path, signals_uv(), boundaries=(801.5,), is_compressed=is_compressed)
    content = path.read_bytes()
    check_mat_file(path)
    for at in range(128, 2000 if not is_compressed else len(content), 997 if is_compressed else 4):
        path.write_bytes(content[:at] + b"\x7f\xff\xff\x7f" + content[at + 4 :])
        try:
            read_recording(path)
        except RecordingError as error:
            told = str(error)
            assert told.startswith(str(path))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        check_mat_file(path)


@pytest.mark.parametrize("text", ["Mustermann"])
def test_no_text_of_a_file_is_quoted(text: str) -> None:
    """Only words that stand in the code which raised the error may be in it."""

    def fail(text: str) -> None:
        raise ValueError(f"cannot parse the field {text} of a header, born {text!r}. More {text}")

    path = Path("a.set")
    with pytest.raises(RecordingError) as caught, plain_errors(path):
        fail(text)
    told = str(caught.value)
    assert "cannot parse the field ... of a header, born" in told
    assert not any(word in told for word in (text, "More"))
    with pytest.raises(RecordingError, match=r"recording \(ValueError\)$"), plain_errors(path):
        float(text)
