"""On a cohort made by hand: tokens of 32 codes a window, and labels that some codes tell."""

import shutil
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from typer.testing import CliRunner

from openclef import artefact
from openclef.benchmark.embeddings import load_models
from openclef.benchmark.runner import BenchmarkConfig, benchmark
from openclef.cli import app
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.store import Cohort
from openclef.encoder.load import load_encoder
from openclef.encoder.objective import EncoderLossConfig
from openclef.errors import OpenclefError
from openclef.recipes import encoder_ablation as recipe
from openclef.recipes import encoders, probing
from openclef.recipes.encoder_ablation import (
    HANDCRAFTED,
    ablate_encoders,
    embed_beside,
    held_out_cross_entropy,
)
from openclef.recipes.probing import Probing
from openclef.recipes.recipe import changed
from openclef.tokenizer.features import WHITENER, FeatureTable
from openclef.tokenizer.token_table import CODE_VECTORS, TokenTable, fixed_lists
from openclef.training import checkpoint

GRID, N_CODES = (2, 2, 8), 8
SPLITS = {"train": 20, "probe": 40, "tuning": 24, "held_out": 40}
CONFIG = BenchmarkConfig(
    protocol="split", min_held_out_patients=1, min_positives=5, n_resamples=100,
    categories=("finding", "disease", "medication"),
)  # fmt: skip


def write_vectors(folder, cohort, model, vectors_ND):
    """Embeddings of the sessions outside train, as a rival writes them."""
    used = cohort.sessions.filter(pl.col("split") != "train")["session_id"]
    stage = begin_embeddings(folder, model=model, inputs={"cohort": cohort.hash})
    write_embeddings(
        folder / TABLE, session_id=used.to_list(), window=np.zeros(len(used), np.int64),
        start_s=np.zeros(len(used)), vectors=vectors_ND.astype(np.float32), hashes={},
    )  # fmt: skip
    stage.finish([TABLE])
    return folder


def make_data(root):
    """(cohort, tokens, references): patients of a session each, the odd train ones of two.

    Every line of a window's tokens repeats a code; sessions with `slowing` have others than those
    without, in the first region, and `gout` is told by the second. Nothing else differs.
    """
    rng = np.random.default_rng(0)
    rows = []
    for split, n_patients in SPLITS.items():
        for i in range(n_patients):
            rows += [(f"{split}-{i}", split)] * (1 + (split == "train" and i % 2))
    n = len(rows)
    sessions = pl.DataFrame(
        {
            "session_id": [f"s{i:03d}" for i in range(n)],
            "subject_id": [row[0] for row in rows],
            "split": [row[1] for row in rows],
            "site": ["a", "b"] * (n // 2), "setting": ["routine"] * n,
            "age": rng.normal(50, 10, n), "sex": rng.choice(["F", "M"], n),
            "start_time": pl.Series([None] * n, dtype=pl.Datetime("us")),
        }
    )  # fmt: skip
    truth = {"slowing": rng.random(n) < 0.5, "gout": rng.random(n) < 0.5}
    stage = artefact.begin(root / "cohort", kind="cohort", config={}, inputs={})
    sessions.write_parquet(root / "cohort" / "sessions.parquet")
    pl.DataFrame(
        {
            "row": range(n), "session_id": sessions["session_id"], "window": [0] * n,
            "start_s": [0.0] * n, "channel_mask": [[False] * 19] * n,
            "time_mask": [[False] * 1280] * n,
        }
    ).write_parquet(root / "cohort" / "windows.parquet")  # fmt: skip
    pl.concat(
        pl.DataFrame(
            {"session_id": sessions["session_id"], "task": task, "category": category,
             "label": truth[task].astype(np.int8)}
        )
        for task, category in (("slowing", "finding"), ("gout", "disease"))
    ).write_parquet(root / "cohort" / "labels.parquet")  # fmt: skip
    zarr.create_array(root / "cohort" / "spectrograms", shape=(1,), dtype="f4")
    stage.finish(["sessions.parquet", "windows.parquet", "labels.parquet"])
    cohort = Cohort(root / "cohort")

    of_region = np.stack([truth["slowing"], truth["gout"]], axis=1)
    ids = 2 * of_region[:, :, None, None] + rng.integers(0, 5, (n, *GRID))
    tokens = artefact.begin(
        root / "tokens", kind="tokens", inputs={"cohort": cohort.hash, "tokenizer": "t"},
        config={"grid": list(GRID), "n_codes": N_CODES, "n_quantisers": 1},
    )  # fmt: skip
    table = {
        "session_id": sessions["session_id"].to_list(), "window": [0] * n, "start_s": [0.0] * n,
        "ids": fixed_lists(ids.reshape(n, -1).astype(np.uint16)),
        "valid": fixed_lists(np.ones((n, 16), bool)), "error": pa.nulls(n, pa.string()),
    }  # fmt: skip
    pq.write_table(pa.table(table), root / "tokens" / "part-00000.parquet")
    vectors = np.random.default_rng(1).normal(size=(N_CODES, 3)).astype(np.float32)
    np.save(root / "tokens" / CODE_VECTORS, vectors)
    tokens.finish(["part-00000.parquet", CODE_VECTORS])

    used = (sessions["split"] != "train").to_numpy()
    known = truth["slowing"][used][:, None] + rng.normal(0, 1, (int(used.sum()), 1))
    noise = rng.normal(0, 1, (int(used.sum()), 6))
    references = [
        write_vectors(root / "given" / name, cohort, name, vectors)
        for name, vectors in zip(HANDCRAFTED, (noise[:, :2], noise, known + noise), strict=True)
    ]
    return SimpleNamespace(
        root=root, cohort=cohort, tokens=TokenTable(root / "tokens", cohort), references=references
    )


BESIDE = "trained+spectrum_mean_sd"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("encoders"))


