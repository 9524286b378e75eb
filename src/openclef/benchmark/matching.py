"""Matched controls for disease and medication tasks, so that age alone cannot answer them.

Cases and controls are patients, not sessions. They are matched on age, sex, site and setting
(paper.md, Benchmark protocol [P]) by propensity score [C]: within 0.2 SD of its logit, greedily,
without replacement; caliper, ratio and order are ours [U]. One control a case by default: on
simulated confounding of 1,000 patients the largest difference left was 0.1 SD with one, 0.3 SD with
up to two and 0.4 SD with up to four, since the near controls run out unevenly.

What is fitted and what is reported are matched apart from one another. Cross-validation inside one
matched cohort would be wrong: its covariates balance as a whole, so where the training folds have
older cases the fold left out has younger ones, and age alone scored 0.37 instead of 0.5.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from openclef.benchmark.probe import fit_logistic
from openclef.benchmark.tasks import EXCLUDED, Task

MATCHED_CATEGORIES = ("disease", "medication")
NO_COVARIATES = "none known"
BALANCE_SCHEMA = (
    dict.fromkeys(("task", "split", "covariate"), pl.String)
    | dict.fromkeys(("smd_before", "smd_after"), pl.Float64)
    | dict.fromkeys(
        ("n_cases", "n_cases_dropped", "n_controls_before", "n_controls_after"), pl.Int64
    )
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.int8]


class MatchingConfig(BaseModel):
    """caliper_sd: in SD of the logit of the propensity score. ratio: most controls a case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    caliper_sd: float = Field(default=0.2, gt=0)
    ratio: int = Field(default=1, ge=1)


