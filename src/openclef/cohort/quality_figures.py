"""The figures of a cohort's quality page, as SVG; each with a text that says what it shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from openclef.signal.quality import STATES
from openclef.types import CHANNELS

N_GROUPS = 20  # sites shown by name
_FEWEST = 0.01  # of the sessions must have lasted that long for a minute to be drawn
_AT_ONCE = 2000  # sessions whose minutes are in memory at a time
_LEVELS = 1000  # of the artefact fraction, from 0 to 1

# Okabe and Ito's colours with hatches: told apart by colour-blind readers and in print.
_LOOK = {
    "kept": ("#56B4E9", ""), "missing": ("#DDDDDD", "////"), "flat": ("#000000", ""),
    "clipped": ("#D55E00", "xxx"), "bridged": ("#E69F00", "..."), "noisy": ("#CC79A7", "\\\\\\"),
}  # fmt: skip
_INK, _BLUE = "#333333", "#0072B2"

# Seen from above, the head a circle of radius 1.
_POSITIONS = {
    "Fp1": (-0.27, 0.82), "Fp2": (0.27, 0.82), "F7": (-0.7, 0.51), "F3": (-0.36, 0.42),
    "Fz": (0.0, 0.4), "F4": (0.36, 0.42), "F8": (0.7, 0.51), "T3": (-0.86, 0.0),
    "C3": (-0.43, 0.0), "Cz": (0.0, 0.0), "C4": (0.43, 0.0), "T4": (0.86, 0.0),
    "T5": (-0.7, -0.51), "P3": (-0.36, -0.42), "Pz": (0.0, -0.4), "P4": (0.36, -0.42),
    "T6": (0.7, -0.51), "O1": (-0.27, -0.82), "O2": (0.27, -0.82),
}  # fmt: skip


@dataclass
class Figure:
    """An SVG being drawn; alt says what it shows to who cannot see it."""

    caption: str
    alt: str
    svg: bytes = field(default=b"", init=False)

    @property
    def uri(self) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


def percent(fraction: float | None, digits: int = 0) -> str:
    """`12%`; what is neither nothing nor all is not rounded to it."""
    if fraction is None:
        return ""
    least = 10.0 ** -(digits + 2)
    if 0 < fraction < least / 2:
        return f"<{100 * least:g}%"
    if 1 - least / 2 < fraction < 1:
        return f">{100 * (1 - least):g}%"
    return f"{100 * fraction:.{digits}f}%"


@contextmanager
def _drawn(figure: Figure, width: float, height: float) -> Iterator[Any]:
    """Axes to draw on, of so many inches; at the end the figure holds their SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    look = {"svg.hashsalt": "openclef", "svg.fonttype": "path", "font.size": 11}
    with rc_context({**look, "hatch.linewidth": 0.6}):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        axes = canvas.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        stream = io.BytesIO()
        canvas.savefig(stream, format="svg", metadata={"Date": None})
    figure.svg = stream.getvalue()


def head(states: dict[str, dict[str, float]]) -> Figure:
    """How often each electrode is kept, on a head; `states`: fraction of sessions by state."""
    kept = {name: fractions["kept"] for name, fractions in states.items()}
    low = min(CHANNELS, key=lambda name: kept[name])
    figure = Figure(
        "Sessions in which each electrode is kept: present and without a fault. Seen from above.",
        f"Head map: each electrode is kept in {percent(min(kept.values()))} ({low}) to "
        f"{percent(max(kept.values()))} of the sessions; all values are in the table below.",
    )
    with _drawn(figure, 4.8, 4.8) as axes:
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(np.sin(angle), np.cos(angle), color=_INK, linewidth=1.2)
        axes.plot([-0.1, 0, 0.1], [0.995, 1.12, 0.995], color=_INK, linewidth=1.2)
        for name, (x, y) in _POSITIONS.items():
            share = kept[name]
            axes.scatter(x, y, s=1150, c=[share], cmap="cividis", vmin=0, vmax=1, edgecolors=_INK)
            ink = "white" if share < 0.55 else "black"
            label = f"{name}\n{percent(share)}"
            axes.text(
                x, y, label, ha="center", va="center", color=ink, fontsize=9, linespacing=1.05
            )
        axes.set_aspect("equal")
        axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.16))
        axes.axis("off")
    return figure


