"""`openclef inspect encoder`: one page that shows what an encoder makes of tokens it is not shown.

The page knows sessions by `session_id` only. Beside it lies a Parquet file of the same name with
the number behind every figure and table, one a row, and in its metadata what they were made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from openclef import artefact
from openclef.artefact import Artefact
from openclef.cohort.store import Cohort
from openclef.encoder.evaluate import evaluate_encoder
from openclef.encoder.load import (
    check_whitener,
    drop_ratio_of,
    encoder_artefact,
    encoder_config,
    load_encoder,
)
from openclef.encoder.train import EncoderStage
from openclef.encoder.transformer import MaskedTransformer
from openclef.encoder.windows import EncoderWindows
from openclef.errors import ArtefactError, OpenclefError, choose
from openclef.page import render_page
from openclef.recipes.inspect_figures import Drawn
from openclef.recipes.inspect_filling import (
    EXPECTED,
    FILLS,
    INTERPOLATED,
    LIKELIEST,
    LINE_MEAN,
    TRUE,
    Filled,
    draw_windows,
    errors_db,
    fill_windows,
)
from openclef.recipes.inspect_panels import filled_in
from openclef.recipes.inspect_tokenizer import choose_examples, is_there, write_page
from openclef.tokenizer.evaluate import Floats
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.quantisers import ProductQuantiser
from openclef.tokenizer.token_table import TokenTable
from openclef.tokenizer.train import load_tokenizer
from openclef.tokenizer.vqgan import CLAMP_DB, Vqgan
from openclef.types import SPLITS

MEANINGS = {
    TRUE: "Nothing is masked: what the tokenizer itself loses.",
    EXPECTED: "The encoder's mean over the vectors of all codes, each by its probability.",
    LIKELIEST: "The vector of the code that the encoder thinks most likely.",
    INTERPOLATED: "Vectors of the shown tokens of the same row and region, interpolated along "
    "time. Nothing is learned.",
    LINE_MEAN: "Mean of the vectors of the shown tokens of the same row and region.",
}
PREDICTORS = ("encoder", "unigram", "bigram")
_NOTHING_LEARNED = (
    "its code head has learned nothing, and what it filled in would mean nothing; choose an "
    "encoder trained to predict codes"
)


def inspect_encoder(
    encoder_folder: Path,
    tokenizer_folder: Path,
    cohort: Cohort,
    tokens: TokenTable,
    out: Path,
    *,
    features: FeatureTable | None = None,
    split: str = "held_out",
    ratio: float = 0.75,
    n_examples: int = 3,
    n_windows: int = 100,
    seed: int = 0,
) -> Path:
    """Write the page `out` and the numbers beside it, unless they are there.

    Parameters
    ----------
    encoder_folder : a complete `encoder/` or `aligned/` that reads and predicts codes.
    tokenizer_folder : the complete `tokenizer/` that made the encoder's tokens, and these.
    cohort, tokens : whose windows to look at; they need not be those the encoder was trained on.
    out : file to write, `*.html`; the numbers go to `*.parquet`.
    features : of the tokens, if the encoder reads latents or patches.
    split : of the sessions.
    ratio : of the visible tokens masked, above 0 and below 1.
    n_examples : windows to show, from small to large error of the expected code.
    n_windows : to measure, drawn at random, all if there are fewer.
    seed : of the draw and of the masks.

    Returns
    -------
    The Parquet file: `figure, item, value` and what each value is of, in columns that are null
    where they do not apply.

    Raises
    ------
    ArtefactError
        If `out` or its Parquet file is there and of something else, or encoder, tokens or features
        are of another tokenizer, cohort, tokens or whitener.
    OpenclefError
        If the encoder reads or predicts no codes, or reads what is not given; if there is no such
        split, or no window to look at.
    """
    choose(split, SPLITS, "split")
    if not 0 < ratio < 1:
        raise OpenclefError(f"ratio {ratio:g}: give a share above 0 and below 1, such as 0.75")
    stage, source = _check(encoder_folder, tokenizer_folder, tokens)
    shape = encoder_config(encoder_folder)
    read = features if shape.feature_dims else None
    windows = EncoderWindows(tokens, shape.companions, cohort=cohort, features=read)
    if read is not None:
        check_whitener(encoder_folder, shape, read)
    made_of = {
        "encoder": stage.hash, "tokenizer": source.hash, "cohort": cohort.hash,
        "tokens": tokens.artefact.hash, "features": read.artefact.hash if read else "none",
        "split": split, "ratio": str(ratio), "windows": str(n_windows),
        "examples": str(n_examples), "seed": str(seed),
    }  # fmt: skip
    drop_ratio = drop_ratio_of(encoder_folder)
    numbers_path = out.with_suffix(".parquet")
    if is_there(out, made_of):
        return numbers_path
    encoder, tokenizer = load_encoder(encoder_folder), load_tokenizer(tokenizer_folder)
    _check_head(encoder, encoder_folder)
    chosen, n_hidden = draw_windows(cohort, tokens, split, n_windows=n_windows, seed=seed)

    def fill(some: pl.DataFrame, label: str) -> Iterator[Filled]:
        return fill_windows(
            encoder, tokenizer, cohort, windows, some, ratio=ratio, drop_ratio=drop_ratio,
            seed=seed, label=label,
        )  # fmt: skip

    measured = _measure(fill(chosen, "filling in"), chosen, tokenizer)
    if measured.is_empty():
        raise OpenclefError(
            f"{tokens.artefact.folder}: with {ratio:g} of the tokens masked, no window of split "
            f"{split} has both a token that is shown and a place that is not; give another ratio"
        )
    examples = choose_examples(measured, EXPECTED, n_examples)
    drawn = [
        _draw(window, tokenizer, row, n_windows=measured.height)
        for window, row in zip(
            fill(examples, "filling in examples"), examples.iter_rows(named=True), strict=True
        )
    ]
    errors = summarise(measured)
    entropies = pl.DataFrame()
    # The references count the codes of train patients: of these they would know what is asked.
    if split != "train" and len(tokens.rows("train")):
        entropies = evaluate_encoder(
            encoder_folder, cohort, tokens, split=split, features=read, ratio=ratio,
            n_windows=n_windows, seed=seed,
        )  # fmt: skip
    page = render_page(
        "openclef.recipes", "inspect_encoder.html",
        made_of=made_of, n_dropped=min(drop_ratio, ratio), errors=errors.to_dicts(),
        meanings=MEANINGS, n_windows=measured.height,
        n_patients=measured["subject_id"].n_unique(), n_hidden=n_hidden,
        n_left_out=chosen.height - measured.height, is_aligned=stage.kind == "aligned",
        is_of_its_tokens=stage.inputs["tokens"] == tokens.artefact.hash,
        reads=sorted(shape.feature_dims), n_regions=tokens.grid[0], clamp_db=CLAMP_DB,
        is_unit_length=isinstance(tokenizer.quantiser, ProductQuantiser),
        entropies=[row for row in entropies.to_dicts() if row["predictor"] in PREDICTORS],
        figures=[one.figure for one in drawn], numbers=numbers_path.name,
    )  # fmt: skip
    numbers = [*_numbers(measured, errors, entropies), *(one.numbers for one in drawn)]
    return write_page(out, page, numbers, made_of=made_of)


def _check(
    encoder_folder: Path, tokenizer_folder: Path, tokens: TokenTable
) -> tuple[Artefact, Artefact]:
    """Encoder and tokenizer, if the one reads and predicts codes of the other, and so do tokens."""
    stage = encoder_artefact(encoder_folder)
    source = artefact.load(tokenizer_folder, kind="tokenizer")
    shape = encoder_config(encoder_folder)
    if not shape.reads_codes:
        raise OpenclefError(
            f"{encoder_folder}: reads {shape.inputs} and no codes, so there are none to show it; "
            "choose an encoder whose inputs are codes, or codes and more"
        )
    # An aligned encoder does not keep its loss: `_check_head` sees what it has learned.
    if stage.kind == "encoder" and not artefact.read_config(stage, EncoderStage).loss.code_weight:
        raise OpenclefError(f"{encoder_folder}: trained with code_weight 0: {_NOTHING_LEARNED}")
    for made in (stage, tokens.artefact):
        if made.inputs["tokenizer"] != source.hash:
            raise ArtefactError(
                f"{made.folder}: {made.kind} of another tokenizer than {tokenizer_folder} "
                f"({made.inputs['tokenizer'][:12]} there, {source.hash[:12]} given)"
            )
    return stage, source


def _check_head(encoder: MaskedTransformer, folder: Path) -> None:
    """Raise OpenclefError if the code head is as it started: biases start at 0, and no step on
    codes leaves all of them there."""
    biases = [x for name, x in encoder.head.named_parameters() if name.endswith("bias")]
    if not any(bool(bias.any()) for bias in biases):
        raise OpenclefError(f"{folder}: its code head is as it started: {_NOTHING_LEARNED}")


def _measure(filled: Iterator[Filled], chosen: pl.DataFrame, tokenizer: Vqgan) -> pl.DataFrame:
    """Columns of `chosen` and of `FILLS` (`errors_db`), a row for each window of `filled`."""
    schema = {"row": pl.Int64, **dict.fromkeys(FILLS, pl.Float64)}
    found = [{"row": one.row, **errors_db(one, tokenizer.config)} for one in filled]
    return pl.DataFrame(found, schema=schema).join(chosen, on="row", maintain_order="left")


def _draw(window: Filled, tokenizer: Vqgan, row: dict[str, Any], *, n_windows: int) -> Drawn:
    name = (
        f"Session {row['session_id']}, window {row['window']}: {row[EXPECTED]:.2f} dB, "
        f"{row['place']} of {n_windows} by error"
    )
    told = ", ".join(f"{fill} {row[fill]:.2f} dB" for fill in FILLS)
    return filled_in(window, tokenizer.config, name=name, told=told, start_s=row["start_s"])


def summarise(measured: pl.DataFrame) -> pl.DataFrame:
    """Errors of each of `FILLS`, and how much larger they are than those of the interpolation.

    Parameters
    ----------
    measured : columns of `FILLS`, a window's mean absolute errors in dB, and `subject_id`.

    Returns
    -------
    `fill, mae_db, se_db, above_db, above_se_db`: means over windows with standard errors over
    patients, null if there is one patient.
    """
    patients = measured["subject_id"].to_numpy()
    rows = []
    for fill in FILLS:
        mae_db, se_db = _mean(measured[fill].to_numpy(), patients)
        above = (measured[fill] - measured[INTERPOLATED]).to_numpy()
        above_db, above_se_db = _mean(above, patients)
        rows.append((fill, mae_db, se_db, above_db, above_se_db))
    numbers = ("mae_db", "se_db", "above_db", "above_se_db")
    schema = {"fill": pl.String, **dict.fromkeys(numbers, pl.Float64)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _mean(values: Floats, patients: NDArray[Any]) -> tuple[float, float | None]:
    """Mean over windows and its standard error, windows of a patient counting as one draw."""
    mean = float(values.mean())
    _, of_patient = np.unique(patients, return_inverse=True)
    sums = np.bincount(of_patient, values - mean)  # of a patient's deviations
    n = len(sums)
    if n < 2:
        return mean, None
    return mean, float(np.sqrt(n / (n - 1) * np.square(sums).sum()) / len(values))


def _numbers(
    measured: pl.DataFrame, errors: pl.DataFrame, entropies: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """The tables of the page, and the errors of each window, one number a row."""
    of_windows = measured.select("session_id", "window", *FILLS)
    for figure, table, axes in (
        ("error by filling", errors, ["fill"]),
        ("error by window", of_windows, ["session_id", "window"]),
        ("cross-entropy", entropies, ["predictor"]),
    ):
        if not table.is_empty():
            values = table.with_columns(pl.exclude(axes).cast(pl.Float64))
            long = values.unpivot(index=axes, variable_name="item", value_name="value")
            yield long.select(pl.lit(figure).alias("figure"), "item", *axes, "value")
