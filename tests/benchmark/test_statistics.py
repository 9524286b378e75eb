from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from MLstatkit import Delong_test
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_auc_score

from openclef.benchmark.statistics import auroc, bootstrap_auroc, weighted_auroc, with_q_values


def _scored(n=300, *, seed=0, gap=(0.8, 0.8)):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.int8)
    scores = rng.normal(size=(2, n)) + np.array(gap)[:, None] * labels
    return labels, scores


@pytest.mark.parametrize("decimals", [8, 1, 0], ids=["no ties", "some ties", "many ties"])
def test_auroc_equals_scikit_learn_with_ties_and_weights(decimals):
    labels, scores = _scored()
    score = scores[0].round(decimals)
    assert auroc(labels, scores=score) == pytest.approx(roc_auc_score(labels, score))
    weights = np.random.default_rng(1).integers(0, 4, size=(5, len(labels))).astype(float)
    expected = [roc_auc_score(labels, score, sample_weight=row) for row in weights]
    found = weighted_auroc(labels, scores=score, weights_RN=weights)
    np.testing.assert_allclose(found, expected)


def test_nobody_has_no_auroc():
    nobody = np.zeros(0, np.int8)
    found = weighted_auroc(nobody, scores=np.zeros(0), weights_RN=np.ones((3, 0)))
    assert found.shape == (3,)
    assert np.isnan(found).all()


def test_a_single_class_has_no_auroc():
    assert np.isnan(auroc(np.ones(4, dtype=np.int8), scores=np.arange(4.0)))


def _bootstrap(labels, scores, *, patients=None, n_resamples=2000, seed=0):
    return bootstrap_auroc(
        labels,
        scores_MN=scores,
        patients=np.arange(len(labels)) if patients is None else patients,
        n_resamples=n_resamples,
        rng=np.random.default_rng(seed),
    )


def test_interval_agrees_with_delong_for_independent_patients():
    labels, scores = _scored(400)
    boot = _bootstrap(labels, scores)
    _, p, *delong, auc_a, auc_b, _ = Delong_test(labels, scores[0], scores[1])
    np.testing.assert_allclose(boot.value, [auc_a, auc_b])
    for model, (low, high) in enumerate(delong):
        np.testing.assert_allclose(boot.interval(model), (low, high), atol=0.012)
    assert boot.difference(0, 1)[3] == pytest.approx(p, abs=0.05)


def test_copies_of_a_patient_do_not_narrow_its_interval():
    labels, scores = _scored(200)
    copies = np.repeat(np.arange(200), 10)
    once = np.ptp(_bootstrap(labels, scores).interval(0))
    whole = np.ptp(_bootstrap(labels[copies], scores[:, copies], patients=copies).interval(0))
    naive = np.ptp(_bootstrap(labels[copies], scores[:, copies]).interval(0))
    assert whole == pytest.approx(once, rel=0.1)
    assert naive < 0.5 * once


def test_a_model_does_not_differ_from_itself():
    labels, scores = _scored()
    delta, low, high, p = _bootstrap(labels, scores[[0, 0]]).difference(0, 1)
    assert (delta, low, high, p) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_found_and_never_at_p_zero():
    labels, scores = _scored(gap=(2.5, 0.0))
    delta, low, high, p = _bootstrap(labels, scores, n_resamples=500).difference(0, 1)
    assert 0.2 < low < delta < high
    assert p == pytest.approx(2 / 501)


def test_p_is_uniform_when_models_are_equally_good():
    p = []
    for seed in range(60):
        labels, scores = _scored(150, seed=seed)
        p.append(_bootstrap(labels, scores, n_resamples=300, seed=seed).difference(0, 1)[3])
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.05) < 0.15


def test_resamples_repeat_with_the_seed():
    labels, scores = _scored()
    first, again, other = (_bootstrap(labels, scores, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.resampled, again.resampled)
    assert not np.array_equal(first.resampled, other.resampled)


def test_q_is_benjamini_hochberg_over_the_known_p():
    p = [0.01, 0.02, None, 0.04, 0.5]
    table = with_q_values(pl.DataFrame({"p": pl.Series(p, dtype=pl.Float64)}))
    expected = false_discovery_control([0.01, 0.02, 0.04, 0.5], method="bh")
    assert table["q"][2] is None
    np.testing.assert_allclose(table["q"].drop_nulls(), expected)
