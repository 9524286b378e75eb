"""The run's own part of the report: which weights it tells of, and which session it shows."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from openclef import artefact
from openclef.cohort import shards
from openclef.cohort.store import Cohort
from openclef.cohort.tables import WINDOWS
from openclef.recipes import figures
from openclef.tokenizer.token_table import fixed_lists
from tiny_clef import make_clef

# A first phase of small losses, which are of something else than those of the second.
METRICS = (
    {"step": 10, "split": "train", "loss": 0.3},
    {"step": 10, "split": "tuning", "loss": 0.2},
    {"step": 20, "split": "tuning", "loss": 1.7},
    {"step": 30, "split": "tuning", "loss": 1.5},
    {"step": 40, "split": "tuning", "loss": 1.6},
    {"step": 40, "split": "end", "best_step": 30, "best_loss": 1.5},
)


def write_stage(folder, kind, *, inputs, config=None, metrics=()):
    stage = artefact.begin(folder, kind=kind, config=config or {}, inputs=inputs)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return stage


def write_cohort(folder):
    """Three held-out sessions: S0 holds infinity, S1 and S2's first window show nothing."""
    stage = artefact.begin(folder, kind="cohort", config={}, inputs={})
    names = ["S0", "S1", "S2", "S2"]
    pl.DataFrame(
        {
            "session_id": ["S0", "S1", "S2"],
            "split": ["held_out"] * 3,
            "path": [f"{name}.edf" for name in ("S0", "S1", "S2")],
        }
    ).write_parquet(folder / "sessions.parquet")
    shards.create_array(folder / "spectrograms", n_rows=len(names))
    array, rng = zarr.open_array(folder / "spectrograms", mode="r+"), np.random.default_rng(0)
    rows = []
    for row, name in enumerate(names):
        power_db = rng.normal(scale=10, size=(19, 128, 1280)).astype(np.float16)
        power_db[0, 0, 0] = np.inf if row == 0 else 0
        array[row] = power_db
        n_shown = 0 if row in {1, 2} else 300
        rows.append(
            {
                "row": row, "session_id": name, "window": int(row == 3),
                "start_s": 1280.0 * (row == 3), "channel_mask": [False] * 19,
                "time_mask": (np.arange(1280) >= n_shown).tolist(), "hash": str(row),
            }
        )  # fmt: skip
    pl.DataFrame(rows, schema=WINDOWS).write_parquet(folder / "windows.parquet")
    stage.finish(["sessions.parquet", "windows.parquet"])
    return Cohort(folder)


def write_tokens(folder, cohort, grid, *, n_shown):
    """n_shown: columns visible of the last window; the others show none."""
    n_regions, _, n_columns = grid
    inputs = {"cohort": cohort.hash, "tokenizer": "t"}
    config = {"grid": list(grid), "n_codes": 16, "n_quantisers": 1}
    stage = artefact.begin(folder, kind="tokens", inputs=inputs, config=config)
    valid = np.zeros((4, n_regions, n_columns), bool)
    valid[3, :, :n_shown] = True
    table = pa.table(
        {
            "session_id": cohort.windows["session_id"].to_list(),
            "window": cohort.windows["window"].to_list(),
            "start_s": cohort.windows["start_s"].to_list(),
            "ids": fixed_lists(np.zeros((4, int(np.prod(grid))), np.uint16)),
            "valid": fixed_lists(valid),
            "error": ["NaN or infinite values", None, None, None],
        }
    )
    pq.write_table(table, folder / "part-00000.parquet")
    stage.finish(["part-00000.parquet"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder but for its tokens, its cohort, and the grid of its tokens."""
    out = tmp_path_factory.mktemp("run")
    cohort = write_cohort(out / "cohort")
    write_stage(out / "tokenizer", "tokenizer", inputs={}, metrics=METRICS).finish([])
    # Without tuning patients there is no best step.
    end = {"step": 4, "split": "end", "best_step": None, "best_loss": None}
    rows = [METRICS[0], end]
    write_stage(out / "encoder", "encoder", inputs={}, metrics=rows).finish([])
    clef = make_clef(strides=((8, 10), (4, 2)))
    clef.save_pretrained(out / "model")
    return SimpleNamespace(out=out, cohort=cohort, grid=clef.config.encoder.grid)


def sections_of(run, out):
    """With the tokens in `out`, where the rest is linked to."""
    for name in ("tokenizer", "encoder", "model"):
        (out / name).symlink_to(run.out / name)
    return figures.sections(SimpleNamespace(root=out), run.cohort, out)


@pytest.mark.filterwarnings("error")
def test_the_weights_kept_are_told_and_the_first_window_that_can_be_is_shown(run, tmp_path):
    write_tokens(tmp_path / "tokens", run.cohort, run.grid, n_shown=15)
    training, session = sections_of(run, tmp_path)
    assert "tokenizer: loss 1.500 on tuning patients at step 30." in training.text
    assert "encoder: loss" not in training.text
    assert session.text.startswith("Session S2, of a held-out patient: 19 of 19 channels, 300 s")
    assert "no longer there to draw" in session.text
    assert len(session.figures) == 1


def test_without_a_window_to_show_the_section_says_so(run, tmp_path):
    write_tokens(tmp_path / "tokens", run.cohort, run.grid, n_shown=0)
    _, session = sections_of(run, tmp_path)
    assert "No window of a held-out patient has a visible token" in session.text
    assert not session.figures