class Matcher:
    """Finds the matched controls of one task among any patients.

    A case is a patient with a positive session; its negative sessions are left out, for a patient
    before the diagnosis is no clean control. Covariates are those of a patient's first (positive)
    session; a missing value is a category of its own.

    Parameters
    ----------
    task : labels `[N]`, in the order of `sessions`.
    sessions : `subject_id, age, sex, site, setting`, N rows.
    config : caliper and ratio.
    """

    def __init__(self, task: Task, *, sessions: pl.DataFrame, config: MatchingConfig) -> None:
        self._task = task
        self._config = config
        table = (
            sessions.select("subject_id", "age", "sex", "site", "setting")
            .with_columns(pl.Series("label", task.labels))
            .sort("label", descending=True, maintain_order=True)
            .group_by("subject_id", maintain_order=True)
            .first()
            .sort("subject_id")
        )
        # Patients in the order of np.unique, as `sort` above.
        _, self._patient = np.unique(sessions["subject_id"].to_numpy(), return_inverse=True)
        self._label = table["label"].to_numpy()
        self._names, self._covariates = _covariates(table)

    def match(self, inside: Bools, *, rng: np.random.Generator) -> Labels:
        """Labels `[N]` of the cases inside that found a control, and of their controls; else -1.

        Where no covariate is known or varies, nothing is matched and everyone inside is kept.

        Parameters
        ----------
        inside : `[N]`, the sessions to match among: all those of a patient, or none.
        rng : breaks ties between equally near controls.
        """
        patients, case = self._inside(inside)
        _, design = self._design(patients)
        chosen = np.ones(len(patients), dtype=bool)
        if design.shape[1]:
            logit = _propensity_logit(design, case)
            chosen = _match(logit, case, config=self._config, rng=rng)
        is_kept = np.zeros(len(self._label), dtype=bool)
        is_kept[patients[chosen]] = True
        kept = inside & is_kept[self._patient]
        kept &= self._task.labels == self._label[self._patient]
        return np.where(kept, self._task.labels, EXCLUDED).astype(np.int8)

    def balance(self, inside: Bools, *, matched: Labels, split: str) -> pl.DataFrame:
        """Standardised mean differences before and after `matched = match(inside)`.

        Both are divided by the SD before matching; infinite if a covariate separates the groups.

        Returns
        -------
        One row a covariate (`BALANCE_SCHEMA`); a single one, `NO_COVARIATES`, if nothing is known.
        """
        patients, case = self._inside(inside)
        names, design = self._design(patients)
        kept = np.isin(patients, self._patient[matched != EXCLUDED])
        row = {
            "task": self._task.name,
            "split": split,
            "n_cases": int(case.sum()),
            "n_cases_dropped": int((case & ~kept).sum()),
            "n_controls_before": int((~case).sum()),
            "n_controls_after": int((~case & kept).sum()),
        }
        before = _differences(design, case, ~case, spread_of=case)
        after = _differences(design, case & kept, ~case & kept, spread_of=case)
        rows = [
            row | {"covariate": name, "smd_before": b, "smd_after": a}
            for name, b, a in zip(names, before, after, strict=True)
        ]
        rows = rows or [row | {"covariate": NO_COVARIATES}]
        return pl.DataFrame(rows, schema=BALANCE_SCHEMA)

    def _inside(self, inside: Bools) -> tuple[NDArray[np.int64], Bools]:
        """Labelled patients inside, and which of them are cases."""
        patients = np.unique(self._patient[inside & (self._task.labels != EXCLUDED)])
        return patients, self._label[patients] == 1

    def _design(self, patients: NDArray[np.int64]) -> tuple[list[str], Floats]:
        """Covariates that vary among these patients, `[P, Q]`, unknown ages at the mean."""
        design = self._covariates[patients]
        known = ~np.isnan(design)
        mean = np.where(known, design, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        design = np.where(known, design, mean)
        varies = np.ptp(design, axis=0) > 0 if len(design) else np.zeros(design.shape[1], bool)
        return [n for n, v in zip(self._names, varies, strict=True) if v], design[:, varies]


def _covariates(table: pl.DataFrame) -> tuple[list[str], Floats]:
    """Columns `[patients, Q]`: age (NaN if unknown), whether it is unknown, and every category."""
    age = table["age"].cast(pl.Float64)
    columns = {"age": age.fill_null(np.nan), "age unknown": age.is_null()}
    for name in ("sex", "site", "setting"):
        values = table[name].cast(pl.String).fill_null("unknown")
        levels = values.unique().sort().to_list()
        # Of two levels one says it all.
        for level in levels if len(levels) > 2 else levels[:1]:
            columns[f"{name}={level}"] = values == level
    arrays = [column.cast(pl.Float64).to_numpy() for column in columns.values()]
    return list(columns), np.column_stack(arrays)


def _propensity_logit(design: Floats, case: Bools) -> Floats:
    """Logit of being a case given the covariates, `[P]`; flat if there is one class only."""
    if case.all() or not case.any():
        return np.zeros(len(case))
    standard = (design - design.mean(axis=0)) / design.std(axis=0)
    solution = fit_logistic(standard, labels=case.astype(np.int8), c=1.0)
    logit: Floats = standard @ solution[:-1] + solution[-1]
    return logit


def _match(
    logit: Floats, case: Bools, *, config: MatchingConfig, rng: np.random.Generator
) -> Bools:
    """Which patients stay, `[P]`: the hardest case chooses first, one control a round."""
    caliper = config.caliper_sd * logit.std()
    kept = np.zeros(len(case), dtype=bool)
    controls = rng.permutation(np.flatnonzero(~case))
    if not len(controls):
        return kept
    free = logit[controls]
    cases = np.flatnonzero(case)
    cases = cases[np.argsort(-logit[cases], kind="stable")]
    for _ in range(config.ratio):
        for patient in cases:
            distance = np.abs(free - logit[patient])
            nearest = int(np.argmin(distance))
            if distance[nearest] <= caliper:
                kept[[patient, controls[nearest]]] = True
                free[nearest] = np.inf
        cases = cases[kept[cases]]
    return kept


def _differences(
    design: Floats, cases: Bools, controls: Bools, *, spread_of: Bools
) -> list[float | None]:
    """Mean of `cases` minus mean of `controls`, in the SD within and outside `spread_of`."""
    if not cases.any() or not controls.any():
        return [None] * design.shape[1]
    spread = np.sqrt((design[spread_of].var(axis=0) + design[~spread_of].var(axis=0)) / 2)
    gap = design[cases].mean(axis=0) - design[controls].mean(axis=0)
    with np.errstate(divide="ignore"):
        return [float(value) for value in gap / spread]
