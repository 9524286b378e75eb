"""Embeddings artefacts as the probe reads them: one vector a session of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from openclef import artefact
from openclef.cohort.embeddings import SESSIONS, TABLE, TRAINED
from openclef.cohort.store import Cohort
from openclef.errors import ArtefactError, OpenclefError

Floats = NDArray[np.float64]

# Added to the name of embeddings that a pool or an aggregator made: no rivals on equal terms.
SAW_LABELS = " (saw labels)"
_LABELS_SEEN = ("labels_seen", "labels_seen_by_aggregator")


@dataclass(frozen=True, eq=False)
class Model:
    """One embeddings artefact: vectors `[N, D]`, a row a session of the cohort, in its order."""

    name: str
    hash: str
    vectors: Floats


def load_models(folders: Sequence[Path], cohort: Cohort) -> list[Model]:
    """Read the embeddings artefacts of a cohort, in the order given.

    Raises OpenclefError if one is of another cohort, lacks sessions outside the train split, holds
    infinite values or vectors of several lengths, or bears the name of another.
    """
    if not folders:
        raise OpenclefError("no embeddings given; name at least one embeddings folder")
    models: list[Model] = []
    for folder in folders:
        source = artefact.load(folder, kind="embeddings")
        name = source.config.get("model")
        if not isinstance(name, str):
            raise ArtefactError(f"{folder}: its config.json does not name a model")
        if any(source.config.get(key) for key in _LABELS_SEEN):
            name += SAW_LABELS
        # "cohort" is the key of the cohort's own hash among the inputs.
        if name in ("cohort", *(model.name for model in models)):
            raise OpenclefError(f"{folder}: model name {name!r} is taken; each needs its own")
        if source.inputs.get("cohort") != cohort.hash:
            raise OpenclefError(f"{folder}: embeddings of another cohort than {cohort.folder}")
        is_aggregated = "aggregator" in source.inputs
        models.append(Model(name, source.hash, _session_vectors(folder, cohort, is_aggregated)))
    return models


def _session_vectors(folder: Path, cohort: Cohort, is_aggregated: bool) -> Floats:
    """Of each session what the trained aggregator made of its windows if there was one, and their
    mean if not, `[N, D]`; what is NaN in one window is left out of the mean.

    Train sessions are not needed; their rows are NaN if they are missing.
    """
    where = folder / TABLE
    index = cohort.sessions.select("session_id").with_row_index("position")
    table = pl.read_parquet(where).join(index, on="session_id")
    wanted = index.filter(cohort.sessions["split"] != "train")
    n_missing = wanted.join(table, on="session_id", how="anti").height
    if n_missing:
        raise OpenclefError(
            f"{where}: {n_missing} of {wanted.height} sessions outside the train split are missing"
        )
    if is_aggregated:
        # Sessions of which nothing could be embedded have a row of NaN above, and none here.
        where = folder / SESSIONS
        table = pl.read_parquet(where).join(index, on="session_id")
    vectors = table[TRAINED if is_aggregated else "vector"].cast(pl.List(pl.Float64))
    widths = vectors.list.len().unique().sort().to_list()
    if len(widths) != 1 or not widths[0]:
        raise OpenclefError(f"{where}: vectors must have one length, found {widths}")
    x_WD = vectors.explode().to_numpy().reshape(-1, widths[0])
    if np.isinf(x_WD).any():
        raise OpenclefError(f"{where}: vectors hold infinite values; NaN marks what is unknown")
    position = table["position"].to_numpy()
    total = np.zeros((index.height, widths[0]))
    n_known = np.zeros_like(total)
    np.add.at(total, position, np.nan_to_num(x_WD, nan=0.0))
    np.add.at(n_known, position, ~np.isnan(x_WD))
    return np.divide(total, n_known, out=np.full_like(total, np.nan), where=n_known > 0)
