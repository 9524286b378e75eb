"""`openclef tokenize`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from openclef.cli import options


def tokenize(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder.")],
    tokenizer: Annotated[Path, typer.Argument(help="Tokenizer folder.")],
    out: Annotated[Path, typer.Argument(help="Tokens folder to write; run again to resume.")],
    shard: Annotated[
        str | None,
        typer.Option(
            help="i/n: every n-th part from the i-th; the last shard to end finishes. Default: "
            "all, or under torchrun each process its share."
        ),
    ] = None,
) -> None:
    """Turn every window of a cohort into discrete tokens."""
    share = options.parse_shard(shard) or _share_of_process()
    from openclef.cohort import store
    from openclef.tokenizer.tokens import failures, missing_parts, tokenize_cohort

    windows = store.Cohort(cohort)
    made = tokenize_cohort(windows, tokenizer, out, shard=share)
    if not made.is_complete:
        n_missing = len(missing_parts(out, windows))
        typer.echo(
            f"{out}: shard {share[0]}/{share[1]} is made; {n_missing} parts are still to be made "
            "by others"
        )
        return
    n_failed = failures(out).height
    if n_failed:
        typer.echo(f"{n_failed} windows have no tokens: column error of {out}/part-*.parquet")
    typer.echo(f"tokens: {out}")


def _share_of_process() -> tuple[int, int]:
    """(i, n) of this process among those that torchrun started."""
    return int(os.environ.get("RANK", "0")) + 1, int(os.environ.get("WORLD_SIZE", "1"))
