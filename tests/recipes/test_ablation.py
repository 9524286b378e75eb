import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from openclef import artefact
from openclef.benchmark import information
from openclef.benchmark.laterality import true_sides
from openclef.benchmark.statistics import AurocBootstrap
from openclef.cli import app
from openclef.cohort.engine import LocalEngine
from openclef.cohort.ingest import IngestConfig, ingest
from openclef.cohort.layouts import read_source
from openclef.cohort.splits import SplitConfig
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.recipes import ablation as recipe
from openclef.recipes.ablation import BASELINE, REFERENCE, ablate_tokenizers, summarise
from openclef.recipes.recipe import changed
from openclef.recipes.tokenizers import TOKENIZERS, get_tokenizer
from openclef.simulate import SimulationConfig, simulate
from openclef.tokenizer import evaluate
from openclef.tokenizer.train import load_tokenizer


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """(root, cohort) of 90 patients."""
    root = tmp_path_factory.mktemp("ablation")
    config = SimulationConfig(n_patients=90, seed=5, shortest_s=64, longest_s=64)
    simulate(root / "hospital", config=config, n_workers=2, progress=False)
    splits = SplitConfig(train=0.1, probe=0.25, tuning=0.15, held_out=0.5)
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
    """Another cohort, of a few windows of other people."""
    return other_cohort(hospital, "real", shift=1000)


def other_cohort(hospital, name, *, shift, config=None, inputs=None):
    """The first nine windows of the cohort, every patient's number shifted."""
    root, cohort = hospital
    folder = root / name
    stage = artefact.begin(folder, kind="cohort", config=config or {}, inputs=inputs or {})
    sessions = cohort.sessions.with_columns(pl.col("subject_id") + shift)
    sessions.write_parquet(folder / "sessions.parquet")
    cohort.windows.head(9).write_parquet(folder / "windows.parquet")
    (folder / "spectrograms").symlink_to(cohort.folder / "spectrograms")
    stage.finish(["sessions.parquet", "windows.parquet"])
    return Cohort(folder)


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


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
    mean_db = np.load(out / f"reference-{cohort.hash[:12]}.npy")
    np.testing.assert_array_equal(mean_db, evaluate.train_mean_db(cohort))
    kept = [evaluate.load_fidelity(only(out / "tiny" / seed, "fidelity-*")) for seed in "01"]
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
    kept = [out / "tiny/0/tokenizer/tokenizer.safetensors", only(out / "tiny/0", "fidelity-*")]
    before = [path.stat().st_mtime_ns for path in kept]
    again = ablate(cohort, out)
    assert again.runs.equals(found.runs)
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_run_killed_before_it_wrote_what_it_measured_measures_again(ablation):
    cohort, out, _ = ablation
    path = only(out / "tiny" / "1", "fidelity-*")
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
        mean_db=np.load(only(out, "reference-*")),
    )
    first = table.row(0, named=True)
    assert first["residual_r2"] == pytest.approx(expected.residual_r2)
    assert first["mean_correlation"] == pytest.approx(expected.mean_correlation)
    assert first["mean_r2_low"] <= first["mean_r2"] <= first["mean_r2_high"]
    assert found.elsewhere.is_empty()
    with pytest.raises(OpenclefError, match="share one"):
        ablate(cohort, out, also=[real, real])


def test_a_tokenizer_trained_anew_is_measured_anew(ablation, real, monkeypatch):
    cohort, out, found = ablation
    target = out.with_name("anew")
    shutil.copytree(out, target)
    ablate(cohort, target, seeds=[0], also=[real])  # of the old one, kept
    for name in ("tokenizer", "decoded", "benchmark"):
        shutil.rmtree(target / "tiny" / "0" / name)
    tiny = get_tokenizer("tiny")
    shorter = changed(tiny, train=changed(tiny.train, n_steps=2))
    monkeypatch.setitem(TOKENIZERS, "tiny", lambda: shorter)
    again = ablate(cohort, target, seeds=[0], also=[real])
    new, mean_db = (
        load_tokenizer(target / "tiny" / "0" / "tokenizer"),
        evaluate.train_mean_db(cohort),
    )

    def measured(data, rows):
        return evaluate.measure(new, evaluate.decode_windows(new, data, rows), mean_db=mean_db)

    elsewhere = measured(real, real.rows())
    assert again.elsewhere["residual_r2"].to_list() == pytest.approx([elsewhere.residual_r2])
    kept = [evaluate.load_fidelity(x) for x in (target / "tiny" / "0").glob("fidelity-*")]
    (kept,) = [
        one for one in kept if one.residual_r2 == pytest.approx(again.runs["residual_r2"][1])
    ]
    first = measured(cohort, cohort.rows("held_out")[:4])
    np.testing.assert_allclose(kept.by_window[:4], first.by_window)
    assert again.runs["residual_r2"][1] != pytest.approx(found.runs["residual_r2"][1])


