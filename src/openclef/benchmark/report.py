"""The report of a benchmark: one table for the terminal, one page for everyone else.

Models stand in the order they were given, never sorted by who wins, and the best of each row is
marked, whoever it is.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from openclef import artefact
from openclef.benchmark.matching import NO_COVARIATES
from openclef.page import render_page

TOO_FEW = "too few"
PROTOCOLS = {
    "linear/split": (
        "A linear probe (standardise, PCA, logistic regression) was fitted on the probe patients; "
        "its penalty was chosen on the tuning patients; the held-out patients were scored once."
    ),
    "linear/cv": (
        "There are too few held-out patients for a single split, or cross-validation was asked "
        "for: a linear probe (standardise, PCA, logistic regression) was cross-validated by "
        "patient over all patients outside the train split, with its penalty chosen in inner "
        "folds. A session's score is the mean of its out-of-fold scores over the repeats."
    ),
}
# Okabe and Ito's colours: told apart by colour-blind readers, and by their markers in print.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


@dataclass(frozen=True)
class Figure:
    """A picture as the bytes of a PNG or an SVG; alt says what it shows to who cannot see it."""

    data: bytes
    caption: str
    alt: str

    @property
    def uri(self) -> str:
        kind = "png" if self.data.startswith(b"\x89PNG") else "svg+xml"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Section:
    """A further part of the report; blank lines in `text` separate paragraphs."""

    title: str
    text: str
    figures: Sequence[Figure] = ()


def closing_table(results: pl.DataFrame) -> Table:
    """The results as a table for the terminal: a row a task, then the mean of each category.

    Parameters
    ----------
    results : `results.parquet`, models in the order given (the first is the main one).
    """
    models = _models(results)
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title="AUROC (95% interval of the first model), by patient",
        caption="* best of the row; " + ", ".join(results["protocol"].unique()),
    )
    table.add_column("task", no_wrap=True)
    table.add_column("n+ / n-", justify="right", no_wrap=True)
    for model in models:
        table.add_column(model.replace("_", "\n"), justify="right", no_wrap=True)
    for category, rows in _by_category(_rows(results)).items():
        table.add_section()
        table.add_row(f"[bold]{category}[/bold]")
        for row in rows:
            cells = [_cell(cell, with_interval=not i) for i, cell in enumerate(row["cells"])]
            if row["cells"][0]["value"] is None:
                cells = [TOO_FEW]
            table.add_row(f"  {row['task']}", f"{row['n_pos']} / {row['n_neg']}", *cells)
    table.add_section()
    for row in _mean_rows(results):
        name = f"mean {row['category']} ({row['n_tasks']} tasks)"
        table.add_row(name, "", *(_cell(cell, with_interval=False) for cell in row["cells"]))
    return table


def print_closing_table(results: pl.DataFrame) -> None:
    """Print the closing table, at least as wide as it needs to be read."""
    console = Console()
    table = closing_table(results)
    needed = console.measure(table, options=console.options.update_width(400)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def write_report(
    path: Path,
    results: pl.DataFrame,
    comparisons: pl.DataFrame,
    balance: pl.DataFrame,
    *,
    title: str,
    n_patients: Mapping[str, int],
    sections: Sequence[Section] = (),
) -> None:
    """Write one self-contained HTML page: no script, no font and no picture from elsewhere.

    Parameters
    ----------
    path : file to write.
    results, comparisons, balance : the tables of the benchmark artefact.
    title : heading of the page.
    n_patients : how many patients each split has.
    sections : parts to add after the table of results.
    """
    page = render_page(
        "openclef.benchmark",
        "report.html",
        filters={"number": _number},
        title=title,
        models=_models(results),
        protocol=[PROTOCOLS[name] for name in results["protocol"].unique()],
        n_patients=n_patients,
        standing=_standing(results, comparisons),
        too_few=[row for row in _rows(results) if row["cells"][0]["value"] is None],
        groups=_by_category(_rows(results)),
        means=_mean_rows(results),
        forest=_forest(results),
        comparisons={
            name: rows.to_dicts()
            for (name,), rows in comparisons.group_by("task", maintain_order=True)
        },
        balance=_balance_rows(balance),
        sections=[
            {"title": s.title, "paragraphs": s.text.split("\n\n"), "figures": s.figures}
            for s in sections
        ],
    )
    with artefact.atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _models(results: pl.DataFrame) -> list[str]:
    return results["model"].unique(maintain_order=True).to_list()


def _rows(results: pl.DataFrame) -> list[dict[str, Any]]:
    """One row a task with one cell a model, the best marked."""
    rows = []
    for _, group in results.group_by("task", maintain_order=True):
        cells = group.select("model", "value", "ci_low", "ci_high").to_dicts()
        first = group.row(0, named=True)
        names = ("task", "category", "n_pos", "n_neg")
        rows.append({name: first[name] for name in names} | {"cells": _mark_best(cells)})
    return rows


def _by_category(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["category"], []).append(row)
    return groups


def _mean_rows(results: pl.DataFrame) -> list[dict[str, Any]]:
    """Mean AUROC of each category, and of all, over the tasks that every model has."""
    complete = results.filter(pl.col("value").is_not_null().all().over("task"))
    groups = [
        (str(name), group) for (name,), group in complete.group_by("category", maintain_order=True)
    ]
    if len(groups) > 1:
        groups.append(("all", complete))
    rows = []
    for category, group in groups:
        means = group.group_by("model", maintain_order=True).agg(pl.col("value").mean())
        rows.append(
            {
                "category": category,
                "n_tasks": group["task"].n_unique(),
                "cells": _mark_best(means.to_dicts()),
            }
        )
    return rows


def _mark_best(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark the highest value as printed, so that equal numbers are marked alike."""
    values = [round(cell["value"], 3) for cell in cells if cell["value"] is not None]
    for cell in cells:
        cell["best"] = bool(values) and round(cell["value"], 3) == max(values)
    return cells


