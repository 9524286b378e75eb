"""Vectors of windows in a file, in row groups whose lists cannot overflow."""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openclef.cohort import embeddings
from openclef.cohort.embeddings import write_embeddings

INT32_MAX = np.iinfo(np.int32).max


def write(path, n_windows, width=3):
    vectors = np.arange(n_windows * width, dtype=np.float32).reshape(n_windows, width)
    vectors[1::4] = np.nan
    write_embeddings(
        path,
        session_id=[f"S{i // 2}" for i in range(n_windows)],
        window=np.arange(n_windows) % 2,
        start_s=1280.0 * (np.arange(n_windows) % 2),
        vectors=vectors,
        hashes={"model": "abc"},
    )
    return vectors


# Row groups of three windows: fewer than one, whole ones, and a last one that is not full.
@pytest.mark.parametrize("n_windows", [1, 3, 6, 8])
def test_what_is_read_does_not_depend_on_row_groups(tmp_path, monkeypatch, n_windows):
    whole = tmp_path / "whole.parquet"
    write(whole, n_windows)
    monkeypatch.setattr(embeddings, "_GROUP_VALUES", 11)
    path = tmp_path / "parts.parquet"
    vectors = write(path, n_windows)

    metadata = pq.read_metadata(path)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [min(3, n_windows - first) for first in range(0, n_windows, 3)]
    table = pq.read_table(path)
    assert pq.read_table(whole).schema.equals(table.schema, check_metadata=True)
    assert table.schema.field("vector").type == pa.list_(pa.float32())
    assert table.schema.metadata[b"openclef.model"] == b"abc"
    assert table["session_id"].to_pylist() == [f"S{i // 2}" for i in range(n_windows)]
    assert table["window"].to_pylist() == [i % 2 for i in range(n_windows)]
    assert table["start_s"].to_pylist() == [1280.0 * (i % 2) for i in range(n_windows)]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)
    assert pl.read_parquet(path).equals(pl.read_parquet(whole), null_equal=True)


def test_columns_of_several_lengths_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "_GROUP_VALUES", 6)
    path = tmp_path / "e.parquet"
    with pytest.raises(AssertionError):
        write_embeddings(
            path, session_id=["S"] * 4, window=np.arange(4), start_s=np.zeros(4),
            vectors=np.zeros((2, 3), np.float32), hashes={},
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_file_of_wide_vectors_has_bounded_row_groups(tmp_path):
    path = tmp_path / "e.parquet"
    width, n_windows = 2**20, 40
    write_embeddings(
        path, session_id=["S"] * n_windows, window=np.arange(n_windows),
        start_s=np.zeros(n_windows), vectors=np.zeros((n_windows, width), np.float32), hashes={},
    )  # fmt: skip
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [16, 16, 8]
    assert all(group.column(3).num_values <= 2**24 for group in groups)


@pytest.mark.parametrize("width", [1, 384, 12_288, 2**24, 2**24 + 1, INT32_MAX])
def test_offsets_of_no_row_group_exceed_int32(width):
    assert 1 <= embeddings._rows_of_group(width) * width <= INT32_MAX
