"""Products of rows with weights: generated tensor core kernels of one order of summation.

A value of the result is the sum of its segments of 512 values in ascending order; a segment is
summed block by block. Few rows (up to 16): the warps of a block take the segments of one or more
row tiles, sums meet in shared memory. Many: a warp takes 16 rows of weights and 32 rows of
activations through all segments. Long rows of few matrices are spread over blocks, with their
segment sums in memory until a second launch adds them. All three give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint32

from engine.ops.cuda import decode_bits, ptx
from engine.ops.cuda.act import PAD_FEW, Quantised, Split, padded, quantised, split
from engine.ops.cuda.array import DeviceArray
from engine.ops.cuda.blocks import BLOCKS, PARTS
from engine.ops.cuda.context import Context
from engine.ops.cuda.kernel import F32P, I64P, U32, U64, Kernel, kernel
from engine.ops.cuda.pack import SIZES, TILE, Weight, codebook
from engine.ops.cuda.reduce import warp_sum

SEGMENT = 512
WARPS = 8
THREADS = 32 * WARPS
JOBS = 6  # weights of one launch
SLOTS = 16  # segments that meet in shared memory
MANY_TILES, MANY_COLUMNS = 4, 64  # row tiles and columns of a block for many rows
WHOLE = 0xFFFFFFFF


def names() -> dict[str, Any]:
    """What generated functions see."""
    found = {n: getattr(ptx, n) for n in dir(ptx) if not n.startswith("__")}
    found |= {n: getattr(decode_bits, n) for n in dir(decode_bits) if not n.startswith("__")}
    found |= dict(cuda=cuda, float32=float32, int32=int32, int64=int64, uint32=uint32)
    return found


def compiled(name: str, source: str, scope: dict[str, Any]) -> Any:
    """The function that the source defines, with its source kept for tracebacks and cache keys."""
    import linecache

    file = f"<generated {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), scope)
    return scope[name]


def indented(lines: Sequence[str], depth: int) -> str:
    return "".join("    " * depth + line + "\n" for line in lines)


def accumulators(name: str, nt: int, letters: str | None = None) -> list[str]:
    return [
        f"{p}{j}_{i}" for p in letters or PARTS.get(name, "s") for j in range(nt) for i in range(4)
    ]


def segment_value(name: str, j: int, i: int) -> str:
    """A segment's sum from its accumulators."""
    if name == "F16":
        return f"fma_rn(r{j}_{i}, float32({2.0**-11}), s{j}_{i})"
    if name == "BF16":
        return f"add_rn(add_rn(u{j}_{i}, r{j}_{i}), s{j}_{i})"
    return f"s{j}_{i}"


def table_lines(name: str) -> list[str]:
    """Copy of the codebook in shared memory, where the format has one."""
    if name != "IQ2_XXS":
        return []
    return [
        "grid_copy = cuda.shared.array(256, int64)",  # 64-bit, for its alignment
        "for k in range(uint32(cuda.threadIdx.x), uint32(256), uint32(cuda.blockDim.x)):",
        "    grid_copy[k] = grid[k]",
        "table = shared_address(grid_copy)",
        "cuda.syncthreads()",
    ]


def row_lines(name: str, tiled: bool) -> list[str]:
    """Per block of a row: where it lies. Reads tile, b, rows; addresses cb and, raw, row_bytes."""
    size = SIZES[name].block
    step = 2 if name in PARTS else 1
    lines = [
        "place = int64(int64(tile) * int64(blocks) + int64(b))",
        f"kx = int64(int64(b) * int64({size * step}))",
        "kd = int64(int64(b) * int64(dstep))",
    ]
    if not tiled:
        lines += [
            f"{r} = int64(cb + int64(min(uint32(tile * 16 + g + {o}), uint32(rows - 1)))"
            f" * int64(row_bytes) + int64(b) * int64(block_bytes))"
            for r, o in (("ra", 0), ("rb", 8))
        ]
    return lines


_JOB = ("out", "codes", "scales", "factors", "rows")
_JOB_TYPES = (U64, U64, U64, U64, U32)
_COMMON = (
    "grid, xq, dq, n, n_group, blocks, segments, row_bytes, block_bytes, plane, xcol, dcol, dstep"
)
_COMMON_TYPES = (I64P, U64, U64, U32, U32, U32, U32, U32, U32, U64, U32, U32, U32)


