"""F32, F16 and BF16: one number per block, little endian.

F32    4 bytes   IEEE binary32
F16    2 bytes   IEEE binary16
BF16   2 bytes   the upper half of a binary32, rounded to nearest even
"""

from __future__ import annotations

import numpy as np

F32 = np.dtype("<f4")
F16 = np.dtype("<f2")
BF16 = np.dtype("<u2")


def dequantize_f32(raw: np.ndarray) -> np.ndarray:
    """Bytes of binary32 numbers as a float32 array; shares memory where alignment allows."""
    return raw.view(F32).astype(np.float32, copy=False)


def dequantize_f16(raw: np.ndarray) -> np.ndarray:
    """Bytes of binary16 numbers as float32 (exact)."""
    return raw.view(F16).astype(np.float32)


def dequantize_bf16(raw: np.ndarray) -> np.ndarray:
    """Bytes of bfloat16 numbers as float32 (exact)."""
    return (raw.view(BF16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def quantize_f32(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """Bytes of float32 rows; `importance` has no effect on any format of this file."""
    return np.ascontiguousarray(rows, F32).reshape(-1).view(np.uint8)


def quantize_f16(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """Nearest binary16, ties to even; magnitudes from 65520 on become infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(rows, np.float32).astype(F16).reshape(-1).view(np.uint8)


def quantize_bf16(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """Nearest bfloat16, ties to even; NaNs stay NaNs by setting their quiet bit."""
    bits = np.ascontiguousarray(rows, np.float32).reshape(-1).view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = ((bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)).astype(BF16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    if nan.any():
        rounded[nan] = (upper[nan] | np.uint32(0x40)).astype(BF16)
    return rounded.view(np.uint8)
