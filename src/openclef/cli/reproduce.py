"""`openclef reproduce tokenizer`: remake a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Make a table of the paper, or of this project, again.", no_args_is_help=True
)


@app.callback()
def main() -> None:
    """Make a table of the paper, or of this project, again."""


@app.command(epilog="Example: openclef reproduce tokenizer runs/a/cohort runs/ablation --seed 0")
def tokenizer(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder, with findings.")],
    out: Annotated[Path, typer.Argument(help="Folder of tokenizers and tables; resumes.")],
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="Tokenizer to compare; again for more. Without: small and its ablations."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the training; again for more. Without: 0.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Simulated hospital of the cohort: probe the true side.")
    ] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="COHORT", help="Cohort to measure R2 and error on as well; again for more."
        ),
    ] = None,
) -> None:
    """What tokenizers keep: explained variance, use of codes, AUROC of findings, laterality."""
    import polars as pl

    from openclef.artefact import atomic
    from openclef.benchmark.laterality import true_sides
    from openclef.cohort import store
    from openclef.recipes.ablation import ablate_tokenizers
    from openclef.recipes.tokenizers import ABLATIONS, get_tokenizer

    names = recipe or ["small", *(f"small-{name}" for name in ABLATIONS)]
    for name in names:
        get_tokenizer(name)  # a misspelt one is told before anything is trained
    data = store.Cohort(cohort)
    found = ablate_tokenizers(
        data, out, names=names, seeds=seed or [0], say=typer.echo,
        sides=None if truth is None else true_sides(truth, data),
        also=[store.Cohort(folder) for folder in also or []],
    )  # fmt: skip
    tables = {"tokenizers": found.runs, "summary": found.summary, "elsewhere": found.elsewhere}
    written = {out / f"{name}.csv": table for name, table in tables.items() if not table.is_empty()}
    for path, table in written.items():
        with atomic(path) as temporary:
            table.write_csv(temporary, float_precision=4)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, float_precision=3, tbl_width_chars=200):
        typer.echo(found.summary)
    typer.echo(f"tables: {', '.join(map(str, written))}")
