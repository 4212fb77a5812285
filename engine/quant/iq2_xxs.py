"""IQ2_XXS: 256 values as 32 rows of a codebook, with even-parity signs and 4-bit scales.

Layout, 66 bytes, little endian:

    byte  0..1   d    float16 scale
    byte  2..65  qs   8 sub-blocks of 32 values, each two uint32:
                      first   four bytes: codebook rows of the four groups of 8 values
                      second  bits 0..27: four 7-bit sign patterns; bits 28..31: scale s
                      bit i of a pattern is the sign of value i; the eighth sign makes the number
                      of negative values even

Value: x = d * (s + 1/2) / 4 * magnitude * sign, magnitudes from `iq2_xxs_grid`.
"""

from __future__ import annotations

import numpy as np

from engine.quant.affine import half
from engine.quant.iq2_xxs_grid import GRID

BLOCK_LEN = 256
BLOCK = np.dtype([("d", "<f2"), ("qs", "<u4", (8, 2))])
assert BLOCK.itemsize == 66

_PATTERN = np.arange(128, dtype=np.uint8)
_BITS = _PATTERN[:, None] >> np.arange(7, dtype=np.uint8) & np.uint8(1)
_ALL_BITS = np.concatenate([_BITS, _BITS.sum(axis=1, dtype=np.uint8)[:, None] & 1], axis=1)
SIGNS = np.where(_ALL_BITS, np.float32(-1), np.float32(1))  # (128, 8)

_PATTERN_SHIFTS = np.array([0, 7, 14, 21], np.uint32)
# Scales tried, as parts of the scale that puts a sub-block's largest value on the largest
# magnitude; a smaller one clips that value and serves the others better.
_FIRST_TRIAL, _TRIAL_STEP, _N_TRIALS = np.float32(0.65), np.float32(0.1), 5
_PIECE_BLOCKS = 32  # 1024 groups: scores of 1 MB, which stay in a core's own cache
_SQUARES = np.ascontiguousarray((GRID * GRID).T)
_GRID_T = np.ascontiguousarray(GRID.T)


def dequantize(raw: np.ndarray) -> np.ndarray:
    """Values of whole blocks: uint8 (n_block * 66,) to float32 (n_block * 256,)."""
    blocks = raw.view(BLOCK)
    packed = np.ascontiguousarray(blocks["qs"])
    scale = (packed[..., 1] >> np.uint32(28)).astype(np.float32)
    scale += np.float32(0.5)
    scale *= blocks["d"].astype(np.float32)[:, None]
    scale *= np.float32(0.25)
    rows = np.ascontiguousarray(packed[..., 0], "<u4").view(np.uint8)
    out = GRID[rows].reshape(-1, 8, 4, 8)
    out *= scale[:, :, None, None]
    out *= SIGNS[packed[..., 1, None] >> _PATTERN_SHIFTS & np.uint32(127)]
    return out.reshape(-1)


def quantize(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """Blocks of least weighted squared error, as far as a search over scales finds it.

    For every trial scale each group of 8 takes the nearest row of the whole codebook; the scale
    is then solved for with the rows fixed, and again for the block with the 4-bit scales fixed.

    Parameters
    ----------
    rows : float32 array of shape (n_row, n_cols)
        n_cols a multiple of 256.
    importance : float32 array of shape (n_cols,), optional

    Returns
    -------
    uint8 array of shape (n_block * 66,)
    """
    blocks = rows.reshape(-1, BLOCK_LEN)
    n_row_blocks = rows.shape[-1] // BLOCK_LEN
    if importance is not None:
        importance = importance.reshape(n_row_blocks, BLOCK_LEN)
    out = np.empty(len(blocks), BLOCK)
    for start in range(0, len(blocks), _PIECE_BLOCKS):
        piece = blocks[start : start + _PIECE_BLOCKS]
        w = None
        if importance is not None:
            w = importance[np.arange(start, start + len(piece)) % n_row_blocks].reshape(-1, 8)
        _encode(out[start : start + len(piece)], piece.reshape(-1, 8), w)
    return out.view(np.uint8)


def _encode(out: np.ndarray, x: np.ndarray, w: np.ndarray | None) -> None:
    """Fill blocks `out` from values (and weights) of shape (n_group, 8)."""
    magnitude, patterns = _even_signs(x, w)
    match = _project(magnitude if w is None else w * magnitude, _GRID_T)  # (n_group, 256)
    match *= np.float32(-2)
    # Squared error of a row at scale t, less the constant, over t: t * norm + match.
    norm = _SQUARES.sum(axis=0) if w is None else _project(w, _SQUARES)

    scale = _search_scale(magnitude, match, norm)
    d = half(scale.reshape(-1, 8).max(axis=1) * np.float32(8 / 31))
    step, dot, square = _best_steps(scale, d, match, norm)
    unit = (2 * step + 1) * np.float32(0.125)
    top = (dot * unit).reshape(-1, 8).sum(axis=1)
    bottom = (square * unit * unit).reshape(-1, 8).sum(axis=1)
    fitted = half(np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0))
    d = np.where(fitted > 0, fitted, d)
    chosen = _score(np.repeat(d, 8) * unit, match, norm).argmin(axis=1)

    out["d"] = d
    out["qs"][..., 0] = chosen.astype(np.uint8).reshape(-1, 4).view("<u4").reshape(-1, 8)
    signs = patterns.reshape(-1, 4).astype(np.uint32) << _PATTERN_SHIFTS
    words = signs.sum(axis=1, dtype=np.uint32) | step.astype(np.uint32) << np.uint32(28)
    out["qs"][..., 1] = words.reshape(-1, 8)


