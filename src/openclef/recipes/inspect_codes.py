"""The figures of `inspect tokenizer` that show the codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from openclef.cohort.store import FREQ_STEP_HZ
from openclef.recipes.figures import png
from openclef.recipes.inspect_figures import (
    HEAD,
    LINES,
    ORDER,
    Drawn,
    scalp,
    tidy,
    with_grey,
)
from openclef.recipes.inspect_numbers import Code, CodePatches
from openclef.tokenizer.evaluate import Fidelity, Floats
from openclef.types import CHANNELS

_BLUE = LINES[0][0]


def code_use(fidelity: Fidelity) -> Drawn:
    """How often each code occurs, by rank, with perplexity."""
    n_quantisers, n_codes = fidelity.code_counts.shape
    canvas = Canvas(figsize=(10.5, 3.4), layout="constrained")
    axis = canvas.subplots()
    numbers, said = [], []
    for q, counts in enumerate(fidelity.code_counts):
        colour, dash = LINES[q % len(LINES)]
        shares = np.sort(counts)[::-1] / max(1, counts.sum())
        ranks = np.arange(1, n_codes + 1)
        used, perplexity = shares > 0, fidelity.perplexity[q]
        name = f"code {q + 1} of a token: " if n_quantisers > 1 else ""
        unused = 1 - float(used.mean())
        said.append(f"{name}perplexity {perplexity:,.1f} of {n_codes:,}, {unused:.1%} unused")
        axis.plot(ranks[used], shares[used], color=colour, ls=dash, label=said[-1])
        axis.axvline(perplexity, color=colour, ls=dash, lw=0.8)
        numbers.append(_of_code(tidy("code use", "share of tokens", shares, rank=ranks), q))
    axis.axhline(1 / n_codes, color="#999999", lw=0.8, ls=":")
    axis.set(xscale="log", yscale="log", xlabel="rank of the code", ylabel="share of tokens")
    axis.set_xlim(0.9, 1.1 * n_codes)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower left", edgecolor="none", framealpha=0.9)
    return Drawn(
        png(
            canvas,
            "How often each code occurs, the commonest first. Upright line: perplexity. Dotted: "
            "all codes equally often.",
            f"Curve of frequency over rank on logarithmic axes; {'; '.join(said)}.",
        ),
        pl.concat(numbers),
    )


def codes(shown: Sequence[Code], patches: CodePatches, *, first: int) -> Drawn:
    """What codes look like, and where and when they occur; `first`: number of the first one."""
    n_regions = patches.config.grid[0]
    n_quantisers = patches.config.quantiser.n_quantisers
    edges_hz = FREQ_STEP_HZ * np.array(patches.config.row_edges)
    panels = {"pattern (dB)": 2.0, "mean over bands (dB)": 1.1, "deviation (SD)": 1.1,
              "% of its tokens,\nby row": 1.0}  # fmt: skip
    panels |= {"% of its tokens,\nby region": 0.8} if n_regions > 1 else {}
    panels |= {"% of all tokens,\nby minute": 1.7}
    canvas = Canvas(figsize=(10.5, 0.6 + 2.3 * len(shown)), layout="constrained")
    axes = canvas.subplots(len(shown), len(panels), squeeze=False, width_ratios=[*panels.values()])
    for axis, title in zip(axes[0], panels, strict=True):
        axis.set_title(title, fontsize=9)
    for number, (code, row) in enumerate(zip(shown, axes, strict=True), first):
        image, head, special, rows, *regions, times = row
        title = f"{number}. code {code.index}" + (f" ({code.q + 1})" if n_quantisers > 1 else "")
        image.set_ylabel(f"{title}\n{code.n:,} times, {code.share:.2%}", fontsize=9)
        _draw_pattern(image, code)
        _draw_scalp(head, code.pattern_db.mean(1), cmap="RdBu_r", is_signed=True)
        _draw_scalp(special, code.deviation, cmap="cividis", is_signed=False)
        rows.barh(edges_hz[:-1], 100 * code.by_row, 0.9 * np.diff(edges_hz), align="edge",
                  color=_BLUE)  # fmt: skip
        rows.set_ylim(0, edges_hz[-1])
        rows.set_ylabel("Hz", fontsize=8)
        for axis in regions:
            axis.bar(np.arange(1, n_regions + 1), 100 * code.by_region, color=_BLUE)
            axis.set_xticks(range(1, n_regions + 1))
        times.stairs(100 * code.by_time, patches.time_edges_s / 60, baseline=None, color=_BLUE)
        times.set_ylim(0, None)
        for axis in (rows, *regions, times):
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=7)
    axes[-1, 0].set_xlabel("band of the row, from its lowest", fontsize=8)
    axes[-1, -1].set_xlabel("minute of the session", fontsize=8)
    alt = " ".join(_tell(code, number, edges_hz) for number, code in enumerate(shown, first))
    return Drawn(
        png(canvas, f"Codes {first} to {first + len(shown) - 1}, by how often they occur.", alt),
        pl.concat([_numbers(code, patches, edges_hz) for code in shown], how="diagonal"),
    )


def _draw_pattern(axis: Axes, code: Code) -> None:
    high = max(1.0, float(np.nanmax(np.abs(code.pattern_db), initial=0)))
    drawn = axis.imshow(
        code.pattern_db[ORDER], aspect="auto", interpolation="nearest", cmap=with_grey("RdBu_r"),
        vmin=-high, vmax=high, extent=(0.5, code.pattern_db.shape[1] + 0.5, len(HEAD), 0),
    )  # fmt: skip
    axis.set_yticks(np.arange(len(HEAD)) + 0.5, HEAD, fontsize=6.5)
    axis.tick_params(axis="x", labelsize=7)
    axis.figure.colorbar(drawn, ax=axis, aspect=20).ax.tick_params(labelsize=7)


def _draw_scalp(axis: Axes, values: Any, *, cmap: str, is_signed: bool) -> None:
    high = max(0.1, float(np.nanmax(np.abs(values), initial=0)))
    drawn = scalp(axis, values, cmap=cmap, limits=(-high if is_signed else 0.0, high))
    bar = axis.figure.colorbar(drawn, ax=axis, location="bottom", aspect=12, shrink=0.8)
    axis.set_anchor("N")  # titles at one height; a colour bar below sets it to the bottom
    bar.ax.tick_params(labelsize=7)
    bar.locator = MaxNLocator(3)


def _tell(code: Code, number: int, edges_hz: Floats) -> str:
    """A code in words."""
    row, channel = int(code.by_row.argmax()), int(np.nanargmax(code.deviation))
    return (
        f"Code {number} occurs {code.n} times, most at {edges_hz[row]:g} to "
        f"{edges_hz[row + 1]:g} Hz; it deviates most at {CHANNELS[channel]}, by "
        f"{np.mean(code.pattern_db[channel]):+.1f} dB."
    )


def _numbers(code: Code, patches: CodePatches, edges_hz: Floats) -> pl.DataFrame:
    bands = np.arange(1, code.pattern_db.shape[1] + 1)
    minutes = patches.time_edges_s[:-1] / 60
    regions = np.arange(1, len(code.by_region) + 1)
    name = "most used codes"
    tables = [
        tidy(name, "pattern (dB)", code.pattern_db, channel=CHANNELS,
             band_of_row=bands),
        tidy(name, "mean over bands (dB)", code.pattern_db.mean(1), channel=CHANNELS),
        tidy(name, "deviation (SD)", code.deviation, channel=CHANNELS),
        tidy(name, "share of its tokens by row", code.by_row, freq_hz=edges_hz[:-1]),
        tidy(name, "share of its tokens by region", code.by_region, region=regions),
        tidy(name, "share of all tokens by minute", code.by_time, minute=minutes),
        tidy(name, "share of all tokens", np.array(code.share)),
    ]  # fmt: skip
    return _of_code(pl.concat(tables, how="diagonal"), code.q).with_columns(code=pl.lit(code.index))


def _of_code(table: pl.DataFrame, q: int) -> pl.DataFrame:
    return table.with_columns(code_of_token=pl.lit(q + 1))
