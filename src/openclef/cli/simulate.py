"""`openclef simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openclef.cli import options
from openclef.errors import OpenclefError, choose

if TYPE_CHECKING:
    from openclef.simulate import SimulationConfig


# Options by the fields that they set, and what is allowed.
_OPTIONS = {
    "n_patients": ("patients", "at least 1"), "n_sites": ("sites", "at least 1"),
    "seed": ("seed", "at least 0"), "effect_size": ("effect-size", "from 0 to 3"),
}  # fmt: skip
# What a frozen cohort fixes.
_FIXED = (
    "patients", "seed", "layout", "sites", "minutes", "sfreq", "hospital", "effect_size",
)  # fmt: skip


def simulate(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="Folder to write the data set to.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 320,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    layout: Annotated[str, typer.Option(help="bids or heedb.")] = "bids",
    sites: Annotated[int, typer.Option(help="Number of hospitals, of the table's.")] = 2,
    minutes: Annotated[
        str,
        typer.Option(
            help="Length of the sessions, one number or a range such as 20-60. Default: 21 min "
            "20 s, one window."
        ),
    ] = "",
    sfreq: Annotated[
        str, typer.Option(help="Sampling frequency in Hz, or native: each site's own.")
    ] = "200",
    hospital: Annotated[str, typer.Option(help="Table of causes: v1, ...")] = "v1",
    effect_size: Annotated[
        float, typer.Option(help="Scales what diseases and drugs do to the EEG; 0: nothing.")
    ] = 1.0,
    shard: Annotated[
        str | None,
        typer.Option(help="i/n: every n-th patient from the i-th; the last shard to end finishes."),
    ] = None,
    no_recordings: Annotated[
        bool,
        typer.Option(
            "--no-recordings", help="Leave recordings out: ingest makes each when it is read."
        ),
    ] = False,
    cohort: Annotated[
        str | None, typer.Option(help="A frozen cohort, such as v1, in place of its options.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Simulate a hospital: recordings, health records and report texts, with known truth."""
    # What can be told without heavy imports is told at once.
    choose(layout, ("bids", "heedb"), "layout")
    shortest_s, longest_s = _parse_minutes(minutes)
    part = options.parse_shard(shard)
    rate = _parse_sfreq(sfreq)
    from openclef.artefact import refuse_foreign
    from openclef.simulate import simulate as make
    from openclef.simulate.writer import missing_shards

    refuse_foreign(out)

    if cohort is None:
        config = _config(
            n_patients=patients, seed=seed, layout=layout, n_sites=sites, shortest_s=shortest_s,
            longest_s=longest_s, sfreq=rate, hospital=hospital, effect_size=effect_size,
        )  # fmt: skip
    else:
        config = _frozen(context, cohort)
    made = make(out, config=config, n_workers=workers, shard=part, recordings=not no_recordings)
    if made.is_complete:
        typer.echo(f"simulated hospital: {out}")
    elif part is not None:
        n = part[1]
        missing = ", ".join(f"{i}/{n}" for i in missing_shards(out, config, n=n))
        typer.echo(f"{out}: shard {shard} is made; the tables wait for shards {missing}")


def _config(**values: Any) -> SimulationConfig:
    """The configuration, or the first thing that is wrong with it in one line."""
    from pydantic import ValidationError

    from openclef.simulate import SimulationConfig
    from openclef.simulate.parameters import load_hospital

    try:
        config = SimulationConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        if field not in _OPTIONS:
            raise OpenclefError(f"{field} {first['msg']}".strip()) from error
        option, allowed = _OPTIONS[field]
        raise OpenclefError(f"--{option} {first['input']:g}: {allowed}") from error
    n_listed = len(load_hospital(config.hospital).sites)
    if config.n_sites > n_listed:
        raise OpenclefError(
            f"--sites {config.n_sites}: hospital {config.hospital} has {n_listed}, 1 to {n_listed}"
        )
    return config


def _frozen(context: typer.Context, cohort: str) -> SimulationConfig:
    """The configuration of a frozen cohort, which no option may change."""
    from openclef.recipes.cohorts import get_cohort

    for name in _FIXED:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise OpenclefError(f"--cohort {cohort} fixes --{option}: leave one of them out")
    return get_cohort(cohort)


def _parse_minutes(text: str) -> tuple[int, int]:
    """Shortest and longest session in seconds."""
    if not text:
        from openclef.types import WINDOW_S

        return WINDOW_S, WINDOW_S
    shortest, dash, longest = text.partition("-")
    try:
        pair = (round(60 * float(shortest)), round(60 * float(longest if dash else shortest)))
    except (ValueError, OverflowError):
        pair = (0, 0)
    if not 10 <= pair[0] <= pair[1] <= 24 * 3600:
        raise OpenclefError(
            f"--minutes {text}: give a number or a range such as 20-60, from 0.17 (10 s) to 1440"
        )
    return pair


def _parse_sfreq(text: str) -> float | str:
    if text == "native":
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not (100 <= rate <= 1024 and rate % 1 == 0):
        raise OpenclefError(f"--sfreq {text}: give a whole number from 100 to 1024, or native")
    return rate
