"""From tokens of a window to one vector: encode everything visible, then pool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from openclef.artefact import Artefact, atomic
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.store import Cohort
from openclef.encoder.load import encoder_artefact, load_encoder
from openclef.encoder.masking import keep, subsample
from openclef.encoder.transformer import MaskedTransformer
from openclef.encoder.windows import EncoderWindows
from openclef.errors import ArtefactError, OpenclefError
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.tokenizer.tokens import failures
from openclef.training.loop import best_device
from openclef.types import FloatArray

Pooling = Literal["mean", "rows", "class"]
SESSIONS = "sessions.parquet"
FAILURES = "failures.parquet"
BATCH_SIZE = 8


def pool(
    features_BKD: Tensor,
    kept_BK: Tensor,
    kept_hidden: Tensor,
    *,
    n_rows: int,
    n_columns: int,
    how: Literal["mean", "rows"],
) -> Tensor:
    """Average token features `[B, K, D]` over what is visible.

    "mean": over all tokens, `[B, D]` (the paper's [C]). "rows": over time, a frequency row of a
    region at a time, `[B, n_rows * D]`, which a small model needs
    (docs/decisions/0003-pooling.md). A row without a visible token gives zeros.
    """
    weight = (~kept_hidden).to(features_BKD.dtype)
    if how == "mean":
        total = torch.einsum("bkd,bk->bd", features_BKD, weight)
        return total / weight.sum(1, keepdim=True).clamp(min=1)
    row = torch.nn.functional.one_hot(kept_BK // n_columns, n_rows).to(weight.dtype)
    shares = row * weight[..., None]
    total = torch.einsum("bkd,bkr->brd", features_BKD, shares)
    return (total / shares.sum(1).clamp(min=1)[..., None]).flatten(1)


def encode_and_pool(
    model: MaskedTransformer,
    ids_BL: Tensor,
    hidden_BL: Tensor,
    *,
    how: Pooling,
    layer: int = -1,
    n_keep: int | None = None,
    rng: torch.Generator | None = None,
    companions: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Pooled float32 features of a batch of windows; `n_keep` random tokens of each, or all.

    ids `[B, L]` codes, hidden `[B, L]` True where not visible. how: as `pool`, or "class", the
    class token's output. layer: see `MaskedTransformer.encode`. companions: what else the encoder
    reads of a batch, if it does. Returns `[B, D]`, of "rows" `[B, rows * D]`.
    """
    if n_keep is None:
        kept, kept_hidden = keep(hidden_BL)
    else:
        if rng is None:
            raise TypeError("n_keep needs rng")
        kept, kept_hidden = subsample(hidden_BL, n_keep, rng)
    batch = {**(companions or {}), "ids": ids_BL, "hidden": hidden_BL}
    encoded = model.encode(batch, kept, kept_hidden, layer=layer).float()
    return pool_encoded(encoded, kept, kept_hidden, grid=model.config.grid, how=how)


def pool_encoded(
    encoded_BND: Tensor,
    kept_BN: Tensor,
    kept_hidden_BN: Tensor,
    *,
    grid: tuple[int, int, int],
    how: Pooling,
) -> Tensor:
    """What `MaskedTransformer.encode` gives, the class token first, pooled over the kept tokens.

    encoded `[B, 1 + N, D]`; kept, kept_hidden `[B, N]`: places in the window, True where one is not
    visible. grid: regions, rows, columns. Returns `[B, D]`, of "rows" `[B, rows * D]`.
    """
    if how == "class":
        return encoded_BND[:, 0]
    n_regions, n_rows, n_columns = grid
    return pool(
        encoded_BND[:, 1:], kept_BN, kept_hidden_BN,
        n_rows=n_regions * n_rows, n_columns=n_columns, how=how,
    )  # fmt: skip


def check_layer(model: MaskedTransformer, layer: int) -> None:
    """Raise OpenclefError unless the encoder has that layer."""
    n_layers = model.config.n_encoder_layers
    if not -1 <= layer < n_layers:
        raise OpenclefError(
            f"layer {layer}: the encoder has 0 to {n_layers - 1}, and -1, the last one normed"
        )


@torch.no_grad()
def embed_tokens(
    encoder_folder: Path,
    tokens: TokenTable,
    out: Path,
    *,
    model: str,
    pooling: Pooling,
    layer: int = -1,
    cohort: Cohort | None = None,
    features: FeatureTable | None = None,
) -> Artefact:
    """Stage: encoder (or aligned) + tokens -> `embeddings/`, without the train patients.

    Parameters
    ----------
    encoder_folder : Path
        Trained on tokens of the same tokenizer.
    tokens : TokenTable
    out : Path
        Gets `embeddings.parquet`, one row a window; `sessions.parquet`, the mean over each
        session's windows, whatever its length: `session_id, n_windows, vector`; and
        `failures.parquet`, the sessions of which no window has tokens: `session_id, error`. Those
        have one row of NaN among the embeddings and none among the sessions.
    model : str
        Name of the embeddings in a benchmark.
    pooling, layer : see `encode_and_pool`.
    cohort, features : if the encoder reads of them, see `EncoderWindows`.

    Raises
    ------
    ArtefactError
        If the encoder was trained on tokens of another tokenizer.
    OpenclefError
        If there is no such layer, or the encoder reads what is not given.
    """
    source = encoder_artefact(encoder_folder)
    if source.inputs["tokenizer"] != tokens.artefact.inputs["tokenizer"]:
        raise ArtefactError(f"{encoder_folder}: trained on tokens of another tokenizer")
    encoder = load_encoder(encoder_folder).to(best_device())
    check_layer(encoder, layer)
    reads = encoder.config.companions
    windows = EncoderWindows(tokens, reads, cohort=cohort, features=features)
    inputs = {"cohort": tokens.artefact.inputs["cohort"], "encoder": source.hash}
    if features is not None and encoder.config.feature_dims:
        inputs["features"] = features.artefact.hash
    stage = begin_embeddings(
        out, model=model, inputs=inputs, settings={"pooling": pooling, "layer": layer}
    )
    if stage.is_complete:
        return stage
    rows = tokens.rows("probe", "tuning", "held_out")
    vectors = []
    for batch in track(windows.batches(rows, BATCH_SIZE), f"embedding, {model}"):
        on_device = {name: value.to(best_device()) for name, value in batch.items()}
        pooled = encode_and_pool(
            encoder, on_device["ids"], on_device["hidden"], how=pooling, layer=layer,
            companions=on_device,
        )  # fmt: skip
        vectors.append(pooled.cpu().numpy())
    if not vectors:
        raise OpenclefError(f"{tokens.artefact.folder}: no window outside the train split")
    _write(out, tokens, rows, np.concatenate(vectors), stage)
    return stage


def session_means(session_id: pl.Series, vectors: NDArray[np.float32]) -> pl.DataFrame:
    """Mean over the windows of each session, in order of first mention.

    Returns `session_id, n_windows, vector`; vectors `[W, D]` are of windows.
    """
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
            "vector": pl.Series(list(means[order]), dtype=pl.List(pl.Float32)),
        }
    )


def _write(
    out: Path, tokens: TokenTable, rows: NDArray[np.int64], vectors: FloatArray, stage: Artefact
) -> None:
    embedded = tokens.session_id.gather(rows)
    failed = failures(tokens.artefact.folder).unique(
        "session_id", keep="first", maintain_order=True
    )
    failed = failed.filter(~pl.col("session_id").is_in(tokens.session_id.unique().to_list()))
    nothing = np.full((failed.height, vectors.shape[1]), np.nan, np.float32)
    write_embeddings(
        out / TABLE,
        session_id=embedded.to_list() + failed["session_id"].to_list(),
        window=np.concatenate([tokens.window[rows], failed["window"].to_numpy()]),
        start_s=np.concatenate([tokens.start_s[rows], failed["start_s"].to_numpy()]),
        vectors=np.concatenate([vectors, nothing]),
        hashes=stage.inputs,
    )
    with atomic(out / SESSIONS) as temporary:
        session_means(embedded, vectors).write_parquet(temporary)
    with atomic(out / FAILURES) as temporary:
        failed.select("session_id", "error").write_parquet(temporary)
    stage.finish([TABLE, SESSIONS, FAILURES])
