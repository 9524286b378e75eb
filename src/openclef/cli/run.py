"""`openclef run`: all stages on any data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openclef.cli import options

if TYPE_CHECKING:
    from openclef.recipes.pipeline import RunResult


def run(
    source: options.Source,
    out: Annotated[Path, typer.Option(help="Folder of the run; run again to resume.")],
    recipe_name: options.RecipeName = "demo",
    layout: options.Layout = "auto",
    label: options.Labels = None,
    crop: options.Crop = "auto",
    workers: options.Workers = 2,
) -> None:
    """All stages on a data set, from ingest to benchmark; ends with a table and a report."""
    from openclef.recipes import get_recipe

    recipe = get_recipe(recipe_name)  # before the heavy imports: a typo should answer at once
    from openclef.cohort.ingest import IngestConfig
    from openclef.cohort.layouts import read_source
    from openclef.recipes import pipeline

    pipeline.check_output(out)
    found = read_source(source, layout=layout, labels=label or ())
    result = pipeline.run(
        found,
        out,
        recipe=recipe,
        ingest_config=IngestConfig(
            crop=options.parse_crop(crop, found.layout), splits=recipe.splits
        ),
        n_workers=workers,
        say=typer.echo,
    )
    show(result)


def show(result: RunResult) -> None:
    """The closing table, and where to look."""
    from openclef.benchmark.report import print_closing_table

    print_closing_table(result.results)
    typer.echo(
        f"{result.n_sessions} sessions, {result.n_errors} recordings could not be read, "
        f"{'aligned with reports and records' if result.is_aligned else 'not aligned'}"
    )
    typer.echo(f"model:  {result.model}")
    typer.echo(f"report: {result.report}")
