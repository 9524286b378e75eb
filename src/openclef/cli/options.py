"""Options that several verbs share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from openclef.errors import OpenclefError

Source = Annotated[Path, typer.Argument(help="Data set: a BIDS tree, or a folder with labels.csv.")]
Layout = Annotated[str, typer.Option(help="auto, bids or folder.")]
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
        "seconds. auto: equal for layout folder, none for bids."
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that read recordings.")]
RecipeName = Annotated[
    str, typer.Option("--recipe", help="Configuration of every stage: demo or tiny.")
]


def parse_crop(crop: str, layout: str) -> Literal["equal", "none"] | float:
    """The value of --crop as the ingest configuration has it."""
    if crop == "auto":
        return "equal" if layout == "folder" else "none"
    if crop in ("equal", "none"):
        return cast(Literal["equal", "none"], crop)
    try:
        seconds = float(crop)
    except ValueError:
        seconds = 0.0
    if not seconds >= 4:
        raise OpenclefError(f"--crop {crop}: give auto, equal, none or at least 4 seconds")
    return seconds
