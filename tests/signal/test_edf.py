"""EDF and BDF straight into float32: against MNE, edfio and known samples; odd and broken files."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest

from openclef.errors import RecordingError
from openclef.signal.edf import EdfFile, open_edf

# Field -> (where it starts, its width); those of signals count from the start of their column.
MAIN = {
    "version": (0, 8), "patient": (8, 80), "recording": (88, 80), "startdate": (168, 8),
    "starttime": (176, 8), "header_bytes": (184, 8), "reserved": (192, 44),
    "n_records": (236, 8), "record_s": (244, 8), "n_signals": (252, 4),
}  # fmt: skip
COLUMNS = {
    "label": (0, 16), "transducer": (16, 80), "unit": (96, 8), "physical_min": (104, 8),
    "physical_max": (112, 8), "digital_min": (120, 8), "digital_max": (128, 8),
    "prefilter": (136, 80), "n_samples": (216, 8), "signal_reserved": (224, 32),
}  # fmt: skip


@dataclass
class Signal:
    """digital: `[R, n]`, samples of each record."""

    digital: np.ndarray
    label: str = "EEG C3-REF"
    unit: str = "uV"
    physical: tuple[str, str] = ("-3276.8", "3276.7")
    limits: tuple[str, str] = ("-32768", "32767")


def noise(n_records: int, n_samples: int, *, seed: int = 0, bits: int = 16) -> np.ndarray:
    limit = 1 << (bits - 1)
    return np.random.default_rng(seed).integers(-limit, limit, (n_records, n_samples))


def build(
    signals: Sequence[Signal],
    *,
    record_s: str = "1",
    kind: str = "",
    onsets: Sequence[str] | None = None,
    bdf: bool = False,
) -> bytes:
    """A file by hand; with `onsets` (one a record), an annotation signal comes second."""
    n_records = len(signals[0].digital)
    columns = [(s.label, s.unit, *s.physical, *s.limits, s.digital.shape[1]) for s in signals]
    width = 3 if bdf else 2
    blocks = [s.digital.astype("<i4").view(np.uint8).reshape(n_records, -1, 4) for s in signals]
    data = [block[:, :, :width].reshape(n_records, -1) for block in blocks]
    if onsets is not None:
        texts = b"".join((o.encode() + b"\x14\x14\0").ljust(12 * width, b"\0") for o in onsets)
        data.insert(1, np.frombuffer(texts, np.uint8).reshape(n_records, -1))
        columns.insert(1, ("EDF Annotations", "", "-1", "1", "-32768", "32767", 12))
    n = len(columns)
    parts = [b"\xffBIOSEMI" if bdf else b"0".ljust(8), b" " * 160, b"05.03.17", b"21.04.09"]
    parts += [str(256 * (n + 1)).encode().ljust(8), kind.encode().ljust(44)]
    parts += [
        str(n_records).encode().ljust(8),
        record_s.encode().ljust(8),
        str(n).encode().ljust(4),
    ]
    label, unit, *numbers, n_samples = zip(*columns, strict=True)
    written = ((label, 16), ([""] * n, 80), (unit, 8), *((x, 8) for x in numbers), ([""] * n, 80))
    for texts, wide in (*written, (n_samples, 8), ([""] * n, 32)):
        parts += [str(text).encode("latin-1").ljust(wide) for text in texts]
    return b"".join(parts) + np.concatenate(data, axis=1).tobytes()


def edit(content: bytes, field: str, value: bytes | str, *, signal: int = 0) -> bytes:
    """Replace a header field."""
    value = value.encode("latin-1") if isinstance(value, str) else value
    if field in MAIN:
        start, width = MAIN[field]
    else:
        n_signals = int(content[252:256])
        start, width = COLUMNS[field]
        start = 256 + n_signals * start + width * signal
    return content[:start] + value.ljust(width)[:width] + content[start + width :]


def opened(folder: Path, content: bytes, name: str = "a.edf") -> EdfFile:
    path = folder / name
    path.write_bytes(content)
    return open_edf(path)


def physical(signal: Signal) -> np.ndarray:
    (low, high), (first, last) = map(float, signal.physical), map(float, signal.limits)
    return low + (signal.digital.ravel() - first) * (high - low) / (last - first)


# Against edfio and MNE


@pytest.mark.parametrize("is_bdf", [False, True], ids=["edf", "bdf"])
@pytest.mark.parametrize(("record_s", "sfreq_hz"), [(1, 200), (0.25, 256), (9.59375, 128), (7, 1)])
def test_any_stretch_equals_edfio_and_mne(
    tmp_path: Path, is_bdf: bool, record_s: float, sfreq_hz: float
) -> None:
    signal_class, file_class = (
        (edfio.BdfSignal, edfio.Bdf) if is_bdf else (edfio.EdfSignal, edfio.Edf)
    )
    n_times = round(record_s * sfreq_hz) * 24
    rng = np.random.default_rng(1)
    signals = [
        signal_class(
            50 * rng.standard_normal(n_times),
            sfreq_hz,
            label=label,
            physical_dimension="uV",
            physical_range=limits,
        )
        for label, limits in [("A", (-300, 300)), ("B", (-250, 411)), ("C", (-500, 5000))]
    ]
    path = tmp_path / ("a.bdf" if is_bdf else "a.edf")
    file_class(signals, data_record_duration=record_s).write(path)
    read = edfio.read_bdf(path) if is_bdf else edfio.read_edf(path)
    raw = mne.io.read_raw(path, preload=True, verbose="ERROR")

    file = open_edf(path)
    assert file.duration_s == pytest.approx(n_times / sfreq_hz, abs=1e-9)
    assert [s.label for s in file.signals] == ["A", "B", "C"]
    assert {s.rate_hz for s in file.signals} == {sfreq_hz}
    step = 5500 / 2.0 ** (24 if is_bdf else 16)
    close = {"rtol": 3e-7, "atol": step / (2 if is_bdf else 100)}
    bounds = np.sort(rng.integers(0, n_times + 1, (40, 2)), axis=1)
    for first, stop in [
        (0, n_times),
        (n_times - 1, n_times),
        (5, 5),
        (0, 0),
        (n_times, n_times),
        *bounds.tolist(),
    ]:
        signal, gaps = file.read([2, 0], start_s=first / sfreq_hz, stop_s=stop / sfreq_hz)
        assert signal.dtype == np.float32
        assert signal.shape == (2, stop - first)
        assert gaps == ()
        expected = np.stack([read.signals[i].data[first:stop] for i in (2, 0)])
        np.testing.assert_allclose(signal, expected, **close)
        expected = raw.get_data(picks=[2, 0], start=first, stop=stop) * 1e6
        np.testing.assert_allclose(signal, expected, **close)


def test_each_rate_is_read_at_its_own_and_never_two_at_once(tmp_path: Path) -> None:
    signals = [
        edfio.EdfSignal(
            np.random.default_rng(rate).uniform(-1, 1, 30 * rate), rate, label=f"at {rate}"
        )
        for rate in (256, 1, 100)
    ]
    edfio.Edf(signals, data_record_duration=1).write(tmp_path / "a.edf")
    file = open_edf(tmp_path / "a.edf")
    for pick, signal in enumerate(signals):
        got, _ = file.read([pick], start_s=3.5, stop_s=20)
        rate = signal.sampling_frequency
        first = int(np.ceil(3.5 * rate - 0.5))
        assert got.shape[1] == round(16.5 * rate)
        np.testing.assert_allclose(got[0], signal.data[first : first + got.shape[1]], rtol=3e-7)
    with pytest.raises(ValueError, match="one rate, got 100, 256 Hz"):
        file.read([0, 2], start_s=0, stop_s=1)


@pytest.mark.parametrize("start_s", [0.0, 0.1, 3.7, 12.3])
def test_a_read_up_to_the_end_never_passes_it(tmp_path: Path, start_s: float) -> None:
    file = opened(tmp_path, build([Signal(noise(41, 11))], record_s="0.7"))
    signal, gaps = file.read([0], start_s=start_s, stop_s=file.duration_s)
    assert gaps == ()
    assert signal[0, -1] == np.float32(physical(Signal(noise(41, 11)))[-1])


@pytest.mark.parametrize(
    ("bits", "limits", "span"),
    [
        (16, ("-32768", "32767"), ("-217854", "-217743")),  # a DC offset, as in a file of MNE's
        (16, ("0", "4095"), ("-10", "10")),
        (16, ("-32768", "32767"), ("3276,7", "-3276,8")),  # inverted, with decimal commas
        (24, ("-8388608", "8388607"), ("-262144", "262143")),
        (24, ("-8388608", "8388607"), ("0", "1e-3")),
    ],
)
def test_physical_values_are_right_to_float32_or_a_digital_step(
    tmp_path: Path, bits: int, limits: tuple[str, str], span: tuple[str, str]
) -> None:
    signal = Signal(noise(3, 500, bits=bits), limits=limits, physical=span)
    got, _ = opened(tmp_path, build([signal], bdf=bits == 24)).read([0], start_s=0, stop_s=3)
    signal.physical = tuple(text.replace(",", ".") for text in span)
    exact = physical(signal)
    step = abs(exact[signal.digital.ravel().argmax()] - exact.min()) / 2.0**bits
    assert np.all(np.abs(got[0] - exact) <= 2 * np.spacing(np.abs(exact).astype(np.float32)) + step)


def test_scale_multiplies_each_signal(tmp_path: Path) -> None:
    signals = [Signal(noise(4, 64, seed=seed), label=f"E{seed}") for seed in range(3)]
    file = opened(tmp_path, build(signals))
    got, _ = file.read([2, 1], start_s=0, stop_s=4, scale=np.array([1e6, -1e-3]))
    np.testing.assert_allclose(got[0], 1e6 * physical(signals[2]), rtol=3e-7)
    np.testing.assert_allclose(got[1], -1e-3 * physical(signals[1]), rtol=3e-7)


# Gaps


def timeline(signal: Signal, starts: Sequence[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Records placed one by one: samples (0 where none) and where there are any."""
    values, filled = np.zeros(length), np.zeros(length, bool)
    for start, record in zip(starts, physical(signal).reshape(signal.digital.shape), strict=True):
        values[start : start + len(record)] = record
        filled[start : start + len(record)] = True
    return values, filled


