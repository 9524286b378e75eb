"""The one probe of every model: standardise -> whitened PCA -> logistic regression (`linear`).

A fixed, small, convex probe measures the embedding rather than the probe; the original's is a
two-layer MLP [C] whose epoch its code may choose on the test set, which we never do (paper.md,
Benchmark protocol). Standardise and PCA see no label and are fitted once per model and training
part, on all its sessions; only the regression is fitted per task. Classes are weighted equally, so
a score is the probability at even prevalence, and scores of several folds can be pooled.

`split`: fitted on probe patients, C chosen on tuning patients, reported on held_out ones.
`cv`: repeated cross-validation by patient over all who are not train patients, C chosen by inner
folds, everything fitted inside the training folds. Train patients are used by neither.

Axis letters here: N sessions, D width of the embedding, P principal components, K tasks, R repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from openclef.benchmark.statistics import auroc
from openclef.benchmark.tasks import EXCLUDED

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.int8]
Bools = NDArray[np.bool_]
# (repeat, fold, fold), see `left_out_folds`.
LeftOut = tuple[int, int, int]


class ProbeConfig(BaseModel):
    """max_components: of the PCA. c_grid: inverse penalties to choose from. Folds are for `cv`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_components: int = Field(default=64, ge=1)
    c_grid: tuple[float, ...] = Field(default=(1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
    n_folds: int = Field(default=5, ge=3)
    n_repeats: int = Field(default=5, ge=1)


@dataclass(frozen=True, eq=False)
class Projection:
    """Mean-impute, standardise and whiten by PCA: mean and sd `[D]`, components `[D, P]`."""

    mean: Floats
    sd: Floats
    components: Floats

    def apply(self, x_ND: Floats) -> Floats:
        """Project to `[N, P]`; what is NaN is taken for the mean of the training part."""
        return np.nan_to_num((x_ND - self.mean) / self.sd, nan=0.0) @ self.components


def fit_projection(x_ND: Floats, *, max_components: int) -> Projection:
    """Fit a `Projection` with min(max_components, N - 1, rank) components.

    Parameters
    ----------
    x_ND : `[N, D]` training sessions; NaN where a feature is unknown. Columns that are unknown or
        constant in all of them carry nothing and become 0.
    max_components : most components to keep.
    """
    known = ~np.isnan(x_ND)
    n_known = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, x_ND, 0.0).sum(axis=0) / n_known
    centred = np.where(known, x_ND - mean, 0.0)
    sd = np.sqrt((centred**2).sum(axis=0) / n_known)
    # Rounding leaves a constant column a spread of about 1e-8 of its mean, if it is float32.
    sd[sd <= 1e-7 * np.abs(mean)] = np.inf
    z_ND = centred / sd
    n, d = z_ND.shape
    # Eigenvectors of the smaller of the two Gram matrices give the same components.
    values, vectors = np.linalg.eigh(z_ND @ z_ND.T if n < d else z_ND.T @ z_ND)
    values, vectors = values[::-1], vectors[:, ::-1]
    n_kept = min(max_components, n - 1, int((values > 1e-10 * max(values[0], 1e-30)).sum()))
    values, vectors = values[:n_kept], vectors[:, :n_kept]
    if n < d:
        vectors = z_ND.T @ vectors / np.sqrt(values)
    return Projection(mean, sd, vectors * np.sqrt(n / values))


def fit_logistic(x_NP: Floats, *, labels: Labels, c: float) -> Floats:
    """Logistic regression with an L2 penalty and equally weighted classes (scikit-learn's).

    Parameters
    ----------
    x_NP : `[N, P]` features. labels : `[N]`, 0 and 1, both present.
    c : inverse penalty.

    Returns
    -------
    `[P + 1]`: coefficients, then the intercept, which is not penalised.
    """
    if not x_NP.shape[1]:
        return np.zeros(1)  # nothing is known of anybody: even odds
    # Newton steps: fast and exact where there are many more sessions than features.
    model = LogisticRegression(
        C=c, class_weight="balanced", solver="newton-cholesky", tol=1e-6, max_iter=200
    )
    model.fit(x_NP, labels)
    return np.append(model.coef_[0], model.intercept_)


def split_scores(
    x_ND: Floats,
    *,
    labels_KN: Labels,
    splits: NDArray[np.str_],
    patients: Ints,
    config: ProbeConfig,
) -> Floats:
    """Score held_out sessions, `[K, N]`: probability at even prevalence, NaN where not reported.

    Parameters
    ----------
    x_ND : `[N, D]` one vector a session. labels_KN : `[K, N]`, 1, 0 or -1 (excluded).
    splits : `[N]`, one of `types.SPLITS`. patients : `[N]`.
    config : components and grid.
    """
    fitted, tuned, reported = (splits == name for name in ("probe", "tuning", "held_out"))
    _check_apart(patients, [fitted, tuned, reported, splits == "train"])
    z_NP = _project(x_ND, fitted, fitted | tuned | reported, config)
    scores = np.full(labels_KN.shape, np.nan)
    for task, labels in enumerate(labels_KN):
        train, tune, test = (part & (labels != EXCLUDED) for part in (fitted, tuned, reported))
        path = _fit_path(z_NP[train], labels[train], config.c_grid)
        best = _choose(labels[tune], _predict(z_NP[tune], path))
        scores[task, test] = _predict(z_NP[test], path[[best]])[0]
    return scores


def cv_scores(
    x_ND: Floats,
    *,
    labels_KN: Labels,
    folds_RN: Ints,
    fit_labels: Mapping[LeftOut, Labels],
    patients: Ints,
    config: ProbeConfig,
) -> Floats:
    """Score the reported sessions, `[K, N]`: mean out-of-fold score over repeats, else NaN.

    For each fold, C is chosen by leaving out each other fold in turn, PCA and regression fitted on
    the remaining ones; a pair of folds left out serves both of its members.

    Parameters
    ----------
    x_ND : `[N, D]` one vector a session.
    labels_KN : `[K, N]`, 1, 0 or -1 (not reported).
    folds_RN : `[R, N]` from `assign_folds`; -1 = not used (train patients).
    fit_labels : for each `left_out_folds`, the labels `[K, N]` to fit with; -1 in folds left out.
    patients : `[N]`. config : components, grid and number of folds.
    """
    total = np.zeros(labels_KN.shape)
    for repeat, folds in enumerate(folds_RN):
        members = [folds == fold for fold in range(config.n_folds)]
        _check_apart(patients, [*members, folds < 0])
        inner = np.full((config.n_folds, len(labels_KN), len(config.c_grid), len(x_ND)), np.nan)
        for first, second in left_out_folds(config.n_folds):
            left_out = members[first] | members[second]
            fitted = fit_labels[repeat, first, second]
            _check_unlabelled(fitted, left_out | (folds < 0))
            z_NP = _project(x_ND, ~left_out & (folds >= 0), folds >= 0, config)
            for task, labels in enumerate(fitted):
                train = labels != EXCLUDED
                if first != second:
                    path = _fit_path(z_NP[train], labels[train], config.c_grid)
                    inner[first, task][:, members[second]] = _predict(z_NP[members[second]], path)
                    inner[second, task][:, members[first]] = _predict(z_NP[members[first]], path)
                else:
                    best = _choose(labels[train], inner[first, task][:, train])
                    path = _fit_path(z_NP[train], labels[train], config.c_grid[best : best + 1])
                    total[task, left_out] += _predict(z_NP[left_out], path)[0]
    unused = (folds_RN[0] < 0) | (labels_KN == EXCLUDED)
    return np.where(unused, np.nan, total / len(folds_RN))


def left_out_folds(n_folds: int) -> list[tuple[int, int]]:
    """Folds that `cv_scores` leaves out: every pair to choose C, then (k, k) to score fold k."""
    return [*combinations(range(n_folds), 2), *((fold, fold) for fold in range(n_folds))]


def assign_folds(
    labels_KN: Labels,
    *,
    patients: Ints,
    used: Bools,
    config: ProbeConfig,
    rng: np.random.Generator,
) -> Ints:
    """Deal patients into folds that are balanced for all tasks at once, `[R, N]`; -1 = not used.

    In the manner of iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011): patients
    with the rarest label first, each to the fold that lacks its labels most, a rare label counting
    for more. One set of folds for all tasks and models.

    Parameters
    ----------
    labels_KN : `[K, N]`, 1, 0 or -1. patients, used : `[N]`.
    config : numbers of folds and repeats. rng : source of all randomness.
    """
    subjects, patient = np.unique(patients[used], return_inverse=True)
    sessions_LN = np.concatenate([labels_KN[:, used] == 1, labels_KN[:, used] == 0])
    has_label = np.zeros((len(subjects), len(sessions_LN)), dtype=bool)
    np.logical_or.at(has_label, patient, sessions_LN.T)
    folds_RN = np.full((config.n_repeats, len(patients)), -1, dtype=np.int64)
    for folds in folds_RN:
        folds[used] = _stratify(has_label, config.n_folds, rng)[patient]
    return folds_RN


def _stratify(has_label: Bools, n_folds: int, rng: np.random.Generator) -> Ints:
    """Fold of each patient, `[patients]`, from `has_label` `[patients, labels]`."""
    n_patients = len(has_label)
    count = has_label.sum(axis=0)
    wanted = np.tile(count / n_folds, (n_folds, 1))
    room = np.full(n_folds, n_patients / n_folds)
    rarest = np.where(has_label, count, n_patients + 1).min(axis=1)
    order = rng.permutation(n_patients)
    fold = np.full(n_patients, -1, dtype=np.int64)
    for patient in order[np.argsort(rarest[order], kind="stable")]:
        labels = has_label[patient]
        lacking = (wanted[:, labels] / count[labels]).sum(axis=1) + room / n_patients
        fold[patient] = np.lexsort((rng.random(n_folds), -lacking))[0]
        wanted[fold[patient]] -= labels
        room[fold[patient]] -= 1
    return fold


def _check_apart(patients: Ints, parts: Sequence[Bools]) -> None:
    """Refuse to go on if a patient is in two parts: an invariant, so not an error for users."""
    for first, second in combinations(parts, 2):
        shared = np.intersect1d(patients[first], patients[second])
        if len(shared):
            raise RuntimeError(f"{len(shared)} patients are on both sides of a split")


def _check_unlabelled(fit_labels: Labels, left_out: Bools) -> None:
    """Refuse to fit with a label of who is to be scored or is in train; an invariant likewise."""
    n_sessions = int((fit_labels[:, left_out] != EXCLUDED).any(axis=0).sum())
    if n_sessions:
        raise RuntimeError(f"labels of {n_sessions} sessions that are left out would be fitted")


def _project(x_ND: Floats, train: Bools, used: Bools, config: ProbeConfig) -> Floats:
    """Whitened components `[N, P]` fitted on `train`; NaN outside `used`."""
    projection = fit_projection(x_ND[train], max_components=config.max_components)
    z_NP = np.full((len(x_ND), projection.components.shape[1]), np.nan)
    z_NP[used] = projection.apply(x_ND[used])
    return z_NP


def _fit_path(x_NP: Floats, labels: Labels, c_grid: Sequence[float]) -> Floats:
    """One solution a value of the grid, `[G, P + 1]`; zeros where only one class is seen."""
    path = np.zeros((len(c_grid), x_NP.shape[1] + 1))
    if labels.any() and not labels.all():
        for row, c in enumerate(c_grid):
            path[row] = fit_logistic(x_NP, labels=labels, c=c)
    return path


def _predict(x_NP: Floats, path: Floats) -> Floats:
    """Probabilities `[G, N]`."""
    probabilities: Floats = expit(path[:, :-1] @ x_NP.T + path[:, -1:])
    return probabilities


def _choose(labels: Labels, scores_GN: Floats) -> int:
    """Row with the best AUROC, or the least log-loss if there is one class; ties: more penalty."""
    if labels.any() and not labels.all():
        return int(np.argmax([auroc(labels, scores=scores) for scores in scores_GN]))
    likelihood = np.where(labels == 1, scores_GN, 1 - scores_GN).clip(1e-12)
    return int(np.argmax(np.log(likelihood).sum(axis=1)))
