"""The benchmark's probe, embedding after embedding, on tasks whose controls are matched once.

`benchmark` compares a fixed set of embeddings in one artefact; a study adds to its set as it goes.
What is found of each embedding is kept by its hash, and its AUROCs are those of `benchmark`.

Axis letters: N sessions, K tasks, G categories, R resamples, the first being everybody once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from openclef import artefact
from openclef.artefact import atomic, hash_json
from openclef.benchmark.embeddings import load_models
from openclef.benchmark.matching import MATCHED_CATEGORIES, Matcher
from openclef.benchmark.probe import Floats, Labels, split_scores
from openclef.benchmark.protocol import make_plan, match_tasks
from openclef.benchmark.runner import BenchmarkConfig
from openclef.benchmark.statistics import AurocBootstrap, draw_patients, weighted_auroc
from openclef.benchmark.tasks import EXCLUDED, load_tasks
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError

Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Probed:
    """Mean AUROC of an embedding by category: held-out `[R, G]`, tuning `[G]`, NaN if unknown."""

    held_out: Floats
    tuning: Floats

    @property
    def tuning_mean(self) -> float:
        """Mean of the categories that are known on tuning patients."""
        return float(_mean_known(self.tuning[None])[0])


class Probing:
    """Tasks of a cohort, matched once, and the probe on embedding after embedding.

    Parameters
    ----------
    cohort : with labels.
    out : folder; what was probed is kept there, by the hash of the embeddings.
    config : its protocol must be "split"; folds and the number of held-out patients do not matter.

    Attributes
    ----------
    categories : tuple of str, length G
        Those of the configuration that have a task with enough patients.

    Raises
    ------
    OpenclefError
        If no task has enough held-out patients of both classes.
    """

    def __init__(self, cohort: Cohort, out: Path, config: BenchmarkConfig) -> None:
        if config.protocol != "split":
            raise OpenclefError(f"protocol {config.protocol!r}: only 'split' is probed here")
        self.cohort, self.out, self.config = cohort, out, config
        self.plan = make_plan(cohort, protocol="split", min_held_out_patients=1)
        tasks = [task for task in load_tasks(cohort) if task.category in config.categories]
        matchers = {
            task.name: Matcher(task, sessions=cohort.sessions, config=config.matching)
            for task in tasks
            if task.category in MATCHED_CATEGORIES
        }
        # The benchmark's first stream, so that the controls are the same.
        rng = np.random.default_rng(config.seed).spawn(3)[0]
        matched, _ = match_tasks(tasks, matchers=matchers, plan=self.plan, rng=rng)
        self.tasks = [
            task
            for task in matched
            if self.plan.can_fit(task.labels)
            and min(self.plan.n_patients(task.labels)) >= config.min_positives
        ]
        if not self.tasks:
            raise OpenclefError(
                f"{cohort.folder}: no {' or '.join(config.categories)} has {config.min_positives} "
                "held-out patients with it and without it, and probe patients of both kinds; more "
                "patients are needed"
            )
        present = {task.category for task in self.tasks}
        self.categories = tuple(name for name in config.categories if name in present)

    def of(self, folder: Path) -> Probed:
        """Probe one embeddings artefact, or read what was found. Adds `tasks.parquet` (`task,
        category, split, auroc`) and `areas.parquet` to the folder that keeps it.
        """
        embeddings = artefact.load(folder, kind="embeddings")
        settings = self.config.model_dump(mode="json")
        key = hash_json({"embeddings": embeddings.hash, "config": settings})[:16]
        stage = artefact.begin(
            self.out / key,
            kind="probed",
            config=settings,
            inputs={"cohort": self.cohort.hash, "embeddings": embeddings.hash},
        )
        if not stage.is_complete:
            (model,) = load_models([folder], self.cohort)
            self._probe(model.vectors, stage)
        areas = pl.read_parquet(stage.folder / "areas.parquet").select(self.categories)
        tasks = pl.read_parquet(stage.folder / "tasks.parquet").filter(pl.col("split") == "tuning")
        means = dict(tasks.group_by("category").agg(pl.col("auroc").mean()).iter_rows())
        tuning = [means.get(name) for name in self.categories]
        return Probed(areas.to_numpy(), np.array(tuning, np.float64))

    def _probe(self, vectors: Floats, stage: artefact.Artefact) -> None:
        labels_KN = np.array([task.labels for task in self.tasks])
        held_out = self._scores(vectors, labels_KN, self.plan.splits)
        areas_RK = self._resampled(held_out, labels_KN)
        tuning = self._tuning_scores(vectors, labels_KN)
        rows = []
        for k, task in enumerate(self.tasks):
            inside = (self.plan.splits == "tuning") & (task.labels != EXCLUDED)
            ones = np.ones((1, int(inside.sum())))
            chosen = weighted_auroc(
                task.labels[inside], scores=tuning[k, inside], weights_RN=ones
            )  # fmt: skip
            for split, area in (("held_out", areas_RK[0, k]), ("tuning", chosen[0])):
                known = None if np.isnan(area) else float(area)
                rows.append(
                    {"task": task.name, "category": task.category, "split": split, "auroc": known}
                )
        of_category = np.array([task.category for task in self.tasks])
        areas = pl.DataFrame(
            {name: _mean_known(areas_RK[:, of_category == name]) for name in self.categories}
        )
        schema = {"task": pl.String, "category": pl.String, "split": pl.String, "auroc": pl.Float64}
        tables = {"areas": areas, "tasks": pl.DataFrame(rows, schema=schema)}
        for name, table in tables.items():
            with atomic(stage.folder / f"{name}.parquet") as temporary:
                table.write_parquet(temporary)
        stage.finish(f"{name}.parquet" for name in tables)

    def _scores(self, vectors: Floats, labels_KN: Labels, splits: np.ndarray) -> Floats:
        return split_scores(
            vectors, labels_KN=labels_KN, splits=splits, patients=self.plan.patients,
            config=self.config.probe,
        )  # fmt: skip

    def _tuning_scores(self, vectors: Floats, labels_KN: Labels) -> Floats:
        """Scores `[K, N]` of tuning sessions. The penalty is chosen on one half of the patients
        and the other half is scored, in turn: nobody is scored by what was chosen on them.
        """
        is_tuning = self.plan.splits == "tuning"
        _, number = np.unique(self.plan.patients[is_tuning], return_inverse=True)
        scores = np.full(labels_KN.shape, np.nan)
        for half in (0, 1):
            # As if the held-out patients did not exist.
            splits = np.where(self.plan.splits == "probe", "probe", "train").astype("U8")
            splits[is_tuning] = np.where(number % 2 == half, "held_out", "tuning")
            inside = splits == "held_out"
            scores[:, inside] = self._scores(vectors, labels_KN, splits)[:, inside]
        return scores

    def _resampled(self, scores_KN: Floats, labels_KN: Labels) -> Floats:
        """AUROC of each task, `[R, K]`; held-out patients are drawn alike for all embeddings."""
        reported = self.plan.reported
        _, patient = np.unique(self.plan.patients[reported], return_inverse=True)
        scores, labels = scores_KN[:, reported], labels_KN[:, reported]
        areas = [
            np.stack(
                [
                    weighted_auroc(
                        of_task[inside], scores=scored[inside],
                        weights_RN=counts_RP[:, patient[inside]],
                    )
                    for of_task, scored in zip(labels, scores, strict=True)
                    for inside in [of_task != EXCLUDED]
                ],
                axis=1,
            )
            for counts_RP in draw_patients(
                int(patient.max()) + 1, n_columns=len(patient),
                n_resamples=self.config.n_resamples, rng=np.random.default_rng(self.config.seed),
            )
        ]  # fmt: skip
        return np.concatenate(areas)


def auroc_columns(areas_RG: Floats, categories: Sequence[str]) -> Columns:
    """Mean AUROC by category, `*_low` and `*_high`, of `Probed.held_out` or a mean of several."""
    found: Columns = {}
    bootstrap = AurocBootstrap(areas_RG[0], areas_RG[1:].T)
    for g, name in enumerate(categories):
        low, high = bootstrap.interval(g)
        found |= {name: float(areas_RG[0, g]), f"{name}_low": low, f"{name}_high": high}
    return found


def _mean_known(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    n_known = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.divide(total, n_known, out=np.full(n_known.shape, np.nan), where=n_known > 0)
