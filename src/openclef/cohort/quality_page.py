"""The signal quality of a cohort on one page, from the `q_` columns of `sessions.parquet`.

Everything is counted by polars before it is drawn, so a page of 260,000 sessions is as large as a
page of one. The page knows sessions by `session_id` only: no path, no patient, no date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from openclef.artefact import atomic
from openclef.cohort import quality_figures
from openclef.errors import OpenclefError
from openclef.page import render_page
from openclef.signal.quality import STATES
from openclef.types import CHANNELS

QUALITY_COLUMNS: dict[str, Any] = {
    **{f"q_{state}": pl.List(pl.String) for state in STATES},
    "q_amplitude_uv": pl.List(pl.Float64), "q_line_hz": pl.Float64, "q_line_ratio": pl.Float64,
    "q_n_gaps": pl.Int64, "q_gap_s": pl.Float64, "q_assessed_s": pl.Float64,
    "q_visible_s": pl.Float64,
    "q_usable_s": pl.Float64, "q_artefact": pl.Float64,
    "q_artefact_per_minute": pl.List(pl.Float64), "q_sfreq_hz": pl.Float64,
    "q_reference": pl.String, "q_unit": pl.String, "q_notes": pl.List(pl.String),
}  # fmt: skip

N_WORST = 20
_N_VALUES = 12  # rows of a table of counts


def write_quality_page(
    sessions: pl.DataFrame, out: Path, *, errors: pl.DataFrame, title: str = "Signal quality"
) -> None:
    """Write one self-contained HTML page: no script, no font and no picture from elsewhere.

    Parameters
    ----------
    sessions
        `sessions.parquet`: `session_id, site, setting, duration_s` and `QUALITY_COLUMNS` are read.
    out
        File to write.
    errors
        `errors.parquet`, of which `stage` and `error` are counted.
    title
        Heading of the page.

    Raises
    ------
    OpenclefError
        There is no session.
    """
    if sessions.is_empty():
        raise OpenclefError("no session to report the quality of")
    read = ["session_id", "site", "setting", "duration_s", *QUALITY_COLUMNS]
    table = sessions.select(read).with_columns(
        pl.col("site", "setting").fill_null("not stated"),
        **{f"n_{state}": pl.col(f"q_{state}").list.len() for state in STATES},
        usable=(pl.col("q_usable_s") / pl.col("q_assessed_s")).clip(0, 1),
    )
    states = _state_fractions(table)
    page = render_page(
        "openclef.cohort",
        "quality_page.html",
        filters={"percent": quality_figures.percent, "number": _number},
        title=title,
        totals=_totals(table),
        states=STATES,
        channels=[{"name": name, **states[name]} for name in CHANNELS],
        channel_figures=[quality_figures.head(states), quality_figures.channel_bars(states)],
        time_figures=[quality_figures.durations(table), quality_figures.artefact_by_minute(table)],
        line_figure=quality_figures.line_by_site(table),
        groups={name: _by_group(table, name) for name in ("site", "setting")},
        counts=_counts(table),
        errors=_count(
            errors.select(pl.format("{}: {}", "stage", "error")).to_series(), of=errors.height
        ),
        n_errors=errors.height,
        worst=_worst(table),
        n_worst=N_WORST,
    )
    with atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _totals(table: pl.DataFrame) -> dict[str, Any]:
    return table.select(
        sessions=pl.len(),
        hours=pl.col("duration_s").sum() / 3600,
        usable_hours=pl.col("q_usable_s").sum() / 3600,
        usable=pl.col("q_usable_s").sum() / pl.col("q_assessed_s").sum(),
        kept=pl.col("n_kept").median(),
        complete=(pl.col("n_kept") == len(CHANNELS)).mean(),
        with_gaps=(pl.col("q_n_gaps") > 0).mean(),
        gap_hours=pl.col("q_gap_s").sum() / 3600,
        with_line=pl.col("q_line_hz").is_not_null().mean(),
    ).row(0, named=True)


def _state_fractions(table: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Fraction of the sessions in which a channel is in a state, by channel and state."""
    fractions = {name: dict.fromkeys(STATES, 0.0) for name in CHANNELS}
    for state in STATES:
        counts = table.select(name=pl.col(f"q_{state}").explode()).drop_nulls()
        for name, count in counts.group_by("name").len().iter_rows():
            fractions[name][state] = count / table.height
    return fractions


def _count(values: pl.Series, *, of: int) -> list[dict[str, Any]]:
    """The commonest values with their counts; share is of `of`."""
    counts = (
        values.rename("value").value_counts(name="n").sort("n", "value", descending=[True, False])
    )
    rows = counts.head(_N_VALUES).to_dicts()
    if counts.height > _N_VALUES:
        n_other = counts.height - _N_VALUES
        rows.append({"value": f"{n_other} others", "n": counts["n"][_N_VALUES:].sum()})
    return [row | {"share": row["n"] / of} for row in rows]


def _counts(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Tables of counts, one a subject; notes can be several a session or none."""
    n_gaps = np.searchsorted([0, 1, 5, 20], table["q_n_gaps"].to_numpy())
    gaps = np.array(["none", "1", "2 to 5", "6 to 20", "over 20"])[n_gaps]
    notes = table["q_notes"].explode().drop_nulls()
    rates = table["q_sfreq_hz"].round(2).cast(pl.String).str.strip_suffix(".0") + " Hz"
    named = {
        "Unit": table["q_unit"],
        "Reference": table["q_reference"],
        "Sampling rate": rates,
        "Gaps in a session": pl.Series(gaps.tolist(), dtype=pl.String),
        "Notes on reading": notes,
    }
    return [
        {"title": name, "rows": _count(values, of=table.height)} for name, values in named.items()
    ]


def _by_group(table: pl.DataFrame, column: str) -> list[dict[str, Any]]:
    """One row a site or setting, the largest first."""
    largest = table[column].value_counts(sort=True)[column].to_list()
    named, rest = largest[: quality_figures.N_GROUPS], largest[quality_figures.N_GROUPS :]
    name = (
        pl.when(pl.col(column).is_in(named)).then(column).otherwise(pl.lit(f"{len(rest)} others"))
    )
    return (
        table.group_by(name.alias("group"))
        .agg(
            n=pl.len(),
            hours=pl.col("duration_s").sum() / 3600,
            usable=pl.col("q_usable_s").sum() / pl.col("q_assessed_s").sum(),
            kept=pl.col("n_kept").mean(),
            artefact=pl.col("q_artefact").median(),
            line=pl.col("q_line_hz").is_not_null().mean(),
            gaps=(pl.col("q_n_gaps") > 0).mean(),
        )
        .sort(~pl.col("group").is_in(named), -pl.col("n").cast(pl.Int64), "group")
        .to_dicts()
    )


def _worst(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Sessions with the smallest share of usable time and kept channels."""
    score = pl.col("usable") * pl.col("n_kept") / len(CHANNELS)
    ranked = table.with_columns(score=score).bottom_k(N_WORST, by=["score", "session_id"])
    return ranked.sort("score", "session_id").to_dicts()
