"""`openclef inspect tokenizer | encoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look into an artefact.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Look into an artefact."""


@app.command(
    epilog="Example: openclef inspect tokenizer runs/a/tokenizer runs/a/cohort tokenizer.html"
)
def tokenizer(
    folder: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Tokenizer folder.")],
    cohort: Annotated[Path, typer.Argument(help="Cohort folder.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.html", help="Page to write; numbers go to OUT.parquet.")
    ],
    split: Annotated[
        str, typer.Option(help="Of the sessions: train, probe, tuning or held_out.")
    ] = "held_out",
    windows: Annotated[int, typer.Option(min=1, help="Windows to look at, at random.")] = 200,
    examples: Annotated[int, typer.Option(min=0, help="Windows to show.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of windows.")] = 0,
) -> None:
    """Show what a tokenizer keeps: reconstructions, errors, codes and failures on one page."""
    from openclef.cohort.store import Cohort
    from openclef.recipes.inspect_tokenizer import inspect_tokenizer

    numbers = inspect_tokenizer(
        folder, Cohort(cohort), out, split=split, n_windows=windows, n_examples=examples, seed=seed
    )
    typer.echo(f"page:    {out}")
    typer.echo(f"numbers: {numbers}")


@app.command(
    epilog="Example: openclef inspect encoder runs/a/encoder runs/a/tokenizer runs/a/cohort "
    "runs/a/tokens encoder.html"
)
def encoder(
    folder: Annotated[
        Path, typer.Argument(metavar="ENCODER", help="Encoder folder, aligned or not.")
    ],
    tokenizer: Annotated[Path, typer.Argument(help="Folder of the tokenizer it was trained with.")],
    cohort: Annotated[Path, typer.Argument(help="Cohort folder.")],
    tokens: Annotated[Path, typer.Argument(help="Tokens folder of that cohort and tokenizer.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.html", help="Page to write; numbers go to OUT.parquet.")
    ],
    features: Annotated[
        Path | None,
        typer.Option(help="Features folder of these tokens, if the encoder reads it."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Of the sessions: train, probe, tuning or held_out.")
    ] = "held_out",
    ratio: Annotated[float, typer.Option(help="Of the visible tokens that are masked.")] = 0.75,
    examples: Annotated[int, typer.Option(min=0, help="Windows to show.")] = 3,
    windows: Annotated[int, typer.Option(min=1, help="Windows to measure, at random.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of windows and of masks.")] = 0,
) -> None:
    """Show what an encoder makes of masked tokens: reconstructions and errors on one page."""
    from openclef.cohort.store import Cohort
    from openclef.recipes.inspect_encoder import inspect_encoder
    from openclef.tokenizer.features import FeatureTable
    from openclef.tokenizer.token_table import TokenTable

    store = Cohort(cohort)
    numbers = inspect_encoder(
        folder, tokenizer, store, TokenTable(tokens, store), out,
        features=None if features is None else FeatureTable(features),
        split=split, ratio=ratio, n_examples=examples, n_windows=windows, seed=seed,
    )  # fmt: skip
    typer.echo(f"page:    {out}")
    typer.echo(f"numbers: {numbers}")