@pytest.mark.parametrize("bdf", [False, True], ids=["edf", "bdf"])
@pytest.mark.parametrize("declared", ["D", "C"])
def test_gaps_are_zero_and_listed_in_any_stretch(tmp_path: Path, declared: str, bdf: bool) -> None:
    onsets_s = [0.5, 0.75, 1.0, 2.5, 2.75, 9.0, 9.25, 9.5, 9.75, 10.015625]
    bits = 24 if bdf else 16
    signal = Signal(noise(10, 64, bits=bits))  # 256 Hz
    kind = f"{'BDF' if bdf else 'EDF'}+{declared}"
    content = build(
        [signal], record_s="0.25", kind=kind, onsets=[f"+{o}" for o in onsets_s], bdf=bdf
    )
    file = opened(tmp_path, content, "a.bdf" if bdf else "a.edf")
    assert file.segments == ((0, 0.75), (2, 2.5), (8.5, 9.5), (9.515625, 9.765625))
    assert file.notes["gaps"].startswith("3, 7.26562 s")
    assert ("declared continuous" in file.notes["gaps"]) == (declared == "C")
    assert file.duration_s == 9.765625

    values, filled = timeline(signal, [round(256 * (o - 0.5)) for o in onsets_s], 2500)
    rng = np.random.default_rng(0)
    bounds = np.sort(rng.integers(0, 2501, (60, 2)), axis=1)
    for first, stop in [(0, 2500), (200, 500), (210, 300), (2432, 2436), *bounds.tolist()]:
        got, gaps = file.read([0], start_s=first / 256, stop_s=stop / 256)
        np.testing.assert_allclose(got[0], values[first:stop], rtol=3e-7, atol=1e-4)
        hidden = np.zeros(stop - first, bool)
        for start_s, stop_s in gaps:
            hidden[round(start_s * 256) : round(stop_s * 256)] = True
        np.testing.assert_array_equal(hidden, ~filled[first:stop])
        assert not got[0, hidden].any()


