import json
import shutil

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

import openclef
from openclef.cohort.store import Cohort
from openclef.embed_model import embed_cohort, embed_file
from openclef.errors import ArtefactError
from openclef.model import CLEF, pack
from openclef.types import Recording


@pytest.fixture(scope="module")
def model(finished_run):
    return CLEF.from_pretrained(finished_run / "model")


@pytest.fixture(scope="module")
def recording_path(finished_run, hospital):
    sessions = Cohort(finished_run / "cohort").sessions
    return hospital / sessions.filter(pl.col("split") == "held_out")["path"][0]


def test_command_file_and_python_give_the_same_embedding(model, recording_path, tmp_path):
    embed_file(model, recording_path, tmp_path / "e.parquet")
    from_file = pl.read_parquet(tmp_path / "e.parquet")["vector"].to_list()
    in_memory = model.embed(openclef.read_recording(recording_path))
    np.testing.assert_allclose(from_file, in_memory.windows, atol=1e-5)
    np.testing.assert_allclose(in_memory.vector, in_memory.windows.mean(0), atol=1e-6)
    metadata = pq.read_schema(tmp_path / "e.parquet").metadata
    assert metadata[b"openclef.model"].decode() == model.hash


def test_file_and_run_give_the_same_embedding(model, recording_path, finished_run):
    """The run's embeddings come from stored spectrograms and tokens, in batches."""
    cohort = Cohort(finished_run / "cohort")
    table = pl.read_parquet(finished_run / "embeddings" / "clef_aligned" / "embeddings.parquet")
    session = cohort.sessions.filter(pl.col("split") == "held_out")["session_id"][0]
    stored = table.filter(pl.col("session_id") == session)["vector"].to_list()
    np.testing.assert_allclose(model.embed(recording_path).windows, stored, atol=1e-5)


def test_embedding_a_cohort_covers_every_window(model, finished_run, tmp_path):
    cohort = Cohort(finished_run / "cohort")
    embed_cohort(model, cohort, tmp_path / "e")
    table = pl.read_parquet(tmp_path / "e" / "embeddings.parquet")
    assert table["session_id"].to_list() == cohort.windows["session_id"].to_list()
    assert np.isfinite(np.array(table["vector"].to_list())).all()


def test_a_long_recording_is_windows_of_1280_s(model):
    rng = np.random.default_rng(0)
    signal_uv = (20 * rng.standard_normal((2, 1400 * 100))).astype(np.float32)
    long = Recording(signal_uv, 100.0, ("O1", "O2"), np.zeros(2, bool))
    embedding = model.embed(long)
    assert embedding.window_starts_s.tolist() == [0.0, 1280.0]
    assert embedding.windows.shape == (2, len(embedding.vector))
    first = Recording(signal_uv[:, :128000], 100.0, ("O1", "O2"), np.zeros(2, bool))
    np.testing.assert_allclose(embedding.windows[0], model.embed(first).vector, atol=1e-5)


def test_a_model_is_packed_without_alignment_too(finished_run, recording_path, tmp_path):
    pack(finished_run / "tokenizer", finished_run / "encoder", tmp_path / "m", pooling="mean")
    model = CLEF.from_pretrained(tmp_path / "m")
    assert not model.config.is_aligned
    assert np.isfinite(model.embed(recording_path).vector).all()


def test_model_folders_hold_no_patient_and_no_path(finished_run):
    for path in (finished_run / "model").iterdir():
        content = path.read_bytes()
        assert b"sub-" not in content, path
        assert str(finished_run).encode() not in content, path


def test_weights_that_do_not_match_are_refused(finished_run, tmp_path):
    shutil.copytree(finished_run / "model", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["config"]["encoder"]["width"] = 64
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match="do not match the model"):
        CLEF.from_pretrained(tmp_path / "m")


def test_a_folder_that_is_no_model_is_refused(tmp_path, finished_run):
    with pytest.raises(ArtefactError, match="no model artefact here"):
        CLEF.from_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match="holds another artefact, encoder, not model"):
        CLEF.from_pretrained(finished_run / "encoder")


def test_an_encoder_of_another_tokenizer_is_refused(finished_run, tmp_path):
    shutil.copytree(finished_run / "tokenizer", tmp_path / "t")
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_text())
    manifest["hash"] = "another"
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="tokens of another tokenizer"):
        pack(tmp_path / "t", finished_run / "encoder", tmp_path / "m", pooling="mean")