def _cell(cell: Mapping[str, Any], *, with_interval: bool) -> str:
    if cell["value"] is None:
        return TOO_FEW
    text = f"{cell['value']:.3f}" + ("*" if cell["best"] else " ")
    return text + (f" ({cell['ci_low']:.2f}-{cell['ci_high']:.2f})" if with_interval else "")


def _number(value: float | None, digits: int = 2) -> str:
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{round(value, digits) + 0.0:.{digits}f}"  # the sum turns -0.0 into 0.0


def _standing(results: pl.DataFrame, comparisons: pl.DataFrame) -> list[dict[str, Any]]:
    """The main model against each other one, in counts and names of tasks, both ways."""
    standing = []
    for model in _models(results)[1:]:
        rows = comparisons.filter(pl.col("model_b") == model)
        worse, better = rows.filter(pl.col("delta") < 0), rows.filter(pl.col("delta") > 0)
        certain = pl.col("q") < 0.05
        standing.append(
            {
                "model": model,
                "n_tasks": rows.height,
                "n_better": better.height,
                "n_equal": rows.height - better.height - worse.height,
                "n_surely_better": better.filter(certain).height,
                "worse": worse["task"].to_list(),
                "surely_worse": worse.filter(certain)["task"].to_list(),
            }
        )
    return standing


def _balance_rows(balance: pl.DataFrame) -> list[dict[str, Any]]:
    """One row a task and split, with the covariate that differs most before and after."""
    rows = []
    for _, group in balance.group_by("task", "split", maintain_order=True):
        row = group.row(0, named=True)
        row["matched"] = row["covariate"] != NO_COVARIATES
        for when in ("before", "after"):
            ranked = group.filter(pl.col(f"smd_{when}").is_not_null()).sort(
                pl.col(f"smd_{when}").abs(), descending=True
            )
            row[when] = ranked.row(0, named=True) if ranked.height else None
        rows.append(row)
    return rows


def _forest(results: pl.DataFrame) -> Figure | None:
    """Every model's AUROC and interval, a row a task."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    models = _models(results)
    rows = [row for row in _rows(results) if row["cells"][0]["value"] is not None]
    if not rows:
        return None
    height = 1.2 + len(rows) * max(0.25, 0.085 * len(models) + 0.08)
    with rc_context({"svg.hashsalt": "openclef", "svg.fonttype": "path", "font.size": 9}):
        canvas = Canvas(figsize=(8, height), layout="constrained")
        axes = canvas.add_subplot()
        axes.axvline(0.5, color="#888888", linewidth=1, linestyle=":")
        for m, model in enumerate(models):
            offset = 0.7 * ((m + 0.5) / len(models) - 0.5)
            cells = [row["cells"][m] for row in rows]
            values = [cell["value"] for cell in cells]
            axes.errorbar(
                values,
                [i + offset for i in range(len(rows))],
                # A percentile interval may leave out its value; a bar cannot be negative.
                xerr=[
                    [max(0.0, cell["value"] - cell["ci_low"]) for cell in cells],
                    [max(0.0, cell["ci_high"] - cell["value"]) for cell in cells],
                ],
                fmt=_MARKERS[m % len(_MARKERS)],
                color=_COLOURS[m % len(_COLOURS)],
                markersize=4,
                linewidth=1,
                label=model,
            )
        categories = [row["category"] for row in rows]
        for i in range(len(rows)):
            if i % 2:
                axes.axhspan(i - 0.5, i + 0.5, color="#000000", alpha=0.04, linewidth=0)
            if i and categories[i] != categories[i - 1]:
                axes.axhline(i - 0.5, color="#444444", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row["task"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("AUROC (95% interval); dotted: chance")
        axes.spines[["top", "right"]].set_visible(False)
        canvas.legend(loc="outside upper left", ncols=min(4, len(models)), frameon=False)
        stream = io.BytesIO()
        canvas.savefig(stream, format="svg", metadata={"Date": None})
    return Figure(
        data=stream.getvalue(),
        caption="AUROC of every model on every reported task, with 95% intervals.",
        alt="Dot plot of the table above: one row a task, one marker a model with its interval.",
    )
