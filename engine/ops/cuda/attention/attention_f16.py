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

from engine.ops.cuda.attention.attention_f16_phases import (
    GROUPS,
    SLICE,
    STEPS,
    THREADS,
    TILE,
    WARPS,
    Task,
    Thread,
    dot_taker,
    dots_key,
    fetch,
    output_storer,
    query_loader,
    row_adder,
    rows_key,
    slab_cell,
    weigher,
    weight_loader,
)
from engine.ops.cuda.attention.attention_parts import (
    LOWEST,
    ONE,
    ZERO,
    joined,
    joined_value,
    seen_rows,
    walk_block,
)
from engine.ops.cuda.build.kernel import U16P, Kernel, kernel
from engine.ops.cuda.build.ptx import (
    address,
    cp_async_commit,
    cp_async_wait0,
    cp_async_wait1,
    shared_address,
    st_v2_f32,
    sts_f32,
)
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.sizes import CHUNK

MAX_DIM = WARPS * SLICE
WALK = walk_block(U16P)


def _kernel(tiles: int, split: bool) -> Kernel:
    """Kernel of 16 * tiles heads a block, over all chunks, or of one chunk a block if split."""
    buffers = 1 if split else 2
    heads = 16 * tiles
    slabs = WARPS * buffers * TILE
    factors = slabs + WARPS * heads * CHUNK * 4
    cells = heads * CHUNK // 4
    n_q, n_w, n_total = tiles * STEPS * 4, tiles * GROUPS * 4, tiles * 32
    load_query, take_dots = query_loader(tiles), dot_taker(tiles)
    weigh, load_weights = weigher(tiles), weight_loader(tiles)
    add_rows, store_outputs = row_adder(tiles, split), output_storer(tiles)

    @kernel(
        WALK,
        threads=THREADS,
        dynamic_smem=factors + heads * 8,
        name=f"attention_f16_{'part' if split else 'whole'}_{heads}",
        requires=("HMMA.16816.F32", "LDSM.16.M88.4", "LDGSTS"),
        writes=("out", "tops"),
    )
    def attention_f16(args):
        # Which heads and which part of the query's list this block has.
        shared = cuda.shared.array(0, i32)
        base = shared_address(shared)
        thread = u32(cuda.threadIdx.x)
        lane, warp = thread & u32(31), thread >> u32(5)
        i = u32(cuda.blockIdx.z) if split else u32(cuda.blockIdx.x)
        head0 = u32(cuda.blockIdx.y) * u32(heads)
        seen = seen_rows(args, i)
        total = seen.total
        begin = u32(cuda.blockIdx.x * CHUNK) if split else u32(0)
        stop = min(u32(begin + u32(CHUNK)), total) if split else total
        if begin >= total:
            return
        first = u32(i * args.top_k)
        part = u32(u32(i * args.max_chunks) + u32(cuda.blockIdx.x))
        task = Task(i, head0, part)
        me = Thread(lane, warp, lane >> u32(2), lane & u32(3), warp * u32(SLICE))
        active = me.dim0 < args.d
        n_warps = u32(u32(args.d + u32(SLICE - 1)) // u32(SLICE))
        tile = u32(base + warp * u32(buffers * TILE))
        slab = u32(base + u32(slabs))
        factor = u32(base + u32(factors))

        # Start copying the first chunk's rows, and load the queries meanwhile.
        if active:
            fetch(args, seen, first, me, tile, begin)
        cp_async_commit()
        q_high = cuda.local.array(n_q, i32)
        q_low = cuda.local.array(n_q, i32)
        load_query(args, me, task, q_high, q_low)

        # Nothing is summed yet; the sink is the first part of what is joined.
        total_o = cuda.local.array(n_total, f32)
        for k in range(tiles * 32):
            total_o[k] = ZERO
        # This thread's cell of the scores: four keys of one head.
        mine = u32(slab + slab_cell(thread >> u32(3), thread & u32(7)))
        mine_head = u32(head0 + (thread >> u32(3)))
        m, mass = LOWEST, ONE
        if not split and thread < cells and mine_head < args.n_head:
            m = args.sinks[mine_head]
        dots_key0, rows_key0 = dots_key(lane), rows_key(lane)

        for start in range(begin, stop, CHUNK):
            # Start copying the next chunk's rows; wait for this one's.
            # Chunks take the two buffers in turns; a part has one chunk and one buffer.
            parity = u32(0) if split else (u32(start) // u32(CHUNK)) & u32(1)
            here = u32(tile + parity * u32(TILE))
            if split:
                cp_async_wait0()
            else:
                ahead = u32(start + CHUNK)
                if active and ahead < total:
                    fetch(args, seen, first, me, u32(tile + (parity ^ u32(1)) * u32(TILE)), ahead)
                cp_async_commit()
                cp_async_wait1()
            cuda.syncwarp()

            # Each warp's dots.
            if active:
                take_dots(me, here, slab, dots_key0, q_high, q_low)
            cuda.syncthreads()

            # Scores, weights, and the factors by which this chunk joins those before it.
            if thread < cells:
                key = u32(u32(start) + (thread & u32(7)) * u32(4))
                top, weight = weigh(mine, n_warps, key, total, args.scale)
                leads = thread & u32(7) == u32(0)
                if split:
                    if leads and mine_head < args.n_head:
                        at = address(args.tops) + u32(part * args.n_head + mine_head) * 8
                        st_v2_f32(at, top, weight)
                else:
                    m, fa, fb = joined(m, top)
                    mass = joined_value(mass, fa, weight, fb)
                    if leads:
                        at = u32(factor + (thread >> u32(3)) * u32(8))
                        sts_f32(at, fa)
                        sts_f32(u32(at + u32(4)), fb)
            cuda.syncthreads()

            # The weighted rows.
            w_high = cuda.local.array(n_w, i32)
            w_low = cuda.local.array(n_w, i32)
            load_weights(me, slab, w_high, w_low)
            if not split:
                # The next chunk's dots overwrite what was just read.
                cuda.syncthreads()
            if active:
                add_rows(args, me, task, here, factor, rows_key0, w_high, w_low, total_o)

        # A part is stored by now; the whole is divided by its mass.
        if split:
            return
        cuda.syncthreads()
        if thread < cells and thread & u32(7) == u32(0):
            sts_f32(u32(factor + (thread >> u32(3)) * u32(8)), ONE / mass)
        cuda.syncthreads()
        store_outputs(args, seen, me, task, factor, total_o)

    return attention_f16


WHOLE_HEADS, PART_HEADS = 32, 16
WHOLE, PART = _kernel(WHOLE_HEADS // 16, False), _kernel(PART_HEADS // 16, True)
