"""`openclef embed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from openclef.cli import options
from openclef.errors import OpenclefError, choose

if TYPE_CHECKING:
    from openclef.encoder.attention_pool import WindowPooling


def embed(
    source: Annotated[Path, typer.Argument(help="One recording, or a cohort folder.")],
    model: Annotated[
        Path,
        typer.Option(
            help="Model folder, as pack or run writes it; with --tokens, an encoder's folder."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Parquet file (of a recording) or folder (of a cohort).")
    ],
    unit: options.Unit = None,
    tokens: Annotated[
        Path | None,
        typer.Option(help="Tokens folder of the cohort: embed these, without the train patients."),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="With --tokens: mean, rows, moments, class or attention. Default: attention with "
            "--pool, else moments."
        ),
    ] = None,
    layer: Annotated[
        int, typer.Option(min=-1, help="With --tokens: of the encoder; -1: the last, normed.")
    ] = -1,
    pool: Annotated[
        Path | None,
        typer.Option(help="With --tokens: a pool over tokens or rows (train pool)."),
    ] = None,
    aggregator: Annotated[
        Path | None,
        typer.Option(
            help="With --tokens: a pool over windows, to make a session's vector of theirs."
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="With --tokens: features folder, if the encoder reads it."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="With --tokens: what a benchmark calls it. Default: clef, with --pool "
            "or --aggregator clef_labelled_pool, since these have seen labels."
        ),
    ] = None,
) -> None:
    """Embed one recording into a Parquet file, or a whole cohort into an embeddings folder."""
    if not source.exists():
        raise OpenclefError(f"{source}: no such file or folder")
    if tokens is not None:
        if not source.is_dir():
            raise OpenclefError(f"{source}: a file; --tokens are of a cohort folder")
        if unit is not None:
            raise OpenclefError(f"--unit {unit}: of a recording; tokens have none")
        _embed_tokens(
            source, model, out, tokens=tokens, pooling=pooling, layer=layer, pool=pool,
            aggregator=aggregator, features=features, name=name,
        )  # fmt: skip
        return
    of_tokens = {
        "--pooling": pooling, "--layer": None if layer == -1 else layer, "--pool": pool,
        "--aggregator": aggregator, "--features": features, "--name": name,
    }  # fmt: skip
    for option, given in of_tokens.items():
        if given is not None:
            raise OpenclefError(f"{option} {given}: give --tokens too; a packed model has its own")
    _embed_packed(source, model, out, unit=unit)


def _embed_tokens(
    source: Path,
    encoder: Path,
    out: Path,
    *,
    tokens: Path,
    pooling: str | None,
    layer: int,
    pool: Path | None,
    aggregator: Path | None,
    features: Path | None,
    name: str | None,
) -> None:
    from openclef.cohort.store import Cohort
    from openclef.encoder.attention_pool import POOLINGS
    from openclef.encoder.embed import embed_tokens
    from openclef.tokenizer.features import FeatureTable
    from openclef.tokenizer.token_table import TokenTable

    chosen = choose(pooling or ("attention" if pool else "moments"), POOLINGS, "pooling")
    cohort = Cohort(source)
    embed_tokens(
        encoder,
        TokenTable(tokens, cohort),
        out,
        model=name or ("clef_labelled_pool" if pool or aggregator else "clef"),
        pooling=cast("WindowPooling", chosen),
        layer=layer,
        cohort=cohort,
        features=FeatureTable(features) if features else None,
        pool_folder=pool,
        aggregator_folder=aggregator,
    )
    typer.echo(f"embeddings: {out}")


def _embed_packed(source: Path, model: Path, out: Path, *, unit: str | None) -> None:
    from openclef.embed_model import embed_cohort, embed_file
    from openclef.model import CLEF

    clef = CLEF.from_pretrained(model)
    if source.is_dir():
        from openclef.cohort.store import Cohort

        embed_cohort(clef, Cohort(source), out)
        typer.echo(f"embeddings: {out}")
        return
    if out.exists():
        raise OpenclefError(f"{out}: exists; choose another output file")
    embedding = embed_file(clef, source, out, unit=unit)
    n_windows, width = embedding.windows.shape
    typer.echo(f"{n_windows} windows of {width} numbers: {out}")
