"""Train encoders that differ in one thing, and tell what each knows; nothing is run twice.

Each encoder and seed is read out in several ways, and so is the same encoder untrained: the same
random start and the codes' frequencies. Either is probed alone and beside a reference, such as the
hand-crafted mean and spread of the spectrum. Beside it means: as many whitened components of each
as fill the probe together (32 + 32 of 64), fitted on probe patients. Every probe so reads the same
number of components, and the reference takes the same room beside the trained encoder, beside the
untrained one and, all of it, alone.

Whatever is reported is of held-out patients, on the same resamples of them; the readout is chosen
on tuning patients. `Probing` matches controls as the benchmark does: its AUROCs are the same.

Axis letters: N sessions, K tasks, G categories, R resamples, the first being everybody once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from openclef import artefact
from openclef.artefact import atomic, hash_json
from openclef.benchmark.embeddings import load_models
from openclef.benchmark.probe import Floats, fit_projection
from openclef.benchmark.rivals.handcrafted import embed_handcrafted
from openclef.benchmark.rivals.riemannian import MODEL as RIEMANNIAN
from openclef.benchmark.rivals.riemannian import embed_riemannian
from openclef.benchmark.runner import BenchmarkConfig
from openclef.benchmark.statistics import AurocBootstrap
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.engine import LocalEngine
from openclef.cohort.store import Cohort
from openclef.encoder.embed import embed_patches, embed_tokens
from openclef.encoder.evaluate import evaluate_encoder
from openclef.encoder.pooling import Pooling
from openclef.encoder.train import EncoderStage, check_fit, train_encoder
from openclef.errors import OpenclefError, choose
from openclef.recipes.encoders import for_tokens, get_encoder
from openclef.recipes.probing import Columns, Probed, Probing, auroc_columns
from openclef.recipes.recipe import changed
from openclef.recipes.simulated import engine_of
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.training.config import TrainConfig

CATEGORIES = ("finding", "disease", "medication")
SPECTRUM = "spectrum_mean_sd"
PATCHES = "patches_mean_sd"
HANDCRAFTED = ("demographics", "band_power", SPECTRUM)
Readout = tuple[Pooling, int]  # pooling and layer


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
    readout, what is untrained: "untrained" of the trained, and beside a reference what is untrained
    beside the same one.

    comparisons: the same of means over seeds: `is_best, n_seeds, difference` with bounds and `p`,
    `difference_sd` over seeds.
    """

    runs: pl.DataFrame
    summary: pl.DataFrame
    differences: pl.DataFrame
    comparisons: pl.DataFrame


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
    kind: str
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
    recordings: Path | None = None,
    beside: Sequence[str] = (SPECTRUM,),
    poolings: Sequence[Pooling] = ("moments", "mean"),
    layers: Sequence[int] = (-1,),
    categories: Sequence[str] = CATEGORIES,
    min_positives: int = 15,
    say: Callable[[str], None] = lambda _: None,
) -> EncoderAblation:
    """Train every encoder of `names` with every seed, embed, probe and compare.

    Writes `out/<name>/<seed>/encoder`, `cross_entropy-<hash>.csv` beside it, and embeddings in
    `<pooling>-<layer>` and `<pooling>-<layer>+<reference>`; the untrained ones likewise in
    `out/untrained/<hash of the model's configuration>/<seed>/`.

    Parameters
    ----------
    cohort, tokens : with labels; one code a token.
    out : folder, new or of this study of the same tokens; what is complete there is not done again.
    names : of `ENCODERS`.
    seeds : of the training.
    features : for encoders that read or predict latents or patches; mean and spread of the patches
        alone, `patches_mean_sd`, are one more reference.
    references : embeddings of the cohort to compare with, besides the three hand-crafted ones; a
        hand-crafted one that is given is not made.
    recordings : the data set that the cohort was ingested from; its recordings are read again, for
        one more reference, `riemannian`, unless that is given.
    beside : names of references that encoders are probed beside; of a `kind` such as
        "trained+spectrum_mean_sd".
    poolings, layers : every pair is read out, see `encode_and_pool`.
    categories : of the tasks.
    min_positives : held-out patients of either class that a task needs.
    say : told what comes next.

    Raises
    ------
    OpenclefError
        Before anything is trained, if no task has that many patients, an encoder lacks a layer or
        needs features that are not given, a reference is of another cohort, one of `beside` is
        none of them, or `out` holds something else.
    """
    config = BenchmarkConfig(
        protocol="split", min_held_out_patients=1, min_positives=min_positives,
        categories=tuple(categories),
    )  # fmt: skip
    probing = Probing(cohort, out / "probed", config)
    stages = {
        (name, seed): _seeded(for_tokens(get_encoder(name), tokens, features), seed)
        for name in names
        for seed in seeds
    }
    for (name, _), stage in stages.items():
        _check(name, stage, layers, features)
        check_fit(tokens, features, stage)
    # What is wrong is told before the folder is taken.
    given = [model.name for model in load_models(references, cohort)] if references else []
    further = {PATCHES: features is not None, RIEMANNIAN: recordings is not None}
    for name in beside:
        choose(name, [*HANDCRAFTED, *given, *(n for n in further if further[n])], "reference")
    artefact.begin(
        out, kind="reproduction", config={"verb": "encoder"},
        inputs={"cohort": cohort.hash, "tokens": tokens.artefact.hash},
    )  # fmt: skip
    say("references")
    found = _references(cohort, references, out / "references")
    if features is not None:
        found[PATCHES] = out / "references" / PATCHES
        embed_patches(tokens, features, found[PATCHES], model=PATCHES)
    if recordings is not None and RIEMANNIAN not in found:
        found[RIEMANNIAN] = out / "references" / RIEMANNIAN
        engine = engine_of(recordings, LocalEngine(n_workers=2))
        embed_riemannian(cohort, found[RIEMANNIAN], root=recordings, engine=engine)
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
                embedded = {of: where}
                for other in beside:
                    embedded[f"{of}+{other}"] = embed_beside(
                        cohort, where, found[other], folder / f"{where.name}+{other}",
                        model=f"{label}/{where.name}+{other}", n_components=n_components,
                    )  # fmt: skip
                known = fidelity if of == "trained" else {}
                for kind, embedding in embedded.items():
                    probed = probing.of(embedding)
                    runs.append(_Run(name, kind, seed, (pooling, layer), probed, known))
    return _tables(runs, probing.categories)


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
    `folder/encoder` and held-out patients. Nothing if the encoder predicts no codes. Kept beside
    it as `cross_entropy-<hash>.csv`, of what it was measured on: another encoder in the same
    place, or other patients, are measured anew.
    """
    if stage.loss.code_weight == 0:
        return {}
    encoder = artefact.load(folder / "encoder", kind="encoder")
    path = folder / f"cross_entropy-{hash_json([encoder.hash, cohort.hash])[:12]}.csv"
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
                counterparts[run.encoder, other, run.seed, run.readout] for run in group
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


def _difference(first_R: Floats, second_R: Floats) -> Columns:
    both = np.stack([first_R, second_R])
    delta, low, high, p = AurocBootstrap(both[:, 0], both[:, 1:]).difference(0, 1)
    return {"difference": delta, "difference_low": low, "difference_high": high, "p": p}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _sd(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None
