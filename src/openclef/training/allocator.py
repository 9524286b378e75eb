"""The C library's allocator, told to keep what a step frees."""

from __future__ import annotations

import ctypes
import platform

# Names and numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 256 * 2**20


def keep_freed_memory() -> None:
    """Keep freed memory for what is asked for next instead of giving it back to the kernel.

    A step on a CPU asks for and frees hundreds of tensors of tens of MB. By default glibc maps
    each anew and the kernel clears it page by page: 40% of the time of a tokenizer's step
    (results/2026-11-24-tokenizer.md). For the whole process, whose memory then stays at its peak;
    nothing happens with another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in (
            (_M_MMAP_MAX, 0),
            (_M_TRIM_THRESHOLD, -1),
            (_M_TOP_PAD, _TOP_PAD),
        ):
            libc.mallopt(parameter, value)
