"""The phases of attention over float16 rows, each a device function of `attention_f16`'s kernels.

The layout of tiles and slabs in shared memory, and who owns which values, is described there. The
phases know neither launches nor which part of a query's list a block walks over.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from numba import cuda

from engine.ops.cuda.attention.attention_parts import (
    LOWEST,
    ONE,
    ZERO,
    entry_row,
    joined_value,
    store_pair,
)
from engine.ops.cuda.build.kernel import device
from engine.ops.cuda.build.ptx import (
    add_rn,
    address,
    cp_async16_fill,
    ld_nc_v2_f32,
    ldmatrix_x4,
    ldmatrix_x4_trans,
    lds_f32,
    lds_v2_f32,
    lds_v4,
    lds_v4_f32,
    mma_m16n8k16_f16,
    mul_rn,
    pack_f16,
    shfl_i32,
    shfl_xor_f32,
    st_v2_f32,
    sts_v4,
    sts_v4_f32,
    sub_rn,
    unpack_f16,
)
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.sizes import CHUNK

THREADS = 256
WARPS = THREADS // 32
SLICE = 64  # dims of a warp
TILE = CHUNK * SLICE * 2  # bytes
STEPS = SLICE // 16  # steps of 16 dims
GROUPS = CHUNK // 16  # groups of 16 keys

# Who a thread is: its lane, its warp, lane = 4 g + t, and the first dim of its warp.
Thread = namedtuple("Thread", "lane warp g t dim0")
# What a block computes: heads from head0 on of row i of the call, stored as row `part` of parts.
Task = namedtuple("Task", "i head0 part")


@device
def _split(a, b):
    """The pair as high parts and low parts, each packed."""
    high = pack_f16(a, b)
    x, y = unpack_f16(high)
    return high, pack_f16(sub_rn(a, x), sub_rn(b, y))


@device
def _product(high, low, f, b0, b1, c0, c1, c2, c3):
    """C + A B, A being the fragment of high and low parts from f on."""
    c0, c1, c2, c3 = mma_m16n8k16_f16(
        high[f], high[f + 1], high[f + 2], high[f + 3], b0, b1, c0, c1, c2, c3
    )
    return mma_m16n8k16_f16(low[f], low[f + 1], low[f + 2], low[f + 3], b0, b1, c0, c1, c2, c3)


@device
def _tile_cell(row, column):
    """Byte of a tile's cell. Keys of one matrix differ in bits 0, 2 and 3 of the row."""
    return u32(row * u32(128) + ((column ^ (row & 1 | row >> 1 & 6)) << u32(4)))


@device
def slab_cell(head, cell):
    """Byte of a slab's cell."""
    return u32(head * u32(128) + ((cell ^ ((head & 1) << 2 | head >> 1 & 3)) << u32(4)))


@device
def _matrix_key(lane):
    """Key, among 16, of the row of an 8 by 8 matrix that this lane addresses."""
    r = lane & u32(7)
    return u32((r >> u32(1) << u32(2)) + (r & u32(1)))