def test_stretches_between_gaps_are_what_mne_joins(tmp_path: Path) -> None:
    onsets = ["+0", "+1", "+7", "+8", "+9", "+60.5"]
    signals = [Signal(noise(6, 100, seed=i), label=f"E{i}") for i in range(2)]
    file = opened(tmp_path, build(signals, kind="EDF+D", onsets=onsets))
    joined = mne.io.read_raw(file.path, preload=True, verbose="ERROR").get_data() * 1e6
    parts = [file.read([0, 1], start_s=a, stop_s=b)[0] for a, b in file.segments]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), joined, rtol=3e-7, atol=1e-4)


@pytest.mark.parametrize("declared", ["C", "D"])
def test_onsets_that_drift_by_less_than_a_sample_are_no_gaps(tmp_path: Path, declared: str) -> None:
    onsets = [f"+{i / 3:.6f}" for i in range(9000)]  # a record lasts 1/3 s, written 0.333
    file = opened(
        tmp_path,
        build([Signal(noise(9000, 100))], record_s="0.333", kind=f"EDF+{declared}", onsets=onsets),
    )
    assert file.segments == ((0.0, pytest.approx(9000 * 0.333)),)
    assert file.notes == {"drift": "2.99967 s over 9000 records"}
    assert file.read([0], start_s=0, stop_s=file.duration_s)[1] == ()


