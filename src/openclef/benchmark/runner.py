"""From embeddings and labels to the artefact `benchmark/`: numbers, comparisons and a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from openclef import artefact
from openclef.benchmark import report
from openclef.benchmark.embeddings import Model, load_models
from openclef.benchmark.matching import MATCHED_CATEGORIES, Matcher, MatchingConfig
from openclef.benchmark.probe import ProbeConfig
from openclef.benchmark.protocol import Plan, Protocol, make_plan, match_tasks, score_models
from openclef.benchmark.statistics import bootstrap_auroc, with_q_values
from openclef.benchmark.tasks import CATEGORIES, EXCLUDED, Task, load_tasks
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.types import SPLITS

RESULTS_SCHEMA = (
    dict.fromkeys(("task", "category", "model", "protocol", "subgroup"), pl.String)
    | {"n_shots": pl.Int64, "split": pl.String, "metric": pl.String}
    | dict.fromkeys(("value", "ci_low", "ci_high"), pl.Float64)
    | dict.fromkeys(("n_pos", "n_neg", "seed"), pl.Int64)
    | {"hashes": pl.String}
)
COMPARISONS_SCHEMA = dict.fromkeys(("task", "model_a", "model_b"), pl.String) | dict.fromkeys(
    ("delta", "ci_low", "ci_high", "p"), pl.Float64
)
PREDICTIONS_SCHEMA = dict.fromkeys(("session_id", "task", "model"), pl.String) | {
    "label": pl.Int8,
    "score": pl.Float64,
}
OUTPUTS = ("results", "comparisons", "balance", "predictions")


class BenchmarkConfig(BaseModel):
    """protocol: `auto` is `split` with enough held-out patients, else `cv` (see protocol.py).

    min_held_out_patients: what is enough. min_positives: patients of either class below which a
    task is not reported. n_resamples: of the bootstrap. categories: of the tasks to run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Protocol = "auto"
    min_held_out_patients: int = Field(default=50, ge=1)
    min_positives: int = Field(default=15, ge=5)
    n_resamples: int = Field(default=1000, ge=100)
    categories: tuple[str, ...] = CATEGORIES
    seed: int = Field(default=0, ge=0)
    matching: MatchingConfig = MatchingConfig()
    probe: ProbeConfig = ProbeConfig()


def benchmark(
    cohort_folder: Path,
    embeddings: Sequence[Path],
    out: Path,
    *,
    config: BenchmarkConfig,
    progress: bool = True,
    extra_sections: Sequence[report.Section] = (),
) -> artefact.Artefact:
    """Probe every model on every task of a cohort and write the artefact `benchmark/`.

    Writes `results.parquet`, `comparisons.parquet` (the first model against each other),
    `balance.parquet`, `predictions.parquet` (reported sessions) and `report.html`; the report is
    not part of the artefact's hash. A complete folder is left as it is.

    Parameters
    ----------
    cohort_folder : a cohort with `labels.parquet`.
    embeddings : embeddings artefacts of that cohort, the main model first.
    out : folder to write.
    config : protocol, matching, probe and statistics.
    progress : show a bar.
    extra_sections : further parts of the report, placed after its results.

    Raises
    ------
    OpenclefError
        If there is no task, or none with two classes; if an embeddings folder is of another
        cohort, lacks sessions, is not finite, or bears a name twice.
    """
    cohort = Cohort(cohort_folder)
    tasks = [task for task in load_tasks(cohort) if task.category in config.categories]
    models = load_models(embeddings, cohort)
    plan = make_plan(
        cohort, protocol=config.protocol, min_held_out_patients=config.min_held_out_patients
    )
    if not any({0, 1} <= set(task.labels[plan.used].tolist()) for task in tasks):
        raise OpenclefError(
            f"{cohort_folder}: no task has both positive and negative sessions outside the train "
            f"split ({len(tasks)} tasks)"
        )
    target = artefact.begin(
        out,
        kind="benchmark",
        # The order of the models says which is the main one; that of the inputs does not count.
        config=config.model_dump(mode="json") | {"models": [model.name for model in models]},
        inputs={"cohort": cohort.hash} | {model.name: model.hash for model in models},
    )
    if not target.is_complete:
        tables = _run(cohort, tasks, models, plan, config, progress)
        for name in OUTPUTS:
            with artefact.atomic(out / f"{name}.parquet") as temporary:
                tables[name].write_parquet(temporary)
        report.write_report(
            out / "report.html",
            tables["results"],
            tables["comparisons"],
            tables["balance"],
            title="What the embeddings know",
            n_patients={
                name: len(np.unique(plan.patients[plan.splits == name])) for name in SPLITS
            },
            sections=extra_sections,
        )
        target.finish(f"{name}.parquet" for name in OUTPUTS)
    return target


