"""Options that several verbs share, spelled once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openclef.errors import OpenclefError, choose

if TYPE_CHECKING:
    from openclef.cohort.engine import Engine
    from openclef.cohort.ingest import IngestConfig
    from openclef.cohort.splits import SplitConfig

Source = Annotated[
    Path,
    typer.Argument(help="Data set: a tree of one of the layouts, or a folder with labels.csv."),
]
Layout = Annotated[
    str,
    typer.Option(help="auto, bids, heedb, hsp, tuab, tuep, challenge2026 or folder."),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        help="Column of labels.csv (or participants.tsv) to make tasks of; may be repeated.",
    ),
]
Crop = Annotated[
    str,
    typer.Option(
        help="equal: cut all recordings to the shortest, so that duration tells nothing; none; or "
        "seconds. auto: equal for layout folder, none for the others."
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that read recordings.")]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine", help="local: processes of this machine; ray: a Ray cluster (extra `cluster`)."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="Of the Ray cluster, e.g. auto or head:6379. Default: start a local one."),
]
Windows = Annotated[
    str, typer.Option(help="Of a session longer than 1,280 s: all, first or random windows.")
]
Unit = Annotated[
    str | None,
    typer.Option(help="What the files' numbers are, whatever they say: uV, mV, V or nV."),
]
LineHz = Annotated[
    int | None, typer.Option("--line-hz", help="50 or 60. Default: detected in each recording.")
]
IngestSeed = Annotated[int, typer.Option("--seed", help="Of --windows random.", min=0)]
RecipeName = Annotated[
    str, typer.Option("--recipe", help="Configuration of every stage: demo or tiny.")
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the recipe, as config.json names it, changed: train.n_steps=600, "
        "train.precision=bf16, ... May be repeated; checked together.",
    ),
]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """(i, n) of --shard i/n."""
    if text is None:
        return None
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise OpenclefError(f"--shard {text}: give i/n, from 1/n to n/n, such as 1/4")
    return int(i), int(n)


def make_engine(name: str, *, workers: int, address: str | None) -> Engine:
    """The engine of --engine, --workers and --address."""
    from openclef.cohort.engine import LocalEngine, RayEngine

    choose(name, ("local", "ray"), "engine")
    if name == "ray":
        return RayEngine(n_workers=workers, address=address)
    if address is not None:
        raise OpenclefError(f"--address {address}: only --engine ray has one")
    return LocalEngine(n_workers=workers)


def ingest_config(
    *,
    crop: str,
    windows: str,
    seed: int,
    unit: str | None,
    line_hz: int | None,
    labels: list[str] | None,
    splits: SplitConfig,
) -> IngestConfig:
    """The configuration that the options of `ingest` and `run` stand for.

    Checked before the data set is looked at; `settle_crop` follows once its layout is known.
    """
    from openclef.cohort.ingest import IngestConfig
    from openclef.signal import UNITS

    choose(windows, ("all", "first", "random"), "choice of windows")
    if unit is not None:
        choose(unit, UNITS, "unit")
    if line_hz not in (None, 50, 60):
        raise OpenclefError(f"--line-hz {line_hz}: allowed are 50 and 60")
    return IngestConfig.model_validate(
        {
            "crop": _parse_crop(crop), "windows": windows, "seed": seed, "unit": unit,
            "line_hz": line_hz, "labels": labels or (), "splits": splits,
        }
    )  # fmt: skip


def _parse_crop(crop: str) -> str | float:
    if crop in ("equal", "none"):
        return crop
    if crop == "auto":
        return "none"
    try:
        seconds = float(crop)
    except ValueError:
        seconds = 0.0
    if not 4 <= seconds < math.inf:
        raise OpenclefError(f"--crop {crop}: give auto, equal, none or at least 4 seconds")
    return seconds


def settle_crop(config: IngestConfig, crop: str, *, layout: str) -> IngestConfig:
    """What `--crop auto` means for a layout."""
    if crop == "auto" and layout == "folder":
        return config.model_copy(update={"crop": "equal"})
    return config