@pytest.mark.parametrize(
    ("late", "n_segments"), [("+1.005", 1), ("+1.015", 2), ("+0.995", 1), ("+0.985", None)]
)
def test_a_sample_of_the_fastest_signal_is_what_counts(
    tmp_path: Path, late: str, n_segments: int | None
) -> None:
    signals = [Signal(noise(2, 1), label="Status"), Signal(noise(2, 100))]
    content = build(signals, kind="EDF+D", onsets=["+0", late])
    if n_segments is None:
        with pytest.raises(RecordingError, match="overlap"):
            opened(tmp_path, content)
    else:
        assert len(opened(tmp_path, content).segments) == n_segments


def test_a_lost_record_of_one_sample_is_a_gap(tmp_path: Path) -> None:
    onsets = ["+0", "+0.1", "+0.2", "+0.4", "+0.5"]
    file = opened(
        tmp_path, build([Signal(noise(5, 1))], record_s="0.1", kind="EDF+D", onsets=onsets)
    )
    assert file.read([0], start_s=0, stop_s=0.6)[1] == (pytest.approx((0.3, 0.4)),)


@pytest.mark.parametrize(
    ("kind", "onsets", "told"),
    [
        ("EDF+D", ["+0", "+1", "+1.9", "+3"], "overlap or go back in time, 1 in all, the first by"),
        ("EDF+D", ["+5", "+6", "+2", "+3"], "overlap or go back"),
        ("EDF+C", ["+0", "+0", "+0", "+0"], "overlap or go back"),
        ("EDF+D", ["+0", "+1", "+2678402", "+2678403"], "damaged"),
        ("EDF+D", ["+0", "+1", "2", "+3"], "record 3 tells no time"),
        ("EDF+C", ["+0", "x", "+9", "+10"], "1 of 4 records tell no time"),
        ("EDF+C", ["+0", "+2", "+4", "+6"], "a gap before every record"),
        ("EDF+D", None, "without the annotations"),
    ],
)
def test_times_that_contradict_themselves_are_refused(
    tmp_path: Path, kind: str, onsets: list[str] | None, told: str
) -> None:
    content = build([Signal(noise(4, 100))], kind=kind, onsets=onsets)
    with pytest.raises(RecordingError, match=told) as caught:
        opened(tmp_path, content)
    assert "a.edf" in str(caught.value)


