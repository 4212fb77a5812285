"""Least squares for formats whose values are scale * code - minimum (Q4_K and Q2_K).

Arrays hold one sub-block per column, shape (values of a sub-block, n_sub), so that every sum runs
over contiguous rows.
"""

from __future__ import annotations

import numpy as np

ZERO = np.float32(0)


def search(
    x: np.ndarray, w: np.ndarray | None, top: int, widths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and minimum per sub-block with the least weighted squared error found.

    Each candidate spreads the codes 0..top over a multiple of the sub-block's range, then solves
    for scale and minimum in closed form with the codes fixed.

    Parameters
    ----------
    x : float32 array of shape (n, n_sub)
    w : float32 array of shape (n, n_sub), optional
        Weights of the squared errors; None means 1.
    top : int
        Largest code.
    widths : float32 array
        Number of code steps laid over the range from min(x, 0) to max(x), one per candidate.

    Returns
    -------
    scale, minimum : float32 arrays of shape (n_sub,)
        Both >= 0; x is close to scale * code - minimum.
    """
    low = np.minimum(x.min(axis=0), ZERO)
    span = x.max(axis=0) - low
    flat = span <= 0
    span[flat] = np.float32(1)
    shifted = x - low
    wx = x if w is None else w * x
    sum_w = np.float32(len(x)) if w is None else w.sum(axis=0)
    sum_x = wx.sum(axis=0)
    best_gain = np.full(x.shape[1], -np.inf, np.float32)
    best_scale = np.zeros(x.shape[1], np.float32)
    best_low = low.copy()
    code = np.empty_like(x)
    wq = np.empty_like(x)
    for width in widths:
        np.multiply(shifted, np.float32(width) / span, out=code)
        np.rint(code, out=code)
        np.clip(code, ZERO, np.float32(top), out=code)
        weighted = code if w is None else np.multiply(w, code, out=wq)
        sum_q = weighted.sum(axis=0)
        sum_qq = np.einsum("ij,ij->j", weighted, code)
        sum_xq = np.einsum("ij,ij->j", wx, code)
        scale, minimum = _solve(sum_w, sum_q, sum_qq, sum_x, sum_xq)
        # Squared error is sum(w x^2) - gain; the first term is the same for all candidates.
        gain = 2 * (scale * sum_xq + minimum * sum_x) - (
            scale * scale * sum_qq + minimum * minimum * sum_w + 2 * scale * minimum * sum_q
        )
        better = (gain > best_gain) & (scale >= 0)
        best_gain[better] = gain[better]
        best_scale[better] = scale[better]
        best_low[better] = minimum[better]
    best_scale[flat] = ZERO
    best_low[flat] = low[flat]
    return best_scale, -best_low


def _solve(
    sum_w: np.ndarray, sum_q: np.ndarray, sum_qq: np.ndarray, sum_x: np.ndarray, sum_xq: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Best (scale, offset <= 0) of x = scale * q + offset for fixed codes q."""
    through_zero = np.divide(
        sum_xq, sum_qq, out=np.zeros_like(sum_xq), where=np.broadcast_to(sum_qq > 0, sum_xq.shape)
    )
    determinant = sum_w * sum_qq - sum_q * sum_q
    # Below this the sub-block uses one code only, and scale and offset cannot be told apart.
    usable = determinant > np.float32(1e-5) * sum_w * sum_qq
    safe = np.where(usable, determinant, np.float32(1))
    offset = np.where(usable, (sum_qq * sum_x - sum_q * sum_xq) / safe, ZERO)
    scale = (sum_w * sum_xq - sum_x * sum_q) / safe
    plain = ~usable | (offset > 0)
    return np.where(plain, through_zero, scale), np.where(plain, ZERO, offset)


def fit_blocks(
    x: np.ndarray, w: np.ndarray | None, top: int, sub_top: int, widths: np.ndarray, rounds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Everything that a block of Q4_K or Q2_K stores.

    After the search per sub-block, the integer scales are moved by one step where that lowers the
    error, and the two float16 factors are solved for with all integers fixed, in turns.

    Parameters
    ----------
    x : float32 array of shape (n, n_sub, n_block)
        Values of a sub-block, sub-blocks of a block, blocks.
    w : float32 array of the same shape, optional
    top, sub_top : int
        Largest code and largest integer scale.
    widths : float32 array
        Candidates of `search`.
    rounds : int
        Turns of refinement.

    Returns
    -------
    d, dmin : float16 arrays of shape (n_block,)
    scales, minima : uint8 arrays of shape (n_sub, n_block)
    codes : uint8 array of the shape of x
        Value: d * scales * codes - dmin * minima.
    """
    n, n_sub, n_block = x.shape
    flat_w = None if w is None else w.reshape(n, -1)
    scale, minimum = search(x.reshape(n, -1), flat_w, top, widths)
    scale, minimum = scale.reshape(n_sub, n_block), minimum.reshape(n_sub, n_block)
    d = half(scale.max(axis=0) / np.float32(sub_top))
    dmin = half(minimum.max(axis=0) / np.float32(sub_top))
    scales = _steps(scale, d, sub_top)
    minima = _steps(minimum, dmin, sub_top)
    wx = x if w is None else w * x
    for _ in range(rounds):
        scales, minima = _best_neighbours(x, w, d, dmin, scales, minima, top, sub_top)
        codes = _codes(x, d * scales, dmin * minima, top)
        new_d, new_dmin, good = _fit_pair(scales * codes, minima, wx, w)
        d = np.where(good, half(new_d), d)
        dmin = np.where(good, half(new_dmin), dmin)
    codes = _codes(x, d * scales, dmin * minima, top)
    return (
        d.astype(np.float16),
        dmin.astype(np.float16),
        scales.astype(np.uint8),
        minima.astype(np.uint8),
        codes.astype(np.uint8),
    )


def half(value: np.ndarray) -> np.ndarray:
    """Rounded to what a float16 can hold; larger numbers become its largest."""
    return np.minimum(value, np.float32(65504)).astype(np.float16).astype(np.float32)


def _steps(value: np.ndarray, unit: np.ndarray, top: int) -> np.ndarray:
    steps = np.divide(value, unit, out=np.zeros_like(value), where=unit > 0)
    return np.clip(np.rint(steps), ZERO, np.float32(top))


def _codes(x: np.ndarray, scale: np.ndarray, minimum: np.ndarray, top: int) -> np.ndarray:
    inverse = np.divide(
        np.float32(1), scale, out=np.zeros_like(scale), where=scale > np.float32(2.0**-126)
    )
    code = (x + minimum) * inverse
    np.rint(code, out=code)
    return np.clip(code, ZERO, np.float32(top), out=code)


def _best_neighbours(
    x: np.ndarray,
    w: np.ndarray | None,
    d: np.ndarray,
    dmin: np.ndarray,
    scales: np.ndarray,
    minima: np.ndarray,
    top: int,
    sub_top: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Integer scales and minima, each moved by -1, 0 or 1 to the least error."""
    best = np.full(scales.shape, np.inf, np.float32)
    best_scales, best_minima = scales.copy(), minima.copy()
    for scale_step in (0, -1, 1):
        for minimum_step in (0, -1, 1):
            s = np.clip(scales + np.float32(scale_step), ZERO, np.float32(sub_top))
            m = np.clip(minima + np.float32(minimum_step), ZERO, np.float32(sub_top))
            scale, minimum = d * s, dmin * m
            error = _codes(x, scale, minimum, top)
            error *= scale
            error -= minimum
            error -= x
            weighted = error if w is None else w * error
            total = np.einsum("isj,isj->sj", weighted, error)
            better = total < best
            best[better] = total[better]
            best_scales[better] = s[better]
            best_minima[better] = m[better]
    return best_scales, best_minima


def _fit_pair(
    a: np.ndarray, b: np.ndarray, wx: np.ndarray, w: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best (d, dmin) of x = d * a - dmin * b per block; b has no axis of values.

    The third result is False where the equations are singular or an answer is negative.
    """
    wa = a if w is None else w * a
    aa = np.einsum("isj,isj->j", wa, a, dtype=np.float64)
    xa = np.einsum("isj,isj->j", wx, a, dtype=np.float64)
    ab = np.einsum("sj,sj->j", wa.sum(axis=0), b, dtype=np.float64)
    xb = np.einsum("sj,sj->j", wx.sum(axis=0), b, dtype=np.float64)
    sum_w = np.full(b.shape, len(a), np.float32) if w is None else w.sum(axis=0)
    bb = np.einsum("sj,sj,sj->j", sum_w, b, b, dtype=np.float64)
    determinant = aa * bb - ab * ab
    two = determinant > 1e-9 * aa * bb
    safe = np.where(two, determinant, 1)
    d = np.where(two, (xa * bb - xb * ab) / safe, xa / np.where(aa > 0, aa, 1))
    dmin = np.where(two, (xa * ab - xb * aa) / safe, 0)
    good = (aa > 0) & (two | (bb == 0)) & (d > 0) & (dmin >= 0)
    return d.astype(np.float32), dmin.astype(np.float32), good


def sub_blocks(
    rows: np.ndarray, importance: np.ndarray | None, n: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows cut into blocks of 256 and sub-blocks of n, with the axes that `fit_blocks` takes.

    Returns
    -------
    x : float32 array of shape (n, 256 / n, n_block)
    w : float32 array of the same shape, or None without importance
    """
    x = np.ascontiguousarray(rows.reshape(-1, 256 // n, n).transpose(2, 1, 0), np.float32)
    if importance is None:
        return x, None
    w = np.broadcast_to(importance, rows.shape).reshape(-1, 256 // n, n).transpose(2, 1, 0)
    return x, np.ascontiguousarray(w, np.float32)
