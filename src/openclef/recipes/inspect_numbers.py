"""What `inspect tokenizer` adds up, window by window: errors, and what each code stands for.

Axis letters: Q codes of a token, K entries of a codebook, R region, C channel, F frequency, T
frame; a prime (Fp, Tp) is the token grid, N the frequencies of a patch: F = Fp * N.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from openclef.benchmark.rivals.handcrafted import BANDS_HZ
from openclef.cohort.store import FREQ_STEP_HZ, Cohort
from openclef.tokenizer.bands import to_bands
from openclef.tokenizer.evaluate import (
    BATCH_SIZE,
    Decoded,
    Fidelity,
    FidelityMeter,
    Floats,
    decode_windows,
)
from openclef.tokenizer.regions import REGIONS, Regions, hidden_planes
from openclef.tokenizer.vqgan import CLAMP_DB, TokenizerConfig, Vqgan
from openclef.types import CHANNELS, LEFT, RIGHT, BoolArray, FloatArray

N_TIMES = 20  # stretches of the longest session in which codes are counted, at most
_FEWEST = 0.1  # of a code's tokens must have seen a channel for it to be shown
_LEFT = [CHANNELS.index(name) for name in LEFT]
_RIGHT = [CHANNELS.index(name) for name in RIGHT]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Code:
    """One code, from its visible tokens.

    q: which code of the token; index: which entry of the codebook; n: tokens that have it; share:
    of all tokens. pattern_db `[C, N]`: the spectrogram in its patches less the mean of all patches
    of the same row and region; NaN for channels that under a tenth of its tokens are made of.
    deviation `[C]`: root mean square of that over the bands, in standard deviations of those
    patches. by_row `[Fp]`, by_region `[R]`: shares of its tokens. by_time: share of the tokens of
    each stretch that it has, NaN where there is no token.
    """

    q: int
    index: int
    n: int
    share: float
    pattern_db: Floats
    deviation: Floats
    by_row: Floats
    by_region: Floats
    by_time: Floats


class CodePatches:
    """Sums over the patches of each code, in memory that does not depend on their number."""

    def __init__(self, config: TokenizerConfig, *, longest_s: float) -> None:
        self.config = config
        # No stretch is shorter than a token, or some would have none.
        self._n_times = min(N_TIMES, max(1, int(longest_s / config.frames_per_token)))
        self.time_edges_s = np.linspace(0, longest_s, self._n_times + 1)
        n_regions, n_rows, _ = config.grid
        n_chans, self._n_bands = len(CHANNELS), config.n_bands // n_rows
        n_codes = config.quantiser.n_quantisers * config.quantiser.n_codes
        n_places = n_regions * n_rows
        self._sum_db = torch.zeros(n_codes, n_chans * self._n_bands, dtype=torch.float64)
        self._n_seen = torch.zeros(n_codes * n_places, n_chans, dtype=torch.int32)
        self._n = np.zeros((n_codes, n_places), np.int64)
        self._n_by_time = np.zeros((n_codes, self._n_times), np.int64)
        # Of all patches of a row and region, whatever their code.
        self._place_sum = np.zeros((n_places, n_chans, self._n_bands))
        self._place_square = np.zeros_like(self._place_sum)
        self._place_n = np.zeros((n_places, n_chans), np.int64)

    def add(self, window: Decoded, *, start_s: float) -> None:
        """Take in a window that starts `start_s` into its session."""
        (_, n_rows, n_columns), quantiser = self.config.grid, self.config.quantiser
        visible_T = ~window.original.time_mask
        patches = _patches(window, self.config)
        times_s = start_s + window.original.times_s.reshape(n_columns, -1).mean(1)
        stretches = np.searchsorted(self.time_edges_s, times_s, side="right") - 1
        stretches = np.clip(stretches, 0, self._n_times - 1)
        has_frames = visible_T.reshape(n_columns, -1).any(1)
        for region, seen in enumerate(_seen(window.original.channel_mask, self.config.regions)):
            columns = np.flatnonzero(~window.hidden[region] & has_frames)
            if not len(columns):
                continue
            shown = patches[:, columns] * seen[:, None]
            places = region * n_rows + np.arange(n_rows)
            self._place_sum[places] += shown.sum(1)
            self._place_square[places] += np.square(shown).sum(1)
            self._place_n[places] += len(columns) * seen
            values = torch.from_numpy(shown.reshape(n_rows * len(columns), -1))
            ones = torch.from_numpy(seen.astype(np.int32)).expand(len(values), -1)
            for q in range(quantiser.n_quantisers):
                codes = q * quantiser.n_codes + window.ids[region, :, columns, q].T
                self._sum_db.index_add_(0, torch.from_numpy(codes.ravel()), values)
                cells = (codes * self._n.shape[1] + places[:, None]).ravel()
                self._n_seen.index_add_(0, torch.from_numpy(cells), ones)
                np.add.at(self._n.reshape(-1), cells, 1)
                times = codes * self._n_times + stretches[columns]
                np.add.at(self._n_by_time.reshape(-1), times.ravel(), 1)

    def most_used(self, n: int) -> list[Code]:
        """About `n` codes, as many of each code of a token, the most used first."""
        n_quantisers, n_codes = self.config.quantiser.n_quantisers, self.config.quantiser.n_codes
        found = []
        for q in range(min(n_quantisers, n)):
            counts = self._n.reshape(n_quantisers, n_codes, -1)[q].sum(1)
            ranked = np.argsort(-counts, kind="stable")[: n // min(n_quantisers, n)]
            found += [self.code(q, int(index)) for index in ranked if counts[index]]
        return found

    def code(self, q: int, index: int) -> Code:
        """What is known of entry `index` of the codebook of code `q` of a token."""
        n_regions, n_rows, _ = self.config.grid
        n_codes = self.config.quantiser.n_codes
        k = q * n_codes + index
        of_token = slice(q * n_codes, (q + 1) * n_codes)
        n, n_by_time = self._n[k], self._n_by_time[k]
        n_all, n_all_by_time = self._n[of_token].sum(), self._n_by_time[of_token].sum(0)
        n_seen = self._n_seen.view(-1, *self._place_n.shape)[k].numpy()
        n_places = np.maximum(self._place_n, 1)[..., None]
        mean = self._place_sum / n_places
        variance = np.maximum(self._place_square / n_places - mean**2, 0)
        n_C = n_seen.sum(0).astype(float)
        n_C[n_C < _FEWEST * max(1, n.sum())] = np.nan
        total = self._sum_db[k].numpy().reshape(mean.shape[1:])
        pattern = (total - np.einsum("pc,pcn->cn", n_seen, mean)) / n_C[:, None]
        spread = np.sqrt(np.einsum("pc,pcn->cn", n_seen, variance) / n_C[:, None])
        score = pattern / np.maximum(spread, 1e-6)
        by_time = n_by_time / np.where(n_all_by_time > 0, n_all_by_time, np.nan)
        by_place = n.reshape(n_regions, n_rows) / max(1, n.sum())
        return Code(
            q=q, index=index, n=int(n.sum()), share=float(n.sum() / max(1, n_all)),
            pattern_db=pattern,
            deviation=np.sqrt(np.square(score).mean(1)),
            by_row=by_place.sum(0), by_region=by_place.sum(1), by_time=by_time,
        )  # fmt: skip


def _seen(channel_mask: BoolArray, regions: Regions) -> BoolArray:
    """Channels that each region's tokens of a window are made of, `[R, C]`."""
    members = np.array([[name in region for name in CHANNELS] for region in REGIONS[regions]])
    seen: BoolArray = members & ~channel_mask
    if regions == "mid_side":
        # The difference of a pair, a plane in the right channel's place, needs both.
        hidden = hidden_planes(torch.from_numpy(channel_mask)[None], regions)[0].numpy()
        seen[1, _LEFT] = seen[1, _RIGHT] = ~hidden[_RIGHT]
    return seen


