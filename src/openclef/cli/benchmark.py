"""`openclef benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options


def benchmark(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder.")],
    embeddings: Annotated[
        list[Path], typer.Argument(help="Embeddings folders; the first is compared to the others.")
    ],
    out: Annotated[Path, typer.Option(help="Benchmark folder to write.")],
    recipe_name: options.RecipeName = "demo",
) -> None:
    """Probe frozen embeddings on every task of a cohort, with matched controls."""
    import polars as pl

    from openclef.benchmark.report import print_closing_table
    from openclef.benchmark.runner import benchmark as probe
    from openclef.recipes import get_recipe

    probe(cohort, embeddings, out, config=get_recipe(recipe_name).benchmark)
    print_closing_table(pl.read_parquet(out / "results.parquet"))
    typer.echo(f"report: {out / 'report.html'}")
