"""Products of experts with the rows of (row, slot) pairs: generated tensor core kernels.

A pair is a column of its expert's product; `two` kernels multiply gate and up and write
swiglu(gate, up) * weight, the others multiply down. Pairs come as tiles of `moe_plan`: up to 8 that
blocks find for themselves (few) or up to 32 that were sorted (many). A value is summed as in
`products`, so a pair's bits depend neither on the kernel nor on who shares its tile.
"""

from __future__ import annotations

from typing import Any

from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import F32, F32P, I32P, I64P, U32, U64, Kernel, device, kernel
from engine.ops.cuda.build.ptx import add_rn, mul_rn
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.build.types import f32
from engine.ops.cuda.products.blocks import BLOCKS, LAYOUTS, PARTS
from engine.ops.cuda.products.generate import (
    SEGMENT,
    SLOTS,
    THREADS,
    WARPS,
    accumulators,
    compiled,
    few_blocks,
    indented,
    names,
    row_lines,
    segment_value,
    table_lines,
)
from engine.ops.cuda.products.moe_plan import few_pairs
from engine.ops.cuda.sizes import SIZES, TILE, WIDTH

# (format, two) of which, tiled, three blocks of few pairs fit a multiprocessor without spills
LEAN = (("IQ2_XXS", True), ("IQ2_XXS", False), ("Q2_K", False))
MANY_TILES = WARPS  # row tiles of a block over sorted tiles
NO_LIMIT = 1e-6
ONE = f32(1)


@device
def gated(g, u, limit):
    """silu(g) * u with g clamped above and u on both sides; a limit up to 1e-6 is none."""
    if limit > f32(NO_LIMIT):
        g = limit if g > limit else g
        u = limit if u > limit else u
        u = -limit if u < -limit else u
    return mul_rn(g / add_rn(ONE, exp(-g)), u)


EXPERTS = ArgumentBlock(
    "Experts",
    grid=(I64P, "(640,): the codebooks, see `pack.codebook`"),
    xq=(U64, "address of the rows' codes, or of their float16 or bfloat16 parts"),
    dq=(U64, "address of the rows' scales"),
    ids=(I32P, "(m,): expert of each pair"),
    weights=(F32P, "(m,): the router's weight of each pair"),
    m=(U32, "pairs"),
    used=(U32, "experts of a row: pair p is of row p // used"),
    rows=(U32, "rows of an expert's matrix"),
    blocks=(U32, "blocks of a row of weights"),
    segments=(U32, "segments of a row"),
    row_bytes=(U32, "raw: bytes of a row of weights"),
    block_bytes=(U32, "raw: bytes of a block"),
    plane=(U64, "float formats: bytes from one part of the rows to the next"),
    xcol=(U32, "bytes from one row's codes or parts to the next row's"),
    dcol=(U32, "bytes from one row's first scale to the next row's"),
    dstep=(U32, "bytes from one block's scales to the next block's"),
    codes0=(U64, "address of the first expert's codes: of gate, or of down"),
    scales0=(U64, "address of its scales, or 0"),
    factors0=(U64, "address of its factors, or 0"),
    codes1=(U64, "`two` kernels: address of the first expert's codes of up"),
    scales1=(U64, "address of its scales, or 0"),
    factors1=(U64, "address of its factors, or 0"),
    codes_stride=(U64, "bytes from one expert's codes to the next expert's"),
    scales_stride=(U64, "bytes from one expert's scales to the next expert's"),
    factors_stride=(U64, "bytes from one expert's factors to the next expert's"),
    limit=(F32, "`two` kernels: clamp of SwiGLU; at most 1e-6 means none"),
    out=(F32P, "(m, rows), written"),
)


def _scope() -> dict[str, Any]:
    return names() | dict(few_pairs=few_pairs, gated=gated)


def _head(title: str, more: str = "") -> str:
    unpacked = f"{', '.join(EXPERTS.names)} = experts"
    return f"def {title}(experts{more}):\n" + indented([unpacked], 1)


def _matrix_lines(two: bool) -> list[str]:
    lines = ["# The expert's matrix.", "cb, sb, fb = codes0, scales0, factors0"]
    if two:
        lines += ["if matrix == 1:", "    cb, sb, fb = codes1, scales1, factors1"]
    for base, part in (("cb", "codes"), ("sb", "scales"), ("fb", "factors")):
        lines.append(f"{base} = i64({base}) + i64(expert) * i64({part}_stride)")
    return lines


def _column(j: int, c: str, two: bool) -> str:
    """Row of activations that column `c` of tile j takes: the pair's token, or the pair itself."""
    return f"u32(pairs[u32({8 * j} + {c})])" + (" // used" if two else "")


def _columns(nt: int, two: bool) -> list[str]:
    lines = ["# The columns' values and scales."]
    for j in range(nt):
        lines += [
            f"xa{j} = i64(i64(xq) + i64({_column(j, 'g', two)}) * i64(xcol) + i64(t) * i64(xquad))",
        ]
        lines += [
            f"da{j}_{i} = i64(i64(dq) + i64({_column(j, f'2 * t + {i}', two)}) * i64(dcol))"
            for i in range(2)
        ]
    return lines


