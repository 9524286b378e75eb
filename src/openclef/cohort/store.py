"""The cohort on disk: one table of sessions, one of windows, and their spectrograms in Zarr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import zarr

from openclef import artefact
from openclef.cohort.shards import N_FREQS
from openclef.types import WINDOW_S, Spectrogram

FREQ_STEP_HZ = 0.25


class Cohort:
    """A complete `cohort/` folder.

    sessions: one row a session, sorted by `session_id` (columns in design.md). windows: one row a
    window, in the order of the Zarr array: `row, session_id, window, start_s, channel_mask,
    time_mask, hash`. Both are polars frames.
    """

    def __init__(self, folder: Path) -> None:
        self.artefact = artefact.load(folder, kind="cohort")
        self.folder = folder
        self.sessions = pl.read_parquet(folder / "sessions.parquet")
        self.windows = pl.read_parquet(folder / "windows.parquet")
        self._power_db = zarr.open_array(folder / "spectrograms", mode="r")

    @property
    def hash(self) -> str:
        return self.artefact.hash

    def table(self, name: str) -> pl.DataFrame:
        """Read `labels`, `findings`, `reports`, `codes` or `errors`."""
        return pl.read_parquet(self.folder / f"{name}.parquet")

    def rows(self, *splits: str) -> np.ndarray:
        """Rows of the windows whose session is in one of `splits` (all windows if none named)."""
        windows = self.windows.join(self.sessions.select("session_id", "split"), on="session_id")
        if splits:
            windows = windows.filter(pl.col("split").is_in(splits))
        return windows["row"].sort().to_numpy()

    def spectrogram(self, row: int) -> Spectrogram:
        """Read one window: power_db `[19, 128, 1280]` float32 in dB, with its masks."""
        power_db = np.asarray(self._power_db[row], dtype=np.float32)
        return Spectrogram(
            power_db=power_db,
            freqs_hz=np.arange(N_FREQS, dtype=np.float32) * np.float32(FREQ_STEP_HZ),
            times_s=np.arange(WINDOW_S, dtype=np.float32),
            # One row at a time: as bits in the table, masks of an archive fit into memory.
            channel_mask=self.windows["channel_mask"][int(row)].to_numpy(),
            time_mask=self.windows["time_mask"][int(row)].to_numpy(),
        )
