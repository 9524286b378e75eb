"""Stage: cohort + tokenizer -> `tokens/`, one Parquet row a window; and reading them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from openclef import artefact
from openclef.artefact import Artefact, atomic
from openclef.cohort.store import Cohort
from openclef.errors import ArtefactError
from openclef.tokenizer.train import load_tokenizer, stack
from openclef.tokenizer.vqgan import Vqgan, hidden_tokens, scale
from openclef.training.loop import Batch, best_device
from openclef.types import BoolArray, Spectrogram, Tokens

BATCH_SIZE = 4


@torch.no_grad()
def tokenize_batch(tokenizer: Vqgan, batch: Batch) -> tuple[Tensor, Tensor]:
    """Token ids and what is hidden of them, `[B, Fp, Tp]` each, of a batch made by `stack`."""
    device = next(tokenizer.parameters()).device
    time_mask = batch["time_mask"].to(device)
    ids = tokenizer.tokenize(
        scale(batch["power_db"].to(device)), batch["channel_mask"].to(device), time_mask
    )
    hidden = hidden_tokens(time_mask, tokenizer.config.frames_per_token)
    return ids.cpu(), hidden[:, None, :].expand_as(ids).cpu()


def tokenize_window(tokenizer: Vqgan, spectrogram: Spectrogram, *, tokenizer_hash: str) -> Tokens:
    """Tokens `[8, 256]` of one window of full length (see `fit_to_window`)."""
    ids, hidden = tokenize_batch(tokenizer, stack([spectrogram]))
    return Tokens(ids[0].numpy().astype(np.uint16), hidden[0].numpy(), tokenizer_hash)


def tokenize_cohort(cohort: Cohort, tokenizer_folder: Path, out: Path) -> Artefact:
    """Write the tokens of every window to `out/tokens.parquet`, streamed in order of the cohort."""
    tokenizer = load_tokenizer(tokenizer_folder)
    inputs = {
        "cohort": cohort.hash,
        "tokenizer": artefact.load(tokenizer_folder, kind="tokenizer").hash,
    }
    stage = artefact.begin(out, kind="tokens", config={}, inputs=inputs)
    if stage.is_complete:
        return stage
    tokenizer.to(best_device())
    n_tokens = int(np.prod(tokenizer.config.grid))
    schema = pa.schema(
        [
            ("session_id", pa.string()),
            ("window", pa.int64()),
            ("start_s", pa.float64()),
            ("ids", pa.list_(pa.uint16(), n_tokens)),
            ("valid", pa.list_(pa.bool_(), n_tokens)),
        ]
    )
    windows = cohort.windows
    starts = range(0, windows.height, BATCH_SIZE)
    with (
        atomic(out / "tokens.parquet") as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
    ):
        for start in track(starts, "tokenizing"):
            part = windows[start : start + BATCH_SIZE]
            batch = stack([cohort.spectrogram(row) for row in part["row"]])
            ids, hidden = tokenize_batch(tokenizer, batch)
            columns = [
                part["session_id"].to_arrow().cast(pa.string()),
                part["window"].to_arrow(),
                part["start_s"].to_arrow(),
                _fixed_lists(ids.numpy().astype(np.uint16), n_tokens),
                _fixed_lists(~hidden.numpy(), n_tokens),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    stage.finish(["tokens.parquet"])
    return stage


def _fixed_lists(values: NDArray[np.generic], n_tokens: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), n_tokens)


class TokenTable:
    """A complete `tokens/` in memory, 4 KiB a window: ids `[N, L]` uint16, hidden `[N, L]`."""

    def __init__(self, folder: Path, cohort: Cohort) -> None:
        self.artefact = artefact.load(folder, kind="tokens")
        if self.artefact.inputs["cohort"] != cohort.hash:
            raise ArtefactError(f"{folder}: tokens of another cohort than {cohort.folder}")
        table = pq.read_table(folder / "tokens.parquet")
        self.session_id: list[str] = table["session_id"].to_pylist()
        self.window: NDArray[np.int64] = table["window"].to_numpy()
        self.start_s: NDArray[np.float64] = table["start_s"].to_numpy()
        self.ids: NDArray[np.uint16] = _matrix(table["ids"])
        self.hidden: BoolArray = ~_matrix(table["valid"])
        split_of = dict(cohort.sessions.select("session_id", "split").iter_rows())
        self.split = np.array([split_of[name] for name in self.session_id])

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Rows of the windows of patients in one of `splits`."""
        return np.flatnonzero(np.isin(self.split, splits))

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """`ids` int64 and `hidden` bool, `[B, L]`."""
        return {
            "ids": torch.from_numpy(self.ids[rows].astype(np.int64)),
            "hidden": torch.from_numpy(self.hidden[rows]),
        }


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    lists = column.combine_chunks()
    flat: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(lists), -1)
