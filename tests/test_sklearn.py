import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from openclef.errors import OpenclefError
from openclef.sklearn import ClefEmbedder
from tiny_clef import SFREQ_HZ, make_clef, noise_uv, recording_of

NAMES = ("O1", "O2")


@pytest.fixture(scope="module")
def clef():
    return make_clef(pooling="rows")


@pytest.fixture(scope="module")
def embedder(clef, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    clef.save_pretrained(folder)
    return ClefEmbedder(folder, sfreq=SFREQ_HZ, ch_names=NAMES, batch_size=2)


def test_arrays_and_recordings_have_the_vectors_of_embed(clef, embedder):
    windows = noise_uv(3, 2, 1000)
    recordings = [recording_of(window, NAMES) for window in windows]
    expected = [clef.embed(recording).vector for recording in recordings]
    np.testing.assert_allclose(embedder.fit_transform(windows), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.fit_transform(recordings), expected, atol=1e-5)


def test_it_is_a_step_of_a_pipeline(embedder):
    windows = noise_uv(8, 2, 400)
    windows[4:] *= 5
    y = np.repeat([0, 1], 4)
    pipeline = make_pipeline(embedder, LogisticRegression(C=100)).fit(windows, y)
    assert pipeline.predict(windows).shape == (8,)
    assert len(pipeline[:-1].get_feature_names_out()) == pipeline[-1].n_features_in_


def test_names_parameters_and_clones(clef, embedder):
    copied = clone(embedder)
    assert copied.get_params() == embedder.get_params()
    names = copied.fit(noise_uv(1, 2, 400)).get_feature_names_out()
    assert names[0] == "clefembedder0"
    assert len(names) == clef.config.n_features
    with pytest.raises(NotFittedError):
        clone(copied).transform(noise_uv(1, 2, 400))


def test_a_model_in_memory_is_used_as_it_is(clef):
    fitted = ClefEmbedder(clef).fit([recording_of(noise_uv(2, 400), NAMES)])
    assert fitted.model_ is clef


def test_what_cannot_be_embedded_is_refused(clef, embedder):
    with pytest.raises(OpenclefError, match=r"X of shape \(4, 5\): give an array"):
        embedder.fit(np.zeros((4, 5)))
    with pytest.raises(OpenclefError, match="X of list cannot be embedded"):
        embedder.fit(["one.edf", 3])
    with pytest.raises(OpenclefError, match="need sfreq"):
        ClefEmbedder(clef).fit(noise_uv(1, 2, 400))
    with pytest.raises(OpenclefError, match="n_chans 3, but chs_info has 2"):
        embedder.fit(noise_uv(1, 3, 400))
    with pytest.raises(OpenclefError, match="batch_size 0"):
        clone(embedder).set_params(batch_size=0).fit(noise_uv(1, 2, 400))
