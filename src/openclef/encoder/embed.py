"""From tokens of a window to one vector: encode everything visible, then pool."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from openclef.artefact import Artefact
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.encoder.load import encoder_artefact, load_encoder
from openclef.encoder.masking import keep, subsample
from openclef.encoder.transformer import MaskedTransformer
from openclef.errors import ArtefactError
from openclef.tokenizer.token_table import TokenTable
from openclef.training.loop import best_device

Pooling = Literal["mean", "rows"]
BATCH_SIZE = 8


def pool(
    features_BKD: Tensor,
    kept_BK: Tensor,
    kept_hidden: Tensor,
    *,
    n_rows: int,
    n_columns: int,
    how: Pooling,
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
    n_keep: int | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Pooled float32 features of a batch of windows; `n_keep` random tokens of each, or all.

    ids `[B, L]` codes, hidden `[B, L]` True where not visible. Returns `[B, D]` or `[B, rows * D]`.
    """
    if n_keep is None:
        kept, kept_hidden = keep(hidden_BL)
    else:
        if rng is None:
            raise TypeError("n_keep needs rng")
        kept, kept_hidden = subsample(hidden_BL, n_keep, rng)
    features = model.encode(ids_BL, kept, kept_hidden)[:, 1:].float()
    n_regions, n_rows, n_columns = model.config.grid
    return pool(
        features, kept, kept_hidden, n_rows=n_regions * n_rows, n_columns=n_columns, how=how
    )


@torch.no_grad()
def embed_tokens(
    encoder_folder: Path, tokens: TokenTable, out: Path, *, model: str, pooling: Pooling
) -> Artefact:
    """Stage: encoder (or aligned) + tokens -> `embeddings/`, without the train patients.

    Raises ArtefactError if the encoder was trained on tokens of another tokenizer.
    """
    source = encoder_artefact(encoder_folder)
    if source.inputs["tokenizer"] != tokens.artefact.inputs["tokenizer"]:
        raise ArtefactError(f"{encoder_folder}: trained on tokens of another tokenizer")
    stage = begin_embeddings(
        out,
        model=model,
        inputs={"cohort": tokens.artefact.inputs["cohort"], "encoder": source.hash},
        settings={"pooling": pooling},
    )
    if stage.is_complete:
        return stage
    encoder = load_encoder(encoder_folder).to(best_device())
    rows = tokens.rows("probe", "tuning", "held_out")
    vectors = []
    for start in track(range(0, len(rows), BATCH_SIZE), f"embedding, {model}"):
        batch = tokens.batch(rows[start : start + BATCH_SIZE])
        ids, hidden = batch["ids"].to(best_device()), batch["hidden"].to(best_device())
        vectors.append(encode_and_pool(encoder, ids, hidden, how=pooling).cpu().numpy())
    write_embeddings(
        out / TABLE,
        session_id=tokens.session_id.gather(rows).to_list(),
        window=tokens.window[rows],
        start_s=tokens.start_s[rows],
        vectors=np.concatenate(vectors),
        hashes=stage.inputs,
    )
    stage.finish([TABLE])
    return stage
