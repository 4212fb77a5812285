"""What every attention kernel shares: a query's list of rows, and how parts of it are joined.

The list is cut into chunks of 32 entries. A chunk gives its greatest score m, the sum l of its
weights exp(s - m) and its weighted rows o; chunks are joined in the order of the list by one
formula, whether one block walks over them all or each has a block of its own. The sink is the
first part: score `sink`, weight 1, no row.
"""

from __future__ import annotations

import math

from numba import cuda

from engine.ops.cuda.build.kernel import F32P, I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import (
    address,
    fma_rn,
    ld_nc_v2_f32,
    mul_rn,
    st_v2_f32,
    sub_rn,
)
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.rows.rope import turned

CHUNK = 32
LOWEST = f32(-math.inf)
ZERO, ONE = f32(0), f32(1)
JOIN_THREADS = 128
_AHEAD = 4  # parts that are loaded before any of them is joined


@device
def seen_rows(pos, i, n_swa, ratio, n_sel, chosen):
    """Position of row i of the call, how many raw rows it sees, and how many rows in all."""
    p = u32(u32(pos[0]) + i)
    visible = u32(p + u32(1))
    raw = n_swa if n_swa < visible else visible
    compressed = u32(0)
    if ratio:
        compressed = u32(n_sel[i]) if chosen else u32(visible // ratio)
    return p, raw, u32(raw + compressed)


@device
def entry_row(j, p, raw, cap, sel, first, chosen):
    """Where entry j of the list is: a compressed row, or the complement of a row of the ring."""
    row = i32(0)
    if j < raw:
        row = i32(~i32(u32(u32(p + u32(1)) - raw + j) % cap))
    elif chosen:
        row = sel[u32(first + (j - raw))]
    else:
        row = i32(j - raw)
    return row


@device
def joined(m, part):
    """Greatest score of what is joined and a part, and the factors of both."""
    top = part if part > m else m
    return top, exp(sub_rn(m, top)), exp(sub_rn(part, top))


@device
def joined_value(value, factor, part, part_factor):
    return fma_rn(value, factor, mul_rn(part, part_factor))


@device
def store_pair(out, at, dim, d, a, b, p, cos, sin, half):
    """Write the values (dim, dim + 1) of a head, turned back by the angles of position p.

    `at` is the head's first value. half = 0 turns nothing.
    """
    plain = u32(d - half - half)
    if half and dim >= plain:
        k = u32(u32(p * half) + ((dim - plain) >> u32(1)))
        a, b = turned(a, b, cos[k], mul_rn(sin[k], -ONE))
    st_v2_f32(address(out) + u32(at + dim) * 4, a, b)


@kernel(
    *(F32P, F32P, F32P, F32P, I32P, I32P, F32P, F32P),
    *(U32,) * 7,
    threads=JOIN_THREADS,
)
def attention_join(
    out, parts, tops, sinks, n_sel, pos, cos, sin, n_head, d, max_chunks, n_swa, ratio, chosen, half
):
    """Grid (pieces of a head, heads, rows): each thread joins a pair of values."""
    h, i = u32(cuda.blockIdx.y), u32(cuda.blockIdx.z)
    dim = u32(2) * u32(cuda.blockIdx.x * JOIN_THREADS + cuda.threadIdx.x)
    if dim < d:
        p, _, total = seen_rows(pos, i, n_swa, ratio, n_sel, chosen)
        chunks = u32(u32(total + u32(CHUNK - 1)) // u32(CHUNK))
        part_m = cuda.local.array(_AHEAD, f32)
        part_l = cuda.local.array(_AHEAD, f32)
        part_a = cuda.local.array(_AHEAD, f32)
        part_b = cuda.local.array(_AHEAD, f32)
        m, mass, a, b = sinks[h], ONE, ZERO, ZERO
        for begin in range(0, chunks, _AHEAD):
            for k in range(_AHEAD):
                c = min(u32(begin + k), u32(chunks - u32(1)))
                head = u32(u32(u32(i * max_chunks) + c) * n_head + h)
                part_m[k], part_l[k] = ld_nc_v2_f32(address(tops) + head * 8)
                at = address(parts) + head * (d * 4) + dim * 4
                part_a[k], part_b[k] = ld_nc_v2_f32(at)
            for k in range(_AHEAD):
                if u32(begin + k) < chunks:
                    m, f, g = joined(m, part_m[k])
                    mass = joined_value(mass, f, part_l[k], g)
                    a = joined_value(a, f, part_a[k], g)
                    b = joined_value(b, f, part_b[k], g)
        share = ONE / mass
        at = u32(u32(i * n_head + h) * d)
        store_pair(out, at, dim, d, mul_rn(a, share), mul_rn(b, share), p, cos, sin, half)
