from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from openclef.benchmark.probe import (
    ProbeConfig,
    assign_folds,
    cv_scores,
    fit_logistic,
    fit_projection,
    left_out_folds,
    split_scores,
)
from openclef.benchmark.statistics import auroc

CONFIG = ProbeConfig(n_repeats=2)


def _data(n=240, d=20, *, seed=0, effect=2.0):
    """Two sessions a patient; task 0 is written in the vectors, task 1 is not."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n // 2), 2)
    labels = (rng.random((2, n // 2)) < 0.4).astype(np.int8)[:, patients]
    x = rng.normal(size=(n, d))
    x[:, 0] += effect * labels[0]
    splits = np.array(["train", "probe", "tuning", "held_out"])[patients % 4]
    return x, labels, patients, splits


def _cv(x, labels, folds, patients, *, fit_labels=None):
    if fit_labels is None:
        fit_labels = {
            (repeat, *pair): np.where(np.isin(fold, [*pair, -1]), -1, labels).astype(np.int8)
            for repeat, fold in enumerate(folds)
            for pair in left_out_folds(5)
        }
    return cv_scores(
        x,
        labels_KN=labels,
        folds_RN=folds,
        fit_labels=fit_labels,
        patients=patients,
        config=CONFIG,
    )


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)], ids=["wide", "tall"])
def test_projection_equals_scikit_learn(shape):
    x = np.random.default_rng(0).normal(size=shape) * 5 + 3
    x[:, 1] += x[:, 0]
    ours = fit_projection(x, max_components=10).apply(x)
    pca = PCA(10, whiten=True, svd_solver="full")
    theirs = pca.fit_transform(StandardScaler().fit_transform(x))
    # Components have no sign; scikit-learn divides by N - 1, a standardiser by N.
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs * np.sqrt(shape[0] / (shape[0] - 1))))


def test_components_are_limited_by_rank_and_by_sessions():
    rng = np.random.default_rng(0)
    low_rank = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 40))
    assert fit_projection(low_rank, max_components=64).components.shape == (40, 3)
    assert fit_projection(rng.normal(size=(9, 40)), max_components=64).components.shape == (40, 8)
    assert fit_projection(np.ones((9, 4)), max_components=64).components.shape == (4, 0)


def test_unknown_features_take_the_training_mean():
    x = np.random.default_rng(0).normal(size=(40, 5))
    x[:, 4] = np.nan
    x[0, 1] = np.nan
    filled = np.nan_to_num(x, nan=np.nanmean(x[:, 1]))
    projection = fit_projection(x, max_components=64)
    assert projection.components.shape[1] == 4
    np.testing.assert_allclose(projection.apply(x)[0], projection.apply(filled)[0])
    assert np.isfinite(projection.apply(np.full((1, 5), np.nan))).all()


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0, 100.0])
def test_logistic_regression_reaches_the_optimum_that_another_solver_finds(c):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 40))
    labels = (x[:, 0] + 0.3 * rng.normal(size=120) > 0.8).astype(np.int8)
    ours = fit_logistic(x, labels=labels, c=c)
    theirs = LogisticRegression(C=c, class_weight="balanced", tol=1e-10, max_iter=5000)
    theirs.fit(x, labels)
    np.testing.assert_allclose(ours[:-1], theirs.coef_[0], rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(ours[-1], theirs.intercept_[0], rtol=1e-3, atol=2e-4)


def test_split_finds_what_is_there_and_scores_held_out_only():
    x, labels, patients, splits = _data()
    scores = split_scores(x, labels_KN=labels, splits=splits, patients=patients, config=CONFIG)
    held_out = splits == "held_out"
    assert np.isnan(scores[:, ~held_out]).all()
    assert auroc(labels[0, held_out], scores=scores[0, held_out]) > 0.8
    assert 0.25 < auroc(labels[1, held_out], scores=scores[1, held_out]) < 0.75


def test_split_fits_on_probe_and_chooses_on_tuning_alone():
    x, labels, patients, splits = _data()

    def scores(x, labels):
        found = split_scores(x, labels_KN=labels, splits=splits, patients=patients, config=CONFIG)
        return found[:, splits == "held_out"]

    other_x, other_labels = x.copy(), labels.copy()
    other_x[splits == "train"] = np.nan
    other_labels[:, splits == "train"] = 1
    other_labels[:, splits == "held_out"] ^= 1
    assert np.array_equal(scores(x, labels), scores(other_x, other_labels))
    other_labels[:, splits == "probe"] ^= 1
    assert not np.array_equal(scores(x, labels), scores(x, other_labels))


def test_a_single_class_among_tuning_patients_still_chooses():
    x, labels, patients, splits = _data()
    labels[:, splits == "tuning"] = 0
    scores = split_scores(x, labels_KN=labels, splits=splits, patients=patients, config=CONFIG)
    held_out = splits == "held_out"
    assert auroc(labels[0, held_out], scores=scores[0, held_out]) > 0.8


def test_cv_finds_what_is_there_and_leaves_noise_near_a_half():
    x, labels, patients, splits = _data(400)
    used = splits != "train"
    folds = assign_folds(
        labels, patients=patients, used=used, config=CONFIG, rng=np.random.default_rng(0)
    )
    scores = _cv(x, labels, folds, patients)
    assert np.isnan(scores[:, ~used]).all()
    assert auroc(labels[0, used], scores=scores[0, used]) > 0.85
    assert 0.35 < auroc(labels[1, used], scores=scores[1, used]) < 0.65


def test_cv_of_a_constant_is_exactly_chance():
    # Pooled scores with an intercept would fall below 0.5: each fold lacks what it is tested on.
    _, labels, patients, _ = _data()
    folds = assign_folds(
        labels,
        patients=patients,
        used=np.ones(len(patients), dtype=bool),
        config=CONFIG,
        rng=np.random.default_rng(0),
    )
    constant = np.ones((len(patients), 3))
    scores = _cv(constant, labels, folds, patients)
    assert auroc(labels[0], scores=scores[0]) == 0.5


def test_cv_scores_a_fold_without_its_labels_or_vectors():
    x, labels, patients, splits = _data()
    folds = assign_folds(
        labels,
        patients=patients,
        used=splits != "train",
        config=ProbeConfig(n_repeats=1),
        rng=np.random.default_rng(0),
    )
    inside = folds[0] == 0

    def scores(x, labels):
        return _cv(x, labels, folds, patients)

    plain = scores(x, labels)
    other_labels, other_x = labels.copy(), x.copy()
    other_labels[:, inside] ^= 1
    assert np.array_equal(plain[:, inside], scores(x, other_labels)[:, inside])
    first = int(np.flatnonzero(inside)[0])
    other_x[inside] += 100.0
    other_x[first] = x[first]
    np.testing.assert_allclose(scores(other_x, labels)[:, first], plain[:, first])
    other_x[splits == "train"] = np.nan
    assert np.array_equal(
        np.nan_to_num(scores(other_x, labels)[:, first]), scores(other_x, labels)[:, first]
    )


def test_folds_keep_patients_whole_and_spread_every_class():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(150), 2)
    labels = (rng.random((6, 150)) < [[0.1], [0.2], [0.3], [0.4], [0.5], [0.8]]).astype(np.int8)
    labels = labels[:, patients]
    used = patients < 120
    folds = assign_folds(labels, patients=patients, used=used, config=ProbeConfig(), rng=rng)
    assert folds.shape == (5, 300)
    assert (folds[:, ~used] == -1).all()
    for repeat in folds:
        fold = repeat[::2]
        assert np.array_equal(fold, repeat[1::2])
        assert np.ptp(np.bincount(fold[:120])) <= 4
        for task in labels[:, ::2]:
            for label in (0, 1):
                members = np.bincount(fold[:120][task[:120] == label], minlength=5)
                assert np.ptp(members) <= 4
                assert members.min() > 0
    assert not np.array_equal(folds[0], folds[1])


def test_a_patient_on_both_sides_stops_the_benchmark():
    x, labels, patients, splits = _data()
    patients = patients.copy()
    patients[np.flatnonzero(splits == "held_out")[0]] = patients[splits == "train"][0]
    with pytest.raises(RuntimeError, match="1 patients are on both sides"):
        split_scores(x, labels_KN=labels, splits=splits, patients=patients, config=CONFIG)
    folds = np.where(splits == "train", -1, np.arange(len(x)) % 5)[None]
    with pytest.raises(RuntimeError, match="both sides"):
        _cv(x, labels, folds, patients)


def test_a_label_of_who_is_scored_stops_the_benchmark():
    x, labels, patients, splits = _data()
    folds = assign_folds(
        labels,
        patients=patients,
        used=splits != "train",
        config=CONFIG,
        rng=np.random.default_rng(0),
    )
    leaking = {(r, *pair): labels for r in range(len(folds)) for pair in left_out_folds(5)}
    with pytest.raises(RuntimeError, match="sessions that are left out would be fitted"):
        _cv(x, labels, folds, patients, fit_labels=leaking)
