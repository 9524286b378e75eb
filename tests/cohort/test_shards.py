"""Spectrograms as any Zarr reader finds them: sharded, checked, and whole."""

import numpy as np
import pytest
import zarr

from openclef.cohort.session import StorageError
from openclef.cohort.shards import (
    ARRAY_SHAPE,
    SHARD_WINDOWS,
    create_array,
    plan_shards,
    write_shard,
)
from openclef.errors import ArtefactError


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Sessions of 3, 14 and 1 windows in one array, and what they hold."""
    folder = tmp_path_factory.mktemp("array")
    rng = np.random.default_rng(0)
    values = rng.standard_normal((18, *ARRAY_SHAPE)).astype(np.float16)
    sessions, first = [], 0
    for name, n in (("a", 3), ("b", 14), ("c", 1)):
        values[first : first + n].tofile(folder / name)
        sessions.append((folder / name, n))
        first += n
    array = folder / "spectrograms"
    create_array(array, n_rows=18)
    jobs = list(plan_shards(array, sessions))
    for job in reversed(jobs):
        write_shard(job)
    return array, jobs, values


def test_a_shard_is_a_file_of_16_windows_in_the_order_of_the_sessions(stored):
    array, jobs, _ = stored
    assert [len(job.windows) for job in jobs] == [SHARD_WINDOWS, 2]
    assert [sorted(path.name for path in job.sources) for job in jobs] == [["a", "b"], ["b", "c"]]
    files = {str(path.relative_to(array)) for path in array.rglob("*") if path.is_file()}
    assert files == {"zarr.json", "c/0/0/0/0", "c/1/0/0/0"}
    assert [job.path for job in jobs] == [array / "c/0/0/0/0", array / "c/1/0/0/0"]


def test_plain_zarr_reads_the_values_back(stored):
    array, _, values = stored
    read = zarr.open_array(array, mode="r")
    assert read.metadata.zarr_format == 3
    assert (read.shape, read.dtype) == ((18, *ARRAY_SHAPE), np.float16)
    assert read.shards == (SHARD_WINDOWS, *ARRAY_SHAPE)
    assert read.chunks == (1, 19, 128, 640)
    np.testing.assert_array_equal(read[:], values)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_bit_on_disk_is_an_error_and_never_a_value(stored, where):
    array, jobs, values = stored
    whole = jobs[0].path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(where * len(whole))] ^= 1
    jobs[0].path.write_bytes(damaged)
    try:
        read = zarr.open_array(array, mode="r")
        with pytest.raises(ValueError, match=r"[Cc]hecksum"):
            read[:SHARD_WINDOWS]
        np.testing.assert_array_equal(read[SHARD_WINDOWS:], values[SHARD_WINDOWS:])
    finally:
        jobs[0].path.write_bytes(whole)


def test_a_shard_written_again_has_the_same_bytes(stored):
    _, jobs, _ = stored
    before = jobs[1].path.read_bytes()
    jobs[1].path.unlink()
    write_shard(jobs[1])
    assert jobs[1].path.read_bytes() == before


def test_a_disk_that_does_not_take_a_shard_is_told(stored, tmp_path):
    _, jobs, _ = stored
    create_array(tmp_path / "array", n_rows=18)
    (tmp_path / "array" / "c").write_text("in the way")
    (job, *_) = plan_shards(tmp_path / "array", [(jobs[0].windows[0][0], 3)])
    with pytest.raises(StorageError, match="cannot be written"):
        write_shard(job)


def test_a_session_cut_short_by_a_power_cut_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"half")
    create_array(tmp_path / "array", n_rows=1)
    (job,) = plan_shards(tmp_path / "array", [(tmp_path / "a", 1)])
    with pytest.raises(ArtefactError, match="cut short"):
        write_shard(job)
