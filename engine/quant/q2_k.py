"""Q2_K: 256 two-bit codes in 16 sub-blocks of 16, with 4-bit scales and minima.

Layout, 84 bytes, little endian:

    byte  0..15   scales  low nibble: scale s of sub-block j; high nibble: its minimum m
    byte  16..79  qs      two halves of 32 bytes, each 128 values: byte i of half h holds the
                          codes of values 128h + i, + 32, + 64 and + 96, lowest bits first
    byte  80..81  d       float16 factor of the scales
    byte  82..83  dmin    float16 factor of the minima

Value: x = d * s * code - dmin * m
"""

from __future__ import annotations

import numpy as np

from engine.quant import affine

BLOCK_LEN = 256
BLOCK = np.dtype([("scales", "u1", (16,)), ("qs", "u1", (2, 32)), ("d", "<f2"), ("dmin", "<f2")])
assert BLOCK.itemsize == 84

_WIDTHS = np.linspace(2.4, 4.2, 13, dtype=np.float32)
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[:, None]


def dequantize(raw: np.ndarray) -> np.ndarray:
    """Values of whole blocks: uint8 (n_block * 84,) to float32 (n_block * 256,)."""
    blocks = raw.view(BLOCK)
    scales = (blocks["scales"] & np.uint8(15)).astype(np.float32)
    minima = (blocks["scales"] >> np.uint8(4)).astype(np.float32)
    scales *= blocks["d"].astype(np.float32)[:, None]
    minima *= blocks["dmin"].astype(np.float32)[:, None]
    codes = blocks["qs"][:, :, None, :] >> _SHIFTS & np.uint8(3)
    out = codes.astype(np.float32).reshape(-1, 16, 16)
    out *= scales[:, :, None]
    out -= minima[:, :, None]
    return out.reshape(-1)


def quantize(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """Blocks of least weighted squared error, as far as the search of `affine` finds it.

    Parameters
    ----------
    rows : float32 array of shape (n_row, n_cols)
        n_cols a multiple of 256.
    importance : float32 array of shape (n_cols,), optional

    Returns
    -------
    uint8 array of shape (n_block * 84,)
    """
    x, w = affine.sub_blocks(rows, importance, 16)
    d, dmin, scales, minima, codes = affine.fit_blocks(x, w, 3, 15, _WIDTHS, rounds=2)
    out = np.empty(x.shape[2], BLOCK)
    out["d"], out["dmin"] = d, dmin
    out["scales"] = (scales | minima << np.uint8(4)).T
    codes = codes.transpose(2, 1, 0).reshape(-1, 2, 4, 32)
    out["qs"] = np.bitwise_or.reduce(codes << _SHIFTS, axis=2)
    return out.view(np.uint8)
