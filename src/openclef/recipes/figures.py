"""The run's own part of the report: loss curves, and one session as the model sees it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from openclef import artefact
from openclef.benchmark.report import Figure, Section
from openclef.cohort.layouts import Source
from openclef.cohort.store import Cohort
from openclef.errors import RecordingError
from openclef.model import CLEF
from openclef.recipes.simulated import recording_at
from openclef.signal import open_recording, preprocess
from openclef.tokenizer.token_table import TokenTable
from openclef.types import CHANNELS, FloatArray, Recording, Spectrogram, Tokens

SHOWN_CHANNELS = ("Fp1", "Fp2", "C3", "C4", "T3", "T4", "O1", "O2")
WAVEFORM_S = 10.0


def sections(source: Source, cohort: Cohort, out: Path) -> list[Section]:
    """Sections for `benchmark/report.html` of the run in `out`."""
    tokens = TokenTable(out / "tokens", cohort)
    model = CLEF.from_pretrained(out / "model")
    return [_losses(out), _session(source, cohort, tokens, model)]


def png(canvas: Canvas, caption: str, alt: str) -> Figure:
    """A figure of the report as PNG; the same drawing gives the same bytes."""
    buffer = io.BytesIO()
    # No software version in the file: the same run gives the same bytes.
    canvas.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return Figure(data=buffer.getvalue(), caption=caption, alt=alt)


def _losses(out: Path) -> Section:
    stages = {"tokenizer": "tokenizer", "encoder": "encoder", "aligned": "aligned"}
    present = {name: kind for name, kind in stages.items() if (out / name).exists()}
    canvas = Canvas(figsize=(4 * len(present), 3), layout="constrained")
    axes = canvas.subplots(1, len(present), squeeze=False)[0]
    told = []
    for axis, (name, kind) in zip(axes, present.items(), strict=True):
        rows = artefact.load(out / name, kind=kind).metrics()
        for split, style in (("train", {"alpha": 0.6}), ("tuning", {"marker": "o", "ms": 3})):
            points = [(row["step"], row["loss"]) for row in rows if row["split"] == split]
            if points:
                axis.plot(*zip(*points, strict=True), label=split, **style)
        axis.set(title=name, xlabel="step", ylabel="loss")
        axis.legend(frameon=False)
        # Not the least of the tuning losses: those of an earlier phase are of another loss.
        ends = [row for row in rows if row["split"] == "end" and row["best_loss"] is not None]
        if ends:
            best_loss, best_step = ends[-1]["best_loss"], ends[-1]["best_step"]
            told.append(f"{name}: loss {best_loss:.3f} on tuning patients at step {best_step}")
    return Section(
        title="Training",
        text="The weights kept are the moving average that was best on tuning patients, of the "
        "tokenizer in the last phase of its training"
        + (f"; their loss there: {'; '.join(told)}." if told else "."),
        figures=[png(canvas, "Loss of each stage.", "Line plots of training and tuning loss.")],
    )


def _session(source: Source, cohort: Cohort, tokens_of: TokenTable, model: CLEF) -> Section:
    """One held-out session: waveform, spectrogram, tokens and what the tokens keep."""
    window = _first_visible(cohort, tokens_of)
    if window is None:
        return Section(
            title="One session",
            text="No window of a held-out patient has a visible token: there is none to show.",
        )
    name = window["session_id"]
    spectrogram = cohort.spectrogram(window["row"])
    tokens = model.tokenize(spectrogram)
    decoded = model.reconstruct(tokens)
    shown = ~spectrogram.time_mask
    present = ~spectrogram.channel_mask
    error_db = np.abs(decoded - np.clip(spectrogram.power_db, -40, 40))[present][..., shown].mean()
    figures = []
    with recording_at(source.root, source.root / window["path"]) as path:
        recording = _waveform(path, window["start_s"])
    if recording is not None:
        figures.append(_draw_waveform(recording, name))
    figures.append(_draw_tokens(spectrogram, tokens, decoded, name))
    lost = "" if recording is not None else " Its recording is no longer there to draw."
    return Section(
        title="One session",
        text=f"Session {name}, of a held-out patient: {present.sum()} of {len(CHANNELS)} channels, "
        f"{shown.sum()} s visible. Mean absolute error of the reconstruction: {error_db:.2f} dB."
        + lost,
        figures=figures,
    )


def _first_visible(cohort: Cohort, tokens: TokenTable) -> dict[str, Any] | None:
    """The first held-out window that has visible tokens: `row, session_id, start_s, path`.

    Windows that were not finite, or could not be read, are not among the tokens.
    """
    for i in tokens.rows("held_out"):
        if not tokens.hidden(np.array([i])).all():
            found = cohort.windows.filter(
                pl.col("session_id") == tokens.session_id[int(i)],
                pl.col("window") == tokens.window[i],
            ).join(cohort.sessions, on="session_id")
            return found.select("row", "session_id", "start_s", "path").row(0, named=True)
    return None


def _waveform(path: Path, start_s: float) -> Recording | None:
    """The window of a recording that starts there, filtered; None if it cannot be read."""
    try:
        file = open_recording(path)
        for start, stop in file.window_bounds_s():
            if abs(start - start_s) < 1:  # the cohort's are those of whole samples
                return preprocess(file.read(start_s=start, stop_s=stop))
    except RecordingError:
        pass
    return None


def _draw_waveform(recording: Recording, name: str) -> Figure:
    n_times = int(min(WAVEFORM_S, recording.duration_s) * recording.sfreq_hz)
    first = max(0, (recording.signal_uv.shape[1] - n_times) // 2)
    shown = [c for c in SHOWN_CHANNELS if not recording.channel_mask[CHANNELS.index(c)]]
    traces = recording.signal_uv[[CHANNELS.index(c) for c in shown], first : first + n_times]
    gap_uv = max(20.0, 6 * float(np.median(traces.std(axis=1))))
    times_s = (first + np.arange(n_times)) / recording.sfreq_hz
    canvas = Canvas(figsize=(10, 3.5), layout="constrained")
    axis = canvas.subplots()
    for i, trace in enumerate(traces):
        axis.plot(times_s, trace - i * gap_uv, lw=0.6, color="#1f4e79")
    axis.set(xlabel="time (s)", yticks=-gap_uv * np.arange(len(shown)), yticklabels=shown)
    axis.set_title(
        f"{WAVEFORM_S:g} s of session {name}, channels {gap_uv:.0f} uV apart", fontsize=10
    )
    axis.margins(x=0)
    return png(canvas, "Waveform, filtered.", f"EEG traces of {len(shown)} channels.")


def _draw_tokens(
    spectrogram: Spectrogram, tokens: Tokens, decoded: FloatArray, name: str
) -> Figure:
    present = np.flatnonzero(~spectrogram.channel_mask)
    n_shown = int(np.flatnonzero(~spectrogram.time_mask).max(initial=0)) + 1
    original = np.clip(spectrogram.power_db[..., :n_shown], -40, 40)
    decoded = decoded[..., :n_shown]
    left = [i for i in present if CHANNELS[i][-1] in "1357"]
    right = [i for i in present if CHANNELS[i][-1] in "2468"]
    has_sides = bool(left and right)
    canvas = Canvas(figsize=(10, 9 if has_sides else 5.5), layout="constrained")
    axes = canvas.subplots(5 if has_sides else 3, 1)
    extent = (0, n_shown, 0, 32)
    low, high = np.percentile(original[present], (2, 98))

    def draw(axis: Axes, image: FloatArray, title: str, **style: Any) -> None:
        drawn = axis.imshow(
            image, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **style
        )
        axis.set(title=title, ylabel="Hz")
        canvas.colorbar(drawn, ax=axis, pad=0.01)

    power = {"cmap": "viridis", "vmin": low, "vmax": high}
    draw(axes[0], original[present].mean(0), f"Session {name}: mean over channels (dB)", **power)
    draw(axes[1], decoded[present].mean(0), "The same, decoded from its tokens (dB)", **power)
    if has_sides:
        side = {"cmap": "RdBu_r", "vmin": -10.0, "vmax": 10.0}
        for axis, image, title in (
            (axes[2], original, "Left minus right (dB)"),
            (axes[3], decoded, "The same, decoded (dB)"),
        ):
            draw(axis, image[left].mean(0) - image[right].mean(0), title, **side)
    # Regions above each other; of several codes a token, the first, which tells the most.
    ids = np.where(tokens.mask, np.nan, tokens.ids[..., 0].astype(float)).reshape(
        -1, tokens.mask.shape[-1]
    )
    n_columns = -(-n_shown * ids.shape[1] // len(spectrogram.time_mask))
    draw(
        axes[-1],
        ids[:, :n_columns],
        f"Tokens, {ids.shape[0]} x {ids.shape[1]} (code number)",
        cmap="twilight",
    )
    axes[-1].set_xlabel("time (s)")
    return png(
        canvas,
        "Spectrogram, tokens and their reconstruction.",
        "Images over time and frequency: original and decoded mean power, "
        + ("original and decoded left-right difference, " if has_sides else "")
        + "and token numbers.",
    )
