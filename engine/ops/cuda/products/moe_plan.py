"""Which (row, slot) pairs are multiplied together: pairs of one expert, in ascending order.

A pair is a number: row * n_expert_used + slot. Results never depend on who shares a tile. Few pairs
find their tiles inside the product kernels; many are sorted once, in a launch of their own.
"""

from __future__ import annotations

import numpy as np
from numba import cuda

from engine.ops.cuda.build.kernel import I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import ballot, popc, redux_add
from engine.ops.cuda.build.types import i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context

THREADS = 256
WARPS = THREADS // 32
FEW = 8  # pairs of a tile that is found without a plan: columns of one tensor core product
MAX_FEW = 256  # pairs of a call whose tiles are found without a plan
TILE_WORDS = 3  # expert, first place in the sorted pairs, number of pairs


@device
def few_pairs(pairs, ids, m, p):
    """Tile of up to 8 pairs that begins with pair p; all lanes of a full warp call it.

    Parameters
    ----------
    pairs : shared int32 array of 8, overwritten: pairs of the columns, p where there is none
        The first warp writes them; everybody sees them after the next barrier.
    ids : pointer to m int32

    Returns
    -------
    int32
        Pairs of the tile; 0 where p belongs to the tile of an earlier pair.
    """
    # Earlier pairs of the same expert: every eighth of them begins a tile.
    thread = u32(cuda.threadIdx.x)
    lane, writes = thread & u32(31), thread < u32(32)
    below = i32(u32(u32(1) << lane) - u32(1))
    expert = ids[p]
    rank = i32(0)
    for base in range(u32(0), p, u32(32)):
        k = u32(u32(base) + lane)
        same = i32(1) if k < p and ids[k] == expert else i32(0)
        rank = i32(rank + popc(ballot(same)))
    # The tile's pairs: the next of the same expert, from p on.
    found = i32(0)
    if i32(rank & i32(FEW - 1)) == i32(0):
        if writes and lane < u32(FEW):
            pairs[lane] = i32(p)
        cuda.syncwarp()
        for base in range(p, m, u32(32)):
            k = u32(u32(base) + lane)
            same = i32(1) if k < m and ids[k] == expert else i32(0)
            votes = ballot(same)
            at = i32(found + popc(i32(votes & below)))
            if writes and same != i32(0) and at < i32(FEW):
                pairs[at] = i32(k)
            found = i32(found + popc(votes))
    return i32(min(found, i32(FEW)))


@kernel(I32P, I32P, I32P, U32, U32, threads=THREADS, writes=("order", "tiles"))
def moe_sort(order, tiles, ids, m, width):
    """Block e lists expert e's pairs in ascending order and cuts them into tiles of `width`.

    Its tiles begin at tile first // width + e, which leaves room for all; those not needed say 0
    pairs. Every block counts for itself what comes before, so that nothing waits.
    """
    before = cuda.shared.array(WARPS, i32)
    own = cuda.shared.array(WARPS, i32)
    t = u32(cuda.threadIdx.x)
    lane, warp = t & u32(31), t >> u32(5)
    expert = u32(cuda.blockIdx.x)

    # A thread counts, in its share of the pairs, those of lower experts and of this one.
    share = u32((m + u32(THREADS - 1)) // u32(THREADS))
    start = u32(min(t * share, m))
    stop = u32(min(u32(start + share), m))
    less, same = i32(0), i32(0)
    for k in range(start, stop):
        e = u32(ids[u32(k)])
        less = i32(less + (i32(1) if e < expert else i32(0)))
        same = i32(same + (i32(1) if e == expert else i32(0)))

    # Pairs of this expert that lower threads hold: within the warp by shifting, then by warps.
    place = same
    for step in range(5):
        shift = u32(1) << u32(step)
        other = cuda.shfl_up_sync(0xFFFFFFFF, place, shift)
        place = i32(place + (other if lane >= shift else i32(0)))
    all_less = redux_add(less)
    if lane == u32(31):
        before[warp] = all_less
        own[warp] = place
    cuda.syncthreads()
    first, count, at = i32(0), i32(0), i32(place - same)
    for w in range(WARPS):
        first = i32(first + before[w])
        at = i32(at + (own[w] if u32(w) < warp else i32(0)))
        count = i32(count + own[w])
    at = i32(at + first)

    # The expert's pairs, in order, and their tiles.
    for k in range(start, stop):
        if u32(ids[u32(k)]) == expert:
            order[u32(at)] = i32(k)
            at = i32(at + i32(1))
    tile = u32(u32(first) // width + expert)
    end = u32(u32(first + count) // width + expert + u32(1))
    for k in range(u32(tile + t), end, u32(THREADS)):
        done = u32(u32(u32(k) - tile) * width)
        rest = u32(u32(count) - done) if done < u32(count) else u32(0)
        o = u32(u32(k) * u32(TILE_WORDS))
        tiles[o] = i32(expert)
        tiles[u32(o + u32(1))] = i32(u32(first) + done)
        tiles[u32(o + u32(2))] = i32(min(rest, width))


def n_tiles(m: int, n_expert: int, width: int) -> int:
    """Tiles that m pairs need at most, whichever experts they use."""
    return m // width + n_expert


def sort_pairs(
    ctx: Context, ids: DeviceArray, n_expert: int, width: int
) -> tuple[DeviceArray, DeviceArray]:
    """Sort the pairs of a call by expert and cut them into tiles of at most `width`.

    Returns
    -------
    order : int32 DeviceArray of shape (n * n_expert_used,)
        Pairs by expert, ascending within one.
    tiles : int32 DeviceArray of shape (n_tiles, 3)
        Expert, first place in `order`, number of pairs (0 for tiles that are not needed).
    """
    order = ctx.scratch("moe order", (ids.size,), np.int32)
    tiles = ctx.scratch("moe tiles", (n_tiles(ids.size, n_expert, width), TILE_WORDS), np.int32)
    ctx.launch(moe_sort, n_expert, order, tiles, ids, ids.size, width)
    return order, tiles
