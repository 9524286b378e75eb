"""Held-out cross-entropy of masked codes, without smoothing, against what needs no training.

All predictors are asked for the same masked tokens, at one mask ratio and fixed seeds. Axis
letters: L token, V vocabulary, G line of the grid (a frequency row of a region).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track

from openclef.cohort.store import Cohort
from openclef.encoder.load import check_whitener, drop_ratio_of, load_encoder
from openclef.encoder.masking import Masking, mask_first
from openclef.encoder.windows import EncoderWindows
from openclef.errors import OpenclefError
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.training.loop import best_device
from openclef.types import BoolArray

BATCH_SIZE = 8
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_FIT_WINDOWS = 4096
_SIDES = ("previous", "next", "nearest")


class GridStatistics:
    """Codes of each line of the grid, and of neighbours in it: what a copy of nearby tokens knows.

    Parameters
    ----------
    tokens : TokenTable
    rows : array, shape (N,)
        Windows to count, of train patients; 4,096 of them at most, evenly taken.
    """

    def __init__(self, tokens: TokenTable, rows: NDArray[np.int64]) -> None:
        n_regions, n_rows, self.n_columns = tokens.grid
        self.n_lines, self.n_codes = n_regions * n_rows, tokens.n_codes
        if len(rows) > _FIT_WINDOWS:
            rows = rows[np.linspace(0, len(rows) - 1, _FIT_WINDOWS).astype(int)]
        counts = np.zeros((self.n_lines, self.n_codes))
        size = self.n_lines * self.n_codes, self.n_codes
        self._forward = scipy.sparse.csr_array(size, dtype=np.float64)
        self._backward = scipy.sparse.csr_array(size, dtype=np.float64)
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            states = self._states(tokens.ids[part])
            shown = ~tokens.hidden(part).reshape(states.shape)
            counts += np.bincount(states[shown], minlength=counts.size).reshape(counts.shape)
            before, after = states[..., :-1], states[..., 1:]
            both = shown[..., :-1] & shown[..., 1:]
            self._forward += self._pairs(before[both], after[both])
            self._backward += self._pairs(after[both], before[both])
        self._alone = [
            np.asarray(table.sum(axis=1)).ravel() for table in (self._forward, self._backward)
        ]
        self._unigram = (counts + 1) / (counts + 1).sum(1, keepdims=True)

    def _states(self, ids_NL: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Line and code of each token in one number, `[N, G, columns]`."""
        codes = ids_NL.reshape(-1, self.n_lines, self.n_columns).astype(np.int64)
        states: NDArray[np.int64] = codes + np.arange(self.n_lines)[:, None] * self.n_codes
        return states

    def _pairs(self, given: NDArray[np.int64], then: NDArray[np.int64]) -> scipy.sparse.csr_array:
        shape = self.n_lines * self.n_codes, self.n_codes
        found = (np.ones(len(given)), (given, then % self.n_codes))
        return scipy.sparse.coo_array(found, shape=shape).tocsr()

    def cross_entropies(
        self, ids_L: NDArray[np.uint16], hidden_L: BoolArray, masked_L: BoolArray
    ) -> dict[str, NDArray[np.float64]]:
        """-log p of the masked codes of one window, nats, by predictor, `[n_masked]` each.

        "unigram": of the line, add-one. "previous", "next", "nearest": P(code | code of the last
        unmasked token of the line before it, after it, or the nearer of both) from neighbours one
        column apart, mixed with `strength` observations of the unigram, as "previous 1"; the
        unigram alone where that side has none.
        """
        states = self._states(ids_L[None])[0]
        masked = masked_L.reshape(states.shape)
        shown = ~(hidden_L.reshape(states.shape) | masked)
        line, column = np.nonzero(masked)
        target = states[masked] % self.n_codes
        prior = self._unigram[line, target]
        before, after = _shown_before(shown), _shown_after(shown)
        at = {"previous": before[masked], "next": after[masked]}
        is_nearer = _distance(column, at["previous"]) <= _distance(column, at["next"])
        counts = {}
        for side, table, alone in zip(
            ("previous", "next"), (self._forward, self._backward), self._alone, strict=True
        ):
            given = states[line, np.maximum(at[side], 0)]
            exists = at[side] >= 0
            counts[side] = _at(table, given, target) * exists, alone[given] * exists
        counts["nearest"] = tuple(
            np.where(is_nearer, p, n)
            for p, n in zip(counts["previous"], counts["next"], strict=True)
        )
        found = {"unigram": -np.log(prior)}
        for side in _SIDES:
            together, total = counts[side]
            for strength in STRENGTHS:
                mixed = (together + strength * prior) / (total + strength)
                found[f"{side} {strength:g}"] = -np.log(mixed)
        return found


