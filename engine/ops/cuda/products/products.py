"""Products of rows with weights: generated tensor core kernels of one order of summation.

A value of the result is the sum of its segments of 512 values in ascending order; a segment is
summed block by block. Few rows (up to 16): the warps of a block take the segments of one or more
row tiles, sums meet in shared memory. Many: a warp takes 16 rows of weights and up to 32 rows of
activations through all segments. Long rows of few matrices are spread over blocks, with their
segment sums in memory until a second launch adds them. All three give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import U64, Kernel, kernel
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.products.act import Quantised, Split, quantised, split
from engine.ops.cuda.products.blocks import BLOCKS, LAYOUTS, PARTS
from engine.ops.cuda.products.blocks_raw import RAW_BLOCKS
from engine.ops.cuda.products.generate import (
    JOB,
    JOBS,
    PRODUCT,
    SEGMENT,
    SLOTS,
    THREADS,
    WARPS,
    accumulators,
    compiled,
    few_blocks,
    indented,
    names,
    prologue_lines,
    row_lines,
    segment_value,
    table_lines,
)
from engine.ops.cuda.products.pack import Weight, codebook
from engine.ops.cuda.products.products_plain import JOIN_JOB, SUMS, mm_f32, mm_join
from engine.ops.cuda.sizes import PAD_FEW, SIZES, TILE, padded

# By whether segment sums go to memory first.
WRITES = {False: ("out",), True: ("partial",)}
MANY_TILES = 4  # row tiles of a block for many rows


def _width(name: str, tiled: bool) -> int:
    """Columns of a warp for many rows: as many as registers hold on sm_121a, which spills first."""
    narrow = name == "Q4_K" or name in RAW_BLOCKS or (name == "IQ2_XXS" and not tiled)
    return 16 if narrow else 32


def _job_lines() -> list[str]:
    """Find the job of a global row tile: cb, sb, fb, out, rows, tile within it."""
    lines = ["# The job of the row tile.", "tile = u32(wanted)", "found = u32(0)"]
    lines += ["out, cb, sb, fb, rows = job0"]
    for k in range(JOBS):
        lines += [
            f"size = u32((u32(job{k}.rows) + u32(15)) >> u32(4))",
            "if found == u32(0):",
            "    if tile < size:",
            "        found = u32(1)",
            f"        out, cb, sb, fb, rows = job{k}",
            "    else:",
            "        tile = u32(tile - size)",
        ]
    lines += ["cb, sb, fb = i64(cb), i64(sb), i64(fb)"]
    return lines


def _column_lines(nt: int, first: str) -> list[str]:
    """Addresses of the columns of nt tiles from column `first` on, of the tile's group."""
    lines = [
        "# The columns' values and scales.",
        "group = u32(u32(tile * 16) // u32(u32(rows) // n_group))",
        "xbase = i64(i64(xq) + i64(u32(group * xstep)) + i64(t) * i64(xquad))",
        "dbase = i64(i64(dq) + i64(group * u32(4)))",
    ]
    for j in range(nt):
        column = f"i64({first} + {8 * j} + g)"
        lines.append(f"xa{j} = i64(xbase + {column} * i64(xcol))")
        for i in range(2):
            column = f"i64({first} + {8 * j + i} + 2 * t)"
            lines.append(f"da{j}_{i} = i64(dbase + {column} * i64(dcol))")
    return lines


def _scaled_out(name: str, value: str, j: int, i: int) -> str:
    """Split rows carry a power of two each."""
    return f"mul_rn({value}, ld_nc_f32(da{j}_{i & 1}))" if name in PARTS else value


def _head(kernel_name: str, spread: bool = False) -> str:
    parameters = ["product", *(["partial"] if spread else []), *(f"job{k}" for k in range(JOBS))]
    unpacked = f"{', '.join(PRODUCT.names)} = product"
    return f"def {kernel_name}({', '.join(parameters)}):\n" + indented([unpacked], 1)