def _start(name: str) -> list[str]:
    return [*_who(name), *table_lines(name)]


def _who(name: str) -> list[str]:
    return [
        "# Who this thread is.",
        "t_all = u32(cuda.threadIdx.x)",
        "lane, warp = t_all & u32(31), t_all >> u32(5)",
        "g, t = u32(lane >> u32(2)), u32(lane & u32(3))",
        f"xquad = {16 if name in PARTS else 8}",
    ]


def _ahead_lines(name: str, n_matrix: int) -> list[str]:
    """Bring the codes of a warp's first segment near, of all matrices at once.

    A warp takes its matrices and blocks one after the other, with few loads in flight: each would
    wait for memory anew.
    """
    size, bps = SIZES[name].codes, SEGMENT // SIZES[name].block
    lines = [
        "# The warp's codes, of every matrix, are asked for before any is used.",
        "if mine < per and tile * 16 < rows and lane == u32(0):",
        f"    ahead = u32(u32(blocks - first * {bps}) * {size})",
        f"    ahead = min(ahead, u32({bps * size}))",
        f"    near = i64(i64(i64(tile) * i64(blocks) + i64(first * {bps})) * {size})",
        "    near = i64(near + i64(expert) * i64(codes_stride))",
    ]
    return lines + [
        f"    prefetch_bulk(i64(i64(codes{m}) + near), i32(ahead))" for m in range(n_matrix)
    ]


def _finish(two: bool, value: str, other: str) -> str:
    if not two:
        return value
    return f"mul_rn(gated({value}, {other}, limit), weights[pair])"


def _blocks(name: str, tiled: bool, two: bool) -> int:
    """Blocks of few pairs that share a multiprocessor."""
    if name in ("BF16", "Q5_K") and two and not tiled:
        return 1
    return 3 if tiled and (name, two) in LEAN else few_blocks(name, 1, tiled)


def _held(k: int) -> str:
    return f"u32({k * THREADS} + t_all)"


def _few(name: str, tiled: bool, two: bool) -> Kernel:
    """Grid (row tiles, pairs): pair p's block takes its expert's tile of up to 8 pairs, if any."""
    kind = "in" if two else "out"
    title = f"moe_{kind}_{name.lower()}_{'tiled' if tiled else 'raw'}_few"
    bps = SEGMENT // SIZES[name].block
    n_matrix = 2 if two else 1
    size = SLOTS * TILE * 8
    body = [
        "# The tile of pairs, if this pair is the first of one.",
        "pairs = cuda.shared.array(8, i32)",
        f"sums = cuda.shared.array({n_matrix * size}, f32)",
        "count = few_pairs(pairs, ids, m, u32(cuda.blockIdx.y))",
        "if count == i32(0):",
        "    return",
        *_who(name),
        "# The warp's row tile and its first segment.",
        "expert = u32(ids[u32(cuda.blockIdx.y)])",
        f"per = u32(max(u32({WARPS}) // segments, u32(1)))",
        "mine, first = u32(warp // segments), u32(warp % segments)",
        f"if segments >= u32({WARPS}):",
        "    mine, first = u32(0), warp",
        "tile = u32(u32(cuda.blockIdx.x) * per + mine)",
        *(_ahead_lines(name, n_matrix) if tiled else []),
        *table_lines(name),
        "cuda.syncthreads()",
        "if mine < per and tile * 16 < rows:",
        *("    " + line for line in _columns(1, two)),
        f"    for matrix in range({n_matrix}):",
        *("        " + line for line in _matrix_lines(two)),
        "        # Its segments, block by block.",
        f"        for s_all in range(first, segments, u32({WARPS})):",
        "            s = u32(s_all)",
        *(f"            {a} = f32(0)" for a in accumulators(name, 1)),
        f"            last = u32(min(u32((s + 1) * {bps}), blocks))",
        f"            for b_all in range(u32(s * {bps}), last):",
        "                b = u32(b_all)",
    ]
    source = _head(title) + indented(body, 1)
    source += indented(row_lines(name, tiled) + BLOCKS[name](1, tiled), 5)
    store = ["# The segment's sums meet those of the other segments."]
    for i in range(4):
        at = f"((u32(matrix) * {SLOTS} + mine * segments + s) * {TILE} + g + {8 * (i >> 1)}) * 8"
        store.append(f"sums[u32({at} + 2 * t + {i & 1})] = {segment_value(name, 0, i)}")
    source += indented(store, 4)
    values = ["value", "other"][:n_matrix]
    tail = [
        "# Segments are added in ascending order, a value per thread.",
        "cuda.syncthreads()",
        f"for k_all in range(t_all, u32(per * {TILE * 8}), u32({THREADS})):",
        "    k = u32(k_all)",
        f"    own, inside = u32(k // u32({TILE * 8})), u32(k % u32({TILE * 8}))",
        f"    row, column = u32(inside % {TILE}), u32(inside // {TILE})",
        "    row_all = u32((u32(cuda.blockIdx.x) * per + own) * 16 + row)",
        "    if column < u32(count) and row_all < rows:",
        "        pair = u32(pairs[column])",
    ]
    for v, value in enumerate(values):
        tail += [
            f"        {value} = f32(0)",
            "        for s_all in range(segments):",
            f"            at = u32({v * SLOTS} + own * segments + u32(s_all))",
            f"            at = u32(at * {TILE} + row)",
            f"            {value} = add_rn({value}, sums[u32(at * 8 + column)])",
        ]
        if name in PARTS:
            at = "pair // used" if two else "pair"
            scale = f"ld_nc_f32(i64(dq) + i64({at}) * i64(dcol))"
            tail.append(f"        {value} = mul_rn({value}, {scale})")
    tail.append(f"        out[u32(pair * rows + row_all)] = {_finish(two, 'value', 'other')}")
    source += indented(tail, 1)
    function = compiled(title, source, _scope())
    return kernel(
        EXPERTS,
        threads=THREADS,
        min_blocks=_blocks(name, tiled, two),
        name=title,
        file=__file__,
        writes=("out",),
    )(function)


