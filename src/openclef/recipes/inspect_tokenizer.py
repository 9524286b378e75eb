"""`openclef inspect tokenizer`: one page that shows what a tokenizer keeps, and its numbers.

The page knows sessions by `session_id` only. Beside it lies a Parquet file of the same name with
the number behind every figure, one a row, and in its metadata what they were made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from openclef import artefact
from openclef.artefact import atomic
from openclef.benchmark.report import Section
from openclef.cohort.store import FREQ_STEP_HZ, Cohort
from openclef.errors import ArtefactError, OpenclefError, choose
from openclef.page import render_page
from openclef.recipes import inspect_codes, inspect_figures
from openclef.recipes.inspect_figures import Drawn, tidy
from openclef.recipes.inspect_numbers import Ints, Looked, look
from openclef.tokenizer.evaluate import decode_windows
from openclef.tokenizer.regions import REGIONS
from openclef.tokenizer.train import load_tokenizer
from openclef.tokenizer.vqgan import CLAMP_DB, Vqgan
from openclef.types import CHANNELS, SPLITS

N_CODES = 12
N_FAILURES = 5
_CODES_A_FIGURE = 4
_PREFIX = "openclef."  # of the names in the metadata of the numbers


def inspect_tokenizer(
    tokenizer_folder: Path,
    cohort: Cohort,
    out: Path,
    *,
    split: str = "held_out",
    n_windows: int = 200,
    n_examples: int = 3,
    seed: int = 0,
) -> Path:
    """Write the page `out` and the numbers beside it, unless they are there.

    Parameters
    ----------
    tokenizer_folder : a complete `tokenizer/`.
    cohort : whose windows to look at; those in which nothing is visible, or that hold NaN or
        infinite values, are left out, and the page says how many.
    out : file to write, `*.html`; the numbers go to `*.parquet`.
    split : of the sessions.
    n_windows : drawn at random, all if there are fewer.
    n_examples : how many of them to show, from small to large error.
    seed : of the draw.

    Returns
    -------
    The Parquet file: `figure, item, value` and what each value is of, in columns that are null
    where they do not apply.

    Raises
    ------
    ArtefactError
        If `out` or its Parquet file is there and of something else.
    OpenclefError
        If there is no such split, or no window to look at.
    """
    choose(split, SPLITS, "split")
    tokenizer_hash = artefact.load(tokenizer_folder, kind="tokenizer").hash
    made_of = {
        "tokenizer": tokenizer_hash, "cohort": cohort.hash, "split": split,
        "windows": str(n_windows), "examples": str(n_examples), "seed": str(seed),
    }  # fmt: skip
    numbers_path = out.with_suffix(".parquet")
    if is_there(out, made_of):
        return numbers_path
    rows, n_hidden = choose_windows(cohort, split, n_windows=n_windows, seed=seed)
    tokenizer = load_tokenizer(tokenizer_folder)
    try:
        looked = look(tokenizer, cohort, rows)
    except ValueError as error:
        raise OpenclefError(f"{cohort.folder}: split {split} has {error}") from error
    summary = summarise(tokenizer, cohort, looked)
    values = np.array([row["value"] for row in summary])
    numbers = [tidy("summary", "value", values, what=[row["name"] for row in summary])]
    sections = []
    for title, text, drawn in _sections(tokenizer, cohort, looked, n_examples):
        sections.append(Section(title, text, [one.figure for one in drawn]))
        numbers += [one.numbers for one in drawn]
    page = render_page(
        "openclef.recipes", "inspect_tokenizer.html",
        made_of=made_of, summary=summary, n_hidden=n_hidden, n_not_finite=looked.n_not_finite,
        sections=sections, failures=failures(looked), numbers=numbers_path.name,
        median_mae_db=looked.windows["mae_db"].median(), n_channels=len(CHANNELS),
        clamp_db=CLAMP_DB,
    )  # fmt: skip
    return write_page(out, page, numbers, made_of=made_of)


def is_there(out: Path, made_of: dict[str, str]) -> bool:
    """Whether the page of `made_of` is at `out`.

    Raises ArtefactError rather than let anything else be overwritten, and OpenclefError if the name
    is not one of a page.
    """
    if out.suffix != ".html":
        raise OpenclefError(f"{out}: give the page a name that ends in .html, {out.name}.html")
    numbers_path = out.with_suffix(".parquet")
    if numbers_path.exists():
        earlier = _page_metadata(numbers_path)
        if not earlier.keys() & made_of.keys():
            raise ArtefactError(f"{numbers_path}: exists and is not of a page; choose another name")
        # Both ways: a page of an encoder is made of more than a page of its tokenizer.
        # What only the earlier one has comes first, in its order: the kind of page differs.
        for name in [*(name for name in earlier if name not in made_of), *made_of]:
            there, asked = earlier.get(name, "none"), made_of.get(name, "none")
            if there != asked:
                raise ArtefactError(
                    f"{numbers_path}: holds the numbers of another page ({name}: "
                    f"{there[:12]} there, {asked[:12]} asked); choose another name or "
                    "delete both files"
                )
        return out.exists()
    if out.exists():
        raise ArtefactError(
            f"{out}: exists, without its numbers {numbers_path.name}; choose another name"
        )
    return False


def _page_metadata(path: Path) -> dict[str, str]:
    """What the numbers in `path` were made of; empty if it is no Parquet file."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, ValueError):  # ArrowInvalid is a ValueError
        return {}
    named = {name.decode(): value.decode("utf-8", "replace") for name, value in metadata.items()}
    return {k.removeprefix(_PREFIX): v for k, v in named.items() if k.startswith(_PREFIX)}


