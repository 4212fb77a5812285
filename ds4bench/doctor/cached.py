"""How much of a file the page cache holds, asked with mincore; nothing is read into memory."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import numpy as np

_MOST_BYTES = 64 << 30  # of address space at once; a byte of answer for each page


def cached_share(path: Path) -> float | None:
    """Share of a file's pages that are in memory, 0 to 1; None where the system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        size = path.stat().st_size
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        held = pages = 0
        with path.open("rb") as file:
            for offset in range(0, size, _MOST_BYTES):
                length = min(_MOST_BYTES, size - offset)
                # A private mapping may be asked for its address; nothing is written through it.
                with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY,
                               offset=offset) as view:  # fmt: skip
                    count = -(-length // mmap.PAGESIZE)
                    answer = np.zeros(count, np.uint8)
                    anchor = ctypes.c_char.from_buffer(view)
                    failed = libc.mincore(ctypes.addressof(anchor), length, answer.ctypes.data)
                    del anchor
                    if failed:
                        return None
                    held += int((answer & 1).sum())
                    pages += count
    except (OSError, ValueError, AttributeError):
        return None
    return held / pages if pages else None
