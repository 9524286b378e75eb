"""Spectrograms of a cohort in one Zarr v3 array, a shard of `SHARD_WINDOWS` windows a file.

Rows follow the sessions, so a shard's contents are known once every session is done: each is then
written by one worker from what the sessions put aside, and renamed into place whole. Chunks, half
a window each (what the tokenizer trains on), carry a CRC-32C.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from openclef.cohort.session import storage_of
from openclef.errors import ArtefactError
from openclef.types import CHANNELS, WINDOW_S

N_FREQS = 128
ARRAY_SHAPE = (len(CHANNELS), N_FREQS, WINDOW_S)
WINDOW_BYTES = 2 * int(np.prod(ARRAY_SHAPE))
SHARD_WINDOWS = 16
_CHUNK_FRAMES = WINDOW_S // 2


@dataclass(frozen=True)
class ShardJob:
    """Rows from `first_row` on, and where each lies: (file of a session, which of its windows)."""

    array: Path
    first_row: int
    windows: tuple[tuple[Path, int], ...]

    @property
    def path(self) -> Path:
        """The shard's file, by Zarr's default names."""
        return self.array / "c" / str(self.first_row // SHARD_WINDOWS) / "0" / "0" / "0"

    @property
    def sources(self) -> set[Path]:
        return {path for path, _ in self.windows}


def create_array(path: Path, *, n_rows: int) -> None:
    """Make the empty array `[n_rows, 19, 128, 1280]`, unless it is there."""
    if not (path / "zarr.json").exists():
        zarr.create_array(
            path,
            shape=(n_rows, *ARRAY_SHAPE),
            chunks=(1, *ARRAY_SHAPE[:2], _CHUNK_FRAMES),
            shards=(SHARD_WINDOWS, *ARRAY_SHAPE),
            dtype="float16",
            # EEG in float16 shrinks by 8%, padding and missing channels to nothing; zstd with
            # shuffled bytes would take 15%, at a tenth of the speed.
            compressors=[
                BloscCodec(typesize=2, cname="lz4", clevel=1, shuffle="bitshuffle"),
                Crc32cCodec(),
            ],
            fill_value=0,
        )


def plan_shards(array: Path, sessions: Iterable[tuple[Path, int]]) -> Iterator[ShardJob]:
    """Cut the windows of all sessions, given as (file, number of windows), into shards."""
    windows: list[tuple[Path, int]] = []
    first_row = 0
    for path, n_windows in sessions:
        for window in range(n_windows):
            windows.append((path, window))
            if len(windows) == SHARD_WINDOWS:
                yield ShardJob(array, first_row, tuple(windows))
                first_row += SHARD_WINDOWS
                windows = []
    if windows:
        yield ShardJob(array, first_row, tuple(windows))


def write_shard(job: ShardJob) -> None:
    """Write one shard; raises StorageError if the disk does not take it."""
    with storage_of(job.array):
        block = np.stack([_window(path, window) for path, window in job.windows])
        array = zarr.open_array(job.array, mode="r+")
        array[job.first_row : job.first_row + len(block)] = block


def _window(path: Path, window: int) -> NDArray[np.float16]:
    flat = np.fromfile(path, np.float16, WINDOW_BYTES // 2, offset=window * WINDOW_BYTES)
    if flat.nbytes < WINDOW_BYTES:  # a power cut can undo what was written, as no kill can
        raise ArtefactError(
            f"{path}: cut short; delete it, its .json and spectrograms/, and run the same command"
        )
    return flat.reshape(ARRAY_SHAPE)
