"""Attention over float16 rows on tensor cores.

A block takes one query with 16 or 32 of its heads. Warp w owns dims 64 w .. 64 w + 63 of every
row, for the scores and for the weighted rows, so it alone loads them. Per chunk of 32 rows each
warp takes the dots of its dims; sums over the warps, in their order, are the scores.

A product of float32 with float16 rows is exact to about 2**-22: queries and weights are split into
two float16, a high and a low part, that are multiplied one after the other.

Shared memory: tiles of rows, one or two a warp; the warps' dots, a slab each; factors of heads.
Tile: 32 rows of 128 bytes in cells of 16 bytes, XORed by three bits of the row. Slab: one row of
128 bytes a head, the four keys 4 c .. 4 c + 3 in cell c, XORed by three bits of the head. The
weights take the place of the first slab's dots: four high parts, then four low parts a cell.

Keys are permuted within the fragments' 16: column 2 t + b of tile e, and k = 8 e + 2 t + b of the
weights, are key 4 t + 2 e + b. A thread then holds four neighbouring keys of a head.
"""

from __future__ import annotations

from numba import cuda

from engine.ops.cuda.attention.attention_parts import (
    CHUNK,
    LOWEST,
    ONE,
    ZERO,
    entry_row,
    joined,
    joined_value,
    seen_rows,
    store_pair,
)
from engine.ops.cuda.build.kernel import F32, F32P, I32P, U16P, U32, Kernel, device, kernel
from engine.ops.cuda.build.ptx import (
    add_rn,
    address,
    cp_async16_fill,
    cp_async_commit,
    cp_async_wait0,
    cp_async_wait1,
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
    shared_address,
    shfl_i32,
    shfl_xor_f32,
    st_v2_f32,
    sts_f32,
    sts_v4,
    sts_v4_f32,
    sub_rn,
    unpack_f16,
)
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.build.types import f32, i32, u32

THREADS = 256
WARPS = THREADS // 32
SLICE = 64  # dims of a warp
MAX_DIM = WARPS * SLICE
TILE = CHUNK * SLICE * 2  # bytes
STEPS = SLICE // 16  # steps of 16 dims
GROUPS = CHUNK // 16  # groups of 16 keys


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
def _slab_cell(head, cell):
    """Byte of a slab's cell."""
    return u32(head * u32(128) + ((cell ^ ((head & 1) << 2 | head >> 1 & 3)) << u32(4)))


