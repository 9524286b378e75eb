"""`openclef ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options


def ingest(
    source: options.Source,
    out: Annotated[Path, typer.Argument(help="Cohort folder to write.")],
    layout: options.Layout = "auto",
    label: options.Labels = None,
    crop: options.Crop = "auto",
    workers: options.Workers = 2,
    recipe_name: options.RecipeName = "demo",
) -> None:
    """Read a data set into a cohort: spectrograms, sessions, labels, reports and records."""
    from openclef.cohort.ingest import IngestConfig
    from openclef.cohort.ingest import ingest as read
    from openclef.cohort.layouts import read_source
    from openclef.cohort.store import Cohort
    from openclef.recipes import get_recipe

    found = read_source(source, layout=layout, labels=label or ())
    config = IngestConfig(
        crop=options.parse_crop(crop, found.layout), splits=get_recipe(recipe_name).splits
    )
    read(found, out, config=config, n_workers=workers)
    cohort = Cohort(out)
    typer.echo(
        f"{cohort.sessions.height} sessions of {cohort.sessions['subject_id'].n_unique()} patients "
        f"in {out}; {cohort.table('errors').height} recordings could not be read"
    )
