"""Damaged EDF and BDF files end in their own samples or in RecordingError, within their size.

Each file is also decoded one sample at a time by `plain_decode`, which shares no code with the
package: whatever is accepted must be equal, whatever is refused must be refused by both.
OPENCLEF_FUZZ_EXAMPLES sets the number of examples (at random; by default few and always the same).
"""

from __future__ import annotations

import math
import os
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_edf import COLUMNS, MAIN, Signal, build, edit, noise

from openclef.errors import RecordingError
from openclef.signal.edf import EdfFile, open_edf

N_EXAMPLES = os.environ.get("OPENCLEF_FUZZ_EXAMPLES")
DAY_S = 86_400.0


class Refused(Exception):  # noqa: N818
    """The plain decoder finds no samples that are beyond doubt."""


@dataclass
class Plain:
    """rows: physical values `[R][n]` of each usable signal, None for the others."""

    record_s: float
    rates_hz: list[float]
    offsets: list[float]
    rows: list[list[list[float]] | None]
    segments: list[tuple[float, list[int]]]  # start, its records


def number(text: bytes) -> float | None:
    text = text.strip(b" \0")
    if set(text) - set(b"0123456789+-.,eE"):
        return None
    try:
        value = float(text.replace(b",", b"."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def whole(text: bytes) -> int | None:
    before, _, after = text.strip(b" \0").partition(b".")
    digits = before[1:] if before[:1] in {b"+", b"-"} else before
    return int(before) if digits.isdigit() and not after.strip(b"0") else None


def plain_decode(content: bytes) -> Plain:
    if content[:8].strip(b" \0") not in {b"0", b"\xffBIOSEMI"} or len(content) < 256:
        raise Refused
    width = 3 if content[0] == 0xFF else 2
    n_signals = whole(content[252:256])
    if n_signals is None or not 1 <= n_signals <= 4096 or len(content) < 256 * (n_signals + 1):
        raise Refused

    def column(field: str) -> list[bytes]:
        start, size = COLUMNS[field]
        at = 256 + start * n_signals
        return [content[at + size * i : at + size * (i + 1)] for i in range(n_signals)]

    annotates = [
        t.strip(b" \0") in {b"EDF Annotations", b"BDF Annotations"} for t in column("label")
    ]
    record_s = number(content[244:252])
    counts = [whole(text) for text in column("n_samples")]
    if all(annotates) or record_s is None or not 0 < record_s <= 30 * DAY_S:
        raise Refused
    if any(count is None or count < 0 for count in counts):
        raise Refused
    if not any(c for c, annotation in zip(counts, annotates, strict=True) if not annotation):
        raise Refused

    data = content[256 * (n_signals + 1) :]
    record_bytes = width * sum(counts)
    n_records = len(data) // record_bytes
    stated = whole(content[236:244])
    if stated is not None and stated > 0:
        n_records = min(n_records, stated)
    if n_records == 0:
        raise Refused
    records = [data[record_bytes * i : record_bytes * (i + 1)] for i in range(n_records)]

    plain = Plain(record_s, [], [], [], [])
    clock = None
    start = 0
    ranges = zip(
        map(number, column("physical_min")),
        map(number, column("physical_max")),
        map(whole, column("digital_min")),
        map(whole, column("digital_max")),
        strict=True,
    )
    for annotation, count, limits in zip(annotates, counts, ranges, strict=True):
        stop = start + width * count
        if annotation:
            clock = (start, stop) if clock is None else clock
        else:
            low, high, digital_low, digital_high = limits
            usable = None not in limits and 0 < count <= 1e5 * record_s
            if usable and (digital_low >= digital_high or low == high):
                usable = False
            if usable and (max(abs(low), abs(high)) > 1e20 or abs(high - low) < 1e-20):
                usable = False
            rows = None
            if usable:
                gain = (high - low) / (digital_high - digital_low)
                rows = [
                    [
                        low
                        + gain
                        * (int.from_bytes(r[i : i + width], "little", signed=True) - digital_low)
                        for i in range(start, stop, width)
                    ]
                    for r in records
                ]
            plain.offsets.append(low - gain * digital_low if usable else math.nan)
            plain.rates_hz.append(count / record_s)
            plain.rows.append(rows)
        start = stop
    declared = content[192:197].upper()
    plain.segments = segments(
        None if clock is None else [onset(r[slice(*clock)]) for r in records],
        n_records,
        record_s,
        max(plain.rates_hz),
        declared not in {b"EDF+D", b"BDF+D"},
    )
    return plain


def onset(annotations: bytes) -> float | None:
    text, end, _ = annotations[:64].partition(b"\x14\x14")
    before, _, after = text[1:].replace(b",", b".").partition(b".")
    if not end or text[:1] not in {b"+", b"-"} or not before.isdigit() or len(before) > 10:
        return None
    if after and not after.isdigit():
        return None
    return float(text.replace(b",", b"."))


def segments(
    onsets: list[float | None] | None,
    n_records: int,
    record_s: float,
    fastest_hz: float,
    is_continuous: bool,
) -> list[tuple[float, list[int]]]:
    unbroken = [(0.0, list(range(n_records)))]
    if onsets is None:
        if is_continuous:
            return unbroken
        raise Refused
    tolerance_s = min(max(1 / fastest_hz, 0.001), record_s / 2)
    known = [(o - i * record_s) for i, o in enumerate(onsets) if o is not None]
    if is_continuous and None not in {onsets[0], onsets[-1]}:
        late_s = onsets[-1] - onsets[0] - (n_records - 1) * record_s
        if abs(late_s) < tolerance_s:
            return unbroken
    if len(known) < n_records:
        if is_continuous and (not known or max(known) - min(known) < tolerance_s):
            return unbroken
        raise Refused
    found = [(0.0, [0])]
    for i in range(1, n_records):
        jump_s = onsets[i] - onsets[i - 1] - record_s
        if jump_s <= -tolerance_s or jump_s > 30 * DAY_S:
            raise Refused
        if jump_s >= tolerance_s:
            start_s, records = found[-1]
            found.append((start_s + len(records) * record_s + jump_s, [i]))
        else:
            found[-1][1].append(i)
    if is_continuous and n_records > 2 and len(found) == n_records:
        raise Refused
    return found


# Files to damage, and the damage

TIMES = ["+0", "+0.5", "+1", "+4.25", "+4.75", "+5.25", "+9", "+9.5"]


def _bases() -> list[bytes]:
    def signals(bits: int) -> list[Signal]:
        return [
            Signal(noise(8, 32, bits=bits), label="EEG Fp1"),
            Signal(noise(8, 5, seed=1, bits=bits), label="EEG C3", physical=("500", "-100.5")),
        ]

    steady = [f"+{0.5 * i}" for i in range(8)]
    files = [
        build(signals(16), record_s="0.5"),
        build(signals(16), record_s="0.5", kind="EDF+C", onsets=steady),
        build(signals(16), record_s="0.5", kind="EDF+C", onsets=TIMES),
        build(signals(16), record_s="0.5", kind="EDF+D", onsets=TIMES),
        build(signals(24), record_s="0.5", kind="24BIT", bdf=True),
        build(signals(24), record_s="0.5", kind="BDF+D", onsets=TIMES, bdf=True),
    ]
    return [edit(edit(f, "patient", "X SECRET"), "recording", "SECRET") for f in files]


BASES = _bases()
HOSTILE = [
    "", "0", "-1", "1", "2", "3", "-0", "0.0", "1e-9", "1e9", "1e308", "1e-308", "1e999", "nan",
    "inf", "-inf", "0x10", "1_0", "1,5", "99999999", "-9999999", "4096", "4097", "2147483648",
    "65535", "32768", "-32769", "\0\0\0", "5\0", "\xb2", "+", ".", "1e", "7 7", "EDF+D", "EDF+C",
    "BDF+D", "EDF Annotations", "BDF Annotations", "\xffBIOSEMI", "99.99.99", "SECRET",
]  # fmt: skip
ONSETS = [
    "", "+", "0", "+0", "-1", "+1", "+1.5", "+2,5", "+3.0000001", "+9999999999", "+99999999999",
    "+1e5", "+2592000", "+2592009", "+5.24", "+4.7500001", "+nan", "+4.75\x15" "1",
]  # fmt: skip
value = st.one_of(
    st.sampled_from([v.encode("latin-1") for v in HOSTILE]),
    st.integers(-40, 400).map(lambda n: str(n).encode()),
    st.floats(-1e6, 1e6).map(lambda x: f"{x:.6g}".encode()),
    st.binary(max_size=8),
)
damage = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 2**31), st.integers(1, 255)),
    st.tuples(st.just("flip header"), st.integers(0, 2**31), st.integers(1, 255)),
    st.tuples(st.just("field"), st.sampled_from([*MAIN, *COLUMNS]), st.integers(0, 2), value),
    st.tuples(st.just("field"), st.just("n_records"), st.just(0), value),
    st.tuples(st.just("onset"), st.integers(0, 7), st.sampled_from(ONSETS)),
    st.tuples(st.just("onset"), st.integers(0, 7), st.floats(0, 60).map(lambda x: f"+{x:.6g}")),
    st.tuples(st.just("cut"), st.integers(0, 2**31)),
    st.tuples(st.just("extend"), st.binary(max_size=200), st.integers(1, 40)),
)