@pytest.mark.parametrize("onsets", [["+0", "+1", "?", "?"], ["?"] * 4, ["?", "+1", "+2", "+3"]])
def test_a_continuous_file_may_leave_records_untimed(tmp_path: Path, onsets: list[str]) -> None:
    file = opened(tmp_path, build([Signal(noise(4, 100))], kind="EDF+C", onsets=onsets))
    assert file.segments == ((0, 4),)
    assert file.notes["onsets"] == f"{onsets.count('?')} of 4 unreadable"


def test_a_stretch_no_honest_file_of_that_size_has_is_not_allocated(tmp_path: Path) -> None:
    content = build([Signal(noise(2, 100))], record_s="0.001", kind="EDF+D", onsets=["+0", "+9999"])
    file = opened(tmp_path, content)  # at 100,000 Hz
    with pytest.raises(RecordingError, match="read shorter stretches"):
        file.read([0], start_s=0, stop_s=file.duration_s)
    assert file.read([0], start_s=9998.9995, stop_s=file.duration_s)[0].any()


# Headers that are odd


@pytest.mark.parametrize(
    ("stated", "change", "n_read", "notes"),
    [
        ("10", -1, 9, {"truncated": "9 of 10 records present"}),
        ("24", 0, 10, {"truncated": "10 of 24 records present"}),
        ("-1", 0, 10, {"record_count": "not stated, 10 present"}),
        ("0", 0, 10, {"record_count": "not stated, 10 present"}),
        ("many", 0, 10, {"record_count": "not stated, 10 present"}),
        ("-1", -7, 9, {"record_count": "not stated, 9 present",
                       "truncated": "9 whole records, then a part of one"}),
        ("7", 0, 7, {"record_count": "7 stated and read, 10 present", "trailing_bytes": "600"}),
        ("10", 13, 10, {"trailing_bytes": "13"}),
    ],
)  # fmt: skip
def test_the_number_of_records_is_what_is_stated_and_whole(
    tmp_path: Path, stated: str, change: int, n_read: int, notes: dict[str, str]
) -> None:
    signal = Signal(noise(10, 100))
    content = edit(build([signal]), "n_records", stated)
    content = content[:change] if change < 0 else content + b"\x7f" * change
    file = opened(tmp_path, content)
    assert (file.n_records, file.duration_s, file.notes) == (n_read, n_read, notes)
    got, gaps = file.read([0], start_s=0, stop_s=n_read)
    np.testing.assert_allclose(got[0], physical(signal)[: 100 * n_read], rtol=3e-7, atol=1e-4)
    assert gaps == ()
    with pytest.raises(ValueError, match="asked for"):
        file.read([0], start_s=0, stop_s=n_read + 1)


def test_the_header_is_as_long_as_its_signals_whatever_it_says(tmp_path: Path) -> None:
    signal = Signal(noise(3, 100))
    file = opened(tmp_path, edit(build([signal]), "header_bytes", "256"))
    assert file.notes == {"header_bytes": "not the 512 of 1 signals"}
    got, _ = file.read([0], start_s=0, stop_s=3)
    np.testing.assert_allclose(got[0], physical(signal), rtol=3e-7, atol=1e-4)


