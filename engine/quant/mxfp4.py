"""MXFP4: 32 E2M1 codes that share one power-of-two scale (OCP microscaling format).

Layout, 17 bytes:

    byte  0      e    E8M0 exponent; scale = 2^(e - 128), half of the OCP scale
    byte  1..16  qs   low nibble of byte j: value j; high nibble: value j + 16

Value: x[i] = 2^(e - 128) * KVALUES[code], KVALUES being the E2M1 magnitudes doubled.
"""

from __future__ import annotations

import numpy as np

BLOCK_LEN = 32
BLOCK = np.dtype([("e", "u1"), ("qs", "u1", (16,))])
assert BLOCK.itemsize == 17

KVALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def scale_of(exponents: np.ndarray) -> np.ndarray:
    """2^(e - 128) as float32; the two smallest exponents give subnormal numbers."""
    e = exponents.astype(np.uint32)
    small = np.uint32(0x00200000) << np.minimum(e, np.uint32(1))
    normal = np.maximum(e, np.uint32(1)) - np.uint32(1) << np.uint32(23)
    return np.where(e < 2, small, normal).astype(np.uint32).view(np.float32)


def dequantize(raw: np.ndarray) -> np.ndarray:
    """Values of whole blocks.

    Parameters
    ----------
    raw : uint8 array of shape (n_block * 17,)

    Returns
    -------
    float32 array of shape (n_block * 32,)
    """
    blocks = raw.view(BLOCK)
    out = np.empty((len(blocks), 2, 16), np.float32)
    np.take(KVALUES, blocks["qs"] & np.uint8(15), out=out[:, 0], mode="clip")
    np.take(KVALUES, blocks["qs"] >> np.uint8(4), out=out[:, 1], mode="clip")
    out *= scale_of(blocks["e"])[:, None, None]
    return out.reshape(-1)


def quantize(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """Nearest code under the scale 2^(floor(log2 max|x|) - 3); ties go to the first code.

    Parameters
    ----------
    rows : float32 array, size a multiple of 32
    importance : ignored
        The published format fixes the scale, so nothing is left to weigh.

    Returns
    -------
    uint8 array of shape (n_block * 17,)
    """
    x = np.ascontiguousarray(rows, np.float32).reshape(-1, BLOCK_LEN)
    out = np.empty(len(x), BLOCK)
    largest = np.abs(x).max(axis=1)
    exponent = np.zeros(len(x), np.float32)
    np.log2(largest, out=exponent, where=largest > 0)
    exponent = np.where(largest > 0, np.floor(exponent) + np.float32(125), 0)
    out["e"] = np.clip(exponent, 0, 254).astype(np.uint8)
    scale = scale_of(out["e"])[:, None]
    best = np.full(x.shape, np.inf, np.float32)
    code = np.zeros(x.shape, np.uint8)
    for k, value in enumerate(KVALUES):
        error = np.abs(scale * value - x)
        closer = error < best
        np.copyto(best, error, where=closer)
        np.copyto(code, np.uint8(k), where=closer)
    out["qs"] = code[:, :16] | (code[:, 16:] << np.uint8(4))
    return out.view(np.uint8)