@device
def _fetch(tile, ring, rows, sel, first, begin, p, raw, total, cap, d, chosen, warp, lane):
    """Start copying a warp's dims of the chunk's rows; entries past the list become zeros."""
    mine = i32(-1)
    if begin + lane < total:
        mine = entry_row(u32(begin + lane), p, raw, cap, sel, first, chosen)
    column = u32(lane & u32(7))
    dim = u32(warp * u32(SLICE) + column * u32(8))
    inside = dim < d
    offset = u32(dim if inside else 0) * 2
    for step in range(CHUNK // 4):
        row = u32(u32(4 * step) + (lane >> u32(3)))
        found = shfl_i32(mine, i32(row))
        source = address(rows) if found >= 0 else address(ring)
        source += (found if found >= 0 else ~found) * (d * 2) + offset
        n_bytes = i32(16) if inside and begin + row < total else i32(0)
        cp_async16_fill(u32(tile + _tile_cell(row, column)), source, n_bytes)


def _kernel(tiles: int, split: bool) -> Kernel:
    """Kernel of 16 * tiles heads a block, over all chunks, or of one chunk a block if split."""
    buffers = 1 if split else 2
    heads = 16 * tiles
    slabs = WARPS * buffers * TILE
    factors = slabs + WARPS * heads * CHUNK * 4
    cells = heads * CHUNK // 4
    n_q, n_w, n_dots = tiles * STEPS * 4, tiles * GROUPS * 4, tiles * 8
    n_total = tiles * 32

    @kernel(
        *(F32P, F32P, F32P, U16P, U16P, I32P, I32P, F32P, I32P, F32P, F32P),
        *(U32,) * 8,
        *(U32, F32),
        threads=THREADS,
        dynamic_smem=factors + heads * 8,
        name=f"attention_f16_{'part' if split else 'whole'}_{heads}",
        requires=("HMMA.16816.F32", "LDSM.16.M88.4", "LDGSTS"),
    )
    def attention_f16(
        out,
        tops,
        q,
        ring,
        rows,
        sel,
        n_sel,
        sinks,
        pos,
        cos,
        sin,
        n_head,
        d,
        cap,
        top_k,
        max_chunks,
        n_swa,
        ratio,
        chosen,
        half,
        scale,
    ):
        shared = cuda.shared.array(0, i32)
        base = shared_address(shared)
        thread = u32(cuda.threadIdx.x)
        lane, warp = thread & u32(31), thread >> u32(5)
        g, t = lane >> u32(2), lane & u32(3)
        i = u32(cuda.blockIdx.z) if split else u32(cuda.blockIdx.x)
        head0 = u32(cuda.blockIdx.y) * u32(heads)
        p, raw, total = seen_rows(pos, i, n_swa, ratio, n_sel, chosen)
        begin = u32(cuda.blockIdx.x * CHUNK) if split else u32(0)
        stop = min(u32(begin + u32(CHUNK)), total) if split else total
        if begin >= total:
            return
        first = u32(i * top_k)
        part = u32(u32(i * max_chunks) + u32(cuda.blockIdx.x))
        dim0 = warp * u32(SLICE)
        active = dim0 < d
        n_warps = u32(u32(d + u32(SLICE - 1)) // u32(SLICE))
        tile = u32(base + warp * u32(buffers * TILE))
        slab = u32(base + u32(slabs))
        factor = u32(base + u32(factors))
        if active:
            _fetch(tile, ring, rows, sel, first, begin, p, raw, total, cap, d, chosen, warp, lane)
        cp_async_commit()

        q_high = cuda.local.array(n_q, i32)
        q_low = cuda.local.array(n_q, i32)
        for x in range(tiles):
            for step in range(STEPS):
                for e in range(4):
                    head = u32(head0 + u32(16 * x + 8 * (e & 1)) + g)
                    dim = u32(dim0 + u32(16 * step + 8 * (e >> 1)) + t + t)
                    a, b = ZERO, ZERO
                    if head < n_head and dim < d:
                        at = u32(u32(i * n_head + head) * d + dim)
                        a, b = ld_nc_v2_f32(address(q) + at * 4)
                    k = (x * STEPS + step) * 4 + e
                    q_high[k], q_low[k] = _split(a, b)

        total_o = cuda.local.array(n_total, f32)
        for k in range(tiles * 32):
            total_o[k] = ZERO
        # This thread's cell of the scores: four keys of one head.
        mine = u32(slab + _slab_cell(thread >> u32(3), thread & u32(7)))
        mine_head = u32(head0 + (thread >> u32(3)))
        m, mass = LOWEST, ONE
        if not split and thread < cells and mine_head < n_head:
            m = sinks[mine_head]
        # Rows of the matrices that this lane addresses, within 16 keys.
        r = lane & u32(7)
        low_key = u32((r >> u32(1) << u32(2)) + (r & u32(1)))
        dots_key = u32(low_key + (lane >> u32(4) << u32(1)))
        rows_key = u32(low_key + (lane >> u32(3) & u32(1)) * u32(2))
        parity = u32(0)

        for start in range(begin, stop, CHUNK):
            here = u32(tile + parity * u32(TILE))
            if split:
                cp_async_wait0()
            else:
                parity = u32(parity ^ u32(1))
                ahead = u32(start + CHUNK)
                if active and ahead < total:
                    to = u32(tile + parity * u32(TILE))
                    _fetch(
                        to, ring, rows, sel, first, ahead, p, raw, total, cap, d, chosen, warp, lane
                    )
                cp_async_commit()
                cp_async_wait1()
            cuda.syncwarp()

            if active:
                for j in range(GROUPS):
                    s = cuda.local.array(n_dots, f32)
                    for k in range(tiles * 8):
                        s[k] = ZERO
                    for step in range(STEPS):
                        column = u32(u32(2 * step) + (lane >> u32(3) & u32(1)))
                        at = _tile_cell(u32(dots_key + u32(16 * j)), column)
                        b0, b1, b2, b3 = ldmatrix_x4(u32(here + at))
                        for x in range(tiles):
                            f = (x * STEPS + step) * 4
                            for e in range(2):
                                c = 8 * x + 4 * e
                                u = b2 if e else b0
                                v = b3 if e else b1
                                s[c], s[c + 1], s[c + 2], s[c + 3] = _product(
                                    q_high, q_low, f, u, v, s[c], s[c + 1], s[c + 2], s[c + 3]
                                )
                    own = u32(slab + warp * u32(heads * CHUNK * 4))
                    for x in range(tiles):
                        c = 8 * x
                        cell = u32(u32(4 * j) + t)
                        at = u32(own + _slab_cell(u32(u32(16 * x) + g), cell))
                        sts_v4_f32(at, s[c], s[c + 1], s[c + 4], s[c + 5])
                        at = u32(own + _slab_cell(u32(u32(16 * x + 8) + g), cell))
                        sts_v4_f32(at, s[c + 2], s[c + 3], s[c + 6], s[c + 7])
            cuda.syncthreads()

            if thread < cells:
                s0, s1, s2, s3 = lds_v4_f32(mine)
                for w in range(u32(1), n_warps):
                    at = u32(mine + u32(w) * u32(heads * CHUNK * 4))
                    x0, x1, x2, x3 = lds_v4_f32(at)
                    s0, s1, s2, s3 = add_rn(s0, x0), add_rn(s1, x1), add_rn(s2, x2), add_rn(s3, x3)
                key = u32(u32(start) + (thread & u32(7)) * u32(4))
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
                sts_v4(mine, high0, high1, low0, low1)
                leads = thread & u32(7) == u32(0)
                if split:
                    if leads and mine_head < n_head:
                        at = address(tops) + u32(part * n_head + mine_head) * 8
                        st_v2_f32(at, top, weight)
                else:
                    m, fa, fb = joined(m, top)
                    mass = joined_value(mass, fa, weight, fb)
                    if leads:
                        at = u32(factor + (thread >> u32(3)) * u32(8))
                        sts_f32(at, fa)
                        sts_f32(u32(at + u32(4)), fb)
            cuda.syncthreads()

            # Weights as fragments.
            w_high = cuda.local.array(n_w, i32)
            w_low = cuda.local.array(n_w, i32)
            for k in range(tiles * GROUPS):
                head = u32(u32(16 * (k // GROUPS)) + g)
                cell = u32(u32(4 * (k % GROUPS)) + t)
                x0, x1, x2, x3 = lds_v4(u32(slab + _slab_cell(head, cell)))
                head = u32(head + u32(8))
                y0, y1, y2, y3 = lds_v4(u32(slab + _slab_cell(head, cell)))
                c = 4 * k
                w_high[c], w_high[c + 1], w_high[c + 2], w_high[c + 3] = x0, y0, x1, y1
                w_low[c], w_low[c + 1], w_low[c + 2], w_low[c + 3] = x2, y2, x3, y3
            if not split:
                # The next chunk's dots overwrite what was just read.
                cuda.syncthreads()

            if active:
                for c in range(0, SLICE // 8, 2):
                    o = cuda.local.array(n_dots, f32)
                    for k in range(tiles * 8):
                        o[k] = ZERO
                    for j in range(GROUPS):
                        column = u32(u32(c) + (lane >> u32(4)))
                        at = _tile_cell(u32(rows_key + u32(16 * j)), column)
                        b0, b1, b2, b3 = ldmatrix_x4_trans(u32(here + at))
                        for x in range(tiles):
                            f = (x * GROUPS + j) * 4
                            for e in range(2):
                                k = 8 * x + 4 * e
                                u = b2 if e else b0
                                v = b3 if e else b1
                                o[k], o[k + 1], o[k + 2], o[k + 3] = _product(
                                    w_high, w_low, f, u, v, o[k], o[k + 1], o[k + 2], o[k + 3]
                                )
                    for k in range(tiles * 2):
                        at = u32(factor + u32(u32(8 * k) + g) * u32(8))
                        fa, fb = ONE, ONE
                        if not split:
                            fa, fb = lds_v2_f32(at)
                        for e in range(2):
                            x = 8 * (k // 2) + 2 * (k % 2) + 4 * e
                            z = 32 * (k // 2) + 2 * (k % 2) + 4 * (c + e)
                            if split:
                                head = u32(head0 + u32(8 * k) + g)
                                dim = u32(dim0 + u32(8 * (c + e)) + t + t)
                                if head < n_head and dim < d:
                                    row = address(out) + u32(part * n_head + head) * (d * 4)
                                    st_v2_f32(row + dim * 4, o[x], o[x + 1])
                            else:
                                total_o[z] = joined_value(total_o[z], fa, o[x], fb)
                                total_o[z + 1] = joined_value(total_o[z + 1], fa, o[x + 1], fb)

        if split:
            return
        cuda.syncthreads()
        if thread < cells and thread & u32(7) == u32(0):
            sts_f32(u32(factor + (thread >> u32(3)) * u32(8)), ONE / mass)
        cuda.syncthreads()
        for k in range(tiles * 2):
            head = u32(u32(8 * k) + g)
            share = lds_f32(u32(factor + head * u32(8)))
            head = u32(head0 + head)
            for c in range(SLICE // 8):
                dim = u32(dim0 + u32(8 * c) + t + t)
                if head < n_head and dim < d:
                    z = 32 * (k // 2) + 4 * c + 2 * (k % 2)
                    row = u32(u32(i * n_head + head) * d)
                    x0, x1 = mul_rn(total_o[z], share), mul_rn(total_o[z + 1], share)
                    store_pair(out, row, dim, d, x0, x1, p, cos, sin, half)

    return attention_f16


WHOLE_HEADS, PART_HEADS = 32, 16
WHOLE, PART = _kernel(WHOLE_HEADS // 16, False), _kernel(PART_HEADS // 16, True)
