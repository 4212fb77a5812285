"""What every attention kernel shares: a query's list of rows, and how parts of it are joined.

The list is cut into chunks of 32 entries. A chunk gives its greatest score m, the sum l of its
weights exp(s - m) and its weighted rows o; chunks are joined in the order of the list by one
formula, whether one block walks over them all or each has a block of its own. The sink is the
first part: score `sink`, weight 1, no row.
"""

from __future__ import annotations

import math

from numba import cuda, float32, int32, uint32

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
from engine.ops.cuda.rows.rope import turned

CHUNK = 32
LOWEST = float32(-math.inf)
ZERO, ONE = float32(0), float32(1)
JOIN_THREADS = 128
_AHEAD = 4  # parts that are loaded before any of them is joined


@device
def seen_rows(pos, i, n_swa, ratio, n_sel, chosen):
    """Position of row i of the call, how many raw rows it sees, and how many rows in all."""
    p = uint32(uint32(pos[0]) + i)
    visible = uint32(p + uint32(1))
    raw = n_swa if n_swa < visible else visible
    compressed = uint32(0)
    if ratio:
        compressed = uint32(n_sel[i]) if chosen else uint32(visible // ratio)
    return p, raw, uint32(raw + compressed)


@device
def entry_row(j, p, raw, cap, sel, first, chosen):
    """Where entry j of the list is: a compressed row, or the complement of a row of the ring."""
    row = int32(0)
    if j < raw:
        row = int32(~int32(uint32(uint32(p + uint32(1)) - raw + j) % cap))
    elif chosen:
        row = sel[uint32(first + (j - raw))]
    else:
        row = int32(j - raw)
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
    plain = uint32(d - half - half)
    if half and dim >= plain:
        k = uint32(uint32(p * half) + ((dim - plain) >> uint32(1)))
        a, b = turned(a, b, cos[k], mul_rn(sin[k], -ONE))
    st_v2_f32(address(out) + uint32(at + dim) * 4, a, b)


@kernel(
    *(F32P, F32P, F32P, F32P, I32P, I32P, F32P, F32P),
    *(U32,) * 7,
    threads=JOIN_THREADS,
)
def attention_join(
    out, parts, tops, sinks, n_sel, pos, cos, sin, n_head, d, max_chunks, n_swa, ratio, chosen, half
):
    """Grid (pieces of a head, heads, rows): each thread joins a pair of values."""
    h, i = uint32(cuda.blockIdx.y), uint32(cuda.blockIdx.z)
    dim = uint32(2) * uint32(cuda.blockIdx.x * JOIN_THREADS + cuda.threadIdx.x)
    if dim < d:
        p, _, total = seen_rows(pos, i, n_swa, ratio, n_sel, chosen)
        chunks = uint32(uint32(total + uint32(CHUNK - 1)) // uint32(CHUNK))
        part_m = cuda.local.array(_AHEAD, float32)
        part_l = cuda.local.array(_AHEAD, float32)
        part_a = cuda.local.array(_AHEAD, float32)
        part_b = cuda.local.array(_AHEAD, float32)
        m, mass, a, b = sinks[h], ONE, ZERO, ZERO
        for begin in range(0, chunks, _AHEAD):
            for k in range(_AHEAD):
                c = min(uint32(begin + k), uint32(chunks - uint32(1)))
                head = uint32(uint32(uint32(i * max_chunks) + c) * n_head + h)
                part_m[k], part_l[k] = ld_nc_v2_f32(address(tops) + head * 8)
                at = address(parts) + head * (d * 4) + dim * 4
                part_a[k], part_b[k] = ld_nc_v2_f32(at)
            for k in range(_AHEAD):
                if uint32(begin + k) < chunks:
                    m, f, g = joined(m, part_m[k])
                    mass = joined_value(mass, f, part_l[k], g)
                    a = joined_value(a, f, part_a[k], g)
                    b = joined_value(b, f, part_b[k], g)
        share = ONE / mass
        at = uint32(uint32(i * n_head + h) * d)
        store_pair(out, at, dim, d, mul_rn(a, share), mul_rn(b, share), p, cos, sin, half)
