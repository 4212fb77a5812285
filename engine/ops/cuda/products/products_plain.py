"""Products' kernels that are written by hand: float32 weights, and the sum of spread segments."""

from __future__ import annotations

from numba import cuda

from engine.ops.cuda.build import ptx
from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import F32P, U32, U64, kernel
from engine.ops.cuda.build.reduce import warp_sum
from engine.ops.cuda.build.types import f32, i64, u32
from engine.ops.cuda.products import decode_bits
from engine.ops.cuda.products.generate import JOBS, THREADS, WARPS

SUMS = ArgumentBlock(
    "Sums",
    partial=(U64, "address of the segments' sums (segments, columns, 16 * tiles)"),
    scales=(U64, "address of the rows' scales"),
    has_scales=(U32, "1: the rows were split and carry a power of two each"),
    n=(U32, "rows of a group"),
    columns=(U32, "columns of partial, n and what fills the last tile"),
    tiles=(U32, "row tiles of all jobs"),
    segments=(U32, "segments of a row"),
    n_group=(U32, "groups of rows"),
)
JOIN_JOB = ArgumentBlock(
    "JoinJob",
    out=(U64, "address of the result; 0 where there is no job"),
    rows=(U32, "rows of weights; 0 where there is no job"),
)


@kernel(SUMS, *[JOIN_JOB] * JOBS, threads=THREADS, writes=("out",))
def mm_join(sums, job0, job1, job2, job3, job4, job5):
    """Grid (row tiles): adds the segments of 16 rows and all columns in ascending order."""
    wanted = u32(cuda.blockIdx.x)
    n_group = sums.n_group

    # The job that the row tile belongs to.
    tile, found = wanted, u32(0)
    out, rows = job0
    for k in range(JOBS):
        job = job0
        if k == 1:
            job = job1
        elif k == 2:
            job = job2
        elif k == 3:
            job = job3
        elif k == 4:
            job = job4
        elif k == 5:
            job = job5
        size = u32((job.rows + u32(15)) >> u32(4))
        if found == u32(0):
            if tile < size:
                found = u32(1)
                out, rows = job
            else:
                tile = u32(tile - size)

    # A thread sums one value.
    k = u32(cuda.threadIdx.x)
    row, column = u32(k & u32(15)), u32(k >> u32(4))
    row_all = u32(tile * 16 + row)
    if found != u32(0) and column < sums.n and row_all < rows:
        value = f32(0)
        for s in range(sums.segments):
            at = i64(i64(s) * i64(sums.columns) + i64(column)) * i64(sums.tiles) + i64(wanted)
            value = ptx.add_rn(value, ptx.ld_nc_f32(i64(sums.partial) + (at * 16 + i64(row)) * 4))
        if sums.has_scales != u32(0):
            group = u32(u32(tile * 16) // u32(rows // n_group))
            at = i64(column * n_group + group)
            value = ptx.mul_rn(value, ptx.ld_nc_f32(i64(sums.scales) + at * 4))
        decode_bits.st_f32(i64(out) + (i64(column) * i64(rows) + i64(row_all)) * 4, value)


@kernel(F32P, F32P, F32P, U32, U32, U32, U32, threads=THREADS, writes=("out",))
def mm_f32(out, x, w, n, rows, cols, n_group):
    """Grid (rows / 8, column groups of 8): a warp takes one row of weights and up to 8 columns.

    Lane l sums values l, l + 32, ... in order; the lanes meet in `warp_sum`.
    """
    t = u32(cuda.threadIdx.x)
    lane, warp = t & u32(31), t >> u32(5)
    row = u32(u32(cuda.blockIdx.x) * u32(WARPS) + warp)
    if row < rows:
        group = u32(row // u32(rows // n_group))
        base = ptx.address(w) + i64(row) * i64(cols) * 4
        for j in range(8):
            column = u32(u32(cuda.blockIdx.y) * u32(8) + u32(j))
            if column < n:
                source = ptx.address(x) + i64(column * n_group + group) * i64(cols) * 4
                total = f32(0)
                for k in range(lane, cols, u32(32)):
                    at = i64(k) * 4
                    total = ptx.fma_rn(ptx.ld_nc_f32(base + at), ptx.ld_nc_f32(source + at), total)
                total = warp_sum(total)
                if lane == u32(0):
                    out[u32(column * rows + row)] = total