def damaged(content: bytes, damages: list[tuple]) -> bytes:
    n_signals = int(content[252:256])
    header_bytes = 256 * (n_signals + 1)
    width = 3 if content[0] == 0xFF else 2
    record_bytes = (len(content) - header_bytes) // 8
    # Cuts and extensions last: the other kinds of damage then have their place.
    for kind, *what in sorted(damages, key=lambda d: d[0] in {"cut", "extend"}):
        if kind in {"flip", "flip header"}:
            at = what[0] % (header_bytes if kind == "flip header" else len(content))
            content = content[:at] + bytes([content[at] ^ what[1]]) + content[at + 1 :]
        elif kind == "field":
            field, signal, text = what
            start, size = MAIN.get(field) or COLUMNS[field]
            if field in COLUMNS:
                start = 256 + start * n_signals + size * (signal % n_signals)
            content = content[:start] + text.ljust(size)[:size] + content[start + size :]
        elif kind == "onset" and n_signals == 3:
            at = header_bytes + what[0] * record_bytes + 32 * width
            text = (what[1].encode("latin-1") + b"\x14\x14\0").ljust(12 * width, b"\0")
            content = content[:at] + text + content[at + len(text) :]
        elif kind == "cut":
            content = content[: what[0] % (len(content) + 1)]
        elif kind == "extend":
            content += what[0] * what[1]
    return content


