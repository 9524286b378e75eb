"""The figures of `inspect tokenizer`, each with the numbers that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib as mpl
import mne
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from openclef.benchmark.report import Figure
from openclef.benchmark.rivals.handcrafted import BANDS_HZ
from openclef.cohort.store import FREQ_STEP_HZ
from openclef.recipes.figures import png
from openclef.recipes.inspect_numbers import by_band
from openclef.tokenizer.evaluate import Decoded, Fidelity, Floats
from openclef.tokenizer.vqgan import CLAMP_DB
from openclef.types import CHANNELS, LEFT, RIGHT, FloatArray

# As one reads a head: left to right, front to back.
HEAD = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T3", "C3", "Cz",
    "C4", "T4", "T5", "P3", "Pz", "P4", "T6", "O1", "O2",
)  # fmt: skip
PAIRS = list(zip(LEFT, RIGHT, strict=True))
SINGLE = ("F3", "T4", "C3", "O2")  # drawn if visible, else the next ones of HEAD
MAX_STEPS = 320  # columns of a drawn spectrogram: more than a screen has for it
_HIDDEN = "#bdbdbd"
_FEWEST = 4  # channels that a map can be interpolated from
# Okabe and Ito's colours, and dashes: told apart by colour-blind readers and in print.
LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
ORDER = [CHANNELS.index(name) for name in HEAD]


@dataclass(frozen=True)
class Drawn:
    """A figure, and the numbers behind it (see `tidy`)."""

    figure: Figure
    numbers: pl.DataFrame


def tidy(
    figure: str, item: str, values: NDArray[Any], **axes: Sequence[Any] | NDArray[Any]
) -> pl.DataFrame:
    """One row a value: what its axes are called, in their order, then `value`."""
    grids = np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij")
    columns = {
        name: pl.Series(list(labels))[grid.ravel()]
        for (name, labels), grid in zip(axes.items(), grids, strict=True)
    }
    value = pl.Series(values.ravel()).cast(pl.Float64).fill_nan(None)
    return pl.DataFrame({"value": value, **columns}).select(
        pl.lit(figure).alias("figure"), pl.lit(item).alias("item"), *columns, "value"
    )


def reconstruction(window: Decoded, *, name: str, start_s: float) -> Drawn:
    """Original, decoded and error of the mean, some channels and left minus right."""
    visible = [CHANNELS[i] for i in ORDER if not window.original.channel_mask[i]]
    shown = sorted(visible, key=lambda c: (c not in SINGLE, HEAD.index(c)))[: len(SINGLE)]
    pairs = [pair for pair in PAIRS if set(pair) <= set(visible)]
    n_shown = int(np.flatnonzero(~window.original.time_mask).max()) + 1
    step = -(-n_shown // MAX_STEPS)
    images = {}
    for kind, power_db in (("original", window.original.power_db), ("decoded", window.power_db)):
        clamped = np.clip(power_db[..., :n_shown], -CLAMP_DB, CLAMP_DB)
        power = dict(zip(CHANNELS, clamped, strict=True))
        series = {f"mean of {len(visible)}": np.mean([power[c] for c in visible], axis=0)}
        series |= {channel: power[channel] for channel in shown}
        if pairs:
            series["left - right"] = np.mean([power[a] - power[b] for a, b in pairs], axis=0)
        hidden = window.original.time_mask[:n_shown]
        images[kind] = np.stack([in_steps(image, hidden, step) for image in series.values()])
    images["decoded - original"] = images["decoded"] - images["original"]
    minutes = (start_s + step * np.arange(images["original"].shape[-1] + 1)) / 60
    is_difference = np.array([label.startswith("left") for label in series])
    low, high = np.nanpercentile(images["original"][~is_difference], (2, 98))
    power_style = {"cmap": with_grey("viridis"), "vmin": low, "vmax": high}
    side_style = {"cmap": with_grey("RdBu_r"), "vmin": -10.0, "vmax": 10.0}
    canvas = Canvas(figsize=(10.5, 0.9 + 1.25 * len(series)), layout="constrained")
    axes = canvas.subplots(len(series), 3, sharex=True, sharey=True, squeeze=False)
    for row, label in enumerate(series):
        for column, (kind, image) in enumerate(images.items()):
            style = side_style if is_difference[row] or column == 2 else power_style
            axis = axes[row, column]
            drawn = axis.imshow(
                image[row], origin="lower", aspect="auto", interpolation="nearest",
                extent=(minutes[0], minutes[-1], 0, len(image[row]) * FREQ_STEP_HZ), **style,
            )  # fmt: skip
            if row == 0:
                axis.set_title(kind, fontsize=10)
                shared = {1: axes[:, :2], 2: axes[:, 2]}.get(column)
                if shared is not None:
                    canvas.colorbar(
                        drawn,
                        ax=shared.ravel().tolist(),
                        location="top",
                        aspect=40,
                        fraction=0.05,
                        label="dB",
                    )
        axes[row, 0].set_ylabel(f"{label}\nHz")
    for axis in axes[-1]:
        axis.set_xlabel("minute of the session")
    in_time = f"in steps of {step} s" if step > 1 else "second by second"
    error_db = float(np.nanmean(np.abs(images["decoded - original"][0])))
    figure = png(
        canvas,
        f"{name}, {in_time}. Hidden minutes are grey. "
        + (f"Left minus right: mean of {len(pairs)} homologous pairs. " if pairs else "")
        + "The right colour bar is that of errors and of left minus right.",
        f"Spectrograms of {name} in three columns, original, decoded and error, of the mean over "
        f"channels, {', '.join(shown)}{' and left minus right' if pairs else ''}. Mean absolute "
        f"error of the mean over channels as drawn: {error_db:.2f} dB.",
    )
    freqs_hz = np.arange(images["original"].shape[1]) * FREQ_STEP_HZ
    return Drawn(figure, pl.concat(
        tidy("reconstruction", kind, image, series=list(series), freq_hz=freqs_hz,
             minute=minutes[:-1]).with_columns(example=pl.lit(name))
        for kind, image in images.items()
    ))  # fmt: skip


def in_steps(image: FloatArray, hidden: NDArray[np.bool_], step: int) -> FloatArray:
    """Mean over the visible frames of every `step` ones `[F, T / step]`; NaN if there is none."""
    starts = np.arange(0, len(hidden), step)
    n = np.add.reduceat((~hidden).astype(np.float32), starts)
    total = np.add.reduceat(image * ~hidden, starts, axis=1)
    return np.divide(total, n, out=np.full_like(total, np.nan), where=n > 0)


@cache
def with_grey(name: str) -> Any:
    """A colour map that shows what is hidden in grey."""
    return mpl.colormaps[name].with_extremes(bad=_HIDDEN)


def error_maps(fidelity: Fidelity) -> Drawn:
    """Error and explained variance by channel and band."""
    n = by_band(fidelity.n)
    everything = {
        "MAE (dB)": (by_band(fidelity.absolute_db), n),
        "R2 of residuals": (by_band(fidelity.residual_error), by_band(fidelity.residual_variance)),
        "R2 of the mean": (by_band(fidelity.mean_error), by_band(fidelity.mean_variance)),
    }
    rows = ("all", *HEAD)
    canvas = Canvas(figsize=(10.5, 6.2), layout="constrained")
    numbers = []
    for axis, (title, sums) in zip(canvas.subplots(1, 3), everything.items(), strict=True):
        above, below = (np.vstack([x.sum(0), x[ORDER]]) for x in sums)
        ratio = _ratio(above, below)
        values = ratio if title.startswith("MAE") else 1 - ratio
        # R2 has no lower end: below 0 the colour is that of 0, the number is told.
        limits = {} if title.startswith("MAE") else {"vmin": 0.0, "vmax": 1.0}
        drawn = axis.imshow(values, aspect="auto", cmap=with_grey("cividis"), **limits)
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "black" if drawn.norm(value) > 0.55 else "white"
                axis.text(
                    j,
                    i,
                    _told(value),
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=8,
                    in_layout=False,
                )
        axis.set_xticks(range(len(BANDS_HZ)), _band_labels())
        axis.set_yticks(range(len(rows)), rows)
        axis.axhline(0.5, color="white", lw=2)
        axis.set_title(title, fontsize=10)
        canvas.colorbar(drawn, ax=axis, location="bottom", aspect=30, pad=0.02)
        numbers.append(tidy("error by band", title, values, channel=rows, band=list(BANDS_HZ)))
    total = {item: table.filter(channel="all")["value"] for item, table in
             zip(everything, numbers, strict=True)}  # fmt: skip
    said = "; ".join(
        f"{item} " + ", ".join(f"{b} {_told(v)}" for b, v in zip(BANDS_HZ, values, strict=True))
        for item, values in total.items()
    )
    return Drawn(
        png(
            canvas,
            "Error and explained variance by channel and band. Grey: never visible. R2 of the mean "
            "in a channel's row is that of the windows in which the channel is visible.",
            f"Three heat maps, a row a channel, a column a band. Over all channels: {said}.",
        ),
        pl.concat(numbers),
    )


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where there is nothing below."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _band_labels() -> list[str]:
    return [f"{name}\n{low:g}-{high:g}" for name, (low, high) in BANDS_HZ.items()]


def _told(value: float | None) -> str:
    return "unknown" if value is None else f"{round(value, 2) + 0.0:.2f}"  # not -0.00


def by_frequency(fidelity: Fidelity, *, edges_hz: NDArray[Any]) -> Drawn:
    """Error and explained variance at each frequency, with the edges of the grid's rows marked."""
    freqs_hz = np.arange(fidelity.n.shape[1]) * FREQ_STEP_HZ
    sums = {f: getattr(fidelity, f).sum(0) for f in (
        "n", "absolute_db", "mean_error", "mean_variance", "residual_error", "residual_variance"
    )}  # fmt: skip
    curves = {
        "MAE (dB)": sums["absolute_db"] / sums["n"],
        "R2 of the mean": 1 - _ratio(sums["mean_error"], sums["mean_variance"]),
        "R2 of residuals": 1 - _ratio(sums["residual_error"], sums["residual_variance"]),
    }
    canvas = Canvas(figsize=(10.5, 2.9), layout="constrained")
    left, right = canvas.subplots(1, 2)
    left.plot(freqs_hz, curves["MAE (dB)"], color=LINES[0][0])
    left.set(ylabel="MAE (dB)", ylim=(0, None))
    for (name, values), (colour, dash) in zip(list(curves.items())[1:], LINES, strict=False):
        right.plot(freqs_hz, values, color=colour, ls=dash, label=name)
    right.set(ylabel="R2", ylim=(min(0.0, *right.get_ylim()), 1.02))
    right.legend(frameon=False)
    for axis in (left, right):
        for edge_hz in edges_hz[1:-1]:
            axis.axvline(edge_hz, color="#999999", lw=0.6, ls=":")
        axis.set(xlabel="Hz", xlim=(0, freqs_hz[-1]))
        axis.spines[["top", "right"]].set_visible(False)
    worst = int(curves["MAE (dB)"].argmax())
    return Drawn(
        png(
            canvas,
            "Error at each frequency, over all channels. Dotted: edges of the rows of tokens.",
            f"Line plots over 0 to 32 Hz. The error is largest at {freqs_hz[worst]:g} Hz, "
            f"{curves['MAE (dB)'][worst]:.2f} dB.",
        ),
        pl.concat(
            tidy("error by frequency", item, values, freq_hz=freqs_hz)
            for item, values in curves.items()
        ),
    )


