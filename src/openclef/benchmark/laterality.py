"""Which side is the slowing on? A probe that sees differences of homologous channels alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from openclef.benchmark.embeddings import load_models
from openclef.benchmark.probe import ProbeConfig, split_scores
from openclef.benchmark.statistics import AurocBootstrap, bootstrap_auroc
from openclef.benchmark.tasks import EXCLUDED
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.types import CHANNELS, LEFT, RIGHT

_LEFT = [CHANNELS.index(name) for name in LEFT]
_RIGHT = [CHANNELS.index(name) for name in RIGHT]


def true_sides(hospital: Path, cohort: Cohort) -> pl.DataFrame:
    """Sessions whose focal slowing is on one side, from the truth of a simulated hospital."""
    truth = pl.read_parquet(hospital / "truth" / "sessions.parquet")
    keys = cohort.sessions.select(
        "session_id",
        participant_id=pl.col("path").str.extract(r"(sub-[^/_]+)"),
        name=pl.col("path").str.extract(r"(ses-[^/_]+)"),
    )
    joined = keys.join(
        truth, left_on=["participant_id", "name"], right_on=["participant_id", "session_id"]
    )
    side = pl.col("focal_slowing_side")
    return joined.filter(side.is_in(["left", "right"])).select("session_id", is_left=side == "left")


def check_sides(cohort: Cohort, sides: pl.DataFrame, *, min_patients: int) -> None:
    """Raise OpenclefError if a probe of sides cannot be fitted, tuned and reported.

    min_patients: of either side that probe and held-out patients need; tuning ones, a third of it.
    """
    sessions = cohort.sessions.select("session_id", "split", "subject_id")
    table = sessions.join(sides, on="session_id").group_by("split", "is_left")
    n_patients = {
        (split, is_left): n
        for split, is_left, n in table.agg(pl.col("subject_id").n_unique()).iter_rows()
    }
    needed = {"probe": min_patients, "tuning": math.ceil(min_patients / 3),
              "held_out": min_patients}  # fmt: skip
    for split, n_needed in needed.items():
        n_left, n_right = (n_patients.get((split, is_left), 0) for is_left in (True, False))
        if min(n_left, n_right) < n_needed:
            raise OpenclefError(
                f"{cohort.folder}: split {split} has {n_left} patients with slowing on the left "
                f"and {n_right} on the right; the probe of sides needs {n_needed} of each. More "
                "patients are needed, or do without the truth"
            )


def probe_sides(
    cohort: Cohort, embeddings: Sequence[Path], sides: pl.DataFrame
) -> tuple[list[str], AurocBootstrap]:
    """AUROC of left against right from left-minus-right differences of mean and deviation.

    Parameters
    ----------
    cohort : of the sessions.
    embeddings : mean and deviation over time of each channel and frequency, `[2 * 19 * F]`.
    sides : columns `session_id` and `is_left`, as of `true_sides`.

    Returns
    -------
    Names of the models, and their AUROC on the same resamples of held-out patients.
    """
    index = cohort.sessions.select("session_id", "split", "subject_id").join(
        sides, on="session_id", how="left", maintain_order="left"
    )
    labels = index["is_left"].cast(pl.Int8).fill_null(EXCLUDED).to_numpy()
    splits, patients = index["split"].to_numpy(), index["subject_id"].to_numpy()
    reported = (labels != EXCLUDED) & (splits == "held_out")
    models = load_models(embeddings, cohort)
    scores_MN = []
    for model in models:
        features = model.vectors.reshape(len(index), 2, len(CHANNELS), -1)
        differences = (features[:, :, _LEFT] - features[:, :, _RIGHT]).reshape(len(index), -1)
        scores_KN = split_scores(
            differences, labels_KN=labels[None], splits=splits.astype(str), patients=patients,
            config=ProbeConfig(),
        )  # fmt: skip
        scores_MN.append(scores_KN[0, reported])
    result = bootstrap_auroc(
        labels[reported], scores_MN=np.stack(scores_MN), patients=patients[reported],
        n_resamples=2000, rng=np.random.default_rng(0),
    )  # fmt: skip
    return [model.name for model in models], result
