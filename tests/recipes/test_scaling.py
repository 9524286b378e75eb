"""On the cohort by hand of the encoders' ablation, and on losses of a known law."""

import copy
import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from test_encoder_ablation import make_data
from typer.testing import CliRunner

from openclef import artefact
from openclef.benchmark.runner import BenchmarkConfig
from openclef.cli import app
from openclef.encoder.objective import MaskedReconstruction
from openclef.encoder.train import EncoderStage, train_encoder, train_windows
from openclef.encoder.transformer import MaskedTransformer
from openclef.errors import ArtefactError, OpenclefError
from openclef.recipes import encoders
from openclef.recipes.encoders import WIDTHS, for_tokens, get_encoder
from openclef.recipes.power_law import fit_power_law
from openclef.recipes.probing import Probing
from openclef.recipes.recipe import changed
from openclef.recipes.scaling import _fit, draw, scaling_study

SIZES = ("tiny-8", "tiny-16", "tiny-32")
SHARES = (0.2, 0.5, 1.0)


def tiny(width):
    stage = get_encoder("tiny")
    return changed(stage, model=changed(stage.model, width=width))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The cohort, with three encoders of another width each that have names."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SIZES:
            width = int(name.removeprefix("tiny-"))
            patch.setitem(encoders.ENCODERS, name, lambda width=width: tiny(width))
        yield make_data(tmp_path_factory.mktemp("scaling"))


def study(data, out, **more):
    settings = {"sizes": SIZES, "shares": SHARES, "min_positives": 5}
    return scaling_study(data.cohort, data.tokens, out, **settings | more)


@pytest.fixture(scope="module")
def found(data):
    return study(data, data.root / "out")


def patients_of(data, rows):
    names = data.tokens.session_id.gather(rows).to_list()
    sessions = data.cohort.sessions.filter(pl.col("session_id").is_in(names))
    return set(sessions["subject_id"].to_list())


# --- shares of the train patients -----------------------------------------------------------------


def test_shares_are_of_patients_and_nested(data):
    taken, before = {}, set()
    for share in (0.01, 0.2, 0.5, 1.0):
        rows = train_windows(data.tokens, share=share, seed=3, cohort=data.cohort)
        patients = taken[share] = patients_of(data, rows)
        assert set(data.tokens.split.gather(rows).to_list()) == {"train"}
        # All windows of a patient, or none.
        others = np.setdiff1d(data.tokens.rows("train"), rows)
        assert not patients & patients_of(data, others)
        assert before <= patients
        before = patients
    assert [len(patients) for patients in taken.values()] == [1, 4, 10, 20]
    other_seed = train_windows(data.tokens, share=0.5, seed=4, cohort=data.cohort)
    assert patients_of(data, other_seed) != taken[0.5]
    again = train_windows(data.tokens, share=0.5, seed=3, cohort=data.cohort)
    assert patients_of(data, again) == taken[0.5]


def test_an_encoder_of_all_patients_is_the_one_of_before_there_were_shares(data):
    stage = for_tokens(get_encoder("tiny"), data.tokens)
    assert stage.train_share == 1
    assert "train_share" not in stage.identity
    assert EncoderStage.model_validate(stage.identity) == stage
    half = changed(stage, train_share=0.5)
    assert EncoderStage.model_validate(half.identity) == half
    with pytest.raises(ValueError, match="train_share"):
        changed(stage, train_share=0)


def test_only_the_share_is_read(data, tmp_path, monkeypatch):
    stage = changed(for_tokens(get_encoder("tiny"), data.tokens), train_share=0.2)
    read = []
    batch = data.tokens.batch
    monkeypatch.setattr(data.tokens, "batch", lambda rows: read.extend(rows) or batch(rows))
    train_encoder(data.tokens, tmp_path / "e", config=stage, cohort=data.cohort)
    allowed = train_windows(data.tokens, share=0.2, seed=0, cohort=data.cohort)
    assert {row for row in read if data.tokens.split[int(row)] == "train"} <= set(allowed)
    assert artefact.load(tmp_path / "e", kind="encoder").config["train_share"] == 0.2


def test_a_share_needs_the_cohort_of_the_tokens(data):
    with pytest.raises(OpenclefError, match=r"train_share 0\.5: .* give the cohort"):
        train_windows(data.tokens, share=0.5, seed=0)
    other = changed_cohort(data)
    with pytest.raises(ArtefactError, match="another cohort"):
        train_windows(data.tokens, share=0.5, seed=0, cohort=other)


def changed_cohort(data):
    """The same one by another name."""
    other = copy.copy(data.cohort)
    other.artefact = dataclasses.replace(data.cohort.artefact, folder=data.references[0])
    return other


# --- the law --------------------------------------------------------------------------------------

# Hoffmann et al. (2022), of our numbers of parameters and windows.
LAW = {"e": 1.69, "a": 20.0, "alpha": 0.34, "b": 4.0, "beta": 0.28}


