import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from openclef.benchmark import information
from openclef.benchmark.laterality import true_sides
from openclef.cli import app
from openclef.cohort.engine import LocalEngine
from openclef.cohort.ingest import IngestConfig, ingest
from openclef.cohort.layouts import read_source
from openclef.cohort.splits import SplitConfig
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.recipes import ablation as recipe
from openclef.recipes.ablation import ablate_tokenizers, summarise
from openclef.recipes.tokenizers import TOKENIZERS, get_tokenizer
from openclef.simulate import SimulationConfig, simulate
from openclef.tokenizer import evaluate
from openclef.tokenizer.train import load_tokenizer


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """(root, cohort) of 150 patients."""
    root = tmp_path_factory.mktemp("ablation")
    config = SimulationConfig(n_patients=150, seed=5, shortest_s=64, longest_s=64)
    simulate(root / "hospital", config=config, n_workers=2, progress=False)
    splits = SplitConfig(train=0.1, probe=0.4, tuning=0.15, held_out=0.35)
    ingest(
        read_source(root / "hospital"), root / "cohort", config=IngestConfig(splits=splits),
        engine=LocalEngine(n_workers=2), progress=False,
    )  # fmt: skip
    return root, Cohort(root / "cohort")


@pytest.fixture(scope="module")
def ablation(hospital):
    """(cohort, folder, found) of two seeds of the tiny tokenizer."""
    root, cohort = hospital
    return cohort, root / "out", ablate(cohort, root / "out")


@pytest.fixture(scope="module")
def real(hospital):
    """Another cohort, of a few windows."""
    root, cohort = hospital
    shutil.copytree(cohort.folder, root / "real")
    cohort.windows.head(9).write_parquet(root / "real" / "windows.parquet")
    return Cohort(root / "real")


def sides_of(cohort):
    """A side for every patient: of true ones so small a cohort has too few."""
    return cohort.sessions.select("session_id", is_left=pl.col("subject_id").rank("dense") % 2 == 0)


def ablate(cohort, out, seeds=(0, 1), **more):
    return ablate_tokenizers(
        cohort, out, names=["tiny"], seeds=seeds, sides=sides_of(cohort), min_positives=5, **more
    )


def test_true_sides_are_those_of_sessions_that_have_focal_slowing(hospital):
    root, cohort = hospital
    sides = true_sides(root / "hospital", cohort)
    assert 5 < sides.height < cohort.sessions.height / 2
    assert set(sides["is_left"]) == {True, False}
    assert sides["session_id"].is_in(cohort.sessions["session_id"].to_list()).all()
    assert sides.schema == pl.Schema({"session_id": pl.String, "is_left": pl.Boolean})


def test_one_row_a_tokenizer_and_seed_and_one_of_the_original(ablation):
    table = ablation[2].runs
    assert table["tokenizer"].to_list() == ["original", "tiny", "tiny"]
    assert table["seed"].to_list() == [None, 0, 1]
    trained = table[1:]
    assert trained["residual_r2"].n_unique() == 2  # seeds differ
    assert (trained["mean_r2"] < 1).all()
    assert (trained["bits"] == 2048 * 6).all()  # 64 codes
    for name in ("mean_r2", "residual_r2", "mean_r2_difference", "kept", "side_vs_original"):
        assert (trained[f"{name}_low"] <= trained[name]).all()
        assert (trained[name] <= trained[f"{name}_high"]).all()
    assert (trained["n_tasks"] >= 1).all()
    assert table["side_auroc"].is_between(0, 1).all()
    assert (trained["mean_r2_difference"] == 0).all()  # each seed is its own baseline


def test_r2_is_about_the_same_mean_spectrum_for_all(ablation):
    cohort, out, found = ablation
    mean_db = np.load(out / "reference.npy")
    np.testing.assert_array_equal(mean_db, evaluate.train_mean_db(cohort))
    kept = [evaluate.load_fidelity(out / "tiny" / seed / "fidelity.npz") for seed in "01"]
    np.testing.assert_array_equal(kept[0].residual_variance, kept[1].residual_variance)
    assert kept[0].rows.tolist() == cohort.rows("held_out").tolist()
    assert found.runs["residual_r2"].to_list()[1:] == pytest.approx([k.residual_r2 for k in kept])


def test_the_summary_is_of_seeds():
    runs = pl.DataFrame(
        {
            "tokenizer": ["original", "a", "a", "b"], "seed": [None, 0, 1, 0],
            "kept": [None, 0.9, 0.7, 0.5], "kept_low": [None, 0.8, 0.6, 0.4],
        }
    )  # fmt: skip
    found = summarise(runs)
    assert found.columns == ["tokenizer", "n_seeds", "kept", "kept_sd", "kept_low"]
    assert found["tokenizer"].to_list() == ["original", "a", "b"]
    assert found["n_seeds"].to_list() == [0, 2, 1]
    assert found.row(1)[2:] == pytest.approx((0.8, np.std([0.9, 0.7], ddof=1), 0.7))
    assert found["kept_sd"].to_list()[::2] == [None, None]