def error_on_scalp(fidelity: Fidelity) -> Drawn:
    """Mean absolute error of each band on the head."""
    n = by_band(fidelity.n)
    error_db = _ratio(by_band(fidelity.absolute_db), n)
    limits = float(np.nanmin(error_db)), float(np.nanmax(error_db))
    canvas = Canvas(figsize=(10.5, 2.8), layout="constrained")
    axes = canvas.subplots(1, len(BANDS_HZ))
    for i, (axis, label) in enumerate(zip(axes, _band_labels(), strict=True)):
        drawn = scalp(axis, error_db[:, i], cmap="cividis", limits=limits)
        axis.set_title(label.replace("\n", " ") + " Hz", fontsize=10)
    canvas.colorbar(drawn, ax=axes.tolist(), aspect=20, label="MAE (dB)")
    said = "; ".join(
        f"{band}: most at {CHANNELS[int(np.nanargmax(error_db[:, i]))]}, "
        f"{np.nanmax(error_db[:, i]):.2f} dB"
        for i, band in enumerate(BANDS_HZ)
    )
    return Drawn(
        png(canvas, "Mean absolute error on the head, seen from above; channels never visible "
             "are left out.", f"Topographic maps of the error, one a band. {said}."),
        tidy("error on the scalp", "MAE (dB)", error_db, channel=CHANNELS, band=list(BANDS_HZ)),
    )  # fmt: skip


