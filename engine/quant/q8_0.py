"""Q8_0: 32 signed bytes that share one float16 scale.

Layout, 34 bytes, little endian:

    byte  0..1   d    float16 scale
    byte  2..33  qs   int8[32]

Value: x[i] = d * qs[i]
"""

from __future__ import annotations

import numpy as np

BLOCK_LEN = 32
BLOCK = np.dtype([("d", "<f2"), ("qs", "i1", (BLOCK_LEN,))])
assert BLOCK.itemsize == 34


def dequantize(raw: np.ndarray) -> np.ndarray:
    """Values of whole blocks.

    Parameters
    ----------
    raw : uint8 array of shape (n_block * 34,)

    Returns
    -------
    float32 array of shape (n_block * 32,)
    """
    blocks = raw.view(BLOCK)
    out = blocks["qs"].astype(np.float32)
    out *= blocks["d"].astype(np.float32)[:, None]
    return out.reshape(-1)


def quantize(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """Codes x * (127 / max|x|) rounded half away from zero; the scale max|x| / 127 as float16.

    The code uses the scale before it is rounded to float16, as GGML's reference does.

    Parameters
    ----------
    rows : float32 array, size a multiple of 32
    importance : ignored
        Every code of this format is already the nearest one.

    Returns
    -------
    uint8 array of shape (n_block * 34,)
    """
    x = np.ascontiguousarray(rows, np.float32).reshape(-1, BLOCK_LEN)
    out = np.empty(len(x), BLOCK)
    scale = np.abs(x).max(axis=1) / np.float32(127)
    inverse = np.zeros_like(scale)
    with np.errstate(over="ignore"):
        np.divide(np.float32(1), scale, out=inverse, where=scale > np.float32(2.0**-128))
        out["d"] = scale
    scaled = x * inverse[:, None]
    # floor(|v|) + floor(2 * fraction): rounds halves up exactly, which floor(|v| + 0.5) does not.
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    magnitude -= whole
    magnitude *= np.float32(2)
    whole += np.floor(magnitude, out=magnitude)
    out["qs"] = np.copysign(whole, scaled, out=whole)
    return out.view(np.uint8)
