"""Tiles of pairs: every pair once, one expert a tile, ascending; with and without a plan."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, int32

from engine.ops.cuda.build.kernel import I32P, U32, kernel
from engine.ops.cuda.products import moe_plan


def draw(n, used, n_expert, kind, rng):
    if kind == "one":
        return np.tile(rng.permutation(n_expert)[:used], (n, 1)).astype(np.int32)
    if kind == "repeats":  # a table may list an expert twice for one token
        return rng.integers(0, n_expert, (n, used)).astype(np.int32)
    rows = np.tile(np.arange(n_expert, dtype=np.int32), (n, 1))
    return np.ascontiguousarray(rng.permuted(rows, axis=1)[:, :used])


@kernel(I32P, I32P, I32P, U32, threads=64, name="test_few_pairs")
def _few(counts, columns, ids, m):
    pairs = cuda.shared.array(8, int32)
    p = U32(cuda.blockIdx.x)
    count = moe_plan.few_pairs(pairs, ids, m, p)
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        counts[p] = count
    if cuda.threadIdx.x < 8 and count > 0:
        columns[U32(p * U32(8)) + U32(cuda.threadIdx.x)] = pairs[cuda.threadIdx.x]


@pytest.mark.parametrize("kind", ["distinct", "one", "repeats"])
@pytest.mark.parametrize(
    ("n", "used", "n_expert"), [(1, 6, 256), (8, 6, 9), (32, 8, 16), (11, 2, 3)]
)
def test_few(ctx, n, used, n_expert, kind):
    ids = draw(n, used, n_expert, kind, np.random.default_rng(n + used))
    m = ids.size
    counts, columns = ctx.empty((m,), np.int32), ctx.empty((m, 8), np.int32)
    ctx.launch(_few, m, counts, columns, ctx.put(ids), m)
    counts, columns, flat = np.asarray(counts), np.asarray(columns), ids.reshape(-1)
    seen = []
    for p in range(m):
        mine = columns[p][: counts[p]].tolist()
        assert mine == sorted(mine) and (flat[mine] == flat[p]).all()
        assert not mine or (mine[0] == p and (columns[p][counts[p] :] == p).all())
        seen += mine
    assert sorted(seen) == list(range(m))
    # no more tiles than needed
    assert (counts > 0).sum() == sum(-(-c // 8) for c in np.bincount(flat))


@kernel(I32P, I32P, U32, threads=64, name="test_few_pairs_writers", writes=("columns",))
def _writers(columns, ids, m):
    """Each warp has columns of its own."""
    pairs = cuda.shared.array((2, 8), int32)
    t = U32(cuda.threadIdx.x)
    if t < U32(16):
        pairs[t >> U32(3), t & U32(7)] = int32(-7)
    cuda.syncthreads()
    moe_plan.few_pairs(pairs[t >> U32(5)], ids, m, U32(0))
    cuda.syncthreads()
    if t < U32(16):
        columns[t] = pairs[t >> U32(3), t & U32(7)]


def test_one_warp_writes_the_columns(ctx):
    """Warps that all wrote them, each first its own and then the same, would race."""
    ids = np.zeros(5, np.int32)
    columns = ctx.empty((16,), np.int32)
    ctx.launch(_writers, 1, columns, ctx.put(ids), 5)
    assert np.asarray(columns).tolist() == [0, 1, 2, 3, 4, 0, 0, 0] + [-7] * 8


@pytest.mark.parametrize("kind", ["distinct", "one", "repeats"])
@pytest.mark.parametrize(
    ("n", "used", "n_expert", "width"),
    [(33, 6, 64, 32), (300, 2, 5, 8), (1, 1, 4, 32), (70, 6, 7, 64)],
)
def test_sort(ctx, n, used, n_expert, width, kind):
    ids = draw(n, used, n_expert, kind, np.random.default_rng(n + width))
    order, tiles = moe_plan.sort_pairs(ctx, ctx.put(ids), n_expert, width)
    order, tiles, flat = np.asarray(order), np.asarray(tiles), ids.reshape(-1)
    np.testing.assert_array_equal(order, np.argsort(flat, kind="stable"))
    seen = []
    for expert, first, count in tiles:
        assert 0 <= count <= width
        if count:
            assert (flat[order[first : first + count]] == expert).all()
            seen += range(first, first + count)
    assert seen == list(range(ids.size))
    assert (tiles[:, 2] > 0).sum() == sum(-(-c // width) for c in np.bincount(flat))
