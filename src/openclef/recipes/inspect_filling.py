"""What can be put in the place of tokens that an encoder was not shown, decoded by the tokenizer.

Axis letters: R region, L token, V code, D dimension of a code's vector, C channel, F frequency, T
frame; a prime (Fp, Tp) is the token grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from rich.progress import track
from torch import Tensor

from openclef.cohort.store import Cohort
from openclef.encoder.evaluate import mask_rows
from openclef.encoder.transformer import MaskedTransformer
from openclef.encoder.windows import EncoderWindows
from openclef.errors import OpenclefError
from openclef.tokenizer.token_table import TokenTable
from openclef.tokenizer.vqgan import CLAMP_DB, TokenizerConfig, Vqgan
from openclef.training.loop import best_device
from openclef.types import BoolArray, FloatArray, Spectrogram

_READ_WINDOWS = 1024
TRUE = "the tokens themselves"
EXPECTED = "expected code"
LIKELIEST = "most likely code"
INTERPOLATED = "interpolation"
LINE_MEAN = "mean of the line"
FILLS = (TRUE, EXPECTED, LIKELIEST, INTERPOLATED, LINE_MEAN)


@dataclass(frozen=True, eq=False)
class Filled:
    """A window whose masked tokens were given vectors of `FILLS`.

    row: of the window in its token table. original: 0 where it is hidden. masked `[R, Fp, Tp]`:
    tokens that were not shown. hidden `[R, Tp]`: columns without tokens. decoded: spectrograms
    `[C, F, T]` in dB, one for each of `FILLS`.
    """

    row: int
    original: Spectrogram
    masked: BoolArray
    hidden: BoolArray
    decoded: dict[str, FloatArray]


def draw_windows(
    cohort: Cohort, tokens: TokenTable, split: str, *, n_windows: int, seed: int
) -> tuple[pl.DataFrame, int]:
    """Windows with a visible token, drawn at random, and the number of those of the split without.

    Returns
    -------
    `row, cohort_row` (of the window in the token table and in the cohort), `session_id, window,
    start_s, subject_id`, in order of the token table.

    Raises
    ------
    OpenclefError
        If the split has no window with a visible token.
    """
    rows = tokens.rows(split)
    parts = [rows[start : start + _READ_WINDOWS] for start in range(0, len(rows), _READ_WINDOWS)]
    visible = np.concatenate([rows[:0], *(part[~tokens.hidden(part).all(1)] for part in parts)])
    if not len(visible):
        raise OpenclefError(
            f"{tokens.artefact.folder}: split {split} has no window with a visible token"
        )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(visible, min(n_windows, len(visible)), replace=False))
    found = pl.DataFrame(
        {
            "row": chosen,
            "session_id": tokens.session_id.gather(chosen),
            "window": tokens.window[chosen],
            "start_s": tokens.start_s[chosen],
        }
    )
    of_cohort = cohort.windows.select("session_id", "window", cohort_row="row")
    of_patients = cohort.sessions.select("session_id", "subject_id")
    found = found.join(of_cohort, on=["session_id", "window"], maintain_order="left")
    return found.join(of_patients, on="session_id", maintain_order="left"), len(rows) - len(visible)


@torch.no_grad()
def fill_windows(
    encoder: MaskedTransformer,
    tokenizer: Vqgan,
    cohort: Cohort,
    windows: EncoderWindows,
    chosen: pl.DataFrame,
    *,
    ratio: float,
    drop_ratio: float,
    seed: int,
    label: str,
) -> Iterator[Filled]:
    """Mask windows as `evaluate_encoder` does, fill them in and decode them.

    Parameters
    ----------
    encoder, tokenizer : in evaluation mode, the tokenizer that of the tokens.
    cohort : that of the tokens.
    windows : as the encoder reads them.
    chosen : `row` and `cohort_row` of the windows, see `draw_windows`.
    ratio, drop_ratio : of the visible tokens masked, and left out of the encoder.
    seed : of the masks.
    label : of the progress bar.

    Yields
    ------
    One a window, without those in which no token is shown, or no place is masked in all its
    regions (see `masked_places`).
    """
    device, tokens = best_device(), windows.tokens
    encoder.to(device)
    tokenizer.to(device)
    vectors_VD = code_vectors(tokenizer)
    # One at a time: the scores of 1,536 tokens over 8,192 codes take 50 MB.
    pairs = list(chosen.select("row", "cohort_row").iter_rows())
    for row, cohort_row in track(pairs, label):
        batch = {name: x.to(device) for name, x in windows.batch(np.array([row])).items()}
        masking = mask_rows(
            batch["hidden"], np.array([row]), ratio=ratio, drop_ratio=drop_ratio, seed=seed
        )
        masked, hidden = (
            x[0].reshape(tokens.grid).cpu().numpy() for x in (masking.masked, batch["hidden"])
        )
        hidden = hidden[:, 0]  # the same in every row of the grid
        if (masked | hidden[:, None]).all() or not masked_places(masked, hidden).any():
            continue
        logits_nV = encoder(batch, masking).float()
        fills = fill(vectors_VD, batch["ids"][0].reshape(tokens.grid), masked, hidden, logits_nV)
        hidden_BRT = torch.from_numpy(hidden).to(device).expand(len(fills), -1, -1)
        power_db = tokenizer.decode(torch.stack(list(fills.values())), hidden_BRT) * CLAMP_DB
        yield Filled(
            row=row,
            original=_cleared(cohort.spectrogram(cohort_row)),
            masked=masked,
            hidden=hidden,
            decoded=dict(zip(fills, power_db.cpu().numpy(), strict=True)),
        )


def code_vectors(tokenizer: Vqgan) -> Tensor:
    """What each code of a tokenizer of one code a token stands for, `[V, D]`."""
    n_codes = tokenizer.config.quantiser.n_codes
    ids = torch.arange(n_codes, device=next(tokenizer.parameters()).device)
    return tokenizer.quantiser.decode(ids[:, None])


def fill(
    vectors_VD: Tensor, ids: Tensor, masked: BoolArray, hidden: BoolArray, logits_nV: Tensor
) -> dict[str, Tensor]:
    """Vectors of all tokens, `[R, Fp, Tp, D]`: a shown token's is that of its code.

    Parameters
    ----------
    vectors_VD : of the codes.
    ids : Tensor, shape (R, Fp, Tp), int64
    masked : array, shape (R, Fp, Tp)
    hidden : array, shape (R, Tp)
    logits_nV : scores over the codes at the masked tokens, in row-major order.

    Returns
    -------
    By what the masked tokens get: their own code's vector; the encoder's mean over its codes,
    sum_k p_k c_k; its most likely code's; those of the shown tokens of the same line (row of a
    region), interpolated along time; their mean. A line without a shown token gets the mean of all
    that are shown.
    """
    true = vectors_VD[ids]
    at = torch.from_numpy(masked).to(true.device)
    shown = ~(masked | hidden[:, None])
    by_fill = {
        TRUE: true[at],
        EXPECTED: logits_nV.softmax(-1) @ vectors_VD,
        LIKELIEST: vectors_VD[logits_nV.argmax(-1)],
    }
    lines = _from_lines(true.cpu().numpy(), shown)
    by_fill |= {name: torch.from_numpy(x).to(true)[at] for name, x in lines.items()}
    filled = {name: true.clone() for name in FILLS}
    for name, vectors in by_fill.items():
        filled[name][at] = vectors
    return filled


def _from_lines(vectors: FloatArray, shown: BoolArray) -> dict[str, FloatArray]:
    """What the shown tokens of a line say of every place of it, `[R, Fp, Tp, D]` each."""
    between, mean = np.empty_like(vectors), np.empty_like(vectors)
    columns = np.arange(shown.shape[-1])
    for line in np.ndindex(shown.shape[:2]):
        known = np.flatnonzero(shown[line])
        if not len(known):
            between[line] = mean[line] = vectors[shown].mean(0)
            continue
        given = vectors[line][known]
        mean[line] = given.mean(0)
        between[line] = np.stack([np.interp(columns, known, values) for values in given.T], -1)
    return {INTERPOLATED: between, LINE_MEAN: mean}


def masked_places(masked: BoolArray, hidden: BoolArray) -> BoolArray:
    """Places (row, column) `[Fp, Tp]` of which no region shows a token, and not all are hidden.

    masked `[R, Fp, Tp]`, hidden `[R, Tp]`. The decoder makes each channel of all regions: only
    there nothing of what is decoded was shown.
    """
    shows_none: BoolArray = np.all(masked | hidden[:, None], axis=0)
    return shows_none & ~np.all(hidden, axis=0)


def errors_db(window: Filled, config: TokenizerConfig) -> dict[str, float]:
    """Mean absolute error, dB, over the visible cells of `masked_places`, by fill."""
    places = masked_places(window.masked, window.hidden)
    cells = np.repeat(places, np.diff(config.row_edges), 0)
    cells = np.repeat(cells, config.frames_per_token, 1)
    counted = _visible(window.original) & cells
    return {
        name: float(np.abs(power_db - window.original.power_db).mean(where=counted, dtype=float))
        for name, power_db in window.decoded.items()
    }


def _visible(window: Spectrogram) -> BoolArray:
    """`[C, 1, T]`."""
    visible: BoolArray = ~(window.channel_mask[:, None, None] | window.time_mask)
    return visible


def _cleared(window: Spectrogram) -> Spectrogram:
    """The same, clamped as the tokenizer does, and 0 where it is hidden."""
    clamped = np.clip(window.power_db, -CLAMP_DB, CLAMP_DB)
    return Spectrogram(
        power_db=np.where(_visible(window), clamped, np.float32(0)),
        freqs_hz=window.freqs_hz,
        times_s=window.times_s,
        channel_mask=window.channel_mask,
        time_mask=window.time_mask,
    )
