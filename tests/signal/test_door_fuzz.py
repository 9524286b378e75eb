"""The whole door under damaged files: plausible finite recordings or RecordingError, no more.

Whether the samples of EDF and BDF are right is asked in `test_edf_fuzz`; here, that no format,
however damaged, gives another exception, a hang, memory beyond its size, or the header's text.
OPENCLEF_FUZZ_EXAMPLES sets the number of examples (at random; by default few and always the same).
"""

from __future__ import annotations

import os
import resource
import shutil
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_edf import COLUMNS, MAIN, Signal, build, edit, noise
from test_edf_fuzz import ONSETS, value
from test_mne_reader import FORMATS, signals_uv

from openclef.errors import RecordingError
from openclef.signal import implausible, open_recording
from openclef.types import CHANNELS

N_EXAMPLES = os.environ.get("OPENCLEF_FUZZ_EXAMPLES")
SECRET = b"SECRET"
fuzz = settings(
    max_examples=int(N_EXAMPLES or 150),
    derandomize=N_EXAMPLES is None,
    database=None,
    deadline=10_000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@contextmanager
def allocating_at_most(n_bytes: int) -> Iterator[None]:
    """Also what is asked for and never touched."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak_bytes < n_bytes


@contextmanager
def growing_at_most(n_bytes: int) -> Iterator[None]:
    """What is touched: readers of others ask for as much as a header says, then find it short."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < n_bytes


def check(path: Path) -> bool:
    """Open a file and read its first windows; True if it gave any."""
    try:
        file = open_recording(path)
        windows = [w for w, _ in zip(file.iter_windows(), range(3), strict=False)]
    except RecordingError as error:
        told = str(error)
        assert told.startswith(f"{path}: ")
        assert "SECRET" not in told
        return False
    assert "SECRET" not in str(dict(file.provenance))
    assert "SECRET" not in str(file.montage.record())
    assert 64 <= file.sfreq_hz <= 50_000
    assert windows
    for recording in windows:
        assert set(recording.ch_names) <= set(CHANNELS)
        assert recording.signal_uv.shape[0] == len(recording.ch_names) > 0
        assert np.isfinite(recording.signal_uv).all()
        assert recording.duration_s <= 1280 + 1 / file.sfreq_hz
        assert implausible(recording, declared=file.unit) is None
        for start_s, stop_s in recording.gaps:
            assert 0 <= start_s <= stop_s <= recording.duration_s + 1 / file.sfreq_hz
    return True


# EDF and BDF


def _bases() -> list[bytes]:
    def signals(bits: int) -> list[Signal]:
        limit = 1 << (bits - 1)
        ranges = {"physical": ("-327.68", "327.67"), "limits": (str(-limit), str(limit - 1))}
        return [
            Signal(noise(8, 64, bits=bits), label="EEG Fp1", **ranges),
            Signal(noise(8, 100, seed=1, bits=bits), label="EEG C3", **ranges),
            Signal(noise(8, 64, seed=2, bits=bits), label="SECRET", **ranges),
        ]

    late = ["+0", "+1", "+2", "+3", "+4", "+9", "+10.5", "+2000"]
    files = [
        build(signals(16)),
        build(signals(16), kind="EDF+C", onsets=[f"+{i}" for i in range(8)]),
        build(signals(16), kind="EDF+D", onsets=late),
        build(signals(24), kind="24BIT", bdf=True),
        build(signals(24), kind="BDF+D", onsets=late, bdf=True),
    ]
    return [edit(edit(f, "patient", "X SECRET"), "recording", "SECRET") for f in files]


BASES = _bases()
flip = st.tuples(st.just("flip"), st.integers(0, 2**31), st.integers(1, 255))
early_flip = st.tuples(st.just("early flip"), st.integers(0, 2**31), st.integers(1, 255))
cut = st.tuples(st.just("cut"), st.integers(0, 2**31), st.just(0))
splice = st.tuples(
    st.just("splice"), st.integers(0, 2**31), st.one_of(value, st.just(SECRET), st.just(b"\n"))
)
field = st.tuples(
    st.sampled_from([*MAIN, *COLUMNS, "n_records", "record_s"]), st.integers(0, 3), value
)
onset = st.tuples(st.just("onset"), st.integers(0, 7), st.sampled_from(ONSETS))


def damaged(content: bytes, damages: list[tuple]) -> bytes:
    for kind, where, what in damages:
        at = where % max(1, min(len(content), 2000) if kind == "early flip" else len(content))
        if kind in MAIN or kind in COLUMNS:
            try:
                content = edit(content, kind, what, signal=where % 4)
            except ValueError:  # the number of signals is none any more
                continue
        elif kind == "onset":
            before, *after = content.split(b"\x14\x14\0")
            if len(after) > where:  # the onset of one record, in the bytes it had
                head, plus, old = (before, *after)[where].rpartition(b"+")
                new = head + (what.encode() + b"\x14\x14\0").ljust(len(plus + old) + 3, b"\0")
                parts = [before, *after]
                rest = b"\x14\x14\0".join(parts[where + 1 :])
                done = b"".join(part + b"\x14\x14\0" for part in parts[:where])
                content = done + new + rest[max(0, len(new) - len(head + plus + old) - 3) :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "splice":
            content = content[:at] + what + content[at + len(what) :]
        elif content:
            content = content[:at] + bytes([content[at] ^ what]) + content[at + 1 :]
    return content


@fuzz
@given(
    base=st.sampled_from(BASES),
    damages=st.lists(st.one_of(flip, early_flip, field, field, onset, cut, splice), max_size=4),
    suffix=st.sampled_from([".edf", ".bdf"]),
)
def test_damaged_edf_and_bdf(
    tmp_path: Path, base: bytes, damages: list[tuple], suffix: str
) -> None:
    content = damaged(base, damages)
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    # Of 4 s in a window of 1,280, most a gap, one byte of the file may become 640; three windows.
    with allocating_at_most(2**25 + 2000 * len(content)):
        check(path)


def test_undamaged_edf_and_bdf_are_read(tmp_path: Path) -> None:
    for content in BASES:
        (tmp_path / "a.edf").write_bytes(content)
        assert check(tmp_path / "a.edf")


# All other formats


@cache
def original(name: str) -> tuple[str, dict[str, bytes]]:
    """The name of the file to open, and the content of all."""
    with TemporaryDirectory() as folder:
        path = FORMATS[name][0](Path(folder), signals_uv())
        return path.name, {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@fuzz
@given(
    name=st.sampled_from([name for name in FORMATS if name not in {"EDF", "BDF"}]),
    which=st.integers(0, 2),
    damages=st.lists(st.one_of(flip, early_flip, early_flip, cut, splice, splice), max_size=3),
)
def test_damaged_files_of_other_formats(
    tmp_path: Path,
    name: str,
    which: int,
    damages: list[tuple],
) -> None:
    opened, files = original(name)
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = sorted(files)
    for file, content in files.items():
        is_hit = file == names[which % len(names)]
        (folder / file).write_bytes(damaged(content, damages) if is_hit else content)
    with growing_at_most(2**29), warnings.catch_warnings():
        warnings.simplefilter("error")
        is_read = check(folder / opened)
    assert is_read or damages