def scalp(axis: Axes, values: Floats, *, cmap: str, limits: tuple[float, float]) -> Any:
    """MNE's topomap of `[C]` in the standard 10-20 montage, without channels that are NaN."""
    known = np.flatnonzero(np.isfinite(values))
    info = mne.pick_info(_info(), known)
    low, high = limits[0], max(limits[1], limits[0] + 1e-3)
    if len(known) < _FEWEST:
        return _dots(axis, info, values[known], cmap=cmap, limits=(low, high))
    drawn, _ = mne.viz.plot_topomap(
        values[known], info, axes=axis, show=False, cmap=cmap, vlim=(low, high), contours=0,
        extrapolate="head" if len(known) == len(CHANNELS) else "local",
    )  # fmt: skip
    return drawn


def _dots(axis: Axes, info: Any, values: Floats, *, cmap: str, limits: tuple[float, float]) -> Any:
    """Channels too few to interpolate between."""
    xy = np.array([channel["loc"][:2] for channel in info["chs"]])
    for place, name in zip(xy, info["ch_names"], strict=True):
        axis.annotate(name, place, xytext=(0, 8), textcoords="offset points", ha="center")
    axis.set(xlim=(-0.1, 0.1), ylim=(-0.12, 0.12), aspect="equal")
    axis.axis("off")
    low, high = limits
    return axis.scatter(
        xy[:, 0], xy[:, 1], c=values, s=60, edgecolors="black", cmap=cmap, vmin=low, vmax=high
    )


@cache
def _info() -> Any:
    info = mne.create_info(list(CHANNELS), 200.0, "eeg")
    with mne.utils.use_log_level("error"):
        info.set_montage("standard_1020")
    return info


def errors_of_windows(mae_db: Floats, n_marked: int) -> Drawn:
    """Error of each window, the largest marked."""
    canvas = Canvas(figsize=(10.5, 2.4), layout="constrained")
    axis = canvas.subplots()
    marked = np.sort(mae_db)[::-1][:n_marked]
    axis.hist(mae_db, bins=40, color=LINES[0][0])
    axis.plot(marked, np.zeros(len(marked)), "v", color=LINES[1][0], ms=8, clip_on=False)
    axis.set(xlabel="mean absolute error of a window (dB)", ylabel="windows")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    return Drawn(
        png(
            canvas,
            "Error of each window looked at. Triangles: those of the table.",
            f"Histogram of {len(mae_db)} windows: median {np.median(mae_db):.2f} dB, largest "
            f"{mae_db.max():.2f} dB.",
        ),
        tidy("error by window", "MAE (dB)", np.sort(mae_db)[::-1],
             rank=np.arange(1, len(mae_db) + 1)),
    )  # fmt: skip
