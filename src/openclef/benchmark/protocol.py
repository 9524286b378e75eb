"""Who is fitted and who is reported: one split, or cross-validation where that is too small.

Train patients are in neither. Everything else follows from the `Plan`: within which patients
controls are matched, which labels are fitted, and which sessions get a score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.progress import track

from openclef.benchmark.embeddings import Model
from openclef.benchmark.matching import BALANCE_SCHEMA, Matcher
from openclef.benchmark.probe import (
    LeftOut,
    ProbeConfig,
    assign_folds,
    cv_scores,
    left_out_folds,
    split_scores,
)
from openclef.benchmark.tasks import EXCLUDED, Task
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.types import SPLITS

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.int8]
Protocol = Literal["auto", "split", "cv"]


@dataclass(frozen=True, eq=False)
class Plan:
    """The protocol of one benchmark. splits, patients: `[N]`, one a session of the cohort."""

    protocol: Literal["split", "cv"]
    splits: NDArray[np.str_]
    patients: Ints

    @property
    def used(self) -> Bools:
        """`[N]`: sessions of patients that no model was trained on."""
        return self.splits != "train"

    @property
    def parts(self) -> dict[str, Bools]:
        """Sessions `[N]` of each part in which controls are matched."""
        if self.protocol == "cv":
            return {"non_train": self.used}
        return {name: self.splits == name for name in SPLITS if name != "train"}

    @property
    def reported_split(self) -> str:
        return "non_train" if self.protocol == "cv" else "held_out"

    @property
    def reported(self) -> Bools:
        """`[N]`: sessions that results are reported on."""
        return self.parts[self.reported_split]

    def n_patients(self, labels: Labels) -> tuple[int, int]:
        """Reported patients with a positive session, and with a negative one."""
        positive, negative = (self.reported & (labels == label) for label in (1, 0))
        return len(np.unique(self.patients[positive])), len(np.unique(self.patients[negative]))

    def can_fit(self, labels: Labels) -> bool:
        """Whether the sessions that a probe is fitted on have both classes."""
        fitted = self.used if self.protocol == "cv" else self.splits == "probe"
        return {0, 1} <= set(labels[fitted].tolist())


def make_plan(cohort: Cohort, *, protocol: Protocol, min_held_out_patients: int) -> Plan:
    """Settle the protocol; `auto` is `split` if there are enough held-out patients, else `cv`.

    Raises OpenclefError if no patient is left to probe, or a part of the split is empty.
    """
    splits = cohort.sessions["split"].to_numpy().astype(str)
    _, patients = np.unique(cohort.sessions["subject_id"].to_numpy(), return_inverse=True)
    n_patients = {name: len(np.unique(patients[splits == name])) for name in SPLITS}
    if not (splits != "train").any():
        raise OpenclefError(f"{cohort.folder}: all patients are in train, none is left to probe")
    if protocol == "auto":
        protocol = "split" if n_patients["held_out"] >= min_held_out_patients else "cv"
    plan = Plan(protocol, splits, patients)
    empty = [name for name, part in plan.parts.items() if not part.any()]
    if empty:
        raise OpenclefError(
            f"{cohort.folder}: no patients in {', '.join(empty)}; the protocol 'split' needs all "
            "of probe, tuning and held_out ('cv' does not)"
        )
    return plan


def match_tasks(
    tasks: Sequence[Task],
    *,
    matchers: Mapping[str, Matcher],
    plan: Plan,
    rng: np.random.Generator,
) -> tuple[list[Task], pl.DataFrame]:
    """Leave out train patients and, where a task has a matcher, who is not matched in a part.

    Returns
    -------
    The tasks, and the balance table of those that have a matcher.
    """
    result, balance = [], [pl.DataFrame(schema=BALANCE_SCHEMA)]
    for task, task_rng in zip(tasks, rng.spawn(len(tasks)), strict=True):
        labels = np.where(plan.used, task.labels, EXCLUDED).astype(np.int8)
        if task.name in matchers:
            matcher = matchers[task.name]
            for name, part in plan.parts.items():
                matched = matcher.match(part, rng=task_rng)
                balance.append(matcher.balance(part, matched=matched, split=name))
                labels[part] = matched[part]
        result.append(Task(task.name, task.category, labels))
    return result, pl.concat(balance)


def score_models(
    models: Sequence[Model],
    *,
    tasks: Sequence[Task],
    originals: Mapping[str, Task],
    matchers: Mapping[str, Matcher],
    plan: Plan,
    config: ProbeConfig,
    rng: np.random.Generator,
    progress: bool,
) -> Floats:
    """Probe every model on every task.

    Parameters
    ----------
    models : M models. tasks : K tasks from `match_tasks`. originals : them before matching.
    matchers : for `cv`, to match those who are fitted apart from those who are reported.
    plan, config : who, and how.
    rng : of folds and of matching within them.
    progress : show a bar.

    Returns
    -------
    Scores `[M, K, N]`; NaN where a session is not reported for a task.
    """
    if not tasks:
        return np.empty((len(models), 0, len(plan.splits)))
    bar = track(models, description="probes", disable=not progress)
    labels_KN = np.array([task.labels for task in tasks])
    if plan.protocol == "split":
        return np.array(
            [
                split_scores(
                    model.vectors,
                    labels_KN=labels_KN,
                    splits=plan.splits,
                    patients=plan.patients,
                    config=config,
                )
                for model in bar
            ]
        )
    folds_RN = assign_folds(
        labels_KN, patients=plan.patients, used=plan.used, config=config, rng=rng
    )
    unmatched = [originals[task.name] for task in tasks]
    fit_labels = _labels_to_fit(unmatched, matchers, folds_RN, config.n_folds, rng)
    return np.array(
        [
            cv_scores(
                model.vectors,
                labels_KN=labels_KN,
                folds_RN=folds_RN,
                fit_labels=fit_labels,
                patients=plan.patients,
                config=config,
            )
            for model in bar
        ]
    )


def _labels_to_fit(
    tasks: Sequence[Task],
    matchers: Mapping[str, Matcher],
    folds_RN: Ints,
    n_folds: int,
    rng: np.random.Generator,
) -> dict[LeftOut, Labels]:
    """For each pair of folds left out, `[K, N]`: controls matched anew among those who remain."""
    fit_labels = {}
    for repeat, folds in enumerate(folds_RN):
        for first, second in left_out_folds(n_folds):
            remaining = (folds >= 0) & (folds != first) & (folds != second)
            fit_labels[repeat, first, second] = np.array(
                [
                    matchers[task.name].match(remaining, rng=rng)
                    if task.name in matchers
                    else np.where(remaining, task.labels, EXCLUDED)
                    for task in tasks
                ],
                dtype=np.int8,
            )
    return fit_labels