def losses_of(sizes, amounts, noise=0.0):
    exact = LAW["e"] + LAW["a"] / sizes ** LAW["alpha"] + LAW["b"] / amounts ** LAW["beta"]
    return exact * np.exp(noise * np.random.default_rng(0).normal(size=exact.shape))


def grid(sizes=(3e5, 8e5, 1.4e6, 2e6, 4e6), amounts=(100, 200, 400, 800, 1600)):
    return (axis.ravel() for axis in np.meshgrid(np.array(sizes), np.array(amounts, float)))


def test_the_fit_recovers_a_known_law():
    sizes, amounts = grid()
    law = fit_power_law(sizes, amounts, losses_of(sizes, amounts), n_resamples=3)
    for name, value in LAW.items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-2), name
    assert np.abs(law.residuals).max() < 1e-6
    assert not law.at_bound
    assert (law.parameters, law.windows) == ((300_000, 4_000_000), (100, 1600))


def test_intervals_hold_the_known_law_when_there_is_noise():
    sizes, amounts = grid()
    losses = losses_of(sizes, amounts, noise=1e-3)
    law = fit_power_law(sizes, amounts, losses, n_resamples=40)
    for name in ("e", "alpha", "beta"):
        low, high = law.intervals[name]
        assert low < LAW[name] < high, name
        assert high > low
    np.testing.assert_allclose(law.residuals, np.log(losses / law.loss(sizes, amounts)), atol=1e-9)
    assert law.table["name"].to_list() == list(law.intervals)


def test_what_makes_no_difference_is_said_to_be_unknown():
    sizes, amounts = grid()
    law = fit_power_law(sizes, amounts, 1.5 + 3 / amounts**0.5, n_resamples=2)
    assert {"a", "alpha"} & set(law.at_bound)
    assert law.beta == pytest.approx(0.5, rel=0.05)


def test_nothing_is_extrapolated():
    sizes, amounts = grid()
    law = fit_power_law(sizes, amounts, losses_of(sizes, amounts), n_resamples=2)
    middle = np.array([400.0])
    assert law.loss(np.array([4e6]), middle) < law.loss(np.array([3e5]), middle)
    with pytest.raises(ValueError, match="fitted to 300000 to 4000000"):
        law.loss(np.array([1e9]), middle)
    with pytest.raises(ValueError, match="windows: fitted to 100 to 1600"):
        law.loss(np.array([1e6]), np.array([50.0]))


def test_too_few_sizes_or_amounts_have_no_law():
    sizes, amounts = grid(amounts=(100, 200))
    with pytest.raises(OpenclefError, match="5 sizes and 2 amounts of data"):
        fit_power_law(sizes, amounts, losses_of(sizes, amounts))


# --- the study ------------------------------------------------------------------------------------


def test_one_row_a_size_share_and_seed(data, found):
    runs = found.runs
    assert runs.select("size", "train_share").rows() == [(n, x) for n in SIZES for x in SHARES]
    assert runs["n_train_patients"].to_list() == [4, 10, 20] * 3
    assert (runs["n_train_windows"] >= runs["n_train_patients"]).all()
    assert runs["n_train_windows"][2] == len(data.tokens.rows("train"))
    assert runs["n_parameters"].is_sorted()
    assert (runs["n_table"] < runs["n_parameters"]).all()
    assert (runs["n_steps"] == 4).all()
    assert runs["cross_entropy"].n_unique() == runs.height
    assert (runs["cross_entropy_se"] > 0).all()
    assert runs["finding"].is_between(0, 1).all()
    np.testing.assert_allclose(runs["residual"], np.log(runs["cross_entropy"] / runs["fitted"]))


def test_operations_are_those_of_the_steps_taken(data, found):
    metrics = artefact.load(data.root / "out" / "tiny-8" / "1" / "0" / "encoder", kind="encoder")
    steps = [row for row in metrics.metrics() if row["split"] == "train"]
    row = found.runs.row(by_predicate=(pl.col("size") == "tiny-8") & (pl.col("train_share") == 1),
                         named=True)  # fmt: skip
    by_size = found.runs.filter(pl.col("train_share") == 1)["flops"].to_list()
    assert by_size == sorted(by_size)
    assert row["n_steps"] == len(steps)
    stage = for_tokens(get_encoder("tiny-8"), data.tokens)
    per_window = MaskedReconstruction(stage.model, stage.loss).flops_per_item
    assert row["flops"] == len(steps) * stage.train.batch_size * per_window


def test_the_papers_tables_are_of_all_data_and_of_the_largest(found):
    assert found.by_size["size"].to_list() == list(SIZES)
    assert (found.by_size["train_share"] == 1).all()
    assert found.by_data["train_share"].to_list() == list(SHARES)
    assert (found.by_data["size"] == SIZES[-1]).all()


