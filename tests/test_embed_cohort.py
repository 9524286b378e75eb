"""A packed model over a cohort: in batches, past bad windows, on after an interruption."""

import hashlib
import shutil
from datetime import datetime

import numpy as np
import polars as pl
import pytest
import torch
import zarr

from openclef import artefact, embed_model
from openclef.artefact import Artefact
from openclef.cohort import shards
from openclef.cohort.session import SourceError
from openclef.cohort.store import Cohort
from openclef.cohort.tables import WINDOWS
from openclef.embed_model import embed_cohort
from openclef.encoder import embed
from openclef.encoder.windows import hour_of_day
from openclef.errors import OpenclefError
from openclef.model import CLEF
from tiny_clef import make_clef

SESSIONS = ["S0"] * 5 + ["S1"] + ["S2"] * 4  # of each window
HIDDEN, NOT_FINITE = 5, 7  # the one of S1, the second of S2
FILES = ("config.json", "embeddings.parquet", "sessions.parquet", "failures.parquet")


def write_cohort(folder):
    stage = artefact.begin(folder, kind="cohort", config={}, inputs={})
    started = [datetime(2020, 1, 1, 22, 30), None, datetime(2020, 1, 1, 3)]
    sessions = {"session_id": ["S0", "S1", "S2"], "start_time": started}
    pl.DataFrame(sessions).write_parquet(folder / "sessions.parquet")
    shards.create_array(folder / "spectrograms", n_rows=len(SESSIONS))
    array, rng = zarr.open_array(folder / "spectrograms", mode="r+"), np.random.default_rng(0)
    rows = []
    for row, session in enumerate(SESSIONS):
        power_db = rng.normal(scale=10, size=(19, 128, 1280)).round().astype(np.float16)
        if row == NOT_FINITE:
            power_db[18, 4, 5] = np.inf
        array[row] = power_db
        window = row - SESSIONS.index(session)
        rows.append(
            {
                "row": row, "session_id": session, "window": window, "start_s": 1280.0 * window,
                "channel_mask": (np.arange(19) < row).tolist(),
                "time_mask": (np.arange(1280) >= (0 if row == HIDDEN else 60 + 40 * row)).tolist(),
                "hash": hashlib.sha256(power_db.data).hexdigest()[:16],
            }
        )  # fmt: skip
    pl.DataFrame(rows, schema=WINDOWS).write_parquet(folder / "windows.parquet")
    stage.finish(["sessions.parquet", "windows.parquet"])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "cohort"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_WINDOWS", 4)
        write_cohort(folder)
    return Cohort(folder)


@pytest.fixture
def damaged(cohort, tmp_path):
    """A copy that a test may damage."""
    return Cohort(shutil.copytree(cohort.folder, tmp_path / "cohort"))


def coarse_clef(**options):
    """Of 4 x 64 tokens a window, to be quick."""
    return make_clef(strides=((8, 10), (4, 2)), **options)


@pytest.fixture(scope="module")
def clef():
    return coarse_clef()


@pytest.fixture
def small_parts(monkeypatch):
    """Ten windows in three parts of at most two batches."""
    monkeypatch.setattr(embed, "PART_WINDOWS", 4)
    monkeypatch.setattr(embed_model, "BATCH_SIZE", 3)


@pytest.mark.parametrize(("pooling", "inputs"), [("moments", "codes+patches"), ("class", "codes")])
def test_every_window_is_as_one_alone(cohort, tmp_path, pooling, inputs):
    clef = coarse_clef(pooling=pooling, inputs=inputs)
    embed_cohort(clef, cohort, tmp_path / "e")
    table = pl.read_parquet(tmp_path / "e" / "embeddings.parquet")
    assert table.drop("vector").equals(cohort.windows.select("session_id", "window", "start_s"))
    vectors = np.array(table["vector"].to_list())
    started = dict(cohort.sessions.iter_rows())
    for row, session, start_s in cohort.windows.select("row", "session_id", "start_s").iter_rows():
        if row == NOT_FINITE:
            assert np.isnan(vectors[row]).all()
            continue
        hour = hour_of_day(started[session], start_s)
        alone = clef.embed_spectrogram(cohort.spectrogram(row), hour=hour)
        assert np.isnan(alone).any() == (row == HIDDEN)
        np.testing.assert_allclose(vectors[row], alone, atol=1e-5)


def test_bad_windows_are_told_and_in_no_mean(clef, cohort, tmp_path):
    stage = embed_cohort(clef, cohort, tmp_path / "e")
    assert set(stage.manifest()["outputs"]) == set(FILES[1:])
    assert {path.name for path in stage.folder.iterdir()} == {*FILES, "manifest.json"}
    failed = pl.read_parquet(tmp_path / "e" / "failures.parquet")
    assert failed.select("session_id", "window").rows() == [("S1", 0), ("S2", 1)]
    assert failed["error"][0] == "no token is visible"
    assert "NaN or infinite values in 1 visible frames" in failed["error"][1]
    vectors = np.array(pl.read_parquet(tmp_path / "e" / "embeddings.parquet")["vector"].to_list())
    sessions = pl.read_parquet(tmp_path / "e" / "sessions.parquet")
    assert sessions.select("session_id", "n_windows").rows() == [("S0", 5), ("S2", 3)]
    means = np.stack([vectors[:5].mean(0), vectors[[6, 8, 9]].mean(0)])
    np.testing.assert_allclose(np.array(sessions["vector"].to_list()), means, atol=1e-6)


