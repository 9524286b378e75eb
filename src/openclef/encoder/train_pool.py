"""Stage: frozen encoder + labels of train patients -> `pool/`, an attention pool.

Tuning patients' labels choose when to stop; of others no label is read.

Axis letters: B sets, N items of a set, D width, K tasks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from openclef import artefact
from openclef.artefact import Artefact
from openclef.cohort.store import Cohort
from openclef.encoder.attention_pool import (
    WEIGHTS,
    AttentionPool,
    PoolConfig,
    check_pool,
    load_pool,
)
from openclef.encoder.embed import PARTS, embed_rows
from openclef.encoder.load import check_whitener, encoder_artefact, load_encoder
from openclef.encoder.pooling import check_layer, encode_items, pooled_width
from openclef.encoder.train import VALIDATION_BATCH
from openclef.encoder.transformer import MaskedTransformer
from openclef.encoder.windows import EncoderWindows
from openclef.errors import ArtefactError, OpenclefError
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.training import checkpoint
from openclef.training.batches import LazyBatches
from openclef.training.distributed import all_sum, world_size
from openclef.training.loop import Batch, TrainConfig, best_device, fit
from openclef.training.optim import OptimConfig
from openclef.types import FloatArray

Rows = NDArray[np.int64]
# Rows of windows, a set of them each -> x [B, N, D], hidden [B, N].
Reader = Callable[[Sequence[Rows]], tuple[Tensor, Tensor]]


class PoolStage(BaseModel):
    """Everything that decides an attention pool.

    categories: of the tasks whose labels it learns from. min_patients: train patients of either
    class that a task needs. max_windows: at most so many of a session in a step, random ones.
    n_validation: tuning sessions; n_statistics: train sessions that give the spread.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: PoolConfig = PoolConfig()
    categories: tuple[Literal["finding", "disease", "medication", "label"], ...] = (
        "finding", "label",
    )  # fmt: skip
    min_patients: int = Field(15, gt=0)
    max_windows: int = Field(32, gt=0)
    n_validation: int = Field(128, gt=0)
    n_statistics: int = Field(256, gt=0)
    train: TrainConfig = TrainConfig(
        n_steps=500, batch_size=16, validate_every=25, patience=6, optim=OptimConfig(lr=3e-3)
    )


