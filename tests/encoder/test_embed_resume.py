"""Embedding a cohort goes on after an interruption, to the same bytes."""

import numpy as np
import pytest
import test_stages

from openclef.encoder import embed
from openclef.encoder.embed import embed_tokens, in_parts
from openclef.encoder.train import train_encoder
from openclef.encoder.windows import EncoderWindows

data = test_stages.data
FILES = ("config.json", "embeddings.parquet", "sessions.parquet", "failures.parquet")


@pytest.fixture
def small_parts(monkeypatch):
    """Eleven windows in three parts of two batches each."""
    monkeypatch.setattr(embed, "PART_WINDOWS", 4)
    monkeypatch.setattr(embed, "BATCH_SIZE", 2)


@pytest.fixture(scope="module")
def encoder(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoder") / "encoder"
    train_encoder(data.tokens, out, config=test_stages.stage_of(n_steps=2))
    return out


def embed_counting(encoder, data, out, monkeypatch, *, stop_at=None):
    """Rows that were read, batch by batch; the batch number `stop_at` ends it."""
    read, batch = [], EncoderWindows.batch

    def counting(self, rows):
        if len(read) == stop_at:
            raise RuntimeError("killed")
        read.append(rows.tolist())
        return batch(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderWindows, "batch", counting)
        if stop_at is None:
            embed_tokens(encoder, data.tokens, out, model="m", pooling="rows")
        else:
            with pytest.raises(RuntimeError, match="killed"):
                embed_tokens(encoder, data.tokens, out, model="m", pooling="rows")
    return read


@pytest.mark.usefixtures("small_parts")
def test_killed_half_way_it_goes_on_to_the_same_bytes(data, encoder, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "e"
    rows = embed_counting(encoder, data, whole, monkeypatch)
    assert [len(of_batch) for of_batch in rows] == [2, 2, 2, 2, 2, 1]
    first = embed_counting(encoder, data, out, monkeypatch, stop_at=3)  # in the second part
    assert sorted(p.name for p in (out / "parts").iterdir()) == ["000000000-000000004.npy"]
    assert not (out / "manifest.json").exists()
    again = embed_counting(encoder, data, out, monkeypatch)
    assert first == rows[:3]
    assert again == rows[2:]  # what no part holds, in the same batches
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert not (out / "parts").exists()


@pytest.mark.usefixtures("small_parts")
def test_killed_before_the_manifest_nothing_is_embedded_again(data, encoder, tmp_path, monkeypatch):
    def kill(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(embed, "session_means", kill)
        with pytest.raises(RuntimeError, match="killed"):
            embed_tokens(encoder, data.tokens, tmp_path / "e", model="m", pooling="rows")
    assert embed_counting(encoder, data, tmp_path / "e", monkeypatch) == []
    assert (tmp_path / "e" / "manifest.json").exists()
    assert embed_counting(encoder, data, tmp_path / "e", monkeypatch) == []


@pytest.mark.usefixtures("small_parts")
def test_parts_do_not_show_in_what_is_written(data, encoder, tmp_path, monkeypatch):
    embed_tokens(encoder, data.tokens, tmp_path / "three", model="m", pooling="mean")
    monkeypatch.setattr(embed, "PART_WINDOWS", 256)
    embed_tokens(encoder, data.tokens, tmp_path / "one", model="m", pooling="mean")
    for name in FILES:
        one, three = (tmp_path / folder / name for folder in ("one", "three"))
        assert one.read_bytes() == three.read_bytes(), name


def test_a_part_that_is_not_whole_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "PART_WINDOWS", 3)
    values = np.arange(14, dtype=np.float32).reshape(7, 2)
    made = []

    def make(part, n_batches=9):
        made.append((part.start, part.stop))
        for number, row in enumerate(values[part]):
            if number == n_batches:
                raise OSError("killed")
            yield row[None]

    with pytest.raises(OSError, match="killed"):
        in_parts(tmp_path, 7, lambda part: make(part, 9 if part.start == 0 else 1), label="x")
    assert np.array_equal(in_parts(tmp_path, 7, make, label="x"), values)
    assert made == [(0, 3), (3, 6), (3, 6), (6, 7)]
