"""`openclef demo`: simulate a hospital, then run every stage on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo; run again to resume.")] = Path(
        "runs/demo"
    ),
    patients: Annotated[int, typer.Option(min=4, help="Simulated patients.")] = 220,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated hospital.")] = 0,
    recipe_name: options.RecipeName = "demo",
    workers: options.Workers = 2,
) -> None:
    """Simulate a hospital, train a model on it, align it, test it; no data of yours is needed."""
    from openclef.cli.run import show
    from openclef.cohort.engine import LocalEngine
    from openclef.cohort.ingest import IngestConfig
    from openclef.recipes import get_recipe, pipeline
    from openclef.recipes.simulated import open_data_set
    from openclef.simulate import SimulationConfig, simulate

    recipe = get_recipe(recipe_name)
    if not (out / "hospital").exists():
        pipeline.check_output(out)
    typer.echo(f"simulate: {patients} patients")
    simulate(
        out / "hospital",
        config=SimulationConfig(n_patients=patients, seed=seed),
        n_workers=workers,
        recordings=False,
    )
    source, engine = open_data_set(
        out / "hospital", out / pipeline.COHORT, layout="bids", labels=(),
        engine=LocalEngine(n_workers=workers),
    )  # fmt: skip
    result = pipeline.run(
        source,
        out,
        recipe=recipe,
        ingest_config=IngestConfig(splits=recipe.splits),
        engine=engine,
        say=typer.echo,
    )
    show(result)
