"""Train tokenizers that differ in one thing, and tell what each keeps; nothing is run twice.

Each variant and seed: what is explained of the channels' mean and of their residuals from it, how
the codes are used, which share of the findings' AUROC above chance a linear probe keeps, and, if
the truth of a simulated hospital is given, whether a probe still tells the side of focal slowing.
Whatever is reported is of held-out patients; probes are fitted on probe patients. Every run is
compared with the same seed of a baseline, on the same resamples of patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from openclef import artefact
from openclef.artefact import atomic
from openclef.benchmark.information import (
    Estimate,
    bootstrap_r2,
    embed_decoded,
    share_above_chance,
)
from openclef.benchmark.laterality import check_sides, probe_sides
from openclef.benchmark.protocol import make_plan
from openclef.benchmark.rivals.handcrafted import embed_handcrafted
from openclef.benchmark.runner import BenchmarkConfig, benchmark
from openclef.benchmark.tasks import load_tasks
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.recipes.recipe import changed
from openclef.recipes.tokenizers import get_tokenizer
from openclef.tokenizer.evaluate import (
    Decoded,
    Fidelity,
    FidelityMeter,
    decode_windows,
    load_fidelity,
    measure,
    train_mean_db,
)
from openclef.tokenizer.train import TokenizerStage, load_tokenizer, train_tokenizer
from openclef.types import FloatArray

REFERENCE = "spectrum_mean_sd"
BASELINE = "small-plain-l1"
# Layouts that count patients from 1: in another data set the same number is somebody else.
COUNTED = ("folder", "tuab", "tuep")
Run = tuple[str, int]  # tokenizer and seed
Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Ablation:
    """Three tables. Of a number `x`, `x_low` and `x_high` are the bounds of its 95% interval, by
    a bootstrap over patients.

    runs: one row a tokenizer and seed, the first, `original`, being the spectrogram itself.
    `tokenizer, seed`; `bits` that a window becomes; of held-out windows `n_tokens` (visible),
    `usage, perplexity` (of the worst code of a token), `mae_db, mean_correlation,
    residual_correlation`; `mean_r2, residual_r2` with bounds, about the train patients' mean
    spectrum, the same for all; against the baseline's run of the same seed `mean_r2_difference`
    and `residual_r2_ratio` with bounds (NaN where the baseline explains nothing); `kept` with
    bounds, the share of AUROC above chance over `n_tasks` findings; and with `sides`:
    `side_auroc`, and its difference from the original's, `side_vs_original`, and from the
    baseline's, `side_vs_baseline`, all with bounds.

    summary: one row a tokenizer: `n_seeds`, and of every number above the mean over seeds and, but
    for bounds, the standard deviation over seeds, `*_sd`, null for a single one. Means of bounds
    are of patients alone, and no narrower than an interval of the seeds' mean.

    elsewhere: one row a cohort of `also`, tokenizer and seed: `cohort` (its folder's name),
    `tokenizer, seed, n_windows` and the numbers from `n_tokens` to `residual_r2_ratio` as in runs,
    of all its windows, about the mean spectrum of the cohort trained on.
    """

    runs: pl.DataFrame
    summary: pl.DataFrame
    elsewhere: pl.DataFrame


def ablate_tokenizers(
    cohort: Cohort,
    out: Path,
    *,
    names: Sequence[str],
    seeds: Sequence[int],
    sides: pl.DataFrame | None = None,
    also: Sequence[Cohort] = (),
    min_positives: int = 15,
    say: Callable[[str], None] = lambda _: None,
) -> Ablation:
    """Train every tokenizer of `names` with every seed in `out/<name>/<seed>/`, and compare.

    Parameters
    ----------
    cohort : with findings among its labels.
    out : folder, new or of this study of the same cohort; what is complete there is not done again.
    names : of `TOKENIZERS`. The baseline is `small-plain-l1`, or the first if that is not there.
    seeds : of the training.
    sides : columns `session_id` and `is_left`, of sessions with slowing on one side; see
        `benchmark.laterality.true_sides`.
    also : further cohorts, such as real recordings, to measure R2 and errors on, without patients
        trained on. These are known by `subject_id`, unless a layout of `COUNTED` made it.
    min_positives : patients of either class that a finding needs among the held-out ones; and of
        either side, among probe and held-out ones, a third of it among tuning ones.
    say : told what comes next.

    Raises
    ------
    OpenclefError
        Before anything is trained, if no finding or too few sides have that many patients, two
        cohorts of `also` share a name, one has patients trained on, or `out` holds something else.
    """
    _check_findings(cohort, min_positives)
    if sides is not None:
        check_sides(cohort, sides, min_patients=min_positives)
    _check_also(cohort, also)
    stages = {(name, seed): get_tokenizer(name) for name in names for seed in seeds}
    baseline = _baseline(names)
    artefact.begin(
        out, kind="reproduction", config={"verb": "tokenizer"}, inputs={"cohort": cohort.hash}
    )
    embeddings = [folder for folder in embed_handcrafted(cohort, out / "original")
                  if folder.name == REFERENCE]  # fmt: skip
    mean_db = _mean_db(cohort, out)
    fidelity: dict[Run, Fidelity] = {}
    elsewhere: dict[str, dict[Run, Fidelity]] = {other.folder.name: {} for other in also}
    for (name, seed), stage in stages.items():
        folder = out / name / str(seed)
        say(f"{name}, seed {seed}")
        seeded = changed(stage, train=changed(stage.train, seed=seed))
        train_tokenizer(cohort, folder / "tokenizer", config=seeded)
        fidelity[name, seed] = _evaluate(cohort, folder, mean_db, model=f"{name}/{seed}")
        for other in also:
            elsewhere[other.folder.name][name, seed] = _evaluate_elsewhere(other, folder, mean_db)
        embeddings.append(folder / "decoded")
    probed = _probe_findings(cohort, embeddings, min_positives)
    kept = _kept(cohort, probed, list(stages))
    sided = {} if sides is None else _sides(cohort, embeddings, sides, baseline)
    measured = _explained(cohort, fidelity, baseline)
    rows: list[Columns] = [{"tokenizer": "original", "seed": None} | sided.get(REFERENCE, {})]
    rows += [
        {"tokenizer": name, "seed": seed, "bits": _bits(stage), **measured[name, seed],
         **kept[name, seed], **sided.get(f"{name}/{seed}", {})}
        for (name, seed), stage in stages.items()
    ]  # fmt: skip
    runs = pl.DataFrame(rows, infer_schema_length=None)
    return Ablation(runs, summarise(runs), _elsewhere_table(also, elsewhere, baseline))


def summarise(runs: pl.DataFrame) -> pl.DataFrame:
    """`Ablation.summary` of `Ablation.runs`."""
    numbers = [name for name in runs.columns if name not in ("tokenizer", "seed")]
    bounds = [name for name in numbers if name.endswith(("_low", "_high"))]
    columns = [pl.col("seed").count().alias("n_seeds")]
    for name in numbers:
        columns.append(pl.col(name).mean())
        if name not in bounds:
            columns.append(pl.col(name).std().alias(f"{name}_sd"))
    return runs.group_by("tokenizer", maintain_order=True).agg(columns)


def _check_findings(cohort: Cohort, min_positives: int) -> None:
    """Whether the benchmark will report any finding."""
    plan = make_plan(cohort, protocol="split", min_held_out_patients=1)
    findings = [task.labels for task in load_tasks(cohort) if task.category == "finding"]
    if not any(plan.can_fit(x) and min(plan.n_patients(x)) >= min_positives for x in findings):
        raise OpenclefError(
            f"{cohort.folder}: no finding has {min_positives} held-out patients with it and "
            "without it, and probe patients of both kinds; more patients are needed"
        )


def _check_also(cohort: Cohort, also: Sequence[Cohort]) -> None:
    """Whether every cohort has a name of its own and none of the patients trained on."""
    folder_names = [other.folder.name for other in also]
    if len(set(folder_names)) < len(folder_names):
        raise OpenclefError(
            f"cohorts to measure on are told apart by their folder's name, and two of "
            f"{', '.join(folder_names)} share one; rename a folder"
        )
    for other in also:
        if other.hash == cohort.hash:
            raise OpenclefError(
                f"{other.folder}: is the cohort trained on, whose held-out patients are measured "
                "anyway; leave it out"
            )
        n_shared = len(_train_patients_of(cohort, other))
        if n_shared:
            raise OpenclefError(
                f"{other.folder}: {n_shared} of its {other.sessions['subject_id'].n_unique()} "
                f"patients have the subject_id of a train patient of {cohort.folder}; give a "
                "cohort without them, or if they are other people, number them apart"
            )


def _train_patients_of(cohort: Cohort, other: Cohort) -> set[int]:
    """Train patients of `cohort` that are in `other` too, as far as their numbers tell."""
    train = cohort.sessions.filter(pl.col("split") == "train")["subject_id"]
    shared = set(train) & set(other.sessions["subject_id"])
    sources = [one.artefact.inputs.get("source") for one in (cohort, other)]
    if sources[0] is not None and sources[0] == sources[1]:
        return shared  # one data set, ingested twice
    if any(one.artefact.config.get("layout") in COUNTED for one in (cohort, other)):
        return set()
    return {number for number in shared if number > 0}  # others are counted, see `layouts.bids`


def _baseline(names: Sequence[str]) -> str:
    """What the others are compared with."""
    return BASELINE if BASELINE in names else names[0]


def _mean_db(cohort: Cohort, out: Path) -> FloatArray:
    """What R2 is about, kept by the cohort's hash, `[19, 128]`."""
    path = out / f"reference-{cohort.hash[:12]}.npy"
    if not path.exists():
        mean_db = train_mean_db(cohort)
        with atomic(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, mean_db, allow_pickle=False)
    found: FloatArray = np.load(path, allow_pickle=False)
    return found


def _evaluate(cohort: Cohort, folder: Path, mean_db: FloatArray, *, model: str) -> Fidelity:
    """Embed what is decoded; what is found of held-out windows on the way, kept by the
    tokenizer's hash.
    """
    path = folder / f"fidelity-{_mark(folder)}.npz"
    tokenizer = load_tokenizer(folder / "tokenizer")
    held_out = cohort.rows("held_out")
    of_interest = set(held_out.tolist())
    meter, seen = FidelityMeter(tokenizer, mean_db=mean_db), set[int]()

    def look(window: Decoded) -> None:
        if window.row in of_interest:
            meter.add(window)
            seen.add(window.row)

    embed_decoded(cohort, folder / "tokenizer", folder / "decoded", model=model, look=look)
    if not path.exists():
        if seen == of_interest:
            meter.result().save(path)
        else:  # embedded by a run that was killed before it wrote this
            windows = decode_windows(tokenizer, cohort, held_out)
            measure(tokenizer, windows, mean_db=mean_db).save(path)
    return load_fidelity(path)


def _evaluate_elsewhere(cohort: Cohort, folder: Path, mean_db: FloatArray) -> Fidelity:
    """What is found of all windows of another cohort, kept by both hashes."""
    path = folder / "elsewhere" / f"{cohort.folder.name}-{cohort.hash[:12]}-{_mark(folder)}.npz"
    if not path.exists():
        tokenizer = load_tokenizer(folder / "tokenizer")
        windows = decode_windows(tokenizer, cohort, cohort.rows(), label=cohort.folder.name)
        measure(tokenizer, windows, mean_db=mean_db).save(path)
    return load_fidelity(path)


def _mark(folder: Path) -> str:
    """Start of the hash of a run's tokenizer: of its cohort, its configuration and its weights."""
    return artefact.load(folder / "tokenizer", kind="tokenizer").hash[:12]


def _bits(stage: TokenizerStage) -> float:
    """What a window becomes."""
    quantiser = stage.model.quantiser
    return stage.model.n_tokens * quantiser.n_quantisers * math.log2(quantiser.n_codes)


def _explained(
    cohort: Cohort, fidelity: Mapping[Run, Fidelity], baseline: str
) -> dict[Run, Columns]:
    """Columns from `n_tokens` to `residual_r2_ratio` of each run on the same windows."""
    runs = list(fidelity)
    rows = fidelity[runs[0]].rows
    if not all(np.array_equal(one.rows, rows) for one in fidelity.values()):
        raise RuntimeError("runs were measured on different windows")
    of_row = cohort.windows.select("row", "session_id").join(
        cohort.sessions.select("session_id", "subject_id"), on="session_id"
    )
    patient = dict(of_row.select("row", "subject_id").iter_rows())
    _, patients = np.unique([patient[row] for row in rows.tolist()], return_inverse=True)
    sums_MN4 = np.stack([one.by_window for one in fidelity.values()])
    mean, residual = (
        bootstrap_r2(sums_MN4[..., i], variances_MN=sums_MN4[..., i + 1], patients=patients)
        for i in (0, 2)
    )
    found: dict[Run, Columns] = {}
    for m, (run, one) in enumerate(fidelity.items()):
        base = runs.index((baseline, run[1]))
        found[run] = {
            "n_tokens": one.n_tokens,
            "usage": min(one.usage),
            "perplexity": min(one.perplexity),
            "mae_db": float(one.absolute_db.sum() / one.n.sum()),
            "mean_correlation": one.mean_correlation,
            "residual_correlation": one.residual_correlation,
            **_bounded("mean_r2", mean.of(m)),
            **_bounded("residual_r2", residual.of(m)),
            **_bounded("mean_r2_difference", mean.difference(m, base)),
            **_bounded("residual_r2_ratio", residual.ratio(m, base)),
        }
    return found


def _elsewhere_table(
    also: Sequence[Cohort], elsewhere: Mapping[str, Mapping[Run, Fidelity]], baseline: str
) -> pl.DataFrame:
    rows: list[Columns] = []
    for cohort in also:
        fidelity = elsewhere[cohort.folder.name]
        for (name, seed), columns in _explained(cohort, fidelity, baseline).items():
            keys = {"cohort": cohort.folder.name, "tokenizer": name, "seed": seed}
            rows.append(keys | {"n_windows": fidelity[name, seed].n_windows} | columns)
    return pl.DataFrame(rows, infer_schema_length=None)


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


def _kept(cohort: Cohort, probed: pl.DataFrame, runs: Sequence[Run]) -> dict[Run, Columns]:
    """Share of the findings' AUROC above chance that each run keeps of the original's."""
    patients = dict(cohort.sessions.select("session_id", "subject_id").iter_rows())
    tasks = probed["task"].unique().sort().to_list()
    found: dict[Run, Columns] = {}
    for name, seed in runs:
        share = share_above_chance(
            probed, patients, model=f"{name}/{seed}", reference=REFERENCE, tasks=tasks
        )
        found[name, seed] = {**_bounded("kept", share), "n_tasks": share.n_tasks}
    return found


def _sides(
    cohort: Cohort, embeddings: Sequence[Path], sides: pl.DataFrame, baseline: str
) -> dict[str, Columns]:
    """Columns from `side_auroc` on of the original, the first of `embeddings`, and every run."""
    names, result = probe_sides(cohort, embeddings, sides)
    found: dict[str, Columns] = {}
    for m, name in enumerate(names):
        found[name] = _bounded("side_auroc", Estimate(float(result.value[m]), *result.interval(m)))
        if m:
            base = names.index(f"{baseline}/{name.rpartition('/')[2]}")
            for what, other in (("original", 0), ("baseline", base)):
                difference = Estimate(*result.difference(m, other)[:3])
                found[name] |= _bounded(f"side_vs_{what}", difference)
    return found


def _bounded(name: str, estimate: Estimate) -> Columns:
    """A number's three columns."""
    return {
        name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high
    }  # fmt: skip