def test_padding_commas_and_latin_1_are_read(tmp_path: Path) -> None:
    content = build([Signal(noise(3, 100), label="EEG Fz", unit="µV")])
    for field, value in [
        ("physical_min", b"-8,5\0\0\0\0"), ("physical_max", b"+8.50e0\0"), ("record_s", b"0,5\0"),
        ("n_samples", b"\x00\x00100.0"), ("label", b"EEG \xc9z\0\0\0\0\0\0\0\0\0\0"),
    ]:  # fmt: skip
        content = edit(content, field, value)
    file = opened(tmp_path, content)
    (signal,) = file.signals
    assert (signal.label, signal.unit, signal.rate_hz) == ("EEG Éz", "µV", 200)
    assert signal.gain == pytest.approx(17 / 65535)
    assert signal.offset == pytest.approx(-8.5 + 17 / 65535 * 32768)
    assert (signal.digital_min, signal.digital_max) == (-32768, 32767)
    assert file.record_s == 0.5


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("physical_min", "abc", "not all numbers"),
        ("physical_max", "nan", "not all numbers"),
        ("physical_max", "1e999", "not all numbers"),
        ("digital_min", "", "not all numbers"),
        ("digital_max", "1_000", "not all numbers"),
        ("digital_min", "32767", "digital range is empty"),
        ("digital_max", "-40000", "digital range is empty"),
        ("physical_max", "-3276.8", "physical range is empty"),
        ("physical_max", "1e30", "not credible"),
        ("n_samples", "0", "no samples"),
    ],
)
def test_a_damaged_range_spoils_its_own_signal_only(
    tmp_path: Path, field: str, value: str, problem: str
) -> None:
    signals = [Signal(noise(5, 100, seed=i), label=f"E{i}") for i in range(3)]
    if field == "n_samples":
        signals[1].digital = signals[1].digital[:, :0]
    file = opened(tmp_path, edit(build(signals), field, value, signal=1))
    assert [s.problem is None for s in file.signals] == [True, False, True]
    assert problem in file.signals[1].problem
    got, _ = file.read([0, 2], start_s=0, stop_s=5)
    for row, signal in zip(got, signals[::2], strict=True):
        np.testing.assert_allclose(row, physical(signal), rtol=3e-7, atol=1e-4)
    with pytest.raises(RecordingError, match=f"signal 2: .*{problem}"):
        file.read([1], start_s=0, stop_s=5)


def test_inverted_polarity_and_ranges_beyond_the_samples_are_noted(tmp_path: Path) -> None:
    signals = [
        Signal(noise(5, 100), label="A", physical=("3276.7", "-3276.8")),
        Signal(noise(5, 100), label="B", limits=("0", "65535")),
    ]
    file = opened(tmp_path, build(signals))
    assert file.notes == {
        "inverted": "1 signals with physical minimum above maximum",
        "digital_range": "1 signals beyond the 16 bits of samples",
    }
    got, _ = file.read([0], start_s=0, stop_s=5)
    np.testing.assert_allclose(got[0], physical(signals[0]), rtol=3e-7, atol=1e-4)


@pytest.mark.parametrize(
    ("startdate", "starttime", "recording", "expected", "noted"),
    [
        ("05.03.17", "21.04.09", "", dt.datetime(2017, 3, 5, 21, 4, 9), False),
        ("01.01.85", "00.00.00", "", dt.datetime(1985, 1, 1), False),
        ("31.12.84", "23.59.59", "", dt.datetime(2084, 12, 31, 23, 59, 59), False),
        ("5/3/17", "21:04:09", "", dt.datetime(2017, 3, 5, 21, 4, 9), False),
        ("99.99.99", "00.00.00", "", None, True),
        ("29.02.17", "00.00.00", "Startdate XX-XXX-XXXX", None, True),
        ("05.03.17", "24.00.00", "", None, True),
        ("        ", "        ", "", None, True),
        ("01.01.85", "00.00.00", "Startdate X X X X", None, True),
        ("05.03.17", "01.02.03", "Startdate X X X X", dt.datetime(2017, 3, 5, 1, 2, 3), False),
        ("05.03.17", "01.02.03", "Startdate 05-MAR-1917", dt.datetime(1917, 3, 5, 1, 2, 3), False),
        ("99.99.99", "01.02.03", "Startdate 05-MAR-2017 x", dt.datetime(2017, 3, 5, 1, 2, 3), True),
        ("05.03.17", "01.02.03", "Startdate 06-MAR-2017 x", dt.datetime(2017, 3, 6, 1, 2, 3), True),
    ],
)
def test_start_times_are_right_or_none(
    tmp_path: Path,
    startdate: str,
    starttime: str,
    recording: str,
    expected: dt.datetime | None,
    noted: bool,
) -> None:
    content = edit(build([Signal(noise(5, 100))]), "startdate", startdate)
    content = edit(edit(content, "starttime", starttime), "recording", recording)
    file = opened(tmp_path, content)
    assert file.start_time == expected
    assert ("start_date" in file.notes) == noted


