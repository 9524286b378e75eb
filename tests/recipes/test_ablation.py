import polars as pl
import pytest
from typer.testing import CliRunner

from openclef.cli import app
from openclef.cohort.engine import LocalEngine
from openclef.cohort.ingest import IngestConfig, ingest
from openclef.cohort.layouts import read_source
from openclef.cohort.splits import SplitConfig
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.recipes.ablation import ablate_tokenizers, true_sides
from openclef.recipes.tokenizers import TOKENIZERS, get_tokenizer
from openclef.simulate import SimulationConfig, simulate


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """(cohort, true sides, folder, table) of two seeds of the tiny tokenizer."""
    root = tmp_path_factory.mktemp("ablation")
    config = SimulationConfig(n_patients=150, seed=5, shortest_s=64, longest_s=64)
    simulate(root / "hospital", config=config, n_workers=2, progress=False)
    splits = SplitConfig(train=0.1, probe=0.4, tuning=0.15, held_out=0.35)
    ingest(
        read_source(root / "hospital"), root / "cohort", config=IngestConfig(splits=splits),
        engine=LocalEngine(n_workers=2), progress=False,
    )  # fmt: skip
    cohort = Cohort(root / "cohort")
    sides = true_sides(root / "hospital", cohort)
    return cohort, sides, root / "out", ablate(cohort, sides, root / "out")


def ablate(cohort, sides, out):
    return ablate_tokenizers(
        cohort, out, names=["tiny"], seeds=[0, 1], sides=sides, min_positives=5
    )


def test_true_sides_are_those_of_sessions_that_have_focal_slowing(ablation):
    cohort, sides, *_ = ablation
    assert 5 < sides.height < cohort.sessions.height / 2
    assert set(sides["is_left"]) == {True, False}
    assert sides["session_id"].is_in(cohort.sessions["session_id"].to_list()).all()


def test_one_row_a_tokenizer_and_seed_and_one_of_the_original(ablation):
    table = ablation[3]
    assert table["tokenizer"].to_list() == ["original", "tiny", "tiny"]
    assert table["seed"].to_list() == [None, 0, 1]
    trained = table[1:]
    assert trained["residual_r2"].n_unique() == 2  # seeds differ
    assert (trained["mean_r2"] < 1).all()
    assert (trained["kept_low"] <= trained["kept"]).all()
    assert (trained["kept"] <= trained["kept_high"]).all()
    assert (trained["n_tasks"] >= 1).all()
    assert table["side_auroc"].is_between(0, 1).all()


def test_what_is_done_is_not_done_again(ablation):
    cohort, sides, out, table = ablation
    weights = out / "tiny" / "0" / "tokenizer" / "tokenizer.safetensors"
    before = weights.stat().st_mtime_ns
    again = ablate(cohort, sides, out)
    assert again.equals(table)
    assert weights.stat().st_mtime_ns == before


def test_every_tokenizer_is_valid_and_differs_from_small():
    stages = {name: get_tokenizer(name) for name in TOKENIZERS}
    assert all(stage.model.n_tokens == 2048 for stage in stages.values())
    others = [s for name, s in stages.items() if name.startswith("small-")]
    assert len({stage.model_dump_json() for stage in [*others, stages["small"]]}) == len(others) + 1


def test_a_misspelt_tokenizer_names_the_nearest():
    with pytest.raises(OpenclefError, match="small-quadrants"):
        get_tokenizer("small-quadrant")


def test_the_command_writes_the_table(ablation):
    cohort, _, out = ablation[:3]
    out = out.with_name("command")
    done = CliRunner().invoke(
        app, ["reproduce", "tokenizer", str(cohort.folder), str(out), "--recipe", "tiny"]
    )
    assert done.exit_code == 0, done.output
    assert pl.read_csv(out / "tokenizers.csv")["tokenizer"].to_list() == ["original", "tiny"]


def test_too_few_patients_of_every_finding_are_told(ablation):
    cohort, _, out = ablation[:3]
    with pytest.raises(OpenclefError, match="no finding has 60 held-out patients"):
        ablate_tokenizers(cohort, out.with_name("few"), names=["tiny"], seeds=[0], min_positives=60)


def test_sides_need_no_more_than_the_truth_table(ablation):
    _, sides, *_ = ablation
    assert sides.schema == pl.Schema({"session_id": pl.String, "is_left": pl.Boolean})
