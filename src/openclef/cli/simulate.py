"""`openclef simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write the data set to.")],
    patients: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 320,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    minutes: Annotated[
        float, typer.Option(min=0.5, help="Length of each session; 21 min 20 s is one window.")
    ] = 1280 / 60,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Simulate a hospital: BIDS recordings, MEDS records and report texts, with known truth."""
    from openclef.simulate import SimulationConfig
    from openclef.simulate import simulate as make

    config = SimulationConfig(n_patients=patients, seed=seed, duration_s=round(minutes * 60))
    make(out, config=config, n_workers=workers)
    typer.echo(f"simulated hospital: {out}")
