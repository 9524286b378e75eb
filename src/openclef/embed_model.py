"""Stages: a packed model and a recording or a cohort -> embeddings.

`encoder.embed` embeds tokens that are there already; here every window is tokenized first.
Axis letters: B batch, D width of an embedding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from openclef.artefact import Artefact, atomic, write_json
from openclef.cohort.embeddings import SESSIONS, TABLE, begin_embeddings, write_embeddings
from openclef.cohort.session import storage_of
from openclef.cohort.store import Cohort
from openclef.encoder.embed import BATCH_SIZE, FAILURES, PARTS, in_parts, session_means
from openclef.encoder.windows import hour_of_day
from openclef.errors import OpenclefError
from openclef.model import CLEF
from openclef.tokenizer.tokens import read_window
from openclef.training.batches import load_ahead
from openclef.types import Embedding, FloatArray, Spectrogram

_UNSEEN = "no token is visible"


def embed_file(
    model: CLEF, path: Path, out: Path, *, unit: str | None = None, device: str | None = None
) -> Embedding:
    """Embed one recording into the Parquet file `out`, one row a window; the file's name stays out.

    A window without a visible token is a row of NaN. device: where to compute, by default the best
    there is; the model is then again where it was. Raises RecordingError as the readers do,
    OpenclefError as `CLEF.to`; `out` is then not written.
    """
    with _on_device(model, device):
        embedding = model.embed(path, unit=unit)
    n_windows = len(embedding.windows)
    write_embeddings(
        out,
        session_id=["S000001"] * n_windows,
        window=np.arange(n_windows),
        start_s=embedding.window_starts_s.astype(np.float64),
        vectors=embedding.windows,
        hashes={"model": embedding.model_hash},
    )
    return embedding


def embed_cohort(model: CLEF, cohort: Cohort, out: Path, *, name: str = "clef") -> Artefact:
    """Stage: model + cohort -> `embeddings/`, every window of every split.

    An interrupted run goes on where it was, to the same bytes.

    Parameters
    ----------
    model : CLEF
        Is on the best device meanwhile, and then again where it was.
    cohort : Cohort
    out : Path
        Gets `embeddings.parquet`, one row a window; `sessions.parquet`, the mean over each
        session's windows: `session_id, n_windows, vector`; and `failures.parquet`, the windows
        that cannot be read, are not finite or show no token: `session_id, window, error`. Those
        are rows of NaN among the embeddings and in no mean; a session of such windows alone is
        not among the sessions.
    name : str
        Of the embeddings in a benchmark.

    Raises
    ------
    ArtefactError
        If `out` holds something else.
    OpenclefError
        If no window has a vector; SourceError if the cohort cannot be read just now.
    """
    stage = begin_embeddings(out, model=name, inputs={"cohort": cohort.hash, "model": model.hash})
    if not cohort.windows.height:
        raise OpenclefError(f"{cohort.folder}: no windows to embed")
    parts = out / PARTS
    if not stage.is_complete:
        with _on_device(model, None):
            vectors = in_parts(
                parts, cohort.windows.height, partial(_embed_part, model, cohort, parts),
                label=f"embedding, {name}",
            )  # fmt: skip
        _write_embeddings(stage, cohort, vectors, _failures(parts))
    shutil.rmtree(parts, ignore_errors=True)
    return stage


@contextmanager
def _on_device(model: CLEF, device: str | None) -> Iterator[None]:
    """The model on that device (None: the best there is), and then again where it was."""
    before = model.device
    try:
        model.to(device)
        yield
    finally:
        model.to(before)


def _embed_part(model: CLEF, cohort: Cohort, folder: Path, part: slice) -> Iterator[FloatArray]:
    """Vectors `[B, D]` of the windows in these rows, a batch at a time.

    Why windows have none is left in `folder`, for `_failures`.
    """
    windows = cohort.windows[part].join(
        cohort.sessions.select("session_id", "start_time"),
        on="session_id", how="left", maintain_order="left",
    )  # fmt: skip
    batches = [
        range(windows.height)[start : start + BATCH_SIZE]
        for start in range(0, windows.height, BATCH_SIZE)
    ]

    def read(batch: range) -> list[Spectrogram | OpenclefError]:
        return [read_window(cohort, windows, i) for i in batch]

    failed = []
    loads = (partial(read, batch) for batch in batches)
    for batch, found in zip(batches, load_ahead(loads, n_ahead=1), strict=True):
        errors = [str(one) if isinstance(one, OpenclefError) else None for one in found]
        spectrograms = [one for one in found if isinstance(one, Spectrogram)]
        vectors = np.full((len(batch), model.config.n_features), np.nan, np.float32)
        if spectrograms:
            rows = [row for row, error in enumerate(errors) if error is None]
            times = windows[batch.start : batch.stop].select("start_time", "start_s").rows()
            hours = [hour_of_day(*times[row]) for row in rows]
            vectors[rows], is_visible = model.embed_batch(spectrograms, hours)
            for row in np.array(rows)[~is_visible]:
                errors[row] = _UNSEEN
        failed += [
            {"session_id": windows["session_id"][i], "window": windows["window"][i], "error": error}
            for i, error in zip(batch, errors, strict=True)
            if error is not None
        ]
        yield vectors
    with storage_of(folder):  # before the part itself, whose presence means done
        write_json(folder / f"{part.start:09d}.json", failed)


def _failures(folder: Path) -> pl.DataFrame:
    """What the parts in this folder tell of windows without a vector, in order."""
    paths = sorted(folder.glob("*.json"))
    rows = [row for path in paths for row in json.loads(path.read_text())]
    return pl.DataFrame(
        rows, schema={"session_id": pl.String, "window": pl.Int64, "error": pl.String}
    )


def _write_embeddings(
    stage: Artefact, cohort: Cohort, vectors: NDArray[np.float32], failed: pl.DataFrame
) -> None:
    if failed.height == cohort.windows.height:
        shutil.rmtree(stage.folder / PARTS, ignore_errors=True)
        raise OpenclefError(
            f"{cohort.folder}: no window can be embedded; the first, of session "
            f"{failed['session_id'][0]}: {failed['error'][0]}"
        )
    write_embeddings(
        stage.folder / TABLE,
        session_id=cohort.windows["session_id"].to_list(),
        window=cohort.windows["window"].to_numpy(),
        start_s=cohort.windows["start_s"].to_numpy(),
        vectors=vectors,
        hashes=stage.inputs,
    )
    with atomic(stage.folder / SESSIONS) as temporary:
        session_means(cohort.windows["session_id"], vectors).write_parquet(temporary)
    with atomic(stage.folder / FAILURES) as temporary:
        failed.write_parquet(temporary)
    stage.finish([TABLE, SESSIONS, FAILURES])