def _few(name: str, tiled: bool, nt: int, spread: bool) -> Kernel:
    """Up to 8 nt rows. `spread`: segment sums go to memory (out0), one warp each."""
    title = f"mm_{name.lower()}_{'tiled' if tiled else 'raw'}_{8 * nt}{'_spread' if spread else ''}"
    zero = [f"{a} = f32(0)" for a in accumulators(name, nt)]
    quad = 16 if name in PARTS else 8
    bps = SEGMENT // SIZES[name].block
    body = [
        "# Who this thread is.",
        "t_all = u32(cuda.threadIdx.x)",
        "lane, warp = t_all & u32(31), t_all >> u32(5)",
        "g, t = u32(lane >> u32(2)), u32(lane & u32(3))",
        f"xquad = {quad}",
    ]
    if spread:
        body += [
            *table_lines(name),
            "wanted = u32(cuda.blockIdx.x)",
            *_job_lines(),
            f"s = u32(u32(cuda.blockIdx.y) * u32({WARPS}) + warp)",
            "if found != u32(0) and s < segments:",
        ]
        depth = 2
    else:
        body += [
            f"sums = cuda.shared.array({SLOTS * TILE * 8 * nt}, f32)",
            f"per = u32(max(u32({WARPS}) // segments, u32(1)))",
            "mine = u32(warp // segments)",
            "first = u32(warp % segments)",
            f"if segments >= u32({WARPS}):",
            "    mine, first = u32(0), warp",
            "wanted = u32(u32(cuda.blockIdx.x) * per + mine)",
            *_job_lines(),
            *(prologue_lines(name) if tiled else []),
            *table_lines(name),
            "if found != u32(0) and mine < per:",
            "    s = first",
            "    while s < segments:",
        ]
        depth = 3
    work = [
        *_column_lines(nt, "u32(0)"),
        "# The segment, block by block.",
        *zero,
        f"b = u32(s * {bps})",
        f"last = u32(min(u32(b + {bps}), blocks))",
        "while b < last:",
    ]
    inner = [*row_lines(name, tiled), *BLOCKS[name](nt, tiled), "b = u32(b + 1)"]
    source = _head(title, spread) + indented(body, 1)
    if not spread:
        depth = 3
    source += indented(work, depth) + indented(inner, depth + 1)
    store = ["# The segment's sums meet those of the other segments."]
    for j in range(nt):
        for i in range(4):
            row = f"(g + {8 * (i >> 1)})"
            column = f"({8 * j + (i & 1)} + 2 * t)"
            value = segment_value(name, j, i)
            if spread:
                # (segment, column, row) of all jobs' tiles
                at = f"(i64(s) * {8 * nt} + {column}) * i64(cuda.gridDim.x) + i64(wanted)"
                store.append(f"st_f32(i64(partial) + i64(({at}) * 16 + {row}) * 4, {value})")
            else:
                at = f"((mine * segments + s) * {TILE} + {row}) * {8 * nt} + {column}"
                store.append(f"sums[u32({at})] = {value}")
    source += indented(store, depth)
    if not spread:
        source += indented([f"s = u32(s + {WARPS})"], depth)
        scale = "value = mul_rn(value, ld_nc_f32(i64(dq) + i64(column * n_group + group) * 4))"
        tail = [
            "# Segments are added in ascending order, a value per thread.",
            "cuda.syncthreads()",
            f"for k_all in range(t_all, u32(per * {TILE * 8 * nt}), u32({THREADS})):",
            "    k = u32(k_all)",
            f"    own = u32(k // u32({TILE * 8 * nt}))",
            f"    inside = u32(k % u32({TILE * 8 * nt}))",
            f"    row, column = u32(inside % {TILE}), u32(inside // {TILE})",
            "    wanted = u32(u32(cuda.blockIdx.x) * per + own)",
            *("    " + line for line in _job_lines()),
            "    row_all = u32(tile * 16 + row)",
            "    if found != u32(0) and column < n and row_all < rows:",
            "        value = f32(0)",
            "        for s_all in range(segments):",
            f"            at = u32((own * segments + u32(s_all)) * {TILE} + row)",
            f"            value = add_rn(value, sums[u32(at * {8 * nt} + column)])",
            "        group = u32(u32(tile * 16) // u32(u32(rows) // n_group))",
            *(["        " + scale] if name in PARTS else []),
            "        at = i64(i64(column) * i64(rows) + i64(row_all))",
            "        st_f32(i64(out) + at * 4, value)",
        ]
        source += indented(tail, 1)
    scope = names()
    function = compiled(title, source, scope)
    blocks = 1 if spread and nt == 2 else few_blocks(name, nt, tiled)
    blocks_of = (PRODUCT, *((U64,) if spread else ()), *[JOB] * JOBS)
    return kernel(
        *blocks_of,
        threads=THREADS,
        min_blocks=blocks,
        name=title,
        file=__file__,
        writes=WRITES[spread],
    )(function)