def write_page(
    out: Path, page: str, numbers: list[pl.DataFrame], *, made_of: dict[str, str]
) -> Path:
    """Write the page, and the numbers beside it with what they are made of; gives their path."""
    numbers_path = out.with_suffix(".parquet")
    table = pl.concat(numbers, how="diagonal").to_arrow()
    table = table.replace_schema_metadata({f"{_PREFIX}{k}": v for k, v in made_of.items()})
    with atomic(numbers_path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    with atomic(out) as temporary:  # last: where the page is, all is there
        temporary.write_text(page, encoding="utf-8")
    return numbers_path


def choose_windows(cohort: Cohort, split: str, *, n_windows: int, seed: int) -> tuple[Ints, int]:
    """Rows of windows in which something is visible, drawn at random, in order; and the number of
    windows of the split in which nothing is.

    Raises OpenclefError if there is none.
    """
    windows = cohort.windows.filter(pl.col("row").is_in(cohort.rows(split)))
    is_hidden = pl.col("channel_mask").list.all() | pl.col("time_mask").list.all()
    rows = windows.filter(~is_hidden)["row"].sort().to_numpy()
    if not len(rows):
        raise OpenclefError(
            f"{cohort.folder}: split {split} has no window in which anything is visible"
        )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(rows, min(n_windows, len(rows)), replace=False))
    return chosen, windows.height - len(rows)


