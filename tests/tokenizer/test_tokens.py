"""Tokens of a cohort, by a stand-in for the tokenizer whose ids are known beforehand."""

import hashlib
import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from typer.testing import CliRunner

from openclef import artefact
from openclef.cli import app
from openclef.cohort import shards, store
from openclef.cohort.session import SourceError
from openclef.cohort.store import Cohort
from openclef.cohort.tables import WINDOWS
from openclef.errors import ArtefactError, OpenclefError
from openclef.tokenizer import tokens
from openclef.tokenizer.token_table import CACHE, TokenTable
from openclef.tokenizer.tokens import failures, tokenize_cohort, tokenize_window
from openclef.types import Spectrogram, Tokens

N_WINDOWS = 10  # in parts of 4
HIDDEN = 5  # the window in which nothing is visible: all zeros, so it cannot be missed either
N_FREQS = 8  # instead of 128, to be quick
SPLIT_OF = dict(zip(("S1", "S2", "S3"), ("train", "held_out", "train"), strict=True))
SESSIONS = ["S1"] * 4 + ["S2"] * 1 + ["S3"] * 5


class Stub(torch.nn.Module):
    """Ids: the decibels of the first channel, plus the row, plus 100 times the number of the code.

    A region's columns are hidden by frames, or all of them if the region's channel is masked.
    """

    def __init__(self, grid=(1, 8, 256), n_quantisers=1, on_call=None):
        super().__init__()
        quantiser = SimpleNamespace(n_quantisers=n_quantisers, n_codes=8192)
        self.config = SimpleNamespace(grid=grid, quantiser=quantiser)
        self.quantiser = SimpleNamespace(decode=lambda ids: ids * torch.tensor([1.0, 0.5]))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.on_call = on_call or {}  # number of a call -> what is done at it
        self.n_calls = 0

    def tokenize(self, x_BCFT, channel_mask, time_mask):
        self.n_calls += 1
        self.on_call.get(self.n_calls, lambda: None)()
        (n_regions, n_rows, n_columns), n_codes = self.config.grid, self.config.quantiser
        frames = time_mask.unflatten(1, (n_columns, -1)).float().mean(-1) > 0.5
        hidden = channel_mask[:, :n_regions, None] | frames[:, None, :]
        decibels = (40 * x_BCFT[:, 0, 0].unflatten(1, (n_columns, -1))[..., 0]).round().long()
        ids = decibels[:, None, None, :, None] + torch.arange(n_rows)[:, None, None]
        ids = ids + 100 * torch.arange(n_codes.n_quantisers)
        return ids.expand(-1, n_regions, -1, -1, -1), hidden


def masks(row):
    """Of window `row`: channel 2 is missing in odd ones, and the end of all but the first."""
    channel_mask, time_mask = np.zeros(19, bool), np.zeros(1280, bool)
    channel_mask[1] = row % 2
    time_mask[1280 - 100 * row :] = True
    if row == HIDDEN:
        time_mask[:] = True
    return channel_mask, time_mask


def write_cohort(folder):
    """Ten windows of three sessions; window k is of k + 1 dB where it is visible."""
    stage = artefact.begin(folder, kind="cohort", config={}, inputs={})
    sessions = {"session_id": list(SPLIT_OF), "split": list(SPLIT_OF.values())}
    pl.DataFrame(sessions).write_parquet(folder / "sessions.parquet")
    shards.create_array(folder / "spectrograms", n_rows=N_WINDOWS)
    array = zarr.open_array(folder / "spectrograms", mode="r+")
    rows = []
    for row in range(N_WINDOWS):
        channel_mask, time_mask = masks(row)
        power_db = np.full(shards.ARRAY_SHAPE, row + 1, np.float16)
        power_db[channel_mask] = 0
        power_db[..., time_mask] = 0
        array[row] = power_db
        rows.append(
            {
                "row": row, "session_id": SESSIONS[row],
                "window": row - SESSIONS.index(SESSIONS[row]), "start_s": 1280.0 * row,
                "channel_mask": channel_mask.tolist(), "time_mask": time_mask.tolist(),
                "hash": hashlib.sha256(power_db.data).hexdigest()[:16],
            }
        )  # fmt: skip
    pl.DataFrame(rows, schema=WINDOWS).write_parquet(folder / "windows.parquet")
    stage.finish(["sessions.parquet", "windows.parquet"])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "cohort"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "N_FREQS", N_FREQS)
        patch.setattr(shards, "ARRAY_SHAPE", (19, N_FREQS, 1280))
        patch.setattr(shards, "SHARD_WINDOWS", 4)
        write_cohort(folder)
        yield Cohort(folder)


