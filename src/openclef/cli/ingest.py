"""`openclef ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options


def ingest(
    source: options.Source,
    out: Annotated[Path, typer.Argument(help="Cohort folder to write; run again to resume.")],
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
    recipe_name: Annotated[
        str | None,
        typer.Option("--recipe", help="Take the shares of the splits from it: demo or tiny."),
    ] = None,
) -> None:
    """Read a data set into a cohort: spectrograms, quality, labels, reports and records."""
    from openclef.cohort.splits import SplitConfig

    splits = SplitConfig()
    if recipe_name is not None:
        from openclef.recipes import get_recipe

        splits = get_recipe(recipe_name).splits
    runs_on = options.make_engine(engine, workers=workers, address=address)
    from openclef.cohort.ingest import QUALITY_PAGE
    from openclef.cohort.ingest import ingest as read
    from openclef.cohort.store import Cohort
    from openclef.recipes.simulated import open_data_set

    config = options.ingest_config(
        crop=crop, windows=windows, seed=seed, unit=unit, line_hz=line_hz, labels=label,
        splits=splits,
    )  # fmt: skip
    found, runs_on = open_data_set(source, out, layout=layout, labels=config.labels, engine=runs_on)
    config = options.settle_crop(config, crop, layout=found.layout)
    typer.echo(f"{len(found.sessions)} recordings, layout {found.layout}")
    if found.n_missing:
        typer.echo(f"{found.n_missing} recordings are listed in its tables but not on disk")
    if (out / "manifest.json").exists():
        typer.echo("complete already; a data set that has changed since needs another folder")
    read(found, out, config=config, engine=runs_on)
    cohort = Cohort(out)
    if config.crop != "none":
        longest_s = float(cohort.sessions["duration_s"].to_numpy().max())
        typer.echo(f"cropped to at most {longest_s:g} s (--crop)")
    n_errors = cohort.table("errors").height
    typer.echo(
        f"{cohort.sessions.height} sessions of {cohort.sessions['subject_id'].n_unique()} "
        f"patients, {cohort.windows.height} windows in {out}"
    )
    if n_errors:
        typer.echo(f"{n_errors} files could not be used: {out / 'errors.parquet'}")
    typer.echo(f"quality: {out / QUALITY_PAGE}")