@pytest.mark.parametrize(("onset", "shift_s"), [("+0.125", 0.125), ("+7", 0), ("-1", 0)])
def test_the_first_onset_is_the_fraction_of_the_starting_second(
    tmp_path: Path, onset: str, shift_s: float
) -> None:
    file = opened(tmp_path, build([Signal(noise(1, 100))], kind="EDF+C", onsets=[onset]))
    assert file.start_time == dt.datetime(2017, 3, 5, 21, 4, 9) + dt.timedelta(seconds=shift_s)


# Headers that are refused


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("version", "1", "not an EDF or BDF file"),
        ("n_signals", "0", "number of signals"),
        ("n_signals", "9999", "number of signals"),
        ("n_signals", "x", "number of signals"),
        ("n_signals", "4000", "truncated EDF header"),
        ("record_s", "0", "a record must last above 0"),
        ("record_s", "-1", "a record must last above 0"),
        ("record_s", "1e300", "a record must last above 0"),
        ("n_samples", "-5", "samples per record of signal 1 are no count"),
        ("n_samples", "1.5", "samples per record of signal 1 are no count"),
        ("n_samples", "1,000", "samples per record of signal 1 are no count"),
        ("n_samples", "0", "no signal has samples"),
        ("n_samples", "99999999", "no data"),
        ("label", "EDF Annotations", "annotations only"),
    ],
)
def test_damage_to_the_layout_is_refused(tmp_path: Path, field: str, value: str, told: str) -> None:
    content = edit(build([Signal(noise(5, 100))]), field, value)
    with pytest.raises(RecordingError, match=told) as caught:
        opened(tmp_path, content)
    assert "a.edf" in str(caught.value)


@pytest.mark.parametrize("n_bytes", [0, 100, 255, 256, 511, 512, 600])
def test_a_file_cut_before_the_end_of_its_first_record_is_refused(
    tmp_path: Path, n_bytes: int
) -> None:
    with pytest.raises(RecordingError):
        opened(tmp_path, build([Signal(noise(5, 100))])[:n_bytes])


def test_what_the_system_refuses_is_left_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_edf(tmp_path / "none.edf")
    with pytest.raises(IsADirectoryError):
        open_edf(tmp_path)


@pytest.mark.parametrize("field", [*MAIN, *COLUMNS])
def test_no_text_of_the_header_is_told(tmp_path: Path, field: str) -> None:
    content = build([Signal(noise(5, 100), label=f"E{i}") for i in range(2)], kind="EDF+C")
    content = edit(edit(content, "patient", "MCH-1 F X SECRET"), "recording", "Startdate X SECRET")
    told = []
    try:
        file = opened(tmp_path, edit(content, field, "SECRET"))
        told += [dict(file.notes), *(s.problem for s in file.signals)]
    except RecordingError as error:
        told.append(error)
    assert "SECRET" not in " ".join(map(str, told))


# Reading


def test_records_larger_than_a_block_are_read_in_parts(tmp_path: Path) -> None:
    signal = Signal(noise(2, 150_000))
    file = opened(tmp_path, build([Signal(noise(2, 7)), signal], record_s="2000"))
    got, _ = file.read([1], start_s=100, stop_s=3900)
    expected = physical(signal)[7_500:292_500]
    np.testing.assert_allclose(got[0], expected, rtol=3e-7, atol=1e-4)


