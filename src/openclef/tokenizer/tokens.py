"""Stage: cohort + tokenizer -> `tokens/`, one Parquet row a window.

A part holds the tokens of `PART_WINDOWS` consecutive windows of the cohort and is renamed into
place whole: its presence means done, and its bytes do not depend on who made it, or when.

Axis letters: B batch, R region, Q codes of a token; a prime (Fp, Tp) is the token grid, L = R * Fp
* Tp the tokens of a window in row-major order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from openclef import artefact
from openclef.artefact import Artefact, atomic
from openclef.cohort.session import PASSING, SourceError, storage_of
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.tokenizer.token_table import CODE_VECTORS, fixed_lists, make_cache
from openclef.tokenizer.train import check_finite, load_tokenizer, stack
from openclef.tokenizer.vqgan import Vqgan, scale
from openclef.training.batches import load_ahead
from openclef.training.loop import Batch, best_device
from openclef.types import Spectrogram, Tokens

PART_WINDOWS = 256  # 1 MiB of ids, 16 shards of spectrograms; minutes of work, on two cores
BATCH_SIZE = 4


@torch.no_grad()
def tokenize_batch(tokenizer: Vqgan, batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids `[B, R, Fp, Tp, Q]` int64, 0 where hidden, and hidden `[B, R, Tp]`, on the CPU.

    batch: as `stack` makes it, in decibels. What it holds where it is hidden does not matter.
    """
    device = next(tokenizer.parameters()).device
    ids, hidden = tokenizer.tokenize(
        scale(batch["power_db"].to(device)),
        batch["channel_mask"].to(device),
        batch["time_mask"].to(device),
    )
    return ids.masked_fill(hidden[:, :, None, :, None], 0).cpu(), hidden.cpu()


def tokenize_window(tokenizer: Vqgan, spectrogram: Spectrogram, *, tokenizer_hash: str) -> Tokens:
    """Tokens of one window of full length (see `fit_to_window`).

    Raises OpenclefError if a visible value is not finite. Of a window in which nothing is visible
    every token is hidden and every id 0.
    """
    check_finite(spectrogram)
    ids, hidden = tokenize_batch(tokenizer, stack([spectrogram]))
    mask = hidden[0, :, None, :].expand(ids.shape[1:-1]).contiguous()
    return Tokens(ids[0].numpy().astype(np.uint16), mask.numpy(), tokenizer_hash)


def part_path(out: Path, index: int) -> Path:
    """Where the tokens of windows from row `index * PART_WINDOWS` on lie."""
    return out / f"part-{index:05d}.parquet"


def missing_parts(out: Path, cohort: Cohort) -> list[int]:
    """Parts of `out` that are still to be made."""
    n_parts = math.ceil(cohort.windows.height / PART_WINDOWS)
    return [index for index in range(n_parts) if not part_path(out, index).exists()]


def tokenize_cohort(
    cohort: Cohort,
    tokenizer_folder: Path,
    out: Path,
    *,
    shard: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> Artefact:
    """Write the tokens of every window, or of a shard of them, or finish what was interrupted.

    Parameters
    ----------
    cohort : Cohort
        A window of it that cannot be read, or holds values that are not finite, gets a row without
        tokens that says why (`failures`); the others go on.
    tokenizer_folder : Path
        A complete `tokenizer/`.
    out : Path
        Parquet parts `session_id, window, start_s, ids, valid, error`, in order of the cohort. ids:
        `[L * Q]` uint16. valid: `[R * Tp]`, whether a column of tokens is visible. error: null, or
        why there are no tokens. Beside them `codes.npy`, `[n_codes, D]` float32: the vector that
        each id stands for, unless a token has several codes.
    shard : tuple of int
        `(i, n)`: every n-th part, from the i-th (1 to n). Shards may be made at the same time, by
        several machines that share the disk; the last one to end finishes.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Artefact
        Of kind "tokens"; complete once all shards are.

    Raises
    ------
    ArtefactError
        If `out` holds something else, or the disk is too full.
    OpenclefError
        If there is no such shard, or no window of the cohort has tokens.
    """
    i, n = shard
    if not 1 <= i <= n:
        raise OpenclefError(f"shard {i}/{n}: allowed are 1/{max(n, 1)} to {max(n, 1)}/{max(n, 1)}")
    tokenizer = load_tokenizer(tokenizer_folder)
    quantiser, n_windows = tokenizer.config.quantiser, cohort.windows.height
    stage = artefact.begin(
        out,
        kind="tokens",
        config={
            "grid": list(tokenizer.config.grid),
            "n_quantisers": quantiser.n_quantisers,
            "n_codes": quantiser.n_codes,
            "part_windows": PART_WINDOWS,
        },
        inputs={
            "cohort": cohort.hash,
            "tokenizer": artefact.load(tokenizer_folder, kind="tokenizer").hash,
        },
    )
    if not stage.is_complete:
        todo = [index for index in missing_parts(out, cohort) if index % n == i - 1]
        n_todo = sum(min(PART_WINDOWS, n_windows - index * PART_WINDOWS) for index in todo)
        # Parts and their copy, two bytes an id each.
        n_ids = math.prod(tokenizer.config.grid) * quantiser.n_quantisers
        artefact.check_free_disk(out, 4 * n_ids * n_todo)
        tokenizer.to(best_device())
        with _progress(n_todo, shown=progress) as advance:
            for index in todo:
                first = index * PART_WINDOWS
                windows = cohort.windows[first : first + PART_WINDOWS]
                table = _tokenize_part(tokenizer, cohort, windows, advance)
                with storage_of(out), atomic(part_path(out, index)) as temporary:
                    pq.write_table(table, temporary, compression="zstd")
        if missing_parts(out, cohort):
            return stage
        _finish(stage, tokenizer.cpu())
    with storage_of(out):
        make_cache(stage)
    return stage


def _write_code_vectors(tokenizer: Vqgan, path: Path) -> None:
    ids = torch.arange(tokenizer.config.quantiser.n_codes)[:, None]
    vectors = tokenizer.quantiser.decode(ids).numpy()
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)


