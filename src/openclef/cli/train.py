"""`openclef train tokenizer | features | encoder | align | pool`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options
from openclef.errors import OpenclefError, choose

app = typer.Typer(
    help="Train a stage: tokenizer, features, encoder, align or pool.", no_args_is_help=True
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
    settings: options.Settings = None,
) -> None:
    """Train the tokenizer on the cohort's train patients."""
    from openclef.cohort import store
    from openclef.recipes.recipe import changed, with_settings
    from openclef.recipes.tokenizers import get_tokenizer
    from openclef.tokenizer.train import train_tokenizer

    config = get_tokenizer(recipe_name)
    config = changed(config, train=changed(config.train, seed=seed))
    config = with_settings(config, settings or [])
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
    whitener: Annotated[
        Path | None,
        typer.Option(
            help="Encoder or features folder whose whitener to use: for an encoder that was "
            "trained on another cohort."
        ),
    ] = None,
) -> None:
    """Write what tokens were before they were integers, for encoders that read or predict it.

    Patches are whitened by train patients, or as `--whitener` says.
    """
    from openclef.cohort import store
    from openclef.tokenizer.features import FeaturesConfig, extract_features
    from openclef.tokenizer.token_table import TokenTable

    data = store.Cohort(cohort)
    config = FeaturesConfig(patch_dim=patch_dim)
    extract_features(
        data, tokenizer_folder, TokenTable(tokens, data), out, config=config,
        whitener_folder=whitener,
    )  # fmt: skip
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
    settings: options.Settings = None,
) -> None:
    """Train the encoder by masked reconstruction on the train patients' tokens."""
    from openclef.cohort import store
    from openclef.encoder.train import train_encoder
    from openclef.recipes.encoders import for_tokens, get_encoder
    from openclef.recipes.recipe import changed, with_settings
    from openclef.tokenizer.features import FeatureTable
    from openclef.tokenizer.token_table import TokenTable

    config = get_encoder(recipe_name)
    config = changed(config, train=changed(config.train, seed=seed))
    data = store.Cohort(cohort)
    table = TokenTable(tokens, data)
    companions = FeatureTable(features_folder) if features_folder else None
    config = with_settings(for_tokens(config, table, companions), settings or [])
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
    settings: options.Settings = None,
) -> None:
    """Align the encoder with the train patients' reports and records."""
    from openclef.alignment.train import align as fit
    from openclef.cohort import store
    from openclef.recipes import get_recipe
    from openclef.recipes.recipe import with_settings
    from openclef.tokenizer.token_table import TokenTable

    data = store.Cohort(cohort)
    table = TokenTable(tokens, data)
    config = with_settings(get_recipe(recipe_name).alignment, settings or [])
    fit(data, table, encoder_folder, out, config=config)
    _end(f"aligned encoder: {out}")


@app.command(
    epilog="Example: openclef train pool runs/a/cohort runs/a/tokens runs/a/encoder runs/a/pool"
)
def pool(
    cohort: Cohort,
    tokens: Tokens,
    encoder_folder: Annotated[Path, typer.Argument(metavar="ENCODER", help="Encoder folder.")],
    out: Out,
    over: Annotated[
        str, typer.Option(help="What is pooled: tokens or rows of a window, windows of a session.")
    ] = "tokens",
    pooling: Annotated[
        str | None,
        typer.Option(help="Of --over windows: mean, rows, moments (default), class or attention."),
    ] = None,
    layer: Annotated[int, typer.Option(min=-1, help="Of the encoder; -1: the last, normed.")] = -1,
    pool_folder: Annotated[
        Path | None, typer.Option("--pool", help="Pool folder, of --pooling attention.")
    ] = None,
    features_folder: Annotated[
        Path | None, typer.Option("--features", help="Features folder, if the encoder reads it.")
    ] = None,
    min_patients: Annotated[
        int, typer.Option(min=1, help="Train patients of either class that a task needs.")
    ] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
) -> None:
    """Train attention pooling with the train patients' findings and labels; the encoder stays.

    What it pools has seen labels, unlike every other embedding: say so beside its numbers.
    """
    from openclef.cohort import store
    from openclef.encoder.attention_pool import OVER, POOLINGS, PoolConfig
    from openclef.encoder.train_pool import PoolStage, train_attention_pool
    from openclef.recipes.recipe import changed
    from openclef.tokenizer.features import FeatureTable
    from openclef.tokenizer.token_table import TokenTable

    choose(over, OVER, "set to pool")
    if over == "windows":
        pooling = choose(pooling or "moments", POOLINGS, "pooling")
    elif pooling is not None:
        raise OpenclefError(f"--pooling {pooling}: only --over windows has one, not {over}")
    model = PoolConfig.model_validate({"over": over, "pooling": pooling, "layer": layer})
    config = PoolStage(model=model, min_patients=min_patients)
    config = changed(config, train=changed(config.train, seed=seed))
    data = store.Cohort(cohort)
    train_attention_pool(
        data, TokenTable(tokens, data), encoder_folder, out, config=config,
        features=FeatureTable(features_folder) if features_folder else None,
        pool_folder=pool_folder,
    )  # fmt: skip
    _end(f"pool: {out}")


def _end(message: str) -> None:
    """Tell the outcome once, and let the other processes of torchrun go."""
    from openclef.training import distributed

    if distributed.rank() == 0:
        typer.echo(message)
    distributed.stop()