class PoolObjective(nn.Module):
    """Batch: `x [B, N, D]`, `hidden [B, N]`, `labels [B, K]`, 0 or 1, NaN where unknown.

    The loss is the binary cross-entropy of a linear head on the pooled, standardised x, a mean over
    the labels known in the batch of all processes. prevalence `[K]` is where the head starts.
    """

    def __init__(self, dim: int, attention_width: int, prevalence_K: Tensor) -> None:
        super().__init__()
        self.pool = AttentionPool(dim, attention_width)
        self.head = nn.Linear(dim, len(prevalence_K))
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(prevalence_K))

    def logits(self, x_BND: Tensor, hidden_BN: Tensor) -> Tensor:
        """Log-odds of the tasks, `[B, K]`."""
        pooled = self.pool(x_BND, hidden_BN)
        logits: Tensor = self.head(self.pool.standardise(pooled))
        return logits

    def losses(self, batch: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        """`loss`; nothing is random."""
        hidden, labels = batch["hidden"], batch["labels"]
        known = ~labels.isnan() & ~hidden.all(1, keepdim=True)  # an empty set tells nothing
        errors = F.binary_cross_entropy_with_logits(
            self.logits(batch["x"], hidden).float()[known], labels[known], reduction="sum"
        )
        return {"loss": errors * (world_size() / all_sum(known.sum().float()).clamp(min=1))}


@dataclass(frozen=True)
class _Session:
    """A labelled session: rows of its windows among the tokens, labels `[K]`, NaN where unknown."""

    rows: Rows
    labels: FloatArray


def train_attention_pool(
    cohort: Cohort,
    tokens: TokenTable,
    encoder_folder: Path,
    out: Path,
    *,
    config: PoolStage,
    features: FeatureTable | None = None,
    pool_folder: Path | None = None,
) -> Artefact:
    """Train, keep the weights that are best on tuning patients, and write `out`.

    Parameters
    ----------
    cohort : Cohort
        That of the tokens, with `labels.parquet`. A task needs `config.min_patients` train
        patients of either class; which tasks have them is told in the artefact's configuration.
    tokens : TokenTable
    encoder_folder : Path
        A complete `encoder/` or `aligned/`, which stays as it is.
    out : Path
        Gets `pool.safetensors`, without the linear head that the labels came through.
    config : PoolStage
        A step pools a random window of each session, encoded for the step. Over "windows" it pools
        windows of each session, whose vectors are worked out once, in parts that an interrupted run
        finds again, and held in memory.
    features : FeatureTable, optional
        If the encoder reads of them.
    pool_folder : Path, optional
        The pool of tokens or rows that makes the vectors of windows, if `config.model.pooling` is
        "attention".

    Raises
    ------
    ArtefactError
        If what is given does not belong together, or `out` holds something else.
    OpenclefError
        If there is no such layer, something is read that is not given, or no task has patients
        enough.
    """
    model = config.model
    source = encoder_artefact(encoder_folder)
    if source.inputs["tokenizer"] != tokens.artefact.inputs["tokenizer"]:
        raise ArtefactError(f"{encoder_folder}: trained on tokens of another tokenizer")
    if tokens.artefact.inputs["cohort"] != cohort.hash:
        raise ArtefactError(f"{cohort.folder}: another cohort than that of the tokens")
    encoder = load_encoder(encoder_folder).to(best_device())
    check_layer(encoder, model.layer)
    pool = load_pool(pool_folder) if pool_folder else None
    check_pool(pool, encoder=source, pooling=model.pooling, layer=model.layer)
    windows = EncoderWindows(tokens, encoder.config.companions, cohort=cohort, features=features)
    tasks, labels = _read_labels(cohort, config)
    dim = encoder.config.width if model.pooling is None else pooled_width(encoder, model.pooling)
    inputs = {**tokens.artefact.inputs, "tokens": tokens.artefact.hash, "encoder": source.hash}
    if features is not None and encoder.config.feature_dims:
        check_whitener(encoder_folder, encoder.config, features)
        inputs["features"] = features.artefact.hash
    if pool is not None:
        inputs["pool"] = pool.artefact.hash
    stage = artefact.begin(
        out,
        kind="pool",
        config={**config.model_dump(mode="json"), "tasks": tasks, "dim": dim},
        inputs=inputs,
    )
    if stage.is_complete:
        return stage

    train, tuning = (_sessions(tokens, split, labels) for split in ("train", "tuning"))
    if model.pooling is None:
        read, n_drawn = _windows_reader(encoder, windows, model), 1
    else:
        rows = np.concatenate([session.rows for session in train + tuning])
        vectors = embed_rows(
            encoder, windows, rows, out / PARTS, pooling=model.pooling, layer=model.layer,
            pool=pool, label="embedding, to pool",
        )  # fmt: skip
        read, n_drawn = _sessions_reader(rows, vectors), config.max_windows

    def batch(sessions: Sequence[_Session], sets: Sequence[Rows]) -> Batch:
        x, hidden = read(sets)
        known = np.stack([session.labels for session in sessions])
        return {"x": x, "hidden": hidden, "labels": torch.from_numpy(known)}

    def load_batch(indices: Rows, rngs: Sequence[np.random.Generator]) -> Batch:
        sessions = [train[i] for i in indices]
        drawn = [
            rng.permutation(session.rows)[:n_drawn]
            for session, rng in zip(sessions, rngs, strict=True)
        ]
        return batch(sessions, drawn)

    def fixed(sessions: Sequence[_Session], n: int) -> Sequence[Batch]:
        def of(numbers: Rows) -> Batch:
            some = [sessions[i] for i in numbers]
            return batch(some, [one.rows[_spread(len(one.rows), n_drawn)] for one in some])

        return LazyBatches(_spread(len(sessions), n), VALIDATION_BATCH, of)

    torch.manual_seed(config.train.seed)
    objective = PoolObjective(dim, model.attention_width, _prevalence([s.labels for s in train]))
    statistics = fixed(train, config.n_statistics)
    objective.pool.fit_scale((one["x"], one["hidden"]) for one in statistics)
    weights = fit(
        objective,
        n_items=len(train),
        load_batch=load_batch,
        validation=fixed(tuning, config.n_validation),
        config=config.train,
        artefact=stage,
        label="training the pool",
    )
    checkpoint.publish(stage, {WEIGHTS: checkpoint.take_prefix(weights, "pool")})
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return stage


def _read_labels(cohort: Cohort, config: PoolStage) -> tuple[list[str], dict[str, FloatArray]]:
    """Tasks with train patients enough, and what train and tuning sessions say to them, `[K]`.

    1, 0 or NaN where unknown; a session that says nothing to any is left out.
    """
    path = cohort.folder / "labels.parquet"
    if not path.exists():
        raise OpenclefError(f"{path}: not there; attention pooling is trained with labels")
    sessions = cohort.sessions.filter(pl.col("split").is_in(["train", "tuning"]))
    table = (
        cohort.table("labels")
        .filter(pl.col("category").is_in(config.categories), pl.col("label").is_in([0, 1]))
        .join(sessions.select("session_id", "subject_id", "split"), on="session_id")
    )
    tasks = (
        table.filter(pl.col("split") == "train")
        .group_by("task", "label")
        .agg(n_patients=pl.col("subject_id").n_unique())
        .filter(pl.col("n_patients") >= config.min_patients)
        .filter(pl.len().over("task") == 2)["task"]
        .unique()
        .sort()
        .to_list()
    )
    if not tasks:
        raise OpenclefError(
            f"{path}: no task of the categories {', '.join(config.categories)} has "
            f"{config.min_patients} train patients of either class"
        )
    labels: dict[str, FloatArray] = {}
    answers = table.filter(pl.col("task").is_in(tasks)).select("session_id", "task", "label")
    for name, task, label in answers.iter_rows():
        of_session = labels.setdefault(name, np.full(len(tasks), np.nan, np.float32))
        of_session[tasks.index(task)] = label
    return tasks, labels


def _sessions(tokens: TokenTable, split: str, labels: Mapping[str, FloatArray]) -> list[_Session]:
    """Labelled sessions of a split that have tokens, in the tokens' order."""
    rows = tokens.rows(split)
    table = pl.DataFrame({"name": tokens.session_id.gather(rows), "row": rows})
    return [
        _Session(np.array(of_session), labels[name])
        for name, of_session in table.group_by("name", maintain_order=True).agg("row").iter_rows()
        if name in labels
    ]


def _windows_reader(
    encoder: MaskedTransformer, windows: EncoderWindows, model: PoolConfig
) -> Reader:
    """Sets that are one window each, encoded when they are asked for."""

    @torch.no_grad()
    def read(sets: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        found = windows.batch(np.concatenate(sets))
        on_device = {name: value.to(best_device()) for name, value in found.items()}
        return encode_items(encoder, on_device, over=model.over, layer=model.layer)

    return read


def _sessions_reader(rows: Rows, vectors: FloatArray) -> Reader:
    """Sets of windows whose vectors `[W, D]`, of these rows, are known."""
    place = {int(row): number for number, row in enumerate(rows)}

    def read(sets: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        width = max(len(one) for one in sets)
        x = torch.zeros(len(sets), width, vectors.shape[1])
        hidden = torch.ones(len(sets), width, dtype=torch.bool)
        for number, one in enumerate(sets):
            known = torch.from_numpy(vectors[[place[int(row)] for row in one]])
            x[number, : len(one)] = known.nan_to_num()  # a window that shows nothing
            hidden[number, : len(one)] = known.isnan().any(1)
        return x, hidden

    return read


def _spread(n: int, n_wanted: int) -> Rows:
    """At most `n_wanted` of n places, evenly; a single one is the middle."""
    n_chosen = min(n, n_wanted)
    return np.floor((np.arange(n_chosen) + 0.5) * n / max(1, n_chosen)).astype(np.int64)


def _prevalence(labels: Sequence[FloatArray]) -> Tensor:
    """Share of positive sessions of each task, `[K]`; with one more of either: never 0 or 1."""
    known = np.stack(labels)
    shares = (np.nansum(known, 0) + 1) / ((~np.isnan(known)).sum(0) + 2)
    return torch.from_numpy(shares.astype(np.float32))