def test_the_statement_tells_the_range_and_that_nothing_lies_beyond(found):
    least, most = found.runs["n_parameters"].min(), found.runs["n_parameters"].max()
    assert f"9 runs of {least:,} to {most:,} parameters" in found.statement
    assert "nothing is extrapolated" in found.statement
    assert found.statement in found.figure.caption


def test_seeds_are_means_with_a_deviation(data, found):
    again = study(data, data.root / "out", sizes=SIZES[:1], shares=[1.0], seeds=[0, 1])
    row, runs = again.summary.row(0, named=True), again.runs
    assert row["n_seeds"] == 2
    assert row["cross_entropy"] == pytest.approx(runs["cross_entropy"].mean())
    assert row["cross_entropy_sd"] == pytest.approx(runs["cross_entropy"].std())
    assert row["finding"] == pytest.approx(runs["finding"].mean())
    assert row["finding_low"] <= row["finding"] <= row["finding_high"]
    assert again.law is None
    assert "1 sizes and 1 amounts" in again.statement


def test_seeds_that_draw_other_patients_are_not_more_amounts_of_data(found):
    """Windows of a share differ by seed where patients have different numbers of them."""
    shares = found.runs.filter(pl.col("train_share") > min(SHARES))
    runs = pl.concat(
        shares.with_columns(pl.col("n_train_windows") + seed, seed=pl.lit(seed))
        for seed in range(3)
    )
    law, statement = _fit(runs)
    assert law is None
    assert "3 sizes and 2 amounts of data" in statement


def test_what_is_done_is_not_done_again(data, found):
    out = data.root / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = study(data, out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before
    assert again.runs.equals(found.runs)
    assert again.figure.data == found.figure.data


def test_findings_are_those_of_the_probe(data, found):
    config = BenchmarkConfig(
        protocol="split", min_held_out_patients=1, min_positives=5, categories=("finding",)
    )
    probing = Probing(data.cohort, data.root / "probed", config)
    area = probing.of(data.root / "out" / "tiny-32" / "0.5" / "0" / "moments--1").held_out[0, 0]
    row = found.runs.row(by_predicate=(pl.col("size") == "tiny-32")
                         & (pl.col("train_share") == 0.5), named=True)  # fmt: skip
    assert row["finding"] == pytest.approx(area)


def test_without_a_law_the_points_are_drawn_alone(found):
    with_law = draw(found.summary, found.law, "").data
    alone = draw(found.summary, None, "").data
    assert with_law[:8] == alone[:8] == b"\x89PNG\r\n\x1a\n"
    assert with_law != alone


def test_what_cannot_be_used_is_told_before_anything_is_trained(data):
    out = data.root / "refused"
    with pytest.raises(OpenclefError, match=r"share 1\.5 .* \(nearest: 1\)"):
        study(data, out, shares=[0.5, 1.5])
    with pytest.raises(OpenclefError, match="demo-patches reads or predicts more than codes"):
        study(data, out, sizes=["tiny-8", "demo-patches"])
    with pytest.raises(OpenclefError, match="no finding has 60 held-out patients"):
        study(data, out, min_positives=60)
    assert not out.exists()


def test_there_are_at_least_four_sizes_up_to_5_million():
    counts = []
    for name in WIDTHS:
        with torch.device("meta"):
            model = MaskedTransformer(get_encoder(name).model)
        counts.append(sum(p.numel() for p in model.parameters()))
    assert counts == [338_976, 796_672, 1_381_344, 2_092_992, 3_897_216]
    stages = [get_encoder(name) for name in WIDTHS]
    assert len({stage.train.model_dump_json() for stage in stages}) == 1  # the same steps


def test_the_command_writes_tables_and_a_figure(data, found):
    out = data.root / "command"
    command = ["reproduce", "scaling", str(data.cohort.folder), str(data.root / "tokens"), str(out)]
    settings = ["--size", "tiny-8", "--share", "0.5", "--share", "1", "--n-steps", "9"]
    done = CliRunner().invoke(app, [*command, *settings])
    assert done.exit_code == 0, done.output
    runs = pl.read_csv(out / "runs.csv")
    assert runs.select("train_share", "n_steps").rows() == [(0.5, 9), (1.0, 9)]
    # A share of the data that is small is at its best early: judged eight times a run, if it can.
    metrics = artefact.load(out / "tiny-8" / "0.5" / "0" / "encoder", kind="encoder").metrics()
    assert [row["step"] for row in metrics if row["split"] == "tuning"] == list(range(1, 10))
    assert pl.read_csv(out / "by_size.csv").height == 1
    assert pl.read_csv(out / "by_data.csv").height == 2
    assert not (out / "law.csv").exists()
    assert (out / "scaling.png").read_bytes()[:4] == b"\x89PNG"
    assert "No curve was fitted: 1 sizes and 2 amounts" in done.output
