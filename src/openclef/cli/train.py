"""`openclef train tokenizer | encoder | align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options

app = typer.Typer(help="Train a stage: tokenizer, encoder or align.", no_args_is_help=True)

Cohort = Annotated[Path, typer.Argument(help="Cohort folder.")]
Tokens = Annotated[Path, typer.Argument(help="Tokens folder.")]
Out = Annotated[Path, typer.Argument(help="Folder to write.")]


@app.command(epilog="Example: openclef train tokenizer runs/a/cohort runs/a/tokenizer")
def tokenizer(cohort: Cohort, out: Out, recipe_name: options.RecipeName = "demo") -> None:
    """Train the tokenizer on the cohort's train patients."""
    from openclef.cohort import store
    from openclef.recipes import get_recipe
    from openclef.tokenizer.train import train_tokenizer

    train_tokenizer(store.Cohort(cohort), out, config=get_recipe(recipe_name).tokenizer)
    typer.echo(f"tokenizer: {out}")


@app.command(epilog="Example: openclef train encoder runs/a/cohort runs/a/tokens runs/a/encoder")
def encoder(
    cohort: Cohort, tokens: Tokens, out: Out, recipe_name: options.RecipeName = "demo"
) -> None:
    """Train the encoder by masked reconstruction on the train patients' tokens."""
    from openclef.cohort import store
    from openclef.encoder.train import train_encoder
    from openclef.recipes import get_recipe
    from openclef.tokenizer.tokens import TokenTable

    table = TokenTable(tokens, store.Cohort(cohort))
    train_encoder(table, out, config=get_recipe(recipe_name).encoder)
    typer.echo(f"encoder: {out}")


@app.command(
    epilog="Example: openclef train align runs/a/cohort runs/a/tokens runs/a/encoder runs/a/aligned"
)
def align(
    cohort: Cohort,
    tokens: Tokens,
    encoder_folder: Annotated[Path, typer.Argument(metavar="ENCODER", help="Encoder folder.")],
    out: Out,
    recipe_name: options.RecipeName = "demo",
) -> None:
    """Align the encoder with the train patients' reports and records."""
    from openclef.alignment.train import align as fit
    from openclef.cohort import store
    from openclef.recipes import get_recipe
    from openclef.tokenizer.tokens import TokenTable

    data = store.Cohort(cohort)
    table = TokenTable(tokens, data)
    fit(data, table, encoder_folder, out, config=get_recipe(recipe_name).alignment)
    typer.echo(f"aligned encoder: {out}")
