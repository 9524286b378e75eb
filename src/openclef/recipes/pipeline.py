"""All stages in order on one data set: what `openclef run` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from openclef.alignment.train import align, has_clinical_data
from openclef.artefact import has_content
from openclef.benchmark.rivals.handcrafted import embed_handcrafted
from openclef.benchmark.runner import benchmark
from openclef.cohort.engine import Engine
from openclef.cohort.ingest import IngestConfig, ingest
from openclef.cohort.layouts import Source
from openclef.cohort.store import Cohort
from openclef.encoder.embed import embed_tokens
from openclef.encoder.train import train_encoder
from openclef.errors import OpenclefError
from openclef.model import pack
from openclef.recipes import figures
from openclef.recipes.recipe import Recipe
from openclef.tokenizer.features import FeaturesConfig, FeatureTable, extract_features
from openclef.tokenizer.token_table import TokenTable
from openclef.tokenizer.tokens import tokenize_cohort
from openclef.tokenizer.train import train_tokenizer
from openclef.types import SPLITS

COHORT = "cohort"


@dataclass(frozen=True)
class RunResult:
    """Where a run left its report, its model, and what the terminal shows at the end."""

    report: Path
    model: Path
    results: pl.DataFrame
    n_sessions: int
    n_errors: int
    is_aligned: bool


def check_output(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier run."""
    if out.exists() and not out.is_dir():
        raise OpenclefError(f"{out}: is a file; give a folder for the run")
    if has_content(out) and not (out / COHORT).exists():
        raise OpenclefError(
            f"{out}: not empty and not an earlier run; choose another output folder"
        )


def run(
    source: Source,
    out: Path,
    *,
    recipe: Recipe,
    ingest_config: IngestConfig,
    engine: Engine,
    say: Callable[[str], None],
) -> RunResult:
    """Ingest, train, align where there is something to align with, pack, embed and benchmark.

    Stages that are complete in `out` are not done again; an interrupted one resumes. `say` takes
    one line of progress at a time. Raises OpenclefError for what cannot be used, before anything
    is written as far as it can be known before.
    """
    if source.records is None and not any(session.labels for session in source.sessions):
        raise OpenclefError(
            f"{source.root}: no findings, records or labels to benchmark; name a column with "
            f"--label, columns: {', '.join(source.columns) or 'none'}"
        )
    say(f"ingest: {len(source.sessions)} recordings, layout {source.layout}")
    folder = out / COHORT
    try:
        ingest(source, folder, config=ingest_config, engine=engine)
    except OpenclefError:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise
    cohort = Cohort(folder)
    if ingest_config.crop != "none":
        kept_s = float(cohort.sessions["duration_s"].to_numpy().max())
        say(f"  cropped to at most {kept_s:g} s (--crop)")
    n_errors = cohort.table("errors").height
    if n_errors:
        say(f"  {n_errors} recordings could not be read: {folder / 'errors.parquet'}")
    patients = cohort.sessions.group_by("split").agg(pl.col("subject_id").n_unique())
    counts = dict(patients.iter_rows())
    say("  patients: " + ", ".join(f"{name} {counts[name]}" for name in SPLITS))

    say("train tokenizer")
    train_tokenizer(cohort, out / "tokenizer", config=recipe.tokenizer)
    say("tokenize")
    tokenize_cohort(cohort, out / "tokenizer", out / "tokens")
    tokens = TokenTable(out / "tokens", cohort)

    features = None
    if recipe.encoder.needs_features:
        say("features: what tokens were before they were integers")
        patch_dim = recipe.encoder.model.patch_dim
        extract_features(
            cohort, out / "tokenizer", tokens, out / "features",
            config=FeaturesConfig(patch_dim=patch_dim),
        )  # fmt: skip
        features = FeatureTable(out / "features")

    say("train encoder: masked reconstruction")
    train_encoder(tokens, out / "encoder", config=recipe.encoder, cohort=cohort, features=features)
    untrained = recipe.encoder.train.model_copy(update={"n_steps": 0})
    control = recipe.encoder.model_copy(update={"train": untrained})
    train_encoder(
        tokens, out / "encoder_untrained", config=control, cohort=cohort, features=features
    )

    encoders = {"clef_reconstruction": out / "encoder", "clef_untrained": out / "encoder_untrained"}
    is_aligned = has_clinical_data(cohort)
    if is_aligned:
        say("train align: reports and records")
        align(cohort, tokens, out / "encoder", out / "aligned", config=recipe.alignment)
        encoders = {"clef_aligned": out / "aligned", **encoders}
    else:
        say("train align: skipped, this data set has neither reports nor health records")
    main = next(iter(encoders.values()))
    say("pack")
    pack(out / "tokenizer", main, out / "model", pooling=recipe.pooling, layer=recipe.layer)

    say("embed: " + ", ".join(encoders) + " and hand-crafted baselines")
    embeddings = []
    for name, encoder in encoders.items():
        where = out / "embeddings" / name
        embed_tokens(
            encoder, tokens, where, model=name, pooling=recipe.pooling, layer=recipe.layer,
            cohort=cohort, features=features,
        )  # fmt: skip
        embeddings.append(where)
    embeddings += embed_handcrafted(cohort, out / "embeddings")

    say("benchmark")
    bench = out / "benchmark"
    sections = [] if (bench / "manifest.json").exists() else figures.sections(source, cohort, out)
    benchmark(folder, embeddings, bench, config=recipe.benchmark, extra_sections=sections)
    return RunResult(
        report=bench / "report.html",
        model=out / "model",
        results=pl.read_parquet(bench / "results.parquet"),
        n_sessions=cohort.sessions.height,
        n_errors=n_errors,
        is_aligned=is_aligned,
    )