def _job_lines() -> list[str]:
    """Find the job of a global row tile: cb, sb, fb, out, rows, tile within it."""
    lines = ["tile = uint32(wanted)", "found = uint32(0)"]
    lines += ["out, cb, sb, fb, rows = out0, codes0, scales0, factors0, rows0"]
    for k in range(JOBS):
        lines += [
            f"size = uint32((uint32(rows{k}) + uint32(15)) >> uint32(4))",
            "if found == uint32(0):",
            "    if tile < size:",
            "        found = uint32(1)",
            f"        out, cb, sb, fb, rows = out{k}, codes{k}, scales{k}, factors{k}, rows{k}",
            "    else:",
            "        tile = uint32(tile - size)",
        ]
    lines += ["cb, sb, fb = int64(cb), int64(sb), int64(fb)"]
    return lines


def _column_lines(nt: int, first: str) -> list[str]:
    """Addresses of the columns of nt tiles from column `first` on, of the tile's group."""
    lines = [
        "group = uint32(uint32(tile * 16) // uint32(uint32(rows) // n_group))",
        "xbase = int64(int64(xq) + int64(group) * int64(xcol) // int64(n_group)"
        " + int64(t) * int64(xquad))",
        "dbase = int64(int64(dq) + int64(group) * int64(dcol) // int64(n_group))",
    ]
    for j in range(nt):
        column = f"int64({first} + {8 * j} + g)"
        lines.append(f"xa{j} = int64(xbase + {column} * int64(xcol))")
        for i in range(2):
            column = f"int64({first} + {8 * j + i} + 2 * t)"
            lines.append(f"da{j}_{i} = int64(dbase + {column} * int64(dcol))")
    return lines


def _scaled_out(name: str, value: str, j: int, i: int) -> str:
    """Split rows carry a power of two each."""
    return f"mul_rn({value}, ld_nc_f32(da{j}_{i & 1}))" if name in PARTS else value


def few_blocks(name: str, nt: int) -> int:
    """Blocks of few rows that share a multiprocessor: what the registers allow without spills."""
    return 3 if SIZES[name].block == 32 and nt == 1 else 2


def _head(kernel_name: str) -> str:
    jobs = ", ".join(f"{a}{k}" for k in range(JOBS) for a in _JOB)
    return f"def {kernel_name}({_COMMON}, {jobs}):\n"