@device
def fetch(args, seen, first, me, tile, begin):
    """Start copying a warp's dims of the chunk's rows; entries past the list become zeros."""
    d, total, lane = args.d, seen.total, me.lane
    mine = i32(-1)
    if begin + lane < total:
        mine = entry_row(args, seen, first, u32(begin + lane))
    column = u32(lane & u32(7))
    dim = u32(me.dim0 + column * u32(8))
    inside = dim < d
    offset = u32(dim if inside else 0) * 2
    for step in range(CHUNK // 4):
        row = u32(u32(4 * step) + (lane >> u32(3)))
        found = shfl_i32(mine, i32(row))
        source = address(args.rows) if found >= 0 else address(args.ring)
        source += (found if found >= 0 else ~found) * (d * 2) + offset
        n_bytes = i32(16) if inside and begin + row < total else i32(0)
        cp_async16_fill(u32(tile + _tile_cell(row, column)), source, n_bytes)


def query_loader(tiles: int) -> Any:
    """Device function for 16 * tiles heads."""

    @device
    def load_query(args, me, task, high, low):
        """The warp's dims of the heads' queries as fragments of A, in two parts."""
        for x in range(tiles):
            for step in range(STEPS):
                for e in range(4):
                    head = u32(task.head0 + u32(16 * x + 8 * (e & 1)) + me.g)
                    dim = u32(me.dim0 + u32(16 * step + 8 * (e >> 1)) + me.t + me.t)
                    a, b = ZERO, ZERO
                    if head < args.n_head and dim < args.d:
                        at = u32(u32(task.i * args.n_head + head) * args.d + dim)
                        a, b = ld_nc_v2_f32(address(args.q) + at * 4)
                    k = (x * STEPS + step) * 4 + e
                    high[k], low[k] = _split(a, b)

    return load_query


def dot_taker(tiles: int) -> Any:
    """Device function for 16 * tiles heads."""
    heads, n_dots = 16 * tiles, 8 * tiles

    @device
    def take_dots(me, tile, slab, key0, high, low):
        """Dots of the warp's dims of queries and the tile's rows, to the warp's own slab."""
        for j in range(GROUPS):
            s = cuda.local.array(n_dots, f32)
            for k in range(tiles * 8):
                s[k] = ZERO
            for step in range(STEPS):
                column = u32(u32(2 * step) + (me.lane >> u32(3) & u32(1)))
                at = _tile_cell(u32(key0 + u32(16 * j)), column)
                b0, b1, b2, b3 = ldmatrix_x4(u32(tile + at))
                for x in range(tiles):
                    f = (x * STEPS + step) * 4
                    for e in range(2):
                        c = 8 * x + 4 * e
                        u = b2 if e else b0
                        v = b3 if e else b1
                        s[c], s[c + 1], s[c + 2], s[c + 3] = _product(
                            high, low, f, u, v, s[c], s[c + 1], s[c + 2], s[c + 3]
                        )
            own = u32(slab + me.warp * u32(heads * CHUNK * 4))
            for x in range(tiles):
                c = 8 * x
                cell = u32(u32(4 * j) + me.t)
                at = u32(own + slab_cell(u32(u32(16 * x) + me.g), cell))
                sts_v4_f32(at, s[c], s[c + 1], s[c + 4], s[c + 5])
                at = u32(own + slab_cell(u32(u32(16 * x + 8) + me.g), cell))
                sts_v4_f32(at, s[c + 2], s[c + 3], s[c + 6], s[c + 7])

    return take_dots


@device
def dots_key(lane):
    """Key of the row that this lane addresses for `take_dots`."""
    return u32(_matrix_key(lane) + (lane >> u32(4) << u32(1)))


def weigher(tiles: int) -> Any:
    """Device function for 16 * tiles heads."""
    slab_bytes = 16 * tiles * CHUNK * 4

    @device
    def weigh(cell, n_warps, key, total, scale):
        """Four keys' weights exp(s - top) of one head, in place of the first slab's dots at `cell`.

        The eight threads of a head share its top score and the sum of its weights, which are
        returned. `key` is the first key's place in the list.
        """
        s0, s1, s2, s3 = lds_v4_f32(cell)
        for w in range(u32(1), n_warps):
            at = u32(cell + u32(w) * u32(slab_bytes))
            x0, x1, x2, x3 = lds_v4_f32(at)
            s0, s1, s2, s3 = add_rn(s0, x0), add_rn(s1, x1), add_rn(s2, x2), add_rn(s3, x3)
        s0 = mul_rn(s0, scale) if key < total else LOWEST
        s1 = mul_rn(s1, scale) if key + u32(1) < total else LOWEST
        s2 = mul_rn(s2, scale) if key + u32(2) < total else LOWEST
        s3 = mul_rn(s3, scale) if key + u32(3) < total else LOWEST
        top = max(max(s0, s1), max(s2, s3))
        top = max(top, shfl_xor_f32(top, 1))
        top = max(top, shfl_xor_f32(top, 2))
        top = max(top, shfl_xor_f32(top, 4))
        s0, s1 = exp(sub_rn(s0, top)), exp(sub_rn(s1, top))
        s2, s3 = exp(sub_rn(s2, top)), exp(sub_rn(s3, top))
        weight = add_rn(add_rn(s0, s1), add_rn(s2, s3))
        weight = add_rn(weight, shfl_xor_f32(weight, 1))
        weight = add_rn(weight, shfl_xor_f32(weight, 2))
        weight = add_rn(weight, shfl_xor_f32(weight, 4))
        high0, low0 = _split(s0, s1)
        high1, low1 = _split(s2, s3)
        sts_v4(cell, high0, high1, low0, low1)
        return top, weight

    return weigh


def weight_loader(tiles: int) -> Any:
    """Device function for 16 * tiles heads."""

    @device
    def load_weights(me, slab, high, low):
        """The weights of all heads and keys as fragments of A, in two parts."""
        for k in range(tiles * GROUPS):
            head = u32(u32(16 * (k // GROUPS)) + me.g)
            cell = u32(u32(4 * (k % GROUPS)) + me.t)
            x0, x1, x2, x3 = lds_v4(u32(slab + slab_cell(head, cell)))
            head = u32(head + u32(8))
            y0, y1, y2, y3 = lds_v4(u32(slab + slab_cell(head, cell)))
            c = 4 * k
            high[c], high[c + 1], high[c + 2], high[c + 3] = x0, y0, x1, y1
            low[c], low[c + 1], low[c + 2], low[c + 3] = x2, y2, x3, y3

    return load_weights


@device
def rows_key(lane):
    """Key of the row that this lane addresses for `add_rows`."""
    return u32(_matrix_key(lane) + (lane >> u32(3) & u32(1)) * u32(2))


def row_adder(tiles: int, split: bool) -> Any:
    """Device function for 16 * tiles heads, which are stored as a part if split."""
    n_dots = 8 * tiles

    @device
    def add_rows(args, me, task, tile, factor, key0, high, low, total_o):
        """The warp's dims of the tile's weighted rows: joined to `total_o`, or stored as a part."""
        for c in range(0, SLICE // 8, 2):
            o = cuda.local.array(n_dots, f32)
            for k in range(tiles * 8):
                o[k] = ZERO
            for j in range(GROUPS):
                column = u32(u32(c) + (me.lane >> u32(4)))
                at = _tile_cell(u32(key0 + u32(16 * j)), column)
                b0, b1, b2, b3 = ldmatrix_x4_trans(u32(tile + at))
                for x in range(tiles):
                    f = (x * GROUPS + j) * 4
                    for e in range(2):
                        k = 8 * x + 4 * e
                        u = b2 if e else b0
                        v = b3 if e else b1
                        o[k], o[k + 1], o[k + 2], o[k + 3] = _product(
                            high, low, f, u, v, o[k], o[k + 1], o[k + 2], o[k + 3]
                        )
            for k in range(tiles * 2):
                at = u32(factor + u32(u32(8 * k) + me.g) * u32(8))
                fa, fb = ONE, ONE
                if not split:
                    fa, fb = lds_v2_f32(at)
                for e in range(2):
                    x = 8 * (k // 2) + 2 * (k % 2) + 4 * e
                    z = 32 * (k // 2) + 2 * (k % 2) + 4 * (c + e)
                    if split:
                        head = u32(task.head0 + u32(8 * k) + me.g)
                        dim = u32(me.dim0 + u32(8 * (c + e)) + me.t + me.t)
                        if head < args.n_head and dim < args.d:
                            row = u32(task.part * args.n_head + head)
                            at_row = address(args.out) + row * (args.d * 4)
                            st_v2_f32(at_row + dim * 4, o[x], o[x + 1])
                    else:
                        total_o[z] = joined_value(total_o[z], fa, o[x], fb)
                        total_o[z + 1] = joined_value(total_o[z + 1], fa, o[x + 1], fb)

    return add_rows


def output_storer(tiles: int) -> Any:
    """Device function for 16 * tiles heads."""

    @device
    def store_outputs(args, seen, me, task, factor, total_o):
        """The warp's dims of all heads, times one over the head's mass, which is at `factor`."""
        for k in range(tiles * 2):
            head = u32(u32(8 * k) + me.g)
            share = lds_f32(u32(factor + head * u32(8)))
            head = u32(task.head0 + head)
            for c in range(SLICE // 8):
                dim = u32(me.dim0 + u32(8 * c) + me.t + me.t)
                if head < args.n_head and dim < args.d:
                    z = 32 * (k // 2) + 4 * c + 2 * (k % 2)
                    row = u32(u32(task.i * args.n_head + head) * args.d)
                    x0, x1 = mul_rn(total_o[z], share), mul_rn(total_o[z + 1], share)
                    turn = (args.cos, args.sin, args.half)
                    store_pair(args.out, row, dim, args.d, x0, x1, seen.p, turn)

    return store_outputs
