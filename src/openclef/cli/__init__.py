"""The command line: one module a verb. Heavy imports live inside the verbs, so help is instant."""

from __future__ import annotations

import sys

import typer

from openclef.cli import (
    benchmark,
    demo,
    embed,
    ingest,
    inspect,
    pack,
    reproduce,
    run,
    simulate,
    tokenize,
    train,
)
from openclef.errors import OpenclefError

_INTERRUPTED = 130
app = typer.Typer(
    name="openclef",
    help="Whole clinical EEG sessions, reports and health records in one embedding.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo", epilog="Example: openclef demo --out runs/demo")(demo.demo)
app.command(
    "run",
    epilog="Example: openclef run DATA --layout folder --label diagnosis --out runs/mine",
)(run.run)
app.command("simulate", epilog="Example: openclef simulate hospital --patients 40 --seed 1")(
    simulate.simulate
)
app.command("ingest", epilog="Example: openclef ingest hospital runs/a/cohort --workers 2")(
    ingest.ingest
)
app.add_typer(train.app, name="train")
app.command(
    "tokenize", epilog="Example: openclef tokenize runs/a/cohort runs/a/tokenizer runs/a/tokens"
)(tokenize.tokenize)
app.add_typer(inspect.app, name="inspect")
app.add_typer(reproduce.app, name="reproduce")
app.command("pack", epilog="Example: openclef pack runs/a/tokenizer runs/a/aligned runs/a/model")(
    pack.pack
)
app.command(
    "embed", epilog="Example: openclef embed session.edf --model runs/a/model --out e.parquet"
)(embed.embed)
app.command(
    "benchmark",
    epilog="Example: openclef benchmark runs/a/cohort runs/a/embeddings/clef_aligned "
    "runs/a/embeddings/band_power --out runs/a/benchmark",
)(benchmark.benchmark)


def main() -> None:
    """Entry point: an error of the user's is one line on stderr and exit code 2."""
    try:
        app()
    except OpenclefError as error:
        _stop(str(error), 2)
    except OSError as error:
        _stop(f"{error.filename or 'input/output'}: {error.strerror or error}", 2)
    except SystemExit as ended:
        if ended.code != _INTERRUPTED:  # how Typer tells of Ctrl-C
            raise
        _stop("interrupted; the same command goes on from here", _INTERRUPTED)


def _stop(message: str, code: int) -> None:
    print(f"openclef: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