def test_a_read_leaves_nothing_of_the_file_mapped(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc: only Linux lists what is mapped")
    file = opened(tmp_path, build([Signal(noise(400, 1000))]))
    kept = [file.read([0], start_s=a, stop_s=a + 100)[0] for a in range(0, 400, 100)]
    assert len(kept) == 4
    assert str(file.path) not in maps.read_text()


def test_a_file_cut_after_it_was_opened_is_told(tmp_path: Path) -> None:
    content = build([Signal(noise(5, 100))])
    file = opened(tmp_path, content)
    file.path.write_bytes(content[:-1])
    assert file.read([0], start_s=0, stop_s=4)[0].shape == (1, 400)
    with pytest.raises(RecordingError, match="became shorter"):
        file.read([0], start_s=0, stop_s=5)


@pytest.mark.parametrize("picks", [[], [1], [-1]])
def test_picks_outside_the_file_are_refused(tmp_path: Path, picks: list[int]) -> None:
    file = opened(tmp_path, build([Signal(noise(5, 100))]))
    with pytest.raises(ValueError, match="picks must be among 0 to 0"):
        file.read(picks, start_s=0, stop_s=5)


# Real files

ZOO_REFUSED = {
    "SC4001EC-Hypnogram.edf": "annotations only",
    "derived_empty.edf": "not an EDF",
    "derived_header_only.edf": "no data",
}
ZOO_NOTES = {
    "derived_nrecords_minus1.edf": {"record_count"},
    "derived_truncated_midrecord.edf": {"truncated"},
    "edfio_test_subsecond.edf": {"inverted"},
}


@pytest.mark.real_data
def test_zoo_files_are_read_as_mne_reads_them_or_refused(real_data: Path) -> None:
    paths = sorted((real_data / "format_zoo").glob("*.[eb]df"))
    assert len(paths) >= 20
    for path in paths:
        if path.name in ZOO_REFUSED:
            with pytest.raises(RecordingError, match=ZOO_REFUSED[path.name]):
                open_edf(path)
            continue
        file = open_edf(path)
        undated = {"start_date"} if file.start_time is None else set()
        assert set(file.notes) == ZOO_NOTES.get(path.name, set()) | undated
        assert len(file.segments) == 1
        oracle = path
        if path.name == "derived_bad_physmin.edf":  # MNE refuses it; the same signals are here
            assert [s.problem for s in file.signals].count(None) == len(file.signals) - 1
            oracle = path.with_name("derived_bad_startdate.edf")
        _compare_with_mne(file, oracle)


def _compare_with_mne(file: EdfFile, oracle: Path) -> None:
    volts = {"uV": 1e-6, "µV": 1e-6, "mV": 1e-3}
    rates = {s.rate_hz for s in file.signals if s.problem is None}
    for rate in rates:
        # MNE masks the trigger bits of BioSemi's Status, and is silent about doubled labels.
        picks = [
            i
            for i, s in enumerate(file.signals)
            if s.rate_hz == rate and s.problem is None and s.label != "Status"
        ]
        labels = [file.signals[i].label for i in picks]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = mne.io.read_raw(oracle, include=labels, preload=True, verbose="ERROR")
        if len(raw.ch_names) != len(picks) or raw.info["sfreq"] != pytest.approx(rate):
            raise AssertionError(f"{file.path.name}: MNE found other signals at {rate} Hz")
        scale = np.array([volts.get(file.signals[i].unit, 1.0) for i in picks])
        got, gaps = file.read(picks, start_s=0, stop_s=file.duration_s, scale=scale)
        assert gaps == ()
        expected = raw.get_data()
        assert got.shape == expected.shape
        steps = np.array([abs(file.signals[i].gain) for i in picks]) * scale
        tolerance = 3e-7 * np.abs(expected) + 0.01 * steps[:, None]
        assert np.all(np.abs(got - expected) <= tolerance), file.path.name
    if oracle == file.path and file.start_time is not None:
        shown = raw.info["meas_date"].replace(tzinfo=None)
        assert abs(file.start_time - shown) < dt.timedelta(seconds=1)