def _few(name: str, tiled: bool, nt: int, spread: bool) -> Kernel:
    """Up to 8 nt rows. `spread`: segment sums go to memory (out0), one warp each."""
    title = f"mm_{name.lower()}_{'tiled' if tiled else 'raw'}_{8 * nt}{'_spread' if spread else ''}"
    zero = [f"{a} = float32(0)" for a in accumulators(name, nt)]
    quad = 16 if name in PARTS else 8
    bps = SEGMENT // SIZES[name].block
    body = [
        "t_all = uint32(cuda.threadIdx.x)",
        "lane, warp = t_all & uint32(31), t_all >> uint32(5)",
        "g, t = uint32(lane >> uint32(2)), uint32(lane & uint32(3))",
        f"xquad = {quad}",
        *table_lines(name),
    ]
    if spread:
        body += [
            "wanted = uint32(cuda.blockIdx.x)",
            *_job_lines(),
            f"s = uint32(uint32(cuda.blockIdx.y) * uint32({WARPS}) + warp)",
            "if found != uint32(0) and s < segments:",
        ]
        depth = 2
    else:
        body += [
            f"sums = cuda.shared.array({SLOTS * TILE * 8 * nt}, float32)",
            f"per = uint32(max(uint32({WARPS}) // segments, uint32(1)))",
            "mine = uint32(warp // segments)",
            "first = uint32(warp % segments)",
            f"if segments >= uint32({WARPS}):",
            "    mine, first = uint32(0), warp",
            "wanted = uint32(uint32(cuda.blockIdx.x) * per + mine)",
            *_job_lines(),
            "if found != uint32(0) and mine < per:",
            f"    for s_all in range(first, segments, uint32({WARPS})):",
            "        s = uint32(s_all)",
        ]
        depth = 3
    work = [
        *_column_lines(nt, "uint32(0)"),
        *zero,
        f"last = uint32(min(uint32((s + 1) * {bps}), blocks))",
        f"for b_all in range(uint32(s * {bps}), last):",
        "    b = uint32(b_all)",
    ]
    inner = row_lines(name, tiled) + BLOCKS[name](nt, tiled)
    source = _head(title) + indented(body, 1)
    if not spread:
        depth = 3
    source += indented(work, depth) + indented(inner, depth + 1)
    store = []
    for j in range(nt):
        for i in range(4):
            row = f"(g + {8 * (i >> 1)})"
            column = f"({8 * j + (i & 1)} + 2 * t)"
            value = segment_value(name, j, i)
            if spread:
                # (segment, column, row) of all jobs' tiles
                at = f"((int64(s) * {8 * nt} + {column}) * int64(cuda.gridDim.x) + int64(wanted)) * 16"
                store.append(f"st_f32(int64(partial) + int64({at} + {row}) * 4, {value})")
            else:
                at = f"((mine * segments + s) * {TILE} + {row}) * {8 * nt} + {column}"
                store.append(f"sums[uint32({at})] = {value}")
    if spread:
        source += indented(store, depth)
    else:
        source += indented(store, depth)
        scale = "value = mul_rn(value, ld_nc_f32(int64(dq) + int64(column * n_group + group) * 4))"
        tail = [
            "cuda.syncthreads()",
            f"for k_all in range(t_all, uint32(per * {TILE * 8 * nt}), uint32({THREADS})):",
            "    k = uint32(k_all)",
            f"    own = uint32(k // uint32({TILE * 8 * nt}))",
            f"    inside = uint32(k % uint32({TILE * 8 * nt}))",
            f"    row, column = uint32(inside % {TILE}), uint32(inside // {TILE})",
            "    wanted = uint32(uint32(cuda.blockIdx.x) * per + own)",
            *("    " + line for line in _job_lines()),
            "    row_all = uint32(tile * 16 + row)",
            "    if found != uint32(0) and column < n and row_all < rows:",
            "        value = float32(0)",
            "        for s_all in range(segments):",
            f"            at = uint32(((own * segments + uint32(s_all)) * {TILE} + row) * {8 * nt} + column)",
            "            value = add_rn(value, sums[at])",
            "        group = uint32(uint32(tile * 16) // uint32(uint32(rows) // n_group))",
            *(["        " + scale] if name in PARTS else []),
            "        st_f32(int64(out) + (int64(column) * int64(rows) + int64(row_all)) * 4, value)",
        ]
        source += indented(tail, 1)
    if spread:
        source = source.replace(f"{_COMMON}, ", f"{_COMMON}, partial, ", 1)
    scope = names()
    function = compiled(title, source, scope)
    types = _COMMON_TYPES + ((U64,) if spread else ()) + _JOB_TYPES * JOBS
    return kernel(
        *types, threads=THREADS, min_blocks=few_blocks(name, nt), name=title, file=__file__
    )(function)


def _many(name: str, tiled: bool) -> Kernel:
    """More than 16 rows: 4 row tiles and 64 columns a block, 4 column tiles a warp."""
    title = f"mm_{name.lower()}_{'tiled' if tiled else 'raw'}_many"
    nt = 4
    quad = 16 if name in PARTS else 8
    bps = SEGMENT // SIZES[name].block
    totals = [f"o{j}_{i}" for j in range(nt) for i in range(4)]
    body = [
        "t_all = uint32(cuda.threadIdx.x)",
        "lane, warp = t_all & uint32(31), t_all >> uint32(5)",
        "g, t = uint32(lane >> uint32(2)), uint32(lane & uint32(3))",
        f"xquad = {quad}",
        *table_lines(name),
        f"wanted = uint32(uint32(cuda.blockIdx.y) * {MANY_TILES} + (warp >> uint32(1)))",
        *_job_lines(),
        f"start = uint32(uint32(cuda.blockIdx.x) * {MANY_COLUMNS} + (warp & uint32(1)) * 32)",
        "if found != uint32(0) and start < n:",
    ]
    work = [
        *_column_lines(nt, "start"),
        *[f"{o} = float32(0)" for o in totals],
        "for s_all in range(segments):",
        "    s = uint32(s_all)",
        *[f"    {a} = float32(0)" for a in accumulators(name, nt)],
        f"    last = uint32(min(uint32((s + 1) * {bps}), blocks))",
        f"    for b_all in range(uint32(s * {bps}), last):",
        "        b = uint32(b_all)",
    ]
    inner = row_lines(name, tiled) + BLOCKS[name](nt, tiled)
    after = [
        f"    o{j}_{i} = add_rn(o{j}_{i}, {segment_value(name, j, i)})"
        for j in range(nt)
        for i in range(4)
    ]
    store = []
    for j in range(nt):
        for i in range(4):
            value = _scaled_out(name, f"o{j}_{i}", j, i)
            store += [
                f"row, column = uint32(tile * 16 + g + {8 * (i >> 1)}), "
                f"uint32(start + {8 * j + (i & 1)} + 2 * t)",
                "if row < rows and column < n:",
                f"    st_f32(int64(out) + (int64(column) * int64(rows) + int64(row)) * 4, {value})",
            ]
    source = _head(title) + indented(body, 1) + indented(work, 2) + indented(inner, 4)
    source += indented(after, 2) + indented(store, 2)
    function = compiled(title, source, names())
    return kernel(
        *_COMMON_TYPES, *_JOB_TYPES * JOBS, threads=THREADS, min_blocks=1, name=title, file=__file__
    )(function)


