"""A window beside what the encoder fills in, each with the numbers that it draws.

Axis letters: C channel, F frequency, T frame or step of frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from matplotlib.figure import Figure as Canvas

from openclef.cohort.store import FREQ_STEP_HZ
from openclef.recipes.figures import png
from openclef.recipes.inspect_figures import (
    HEAD,
    MAX_STEPS,
    PAIRS,
    SINGLE,
    Drawn,
    in_steps,
    tidy,
    with_grey,
)
from openclef.recipes.inspect_filling import EXPECTED, LIKELIEST, TRUE, Filled
from openclef.tokenizer.evaluate import Floats
from openclef.tokenizer.regions import REGIONS, Regions
from openclef.tokenizer.vqgan import TokenizerConfig
from openclef.types import CHANNELS, FloatArray

ORIGINAL, DECODED, SHOWN, FILLED = (
    "spectrogram", "decoded from all tokens", "shown to the encoder", "masked tokens filled in",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Series:
    """A sum of channels, weights `[C]`, that the tokens of a region, counted from 0, are made of;
    is_difference: about zero."""

    label: str
    region: int
    weights: Floats
    is_difference: bool = False

    def of(self, power_db: FloatArray) -> FloatArray:
        """`[C, F, T]` -> `[F, T]`."""
        summed: FloatArray = np.tensordot(self.weights, power_db, 1).astype(np.float32)
        return summed


def filled_in(
    window: Filled, config: TokenizerConfig, *, name: str, told: str, start_s: float
) -> Drawn:
    """Spectrogram, its reconstruction, what of it is shown, and the same with the masked tokens
    filled in; a column a series. name: of the window; told: its errors, in words."""
    n_shown = int(np.flatnonzero(~window.original.time_mask).max()) + 1
    step = _step(n_shown, config.frames_per_token)
    series = series_of(window, config.regions)
    by_series = [_images(window, one, config, n_frames=n_shown, step=step) for one in series]
    images = {kind: np.stack([each[kind] for each in by_series]) for kind in by_series[0]}
    minutes = (start_s + step * np.arange(images[ORIGINAL].shape[-1] + 1)) / 60
    canvas = _draw(images, series, minutes)
    in_time = f"in steps of {step} s" if step > 1 else "second by second"
    figure = png(
        canvas,
        f"{name}, {in_time}. Grey: what is hidden, and in the third row masked tokens; in the "
        f"fourth they have the {EXPECTED}."
        + (" Left minus right: mean of the homologous pairs." if series[-1].is_difference else ""),
        f"Spectrograms of {name} in four rows, {ORIGINAL}, {DECODED}, {SHOWN} and {FILLED}, of "
        f"{', '.join(one.label for one in series)}. Mean absolute error where tokens are masked, "
        f"by what they get: {told}.",
    )
    freqs_hz = np.arange(config.n_freqs) * FREQ_STEP_HZ
    return Drawn(figure, pl.concat(
        tidy("reconstruction", kind, image, series=[one.label for one in series],
             freq_hz=freqs_hz, minute=minutes[:-1]).with_columns(example=pl.lit(name))
        for kind, image in images.items()
    ))  # fmt: skip


def _images(
    window: Filled, one: Series, config: TokenizerConfig, *, n_frames: int, step: int
) -> dict[str, FloatArray]:
    """What to draw of a series, `[F, T]` each, NaN where nothing is; and the likeliest codes'."""
    columns = window.hidden[one.region].repeat(config.frames_per_token)
    hidden = (window.original.time_mask | columns)[:n_frames]
    decoded = (window.decoded[name] for name in (TRUE, EXPECTED, LIKELIEST))
    original, true, expected, likeliest = (
        in_steps(one.of(power_db[..., :n_frames]), hidden, step)
        for power_db in (window.original.power_db, *decoded)
    )
    masked = window.masked[one.region].repeat(np.diff(config.row_edges), 0)
    masked = masked.repeat(config.frames_per_token // step, 1)[:, : true.shape[1]]
    return {
        ORIGINAL: original,
        DECODED: true,
        SHOWN: np.where(masked, np.float32(np.nan), true),
        FILLED: expected,
        LIKELIEST: likeliest,
    }


def _step(n_frames: int, frames_per_token: int) -> int:
    """Frames drawn as one: as few as a screen has room for, and a whole number of them a token."""
    least = min(-(-n_frames // MAX_STEPS), frames_per_token)
    return next(n for n in range(least, frames_per_token + 1) if frames_per_token % n == 0)


def series_of(window: Filled, regions: Regions) -> list[Series]:
    """What to draw of a window: what each region's tokens are made of, unless all are hidden.

    A series is masked where the tokens of its region are. Where one region is made of all channels
    there is also left minus right or, without a pair, a channel.
    """
    is_seen = ~window.original.channel_mask
    visible = [name for name, seen in zip(CHANNELS, is_seen, strict=True) if seen]
    pairs = [pair for pair in PAIRS if set(pair) <= set(visible)]
    difference = _weights([left for left, _ in pairs]) - _weights([right for _, right in pairs])
    of_all = f"mean of {len(visible)}"
    match regions:
        case "all" | "mid_side":
            series = [Series(of_all, 0, _weights(visible))]
            if pairs:
                region = len(REGIONS[regions]) - 1
                series.append(Series("left - right", region, difference, is_difference=True))
            elif len(visible) > 1:
                single = min(visible, key=lambda c: (c not in SINGLE, HEAD.index(c)))
                series.append(Series(single, 0, _weights([single])))
        case _:
            members = [[c for c in region if c in visible] for region in REGIONS[regions]]
            series = [
                Series(f"region {i + 1}: mean of {len(names)}", i, _weights(names))
                for i, names in enumerate(members)
            ]
    return [one for one in series if not window.hidden[one.region].all()]


def _weights(names: list[str]) -> Floats:
    """Of the mean of these channels, `[C]`."""
    weights: Floats = np.isin(CHANNELS, names) / max(1, len(names))
    return weights


def _draw(images: dict[str, FloatArray], series: list[Series], minutes: Floats) -> Canvas:
    kinds = (ORIGINAL, DECODED, SHOWN, FILLED)
    canvas = Canvas(figsize=(10.5, 0.9 + 1.5 * len(kinds)), layout="constrained")
    axes = canvas.subplots(len(kinds), len(series), sharex=True, sharey=True, squeeze=False)
    is_level = np.array([not one.is_difference for one in series])
    low, high = np.nanpercentile(images[ORIGINAL][is_level], (2, 98))
    for column, one in enumerate(series):
        style = {"cmap": with_grey("viridis"), "vmin": low, "vmax": high}
        if one.is_difference:
            # A mean over pairs is often small.
            limit = max(1.0, float(np.nanpercentile(np.abs(images[ORIGINAL][column]), 98)))
            style = {"cmap": with_grey("RdBu_r"), "vmin": -limit, "vmax": limit}
        for row, kind in enumerate(kinds):
            image = images[kind][column]
            drawn = axes[row, column].imshow(
                image, origin="lower", aspect="auto", interpolation="nearest",
                extent=(minutes[0], minutes[-1], 0, len(image) * FREQ_STEP_HZ), **style,
            )  # fmt: skip
            axes[row, column].set_title(kind, fontsize=9)
        canvas.colorbar(
            drawn, ax=axes[:, column].tolist(), location="top", aspect=40, fraction=0.03,
            label=f"{one.label} (dB)",
        )  # fmt: skip
        axes[-1, column].set_xlabel("minute of the session")
    for axis in axes[:, 0]:
        axis.set_ylabel("Hz")
    return canvas
