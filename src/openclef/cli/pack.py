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
) -> None:
    """Pack a tokenizer and an encoder into one model folder, for `embed` and from_pretrained."""
    from openclef.model import pack as write
    from openclef.recipes import get_recipe

    write(tokenizer, encoder, out, pooling=get_recipe(recipe_name).pooling)
    typer.echo(f"model: {out}")
