"""`openclef reproduce tokenizer | encoder | scaling`: remake a table.

OUT is of one verb and one cohort. Tables are of what a call asks for; no run drops out of the
tables of an earlier call: see `_end`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(
    help="Make a table of the paper, or of this project, again.", no_args_is_help=True
)


_KEEPS = (
    "Tables are of what this call asks for; if those there have further runs, they stay, and this "
    "call's go to a subfolder tables-<hash of its runs>."
)


@app.callback()
def main() -> None:
    """Make a table of the paper, or of this project, again."""


@app.command(epilog="Example: openclef reproduce tokenizer runs/a/cohort runs/ablation --seed 0")
def tokenizer(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder, with findings.")],
    out: Annotated[
        Path, typer.Argument(help=f"Folder of tokenizers and tables; resumes. {_KEEPS}")
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="Tokenizer to compare; again for more. Without: small and its ablations."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the training; again for more. Without: 0.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Simulated hospital of the cohort: probe the true side.")
    ] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="COHORT", help="Cohort to measure R2 and error on as well; again for more."
        ),
    ] = None,
) -> None:
    """What tokenizers keep: explained variance, use of codes, AUROC of findings, laterality."""
    from openclef.benchmark.laterality import true_sides
    from openclef.cohort import store
    from openclef.recipes.ablation import ablate_tokenizers
    from openclef.recipes.tokenizers import ABLATIONS, get_tokenizer

    names = recipe or ["small", *(f"small-{name}" for name in ABLATIONS)]
    for name in names:
        get_tokenizer(name)  # a misspelt one is told before anything is trained
    data = store.Cohort(cohort)
    found = ablate_tokenizers(
        data, out, names=names, seeds=seed or [0], say=typer.echo,
        sides=None if truth is None else true_sides(truth, data),
        also=[store.Cohort(folder) for folder in also or []],
    )  # fmt: skip
    tables = {"tokenizers": found.runs, "summary": found.summary, "elsewhere": found.elsewhere}
    _end(out, tables, ("tokenizer", "seed"), found.summary)


@app.command(
    epilog="Example: openclef reproduce encoder runs/a/cohort runs/a/tokens runs/encoders "
    "--recipe demo --recipe demo-no-dropping --seed 0 --seed 1 --seed 2"
)
def encoder(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder, with labels.")],
    tokens: Annotated[Path, typer.Argument(help="Tokens folder.")],
    out: Annotated[Path, typer.Argument(help=f"Folder of encoders and tables; resumes. {_KEEPS}")],
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Encoder to compare; again for more. Without: demo."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the training; again for more. Without: 0.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Features folder, for recipes with latents or patches.")
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Embeddings to compare with besides the hand-crafted; again."
        ),
    ] = None,
    recordings: Annotated[
        Path | None,
        typer.Option(
            help="Data set that the cohort was ingested from: read again for one more reference, "
            "riemannian (extra: rivals)."
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Reference that encoders are read beside, too; again. Without: spectrum_mean_sd.",
        ),
    ] = None,
    pooling: Annotated[
        list[str] | None,
        typer.Option(
            help="mean, rows, moments or class; again for more. Without: moments and mean."
        ),
    ] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(help="Layer to read, -1 the last; again for more. Without: -1."),
    ] = None,
) -> None:
    """What encoders know, trained, untrained and beside hand-crafted numbers: AUROC by category."""
    import polars as pl

    from openclef.cohort import store
    from openclef.encoder.pooling import get_pooling
    from openclef.recipes.encoder_ablation import SPECTRUM, ablate_encoders
    from openclef.tokenizer.features import FeatureTable
    from openclef.tokenizer.token_table import TokenTable

    poolings = [get_pooling(name) for name in pooling or ["moments", "mean"]]
    data = store.Cohort(cohort)
    found = ablate_encoders(
        data, TokenTable(tokens, data), out, names=recipe or ["demo"], seeds=seed or [0],
        features=FeatureTable(features) if features else None, references=reference or [],
        recordings=recordings, beside=beside or [SPECTRUM], poolings=poolings,
        layers=layer or [-1], say=typer.echo,
    )  # fmt: skip
    tables = {
        "encoders": found.runs, "summary": found.summary, "differences": found.differences,
        "comparisons": found.comparisons,
    }  # fmt: skip
    keys = ("encoder", "kind", "seed", "pooling", "layer")
    _end(out, tables, keys, found.summary, found.comparisons.filter(pl.col("is_best")))


@app.command(
    epilog="Example: openclef reproduce scaling runs/a/cohort runs/a/tokens runs/scaling --seed 0"
)
def scaling(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder, with findings.")],
    tokens: Annotated[Path, typer.Argument(help="Tokens folder.")],
    out: Annotated[Path, typer.Argument(help=f"Folder of encoders and tables; resumes. {_KEEPS}")],
    size: Annotated[
        list[str] | None,
        typer.Option(help="Encoder; again for more. Without: demo-w32 to demo-w192."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="Of the train patients; again for more. Without: 1/8, 1/4, 1/2 and 1."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the training; again for more. Without: 0.")
    ] = None,
    n_steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps of a run. Without: the encoder's.")
    ] = None,
) -> None:
    """What more parameters and more data bring: cross-entropy, AUROC of findings, a curve."""
    import polars as pl

    from openclef.artefact import atomic
    from openclef.cohort import store
    from openclef.recipes.encoders import WIDTHS
    from openclef.recipes.scaling import SHARES, scaling_study
    from openclef.tokenizer.token_table import TokenTable

    data = store.Cohort(cohort)
    found = scaling_study(
        data, TokenTable(tokens, data), out, sizes=size or tuple(WIDTHS), shares=share or SHARES,
        seeds=seed or [0], n_steps=n_steps, say=typer.echo,
    )  # fmt: skip
    tables = {
        "runs": found.runs, "by_size": found.by_size, "by_data": found.by_data,
        "law": found.law.table if found.law else pl.DataFrame(),
    }  # fmt: skip
    shown = found.summary.select(
        "size", "train_share", pl.col("n_parameters", "n_train_windows", "n_steps").cast(pl.Int64),
        "n_seeds", "cross_entropy", "cross_entropy_se", "share", "finding", "finding_low",
        "finding_high",
    )  # fmt: skip
    where = _end(out, tables, ("size", "train_share", "seed"), shown)
    with atomic(where / "scaling.png") as temporary:
        temporary.write_bytes(found.figure.data)
    typer.echo(f"figure: {where / 'scaling.png'}")
    typer.echo(found.statement)


def _end(
    out: Path, tables: dict[str, pl.DataFrame], keys: Sequence[str], *shown: pl.DataFrame
) -> Path:
    """Write the tables that have rows, remove those that have none now, and print some.

    The first one's rows are runs, told apart by `keys`. If its like in `out` has others besides,
    all tables there stay, and these go to a folder of their own, named by their runs.

    Returns the folder.
    """
    import polars as pl

    from openclef.artefact import atomic, hash_json

    name, table = next(iter(tables.items()))
    runs = _as_text(table.write_csv(float_precision=4).encode(), keys)
    where = out
    if (out / f"{name}.csv").exists():
        earlier = _as_text(out / f"{name}.csv", keys)
        n_more = earlier.join(runs, on=keys, how="anti", nulls_equal=True).height
        if n_more:
            where = out / f"tables-{hash_json(sorted(map(str, runs.rows())))[:12]}"
            typer.echo(f"{out}: keeps its tables, which have {n_more} rows of other runs")
    for name, table in tables.items():
        path = where / f"{name}.csv"
        if table.is_empty():
            path.unlink(missing_ok=True)
            continue
        with atomic(path) as temporary:
            table.write_csv(temporary, float_precision=4)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, float_precision=3, tbl_width_chars=200):
        for table in shown:
            typer.echo(table)
    written = [name for name, table in tables.items() if not table.is_empty()]
    typer.echo(f"tables: {', '.join(str(where / f'{name}.csv') for name in written)}")
    return where


def _as_text(source: Path | bytes, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of a CSV table as they are written: a rounded number equals itself."""
    import polars as pl

    return pl.read_csv(source, infer_schema=False).select(columns)
