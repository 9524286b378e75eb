"""Is the structure of a MAT file (EEGLAB's `.set`) whole?

The reader of SciPy, which MNE uses, trusts sizes and types and crashes the process on a damaged
file: they are looked at before. Layout: MAT-File Format, MathWorks, level 5. Compressed elements
carry a checksum of their own, and version 7.3 is HDF5, which checks itself.
"""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

_MATRIX, _COMPRESSED = 14, 15
# Bytes of one value of each type of numbers or text.
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
_CELL, _STRUCT, _OBJECT, _CHAR = 1, 2, 3, 4
_NUMERIC = range(6, 16)
_MOST_NESTED = 32
_MOST_UNPACKED = 2**30


class _Element(NamedTuple):
    kind: int
    first: int
    n_bytes: int
    end: int  # of its padding: where the next one starts


def check_mat_file(path: Path) -> None:
    """Raise ValueError if a level-5 MAT file is damaged; others are not looked at."""
    with path.open("rb") as handle:
        head = handle.read(128)
        if len(head) < 128 or head[124:128] not in {b"\0\1IM", b"\1\0MI"}:
            return
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            walk = _Walk(content, "<" if head[126:128] == b"IM" else ">")
            at = 128
            while at < len(content):
                element = walk.element(at, len(content), is_padded=False)
                if element.kind == _MATRIX:
                    walk.matrix(element, depth=0)
                elif element.kind == _COMPRESSED:
                    _check_inflated(content[element.first : element.end], walk.order)
                at = element.end


def _check_inflated(packed: bytes, order: str) -> None:
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(packed, _MOST_UNPACKED)
    except zlib.error:
        raise ValueError("damaged: a compressed variable does not unpack") from None
    if not unpacking.eof:  # cut short, or a bomb; at the end the checksum has been compared
        raise ValueError(f"damaged: a compressed variable unpacks to over {_MOST_UNPACKED} bytes")
    walk = _Walk(content, order)
    element = walk.element(0, len(content), is_padded=False)
    if element.kind == _MATRIX:
        walk.matrix(element, depth=0)


class _Walk:
    """Elements of a file, each within the one around it."""

    def __init__(self, content: bytes | mmap.mmap, order: str) -> None:
        self.content, self.order = content, order

    def element(self, at: int, end: int, *, is_padded: bool = True) -> _Element:
        if at + 8 > end:
            raise ValueError("damaged: an element starts beyond the end of what holds it")
        kind, n_bytes = struct.unpack_from(f"{self.order}II", self.content, at)
        if kind >> 16:  # a small one: size, type and up to 4 bytes in the tag
            small = _Element(kind & 0xFFFF, at + 4, kind >> 16, at + 8)
            if small.n_bytes > 4:
                raise ValueError("damaged: a small element has more than 4 bytes")
            return small
        stop = at + 8 + n_bytes
        if stop > end:
            raise ValueError("damaged: an element ends beyond the end of what holds it")
        padded = min(end, stop + -n_bytes % 8) if is_padded else stop
        return _Element(kind, at + 8, n_bytes, padded)

    def values(self, element: _Element) -> tuple[int, ...]:
        if element.kind not in {5, 6} or element.n_bytes % 4:
            raise ValueError("damaged: dimensions or sizes are no whole numbers")
        n = element.n_bytes // 4
        found: tuple[int, ...] = struct.unpack_from(
            f"{self.order}{n}i", self.content, element.first
        )
        return found

    def matrix(self, outer: _Element, *, depth: int) -> None:
        if outer.kind != _MATRIX or depth > _MOST_NESTED:
            raise ValueError("damaged: no variable where one should be")
        if outer.n_bytes == 0:
            return
        end = outer.first + outer.n_bytes
        flags = self.element(outer.first, end)
        if flags.kind != 6 or flags.n_bytes != 8:
            raise ValueError("damaged: a variable without its class")
        bits = struct.unpack_from(f"{self.order}I", self.content, flags.first)[0]
        kind, is_complex = bits & 0xFF, bool(bits & 0x800)
        dimensions = self.element(flags.end, end)
        shape = self.values(dimensions)
        name = self.element(dimensions.end, end)
        if len(shape) < 2 or min(shape) < 0 or name.kind not in _ITEM_BYTES:
            raise ValueError("damaged: a variable without dimensions or name")
        at, n_items = name.end, math.prod(shape)
        if kind in {_CELL, _STRUCT, _OBJECT}:
            n_fields = 1
            if kind == _OBJECT:
                at = self.element(at, end).end
            if kind != _CELL:
                width = self.element(at, end)
                names = self.element(width.end, end)
                wide = self.values(width)
                if len(wide) != 1 or wide[0] < 1 or names.n_bytes % wide[0]:
                    raise ValueError("damaged: the names of fields have no length")
                at, n_fields = names.end, names.n_bytes // wide[0]
            if n_items * n_fields > (end - at) // 8:
                raise ValueError("damaged: more fields than bytes")
            for _ in range(n_items * n_fields):
                inner = self.element(at, end)
                self.matrix(inner, depth=depth + 1)
                at = inner.end
        elif kind in _NUMERIC or kind == _CHAR:
            for _ in range(1 + is_complex):
                data = self.element(at, end)
                item = _ITEM_BYTES.get(data.kind)
                if item is None or data.n_bytes % item:
                    raise ValueError("damaged: data of no known type")
                if kind != _CHAR and data.n_bytes != n_items * item:
                    raise ValueError("damaged: data that do not have their dimensions")
                at = data.end
        else:
            raise ValueError("holds a variable that no EEGLAB file has, or is damaged")
