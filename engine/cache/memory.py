"""Arrays for kernels: zero pages that begin on a cache line."""

from __future__ import annotations

import numpy as np

ALIGN = 64  # bytes; a vector load of 64 bytes then never crosses two cache lines


def aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Array of zeros starting at a multiple of 64 bytes; pages count once they are written."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + n_bytes].view(dtype).reshape(shape)
