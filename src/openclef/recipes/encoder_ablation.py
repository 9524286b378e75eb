"""Train encoders that differ in one thing, and tell what each knows; nothing is run twice.

Each encoder and seed is read out in several ways, and so is the same encoder untrained: the same
random start and the codes' frequencies. Either is probed alone and beside the hand-crafted mean
and spread of the spectrum. Beside it means: as many whitened components of each as fill the probe
together (32 + 32 of 64), fitted on probe patients. Every probe so reads the same number of
components, and the hand-crafted numbers take the same room beside the trained encoder, beside the
untrained one and, all of it, alone.

Whatever is reported is of held-out patients, on the same resamples of them; the readout is chosen
on tuning patients. `Probing` matches controls as the benchmark does: its AUROCs are the same.

Axis letters: N sessions, K tasks, G categories, R resamples, the first being everybody once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from openclef import artefact
from openclef.artefact import atomic, hash_json
from openclef.benchmark.embeddings import load_models
from openclef.benchmark.matching import MATCHED_CATEGORIES, Matcher
from openclef.benchmark.probe import Floats, Labels, fit_projection, split_scores
from openclef.benchmark.protocol import make_plan, match_tasks
from openclef.benchmark.rivals.handcrafted import embed_handcrafted
from openclef.benchmark.runner import BenchmarkConfig
from openclef.benchmark.statistics import AurocBootstrap, draw_patients, weighted_auroc
from openclef.benchmark.tasks import EXCLUDED, load_tasks
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.store import Cohort
from openclef.encoder.embed import Pooling, embed_tokens
from openclef.encoder.evaluate import evaluate_encoder
from openclef.encoder.train import EncoderStage, train_encoder
from openclef.errors import OpenclefError, choose
from openclef.recipes.encoders import for_tokens, get_encoder
from openclef.recipes.recipe import changed
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.training.config import TrainConfig

CATEGORIES = ("finding", "disease", "medication")
SPECTRUM = "spectrum_mean_sd"
HANDCRAFTED = ("demographics", "band_power", SPECTRUM)
BESIDE = "+spectrum"
POOLINGS: dict[str, Pooling] = {name: name for name in get_args(Pooling)}
Kind = Literal["reference", "untrained", "trained", "untrained+spectrum", "trained+spectrum"]
Readout = tuple[Pooling, int]  # pooling and layer
Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class EncoderAblation:
    """Four tables. AUROCs are means over the tasks of a category, columns `finding`, `disease` and
    `medication`; of a number `x`, `x_low` and `x_high` bound its 95% interval over patients.

    runs: one row an embedding. `encoder` (of `kind` "reference": its model), `kind, seed, pooling,
    layer`; of the encoder `cross_entropy, cross_entropy_se, share, share_se`, as
    `evaluate_encoder` has them (of kinds "trained", null if it predicts no codes); `tuning`, the
    mean of the categories on tuning patients; and each category with bounds. Encoders that differ
    only in what they predict share one untrained, its rows told for each.

    summary: one row an encoder, kind and readout: `is_best`, whether of the readouts it has the
    highest `tuning`; `n_seeds`; means over seeds, with bounds of that mean; and the standard
    deviation over seeds, `*_sd`, null for a single one. Bounds are of patients, not of seeds.

    differences: one row a run, `reference` and `category`: `difference` in AUROC with bounds and
    `p` by the same bootstrap. References are the embeddings of that kind and, of the same seed and
    readout, what is untrained: "untrained" of the trained, "untrained+spectrum" of the trained
    beside the spectrum.

    comparisons: the same of means over seeds: `is_best, n_seeds, difference` with bounds and `p`,
    `difference_sd` over seeds.
    """

    runs: pl.DataFrame
    summary: pl.DataFrame
    differences: pl.DataFrame
    comparisons: pl.DataFrame


@dataclass(frozen=True, eq=False)
class Probed:
    """Mean AUROC of an embedding by category: held-out `[R, G]`, tuning `[G]`, NaN if unknown."""

    held_out: Floats
    tuning: Floats

    @property
    def tuning_mean(self) -> float:
        """Mean of the categories that are known on tuning patients."""
        return float(_mean_known(self.tuning[None])[0])


class Probing:
    """Tasks of a cohort, matched once, and the probe on embedding after embedding.

    Parameters
    ----------
    cohort : with labels.
    out : folder; what was probed is kept there, by the hash of the embeddings.
    config : its protocol must be "split"; folds and the number of held-out patients do not matter.

    Attributes
    ----------
    categories : tuple of str, length G
        Those of the configuration that have a task with enough patients.

    Raises
    ------
    OpenclefError
        If no task has enough held-out patients of both classes.
    """

    def __init__(self, cohort: Cohort, out: Path, config: BenchmarkConfig) -> None:
        if config.protocol != "split":
            raise OpenclefError(f"protocol {config.protocol!r}: only 'split' is probed here")
        self.cohort, self.out, self.config = cohort, out, config
        self.plan = make_plan(cohort, protocol="split", min_held_out_patients=1)
        tasks = [task for task in load_tasks(cohort) if task.category in config.categories]
        matchers = {
            task.name: Matcher(task, sessions=cohort.sessions, config=config.matching)
            for task in tasks
            if task.category in MATCHED_CATEGORIES
        }
        # The benchmark's first stream, so that the controls are the same.
        rng = np.random.default_rng(config.seed).spawn(3)[0]
        matched, _ = match_tasks(tasks, matchers=matchers, plan=self.plan, rng=rng)
        self.tasks = [
            task
            for task in matched
            if self.plan.can_fit(task.labels)
            and min(self.plan.n_patients(task.labels)) >= config.min_positives
        ]
        if not self.tasks:
            raise OpenclefError(
                f"{cohort.folder}: no {' or '.join(config.categories)} has {config.min_positives} "
                "held-out patients with it and without it, and probe patients of both kinds; more "
                "patients are needed"
            )
        present = {task.category for task in self.tasks}
        self.categories = tuple(name for name in config.categories if name in present)

    def of(self, folder: Path) -> Probed:
        """Probe one embeddings artefact, or read what was found. Adds `tasks.parquet` (`task,
        category, split, auroc`) and `areas.parquet` to the folder that keeps it.
        """
        embeddings = artefact.load(folder, kind="embeddings")
        settings = self.config.model_dump(mode="json")
        key = hash_json({"embeddings": embeddings.hash, "config": settings})[:16]
        stage = artefact.begin(
            self.out / key,
            kind="probed",
            config=settings,
            inputs={"cohort": self.cohort.hash, "embeddings": embeddings.hash},
        )
        if not stage.is_complete:
            (model,) = load_models([folder], self.cohort)
            self._probe(model.vectors, stage)
        areas = pl.read_parquet(stage.folder / "areas.parquet").select(self.categories)
        tasks = pl.read_parquet(stage.folder / "tasks.parquet").filter(pl.col("split") == "tuning")
        means = dict(tasks.group_by("category").agg(pl.col("auroc").mean()).iter_rows())
        tuning = [means.get(name) for name in self.categories]
        return Probed(areas.to_numpy(), np.array(tuning, np.float64))

    def _probe(self, vectors: Floats, stage: artefact.Artefact) -> None:
        labels_KN = np.array([task.labels for task in self.tasks])
        held_out = self._scores(vectors, labels_KN, self.plan.splits)
        areas_RK = self._resampled(held_out, labels_KN)
        tuning = self._tuning_scores(vectors, labels_KN)
        rows = []
        for k, task in enumerate(self.tasks):
            inside = (self.plan.splits == "tuning") & (task.labels != EXCLUDED)
            ones = np.ones((1, int(inside.sum())))
            chosen = weighted_auroc(
                task.labels[inside], scores=tuning[k, inside], weights_RN=ones
            )  # fmt: skip
            for split, area in (("held_out", areas_RK[0, k]), ("tuning", chosen[0])):
                known = None if np.isnan(area) else float(area)
                rows.append(
                    {"task": task.name, "category": task.category, "split": split, "auroc": known}
                )
        of_category = np.array([task.category for task in self.tasks])
        areas = pl.DataFrame(
            {name: _mean_known(areas_RK[:, of_category == name]) for name in self.categories}
        )
        schema = {"task": pl.String, "category": pl.String, "split": pl.String, "auroc": pl.Float64}
        tables = {"areas": areas, "tasks": pl.DataFrame(rows, schema=schema)}
        for name, table in tables.items():
            with atomic(stage.folder / f"{name}.parquet") as temporary:
                table.write_parquet(temporary)
        stage.finish(f"{name}.parquet" for name in tables)

    def _scores(self, vectors: Floats, labels_KN: Labels, splits: np.ndarray) -> Floats:
        return split_scores(
            vectors, labels_KN=labels_KN, splits=splits, patients=self.plan.patients,
            config=self.config.probe,
        )  # fmt: skip

    def _tuning_scores(self, vectors: Floats, labels_KN: Labels) -> Floats:
        """Scores `[K, N]` of tuning sessions. The penalty is chosen on one half of the patients
        and the other half is scored, in turn: nobody is scored by what was chosen on them.
        """
        is_tuning = self.plan.splits == "tuning"
        _, number = np.unique(self.plan.patients[is_tuning], return_inverse=True)
        scores = np.full(labels_KN.shape, np.nan)
        for half in (0, 1):
            # As if the held-out patients did not exist.
            splits = np.where(self.plan.splits == "probe", "probe", "train").astype("U8")
            splits[is_tuning] = np.where(number % 2 == half, "held_out", "tuning")
            inside = splits == "held_out"
            scores[:, inside] = self._scores(vectors, labels_KN, splits)[:, inside]
        return scores

    def _resampled(self, scores_KN: Floats, labels_KN: Labels) -> Floats:
        """AUROC of each task, `[R, K]`; held-out patients are drawn alike for all embeddings."""
        reported = self.plan.reported
        _, patient = np.unique(self.plan.patients[reported], return_inverse=True)
        scores, labels = scores_KN[:, reported], labels_KN[:, reported]
        areas = [
            np.stack(
                [
                    weighted_auroc(
                        of_task[inside], scores=scored[inside],
                        weights_RN=counts_RP[:, patient[inside]],
                    )
                    for of_task, scored in zip(labels, scores, strict=True)
                    for inside in [of_task != EXCLUDED]
                ],
                axis=1,
            )
            for counts_RP in draw_patients(
                int(patient.max()) + 1, n_columns=len(patient),
                n_resamples=self.config.n_resamples, rng=np.random.default_rng(self.config.seed),
            )
        ]  # fmt: skip
        return np.concatenate(areas)


def embed_beside(
    cohort: Cohort, first: Path, second: Path, out: Path, *, model: str, n_components: int
) -> Path:
    """Write two embeddings of a cohort side by side, each as its first whitened components.

    A session's vectors are standardised and projected on its `n_components` directions of largest
    variance among the probe patients' sessions, every one scaled to unit variance: the wider of
    the two has no louder voice. Sessions of train patients are left out.
    """
    sources = {"first": first, "second": second}
    hashes = {name: artefact.load(x, kind="embeddings").hash for name, x in sources.items()}
    stage = begin_embeddings(
        out,
        model=model,
        inputs={"cohort": cohort.hash, **hashes},
        settings={"n_components": n_components},
    )
    if stage.is_complete:
        return out
    split = cohort.sessions["split"].to_numpy().astype(str)
    used = split != "train"
    parts = []
    for one in load_models([first, second], cohort):
        fitted = fit_projection(one.vectors[split == "probe"], max_components=n_components)
        parts.append(fitted.apply(one.vectors[used]))
    n_sessions = int(used.sum())
    write_embeddings(
        out / TABLE,
        session_id=cohort.sessions["session_id"].filter(used).to_list(),
        window=np.zeros(n_sessions, np.int64),
        start_s=np.zeros(n_sessions),
        vectors=np.hstack(parts).astype(np.float32),
        hashes=stage.inputs,
    )
    stage.finish([TABLE])
    return out


@dataclass(frozen=True, eq=False)
class _Run:
    """One embedding that was probed, and what is known of its encoder."""

    encoder: str
    kind: Kind
    seed: int | None
    readout: Readout | None
    probed: Probed
    fidelity: Columns

    @property
    def keys(self) -> Columns:
        pooling, layer = self.readout or (None, None)
        return {"encoder": self.encoder, "kind": self.kind, "pooling": pooling, "layer": layer}


def ablate_encoders(
    cohort: Cohort,
    tokens: TokenTable,
    out: Path,
    *,
    names: Sequence[str],
    seeds: Sequence[int],
    features: FeatureTable | None = None,
    references: Sequence[Path] = (),
    poolings: Sequence[Pooling] = ("rows", "mean"),
    layers: Sequence[int] = (-1,),
    categories: Sequence[str] = CATEGORIES,
    min_positives: int = 15,
    say: Callable[[str], None] = lambda _: None,
) -> EncoderAblation:
    """Train every encoder of `names` with every seed, embed, probe and compare.

    Writes `out/<name>/<seed>/encoder`, `cross_entropy.csv` beside it, and embeddings in
    `<pooling>-<layer>` and `<pooling>-<layer>+spectrum`; the untrained ones likewise in
    `out/untrained/<hash of the model's configuration>/<seed>/`.

    Parameters
    ----------
    cohort, tokens : with labels; one code a token.
    out : folder; what is complete there is not done again.
    names : of `ENCODERS`.
    seeds : of the training.
    features : for encoders that read or predict latents or patches.
    references : embeddings of the cohort to compare with, besides the three hand-crafted ones; a
        hand-crafted one that is given is not made.
    poolings, layers : every pair is read out, see `encode_and_pool`.
    categories : of the tasks.
    min_positives : held-out patients of either class that a task needs.
    say : told what comes next.

    Raises
    ------
    OpenclefError
        Before anything is trained, if no task has that many patients, an encoder lacks a layer or
        needs features that are not given, or a reference is of another cohort.
    """
    config = BenchmarkConfig(
        protocol="split", min_held_out_patients=1, min_positives=min_positives,
        categories=tuple(categories),
    )  # fmt: skip
    probing = Probing(cohort, out / "probed", config)
    stages = {
        (name, seed): _seeded(for_tokens(get_encoder(name), tokens), seed)
        for name in names
        for seed in seeds
    }
    for (name, _), stage in stages.items():
        _check(name, stage, layers, features)
    say("references")
    found = _references(cohort, references, out / "references")
    runs = [
        _Run(name, "reference", None, None, probing.of(folder), {})
        for name, folder in found.items()
    ]
    readouts: list[Readout] = [(pooling, layer) for pooling in poolings for layer in layers]
    n_components = config.probe.max_components // 2
    for (name, seed), stage in stages.items():
        say(f"{name}, seed {seed}")
        trained = out / name / str(seed)
        train_encoder(tokens, trained / "encoder", config=stage, cohort=cohort, features=features)
        fidelity = held_out_cross_entropy(trained, stage, cohort, tokens, features)
        before = _untrained(stage)
        untrained = out / "untrained" / hash_json(before.model.model_dump())[:12] / str(seed)
        train_encoder(
            tokens, untrained / "encoder", config=before, cohort=cohort, features=features
        )
        for folder, of in ((trained, "trained"), (untrained, "untrained")):
            label = folder.relative_to(out).as_posix()
            for pooling, layer in readouts:
                where = folder / f"{pooling}-{layer}"
                embed_tokens(
                    folder / "encoder", tokens, where, model=f"{label}/{where.name}",
                    pooling=pooling, layer=layer, cohort=cohort, features=features,
                )  # fmt: skip
                beside = embed_beside(
                    cohort, where, found[SPECTRUM], folder / f"{where.name}{BESIDE}",
                    model=f"{label}/{where.name}{BESIDE}", n_components=n_components,
                )  # fmt: skip
                known = fidelity if of == "trained" else {}
                for kind, embedding in ((of, where), (of + BESIDE, beside)):
                    probed = probing.of(embedding)
                    runs.append(_Run(name, kind, seed, (pooling, layer), probed, known))  # type: ignore[arg-type]
    return _tables(runs, probing.categories)


def get_pooling(name: str) -> Pooling:
    """A pooling that has seen no labels; raises OpenclefError naming the nearest one."""
    return POOLINGS[choose(name, POOLINGS, "pooling")]


def _seeded(stage: EncoderStage, seed: int) -> EncoderStage:
    return changed(stage, train=changed(stage.train, seed=seed))


def _untrained(stage: EncoderStage) -> EncoderStage:
    """The same encoder at its start, which depends on the model and the seed alone."""
    train = TrainConfig(n_steps=0, batch_size=1, seed=stage.train.seed)
    return EncoderStage(model=stage.model, train=train)


def _check(
    name: str, stage: EncoderStage, layers: Sequence[int], features: FeatureTable | None
) -> None:
    n_layers = stage.model.n_encoder_layers
    for layer in layers:
        if not -1 <= layer < n_layers:
            raise OpenclefError(
                f"layer {layer}: encoder {name} has 0 to {n_layers - 1}, and -1, the last one "
                "normed"
            )
    if stage.needs_features and features is None:
        raise OpenclefError(
            f"encoder {name} reads or predicts {' and '.join(sorted(stage.companions))}: give the "
            "features of these tokens (train features, --features)"
        )


def _references(cohort: Cohort, given: Sequence[Path], out: Path) -> dict[str, Path]:
    """Folders by model: the hand-crafted ones, made unless they are given, then all others."""
    models = [model.name for model in load_models(given, cohort)] if given else []
    named = dict(zip(models, given, strict=True))
    if not named.keys() >= set(HANDCRAFTED):
        made = {folder.name: folder for folder in embed_handcrafted(cohort, out)}
        named = made | named
    return {name: named[name] for name in sorted(named, key=_position)}


def _position(name: str) -> tuple[int, str]:
    return (HANDCRAFTED.index(name) if name in HANDCRAFTED else len(HANDCRAFTED)), name


def held_out_cross_entropy(
    folder: Path,
    stage: EncoderStage,
    cohort: Cohort,
    tokens: TokenTable,
    features: FeatureTable | None = None,
) -> Columns:
    """`cross_entropy, share` and their errors `*_se`, as `evaluate_encoder` has them, of
    `folder/encoder` and held-out patients; kept in `folder/cross_entropy.csv`. Nothing if the
    encoder predicts no codes.
    """
    if stage.loss.code_weight == 0:
        return {}
    path = folder / "cross_entropy.csv"
    if not path.exists():
        table = evaluate_encoder(folder / "encoder", cohort, tokens, features=features)
        with atomic(path) as temporary:
            table.write_csv(temporary)
    row = pl.read_csv(path).row(by_predicate=pl.col("predictor") == "encoder", named=True)
    values = {name: row[name] for name in ("cross_entropy", "share", "share_se")}
    return values | {"cross_entropy_se": row["se"]}


def _tables(runs: Sequence[_Run], categories: Sequence[str]) -> EncoderAblation:
    groups: dict[tuple[Any, ...], list[_Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.keys.values()), []).append(run)
    best = _best_readouts(groups)
    counterparts = {(run.encoder, run.kind, run.seed, run.readout): run for run in runs}
    references = [run for run in runs if run.kind == "reference"]
    differences: list[Columns] = []
    summary: list[Columns] = []
    comparisons: list[Columns] = []
    for group in groups.values():
        is_best = best[group[0].encoder, group[0].kind] == group[0].readout
        keys = group[0].keys | {"is_best": is_best, "n_seeds": len(group)}
        rows = [_row(run, categories) for run in group]
        areas = np.mean([run.probed.held_out for run in group], axis=0)
        spread = {
            f"{name}_sd": _sd([row[name] for row in rows])
            for name in ("cross_entropy", "share", "tuning", *categories)
        }
        means = {
            name: _mean([row[name] for row in rows])
            for name in ("cross_entropy", "share", "tuning")
        }
        summary.append(keys | means | auroc_columns(areas, categories) | spread)
        if group[0].kind == "reference":
            continue
        against: dict[str, list[_Run]] = {run.encoder: [run] * len(group) for run in references}
        if group[0].kind.startswith("trained"):
            other = f"un{group[0].kind}"
            against[other] = [
                counterparts[run.encoder, other, run.seed, run.readout]  # type: ignore[index]
                for run in group
            ]
        for reference, others in against.items():
            base = np.mean([run.probed.held_out for run in others], axis=0)
            for g, category in enumerate(categories):
                told = {"reference": reference, "category": category}
                one_each = [
                    _difference(run.probed.held_out[:, g], other.probed.held_out[:, g])
                    for run, other in zip(group, others, strict=True)
                ]
                differences += [
                    run.keys | {"seed": run.seed} | told | one
                    for run, one in zip(group, one_each, strict=True)
                ]
                sd = _sd([one["difference"] for one in one_each])
                mean = _difference(areas[:, g], base[:, g])
                comparisons.append(keys | told | mean | {"difference_sd": sd})
    return EncoderAblation(
        *(
            pl.DataFrame(rows, infer_schema_length=None)
            for rows in ([_row(run, categories) for run in runs], summary, differences, comparisons)
        )
    )


def _row(run: _Run, categories: Sequence[str]) -> Columns:
    """A row of `EncoderAblation.runs`."""
    names = ("cross_entropy", "cross_entropy_se", "share", "share_se")
    return {
        "encoder": run.encoder,
        "kind": run.kind,
        "seed": run.seed,
        "pooling": run.keys["pooling"],
        "layer": run.keys["layer"],
        **{name: run.fidelity.get(name) for name in names},
        "tuning": run.probed.tuning_mean,
        **auroc_columns(run.probed.held_out, categories),
    }


def _best_readouts(groups: Mapping[tuple[Any, ...], Sequence[_Run]]) -> dict[Any, Readout | None]:
    """Of each encoder and kind, the readout that is best on tuning patients, seeds taken together;
    the first that was asked for if none is known."""
    best: dict[Any, tuple[float, Readout | None]] = {}
    for group in groups.values():
        key = group[0].encoder, group[0].kind
        tuning = float(np.mean([run.probed.tuning_mean for run in group]))
        if key not in best or tuning > best[key][0]:
            best[key] = tuning, group[0].readout
    return {key: readout for key, (_, readout) in best.items()}


def auroc_columns(areas_RG: Floats, categories: Sequence[str]) -> Columns:
    """Mean AUROC by category, `*_low` and `*_high`, of `Probed.held_out` or a mean of several."""
    found: Columns = {}
    bootstrap = AurocBootstrap(areas_RG[0], areas_RG[1:].T)
    for g, name in enumerate(categories):
        low, high = bootstrap.interval(g)
        found |= {name: float(areas_RG[0, g]), f"{name}_low": low, f"{name}_high": high}
    return found


def _difference(first_R: Floats, second_R: Floats) -> Columns:
    both = np.stack([first_R, second_R])
    delta, low, high, p = AurocBootstrap(both[:, 0], both[:, 1:]).difference(0, 1)
    return {"difference": delta, "difference_low": low, "difference_high": high, "p": p}


def _mean_known(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    n_known = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.divide(total, n_known, out=np.full(n_known.shape, np.nan), where=n_known > 0)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _sd(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None