def test_patients_trained_on_are_not_measured_elsewhere(hospital, ablation, real):
    root, cohort = hospital
    train = cohort.sessions.filter(pl.col("split") == "train")["subject_id"].n_unique()
    total = cohort.sessions["subject_id"].n_unique()

    def refuse(other, message):
        with pytest.raises(OpenclefError, match=message):
            ablate(cohort, root / "leaking", also=[real, other])
        assert not (root / "leaking").exists()

    refuse(cohort, "is the cohort trained on.*leave it out")
    shared = f"{train} of its {total} patients have the subject_id of a train .*give a cohort with"
    refuse(other_cohort(hospital, "same", shift=0), shared)
    # In some layouts a number is somebody else in another data set, and only there.
    counted = {"layout": "folder"}
    fine = other_cohort(hospital, "counted", shift=0, config=counted)
    recipe._check_also(cohort, [real, fine])
    source = {"source": cohort.artefact.inputs["source"]}
    twice = other_cohort(hospital, "twice", shift=0, config=counted, inputs=source)
    refuse(twice, shared)


def test_the_original_taken_for_what_is_decoded_keeps_everything(ablation, monkeypatch):
    cohort, out, _ = ablation
    shutil.copytree(out / "tiny/0/tokenizer", out.with_name("exact") / "tiny/0/tokenizer")
    shutil.copytree(out / "original", out.with_name("exact") / "original")
    shutil.copy(out / "config.json", out.with_name("exact"))

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

    def ask(*more):
        done = CliRunner().invoke(app, [*command, *more])
        assert done.exit_code == 0, done.output
        return done.output

    def seeds(folder):
        return pl.read_csv(folder / "tokenizers.csv")["seed"].to_list()

    # More runs take the tables' place, and what is not asked for now does not stay beside them.
    ask("--seed", "0", "--seed", "1")
    assert seeds(target) == [None, 0, 1]
    assert not (target / "elsewhere.csv").exists()
    before = {path: path.read_bytes() for path in target.glob("*.csv")}
    # Fewer do not: they go elsewhere, and again to the same place.
    output = ask("--seed", "1", "--also", str(real.folder))
    assert "keeps its tables, which have 1 rows of other runs" in output
    assert {path: path.read_bytes() for path in target.glob("*.csv")} == before
    aside = only(target, "tables-*")
    assert str(aside / "summary.csv") in output
    assert seeds(aside) == [None, 1]
    assert pl.read_csv(aside / "elsewhere.csv")["seed"].to_list() == [1]
    ask("--seed", "1")
    assert not (only(target, "tables-*") / "elsewhere.csv").exists()


def test_a_folder_of_somebody_else_is_refused(ablation, hospital, tmp_path):
    cohort, out, _ = ablation
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.csv").write_text("precious")
    with pytest.raises(OpenclefError, match="not empty and not an openclef artefact"):
        ablate(cohort, tmp_path / "mine", seeds=[0])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["summary.csv"]
    assert json.loads((out / "config.json").read_text()) == {
        "kind": "reproduction", "config": {"verb": "tokenizer"}, "inputs": {"cohort": cohort.hash},
    }  # fmt: skip
    for verb, number, message in (
        ("encoder", cohort.hash, "config.verb: 'encoder' there, 'tokenizer' asked"),
        ("tokenizer", "0123", "inputs.cohort: '0123' there"),
    ):
        other = tmp_path / verb
        artefact.begin(other, kind="reproduction", config={"verb": verb}, inputs={"cohort": number})
        with pytest.raises(OpenclefError, match=message):
            ablate(cohort, other, seeds=[0])
        assert [path.name for path in other.iterdir()] == ["config.json"]


# --- against the baseline --------------------------------------------------------------------