@pytest.fixture
def damaged(cohort, tmp_path):
    """A copy that a test may damage."""
    return Cohort(shutil.copytree(cohort.folder, tmp_path / "cohort"))


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Makes `tokenize_cohort` use a stub, in parts of four windows; returns a tokenizer folder."""
    monkeypatch.setattr(tokens, "PART_WINDOWS", 4)
    monkeypatch.setattr(tokens, "BATCH_SIZE", 2)

    def use(stub):
        monkeypatch.setattr(tokens, "load_tokenizer", lambda _: stub)
        folder = tmp_path / "tokenizer"
        if not folder.exists():
            artefact.begin(folder, kind="tokenizer", config={}, inputs={}).finish([])
        return folder

    return use


@pytest.fixture
def make(use):
    def make(cohort, out, stub=None, **options):
        folder = use(stub or Stub())
        return tokenize_cohort(cohort, folder, out, progress=False, **options)

    return make


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected(row, grid=(1, 8, 256), n_quantisers=1):
    """Ids and hidden of a window, by hand: `[R, Fp, Tp, Q]` and `[R, Fp, Tp]`."""
    n_regions, n_rows, n_columns = grid
    channel_mask, time_mask = masks(row)
    hidden = np.zeros(grid, bool)
    for column in range(n_columns):
        width = 1280 // n_columns
        hidden[..., column] = time_mask[column * width : (column + 1) * width].mean() > 0.5
    hidden[channel_mask[:n_regions]] = True
    ids = row + 1 + np.arange(n_rows)[:, None, None] + 100 * np.arange(n_quantisers)
    ids = np.broadcast_to(ids, (*grid, n_quantisers))
    return np.where(hidden[..., None], 0, ids), hidden


def test_every_window_has_its_tokens_in_order_of_the_cohort(cohort, make, tmp_path):
    assert make(cohort, tmp_path / "t").is_complete
    table = TokenTable(tmp_path / "t", cohort)
    assert table.session_id.to_list() == SESSIONS
    assert table.window.tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3, 4]
    assert table.start_s.tolist() == [1280.0 * row for row in range(N_WINDOWS)]
    assert table.ids.dtype == np.uint16
    assert table.ids.shape == (N_WINDOWS, 2048)
    for row in range(N_WINDOWS):
        ids, hidden = expected(row)
        assert np.array_equal(table.ids[row], ids.ravel()), row
        assert np.array_equal(table.hidden(np.array([row]))[0], hidden.ravel()), row


def test_a_batch_is_what_the_encoder_reads(cohort, make, tmp_path):
    make(cohort, tmp_path / "t")
    batch = TokenTable(tmp_path / "t", cohort).batch(np.array([7, 2, 7]))
    assert (batch["ids"].dtype, batch["hidden"].dtype) == (torch.int64, torch.bool)
    for i, row in enumerate((7, 2, 7)):
        ids, hidden = expected(row)
        assert np.array_equal(batch["ids"][i], ids.ravel())
        assert np.array_equal(batch["hidden"][i], hidden.ravel())


@pytest.mark.parametrize("grid", [(4, 8, 64), (3, 2, 5)])  # the second: not whole bytes of masks
def test_regions_and_several_codes_a_token(cohort, make, tmp_path, grid):
    make(cohort, tmp_path / "t", Stub(grid, n_quantisers=3))
    table = TokenTable(tmp_path / "t", cohort)
    assert (table.grid, table.ids.shape) == (grid, (N_WINDOWS, int(np.prod(grid)), 3))
    with pytest.raises(ArtefactError, match=r"codes\.npy: not there; tokens of one code each"):
        table.code_vectors()
    for row in range(N_WINDOWS):
        ids, hidden = expected(row, grid, 3)
        assert np.array_equal(table.ids[row], ids.reshape(-1, 3)), row
        assert np.array_equal(table.hidden(np.array([row]))[0], hidden.ravel()), row


def test_parquet_can_be_read_without_this_package(cohort, make, tmp_path):
    make(cohort, tmp_path / "t")
    frame = pl.read_parquet(sorted((tmp_path / "t").glob("part-*.parquet")))
    assert frame.columns == ["session_id", "window", "start_s", "ids", "valid", "error"]
    assert frame.schema["ids"] == pl.Array(pl.UInt16, 2048)
    assert frame.schema["valid"] == pl.Array(pl.Boolean, 256)
    assert np.array_equal(frame["valid"].to_numpy()[3], ~expected(3)[1][0, 0])


def test_a_window_without_anything_visible_is_hidden_and_zero(cohort, make, tmp_path):
    make(cohort, tmp_path / "t")
    table = TokenTable(tmp_path / "t", cohort)
    assert not table.ids[HIDDEN].any()
    assert table.hidden(np.array([HIDDEN])).all()


def test_one_window_gives_the_tokens_of_the_cohort(cohort, make, tmp_path):
    make(cohort, tmp_path / "t")
    table = TokenTable(tmp_path / "t", cohort)
    one = tokenize_window(Stub(), cohort.spectrogram(3), tokenizer_hash="abc")
    assert (one.ids.shape, one.mask.shape) == ((1, 8, 256, 1), (1, 8, 256))
    assert np.array_equal(one.ids.ravel(), table.ids[3])
    assert np.array_equal(one.mask.ravel(), table.hidden(np.array([3]))[0])


def test_tokens_of_one_code_know_what_their_ids_stand_for(cohort, make, tmp_path):
    stage = make(cohort, tmp_path / "t")
    vectors = TokenTable(tmp_path / "t", cohort).code_vectors()
    assert (vectors.shape, vectors.dtype) == ((8192, 2), np.float32)
    assert vectors[[0, 1, 8191]].tolist() == [[0, 0], [1, 0.5], [8191, 4095.5]]
    assert "codes.npy" in stage.manifest()["outputs"]


def test_rows_are_those_of_the_splits(cohort, make, tmp_path):
    make(cohort, tmp_path / "t")
    table = TokenTable(tmp_path / "t", cohort)
    assert table.rows("held_out").tolist() == [4]
    assert table.rows("train").tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert table.rows("train", "held_out").tolist() == list(range(10))
    assert table.rows("probe").tolist() == []


def test_an_interrupted_run_goes_on_to_the_same_bytes(cohort, make, tmp_path):
    make(cohort, tmp_path / "unbroken")
    out = tmp_path / "t"

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(cohort, out, Stub(on_call={4: interrupt}))  # in the second of three parts
    (out / ".part-00001.parquet.99999.tmp").write_bytes(b"what a killed writer leaves")
    assert not (out / "manifest.json").exists()
    with pytest.raises(ArtefactError, match="not complete"):
        TokenTable(out, cohort)
    stub = Stub()
    make(cohort, out, stub)
    assert stub.n_calls == 2 + 1  # batches of two windows of the last two parts
    assert files_of(out) == files_of(tmp_path / "unbroken")


def test_a_complete_folder_is_left_alone(cohort, make, tmp_path):
    make(cohort, tmp_path / "t")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "t").iterdir()}
    stub = Stub()
    make(cohort, tmp_path / "t", stub)
    assert stub.n_calls == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "t").iterdir()} == before


def test_shards_give_the_same_bytes_and_the_last_one_finishes(cohort, make, tmp_path):
    make(cohort, tmp_path / "whole")
    out = tmp_path / "t"
    assert not make(cohort, out, shard=(2, 2)).is_complete
    assert [path.name for path in sorted(out.glob("part*"))] == ["part-00001.parquet"]
    assert make(cohort, out, shard=(1, 2)).is_complete
    assert files_of(out) == files_of(tmp_path / "whole")


def test_more_shards_than_parts_is_no_trouble(cohort, make, tmp_path):
    for i in range(1, 6):
        stage = make(cohort, tmp_path / "t", shard=(i, 5))
    assert stage.is_complete


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_is_none_is_refused(cohort, make, tmp_path, shard):
    with pytest.raises(OpenclefError, match=r"shard .*: allowed are 1/"):
        make(cohort, tmp_path / "t", shard=shard)


def test_windows_that_cannot_be_read_are_told_and_skipped(damaged, make, tmp_path):
    array = damaged.folder / "spectrograms"
    (array / "c" / "1" / "0" / "0" / "0").unlink()  # windows 4 to 7: Zarr gives zeros
    shard = array / "c" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1  # in the first chunk, of window 0
    shard.write_bytes(content)
    assert make(damaged, tmp_path / "t").is_complete
    table = failures(tmp_path / "t")
    assert table["session_id"].to_list() == [SESSIONS[row] for row in (0, 4, 6, 7)]
    errors = table["error"].to_list()
    assert "cannot be read" in errors[0]
    assert set(errors[1:]) == {"spectrogram is missing, or not what ingest stored"}
    assert not any(str(tmp_path) in error for error in errors)
    kept = TokenTable(tmp_path / "t", damaged)
    assert len(kept) == 6
    for i, row in enumerate((1, 2, 3, HIDDEN, 8, 9)):
        assert np.array_equal(kept.ids[i], expected(row)[0].ravel()), row
    assert kept.rows("held_out").tolist() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_told_with_their_channels(cohort, value):
    stored = cohort.spectrogram(3)
    power_db = stored.power_db.copy()
    power_db[2, 7, 31] = power_db[18, 0, 32] = value
    with pytest.raises(OpenclefError, match=r"2 visible frames, .* at 31 .* channels T6, Fp2"):
        tokenize_window(Stub(), with_power(stored, power_db), tokenizer_hash="")
    power_db = stored.power_db.copy()
    power_db[stored.channel_mask] = value
    power_db[..., stored.time_mask] = value
    one = tokenize_window(Stub(), with_power(stored, power_db), tokenizer_hash="")
    assert np.array_equal(one.ids, expected(3)[0])


def with_power(stored, power_db):
    return Spectrogram(
        power_db, stored.freqs_hz, stored.times_s, stored.channel_mask, stored.time_mask
    )


def test_a_stored_window_that_is_not_finite_is_skipped(damaged, make, tmp_path):
    array = zarr.open_array(damaged.folder / "spectrograms", mode="r+")
    power_db = array[2]
    power_db[4, 3, 2] = np.inf
    array[2] = power_db
    digest = hashlib.sha256(power_db.data).hexdigest()[:16]
    damaged.windows[2, "hash"] = digest
    make(damaged, tmp_path / "t")
    assert failures(tmp_path / "t").select("session_id", "window").rows() == [("S1", 2)]
    assert "channels Pz" in failures(tmp_path / "t")["error"][0]


def test_a_cohort_that_goes_away_stops_the_run_and_no_window_is_given_up(damaged, make, tmp_path):
    away = tmp_path / "away"
    unmount = {3: lambda: damaged.folder.rename(away)}  # in the second of three parts
    with pytest.raises(SourceError, match="cannot be read just now"):
        make(damaged, tmp_path / "t", Stub(on_call=unmount))
    assert not (tmp_path / "t" / "part-00002.parquet").exists()
    away.rename(damaged.folder)
    assert make(damaged, tmp_path / "t").is_complete
    assert failures(tmp_path / "t").height == 0


def test_a_cohort_of_which_nothing_can_be_read_is_refused(damaged, make, tmp_path):
    shutil.rmtree(damaged.folder / "spectrograms" / "c")
    damaged.windows[HIDDEN, "hash"] = "another"
    with pytest.raises(OpenclefError, match="no window has tokens; the first, of session S1"):
        make(damaged, tmp_path / "t")
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["config.json"]


@pytest.mark.parametrize("damage", ["delete", "truncate", "foreign"])
def test_the_cache_is_made_again_from_the_parts(cohort, make, tmp_path, damage):
    make(cohort, tmp_path / "t")
    cache = tmp_path / "t" / CACHE
    before = cache.read_bytes()
    if damage == "delete":
        cache.unlink()
    elif damage == "truncate":
        cache.write_bytes(before[: len(before) // 2])
    else:
        make(cohort, tmp_path / "other", Stub(n_quantisers=2))
        shutil.copy(tmp_path / "other" / CACHE, cache)
    TokenTable(tmp_path / "t", cohort)
    assert cache.read_bytes() == before


def test_the_ids_are_mapped_not_copied(cohort, make, tmp_path):
    make(cohort, tmp_path / "t")
    table = TokenTable(tmp_path / "t", cohort)
    address = table.ids.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        (line,) = (
            line
            for line in maps
            if int(line.split("-")[0], 16) <= address < int(line.split()[0].split("-")[1], 16)
        )
    assert line.split()[-1] == str(tmp_path / "t" / CACHE)


def test_tokens_of_another_cohort_are_refused(cohort, make, tmp_path):
    make(cohort, tmp_path / "t")
    shutil.copytree(cohort.folder, tmp_path / "other")
    manifest = tmp_path / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(cohort.hash, "0" * 64))
    with pytest.raises(ArtefactError, match="tokens of another cohort"):
        TokenTable(tmp_path / "t", Cohort(tmp_path / "other"))


def test_the_command_says_what_is_missing_and_what_failed(damaged, use, tmp_path, monkeypatch):
    (damaged.folder / "spectrograms" / "c" / "1" / "0" / "0" / "0").unlink()
    folder, out = use(Stub()), tmp_path / "t"

    def command(*options):
        arguments = ["tokenize", str(damaged.folder), str(folder), str(out), *options]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "shard 1/2 is made; 1 parts are still to be made by others" in command("--shard", "1/2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun tells its processes
    said = command()
    assert "3 windows have no tokens" in said
    assert f"tokens: {out}" in said


class RandomIds(Stub):
    """Ids that cannot be compressed."""

    def tokenize(self, x_BCFT, channel_mask, time_mask):
        ids, hidden = super().tokenize(x_BCFT, channel_mask, time_mask)
        return torch.randint(8192, ids.shape), hidden


def test_a_part_is_small(damaged, make, tmp_path, monkeypatch):
    """2 bytes an id, at most, and masks as bits: of a part of full size, nothing hidden."""
    n = 256
    monkeypatch.setattr(tokens, "PART_WINDOWS", n)
    damaged.windows = pl.concat([damaged.windows[:1]] * n)
    torch.manual_seed(0)
    make(damaged, tmp_path / "t", RandomIds())
    part = tmp_path / "t" / "part-00000.parquet"
    assert pq.read_metadata(part).num_row_groups == 1
    for file in (part, tmp_path / "t" / CACHE):
        assert n * 2048 * 13 / 8 < file.stat().st_size < n * (4096 + 32 + 64) + 4096


@pytest.mark.parametrize("is_made", [False, True])
def test_what_a_killed_writer_of_the_cache_left_is_removed(cohort, make, tmp_path, is_made):
    make(cohort, tmp_path / "t")
    cache = tmp_path / "t" / CACHE
    if not is_made:
        cache.unlink()
    killed, living = (cache.with_name(f".{CACHE}.{pid}.tmp") for pid in (99998, 99999))
    for path, age_s in ((killed, 2 * 3600), (living, 60)):
        path.write_bytes(b"half of it")
        os.utime(path, (time.time() - age_s,) * 2)
    TokenTable(tmp_path / "t", cohort)
    assert (killed.exists(), living.exists(), cache.exists()) == (False, True, True)


def test_tokens_have_one_mask_for_the_codes_of_a_token():
    Tokens(np.zeros((2, 8, 4, 3), np.uint16), np.zeros((2, 8, 4), bool), "")
    with pytest.raises(ValueError, match=r"ids must be \[R, Fp, Tp, Q\], as the mask"):
        Tokens(np.zeros((2, 8, 4), np.uint16), np.zeros((2, 8, 4), bool), "")
    with pytest.raises(ValueError, match=r"mask must be \[R, Fp, Tp\]"):
        Tokens(np.zeros((8, 4, 1), np.uint16), np.zeros((8, 4), bool), "")