def test_what_is_done_is_not_done_again(ablation):
    cohort, out, found = ablation
    kept = [out / "tiny/0/tokenizer/tokenizer.safetensors", out / "tiny/0/fidelity.npz"]
    before = [path.stat().st_mtime_ns for path in kept]
    again = ablate(cohort, out)
    assert again.runs.equals(found.runs)
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_run_killed_before_it_wrote_what_it_measured_measures_again(ablation):
    cohort, out, _ = ablation
    path = out / "tiny" / "1" / "fidelity.npz"
    before = evaluate.load_fidelity(path).by_window
    path.unlink()
    ablate(cohort, out)
    np.testing.assert_allclose(evaluate.load_fidelity(path).by_window, before)


def test_other_cohorts_are_measured_about_the_mean_spectrum_of_the_one_trained_on(ablation, real):
    cohort, out, found = ablation
    table = ablate(cohort, out, also=[real]).elsewhere
    assert table["cohort"].to_list() == ["real", "real"]
    assert table["seed"].to_list() == [0, 1]
    assert (table["n_windows"] == 9).all()
    expected = evaluate.measure(
        tokenizer := load_tokenizer(out / "tiny" / "0" / "tokenizer"),
        evaluate.decode_windows(tokenizer, real, np.arange(9)),
        mean_db=np.load(out / "reference.npy"),
    )
    first = table.row(0, named=True)
    assert first["residual_r2"] == pytest.approx(expected.residual_r2)
    assert first["mean_correlation"] == pytest.approx(expected.mean_correlation)
    assert first["mean_r2_low"] <= first["mean_r2"] <= first["mean_r2_high"]
    assert found.elsewhere.is_empty()
    with pytest.raises(OpenclefError, match="share one"):
        ablate(cohort, out, also=[cohort, cohort])


def test_the_original_taken_for_what_is_decoded_keeps_everything(ablation, monkeypatch):
    cohort, out, _ = ablation
    shutil.copytree(out / "tiny/0/tokenizer", out.with_name("exact") / "tiny/0/tokenizer")
    shutil.copytree(out / "original", out.with_name("exact") / "original")

    def exact(tokenizer, cohort, rows, **more):
        ids, hidden = np.zeros((1, 8, 256, 1), np.int64), np.zeros((1, 256), bool)
        for row in rows:
            window = cohort.spectrogram(row)
            clamped = window.power_db.clip(-40, 40)
            yield evaluate.Decoded(int(row), replace(window), clamped, ids, hidden)

    for module in (information, recipe):
        monkeypatch.setattr(module, "decode_windows", exact)
    found = ablate(cohort, out.with_name("exact"), seeds=[0]).runs.row(1, named=True)
    for name in ("mean_r2", "residual_r2", "mean_correlation", "residual_correlation"):
        assert found[name] == pytest.approx(1, abs=1e-6)
    assert [found[f"kept{bound}"] for bound in ("", "_low", "_high")] == [1, 1, 1]
    assert [found[f"side_vs_original{bound}"] for bound in ("", "_low", "_high")] == [0, 0, 0]
    assert (found["mae_db"], found["residual_r2_ratio"]) == (0, 1)


def test_every_tokenizer_is_valid_and_differs_from_small():
    stages = {name: get_tokenizer(name) for name in TOKENIZERS}
    assert all(stage.model.n_tokens == 2048 for stage in stages.values())
    others = [s for name, s in stages.items() if name.startswith("small-")]
    assert len({stage.model_dump_json() for stage in [*others, stages["small"]]}) == len(others) + 1


def test_a_misspelt_tokenizer_names_the_nearest():
    with pytest.raises(OpenclefError, match="small-quadrants"):
        get_tokenizer("small-quadrant")


def test_the_command_writes_the_tables(ablation, real):
    cohort, out, _ = ablation
    target = out.with_name("command")
    shutil.copytree(out, target, ignore=shutil.ignore_patterns("benchmark"))
    command = ["reproduce", "tokenizer", str(cohort.folder), str(target), "--recipe", "tiny"]
    done = CliRunner().invoke(app, [*command, "--also", str(real.folder)])
    assert done.exit_code == 0, done.output
    names = {name: pl.read_csv(target / f"{name}.csv")["tokenizer"].to_list()
             for name in ("tokenizers", "summary", "elsewhere")}  # fmt: skip
    assert names == {
        "tokenizers": ["original", "tiny"], "summary": ["original", "tiny"], "elsewhere": ["tiny"],
    }  # fmt: skip


def test_too_few_patients_are_told_before_anything_is_trained(hospital):
    root, cohort = hospital
    settings = {"names": ["tiny"], "seeds": [0]}
    with pytest.raises(OpenclefError, match="no finding has 60 held-out patients"):
        ablate_tokenizers(cohort, root / "few", **settings, min_positives=60)
    few = sides_of(cohort).head(20)
    with pytest.raises(OpenclefError, match=r"split \w+ has \d+ patients with slowing on the left"):
        ablate_tokenizers(cohort, root / "few", **settings, min_positives=5, sides=few)
    assert not (root / "few").exists()
