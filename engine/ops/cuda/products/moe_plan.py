"""Which (row, slot) pairs are multiplied together: pairs of one expert, in ascending order.

A pair is a number: row * n_expert_used + slot. Results never depend on who shares a tile. Few pairs
find their tiles inside the product kernels; many are sorted once, in a launch of their own.
"""

from __future__ import annotations

import numpy as np
from numba import cuda, int32, uint32

from engine.ops.cuda.build.kernel import I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import ballot, popc, redux_add
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
        Lanes see each other's after the next barrier; several warps may write the same.
    ids : pointer to m int32

    Returns
    -------
    int32
        Pairs of the tile; 0 where p belongs to the tile of an earlier pair.
    """
    lane = uint32(cuda.threadIdx.x) & uint32(31)
    below = int32(uint32(uint32(1) << lane) - uint32(1))
    expert = ids[p]
    rank = int32(0)
    for base in range(uint32(0), p, uint32(32)):
        k = uint32(uint32(base) + lane)
        same = int32(1) if k < p and ids[k] == expert else int32(0)
        rank = int32(rank + popc(ballot(same)))
    found = int32(0)
    if int32(rank & int32(FEW - 1)) == int32(0):
        if lane < uint32(FEW):
            pairs[lane] = int32(p)
        cuda.syncwarp()
        for base in range(p, m, uint32(32)):
            k = uint32(uint32(base) + lane)
            same = int32(1) if k < m and ids[k] == expert else int32(0)
            votes = ballot(same)
            at = int32(found + popc(int32(votes & below)))
            if same != int32(0) and at < int32(FEW):
                pairs[at] = int32(k)
            found = int32(found + popc(votes))
    return int32(min(found, int32(FEW)))


@kernel(I32P, I32P, I32P, U32, U32, threads=THREADS)
def moe_sort(order, tiles, ids, m, width):
    """Block e lists expert e's pairs in ascending order and cuts them into tiles of `width`.

    Its tiles begin at tile first // width + e, which leaves room for all; those not needed say 0
    pairs. Every block counts for itself what comes before, so that nothing waits.
    """
    before = cuda.shared.array(WARPS, int32)
    own = cuda.shared.array(WARPS, int32)
    t = uint32(cuda.threadIdx.x)
    lane, warp = t & uint32(31), t >> uint32(5)
    expert = uint32(cuda.blockIdx.x)
    share = uint32((m + uint32(THREADS - 1)) // uint32(THREADS))
    start = uint32(min(t * share, m))
    stop = uint32(min(uint32(start + share), m))
    less, same = int32(0), int32(0)
    for k in range(start, stop):
        e = uint32(ids[uint32(k)])
        less = int32(less + (int32(1) if e < expert else int32(0)))
        same = int32(same + (int32(1) if e == expert else int32(0)))
    # Pairs of this expert that lower threads hold: within the warp by shifting, then by warps.
    place = same
    for step in range(5):
        shift = uint32(1) << uint32(step)
        other = cuda.shfl_up_sync(0xFFFFFFFF, place, shift)
        place = int32(place + (other if lane >= shift else int32(0)))
    all_less = redux_add(less)
    if lane == uint32(31):
        before[warp] = all_less
        own[warp] = place
    cuda.syncthreads()
    first, count, at = int32(0), int32(0), int32(place - same)
    for w in range(WARPS):
        first = int32(first + before[w])
        at = int32(at + (own[w] if uint32(w) < warp else int32(0)))
        count = int32(count + own[w])
    at = int32(at + first)
    for k in range(start, stop):
        if uint32(ids[uint32(k)]) == expert:
            order[uint32(at)] = int32(k)
            at = int32(at + int32(1))
    tile = uint32(uint32(first) // width + expert)
    end = uint32(uint32(first + count) // width + expert + uint32(1))
    for k in range(uint32(tile + t), end, uint32(THREADS)):
        done = uint32(uint32(uint32(k) - tile) * width)
        rest = uint32(uint32(count) - done) if done < uint32(count) else uint32(0)
        o = uint32(uint32(k) * uint32(TILE_WORDS))
        tiles[o] = int32(expert)
        tiles[uint32(o + uint32(1))] = int32(uint32(first) + done)
        tiles[uint32(o + uint32(2))] = int32(min(rest, width))


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