def stretches(file: EdfFile, rate_hz: float) -> list[tuple[int, int]]:
    """Samples to read: all if that is little, else around the first segments."""
    n_times = math.floor(file.duration_s * rate_hz)
    if n_times <= 50_000:
        return [(0, n_times), (n_times // 3, n_times // 2)]
    edges = [round(s * rate_hz) for segment in file.segments[:4] for s in segment]
    return [(max(0, at - 100), min(n_times, at + 100)) for at in edges]


@settings(
    max_examples=int(N_EXAMPLES or 300),
    derandomize=N_EXAMPLES is None,
    database=None,
    deadline=5000,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(base=st.sampled_from(BASES), damages=st.lists(damage, max_size=5))
def test_a_damaged_file_is_read_right_or_refused(
    tmp_path_factory: pytest.TempPathFactory, base: bytes, damages: list[tuple]
) -> None:
    content = damaged(base, damages)
    path = tmp_path_factory.getbasetemp() / "damaged.edf"
    path.write_bytes(content)
    try:
        plain = plain_decode(content)
    except Refused:
        plain = None

    tracemalloc.start()
    try:
        file = open_edf(path)
        reads = []
        for rate_hz in {s.rate_hz for s in file.signals if s.problem is None}:
            picks = [
                i for i, s in enumerate(file.signals) if s.rate_hz == rate_hz and s.problem is None
            ]
            for first, stop in stretches(file, rate_hz):
                start_s, stop_s = first / rate_hz, stop / rate_hz
                reads.append((picks, first, *file.read(picks, start_s=start_s, stop_s=stop_s)))
    except RecordingError as error:
        told = str(error)
        assert "damaged.edf" in told
        assert "SECRET" not in told
        assert plain is None, f"refused for no reason: {told}"
        return
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 2**24 + 16 * len(content)
    assert plain is not None, "accepted, though in doubt"
    assert "SECRET" not in str(dict(file.notes))
    assert_equal(file, plain, reads)


def assert_equal(file: EdfFile, plain: Plain, reads: list[tuple]) -> None:
    assert [s.problem is None for s in file.signals] == [row is not None for row in plain.rows]
    assert [s.rate_hz for s in file.signals] == plain.rates_hz
    assert len(file.segments) == len(plain.segments)
    for (start_s, stop_s), (plain_start_s, records) in zip(
        file.segments, plain.segments, strict=True
    ):
        assert start_s == pytest.approx(plain_start_s, abs=1e-6)
        assert stop_s == pytest.approx(plain_start_s + len(records) * plain.record_s, abs=1e-6)
    for picks, first, signal, gaps in reads:
        rate_hz = plain.rates_hz[picks[0]]
        n_times = signal.shape[1]
        hidden = np.zeros(n_times, bool)
        for start_s, stop_s in gaps:
            hidden[round(start_s * rate_hz) : round(stop_s * rate_hz)] = True
        for row, pick in zip(signal, picks, strict=True):
            expected = np.full(n_times, np.nan)
            for (start_s, _), (_, records) in zip(file.segments, plain.segments, strict=True):
                values = np.concatenate([plain.rows[pick][record] for record in records])
                at = round(start_s * rate_hz) - first
                inside = np.arange(max(0, -at), min(len(values), n_times - at))
                expected[at + inside] = values[inside]
            np.testing.assert_array_equal(hidden, np.isnan(expected))
            assert not row[hidden].any()
            error = np.abs(row - expected)[~hidden]
            size = np.abs(expected[~hidden]) + abs(plain.offsets[pick])
            assert np.all(error <= 3e-7 * size)


def test_undamaged_files_are_accepted_by_both(tmp_path: Path) -> None:
    for content in BASES:
        (tmp_path / "a.edf").write_bytes(content)
        assert len(plain_decode(content).segments) == len(open_edf(tmp_path / "a.edf").segments)