def _patches(window: Decoded, config: TokenizerConfig) -> Floats:
    """Mean of each patch over its visible frames, `[Fp, Tp, C, N]`, as the tokenizer clamps."""
    _, n_rows, n_columns = config.grid
    visible_T = ~window.original.time_mask
    power = np.clip(window.original.power_db, -CLAMP_DB, CLAMP_DB) * visible_T
    power = to_bands(torch.from_numpy(power), config.frequency_scale).numpy()
    n_chans, n_bands, _ = power.shape
    columns = power.reshape(n_chans, n_bands, n_columns, -1).sum(-1, dtype=np.float64)
    columns /= np.maximum(visible_T.reshape(n_columns, -1).sum(1), 1)
    patches: Floats = columns.reshape(n_chans, n_rows, -1, n_columns).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(patches)


@dataclass(frozen=True, eq=False)
class Looked:
    """What was found in the windows looked at.

    windows: one row each, in order of the cohort: `row, session_id, window, start_s, mae_db,
    level_db` (mean of the visible cells less the tokenizer's moving mean), `visible_min,
    gap_share` (hidden frames before the last visible one), `missing` (channels), `clipped` (share
    of visible cells beyond the clamp), `worst` (channel and band of the largest error).
    fidelity: about what the tokenizer knows without a token, `Vqgan.mean_db`. n_not_finite: windows
    left out, with NaN or infinity.
    """

    fidelity: Fidelity
    codes: CodePatches
    windows: pl.DataFrame
    n_not_finite: int


