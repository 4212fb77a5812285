"""Pages of mapped files: read in before they are needed, given back when they are not.

Where device and processor share one memory, a file's pages and copies of them are twice the same
bytes in it.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

# Linux 5.4: take clean pages of a file out of the page cache. The mmap module has no name for it.
MADV_PAGEOUT = 21
# Linux 5.14: read pages in at once.
MADV_POPULATE_READ = 22
POPULATE = 256 << 20  # bytes read in at a time, so that an interrupt is heard


def mapping_of(data: np.ndarray) -> np.ndarray | None:
    """The whole mapping that a tensor's bytes are a view of; None if they lie elsewhere."""
    array = data
    while isinstance(array.base, np.ndarray):
        array = array.base
    owner: Any = array.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return array if isinstance(owner, mmap.mmap) else None


def _mapping(whole: np.ndarray) -> Any:
    """The mapping that an array is all of."""
    owner: Any = whole.base
    return owner.obj if isinstance(owner, memoryview) else owner


def page_out(whole: np.ndarray, first: int, end: int) -> None:
    """Take clean pages of a mapping out of memory, all but those at the edges."""
    # Neighbours' bytes are there.
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = end // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        # An older system keeps the pages, which is what it did before.
        with contextlib.suppress(OSError):
            _mapping(whole).madvise(MADV_PAGEOUT, start, stop - start)


def populate(
    whole: np.ndarray, start: int, stop: int, done: Callable[[int], None] = lambda n_bytes: None
) -> None:
    """Read pages of a mapping in, a piece at a time, before a device faults on each of them."""
    for begin in range(start, stop, POPULATE):
        with contextlib.suppress(OSError):  # an older system: the device faults then
            _mapping(whole).madvise(MADV_POPULATE_READ, begin, min(begin + POPULATE, stop) - begin)
        done(min(begin + POPULATE, stop) - begin)
