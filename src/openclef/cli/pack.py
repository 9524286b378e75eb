"""`openclef pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options


def pack(
    tokenizer: Annotated[Path, typer.Argument(help="Tokenizer folder.")],
    encoder: Annotated[Path, typer.Argument(help="Encoder folder, or aligned folder.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    recipe_name: options.RecipeName = "demo",
    pooling: Annotated[
        str | None, typer.Option(help="mean, rows, moments or class. Default: the recipe's.")
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="Of the encoder; -1: the last, normed. Default: the recipe's."),
    ] = None,
) -> None:
    """Pack a tokenizer and an encoder into one model folder, for `embed` and from_pretrained."""
    from openclef.encoder.pooling import get_pooling
    from openclef.model import pack as write
    from openclef.recipes import get_recipe

    recipe = get_recipe(recipe_name)
    write(
        tokenizer, encoder, out,
        pooling=recipe.pooling if pooling is None else get_pooling(pooling),
        layer=recipe.layer if layer is None else layer,
    )  # fmt: skip
    typer.echo(f"model: {out}")