def evaluate_encoder(
    encoder_folder: Path,
    cohort: Cohort,
    tokens: TokenTable,
    *,
    split: str = "held_out",
    features: FeatureTable | None = None,
    ratio: float = 0.75,
    n_windows: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Cross-entropy of masked codes: the encoder's, the unigram's and a copied neighbour's.

    Parameters
    ----------
    encoder_folder : Path
        A complete `encoder/` (or `aligned/`) for these tokens.
    cohort, tokens, features : as the encoder reads them.
    split : str
        Whose windows are asked; counts are of train patients.
    ratio : float
        Of the visible tokens masked. As many are left out of the encoder as in its training.
    n_windows : int, optional
        Evenly taken of the split; None is all.
    seed : int
        Of the masks; a window's depends on its place in the token table, not on the others.

    Returns
    -------
    `predictor, cross_entropy, se, share, share_se, n_patients, n_tokens`: nats, the mean over
    patients of each one's mean, with its standard error; share, the reduction against the better
    reference (1 - encoder / reference, over the same patients). Predictors: "encoder"; "unigram";
    "bigram", the best of the sides and strengths of `GridStatistics`, chosen on these very tokens,
    in the references' favour; and each of those.

    Raises
    ------
    OpenclefError
        If the split has no window with tokens, or the encoder reads what is not given.
    """
    model = load_encoder(encoder_folder).to(best_device())
    windows = EncoderWindows(tokens, model.config.companions, cohort=cohort, features=features)
    if features is not None:  # what is not patches has no whitener to check
        check_whitener(encoder_folder, model.config, features)
    rows = tokens.rows(split)
    if n_windows is not None and len(rows) > n_windows:
        rows = rows[np.linspace(0, len(rows) - 1, n_windows).astype(int)]
    if not len(rows):
        raise OpenclefError(f"{tokens.artefact.folder}: no window of the {split!r} patients")
    statistics = GridStatistics(tokens, tokens.rows("train"))
    drop_ratio = drop_ratio_of(encoder_folder)
    sums = []
    starts = track(range(0, len(rows), BATCH_SIZE), "cross-entropy")
    for part in (rows[start : start + BATCH_SIZE] for start in starts):
        batch = {name: x.to(best_device()) for name, x in windows.batch(part).items()}
        masking = mask_rows(batch["hidden"], part, ratio=ratio, drop_ratio=drop_ratio, seed=seed)
        with torch.no_grad():
            logits = model(batch, masking).float()
            losses = F.cross_entropy(logits, batch["ids"][masking.masked], reduction="none")
        masked = masking.masked.cpu().numpy()
        of_window = np.split(losses.cpu().numpy(), np.cumsum(masked.sum(1))[:-1])
        for row, mask, hidden, mine in zip(
            part, masked, tokens.hidden(part), of_window, strict=True
        ):
            known = statistics.cross_entropies(tokens.ids[row], hidden, mask)
            totals = {name: float(values.sum()) for name, values in known.items()}
            sums.append({"row": row, "n": len(mine), "encoder": float(mine.sum()), **totals})
    return _table(pl.DataFrame(sums), cohort, tokens)


def mask_rows(
    hidden: torch.Tensor, rows: NDArray[np.int64], *, ratio: float, drop_ratio: float, seed: int
) -> Masking:
    """The masks that windows are asked with: a window's depends on its row and the seed alone.

    Parameters
    ----------
    hidden : Tensor, shape (B, L), bool
        True = not visible, of these windows.
    rows : array, shape (B,)
        Of the windows in their token table.
    ratio, drop_ratio : float
        Of the visible tokens masked, and left out of the encoder.
    seed : int
    """
    noise = np.stack([np.random.default_rng([seed, row]).random(hidden.shape[1]) for row in rows])
    on_device = torch.from_numpy(noise).to(hidden.device)
    return mask_first(hidden, on_device, ratio=ratio, drop_ratio=drop_ratio)


def _table(sums: pl.DataFrame, cohort: Cohort, tokens: TokenTable) -> pl.DataFrame:
    """From sums over the masked tokens of each window to means over patients."""
    names = [name for name in sums.columns if name not in ("row", "n")]
    patient = dict(cohort.sessions.select("session_id", "subject_id").iter_rows())
    sessions = tokens.session_id.gather(sums["row"])
    sums = sums.with_columns(subject=pl.Series([patient[name] for name in sessions]))
    by_patient = sums.filter(pl.col("n") > 0).group_by("subject").agg(pl.col("n", *names).sum())
    means = {name: (by_patient[name] / by_patient["n"]).to_numpy() for name in names}
    copies = [name for name in names if name not in ("encoder", "unigram")]
    means["bigram"] = means[min(copies, key=lambda name: float(means[name].mean()))]
    better = min(("unigram", "bigram"), key=lambda name: float(means[name].mean()))
    reference, n = means[better], len(by_patient)

    def error(values: NDArray[np.float64]) -> float | None:
        return float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None

    rows = []
    for name in ("encoder", "unigram", "bigram", *copies):
        share = 1 - float(means[name].mean() / reference.mean())
        # Of a ratio of means over the same patients, to first order.
        spread = means[name] - (1 - share) * reference
        share_se = error(spread)
        rows.append(
            {
                "predictor": name,
                "cross_entropy": float(means[name].mean()),
                "se": error(means[name]),
                "share": share,
                "share_se": None if share_se is None else share_se / float(reference.mean()),
                "n_patients": n,
                "n_tokens": int(by_patient["n"].sum()),
            }
        )
    return pl.DataFrame(rows)


def _shown_before(shown: BoolArray) -> NDArray[np.int64]:
    """Column of the last shown token up to each place of `[G, columns]`; -1 where there is none."""
    columns = np.where(shown, np.arange(shown.shape[1]), -1)
    return np.maximum.accumulate(columns, axis=1)


def _shown_after(shown: BoolArray) -> NDArray[np.int64]:
    """Column of the first shown token from each place on; -1 where there is none."""
    n_columns = shown.shape[1]
    mirrored = _shown_before(shown[:, ::-1])[:, ::-1]
    return np.where(mirrored < 0, -1, n_columns - 1 - mirrored)


def _distance(column: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(at < 0, np.inf, np.abs(column - at))


def _at(
    table: scipy.sparse.csr_array, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Entries of a sparse table, `[n]`."""
    values: NDArray[np.float64] = np.asarray(table[rows, columns]).ravel()
    return values
