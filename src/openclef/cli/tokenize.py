"""`openclef tokenize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tokenize(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder.")],
    tokenizer: Annotated[Path, typer.Argument(help="Tokenizer folder.")],
    out: Annotated[Path, typer.Argument(help="Tokens folder to write.")],
) -> None:
    """Turn every window of a cohort into discrete tokens."""
    from openclef.cohort.store import Cohort
    from openclef.tokenizer.tokens import tokenize_cohort

    tokenize_cohort(Cohort(cohort), tokenizer, out)
    typer.echo(f"tokens: {out}")