def channel_bars(states: dict[str, dict[str, float]]) -> Figure:
    """Every state of each electrode."""
    figure = Figure(
        "State of each electrode, as a fraction of the sessions.",
        "Stacked bars of the table below: one bar an electrode, one colour and hatch a state.",
    )
    with _drawn(figure, 6.4, 6.2) as axes:
        left = np.zeros(len(CHANNELS))
        for state in reversed(STATES):
            width = np.array([100 * states[name][state] for name in CHANNELS])
            colour, hatch = _LOOK[state]
            axes.barh(
                CHANNELS, width, left=left, label=state, color=colour, hatch=hatch,
                edgecolor="white" if state == "flat" else _INK, linewidth=0.4, height=0.8,
            )  # fmt: skip
            left += width
        axes.set(xlim=(0, 100), ylim=(len(CHANNELS) - 0.4, -0.6), xlabel="% of sessions")
        axes.figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def durations(table: pl.DataFrame) -> Figure:
    """Duration and usable time of the sessions."""
    lasted, usable = (table[name].to_numpy() / 60 for name in ("duration_s", "q_usable_s"))
    figure = Figure(
        "How long the sessions last, and how many seconds of them are usable: outside gaps, at "
        "least half of the present channels free of artefact.",
        f"Two histograms. Median duration {np.median(lasted):.3g} min, median usable "
        f"{np.median(usable):.3g} min.",
    )
    longest, shortest = float(lasted.max()), float(max(lasted.min(), 1 / 60))
    wide = longest > 20 * shortest
    edges = (
        np.geomspace(shortest, longest * 1.001, 31) if wide else np.linspace(0, longest * 1.02, 31)
    )
    with _drawn(figure, 6.4, 3.4) as axes:
        counts, _ = np.histogram(np.clip(usable, edges[0], None), edges)
        axes.stairs(counts, edges, fill=True, color="#56B4E9", label="usable")
        counts, _ = np.histogram(lasted, edges)
        axes.stairs(counts, edges, color=_INK, linewidth=1.6, label="duration")
        axes.set(xlabel="minutes", ylabel="sessions", xscale="log" if wide else "linear")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def artefact_by_minute(table: pl.DataFrame) -> Figure:
    """Whether artefacts gather at the beginning, as electrodes settle, or later."""
    low, quarter, median, three_quarters, high = _minute_quantiles(table) * 100
    figure = Figure(
        "Artefact over the minute of the recording: fraction of the channel-seconds that are "
        f"flat, huge, clipped or far above their channel's usual. Minutes that at least "
        f"{percent(_FEWEST)} of the sessions reach.",
        f"Line with bands. Median artefact {median[0]:.1f}% in the first minute, "
        f"{median[-1]:.1f}% in minute {len(median)}.",
    )
    minutes = np.arange(len(median) + 1)
    by_hour = len(median) > 180
    edges = minutes / 60 if by_hour else minutes
    with _drawn(figure, 6.4, 3.4) as axes:
        for bottom, top, colour, label in (
            (low, high, "#C9E4F5", "10 to 90%"),
            (quarter, three_quarters, "#56B4E9", "25 to 75%"),
        ):
            axes.stairs(top, edges, baseline=bottom, fill=True, color=colour, label=label)
        axes.stairs(median, edges, baseline=None, color=_INK, linewidth=1.8, label="median")
        axes.set(xlabel="hour" if by_hour else "minute", ylabel="% in artefact")
        axes.set_xlim(0, edges[-1])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, max(1.0, 1.05 * float(high.max())))
        axes.figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def _minute_quantiles(table: pl.DataFrame) -> NDArray[np.float64]:
    """10, 25, 50, 75, 90% of the artefact fraction over sessions, by minute `[5, M]`."""
    longest = max(1, int(table["q_artefact_per_minute"].list.len().max() or 0))  # type: ignore[arg-type]
    counts = np.zeros((longest, _LEVELS + 1), np.int64)
    for part in table.select(a="q_artefact_per_minute").iter_slices(_AT_ONCE):
        minute = pl.int_ranges(pl.col("a").list.len())
        cells = part.select("a", minute=minute).explode("a", "minute").drop_nulls()
        level = (cells["a"].to_numpy() * _LEVELS).round().astype(int)
        np.add.at(counts, (cells["minute"].to_numpy(), level), 1)
    reached = counts.sum(axis=1)
    enough = np.flatnonzero(reached >= max(1, _FEWEST * table.height))
    if not len(enough):
        return np.zeros((5, 1))
    counts = counts[: enough[-1] + 1]
    share = np.cumsum(counts, axis=1) / np.maximum(reached[: len(counts), None], 1)
    found = [(share >= q - 1e-9).argmax(axis=1) for q in (0.1, 0.25, 0.5, 0.75, 0.9)]
    quantiles = np.array(found) / _LEVELS
    quantiles[:, reached[: len(counts)] == 0] = np.nan
    return quantiles


def line_by_site(table: pl.DataFrame) -> Figure | None:
    """Line-noise ratio of the largest sites; None if it is known of no session."""
    ratio = pl.col("q_line_ratio").clip(1e-3)
    names = ("low", "quarter", "median", "three_quarters", "high")
    quantiles = zip(names, (0.1, 0.25, 0.5, 0.75, 0.9), strict=True)
    sites = (
        table.drop_nulls("q_line_ratio")
        .group_by("site")
        .agg(n=pl.len(), **{name: ratio.quantile(q) for name, q in quantiles})
        .sort("n", "site", descending=[True, False])
        .head(N_GROUPS)
    )
    if sites.is_empty():
        return None
    medians = sites["median"].to_numpy()
    figure = Figure(
        "Line noise by site (the largest, by number of sessions): power at 50 or 60 Hz over that "
        "of its neighbours, before any notch. Dot: median; thick: 25 to 75%; thin: 10 to 90%.",
        "Dot plot with intervals, one row a site; medians from "
        f"{medians.min():.3g} to {medians.max():.3g}.",
    )
    with _drawn(figure, 6.4, 1.3 + 0.32 * sites.height) as axes:
        rows = np.arange(sites.height)
        axes.hlines(rows, sites["low"], sites["high"], color=_BLUE, linewidth=1.2)
        axes.hlines(rows, sites["quarter"], sites["three_quarters"], color=_BLUE, linewidth=5)
        axes.plot(medians, rows, "o", color="white", markeredgecolor=_INK, markersize=7)
        axes.axvline(1, color="#888888", linewidth=1, linestyle=":")
        labels = [f"{row['site'][:24]} ({row['n']:,})" for row in sites.iter_rows(named=True)]
        axes.set_yticks(rows, labels)
        ends = sites["low"].to_numpy().min() / 1.5, sites["high"].to_numpy().max() * 1.5
        axes.set(xscale="log", xlim=(min(0.3, ends[0]), max(3, ends[1])))
        axes.xaxis.set_minor_formatter("")
        axes.set(xlabel="line-noise ratio; dotted: 1, no line noise")
        axes.set_ylim(sites.height - 0.4, -0.6)
    return figure