def ablate(data, out, *, seeds=(0, 1), **more):
    settings = {"names": ["tiny"], "references": data.references, "min_positives": 5}
    return ablate_encoders(data.cohort, data.tokens, out, seeds=seeds, **settings | more)


@pytest.fixture(scope="module")
def found(data):
    return ablate(data, data.root / "out")


@pytest.fixture
def variants(monkeypatch):
    """Two encoders of the same model as tiny's, trained in another way."""
    tiny = encoders.get_encoder("tiny")
    losses = {
        "tiny-smooth": EncoderLossConfig(label_smoothing=0.3),
        "tiny-latents": EncoderLossConfig(code_weight=0.0, latent_weight=1.0),
    }
    for name, loss in losses.items():
        monkeypatch.setitem(encoders.ENCODERS, name, lambda loss=loss: changed(tiny, loss=loss))


def modified(folder):
    """When each file was written last, but those of tables."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# --- the tables -----------------------------------------------------------------------------------


def test_one_row_an_embedding(found):
    runs = found.runs
    assert runs.filter(pl.col("kind") == "reference")["encoder"].to_list() == list(HANDCRAFTED)
    kinds = ["trained", BESIDE, "untrained", f"un{BESIDE}"]
    of_encoder = runs.filter(pl.col("kind").is_in(kinds))
    keys = of_encoder.select("seed", "kind", "pooling", "layer").sort("*").rows()
    assert keys == sorted((s, k, p, -1) for s in (0, 1) for k in kinds for p in ("mean", "moments"))
    for name in ("finding", "disease"):
        assert (runs[f"{name}_low"] <= runs[name]).all()
        assert (runs[name] <= runs[f"{name}_high"]).all()
    assert "medication" not in runs.columns  # there is no such task
    trained = runs.filter(pl.col("kind") == "trained")
    assert trained["cross_entropy"].n_unique() == 2  # one a seed, whatever the readout
    assert of_encoder.filter(~pl.col("kind").is_in(kinds[:2]))["cross_entropy"].is_null().all()


def test_aurocs_are_those_of_the_benchmark(data, found):
    folder = data.root / "out" / "tiny" / "0" / "moments--1"
    done = benchmark(data.cohort.folder, [folder], data.root / "benchmark", config=CONFIG)
    results = pl.read_parquet(done.folder / "results.parquet")
    row = found.runs.row(
        by_predicate=(pl.col("kind") == "trained") & (pl.col("seed") == 0)
        & (pl.col("pooling") == "moments"),
        named=True,
    )  # fmt: skip
    assert dict(results.select("category", "value").iter_rows()) == pytest.approx(
        {"finding": row["finding"], "disease": row["disease"]}
    )


def test_differences_are_paired_and_of_the_same_seed(found):
    auroc = {
        (row["encoder"], row["kind"], row["seed"], row["pooling"]): row
        for row in found.runs.iter_rows(named=True)
    }
    assert set(found.differences["reference"]) == {*HANDCRAFTED, "untrained", f"un{BESIDE}"}
    for row in found.differences.iter_rows(named=True):
        reference, category = row["reference"], row["category"]
        key = (reference, "reference", None, None)
        if reference not in HANDCRAFTED:
            key = (row["encoder"], reference, row["seed"], row["pooling"])
            assert reference == f"un{row['kind']}"
        mine = auroc[row["encoder"], row["kind"], row["seed"], row["pooling"]]
        assert row["difference"] == pytest.approx(mine[category] - auroc[key][category])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_comparisons_and_summary_are_of_means_over_seeds(found):
    keys = ["encoder", "kind", "pooling", "layer", "reference", "category"]
    by_hand = found.differences.group_by(keys, maintain_order=True).agg(
        pl.col("difference").mean(), sd=pl.col("difference").std()
    )
    both = found.comparisons.join(by_hand, on=keys)
    assert both.height == found.comparisons.height == found.differences.height / 2
    np.testing.assert_allclose(both["difference"], both["difference_right"], atol=1e-12)
    np.testing.assert_allclose(both["difference_sd"], both["sd"], atol=1e-12)
    assert (both["n_seeds"] == 2).all()
    rows = found.runs.filter((pl.col("kind") == "trained") & (pl.col("pooling") == "mean"))
    row = found.summary.row(
        by_predicate=(pl.col("kind") == "trained") & (pl.col("pooling") == "mean"), named=True
    )
    for name in ("finding", "tuning", "cross_entropy"):
        assert row[name] == pytest.approx(rows[name].mean())
        assert row[f"{name}_sd"] == pytest.approx(rows[name].std())
    assert row["finding_low"] < row["finding"] < row["finding_high"]


def test_the_best_readout_is_that_of_tuning_patients(found):
    for (_, kind), rows in found.summary.group_by("encoder", "kind"):
        best = rows.filter(pl.col("is_best"))
        assert best.height == 1
        assert best["tuning"][0] == rows["tuning"].max(), kind


# --- the probe ------------------------------------------------------------------------------------


def relabelled(data, split, name):
    """The cohort with labels of one split turned around, and where the spectrum is embedded."""
    folder = data.root / name
    shutil.copytree(data.cohort.folder, folder)
    of_split = data.cohort.sessions.filter(pl.col("split") == split)["session_id"].to_list()
    turned = pl.col("session_id").is_in(of_split)
    labels = data.cohort.table("labels")
    labels.with_columns(
        pl.when(turned).then(1 - pl.col("label")).otherwise(pl.col("label")).alias("label")
    ).write_parquet(folder / "labels.parquet")
    return Cohort(folder)


def test_tuning_aurocs_see_no_held_out_label_and_held_out_ones_no_more_than_their_own(data):
    spectrum = data.references[-1]
    plain = Probing(data.cohort, data.root / "p0", CONFIG).of(spectrum)
    turned = Probing(relabelled(data, "held_out", "c1"), data.root / "p1", CONFIG).of(spectrum)
    np.testing.assert_array_equal(turned.tuning, plain.tuning)
    finding = 0
    assert turned.held_out[0, finding] == pytest.approx(1 - plain.held_out[0, finding])


def test_nobody_is_scored_on_tuning_by_what_was_chosen_on_them(data, monkeypatch):
    asked = []

    def look(vectors, *, splits, **more):
        asked.append(splits)
        return real(vectors, splits=splits, **more)

    real = probing.split_scores
    monkeypatch.setattr(probing, "split_scores", look)
    Probing(data.cohort, data.root / "looked", CONFIG).of(data.references[-1])
    truth = data.cohort.sessions["split"].to_numpy()
    held_out, *halves = asked
    assert (held_out == truth).all()
    for splits in halves:
        assert (splits[truth == "held_out"] == "train").all()  # they take no part
        assert (splits[truth == "probe"] == "probe").all()
    scored = [set(np.flatnonzero(splits == "held_out")) for splits in halves]
    assert scored[0] | scored[1] == set(np.flatnonzero(truth == "tuning"))
    assert not scored[0] & scored[1]


def test_side_by_side_neither_is_louder_and_probe_patients_alone_decide(data):
    rng = np.random.default_rng(0)
    split = data.cohort.sessions.filter(pl.col("split") != "train")["split"].to_numpy()
    wide, narrow = 1e3 * rng.normal(size=(len(split), 30)), rng.normal(size=(len(split), 5))
    moved = np.where((split == "held_out")[:, None], wide + 1e6, wide)
    folders = {
        name: write_vectors(data.root / "beside" / name, data.cohort, name, vectors)
        for name, vectors in (("wide", wide), ("narrow", narrow), ("moved", moved))
    }
    found = {}
    for name in ("wide", "moved"):
        out = data.root / "beside" / f"{name}+narrow"
        embed_beside(
            data.cohort, folders[name], folders["narrow"], out, model=out.name, n_components=4
        )
        (model,) = load_models([out], data.cohort)
        found[name] = model.vectors[data.cohort.sessions["split"].to_numpy() == "probe"]
    assert found["wide"].shape == (SPLITS["probe"], 8)
    covariance = np.cov(found["wide"].T, bias=True)
    np.testing.assert_allclose(covariance[:4, :4], np.eye(4), atol=1e-5)
    np.testing.assert_allclose(covariance[4:, 4:], np.eye(4), atol=1e-5)
    np.testing.assert_array_equal(found["wide"], found["moved"])


# --- encoders -------------------------------------------------------------------------------------


def test_untrained_is_the_same_encoder_at_its_start(data, found):
    for seed in "01":
        trained = load_encoder(data.root / "out" / "tiny" / seed / "encoder")
        (folder,) = (data.root / "out" / "untrained").glob(f"*/{seed}/encoder")
        untrained = load_encoder(folder)
        assert untrained.config == trained.config
        assert not torch.equal(untrained.encoder[0].qkv.weight, trained.encoder[0].qkv.weight)
        ids = data.tokens.ids[data.tokens.rows("train")]
        counts = np.bincount(ids.ravel(), minlength=N_CODES) + 1
        expected = np.log(counts / counts.sum())
        np.testing.assert_allclose(untrained.code_bias.detach(), expected, rtol=1e-5)


def test_encoders_of_one_model_share_one_untrained(data, found, variants):
    shutil.copytree(data.root / "out", data.root / "shared")
    names = ["tiny", "tiny-smooth"]
    more = ablate(data, data.root / "shared", names=names, seeds=[1], poolings=["mean"])
    assert len(list((data.root / "shared" / "untrained").iterdir())) == 1
    rows = more.runs.filter(pl.col("kind") == "untrained").drop("encoder")
    assert rows.height == 2
    assert rows[0].equals(rows[1])
    assert more.runs.filter(pl.col("kind") == "trained")["cross_entropy"].n_unique() == 2


def test_what_is_done_is_not_done_again(data, found):
    before = modified(data.root / "out")
    again = ablate(data, data.root / "out")
    assert modified(data.root / "out") == before
    for name in ("runs", "summary", "differences", "comparisons"):
        assert getattr(again, name).equals(getattr(found, name))


def test_another_encoder_in_its_place_is_measured_anew(data, found):
    folder, stage = data.root / "again" / "tiny" / "0", encoders.get_encoder("tiny")
    shutil.copytree(data.root / "out" / "tiny" / "0", folder)
    before = held_out_cross_entropy(folder, stage, data.cohort, data.tokens)
    assert len(list(folder.glob("cross_entropy-*.csv"))) == 1
    shutil.rmtree(folder / "encoder")
    shutil.copytree(data.root / "out" / "tiny" / "1" / "encoder", folder / "encoder")
    after = held_out_cross_entropy(folder, stage, data.cohort, data.tokens)
    known = found.runs.filter(pl.col("kind") == "trained", pl.col("pooling") == "mean")
    expected = dict(known.select("seed", "cross_entropy").iter_rows())
    measured = [before["cross_entropy"], after["cross_entropy"]]
    assert measured == pytest.approx([expected[0], expected[1]], rel=1e-12)
    assert expected[0] != expected[1]


def test_without_codes_to_predict_there_is_no_cross_entropy(data, variants):
    folder = data.root / "features"
    inputs = {"tokens": data.tokens.artefact.hash}
    stage = artefact.begin(folder, kind="features", config={}, inputs=inputs)
    for name in ("latents", "patches"):
        values = np.repeat(data.tokens.ids[..., None], 32, axis=-1)
        np.save(folder / f"{name}.npy", values.astype(np.float16))
    checkpoint.save_tensors(folder / WHITENER, {"snr": torch.zeros(1)})
    stage.finish(["latents.npy", "patches.npy", WHITENER])
    settings = {"names": ["tiny-latents"], "seeds": [0], "poolings": ["mean"]}
    settings["beside"] = ["patches_mean_sd", "band_power"]
    runs = ablate(data, data.root / "latents", features=FeatureTable(folder), **settings).runs
    assert runs["cross_entropy"].is_null().all()
    references = runs.filter(pl.col("kind") == "reference")["encoder"].to_list()
    assert references == [*HANDCRAFTED, "patches_mean_sd"]  # what it reads, without an encoder
    kinds = runs.filter(pl.col("kind") != "reference")["kind"].to_list()
    assert kinds == [f"{of}{more}" for of in ("trained", "untrained")
                     for more in ("", "+patches_mean_sd", "+band_power")]  # fmt: skip
    assert runs.filter(pl.col("kind") == "trained")["finding"].is_between(0, 1).all()


# --- what is refused, before anything is trained --------------------------------------------------


def test_what_cannot_be_used_is_told_before_anything_is_trained(data, variants):
    out = data.root / "refused"
    with pytest.raises(OpenclefError, match="no finding or disease or medication has 60 held-out"):
        ablate(data, out, min_positives=60)
    with pytest.raises(OpenclefError, match="layer 1: encoder tiny has 0 to 0"):
        ablate(data, out, layers=[1])
    with pytest.raises(OpenclefError, match="tiny-latents reads or predicts latents"):
        ablate(data, out, names=["tiny", "tiny-latents"])
    with pytest.raises(OpenclefError, match="did you mean 'tiny"):
        ablate(data, out, names=["tinny"])
    with pytest.raises(OpenclefError, match="did you mean 'band_power'"):
        ablate(data, out, beside=["band_powr"])
    with pytest.raises(OpenclefError, match="unknown reference 'riemannian'"):
        ablate(data, out, beside=["riemannian"])
    with pytest.raises(OpenclefError, match="is taken"):
        ablate(data, out, references=[*data.references, data.references[0]])
    assert not out.exists()


def test_hand_crafted_ones_are_made_unless_they_are_given(data, monkeypatch):
    made = []

    def embed(cohort, out):
        made.append(out)
        return [out / name for name in HANDCRAFTED]

    monkeypatch.setattr(recipe, "embed_handcrafted", embed)
    other = write_vectors(data.root / "zebra", data.cohort, "zebra", np.ones((104, 1)))
    found = recipe._references(data.cohort, [other, *data.references], data.root / "r")
    assert not made
    assert list(found) == [*HANDCRAFTED, "zebra"]
    found = recipe._references(data.cohort, [other, data.references[1]], data.root / "r")
    assert made == [data.root / "r"]
    expected = [
        data.root / "r" / "demographics",
        data.references[1],
        data.root / "r" / HANDCRAFTED[2],
        other,
    ]
    assert list(found.values()) == expected


def test_recordings_are_read_again_for_the_riemannian_reference(data, monkeypatch):
    asked = []

    def embed(cohort, out, *, root, engine):
        asked.append((root, type(engine).__name__))
        write_vectors(out, cohort, "riemannian", np.arange(104)[:, None] % 7)

    monkeypatch.setattr(recipe, "embed_riemannian", embed)
    settings = {"seeds": [0], "poolings": ["mean"], "recordings": data.root / "recordings"}
    runs = ablate(data, data.root / "riemannian", beside=["riemannian"], **settings).runs
    assert asked == [(data.root / "recordings", "LocalEngine")]
    assert runs["encoder"].to_list()[:4] == [*HANDCRAFTED, "riemannian"]
    assert "untrained+riemannian" in runs["kind"].to_list()
    other = write_vectors(data.root / "r2", data.cohort, "riemannian", np.ones((104, 1)))
    settings["references"] = [*data.references, other]
    ablate(data, data.root / "beside-given", beside=["riemannian"], **settings)
    assert len(asked) == 1  # one that is given is not made


def test_the_command_writes_the_tables(data, found):
    out = data.root / "out"
    options = [f"--reference={folder}" for folder in data.references]
    command = ["reproduce", "encoder", str(data.cohort.folder), str(data.root / "tokens"), str(out)]
    settings = ["--recipe", "tiny", "--pooling", "mean", *options]
    refused = CliRunner().invoke(app, [*command, *settings, "--pooling", "row"])
    assert "did you mean 'rows'" in str(refused.exception)
    done = CliRunner().invoke(app, [*command, *settings])
    assert done.exit_code == 0, done.output
    tables = {
        name: pl.read_csv(out / f"{name}.csv")
        for name in ("encoders", "summary", "differences", "comparisons")
    }
    assert tables["encoders"].height == 3 + 4
    assert set(tables["comparisons"]["kind"]) == set(tables["encoders"]["kind"]) - {"reference"}
    trained = (pl.col("kind") == "trained") & (pl.col("pooling") == "mean")
    both = [table.filter(trained)["finding"][0] for table in (tables["encoders"], found.runs)]
    assert both[0] == pytest.approx(both[1], abs=1e-4)
