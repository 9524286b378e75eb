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
    windows: options.Windows = "all",
    seed: options.IngestSeed = 0,
    unit: options.Unit = None,
    line_hz: options.LineHz = None,
    workers: options.Workers = 2,
    engine: options.EngineName = "local",
    address: options.Address = None,
) -> None:
    """All stages on a data set, from ingest to benchmark; ends with a table and a report."""
    from openclef.recipes import get_recipe

    recipe = get_recipe(recipe_name)  # before the heavy imports: a typo should answer at once
    runs_on = options.make_engine(engine, workers=workers, address=address)
    from openclef.recipes import pipeline
    from openclef.recipes.simulated import open_data_set

    pipeline.check_output(out)
    config = options.ingest_config(
        crop=crop, windows=windows, seed=seed, unit=unit, line_hz=line_hz, labels=label,
        splits=recipe.splits,
    )  # fmt: skip
    found, runs_on = open_data_set(
        source, out / pipeline.COHORT, layout=layout, labels=config.labels, engine=runs_on
    )
    result = pipeline.run(
        found,
        out,
        recipe=recipe,
        ingest_config=options.settle_crop(config, crop, layout=found.layout),
        engine=runs_on,
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
