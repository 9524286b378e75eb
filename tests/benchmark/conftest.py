"""Small cohorts and embeddings made by hand, as artefacts on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

from openclef import artefact
from openclef.cohort.shards import ARRAY_SHAPE
from openclef.cohort.store import Cohort


@pytest.fixture
def make_sessions() -> Callable[..., pl.DataFrame]:
    """Sessions of patients with one or two each, split by patient."""

    def make(n_patients: int, *, seed: int = 0, held_out: float = 0.4) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        subject = np.repeat(np.arange(n_patients), 1 + (rng.random(n_patients) < 0.2))
        rest = (1 - held_out) / 3
        splits = rng.choice(
            ["train", "probe", "tuning", "held_out"], n_patients, p=[rest, rest, rest, held_out]
        )
        age = rng.normal(55, 15, n_patients).clip(1, 89)
        return pl.DataFrame(
            {
                "session_id": [f"ses-{i:04d}" for i in range(len(subject))],
                "subject_id": subject,
                "site": rng.choice(["north", "south"], n_patients)[subject],
                "setting": rng.choice(["routine", "ltm", "emu"], len(subject)),
                "age": age[subject],
                "sex": rng.choice(["F", "M"], n_patients)[subject],
                "split": splits[subject],
            }
        )

    return make


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., Cohort]:
    """A complete cohort folder with one window a session, or the windows given."""

    def make(
        sessions: pl.DataFrame,
        *,
        labels: pl.DataFrame | None = None,
        power_db: np.ndarray | None = None,
        windows: pl.DataFrame | None = None,
        name: str = "cohort",
    ) -> Cohort:
        folder = tmp_path / name
        target = artefact.begin(folder, kind="cohort", config={"name": name}, inputs={})
        if windows is None:
            windows = pl.DataFrame(
                {
                    "row": range(sessions.height),
                    "session_id": sessions["session_id"],
                    "window": [0] * sessions.height,
                    "start_s": [0.0] * sessions.height,
                    "channel_mask": [[False] * ARRAY_SHAPE[0]] * sessions.height,
                    "time_mask": [[False] * ARRAY_SHAPE[2]] * sessions.height,
                }
            )
        sessions.write_parquet(folder / "sessions.parquet")
        windows.write_parquet(folder / "windows.parquet")
        if labels is not None:
            labels.write_parquet(folder / "labels.parquet")
        array = zarr.create_array(
            folder / "spectrograms",
            shape=(windows.height, *ARRAY_SHAPE),
            chunks=(1, *ARRAY_SHAPE),
            dtype="float16",
        )
        if power_db is not None:
            array[:] = power_db
        target.finish(["sessions.parquet", "windows.parquet"])
        return Cohort(folder)

    return make


@pytest.fixture
def make_embeddings(tmp_path: Path) -> Callable[..., Path]:
    """An embeddings artefact with one window a session."""

    def make(cohort: Cohort, model: str, vectors: np.ndarray, *, folder: str = "") -> Path:
        path = tmp_path / (folder or f"embeddings-{model}")
        target = artefact.begin(
            path, kind="embeddings", config={"model": model}, inputs={"cohort": cohort.hash}
        )
        ids = cohort.sessions["session_id"][: len(vectors)]
        pl.DataFrame(
            {
                "session_id": ids,
                "window": [0] * len(ids),
                "start_s": [0.0] * len(ids),
                "vector": pl.Series(list(vectors.astype(np.float32)), dtype=pl.List(pl.Float32)),
            }
        ).write_parquet(path / "embeddings.parquet")
        target.finish(["embeddings.parquet"])
        return path

    return make


@pytest.fixture
def label_rows() -> Callable[..., pl.DataFrame]:
    """Rows of `labels.parquet` for one task."""

    def rows(sessions: pl.DataFrame, task: str, category: str, labels: np.ndarray) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "session_id": sessions["session_id"],
                "task": task,
                "category": category,
                "label": np.asarray(labels).astype(np.int8),
            }
        )

    return rows
