"""Damage at which the readers of others would crash, loop or fill the memory, found beforehand.

Only what no error of theirs tells: everything else they find themselves.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

from openclef.signal.matfile import check_mat_file

_MAX_CHANNELS = 4096
_BLOCK_BYTES = 2**20


def check_intact(path: Path, suffix: str) -> None:
    """Raise ValueError if a file is damaged so that it must not be given to its reader."""
    if suffix == ".set":
        check_mat_file(path)
    elif suffix == ".fif":
        _check_fif(path)
    elif suffix == ".fif.gz":
        _check_gzip(path)
    elif suffix == ".gdf":
        _check_gdf(path)


def _check_fif(path: Path) -> None:
    """Tags form a list: each tells its size and where the next one is, which must come to an end.

    Layout: big-endian kind, type, size, next (0: behind this one, -1: none).
    """
    with path.open("rb") as handle:
        n_bytes = os.fstat(handle.fileno()).st_size
        at = 0
        for _ in range(n_bytes // 16 + 1):
            handle.seek(at)
            tag = handle.read(16)
            if len(tag) < 16:
                return
            _, _, size, following = struct.unpack(">iiii", tag)
            if size < 0:
                raise ValueError("damaged: a tag has a size below zero")
            if following < 0:
                return
            at = following or at + 16 + size
    raise ValueError("damaged: its tags go round in circles")


def _check_gzip(path: Path) -> None:
    """All of it unpacks, and the checksum is right."""
    try:
        with gzip.open(path) as handle:
            while handle.read(_BLOCK_BYTES):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ValueError("damaged: it does not unpack") from None


def _check_gdf(path: Path) -> None:
    with path.open("rb") as handle:
        head = handle.read(256)
        n_bytes = os.fstat(handle.fileno()).st_size
    if len(head) < 256 or head[:3] != b"GDF":
        raise ValueError("damaged: its header is not whole")
    n_channels = struct.unpack_from("<I" if head[4:5] == b"1" else "<H", head, 252)[0]
    if not 1 <= n_channels <= _MAX_CHANNELS or n_bytes < 256 * (n_channels + 1):
        raise ValueError("damaged: not the number of channels that it tells")