def summarise(tokenizer: Vqgan, cohort: Cohort, looked: Looked) -> list[dict[str, Any]]:
    """The table on top: `name, value` (a number), `shown` and `meaning`, in a sentence."""
    config, fidelity = tokenizer.config, looked.fidelity
    quantiser = config.quantiser
    n_regions, n_rows, n_columns = config.grid
    looked_at = cohort.sessions.join(looked.windows, on="session_id", how="semi")
    n_patients = looked_at["subject_id"].n_unique()
    n_codes, n_quantisers = quantiser.n_codes, quantiser.n_quantisers
    n_bits = config.n_tokens * n_quantisers * math.log2(n_codes)
    mae_db = float(fidelity.absolute_db.sum() / fidelity.n.sum())
    heights_hz = FREQ_STEP_HZ * np.diff(config.row_edges)
    narrowest, widest = heights_hz.min(), heights_hz.max()
    height = f"{narrowest:g}" if narrowest == widest else f"{narrowest:g} to {widest:g}"
    minutes = config.n_frames / 60

    def each(values: list[float], form: str) -> str:
        return ", ".join(form.format(value) for value in values)

    def of_residuals(value: float) -> str:
        return "none (one channel)" if math.isnan(value) else f"{value:.3f}"

    n_all = n_quantisers * n_codes
    rows: list[tuple[str, float, str, str]] = [
        ("windows", fidelity.n_windows, f"{fidelity.n_windows:,}",
         "Drawn at random from the split; hidden minutes and channels count nowhere on this page."),
        ("patients", n_patients, f"{n_patients:,}", "Whose sessions these are of."),
        ("tokens", fidelity.n_tokens, f"{fidelity.n_tokens:,}",
         "Visible ones, which all numbers of the codes are of."),
        ("grid", config.n_tokens, f"{n_regions} x {n_rows} x {n_columns}",
         f"Regions, rows of {height} Hz, columns of {config.frames_per_token} s: the "
         f"{config.n_tokens:,} tokens that a window of {minutes:.1f} minutes becomes."),
        ("bits a session", n_bits, f"{n_bits:,.0f}",
         f"All that is left of a window: {config.n_tokens:,} tokens"
         + (f" of {n_quantisers} codes" if n_quantisers > 1 else "")
         + f" out of {n_codes:,}; in half precision the spectrogram has "
         f"{16 * len(CHANNELS) * config.n_freqs * config.n_frames:,}."),
        ("usage", float(np.mean(fidelity.usage)), each(fidelity.usage, "{:.1%}"),
         "Share of the codes that occur here; the others are room that nothing is written in"
         + (f" (or too few tokens were looked at: {fidelity.n_tokens / n_codes:.1f} a code)."
            if fidelity.n_tokens < 20 * n_all else ".")),
        ("perplexity", float(np.mean(fidelity.perplexity)), each(fidelity.perplexity, "{:,.1f}"),
         "As many codes, used equally often, would tell as much."),
        ("R2 of the mean over channels", fidelity.mean_r2, f"{fidelity.mean_r2:.3f}",
         "How much of what changes in all channels together is kept: 1 all, 0 no more than the "
         "tokenizer's mean spectrum."),
        ("R2 of the residuals", fidelity.residual_r2, of_residuals(fidelity.residual_r2),
         "The same of what tells channels apart: side and focus are read from this."),
        ("mean absolute error", mae_db, f"{mae_db:.2f} dB",
         "Of one channel, frequency and second; 3 dB is a factor of two in power."),
        ("correlation of the mean", fidelity.mean_correlation, f"{fidelity.mean_correlation:.3f}",
         "Whether decoded and original rise and fall together, by however much."),
        ("correlation of the residuals", fidelity.residual_correlation,
         of_residuals(fidelity.residual_correlation),
         "The same between channels; where its square is far above R2, size is lost, not shape."),
    ]  # fmt: skip
    names = ("name", "value", "shown", "meaning")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _sections(
    tokenizer: Vqgan, cohort: Cohort, looked: Looked, n_examples: int
) -> Iterator[tuple[str, str, list[Drawn]]]:
    """Title, text and figures of each part of the page."""
    fidelity = looked.fidelity
    examples = list(_examples(tokenizer, cohort, looked, n_examples))
    if examples:
        text = (
            "Windows from small to large error, with their place among all that were looked at. "
            "Every later stage sees the tokens alone."
        )
        yield "Reconstructions", text, examples
    text = (
        "Explained variance (R2) is of the variance about the tokenizer's own moving mean of each "
        "channel and frequency, split into the mean over the visible channels and each channel's "
        "residual from it. "
        + (
            "Where the tokenizer merges bins that mean is one of the whole band, so that the slope "
            "of the spectrum within a band counts as variance. "
            if tokenizer.config.bands
            else ""
        )
        + "These are not the numbers of openclef reproduce tokenizer, which are about one mean "
        "spectrum for all tokenizers."
    )
    edges_hz = FREQ_STEP_HZ * np.array(tokenizer.config.row_edges)
    drawn = [
        inspect_figures.error_maps(fidelity),
        inspect_figures.by_frequency(fidelity, edges_hz=edges_hz),
        inspect_figures.error_on_scalp(fidelity),
    ]
    yield "Error by channel and band", text, drawn
    text = (
        "A curve that stays flat and falls late is a codebook well used; one that falls at once "
        "leaves the work to few codes."
    )
    yield "Use of the codes", text, [inspect_codes.code_use(fidelity)]
    found = looked.codes.most_used(N_CODES)
    drawn = [
        inspect_codes.codes(found[i : i + _CODES_A_FIGURE], looked.codes, first=i + 1)
        for i in range(0, len(found), _CODES_A_FIGURE)
    ]
    yield "The most used codes", _about_codes(tokenizer), drawn
    errors_db = looked.windows["mae_db"].to_numpy()
    yield "Failures", "", [inspect_figures.errors_of_windows(errors_db, N_FAILURES)]