def _many(name: str, tiled: bool) -> Kernel:
    """More than 16 rows: 4 row tiles and twice `_width` columns a block."""
    title = f"mm_{name.lower()}_{'tiled' if tiled else 'raw'}_many"
    width = _width(name, tiled)
    nt = width // 8
    quad = 16 if name in PARTS else 8
    bps = SEGMENT // SIZES[name].block
    totals = [f"o{j}_{i}" for j in range(nt) for i in range(4)]
    body = [
        "# Who this thread is.",
        "t_all = u32(cuda.threadIdx.x)",
        "lane, warp = t_all & u32(31), t_all >> u32(5)",
        "g, t = u32(lane >> u32(2)), u32(lane & u32(3))",
        f"xquad = {quad}",
        *table_lines(name),
        f"wanted = u32(u32(cuda.blockIdx.y) * {MANY_TILES} + (warp >> u32(1)))",
        *_job_lines(),
        f"start = u32((u32(cuda.blockIdx.x) * 2 + (warp & u32(1))) * {width})",
        "if found != u32(0) and start < n:",
    ]
    work = [
        *_column_lines(nt, "start"),
        "# All segments in ascending order, each block by block.",
        *[f"{o} = f32(0)" for o in totals],
        "b = u32(0)",
        "while b < blocks:",
        *[f"    {a} = f32(0)" for a in accumulators(name, nt)],
        f"    last = u32(min(u32(b + {bps}), blocks))",
        "    while b < last:",
    ]
    inner = [*row_lines(name, tiled), *BLOCKS[name](nt, tiled), "b = u32(b + 1)"]
    after = [
        f"    o{j}_{i} = add_rn(o{j}_{i}, {segment_value(name, j, i)})"
        for j in range(nt)
        for i in range(4)
    ]
    store = ["# The results."]
    for j in range(nt):
        for i in range(4):
            value = _scaled_out(name, f"o{j}_{i}", j, i)
            store += [
                f"row, column = u32(tile * 16 + g + {8 * (i >> 1)}), "
                f"u32(start + {8 * j + (i & 1)} + 2 * t)",
                "if row < rows and column < n:",
                f"    st_f32(i64(out) + (i64(column) * i64(rows) + i64(row)) * 4, {value})",
            ]
    source = _head(title) + indented(body, 1) + indented(work, 2) + indented(inner, 4)
    source += indented(after, 2) + indented(store, 2)
    function = compiled(title, source, names())
    return kernel(
        PRODUCT,
        *[JOB] * JOBS,
        threads=THREADS,
        min_blocks=1,
        name=title,
        file=__file__,
        writes=("out",),
    )(function)


_FEW = {
    (name, tiled, nt, spread): _few(name, tiled, nt, spread)
    for name, tiled in LAYOUTS
    for nt in (1, 2)
    for spread in (False, True)
}
_MANY = {kind: _many(*kind) for kind in LAYOUTS}


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


def _described(jobs: list[tuple[DeviceArray, Weight]], block: ArgumentBlock) -> list[Any]:
    """Fields of a launch's jobs that a block asks for; those of jobs that are not there are 0."""
    found: list[Any] = []
    for out, w in jobs:
        fields = dict(
            out=out.address, codes=w.codes, scales=w.scales, factors=w.factors, rows=w.rows
        )
        found += block(**{name: fields[name] for name in block.names})
    return found + [0] * (len(block.names) * (JOBS - len(jobs)))


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
    row_bytes = w.file_bytes // (w.rows * w.n_expert)
    common = PRODUCT(
        grid=codebook(ctx),
        xq=codes.address,
        dq=rows.scales.address,
        n=n,
        n_group=n_group,
        blocks=cols // block,
        segments=segments,
        row_bytes=row_bytes,
        block_bytes=row_bytes * block // cols,
        plane=plane,
        xcol=width * cols * n_group,
        xstep=width * cols,
        dcol=4 * n_group,
        dstep=dstep,
    )
    described = _described(jobs, JOB)
    tiles = sum(-(-each.rows // TILE) for _, each in jobs)
    if n > PAD_FEW:
        body = _MANY[name, w.tiled]
        grid = (-(-n // (2 * _width(name, w.tiled))), -(-tiles // MANY_TILES))
        ctx.launch(body, grid, *common, *described)
    elif segments > SLOTS:
        nt = 1 if n <= 8 else 2
        body = _FEW[name, w.tiled, nt, True]
        partial = ctx.scratch("segment sums", (segments, 8 * nt, tiles * TILE))
        grid = (tiles, -(-segments // WARPS))
        ctx.launch(body, grid, *common, partial.address, *described)
        summed = SUMS(
            partial=partial.address, scales=rows.scales.address, has_scales=int(name in PARTS),
            n=n, columns=8 * nt, tiles=tiles, segments=segments, n_group=n_group,
        )  # fmt: skip
        ctx.launch(mm_join, tiles, *summed, *_described(jobs, JOIN_JOB))
    else:
        nt = 1 if n <= 8 else 2
        body = _FEW[name, w.tiled, nt, False]
        per = max(WARPS // segments, 1)
        ctx.launch(body, -(-tiles // per), *common, *described)
    ctx.charge(body, sum(each.file_bytes for _, each in jobs))
