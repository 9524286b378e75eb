"""The stage that embeds a cohort: vectors of windows, and of sessions whatever their length."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from openclef.artefact import Artefact, atomic
from openclef.cohort.embeddings import (
    SESSIONS,
    TABLE,
    TRAINED,
    begin_embeddings,
    write_embeddings,
)
from openclef.cohort.session import storage_of
from openclef.cohort.store import Cohort
from openclef.encoder.attention_pool import (
    TrainedPool,
    WindowPooling,
    check_aggregator,
    check_pool,
    load_pool,
)
from openclef.encoder.load import check_whitener, encoder_artefact, load_encoder
from openclef.encoder.pooling import (
    check_layer,
    encode_and_pool,
    encode_items,
    nan_if_unseen,
    pool,
)
from openclef.encoder.transformer import FARTHEST_PATCH, MaskedTransformer
from openclef.encoder.windows import EncoderWindows
from openclef.errors import ArtefactError, OpenclefError
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.tokenizer.tokens import failures
from openclef.training.loop import best_device
from openclef.types import FloatArray

FAILURES = "failures.parquet"
PARTS = "parts"  # in a folder until it is complete
PART_WINDOWS = 256
BATCH_SIZE = 8
_UNSEEN = "no token of any window is visible"


def embed_tokens(
    encoder_folder: Path,
    tokens: TokenTable,
    out: Path,
    *,
    model: str,
    pooling: WindowPooling,
    layer: int = -1,
    cohort: Cohort | None = None,
    features: FeatureTable | None = None,
    pool_folder: Path | None = None,
    aggregator_folder: Path | None = None,
) -> Artefact:
    """Stage: encoder (or aligned) + tokens -> `embeddings/`, without the train patients.

    An interrupted run goes on where it was, to the same bytes.

    Parameters
    ----------
    encoder_folder : Path
        Trained on tokens of the same tokenizer.
    tokens : TokenTable
    out : Path
        Gets `embeddings.parquet`, one row a window; `sessions.parquet`, the mean over each
        session's windows, whatever its length: `session_id, n_windows, vector`, and with an
        aggregator `trained`, what it makes of them; and `failures.parquet`, the sessions of which
        no window has tokens, or visible ones: `session_id, error`. `n_windows` counts those that
        show something. Those have rows of NaN among the
        embeddings and none among the sessions. A window without a visible token is a row of NaN
        too, and in no mean.
    model : str
        Name of the embeddings in a benchmark.
    pooling : {"mean", "rows", "moments", "class", "attention"}
        See `encode_and_pool`; "attention" is a pool's, which has seen labels: the artefact's
        configuration then tells of which tasks (`labels_seen`).
    layer : see `encode_and_pool`.
    cohort, features : if the encoder reads of them, see `EncoderWindows`.
    pool_folder : Path, optional
        A complete `pool/` over tokens or rows, for "attention".
    aggregator_folder : Path, optional
        A complete `pool/` over windows.

    Raises
    ------
    ArtefactError
        If the encoder was trained on tokens of another tokenizer or patches of another whitener,
        or a pool on another encoder.
    OpenclefError
        If there is no such layer, the encoder reads what is not given, or a pool does not go with
        pooling and layer.
    """
    source = encoder_artefact(encoder_folder)
    if source.inputs["tokenizer"] != tokens.artefact.inputs["tokenizer"]:
        raise ArtefactError(f"{encoder_folder}: trained on tokens of another tokenizer")
    encoder = load_encoder(encoder_folder).to(best_device())
    check_layer(encoder, layer)
    inputs = {"cohort": tokens.artefact.inputs["cohort"], "encoder": source.hash}
    settings: dict[str, object] = {"pooling": pooling, "layer": layer}
    pool = load_pool(pool_folder) if pool_folder else None
    check_pool(pool, encoder=source, pooling=pooling, layer=layer)
    if pool is not None:
        inputs["pool"], settings["labels_seen"] = pool.artefact.hash, pool.tasks
    aggregator = load_pool(aggregator_folder) if aggregator_folder else None
    if aggregator is not None:
        check_aggregator(aggregator, encoder=source, pool=pool, pooling=pooling, layer=layer)
        inputs["aggregator"] = aggregator.artefact.hash
        settings["labels_seen_by_aggregator"] = aggregator.tasks
    windows = EncoderWindows(tokens, encoder.config.companions, cohort=cohort, features=features)
    if features is not None and encoder.config.feature_dims:
        check_whitener(encoder_folder, encoder.config, features)
        inputs["features"] = features.artefact.hash
    stage = begin_embeddings(out, model=model, inputs=inputs, settings=settings)
    if not stage.is_complete:
        rows = tokens.rows("probe", "tuning", "held_out")
        if not len(rows):
            raise OpenclefError(f"{tokens.artefact.folder}: no window outside the train split")
        vectors = embed_rows(
            encoder, windows, rows, out / PARTS, pooling=pooling, layer=layer, pool=pool,
            label=f"embedding, {model}",
        )  # fmt: skip
        _write(out, tokens, rows, vectors, stage, aggregator)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return stage


def embed_patches(
    tokens: TokenTable,
    features: FeatureTable,
    out: Path,
    *,
    model: str = "patches_mean_sd",
    n_directions: int = 12,
) -> Artefact:
    """Stage: features -> `embeddings/` without an encoder, by mean and spread of whitened patches.

    What an encoder that reads patches has before its first layer, and should be ahead of.

    Parameters
    ----------
    tokens, features : of one another.
    out : as of `embed_tokens`, pooled by "moments".
    model : name of the embeddings in a benchmark.
    n_directions : of most signal that are read of each patch, within 4 SD; all if there are fewer.
    """
    features.check(tokens)
    n_directions = min(n_directions, features.patches.shape[-1])
    stage = begin_embeddings(
        out,
        model=model,
        inputs={
            "cohort": tokens.artefact.inputs["cohort"], "features": features.artefact.hash,
        },
        settings={"pooling": "moments", "n_directions": n_directions},
    )  # fmt: skip
    if not stage.is_complete:
        rows = tokens.rows("probe", "tuning", "held_out")
        n_regions, n_rows, n_columns = tokens.grid

        def embed(part: slice) -> Iterator[FloatArray]:
            for batch in np.array_split(rows[part], -(-len(rows[part]) // BATCH_SIZE)):
                patches = features.patches[batch, :, :n_directions].astype(np.float32)
                hidden = torch.from_numpy(tokens.hidden(batch))
                pooled = pool(
                    torch.from_numpy(patches.clip(-FARTHEST_PATCH, FARTHEST_PATCH)),
                    torch.arange(hidden.shape[1]).expand_as(hidden), hidden,
                    n_rows=n_regions * n_rows, n_columns=n_columns, how="moments",
                )  # fmt: skip
                yield pooled.numpy()

        vectors = in_parts(out / PARTS, len(rows), embed, label=f"embedding, {model}")
        _write(out, tokens, rows, vectors, stage, None)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return stage


@torch.no_grad()
def embed_rows(
    encoder: MaskedTransformer,
    windows: EncoderWindows,
    rows: NDArray[np.int64],
    folder: Path,
    *,
    pooling: WindowPooling,
    layer: int,
    pool: TrainedPool | None,
    label: str,
) -> FloatArray:
    """Vectors `[W, D]` of the windows in these rows, by way of parts in `folder` (`in_parts`).

    NaN where no token of a window is visible.

    pool: as `check_pool` wants it for this pooling.
    """
    if pool is not None:
        pool.attention.to(best_device())

    def embed(part: slice) -> Iterator[FloatArray]:
        for batch in windows.batches(rows[part], BATCH_SIZE):
            on_device = {name: value.to(best_device()) for name, value in batch.items()}
            if pooling == "attention":
                assert pool is not None
                items = encode_items(encoder, on_device, over=pool.config.over, layer=layer)
                pooled = nan_if_unseen(pool.attention(*items), on_device["hidden"])
            else:
                pooled = encode_and_pool(
                    encoder, on_device["ids"], on_device["hidden"], how=pooling, layer=layer,
                    companions=on_device,
                )  # fmt: skip
            yield pooled.cpu().numpy()

    return in_parts(folder, len(rows), embed, label=label)


def in_parts(
    folder: Path, n_items: int, make: Callable[[slice], Iterable[FloatArray]], *, label: str
) -> FloatArray:
    """Vectors `[n_items, D]`, part by part, each kept in `folder` until the caller removes it.

    make: gives those of consecutive items, a batch at a time. A part is renamed into place whole,
    its presence means done: who begins again makes what is missing, to the same bytes.
    """
    paths = []
    with Progress() as bar:
        task = bar.add_task(label, total=n_items)
        for first in range(0, n_items, PART_WINDOWS):
            last = min(first + PART_WINDOWS, n_items)
            path = folder / f"{first:09d}-{last:09d}.npy"
            if not path.exists():
                batches = []
                for vectors in make(slice(first, last)):
                    batches.append(vectors)
                    bar.advance(task, len(vectors))
                with storage_of(folder), atomic(path) as temporary, temporary.open("wb") as file:
                    np.save(file, np.concatenate(batches), allow_pickle=False)
            bar.update(task, completed=last)
            paths.append(path)
    return np.concatenate([np.load(path, mmap_mode="r") for path in paths])


def session_means(session_id: pl.Series, vectors: NDArray[np.float32]) -> pl.DataFrame:
    """Mean over the windows of each session, in order of first mention.

    Returns `session_id, n_windows, vector`; vectors `[W, D]` are of windows, NaN of those that show
    nothing: they do not count, and a session without another is left out.
    """
    known = ~np.isnan(vectors).any(1)
    if not known.all():  # else a copy of an archive's vectors, for nothing
        session_id, vectors = session_id.filter(pl.Series(known)), vectors[known]
    names, first, number = np.unique(session_id.to_numpy(), return_index=True, return_inverse=True)
    total = np.zeros((len(names), vectors.shape[1]))
    np.add.at(total, number, vectors)
    n_windows = np.bincount(number, minlength=len(names))
    means: FloatArray = (total / n_windows[:, None]).astype(np.float32)
    order = np.argsort(first)
    return pl.DataFrame(
        {
            "session_id": pl.Series(names[order], dtype=pl.String),
            "n_windows": n_windows[order],
            "vector": pl.Series(list(means[order])).cast(pl.List(pl.Float32)),
        }
    )


@torch.no_grad()
def attend_sessions(
    aggregator: TrainedPool, session_id: pl.Series, vectors: NDArray[np.float32]
) -> pl.Series:
    """What a trained aggregator makes of the windows of each session, in the order of
    `session_means`.
    """
    windows = pl.DataFrame({"session_id": session_id, "row": np.arange(len(vectors))})
    windows = windows.filter(pl.Series(~np.isnan(vectors).any(1)))
    attention = aggregator.attention.to("cpu")
    pooled = []
    # One session at a time: padding to the longest would not fit into memory.
    for rows in windows.group_by("session_id", maintain_order=True).agg("row")["row"]:
        x_ND = torch.from_numpy(vectors[rows.to_numpy()])
        hidden_N = torch.zeros(len(x_ND), dtype=torch.bool)
        pooled.append(attention(x_ND[None], hidden_N[None])[0].numpy())
    return pl.Series(TRAINED, pooled).cast(pl.List(pl.Float32))


def _write(
    out: Path,
    tokens: TokenTable,
    rows: NDArray[np.int64],
    vectors: FloatArray,
    stage: Artefact,
    aggregator: TrainedPool | None,
) -> None:
    embedded = tokens.session_id.gather(rows)
    failed = failures(tokens.artefact.folder).unique(
        "session_id", keep="first", maintain_order=True
    )
    failed = failed.filter(~pl.col("session_id").is_in(tokens.session_id.unique().to_list()))
    sessions = session_means(embedded, vectors)
    if sessions.is_empty():
        shutil.rmtree(out / PARTS, ignore_errors=True)
        raise OpenclefError(f"{tokens.artefact.folder}: {_UNSEEN} that is not of train patients")
    unseen = embedded.unique(maintain_order=True)
    unseen = unseen.filter(~unseen.is_in(sessions["session_id"].to_list()))
    nothing = np.full((failed.height, vectors.shape[1]), np.nan, np.float32)
    write_embeddings(
        out / TABLE,
        session_id=embedded.to_list() + failed["session_id"].to_list(),
        window=np.concatenate([tokens.window[rows], failed["window"].to_numpy()]),
        start_s=np.concatenate([tokens.start_s[rows], failed["start_s"].to_numpy()]),
        vectors=np.concatenate([vectors, nothing]),
        hashes=stage.inputs,
    )
    if aggregator is not None:
        sessions = sessions.with_columns(attend_sessions(aggregator, embedded, vectors))
    with atomic(out / SESSIONS) as temporary:
        sessions.write_parquet(temporary)
    with atomic(out / FAILURES) as temporary:
        told = failed.select("session_id", "error")
        nothing_shown = pl.DataFrame({"session_id": unseen}).with_columns(error=pl.lit(_UNSEEN))
        pl.concat([told, nothing_shown], how="vertical_relaxed").write_parquet(temporary)
    stage.finish([TABLE, SESSIONS, FAILURES])
