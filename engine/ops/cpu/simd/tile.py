"""Register tiles of four heads by four rows: dots of queries with rows, and weighted sums of rows.

The order of each output's sum is fixed and does not know the tile: a dot keeps 16 lanes, each in
ascending order, folded by `vec.sum_lanes`; a weighted sum takes the rows one by one.
"""

from __future__ import annotations

from engine.ops.cpu.runtime.jit import inline_kernel
from engine.ops.cpu.simd import vec

HEADS = 4
ROWS = 4
BYTES = 64  # of one vector


@inline_kernel
def dots_4x4(q0, q1, q2, q3, k0, k1, k2, k3, d):
    """Lane 4*h + r is the dot of query h and row r; arguments are addresses of d floats."""
    a00 = vec.zero()
    a01 = vec.zero()
    a02 = vec.zero()
    a03 = vec.zero()
    a10 = vec.zero()
    a11 = vec.zero()
    a12 = vec.zero()
    a13 = vec.zero()
    a20 = vec.zero()
    a21 = vec.zero()
    a22 = vec.zero()
    a23 = vec.zero()
    a30 = vec.zero()
    a31 = vec.zero()
    a32 = vec.zero()
    a33 = vec.zero()
    for at in range(0, d * 4, BYTES):
        x0 = vec.load_at(k0 + at)
        x1 = vec.load_at(k1 + at)
        x2 = vec.load_at(k2 + at)
        x3 = vec.load_at(k3 + at)
        y = vec.load_at(q0 + at)
        a00 = vec.fma(y, x0, a00)
        a01 = vec.fma(y, x1, a01)
        a02 = vec.fma(y, x2, a02)
        a03 = vec.fma(y, x3, a03)
        y = vec.load_at(q1 + at)
        a10 = vec.fma(y, x0, a10)
        a11 = vec.fma(y, x1, a11)
        a12 = vec.fma(y, x2, a12)
        a13 = vec.fma(y, x3, a13)
        y = vec.load_at(q2 + at)
        a20 = vec.fma(y, x0, a20)
        a21 = vec.fma(y, x1, a21)
        a22 = vec.fma(y, x2, a22)
        a23 = vec.fma(y, x3, a23)
        y = vec.load_at(q3 + at)
        a30 = vec.fma(y, x0, a30)
        a31 = vec.fma(y, x1, a31)
        a32 = vec.fma(y, x2, a32)
        a33 = vec.fma(y, x3, a33)
    return vec.sum_lanes_of_16(
        (a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23, a30, a31, a32, a33)
    )


@inline_kernel
def weighted_rows_4x64(acc, to, stride, p, p_at, p_stride, rows, first, stop, column):
    """Add p * row over rows first .. stop - 1 to 64 columns of four heads.

    acc[to + h*stride + ...] are the heads' sums, p[p_at + h*p_stride + r] their weights,
    rows[r] the rows' addresses, `column` the byte offset of the columns in a row.
    """
    to1, to2, to3 = to + stride, to + 2 * stride, to + 3 * stride
    p1, p2, p3 = p_at + p_stride, p_at + 2 * p_stride, p_at + 3 * p_stride
    a00 = vec.load(acc, to)
    a01 = vec.load(acc, to + 16)
    a02 = vec.load(acc, to + 32)
    a03 = vec.load(acc, to + 48)
    a10 = vec.load(acc, to1)
    a11 = vec.load(acc, to1 + 16)
    a12 = vec.load(acc, to1 + 32)
    a13 = vec.load(acc, to1 + 48)
    a20 = vec.load(acc, to2)
    a21 = vec.load(acc, to2 + 16)
    a22 = vec.load(acc, to2 + 32)
    a23 = vec.load(acc, to2 + 48)
    a30 = vec.load(acc, to3)
    a31 = vec.load(acc, to3 + 16)
    a32 = vec.load(acc, to3 + 32)
    a33 = vec.load(acc, to3 + 48)
    for r in range(first, stop):
        where = vec.at(rows, r) + column
        x0 = vec.load_at(where)
        x1 = vec.load_at(where + BYTES)
        x2 = vec.load_at(where + 2 * BYTES)
        x3 = vec.load_at(where + 3 * BYTES)
        w = vec.splat(vec.at(p, p_at + r))
        a00 = vec.fma(w, x0, a00)
        a01 = vec.fma(w, x1, a01)
        a02 = vec.fma(w, x2, a02)
        a03 = vec.fma(w, x3, a03)
        w = vec.splat(vec.at(p, p1 + r))
        a10 = vec.fma(w, x0, a10)
        a11 = vec.fma(w, x1, a11)
        a12 = vec.fma(w, x2, a12)
        a13 = vec.fma(w, x3, a13)
        w = vec.splat(vec.at(p, p2 + r))
        a20 = vec.fma(w, x0, a20)
        a21 = vec.fma(w, x1, a21)
        a22 = vec.fma(w, x2, a22)
        a23 = vec.fma(w, x3, a23)
        w = vec.splat(vec.at(p, p3 + r))
        a30 = vec.fma(w, x0, a30)
        a31 = vec.fma(w, x1, a31)
        a32 = vec.fma(w, x2, a32)
        a33 = vec.fma(w, x3, a33)
    vec.store(acc, to, a00)
    vec.store(acc, to + 16, a01)
    vec.store(acc, to + 32, a02)
    vec.store(acc, to + 48, a03)
    vec.store(acc, to1, a10)
    vec.store(acc, to1 + 16, a11)
    vec.store(acc, to1 + 32, a12)
    vec.store(acc, to1 + 48, a13)
    vec.store(acc, to2, a20)
    vec.store(acc, to2 + 16, a21)
    vec.store(acc, to2 + 32, a22)
    vec.store(acc, to2 + 48, a23)
    vec.store(acc, to3, a30)
    vec.store(acc, to3 + 16, a31)
    vec.store(acc, to3 + 32, a32)
    vec.store(acc, to3 + 48, a33)


@inline_kernel
def weighted_rows_1x16(acc, to, p, p_at, rows, first, stop, column):
    """The same sum for 16 columns of one head: what is left beside the 64s."""
    a = vec.load(acc, to)
    for r in range(first, stop):
        a = vec.fma(vec.splat(vec.at(p, p_at + r)), vec.load_at(vec.at(rows, r) + column), a)
    vec.store(acc, to, a)