def look(tokenizer: Vqgan, cohort: Cohort, rows: Ints) -> Looked:
    """Tokenize and decode windows of a cohort, one batch in memory at a time.

    Raises ValueError if none of them has finite values.
    """
    index = cohort.windows.filter(pl.col("row").is_in(rows)).select(
        "row", "session_id", "window", "start_s", "time_mask"
    )
    starts = dict(index.select("row", "start_s").iter_rows())
    n_padded = pl.col("time_mask").list.reverse().list.arg_min()  # False comes before True
    end_s = pl.col("start_s") + pl.col("time_mask").list.len() - n_padded
    longest_s = float(index.select(end_s.max()).item())
    codes = CodePatches(tokenizer.config, longest_s=longest_s)
    mean_db = tokenizer.mean_db.cpu().numpy()
    meter = FidelityMeter(tokenizer, mean_db=mean_db)
    found = []
    windows = decode_windows(tokenizer, cohort, rows, skip_not_finite=True)
    for window in _cleared(_ahead(windows)):
        one = meter.add(window)
        codes.add(window, start_s=starts[window.row])
        found.append({"row": window.row, **_describe(window, one, mean_db)})
    if not found:
        raise ValueError("no window with finite values")
    return Looked(
        fidelity=meter.result(),
        codes=codes,
        windows=pl.DataFrame(found).join(index.drop("time_mask"), on="row", maintain_order="left"),
        n_not_finite=len(rows) - len(found),
    )


def _ahead(windows: Iterator[Decoded]) -> Iterator[Decoded]:
    """The same, the next batch decoded in a background thread while this one is counted."""
    with ThreadPoolExecutor(1) as decoder:
        waiting = deque(decoder.submit(next, windows, None) for _ in range(BATCH_SIZE))
        while (window := waiting.popleft().result()) is not None:
            waiting.append(decoder.submit(next, windows, None))
            yield window


def _cleared(windows: Iterator[Decoded]) -> Iterator[Decoded]:
    """The same, zero where they are hidden and not finite."""
    for window in windows:
        power_db = window.original.power_db
        finite_db = np.where(np.isfinite(power_db), power_db, np.float32(0))
        yield replace(window, original=replace(window.original, power_db=finite_db))


def _describe(window: Decoded, one: Fidelity, mean_db: FloatArray) -> dict[str, object]:
    """What may be special about a window."""
    original = window.original
    last = int(np.flatnonzero(~original.time_mask).max()) + 1
    shown: BoolArray = ~(original.channel_mask[:, None, None] | original.time_mask)
    n_clipped = int((np.abs(original.power_db) > CLAMP_DB).sum(where=shown))
    above_db = original.power_db.clip(-CLAMP_DB, CLAMP_DB) - mean_db[..., None]
    bands = by_band(one.absolute_db) / np.maximum(by_band(one.n), 1)
    channel, band = np.unravel_index(int(bands.argmax()), bands.shape)
    return {
        "level_db": float(above_db.mean(where=shown, dtype=np.float64)),
        "mae_db": float(one.absolute_db.sum() / one.n.sum()),
        "visible_min": float((~original.time_mask).sum() / 60),
        "gap_share": float(original.time_mask[:last].mean()),
        "missing": [n for n, m in zip(CHANNELS, original.channel_mask, strict=True) if m],
        "clipped": n_clipped / float(one.n.sum()),
        "worst": f"{CHANNELS[channel]} {list(BANDS_HZ)[band]}",
    }


def by_band(values: Floats) -> Floats:
    """Sums of `[.., F]` over the frequencies of each of `BANDS_HZ`, `[.., bands]`."""
    freqs_hz = np.arange(values.shape[-1]) * FREQ_STEP_HZ
    bands = [(freqs_hz >= low) & (freqs_hz < high) for low, high in BANDS_HZ.values()]
    return np.stack([values[..., band].sum(-1) for band in bands], axis=-1)