def _project(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """x @ table in products so small that BLAS keeps to this thread.

    Its worker threads fight with the callers' own and cost ten times more than they bring here.
    """
    out = np.empty((len(x), table.shape[1]), np.float32)
    for start in range(0, len(x), 64):
        np.matmul(x[start : start + 64], table, out=out[start : start + 64])
    return out


def _even_signs(x: np.ndarray, w: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes whose signs have even parity, and the 7-bit patterns.

    Where the number of negative values is odd, the cheapest value takes the wrong sign: its
    magnitude becomes negative, and the codebook search sees that.
    """
    negative = np.signbit(x)
    magnitude = np.abs(x)
    odd = np.flatnonzero(np.logical_xor.reduce(negative, axis=1))
    cost = magnitude[odd] if w is None else magnitude[odd] * w[odd]
    cheapest = cost.argmin(axis=1)
    negative[odd, cheapest] ^= True
    magnitude[odd, cheapest] *= np.float32(-1)
    patterns = np.packbits(negative, axis=1, bitorder="little")[:, 0] & np.uint8(127)
    return magnitude, patterns


def _score(scale: np.ndarray, match: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Error of every codebook row, per group of 8, at one scale per sub-block of 32."""
    score = np.repeat(scale, 4)[:, None] * norm
    score += match
    return score


def _sums(score: np.ndarray, match: np.ndarray, norm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With the best rows: products with the values, and squares of the rows, per sub-block."""
    chosen = score.argmin(axis=1)
    index = np.arange(len(chosen))
    dot = match[index, chosen] * np.float32(-0.5)
    square = norm[chosen] if norm.ndim == 1 else norm[index, chosen]
    return dot.reshape(-1, 4).sum(axis=1), square.reshape(-1, 4).sum(axis=1)


def _search_scale(magnitude: np.ndarray, match: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Best real scale per sub-block of 32."""
    widest = np.abs(magnitude).reshape(-1, 32).max(axis=1) / GRID.max()
    best_gain = np.zeros_like(widest)
    best = np.zeros_like(widest)
    # Trials are evenly spaced, so a score follows from the last one by one addition.
    score = _score(widest * _FIRST_TRIAL, match, norm)
    more = np.repeat(widest * _TRIAL_STEP, 4)[:, None] * norm
    for trial in range(_N_TRIALS):
        if trial:
            score += more
        dot, square = _sums(score, match, norm)
        scale = np.divide(dot, square, out=np.zeros_like(dot), where=square > 0)
        gain = scale * dot
        better = (gain > best_gain) & (scale > 0)
        best_gain[better] = gain[better]
        best[better] = scale[better]
    return best


def _best_steps(
    scale: np.ndarray, d: np.ndarray, match: np.ndarray, norm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 4-bit scales of least error near the real ones, and the sums of their best rows."""
    per_sub = np.repeat(d, 8)
    ratio = np.divide(scale, per_sub, out=np.zeros_like(scale), where=per_sub > 0)
    step = np.clip(np.rint(ratio * 4 - np.float32(0.5)), 1, 14) - 1
    best_error = np.full(scale.shape, np.inf, np.float32)
    best_step, best_dot, best_square = step.copy(), step.copy(), step.copy()
    score = _score(per_sub * (2 * step + 1) * np.float32(0.125), match, norm)
    more = np.repeat(per_sub * np.float32(0.25), 4)[:, None] * norm
    for trial in range(3):
        if trial:
            score += more
            step = step + np.float32(1)
        real = per_sub * (2 * step + 1) * np.float32(0.125)
        dot, square = _sums(score, match, norm)
        error = real * (real * square - 2 * dot)
        better = error < best_error
        for kept, new in (
            (best_error, error),
            (best_step, step),
            (best_dot, dot),
            (best_square, square),
        ):
            kept[better] = new[better]
    return best_step, best_dot, best_square
