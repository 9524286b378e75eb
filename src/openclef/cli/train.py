"""`openclef train tokenizer | features | encoder | align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options

app = typer.Typer(
    help="Train a stage: tokenizer, features, encoder or align.", no_args_is_help=True
)

Cohort = Annotated[Path, typer.Argument(help="Cohort folder.")]
Tokens = Annotated[Path, typer.Argument(help="Tokens folder.")]
Out = Annotated[Path, typer.Argument(help="Folder to write.")]


@app.command(epilog="Example: openclef train tokenizer runs/a/cohort runs/a/tokenizer")
def tokenizer(
    cohort: Cohort,
    out: Out,
    recipe_name: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="demo, small, base, or small with one thing changed, such as small-plain-l1.",
        ),
    ] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
) -> None:
    """Train the tokenizer on the cohort's train patients."""
    from openclef.cohort import store
    from openclef.recipes.recipe import changed
    from openclef.recipes.tokenizers import get_tokenizer
    from openclef.tokenizer.train import train_tokenizer

    config = get_tokenizer(recipe_name)
    config = changed(config, train=changed(config.train, seed=seed))
    train_tokenizer(store.Cohort(cohort), out, config=config)
    _end(f"tokenizer: {out}")


@app.command(
    epilog="Example: openclef train features runs/a/cohort runs/a/tokenizer runs/a/tokens "
    "runs/a/features"
)
def features(
    cohort: Cohort,
    tokenizer_folder: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Its folder.")],
    tokens: Tokens,
    out: Out,
    patch_dim: Annotated[int, typer.Option(min=1, help="Numbers kept of each patch.")] = 32,
) -> None:
    """Write what tokens were before they were integers, for encoders that read or predict it.

    Whitened patches are fitted on the train patients.
    """
    from openclef.cohort import store
    from openclef.tokenizer.features import FeaturesConfig, extract_features
    from openclef.tokenizer.token_table import TokenTable

    data = store.Cohort(cohort)
    config = FeaturesConfig(patch_dim=patch_dim)
    extract_features(data, tokenizer_folder, TokenTable(tokens, data), out, config=config)
    _end(f"features: {out}")


@app.command(epilog="Example: openclef train encoder runs/a/cohort runs/a/tokens runs/a/encoder")
def encoder(
    cohort: Cohort,
    tokens: Tokens,
    out: Out,
    recipe_name: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="demo, small, medium, base, or demo with one thing changed, such as "
            "demo-mask-token.",
        ),
    ] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    features_folder: Annotated[
        Path | None,
        typer.Option("--features", help="Features folder, for recipes with latents or patches."),
    ] = None,
) -> None:
    """Train the encoder by masked reconstruction on the train patients' tokens."""
    from openclef.cohort import store
    from openclef.encoder.train import train_encoder
    from openclef.recipes.encoders import for_tokens, get_encoder
    from openclef.recipes.recipe import changed
    from openclef.tokenizer.features import FeatureTable
    from openclef.tokenizer.token_table import TokenTable

    config = get_encoder(recipe_name)
    config = changed(config, train=changed(config.train, seed=seed))
    data = store.Cohort(cohort)
    table = TokenTable(tokens, data)
    companions = FeatureTable(features_folder) if features_folder else None
    config = for_tokens(config, table)
    train_encoder(table, out, config=config, cohort=data, features=companions)
    _end(f"encoder: {out}")


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
    from openclef.tokenizer.token_table import TokenTable

    data = store.Cohort(cohort)
    table = TokenTable(tokens, data)
    fit(data, table, encoder_folder, out, config=get_recipe(recipe_name).alignment)
    _end(f"aligned encoder: {out}")


def _end(message: str) -> None:
    """Tell the outcome once, and let the other processes of torchrun go."""
    from openclef.training import distributed

    if distributed.rank() == 0:
        typer.echo(message)
    distributed.stop()