def _run(
    cohort: Cohort,
    tasks: list[Task],
    models: list[Model],
    plan: Plan,
    config: BenchmarkConfig,
    progress: bool,
) -> dict[str, pl.DataFrame]:
    """Match, probe and compare; the tables named in `OUTPUTS`."""
    # One stream a purpose, so that one more model does not change the controls or the folds.
    matching_rng, probe_rng, bootstrap_rng = np.random.default_rng(config.seed).spawn(3)
    matchers = {
        task.name: Matcher(task, sessions=cohort.sessions, config=config.matching)
        for task in tasks
        if task.category in MATCHED_CATEGORIES
    }
    matched, balance = match_tasks(tasks, matchers=matchers, plan=plan, rng=matching_rng)
    kept = [
        task
        for task in matched
        if plan.can_fit(task.labels) and min(plan.n_patients(task.labels)) >= config.min_positives
    ]
    scores_MKN = score_models(
        models,
        tasks=kept,
        originals={task.name: task for task in tasks},
        matchers=matchers,
        plan=plan,
        config=config.probe,
        rng=probe_rng,
        progress=progress,
    )
    names = [model.name for model in models]
    results, comparisons = [], []
    predictions = [pl.DataFrame(schema=PREDICTIONS_SCHEMA)]
    for task in matched:
        rows = _result_rows(task, models, plan, cohort, config.seed)
        results += rows
        if task not in kept:
            continue
        inside = plan.reported & (task.labels != EXCLUDED)
        labels, scores_MN = task.labels[inside], scores_MKN[:, kept.index(task)][:, inside]
        session_ids = cohort.sessions["session_id"].filter(inside)
        bootstrap = bootstrap_auroc(
            labels,
            scores_MN=scores_MN,
            patients=plan.patients[inside],
            n_resamples=config.n_resamples,
            rng=bootstrap_rng,
        )
        for m, name in enumerate(names):
            low, high = bootstrap.interval(m)
            rows[m] |= {"value": float(bootstrap.value[m]), "ci_low": low, "ci_high": high}
            columns = {"task": task.name, "model": name, "label": labels, "score": scores_MN[m]}
            predictions.append(
                pl.DataFrame({"session_id": session_ids} | columns, schema=PREDICTIONS_SCHEMA)
            )
        for m, name in enumerate(names[1:], start=1):
            delta, low, high, p = bootstrap.difference(0, m)
            pair = {"task": task.name, "model_a": names[0], "model_b": name}
            comparisons.append(pair | {"delta": delta, "ci_low": low, "ci_high": high, "p": p})
    return {
        "results": pl.DataFrame(results, schema=RESULTS_SCHEMA),
        "comparisons": with_q_values(pl.DataFrame(comparisons, schema=COMPARISONS_SCHEMA)),
        "balance": balance,
        "predictions": pl.concat(predictions),
    }


def _result_rows(
    task: Task, models: list[Model], plan: Plan, cohort: Cohort, seed: int
) -> list[dict[str, Any]]:
    """One row a model, without its value."""
    n_pos, n_neg = plan.n_patients(task.labels)
    return [
        {
            "task": task.name,
            "category": task.category,
            "model": model.name,
            "protocol": f"linear/{plan.protocol}",
            "subgroup": "all",
            "split": plan.reported_split,
            "metric": "auroc",
            "n_pos": n_pos,
            "n_neg": n_neg,
            "seed": seed,
            "hashes": json.dumps({"cohort": cohort.hash, "embeddings": model.hash}),
        }
        for model in models
    ]