def test_windows_that_cannot_be_read_do_not_end_the_others(clef, cohort, damaged, tmp_path):
    (damaged.folder / "spectrograms" / "c" / "0" / "0" / "0" / "0").unlink()  # windows 0 to 3
    for name, source in (("whole", cohort), ("damaged", damaged)):
        embed_cohort(clef, source, tmp_path / name)
    whole, rest = (
        np.array(pl.read_parquet(tmp_path / name / "embeddings.parquet")["vector"].to_list())
        for name in ("whole", "damaged")
    )
    assert np.isnan(rest[:4]).all()
    np.testing.assert_allclose(rest[4:], whole[4:], atol=1e-5)
    failed = pl.read_parquet(tmp_path / "damaged" / "failures.parquet")
    assert failed["window"].to_list() == [0, 1, 2, 3, 0, 1]
    assert "missing, or not what ingest stored" in failed["error"][0]
    assert not any(str(tmp_path) in error for error in failed["error"])


def test_a_cohort_of_which_nothing_can_be_embedded_is_refused(clef, damaged, tmp_path):
    shutil.rmtree(damaged.folder / "spectrograms" / "c")
    with pytest.raises(OpenclefError, match="no window can be embedded; the first, of session S0"):
        embed_cohort(clef, damaged, tmp_path / "e")
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["config.json"]


@pytest.mark.usefixtures("small_parts")
def test_a_cohort_that_goes_away_stops_the_run_and_no_window_is_given_up(
    clef, damaged, tmp_path, monkeypatch
):
    away, spectrogram = tmp_path / "away", Cohort.spectrogram

    def unmounting(self, row):
        if row == 5:  # in the second of three parts
            damaged.folder.rename(away)
            raise FileNotFoundError
        return spectrogram(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Cohort, "spectrogram", unmounting)
        with pytest.raises(SourceError, match="cannot be read just now"):
            embed_cohort(clef, damaged, tmp_path / "e")
    away.rename(damaged.folder)
    embed_cohort(clef, damaged, tmp_path / "e")
    assert pl.read_parquet(tmp_path / "e" / "failures.parquet").height == 2


def embed_counting(clef, cohort, out, monkeypatch, *, stop_at=None):
    """Sizes of the batches that were embedded; the one numbered `stop_at` ends it."""
    sizes, embed_batch = [], CLEF.embed_batch

    def counting(self, spectrograms, hours):
        if len(sizes) == stop_at:
            raise RuntimeError("killed")
        sizes.append(len(spectrograms))
        return embed_batch(self, spectrograms, hours)

    with monkeypatch.context() as patch:
        patch.setattr(CLEF, "embed_batch", counting)
        if stop_at is None:
            embed_cohort(clef, cohort, out)
        else:
            with pytest.raises(RuntimeError, match="killed"):
                embed_cohort(clef, cohort, out)
    return sizes


@pytest.mark.usefixtures("small_parts")
def test_killed_half_way_it_goes_on_to_the_same_bytes(clef, cohort, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "e"
    sizes = embed_counting(clef, cohort, whole, monkeypatch)
    assert sizes == [3, 1, 3, 2]  # parts of 4, 4 and 2; the bad window is a batch of its own
    first = embed_counting(clef, cohort, out, monkeypatch, stop_at=3)
    assert not (out / "manifest.json").exists()
    again = embed_counting(clef, cohort, out, monkeypatch)
    assert (first, again) == (sizes[:3], sizes[3:])
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in out.iterdir()} == {*FILES, "manifest.json"}


def test_killed_before_the_manifest_nothing_is_embedded_again(clef, cohort, tmp_path, monkeypatch):
    def kill(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Artefact, "finish", kill)
        with pytest.raises(RuntimeError, match="killed"):
            embed_cohort(clef, cohort, tmp_path / "e")
    assert embed_counting(clef, cohort, tmp_path / "e", monkeypatch) == []
    assert pl.read_parquet(tmp_path / "e" / "failures.parquet").height == 2


def test_the_model_is_back_where_it_was_whatever_happens(cohort, tmp_path, monkeypatch):
    clef, moved = coarse_clef(inputs="codes+patches"), []

    def move(module, device):
        moved.append((type(module).__name__, str(device)))

    def kill(*_, **__):
        raise RuntimeError("killed")

    monkeypatch.setattr(torch.nn.Module, "to", move)
    monkeypatch.setattr("openclef.model.best_device", lambda: torch.device("cuda", 1))
    monkeypatch.setattr(embed_model, "in_parts", kill)
    with pytest.raises(RuntimeError, match="killed"):
        embed_cohort(clef, cohort, tmp_path / "e")
    modules = ("Vqgan", "MaskedTransformer", "Whitener")
    assert moved == [(name, device) for device in ("cuda:1", "cpu") for name in modules]