@kernel(
    U64, U64, U32, U32, U32, U32, U32, U32, *(U64, U32) * JOBS, threads=THREADS
)  # fmt: skip
def mm_join(
    partial, scales, has_scales, n, columns, tiles, segments, n_group,
    out0, rows0, out1, rows1, out2, rows2, out3, rows3, out4, rows4, out5, rows5,
):  # fmt: skip
    """Grid (row tiles): adds the segments of 16 rows and all columns in ascending order."""
    tile = uint32(cuda.blockIdx.x)
    wanted = tile
    found = uint32(0)
    out, rows = out0, rows0
    for k in range(JOBS):
        o, r = out0, rows0
        if k == 1:
            o, r = out1, rows1
        elif k == 2:
            o, r = out2, rows2
        elif k == 3:
            o, r = out3, rows3
        elif k == 4:
            o, r = out4, rows4
        elif k == 5:
            o, r = out5, rows5
        size = uint32((r + uint32(15)) >> uint32(4))
        if found == uint32(0):
            if tile < size:
                found = uint32(1)
                out, rows = o, r
            else:
                tile = uint32(tile - size)
    k = uint32(cuda.threadIdx.x)
    row, column = uint32(k & uint32(15)), uint32(k >> uint32(4))
    row_all = uint32(tile * 16 + row)
    if found != uint32(0) and column < n and row_all < rows:
        value = float32(0)
        for s in range(segments):
            at = int64(int64(s) * int64(columns) + int64(column)) * int64(tiles) + int64(wanted)
            value = ptx.add_rn(value, ptx.ld_nc_f32(int64(partial) + (at * 16 + int64(row)) * 4))
        if has_scales != uint32(0):
            group = uint32(uint32(tile * 16) // uint32(rows // n_group))
            at = int64(column * n_group + group)
            value = ptx.mul_rn(value, ptx.ld_nc_f32(int64(scales) + at * 4))
        decode_bits.st_f32(int64(out) + (int64(column) * int64(rows) + int64(row_all)) * 4, value)


@kernel(F32P, F32P, F32P, U32, U32, U32, U32, threads=THREADS)
def mm_f32(out, x, w, n, rows, cols, n_group):
    """Grid (rows / 8, column groups of 8): a warp takes one row of weights and up to 8 columns.

    Lane l sums values l, l + 32, ... in order; the lanes meet in `warp_sum`.
    """
    t = uint32(cuda.threadIdx.x)
    lane, warp = t & uint32(31), t >> uint32(5)
    row = uint32(uint32(cuda.blockIdx.x) * uint32(WARPS) + warp)
    if row < rows:
        group = uint32(row // uint32(rows // n_group))
        base = ptx.address(w) + int64(row) * int64(cols) * 4
        for j in range(8):
            column = uint32(uint32(cuda.blockIdx.y) * uint32(8) + uint32(j))
            if column < n:
                source = ptx.address(x) + int64(column * n_group + group) * int64(cols) * 4
                total = float32(0)
                for k in range(lane, cols, uint32(32)):
                    at = int64(k) * 4
                    total = ptx.fma_rn(ptx.ld_nc_f32(base + at), ptx.ld_nc_f32(source + at), total)
                total = warp_sum(total)
                if lane == uint32(0):
                    out[uint32(column * rows + row)] = total


_FEW = {
    (name, tiled, nt, spread): _few(name, tiled, nt, spread)
    for name in BLOCKS
    for tiled in (True, False)
    for nt in (1, 2)
    for spread in (False, True)
}
_MANY = {(name, tiled): _many(name, tiled) for name in BLOCKS for tiled in (True, False)}


def activations(ctx: Context, x: DeviceArray, name: str, n_group: int = 1) -> Quantised | Split:
    """Rows of x in the form that products with a format take."""
    n_pad = padded(x.shape[0] // n_group) * n_group
    if name in PARTS:
        return split(ctx, x, name, n_pad)
    return quantised(ctx, x, SIZES[name].block, n_pad)


def matmul(ctx: Context, out: DeviceArray, x: DeviceArray, w: Weight) -> None:
    """out = x @ w.T

    Parameters
    ----------
    out : float32 DeviceArray of shape (n, rows)
    x : float32 DeviceArray of shape (n, cols)
    w : Weight of shape (rows, cols)
    """
    matmul_multi(ctx, [out], x, [w])


def matmul_multi(
    ctx: Context, outs: Sequence[DeviceArray], x: DeviceArray, ws: Sequence[Weight]
) -> None:
    """`matmul` of the same x with several weights; those of one format share launches."""
    kinds: dict[tuple[str, bool], list[tuple[DeviceArray, Weight]]] = {}
    for out, w in zip(outs, ws):
        assert out.shape == (x.shape[0], w.rows) and x.shape[1] == w.cols, (out, x, w)
        kinds.setdefault((w.format, w.tiled), []).append((out, w))
    for jobs in kinds.values():
        for start in range(0, len(jobs), JOBS):
            _run(ctx, jobs[start : start + JOBS], x, x.shape[0], 1)
    ctx.wrote(*outs)


def matmul_grouped(ctx: Context, out: DeviceArray, x: DeviceArray, w: Weight) -> None:
    """Block-diagonal product: group g of x meets rows g*r .. g*r + r - 1 of w.

    Parameters
    ----------
    out : float32 DeviceArray of shape (n, g, r)
    x : float32 DeviceArray of shape (n, g, cols)
    w : Weight of shape (g * r, cols)
    """
    n, n_group, cols = x.shape
    assert out.shape == (n, n_group, w.rows // n_group) and cols == w.cols, (out, x, w)
    assert out.shape[2] % TILE == 0 or n_group == 1, out
    _run(ctx, [(out, w)], x.reshape(n * n_group, cols), n, n_group)
    ctx.wrote(out)


def _run(
    ctx: Context, jobs: list[tuple[DeviceArray, Weight]], x: DeviceArray, n: int, n_group: int
) -> None:
    w = jobs[0][1]
    name, cols = w.format, w.cols
    if name == "F32":
        for out, each in jobs:
            data = DeviceArray(ctx, each.codes, (1,), np.float32)
            grid = (-(-each.rows // WARPS), -(-n // 8))
            ctx.launch(mm_f32, grid, out, x, data, n, each.rows, cols, n_group)
            ctx.charge(mm_f32, each.file_bytes)
        return
    block = SIZES[name].block
    assert cols % 32 == 0, (w.name, cols)
    rows = activations(ctx, x, name, n_group)
    if isinstance(rows, Split):
        codes, width, plane, dstep = rows.parts, 2, rows.n_pad * cols * 2, 0
    else:
        codes, width, plane, dstep = rows.codes, 1, 0, rows.n_pad * 4
    segments = -(-cols // SEGMENT)
    common = (
        codebook(ctx), codes.address, rows.scales.address, n, n_group, cols // block, segments,
        w.file_bytes // (w.rows * w.n_expert), w.file_bytes // (w.rows * w.n_expert) * block // cols,
        plane, width * cols * n_group, 4 * n_group, dstep,
    )  # fmt: skip
    described = []
    for k in range(JOBS):
        if k < len(jobs):
            out, each = jobs[k]
            described += [out.address, each.codes, each.scales, each.factors, each.rows]
        else:
            described += [0, 0, 0, 0, 0]
    tiles = sum(-(-each.rows // TILE) for _, each in jobs)
    if n > PAD_FEW:
        body = _MANY[name, w.tiled]
        grid = (-(-n // MANY_COLUMNS), -(-tiles // MANY_TILES))
        ctx.launch(body, grid, *common, *described)
    elif segments > SLOTS:
        nt = 1 if n <= 8 else 2
        body = _FEW[name, w.tiled, nt, True]
        partial = ctx.scratch("segment sums", (segments, 8 * nt, tiles * TILE))
        grid = (tiles, -(-segments // WARPS))
        ctx.launch(body, grid, *common, partial.address, *described)
        outs = [v for k in range(JOBS) for v in (described[5 * k], described[5 * k + 4])]
        ctx.launch(
            mm_join, tiles, partial.address, rows.scales.address, int(name in PARTS), n, 8 * nt,
            tiles, segments, n_group, *outs,
        )  # fmt: skip
    else:
        nt = 1 if n <= 8 else 2
        body = _FEW[name, w.tiled, nt, False]
        per = max(WARPS // segments, 1)
        ctx.launch(body, -(-tiles // per), *common, *described)
    ctx.charge(body, sum(each.file_bytes for _, each in jobs))
