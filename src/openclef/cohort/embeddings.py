"""Embeddings of a cohort's windows, written alike whoever made them: our model or a rival."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openclef import artefact
from openclef.artefact import Artefact, atomic

TABLE = "embeddings.parquet"
# Of each session the mean and, where there is one, what a trained aggregator makes of its windows.
SESSIONS = "sessions.parquet"
TRAINED = "trained"
# Numbers in a row group of the file, 64 MiB. A list's offsets are int32: in one piece, the vectors
# of an archive would overflow them.
_GROUP_VALUES = 2**24


def begin_embeddings(
    out: Path,
    *,
    model: str,
    inputs: Mapping[str, str],
    settings: Mapping[str, object] | None = None,
) -> Artefact:
    """Open an `embeddings/` folder; `inputs` must hold the cohort's hash under "cohort"."""
    return artefact.begin(
        out, kind="embeddings", config={"model": model, **(settings or {})}, inputs=inputs
    )


def write_embeddings(
    path: Path,
    *,
    session_id: list[str],
    window: NDArray[np.int64],
    start_s: NDArray[np.float64],
    vectors: NDArray[np.float32],
    hashes: Mapping[str, str],
) -> None:
    """Write one row a window: `session_id, window, start_s, vector`; vectors `[W, D]`.

    The hashes of model and data go to the file's metadata under "openclef.<name>".
    """
    table = pa.table(
        {
            "session_id": pa.array(session_id, pa.string()),
            "window": pa.array(window, pa.int64()),
            "start_s": pa.array(start_s, pa.float64()),
        }
    )
    assert table.num_rows == len(vectors)
    field = pa.field("vector", pa.list_(pa.float32()))
    metadata = {f"openclef.{name}": value for name, value in hashes.items()}
    schema = table.schema.append(field).with_metadata(metadata)
    n_rows = _rows_of_group(vectors.shape[1])
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for first in range(0, len(vectors), n_rows):
            lists = _lists(vectors[first : first + n_rows])
            writer.write_table(table.slice(first, n_rows).append_column(field, lists))


def _rows_of_group(width: int) -> int:
    return max(1, _GROUP_VALUES // max(1, width))


def _lists(vectors: NDArray[np.float32]) -> pa.ListArray:
    """A list a row of `[W, D]`."""
    n_rows, width = vectors.shape
    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    return pa.ListArray.from_arrays(np.arange(n_rows + 1, dtype=np.int32) * width, flat)