def fidelity(*, mean_r2, residual_r2, weights=(1.0, 3.0, 2.0, 5.0)):
    """Of four windows, each explained alike: so every resample of patients has the same R2."""
    variance = np.array(weights)
    parts = [(1 - mean_r2) * variance, variance, (1 - residual_r2) * variance, variance]
    cells = {
        f"{part}_{what}": np.ones((19, 4))
        for part in ("mean", "residual") for what in ("error", "variance", "decoded")
    }  # fmt: skip
    return evaluate.Fidelity(
        n=np.ones((19, 4)), absolute_db=np.ones((19, 4)), squared_db=np.ones((19, 4)), **cells,
        code_counts=np.ones((1, 8), int), rows=np.arange(4), by_window=np.stack(parts, axis=1),
    )  # fmt: skip


# Two patients, of one session and of two.
PEOPLE = SimpleNamespace(
    windows=pl.DataFrame({"row": [0, 1, 2, 3], "session_id": ["a", "b", "c", "c"]}),
    sessions=pl.DataFrame({"session_id": ["a", "b", "c"], "subject_id": [1, 2, 2]}),
)


def test_a_run_is_compared_with_the_baselines_run_of_the_same_seed():
    runs = {
        ("other", 1): fidelity(mean_r2=0.7, residual_r2=0.6),
        ("base", 0): fidelity(mean_r2=0.5, residual_r2=0.2),
        ("other", 0): fidelity(mean_r2=0.4, residual_r2=0.5),
        ("base", 1): fidelity(mean_r2=0.6, residual_r2=0.4),
    }
    found = recipe._explained(PEOPLE, runs, "base")
    assert list(found) == list(runs)

    def told(run, name):
        return [found[run][f"{name}{bound}"] for bound in ("", "_low", "_high")]

    for run, mean_r2, residual_r2, difference, ratio in (
        (("base", 0), 0.5, 0.2, 0, 1), (("other", 0), 0.4, 0.5, -0.1, 2.5),
        (("base", 1), 0.6, 0.4, 0, 1), (("other", 1), 0.7, 0.6, 0.1, 1.5),
    ):  # fmt: skip
        assert told(run, "mean_r2") == pytest.approx([mean_r2] * 3)
        assert told(run, "residual_r2") == pytest.approx([residual_r2] * 3)
        assert told(run, "mean_r2_difference") == pytest.approx([difference] * 3)
        assert told(run, "residual_r2_ratio") == pytest.approx([ratio] * 3)


def test_sides_are_compared_with_the_original_and_the_baselines_run_of_the_same_seed(monkeypatch):
    areas = {REFERENCE: 0.9, "other/1": 0.8, "base/0": 0.6, "other/0": 0.7, "base/1": 0.85}
    value = np.array(list(areas.values()))
    result = AurocBootstrap(value, np.stack([value - 0.01, value + 0.01], axis=1))
    monkeypatch.setattr(recipe, "probe_sides", lambda *_: (list(areas), result))
    found = recipe._sides(None, [], None, "base")
    assert {name: columns["side_auroc"] for name, columns in found.items()} == areas
    assert not any(name.startswith("side_vs") for name in found[REFERENCE])
    for name, original, baseline in (
        ("base/0", -0.3, 0), ("other/0", -0.2, 0.1), ("base/1", -0.05, 0), ("other/1", -0.1, -0.05),
    ):  # fmt: skip
        for against, expected in (("original", original), ("baseline", baseline)):
            told = [found[name][f"side_vs_{against}{bound}"] for bound in ("", "_low", "_high")]
            assert told == pytest.approx([expected] * 3)  # the same in every resample


def test_the_baseline_is_plain_l1_or_else_the_first():
    assert recipe._baseline(["small", BASELINE, "demo"]) == BASELINE
    assert recipe._baseline(["small", "demo"]) == "small"


def test_too_few_patients_are_told_before_anything_is_trained(hospital):
    root, cohort = hospital
    settings = {"names": ["tiny"], "seeds": [0]}
    with pytest.raises(OpenclefError, match="no finding has 60 held-out patients"):
        ablate_tokenizers(cohort, root / "few", **settings, min_positives=60)
    few = sides_of(cohort).head(20)
    with pytest.raises(OpenclefError, match=r"split \w+ has \d+ patients with slowing on the left"):
        ablate_tokenizers(cohort, root / "few", **settings, min_positives=5, sides=few)
    assert not (root / "few").exists()