def _examples(tokenizer: Vqgan, cohort: Cohort, looked: Looked, n_examples: int) -> Iterator[Drawn]:
    examples = choose_examples(looked.windows, "mae_db", n_examples)
    windows = decode_windows(
        tokenizer, cohort, examples["row"].to_numpy(), label="decoding examples"
    )
    for window, row in zip(windows, examples.iter_rows(named=True), strict=True):
        name = (
            f"Session {row['session_id']}, window {row['window']}: {row['mae_db']:.2f} dB, "
            f"{row['place']} of {looked.windows.height} by error"
        )
        yield inspect_figures.reconstruction(window, name=name, start_s=row["start_s"])


def choose_examples(windows: pl.DataFrame, error: str, n_examples: int) -> pl.DataFrame:
    """Windows in the middle of equal parts of the ranking by the column `error`, from the smallest
    on, and their `place` in it, from 1."""
    ranked = windows.sort(error, "row").with_row_index("place", offset=1)
    n = min(n_examples, ranked.height)
    places = ((np.arange(n) + 0.5) / max(1, n) * ranked.height).astype(int)
    return ranked[places]


def _about_codes(tokenizer: Vqgan) -> str:
    config = tokenizer.config
    n_regions, n_rows, _ = config.grid
    text = (
        "Each code by the spectrogram that was there where it occurs. Pattern: the mean over its "
        f"patches ({config.n_bands // n_rows} bands, {config.frames_per_token} s) less the "
        "mean of all patches of the same row"
        + (" and region" if n_regions > 1 else "")
        + ", channel by band; then its mean over the bands on the head. Deviation: how "
        "far each channel is from its usual there, in standard deviations of single patches: "
        "where on the scalp the code speaks. A code reads the patch and its surroundings, and may "
        "stand for different things in different rows: bars tell in which rows it occurs, the "
        "line how often at each minute of the session."
    )
    if config.regions == "mid_side":
        text += (
            "\n\nRegion 1 is the means of homologous pairs and the midline, region 2 left minus "
            "right of the pairs. "
        )
    elif n_regions > 1:
        names = "; ".join(
            f"{i}: {', '.join(region)}" for i, region in enumerate(REGIONS[config.regions], 1)
        )
        text += f"\n\nRegions, of whose channels alone their tokens are made: {names}. "
    if n_regions > 1:
        text += "Channels that under a tenth of a code's tokens are made of are grey."
    if config.quantiser.n_quantisers > 1:
        text += "\n\nEach code of a token has a codebook of its own; its number stands in brackets."
    return text


def failures(looked: Looked) -> list[dict[str, Any]]:
    """The windows with the largest error, and what may be special about them."""
    return looked.windows.sort("mae_db", "row", descending=[True, False])[:N_FAILURES].to_dicts()
