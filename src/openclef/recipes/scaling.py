"""The scaling study: encoders of several sizes on nested shares of the train patients.

The paper's Tables 3 and 4 in form: more parameters at all of the data, more data at the largest
size. A saturating power law L = E + A / N^alpha + B / D^beta is fitted to the held-out
cross-entropies as by Hoffmann et al. (2022, arXiv 2203.15556, approach 3), with N parameters, but
with D different train windows: a small cohort is seen again and again, and what runs out is data
and not steps. Every run may take the same number of steps and keeps the weights that are best on
tuning patients. The tokenizer has seen all train patients, whatever the encoder's share of them.

Nothing is trained or probed twice, and nothing is said beyond the range of the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from openclef import artefact
from openclef.benchmark.report import Figure
from openclef.benchmark.runner import BenchmarkConfig
from openclef.cohort.store import Cohort
from openclef.encoder.embed import embed_tokens
from openclef.encoder.objective import MaskedReconstruction
from openclef.encoder.pooling import Pooling
from openclef.encoder.train import EncoderStage, check_fit, train_encoder, train_windows
from openclef.errors import OpenclefError
from openclef.recipes.encoder_ablation import held_out_cross_entropy
from openclef.recipes.encoders import WIDTHS, for_tokens, get_encoder
from openclef.recipes.figures import png
from openclef.recipes.power_law import PowerLaw, fit_power_law
from openclef.recipes.probing import Probing, auroc_columns
from openclef.recipes.recipe import changed
from openclef.tokenizer.token_table import TokenTable

SHARES = (0.125, 0.25, 0.5, 1.0)
FINDING = "finding"
POOLING: Pooling = "moments"
_VALIDATIONS = 8  # of a short run, at least: a small share of the data is at its best early
Floats = NDArray[np.float64]
Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ScalingStudy:
    """Tables, the fitted curve and a drawing.

    runs: one row a size, share and seed: `size, train_share, seed, n_parameters`, of them
    `n_table` in the table of codes; `n_train_patients, n_train_windows`; `n_steps` taken, and
    `best_step`, whose weights were kept; `flops` of the steps taken, by the objective's formula;
    of held-out patients `cross_entropy, cross_entropy_se, share, share_se` (`evaluate_encoder`),
    and `finding`, the mean AUROC of findings, with the bounds of its 95% interval over patients;
    and, if there is a `law`, `fitted` nats and `residual`, the logarithm of their ratio.

    summary: the same numbers, means over seeds, with standard deviations `*_sd` of
    `cross_entropy` and `finding`. by_size, by_data: its rows of the largest share and of the
    largest size, as the paper's Tables 3 and 4.

    statement: what the curve says, what it does not, and of which range.
    """

    runs: pl.DataFrame
    summary: pl.DataFrame
    by_size: pl.DataFrame
    by_data: pl.DataFrame
    law: PowerLaw | None
    statement: str
    figure: Figure


def scaling_study(
    cohort: Cohort,
    tokens: TokenTable,
    out: Path,
    *,
    sizes: Sequence[str] = tuple(WIDTHS),
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0,),
    n_steps: int | None = None,
    min_positives: int = 15,
    say: Callable[[str], None] = lambda _: None,
) -> ScalingStudy:
    """Train every size on every share with every seed in `out/<size>/<share>/<seed>/`.

    Parameters
    ----------
    cohort, tokens : with findings among the labels; one code a token.
    out : folder, new or of this study of the same tokens; what is complete there is not done again.
    sizes : of `ENCODERS`, reading codes only.
    shares : of the train patients, nested.
    seeds : of the training and of the order of the patients.
    n_steps : most steps of a run; without, the recipe's.
    min_positives : held-out patients with and without a finding that it needs.
    say : told what comes next.

    Raises
    ------
    OpenclefError
        Before anything is trained, if a share is not above 0 and at most 1, an encoder needs more
        than codes, no finding has enough patients, or `out` holds something else.
    """
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong:
        raise OpenclefError(
            f"share {wrong[0]:g} of the train patients; allowed: above 0 and at most 1 (nearest: "
            f"{1 if wrong[0] > 1 else min(SHARES)})"
        )
    config = BenchmarkConfig(
        protocol="split", min_held_out_patients=1, min_positives=min_positives,
        categories=(FINDING,),
    )  # fmt: skip
    probing = Probing(cohort, out / "probed", config)
    stages = {name: _stage(name, tokens, n_steps) for name in sizes}
    artefact.begin(
        out, kind="reproduction", config={"verb": "scaling"},
        inputs={"cohort": cohort.hash, "tokens": tokens.artefact.hash},
    )  # fmt: skip
    rows: list[Columns] = []
    areas: list[Floats] = []
    for (name, stage), share, seed in product(stages.items(), sorted(shares), seeds):
        say(f"{name}, {share:g} of the train patients, seed {seed}")
        seeded = changed(stage, train=changed(stage.train, seed=seed), train_share=share)
        folder = out / name / f"{share:g}" / str(seed)
        train_encoder(tokens, folder / "encoder", config=seeded, cohort=cohort)
        where = folder / f"{POOLING}--1"
        embed_tokens(
            folder / "encoder", tokens, where, model=where.relative_to(out).as_posix(),
            pooling=POOLING, cohort=cohort,
        )  # fmt: skip
        areas.append(probing.of(where).held_out)
        rows.append(
            {"size": name, "train_share": share, "seed": seed}
            | _effort(seeded, folder / "encoder", cohort, tokens)
            | held_out_cross_entropy(folder, seeded, cohort, tokens)
            | auroc_columns(areas[-1], [FINDING])
        )
    runs = pl.DataFrame(rows, infer_schema_length=None)
    law, statement = _fit(runs)
    if law:
        fitted = law.loss(
            runs["n_parameters"].to_numpy().astype(float),
            runs["n_train_windows"].to_numpy().astype(float),
        )
        runs = runs.with_columns(fitted=fitted, residual=law.residuals)
    summary = _summarise(runs, areas)
    return ScalingStudy(
        runs,
        summary,
        summary.filter(pl.col("train_share") == max(shares)),
        summary.filter(pl.col("n_parameters") == summary["n_parameters"].max()),
        law,
        statement,
        draw(summary, law, statement),
    )


def _stage(name: str, tokens: TokenTable, n_steps: int | None) -> EncoderStage:
    stage = for_tokens(get_encoder(name), tokens)
    if stage.companions or stage.loss.code_weight == 0:
        raise OpenclefError(
            f"encoder {name} reads or predicts more than codes; a scaling study is of encoders "
            f"of codes alone, such as {', '.join(WIDTHS)}"
        )
    check_fit(tokens, None, stage)
    if n_steps is None:
        return stage
    every = min(stage.train.validate_every, max(1, n_steps // _VALIDATIONS))
    # As many steps without a better one as before: what waits on a plateau is not stopped there.
    patience = stage.train.patience
    if patience is not None:
        patience = -(-patience * stage.train.validate_every // every)
    return changed(
        stage,
        train=changed(stage.train, n_steps=n_steps, validate_every=every, patience=patience),
    )


def _effort(stage: EncoderStage, folder: Path, cohort: Cohort, tokens: TokenTable) -> Columns:
    """What an encoder consists of, has seen, and has cost."""
    with torch.device("meta"):
        objective = MaskedReconstruction(stage.model, stage.loss)
    rows = train_windows(
        tokens, share=stage.train_share, seed=stage.train.seed, cohort=cohort
    )  # fmt: skip
    sessions = tokens.session_id.gather(rows).unique()
    patients = cohort.sessions.filter(pl.col("session_id").is_in(sessions.to_list()))["subject_id"]
    metrics = artefact.load(folder, kind="encoder").metrics()
    end = [row for row in metrics if row["split"] == "end"][-1]
    n_seen = min(stage.train.batch_size, len(rows)) * end["step"]
    return {
        "n_parameters": sum(p.numel() for p in objective.model.parameters()),
        "n_table": objective.model.tokens.weight.numel(),
        "n_train_patients": patients.n_unique(),
        "n_train_windows": len(rows),
        "n_steps": end["step"],
        "best_step": end["best_step"],
        "flops": objective.flops_per_item * n_seen,
    }


def _fit(runs: pl.DataFrame) -> tuple[PowerLaw | None, str]:
    # Seeds draw patients with more windows or fewer: a share is one amount of data, their mean.
    of_share = pl.col("n_train_windows").mean().over("train_share")
    columns = runs.select("n_parameters", of_share, "cross_entropy")
    sizes, amounts, losses = (column.to_list() for column in columns)
    try:
        law = fit_power_law(sizes, amounts, losses)
    except OpenclefError as error:
        return None, f"No curve was fitted: {error}."
    told = {name: "{:.3g} ({:.3g} to {:.3g})".format(getattr(law, name), *law.intervals[name])
            for name in law.intervals}  # fmt: skip
    unknown = (
        f" At the edge of what was allowed, so not told by these runs: {', '.join(law.at_bound)}."
        if law.at_bound
        else ""
    )
    return law, (
        f"Held-out cross-entropy = {told['e']} + {told['a']} / parameters^{told['alpha']} + "
        f"{told['b']} / train windows^{told['beta']} nats, 95% intervals of resampled residuals; "
        f"residuals {100 * float(np.sqrt(np.mean(law.residuals**2))):.2g}% (root mean square), "
        f"{100 * float(np.abs(law.residuals).max()):.2g}% at most.{unknown} Fitted to "
        f"{runs.height} runs of {law.parameters[0]:,} to {law.parameters[1]:,} parameters on "
        f"{law.windows[0]:,} to {law.windows[1]:,} windows; nothing is extrapolated beyond them."
    )


def _summarise(runs: pl.DataFrame, areas: Sequence[Floats]) -> pl.DataFrame:
    """`ScalingStudy.summary`; areas `[R, 1]` are those of the runs, in their order."""
    keys = ["size", "train_share"]
    bounds = [f"{FINDING}_low", f"{FINDING}_high"]
    numbers = [name for name in runs.columns if name not in (*keys, "seed", *bounds)]
    summary = (
        runs.with_row_index("run")
        .group_by(keys, maintain_order=True)
        .agg(
            pl.col("run"),
            pl.col("seed").count().alias("n_seeds"),
            *(pl.col(name).mean() for name in numbers),
            *(pl.col(name).std().alias(f"{name}_sd") for name in ("cross_entropy", FINDING)),
        )
    )
    interval = [
        auroc_columns(np.mean([areas[run] for run in of_seeds], axis=0), [FINDING])
        for of_seeds in summary["run"].to_list()
    ]
    return summary.drop("run").with_columns(
        pl.Series(name, [one[name] for one in interval]) for name in bounds
    )


def draw(summary: pl.DataFrame, law: PowerLaw | None, statement: str) -> Figure:
    """Cross-entropy against parameters and windows, and AUROC of findings against parameters."""
    canvas = Canvas(figsize=(11, 3.6), layout="constrained")
    by_parameters, by_windows, auroc = canvas.subplots(1, 3)
    shares, sizes = summary["train_share"].unique().sort(), summary.sort("n_parameters")["size"]
    sizes = sizes.unique(maintain_order=True)
    colours = mpl.colormaps["viridis"]
    for i, share in enumerate(shares):
        rows = summary.filter(pl.col("train_share") == share).sort("n_parameters")
        colour, label = colours(0.85 * i / max(1, len(shares) - 1)), f"{share:g}"
        _points(by_parameters, rows, "n_parameters", "cross_entropy", color=colour, label=label)
        _points(auroc, rows, "n_parameters", FINDING, ls="-", color=colour, label=label)
        if law:
            # Seeds can draw patients with more windows or fewer: at their mean.
            x = np.geomspace(*law.parameters)
            at = np.full_like(x, rows["n_train_windows"].mean())
            by_parameters.plot(x, law.loss(x, at), lw=1, color=colour)
    for i, size in enumerate(sizes):
        rows = summary.filter(pl.col("size") == size).sort("n_train_windows")
        colour = colours(0.85 * i / max(1, len(sizes) - 1))
        label = f"{rows['n_parameters'][0] / 1e6:.2g} M"
        _points(by_windows, rows, "n_train_windows", "cross_entropy", color=colour, label=label)
        if law:
            y = np.geomspace(*law.windows)
            at = np.full_like(y, rows["n_parameters"][0])
            by_windows.plot(y, law.loss(at, y), lw=1, color=colour)
    for axis, x_label, y_label, title in (
        (by_parameters, "parameters", "held-out cross-entropy (nats)", "train patients"),
        (by_windows, "train windows", "held-out cross-entropy (nats)", "parameters"),
        (auroc, "parameters", "mean AUROC of findings", "train patients"),
    ):
        axis.set(xscale="log", xlabel=x_label, ylabel=y_label)
        axis.legend(title=title, frameon=False, fontsize=8, title_fontsize=8)
    return png(
        canvas,
        f"Size and data. Means over seeds; bars: one standard error of the cross-entropy over "
        f"held-out patients, 95% intervals of AUROC. {statement}",
        "Three line plots: cross-entropy against parameters and against train windows, and AUROC "
        "of findings against parameters.",
    )


def _points(axis: Axes, rows: pl.DataFrame, x: str, y: str, ls: str = "", **style: Any) -> None:
    if y == FINDING:
        value, low, high = (rows[name].to_numpy() for name in (y, f"{y}_low", f"{y}_high"))
        # An interval by percentiles need not hold the value.
        spread: Floats = np.stack([value - low, high - value]).clip(min=0)
    else:
        spread = rows[f"{y}_se"].cast(pl.Float64).fill_null(0.0).to_numpy()
    points = rows[x].to_numpy(), rows[y].to_numpy()
    axis.errorbar(*points, yerr=spread, marker="o", ms=4, lw=1, ls=ls, **style)