def failures(folder: Path) -> pl.DataFrame:
    """Windows without tokens, and why: `session_id, window, start_s, error`."""
    parts = pl.scan_parquet(sorted(folder.glob("part-*.parquet")))
    wanted = parts.select("session_id", "window", "start_s", "error")
    return wanted.filter(pl.col("error").is_not_null()).collect()


def _finish(stage: Artefact, tokenizer: Vqgan) -> None:
    """Shards that end together all do it, to the same bytes."""
    parts = sorted(stage.folder.glob("part-*.parquet"))
    failed = failures(stage.folder)
    if failed.height == sum(pq.read_metadata(part).num_rows for part in parts):
        for part in parts:
            part.unlink(missing_ok=True)
        raise OpenclefError(
            f"{stage.folder}: no window has tokens; the first, of session "
            f"{failed['session_id'][0]}: {failed['error'][0]}"
        )
    outputs = [part.name for part in parts]
    if tokenizer.config.quantiser.n_quantisers == 1:
        with storage_of(stage.folder):
            _write_code_vectors(tokenizer, stage.folder / CODE_VECTORS)
        outputs.append(CODE_VECTORS)
    stage.finish(outputs)
    for pattern in (".part-*.tmp", f".{CODE_VECTORS}.*.tmp"):
        for path in stage.folder.glob(pattern):
            path.unlink(missing_ok=True)  # of killed writers


def _tokenize_part(
    tokenizer: Vqgan, cohort: Cohort, windows: pl.DataFrame, advance: Callable[[int], None]
) -> pa.Table:
    n_regions, _, n_columns = grid = tokenizer.config.grid
    shape = (windows.height, *grid, tokenizer.config.quantiser.n_quantisers)
    ids = np.zeros(shape, np.uint16)
    valid = np.zeros((windows.height, n_regions, n_columns), bool)
    errors: list[str | None] = [None] * windows.height

    def read(batch: range) -> list[Spectrogram | OpenclefError]:
        return [read_window(cohort, windows, i) for i in batch]

    starts = range(0, windows.height, BATCH_SIZE)
    batches = [range(start, min(start + BATCH_SIZE, windows.height)) for start in starts]
    loads = (partial(read, batch) for batch in batches)
    for batch, found in zip(batches, load_ahead(loads, n_ahead=1), strict=True):
        spectrograms = {}
        for i, one in zip(batch, found, strict=True):
            if isinstance(one, OpenclefError):
                errors[i] = str(one)
            else:
                spectrograms[i] = one
        if spectrograms:
            rows = list(spectrograms)
            ids_BRFTQ, hidden_BRT = tokenize_batch(tokenizer, stack(list(spectrograms.values())))
            ids[rows], valid[rows] = ids_BRFTQ.numpy(), ~hidden_BRT.numpy()
        advance(len(batch))
    return pa.table(
        {
            "session_id": windows["session_id"].to_arrow().cast(pa.string()),
            "window": windows["window"].to_arrow(),
            "start_s": windows["start_s"].to_arrow(),
            "ids": fixed_lists(ids),
            "valid": fixed_lists(valid),
            "error": pa.array(errors, pa.string()),
        }
    )


def read_window(cohort: Cohort, windows: pl.DataFrame, i: int) -> Spectrogram | OpenclefError:
    """A window's spectrogram, or what is wrong with it, told without paths.

    Raises SourceError if it is the cohort's disk that fails: then no window is given up.
    """
    is_passing = False
    try:
        spectrogram = cohort.spectrogram(windows["row"][i])
        # Zarr gives zeros for a file that is not there.
        stored = hashlib.sha256(spectrogram.power_db.astype(np.float16).data).hexdigest()
        if not stored.startswith(windows["hash"][i]):
            raise OpenclefError("spectrogram is missing, or not what ingest stored")
        check_finite(spectrogram)
        return spectrogram
    except MemoryError:
        raise
    except OpenclefError as error:
        problem = error
    except Exception as error:  # whatever Zarr, its codecs and the file system may say
        reason = error.strerror if isinstance(error, OSError) else None
        problem = OpenclefError(f"spectrogram cannot be read ({reason or type(error).__name__})")
        is_passing = isinstance(error, OSError) and error.errno in PASSING
    if is_passing or not (cohort.folder / "manifest.json").exists():
        raise SourceError(
            f"{cohort.folder}: cannot be read just now; once it can be, the same command goes on "
            "from here"
        ) from problem
    return problem


@contextmanager
def _progress(n_windows: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = TextColumn("tokenizing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("", total=n_windows)
        yield lambda n_done: bar.advance(task, n_done)
