"""Q4_K: 256 four-bit codes in 8 sub-blocks of 32, with 6-bit scales and minima.

Layout, 144 bytes, little endian:

    byte  0..1     d       float16 factor of the scales
    byte  2..3     dmin    float16 factor of the minima
    byte  4..15    scales  8 scales s and 8 minima m of 6 bits (below)
    byte  16..143  qs      four groups of 32 bytes; group g holds sub-block 2g in its low nibbles
                           and sub-block 2g + 1 in its high nibbles

    scales[j], j < 4        low six bits: s[j];  upper two: bits 4 and 5 of s[j + 4]
    scales[j + 4], j < 4    low six bits: m[j];  upper two: bits 4 and 5 of m[j + 4]
    scales[j + 8], j < 4    low nibble: bits 0..3 of s[j + 4];  high nibble: of m[j + 4]

Value: x = d * s * code - dmin * m
"""

from __future__ import annotations

import numpy as np

from engine.quant import affine

BLOCK_LEN = 256
BLOCK = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", (12,)), ("qs", "u1", (4, 32))])
assert BLOCK.itemsize == 144

_WIDTHS = np.linspace(13.6, 16.0, 13, dtype=np.float32)


def dequantize(raw: np.ndarray) -> np.ndarray:
    """Values of whole blocks: uint8 (n_block * 144,) to float32 (n_block * 256,)."""
    blocks = raw.view(BLOCK)
    scales, minima = unpack_scales(blocks["scales"])
    scale = blocks["d"].astype(np.float32)[:, None] * scales.astype(np.float32)
    minimum = blocks["dmin"].astype(np.float32)[:, None] * minima.astype(np.float32)
    codes = np.empty((len(blocks), 4, 2, 32), np.float32)
    codes[:, :, 0] = blocks["qs"] & np.uint8(15)
    codes[:, :, 1] = blocks["qs"] >> np.uint8(4)
    out = codes.reshape(-1, 8, 32)
    out *= scale[:, :, None]
    out -= minimum[:, :, None]
    return out.reshape(-1)


def unpack_scales(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 6-bit scales and minima: uint8 (n_block, 12) to two of (n_block, 8)."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 2) & 48)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 2) & 48)], axis=1)
    return scales, minima


def quantize(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """Blocks of least weighted squared error, as far as the search of `affine` finds it.

    Parameters
    ----------
    rows : float32 array of shape (n_row, n_cols)
        n_cols a multiple of 256.
    importance : float32 array of shape (n_cols,), optional

    Returns
    -------
    uint8 array of shape (n_block * 144,)
    """
    x, w = affine.sub_blocks(rows, importance, 32)
    d, dmin, scales, minima, codes = affine.fit_blocks(x, w, 15, 63, _WIDTHS, rounds=1)
    out = np.empty(x.shape[2], BLOCK)
    out["d"], out["dmin"] = d, dmin
    s, m = scales.T, minima.T
    out["scales"][:, 0:4] = s[:, :4] | (s[:, 4:] >> 4 << 6)
    out["scales"][:, 4:8] = m[:, :4] | (m[:, 4:] >> 4 << 6)
    out["scales"][:, 8:12] = (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    codes = codes.transpose(2, 1, 0).reshape(-1, 4, 2, 32)
    out["qs"] = codes[:, :, 0] | codes[:, :, 1] << np.uint8(4)
    return out.view(np.uint8)
