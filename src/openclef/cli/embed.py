"""`openclef embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options
from openclef.errors import OpenclefError


def embed(
    source: Annotated[Path, typer.Argument(help="One recording, or a cohort folder.")],
    model: Annotated[Path, typer.Option(help="Model folder, as pack or run writes it.")],
    out: Annotated[
        Path, typer.Option(help="Parquet file (of a recording) or folder (of a cohort).")
    ],
    unit: options.Unit = None,
) -> None:
    """Embed one recording into a Parquet file, or a whole cohort into an embeddings folder."""
    from openclef.model import CLEF, embed_cohort, embed_file

    if not source.exists():
        raise OpenclefError(f"{source}: no such file or folder")
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
