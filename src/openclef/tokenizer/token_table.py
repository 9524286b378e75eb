"""Tokens of a whole cohort in memory, 4 KiB a window: what training and embedding read.

`tokens.arrow` beside the Parquet parts is a copy of them that is mapped as it lies, its ids one
matrix; it can be deleted and is made again.

Axis letters: N windows, B batch, R region, Q codes of a token; a prime (Fp, Tp) is the token grid,
L = R * Fp * Tp the tokens of a window in row-major order.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from openclef import artefact
from openclef.artefact import Artefact, atomic
from openclef.cohort.session import storage_of
from openclef.cohort.store import Cohort
from openclef.errors import ArtefactError
from openclef.training.loop import Batch
from openclef.types import SPLITS, BoolArray

CACHE = "tokens.arrow"
CODE_VECTORS = "codes.npy"
# Its writer writes every few seconds. Whether another machine's process lives cannot be asked.
_ABANDONED_S = 3600


class TokenTable:
    """A complete `tokens/`, 4 KiB a window, mapped: processes of a machine share the memory.

    Windows without tokens (`failures`) are not in it.

    Attributes
    ----------
    grid : tuple of int
        (R, Fp, Tp).
    n_codes : int
        Codes of each quantiser.
    ids : array, shape (N, L) or, if a token has several codes, (N, L, Q)
        uint16, read-only.
    session_id : polars.Series
        Strings, of each window.
    window : array, shape (N,)
        Number of the window in its session.
    start_s : array, shape (N,)
        Where it starts in its session, seconds.
    split : polars.Series
        Of the window's patient, one of `SPLITS`.

    Raises
    ------
    ArtefactError
        If the tokens are not complete, or of another cohort.
    """

    def __init__(self, folder: Path, cohort: Cohort) -> None:
        self.artefact = artefact.load(folder, kind="tokens")
        if self.artefact.inputs["cohort"] != cohort.hash:
            raise ArtefactError(f"{folder}: tokens of another cohort than {cohort.folder}")
        n_regions, n_rows, n_columns = self.artefact.config["grid"]
        self.grid: tuple[int, int, int] = (n_regions, n_rows, n_columns)
        self.n_codes: int = self.artefact.config["n_codes"]
        with storage_of(folder):
            path = make_cache(self.artefact)
        (batch,) = pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_batches()
        self._hidden: NDArray[np.uint8] = _matrix(batch["hidden"])
        ids: NDArray[np.uint16] = _matrix(batch["ids"])
        if self.artefact.config["n_quantisers"] > 1:
            ids = ids.reshape(len(ids), math.prod(self.grid), -1)
        self.ids = ids
        splits = cohort.sessions.select("session_id", pl.col("split").cast(pl.Enum(SPLITS)))
        windows = pl.DataFrame(batch.select(["session_id", "window", "start_s"])).join(
            splits, on="session_id", how="left", maintain_order="left"
        )
        self.session_id, self.split = windows["session_id"], windows["split"]
        self.window: NDArray[np.int64] = windows["window"].to_numpy()
        self.start_s: NDArray[np.float64] = windows["start_s"].to_numpy()

    def __len__(self) -> int:
        return len(self.ids)

    def code_vectors(self) -> NDArray[np.float32]:
        """What each id stands for in the tokenizer's latent space, `[n_codes, D]`.

        Raises ArtefactError of tokens of several codes each, which have no such table.
        """
        path = self.artefact.folder / CODE_VECTORS
        if not path.exists():
            raise ArtefactError(
                f"{path}: not there; tokens of one code each have it, unless an earlier version "
                "made them: tokenize into another folder"
            )
        vectors: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return vectors

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Rows of the windows of patients in one of `splits`."""
        return np.flatnonzero(self.split.is_in(splits).to_numpy())

    def hidden(self, rows: NDArray[np.int64]) -> BoolArray:
        """Which tokens of these windows are hidden, `[B, L]`."""
        n_regions, n_rows, n_columns = self.grid
        bits = np.unpackbits(self._hidden[rows], axis=1, count=n_regions * n_columns)
        columns = bits.view(np.bool_).reshape(-1, n_regions, 1, n_columns)
        return np.repeat(columns, n_rows, axis=2).reshape(len(rows), -1)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """`ids` int64, `[B, L]` or `[B, L, Q]`, 0 where hidden, and `hidden` bool, `[B, L]`."""
        return {
            "ids": torch.from_numpy(self.ids[rows].astype(np.int64)),
            "hidden": torch.from_numpy(self.hidden(rows)),
        }


def make_cache(stage: Artefact) -> Path:
    """The Arrow file of all tokens, made of the parts unless it is there.

    One record batch, so that ids are one matrix. It is laid out with blank ids, which are then
    filled in part by part: memory never holds them all.
    """
    path = stage.folder / CACHE
    _remove_abandoned(stage.folder)
    identity = {b"openclef.tokens": stage.hash.encode()}
    if _schema_metadata(path) == identity:
        return path
    outputs = sorted(stage.manifest()["outputs"])
    parts = [stage.folder / name for name in outputs if name.startswith("part-")]
    rows = pa.concat_tables(
        [_read_part(part, ["session_id", "window", "start_s", "valid"]) for part in parts]
    )
    hidden = np.packbits(~_matrix(rows["valid"].combine_chunks()), axis=1)
    n_ids = math.prod(stage.config["grid"]) * stage.config["n_quantisers"]
    artefact.check_free_disk(stage.folder, 2 * n_ids * rows.num_rows)
    blank = np.zeros((rows.num_rows, n_ids), np.uint16)  # never touched, so never in memory
    table = rows.drop_columns("valid").append_column("hidden", fixed_lists(hidden))
    table = table.append_column("ids", fixed_lists(blank)).replace_schema_metadata(identity)
    with atomic(path) as temporary:
        with pa.ipc.new_file(temporary, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        with pa.memory_map(str(temporary)) as laid_out:
            first_byte = laid_out.read_buffer(1).address
            (batch,) = pa.ipc.open_file(laid_out).read_all().to_batches()
            offset = batch["ids"].flatten().buffers()[1].address - first_byte
        with temporary.open("r+b") as file:
            file.seek(offset)
            for part in parts:
                file.write(_matrix(_read_part(part, ["ids"])["ids"].combine_chunks()).data)
    return path


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed writers of the cache left; not what another is writing just now."""
    for left in folder.glob(f".{CACHE}.*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()
        except OSError:
            continue  # another was faster, or it is not ours to remove: no reason not to read


def _schema_metadata(path: Path) -> dict[bytes, bytes] | None:
    """None if there is no such Arrow file, or a broken one."""
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).schema.metadata
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def _read_part(path: Path, columns: list[str]) -> pa.Table:
    """Columns of the windows that have tokens."""
    with pq.ParquetFile(path) as part:
        table = part.read(columns=[*columns, "error"])
    return table.filter(table["error"].is_null()).drop_columns("error")


def _matrix(lists: pa.FixedSizeListArray) -> np.ndarray:
    """`[N, size]`, without a copy unless they are booleans."""
    is_bool = pa.types.is_boolean(lists.type.value_type)
    flat: np.ndarray = lists.flatten().to_numpy(zero_copy_only=not is_bool)
    return flat.reshape(len(lists), lists.type.list_size)


def fixed_lists(values: NDArray[np.generic]) -> pa.Array:
    """`[N, ..]` as lists of a fixed size."""
    size = math.prod(values.shape[1:])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)
