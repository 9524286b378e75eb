"""Train tokenizers that differ in one thing, and tell what each keeps; nothing is run twice.

Each variant and seed: what is explained of the channels' mean and of their residuals from it, how
the codes are used, which share of the findings' AUROC above chance a linear probe keeps, and, if
the truth of a simulated hospital is given, whether a probe still tells the side of focal slowing.
Whatever is reported is of held-out patients; probes are fitted on probe patients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from openclef.artefact import write_json
from openclef.benchmark.embeddings import load_models
from openclef.benchmark.information import Share, embed_decoded, share_above_chance
from openclef.benchmark.probe import ProbeConfig, split_scores
from openclef.benchmark.rivals.handcrafted import embed_handcrafted
from openclef.benchmark.runner import BenchmarkConfig, benchmark
from openclef.benchmark.statistics import bootstrap_auroc
from openclef.benchmark.tasks import EXCLUDED
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.recipes.recipe import changed
from openclef.recipes.tokenizers import get_tokenizer
from openclef.tokenizer.evaluate import Fidelity, decode_windows, measure
from openclef.tokenizer.train import load_tokenizer, train_tokenizer
from openclef.types import CHANNELS

REFERENCE = "spectrum_mean_sd"
# Homologous channels, left before right.
_LEFT = [CHANNELS.index(name) for name in ("Fp1", "F7", "F3", "T3", "C3", "T5", "P3", "O1")]
_RIGHT = [CHANNELS.index(name) for name in ("Fp2", "F8", "F4", "T4", "C4", "T6", "P4", "O2")]


def ablate_tokenizers(
    cohort: Cohort,
    out: Path,
    *,
    names: Sequence[str],
    seeds: Sequence[int],
    sides: pl.DataFrame | None = None,
    min_positives: int = 15,
    say: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """Train every tokenizer of `names` with every seed in `out/<name>/<seed>/`, and compare.

    Parameters
    ----------
    cohort : with findings among its labels.
    out : folder; what is complete there is not done again.
    names : of `TOKENIZERS`.
    seeds : of the training.
    sides : columns `session_id` and `is_left`, of sessions with slowing on one side; see
        `true_sides`.
    min_positives : patients of either class that a finding needs among the held-out ones.
    say : told what comes next.

    Returns
    -------
    One row a tokenizer and seed: `tokenizer, seed, n_tokens, usage, perplexity, mean_r2,
    residual_r2, mae_db, kept, kept_low, kept_high, n_tasks`, and with `sides`: `side_auroc,
    side_low, side_high`. The first row, `original`, is the spectrogram itself.
    """
    runs = [(name, seed) for name in names for seed in seeds]
    stages = {(name, seed): get_tokenizer(name) for name, seed in runs}
    embeddings = [folder for folder in embed_handcrafted(cohort, out / "original")
                  if folder.name == REFERENCE]  # fmt: skip
    fidelity: dict[tuple[str, int], dict[str, Any]] = {}
    for (name, seed), stage in stages.items():
        folder = out / name / str(seed)
        say(f"{name}, seed {seed}")
        seeded = changed(stage, train=changed(stage.train, seed=seed))
        train_tokenizer(cohort, folder / "tokenizer", config=seeded)
        fidelity[name, seed] = _fidelity(cohort, folder)
        model = f"{name}/{seed}"
        embed_decoded(cohort, folder / "tokenizer", folder / "decoded", model=model)
        embeddings.append(folder / "decoded")
    probed = _probe_findings(cohort, embeddings, min_positives)
    sided = _probe_sides(cohort, embeddings, sides) if sides is not None else {}
    patients = dict(cohort.sessions.select("session_id", "subject_id").iter_rows())
    tasks = probed["task"].unique().sort().to_list()
    if not tasks:
        raise OpenclefError(
            f"{cohort.folder}: no finding has {min_positives} held-out patients with it and "
            "without it; more patients are needed"
        )
    rows: list[dict[str, Any]] = [
        {"tokenizer": "original", "seed": None} | sided.get(REFERENCE, {})
    ]
    for (name, seed), measured in fidelity.items():
        model = f"{name}/{seed}"
        kept = share_above_chance(probed, patients, model=model, reference=REFERENCE, tasks=tasks)
        rows.append(
            {"tokenizer": name, "seed": seed} | measured | _kept(kept) | sided.get(model, {})
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def true_sides(hospital: Path, cohort: Cohort) -> pl.DataFrame:
    """Sessions whose focal slowing is on one side, from the truth of a simulated hospital."""
    truth = pl.read_parquet(hospital / "truth" / "sessions.parquet")
    keys = cohort.sessions.select(
        "session_id",
        participant_id=pl.col("path").str.extract(r"(sub-[^/_]+)"),
        name=pl.col("path").str.extract(r"(ses-[^/_]+)"),
    )
    joined = keys.join(
        truth, left_on=["participant_id", "name"], right_on=["participant_id", "session_id"]
    )
    side = pl.col("focal_slowing_side")
    return joined.filter(side.is_in(["left", "right"])).select("session_id", is_left=side == "left")


def _fidelity(cohort: Cohort, folder: Path) -> dict[str, Any]:
    """What `measure` finds on held-out sessions, kept in `fidelity.json`."""
    path = folder / "fidelity.json"
    if not path.exists():
        tokenizer = load_tokenizer(folder / "tokenizer")
        windows = decode_windows(tokenizer, cohort, cohort.rows("held_out"))
        write_json(path, _numbers(measure(tokenizer, windows)))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _numbers(fidelity: Fidelity) -> dict[str, Any]:
    return {
        "n_tokens": fidelity.n_tokens,
        "usage": min(fidelity.usage),
        "perplexity": min(fidelity.perplexity),
        "mean_r2": fidelity.mean_r2,
        "residual_r2": fidelity.residual_r2,
        "mae_db": float(fidelity.absolute_db.sum() / fidelity.n.sum()),
    }


def _kept(share: Share) -> dict[str, Any]:
    return {
        "kept": share.value, "kept_low": share.low, "kept_high": share.high,
        "n_tasks": share.n_tasks,
    }  # fmt: skip


def _probe_findings(cohort: Cohort, embeddings: Sequence[Path], min_positives: int) -> pl.DataFrame:
    """Predictions of the findings on held-out sessions, two models at a time: each is kept."""
    reference, *others = embeddings
    tables: list[pl.DataFrame] = []
    for folder in others:
        target = folder.parent / "benchmark"
        benchmark(
            cohort.folder,
            [folder, reference],
            target,
            config=BenchmarkConfig(
                categories=("finding",),
                protocol="split",
                min_held_out_patients=1,
                min_positives=min_positives,
                n_resamples=100,
            ),
        )
        predictions = pl.read_parquet(target / "predictions.parquet")
        # The reference's are the same each time.
        tables.append(
            predictions if not tables else predictions.filter(pl.col("model") != REFERENCE)
        )
    return pl.concat(tables)


def _probe_sides(
    cohort: Cohort, embeddings: Sequence[Path], sides: pl.DataFrame
) -> dict[str, dict[str, Any]]:
    """AUROC of left against right from left-minus-right differences of mean and deviation."""
    index = cohort.sessions.select("session_id", "split", "subject_id").join(
        sides, on="session_id", how="left", maintain_order="left"
    )
    labels = index["is_left"].cast(pl.Int8).fill_null(EXCLUDED).to_numpy()
    splits, patients = index["split"].to_numpy(), index["subject_id"].to_numpy()
    reported = (labels != EXCLUDED) & (splits == "held_out")
    found: dict[str, dict[str, Any]] = {}
    for model in load_models(embeddings, cohort):
        features = model.vectors.reshape(len(index), 2, len(CHANNELS), -1)
        differences = (features[:, :, _LEFT] - features[:, :, _RIGHT]).reshape(len(index), -1)
        scores = split_scores(
            differences, labels_KN=labels[None], splits=splits.astype(str), patients=patients,
            config=ProbeConfig(),
        )[0, reported]  # fmt: skip
        result = bootstrap_auroc(
            labels[reported], scores_MN=scores[None], patients=patients[reported],
            n_resamples=1000, rng=np.random.default_rng(0),
        )  # fmt: skip
        low, high = result.interval(0)
        found[model.name] = {
            "side_auroc": float(result.value[0]), "side_low": low, "side_high": high
        }  # fmt: skip
    return found
