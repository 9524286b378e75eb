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
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    table = pa.table(
        {
            "session_id": pa.array(session_id, pa.string()),
            "window": pa.array(window, pa.int64()),
            "start_s": pa.array(start_s, pa.float64()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]).cast(
                pa.list_(pa.float32())
            ),
        }
    )
    table = table.replace_schema_metadata({f"openclef.{k}": v for k, v in hashes.items()})
    with atomic(path) as temporary:
        pq.write_table(table, temporary)