def _many(name: str, tiled: bool, two: bool) -> Kernel:
    """Grid (row tiles / 8, sorted tiles): a warp takes 16 rows and up to 32 pairs."""
    kind = "in" if two else "out"
    title = f"moe_{kind}_{name.lower()}_{'tiled' if tiled else 'raw'}_many"
    bps = SEGMENT // SIZES[name].block
    nt = WIDTH // 8
    parts = [f"{j}_{i}" for j in range(nt) for i in range(4)]
    body = [
        "# The sorted tile: its expert and its pairs.",
        f"pairs = cuda.shared.array({WIDTH}, i32)",
        # The gate's sums wait here, a thread's own beside its neighbours', while up is computed.
        *([f"hold = cuda.shared.array({len(parts) * THREADS}, f32)"] if two else []),
        "entry = u32(u32(cuda.blockIdx.y) * 3)",
        "expert = u32(tiles[entry])",
        "place0 = u32(tiles[u32(entry + 1)])",
        "count = u32(tiles[u32(entry + 2)])",
        "if count == u32(0):",
        "    return",
        *_start(name),
        f"if t_all < u32({WIDTH}):",
        "    pairs[t_all] = order[u32(place0 + min(t_all, u32(count - 1)))]",
        "cuda.syncthreads()",
        "# The warp's row tile.",
        f"tile = u32(u32(cuda.blockIdx.x) * {MANY_TILES} + warp)",
        "if tile * 16 < rows:",
        *("    " + line for line in _columns(nt, two)),
        *(f"    o{p} = f32(0)" for p in parts),
        f"    for matrix in range({2 if two else 1}):",
        *("        " + line for line in _matrix_lines(two)),
        *(f"        hold[{_held(k)}] = o{p}" for k, p in enumerate(parts) if two),
        *(f"        o{p} = f32(0)" for p in parts),
        "        # All segments in ascending order, each block by block.",
        "        for s_all in range(segments):",
        "            s = u32(s_all)",
        *(f"            {a} = f32(0)" for a in accumulators(name, nt)),
        f"            last = u32(min(u32((s + 1) * {bps}), blocks))",
        f"            for b_all in range(u32(s * {bps}), last):",
        "                b = u32(b_all)",
    ]
    source = _head(title, ", order, tiles") + indented(body, 1)
    source += indented(row_lines(name, tiled) + BLOCKS[name](nt, tiled), 5)
    source += indented(
        [
            f"o{j}_{i} = add_rn(o{j}_{i}, {segment_value(name, j, i)})"
            for j in range(nt)
            for i in range(4)
        ],
        4,
    )
    store = ["# The results."]
    for j in range(nt):
        for i in range(4):
            o, h = f"o{j}_{i}", f"hold[{_held(4 * j + i)}]"
            if name in PARTS:
                scale = f"ld_nc_f32(da{j}_{i & 1})"
                o, h = f"mul_rn({o}, {scale})", f"mul_rn({h}, {scale})"
            store += [
                f"row, column = u32(tile * 16 + g + {8 * (i >> 1)}), "
                f"u32({8 * j + (i & 1)} + 2 * t)",
                "if row < rows and column < count:",
                "    pair = u32(pairs[column])",
                f"    st_f32(address(out) + (i64(pair) * i64(rows) + i64(row)) * 4, "
                f"{_finish(two, h if two else o, o)})",
            ]
    source += indented(store, 2)
    function = compiled(title, source, _scope())
    return kernel(
        EXPERTS,
        I32P,
        I32P,
        threads=THREADS,
        min_blocks=1,
        name=title,
        file=__file__,
        writes=("out",),
    )(function)


_KINDS = [(name, tiled, two) for name, tiled in LAYOUTS for two in (True, False)]
FEW = {kind: _few(*kind) for kind in _KINDS}
MANY = {kind: _many(*kind) for kind in _KINDS}
