"""Feed-forward: routed experts in tensor core products, the shared expert, SwiGLU, their sum.

Pairs (row, slot) of one expert are the columns of its products, so an expert's weights are read
once for all of them. Gate and up are computed by one block, which applies SwiGLU and the router's
weight before anything is rounded; the result is quantised and goes through the expert's down
matrix; slots are added in slot order. A pair's result does not depend on who shares its tile.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float32, int64, uint32

from engine.ops.cuda.act import PAD_MANY, Split, padded
from engine.ops.cuda.array import DeviceArray
from engine.ops.cuda.blocks import BLOCKS, PARTS
from engine.ops.cuda.context import Context
from engine.ops.cuda.decode_bits import st_f32
from engine.ops.cuda.generate import (
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
from engine.ops.cuda.kernel import F32, F32P, I32P, I64P, U32, U64, Kernel, device, kernel
from engine.ops.cuda.moe_plan import MAX_FEW, few_pairs, sort_pairs
from engine.ops.cuda.pack import SIZES, TILE, Weight, codebook
from engine.ops.cuda.products import activations, matmul, matmul_multi
from engine.ops.cuda.ptx import add_rn, address, fma_rn, ld_nc_f32, mul_rn
from engine.ops.cuda.reduce import warp_sum
from engine.ops.cuda.scalar import exp

WIDTH = 32  # pairs of a sorted tile
MANY_TILES = WARPS  # row tiles of a block over sorted tiles
NO_LIMIT = 1e-6
ONE = float32(1)


@device
def gated(g, u, limit):
    """silu(g) * u with g clamped above and u on both sides; a limit up to 1e-6 is none."""
    if limit > float32(NO_LIMIT):
        g = limit if g > limit else g
        u = limit if u > limit else u
        u = -limit if u < -limit else u
    return mul_rn(g / add_rn(ONE, exp(-g)), u)


_SHARED_ARGS = (
    "grid, xq, dq, ids, weights, m, used, rows, blocks, segments, row_bytes, block_bytes, plane, "
    "xcol, dcol, dstep, codes0, scales0, factors0, codes1, scales1, factors1, "
    "codes_stride, scales_stride, factors_stride, limit, out"
)
_SHARED_TYPES = (
    I64P, U64, U64, I32P, F32P, U32, U32, U32, U32, U32, U32, U32, U64,
    U32, U32, U32, U64, U64, U64, U64, U64, U64,
    U64, U64, U64, F32, F32P,
)  # fmt: skip


def _scope() -> dict[str, Any]:
    return names() | dict(few_pairs=few_pairs, gated=gated)


def _matrix_lines(two: bool) -> list[str]:
    lines = ["cb, sb, fb = codes0, scales0, factors0"]
    if two:
        lines += ["if matrix == 1:", "    cb, sb, fb = codes1, scales1, factors1"]
    return lines + [
        "cb = int64(cb) + int64(expert) * int64(codes_stride)",
        "sb = int64(sb) + int64(expert) * int64(scales_stride)",
        "fb = int64(fb) + int64(expert) * int64(factors_stride)",
    ]


def _column(j: int, c: str, two: bool) -> str:
    """Row of activations that column `c` of tile j takes: the pair's token, or the pair itself."""
    return f"uint32(pairs[uint32({8 * j} + {c})])" + (" // used" if two else "")


def _columns(nt: int, two: bool) -> list[str]:
    lines = []
    for j in range(nt):
        lines += [
            f"xa{j} = int64(int64(xq) + int64({_column(j, 'g', two)}) * int64(xcol)"
            " + int64(t) * int64(xquad))",
        ]
        lines += [
            f"da{j}_{i} = int64(int64(dq) + int64({_column(j, f'2 * t + {i}', two)}) * int64(dcol))"
            for i in range(2)
        ]
    return lines


def _start(name: str) -> list[str]:
    return [
        "t_all = uint32(cuda.threadIdx.x)",
        "lane, warp = t_all & uint32(31), t_all >> uint32(5)",
        "g, t = uint32(lane >> uint32(2)), uint32(lane & uint32(3))",
        f"xquad = {16 if name in PARTS else 8}",
        *table_lines(name),
    ]


def _finish(two: bool, value: str, other: str) -> str:
    if not two:
        return value
    return f"mul_rn(gated({value}, {other}, limit), weights[pair])"


def _few(name: str, tiled: bool, two: bool) -> Kernel:
    """Grid (row tiles, pairs): pair p's block takes its expert's tile of up to 8 pairs, if any."""
    kind = "in" if two else "out"
    title = f"moe_{kind}_{name.lower()}_{'tiled' if tiled else 'raw'}_few"
    bps = SEGMENT // SIZES[name].block
    n_matrix = 2 if two else 1
    size = SLOTS * TILE * 8
    body = [
        "pairs = cuda.shared.array(8, int32)",
        f"sums = cuda.shared.array({n_matrix * size}, float32)",
        "count = few_pairs(pairs, ids, m, uint32(cuda.blockIdx.y))",
        "if count == int32(0):",
        "    return",
        *_start(name),
        "cuda.syncthreads()",
        "expert = uint32(ids[uint32(cuda.blockIdx.y)])",
        f"per = uint32(max(uint32({WARPS}) // segments, uint32(1)))",
        "mine, first = uint32(warp // segments), uint32(warp % segments)",
        f"if segments >= uint32({WARPS}):",
        "    mine, first = uint32(0), warp",
        "tile = uint32(uint32(cuda.blockIdx.x) * per + mine)",
        "if mine < per and tile * 16 < rows:",
        *("    " + line for line in _columns(1, two)),
        f"    for matrix in range({n_matrix}):",
        *("        " + line for line in _matrix_lines(two)),
        f"        for s_all in range(first, segments, uint32({WARPS})):",
        "            s = uint32(s_all)",
        *(f"            {a} = float32(0)" for a in accumulators(name, 1)),
        f"            last = uint32(min(uint32((s + 1) * {bps}), blocks))",
        f"            for b_all in range(uint32(s * {bps}), last):",
        "                b = uint32(b_all)",
    ]
    source = f"def {title}({_SHARED_ARGS}):\n" + indented(body, 1)
    source += indented(row_lines(name, tiled) + BLOCKS[name](1, tiled), 5)
    store = []
    for i in range(4):
        at = f"((uint32(matrix) * {SLOTS} + mine * segments + s) * {TILE} + g + {8 * (i >> 1)}) * 8"
        store.append(f"sums[uint32({at} + 2 * t + {i & 1})] = {segment_value(name, 0, i)}")
    source += indented(store, 4)
    values = ["value", "other"][:n_matrix]
    tail = [
        "cuda.syncthreads()",
        f"for k_all in range(t_all, uint32(per * {TILE * 8}), uint32({THREADS})):",
        "    k = uint32(k_all)",
        f"    own, inside = uint32(k // uint32({TILE * 8})), uint32(k % uint32({TILE * 8}))",
        f"    row, column = uint32(inside % {TILE}), uint32(inside // {TILE})",
        "    row_all = uint32((uint32(cuda.blockIdx.x) * per + own) * 16 + row)",
        "    if column < uint32(count) and row_all < rows:",
        "        pair = uint32(pairs[column])",
    ]
    for v, value in enumerate(values):
        tail += [
            f"        {value} = float32(0)",
            "        for s_all in range(segments):",
            f"            at = uint32(({v * SLOTS} + own * segments + uint32(s_all)) * {TILE} + row)",
            f"            {value} = add_rn({value}, sums[uint32(at * 8 + column)])",
        ]
        if name in PARTS:
            at = "pair // used" if two else "pair"
            scale = f"ld_nc_f32(int64(dq) + int64({at}) * int64(dcol))"
            tail.append(f"        {value} = mul_rn({value}, {scale})")
    tail.append(f"        out[uint32(pair * rows + row_all)] = {_finish(two, 'value', 'other')}")
    source += indented(tail, 1)
    function = compiled(title, source, _scope())
    return kernel(
        *_SHARED_TYPES, threads=THREADS, min_blocks=few_blocks(name, 1), name=title, file=__file__
    )(function)


def _many(name: str, tiled: bool, two: bool) -> Kernel:
    """Grid (row tiles / 8, sorted tiles): a warp takes 16 rows and up to 32 pairs."""
    kind = "in" if two else "out"
    title = f"moe_{kind}_{name.lower()}_{'tiled' if tiled else 'raw'}_many"
    bps = SEGMENT // SIZES[name].block
    nt = WIDTH // 8
    parts = [f"{j}_{i}" for j in range(nt) for i in range(4)]
    body = [
        f"pairs = cuda.shared.array({WIDTH}, int32)",
        "entry = uint32(uint32(cuda.blockIdx.y) * 3)",
        "expert = uint32(tiles[entry])",
        "place0 = uint32(tiles[uint32(entry + 1)])",
        "count = uint32(tiles[uint32(entry + 2)])",
        "if count == uint32(0):",
        "    return",
        *_start(name),
        f"if t_all < uint32({WIDTH}):",
        "    pairs[t_all] = order[uint32(place0 + min(t_all, uint32(count - 1)))]",
        "cuda.syncthreads()",
        f"tile = uint32(uint32(cuda.blockIdx.x) * {MANY_TILES} + warp)",
        "if tile * 16 < rows:",
        *("    " + line for line in _columns(nt, two)),
        *(f"    h{p} = float32(0)" for p in parts if two),
        *(f"    o{p} = float32(0)" for p in parts),
        f"    for matrix in range({2 if two else 1}):",
        *("        " + line for line in _matrix_lines(two)),
        *(f"        h{p} = o{p}" for p in parts if two),
        *(f"        o{p} = float32(0)" for p in parts),
        "        for s_all in range(segments):",
        "            s = uint32(s_all)",
        *(f"            {a} = float32(0)" for a in accumulators(name, nt)),
        f"            last = uint32(min(uint32((s + 1) * {bps}), blocks))",
        f"            for b_all in range(uint32(s * {bps}), last):",
        "                b = uint32(b_all)",
    ]
    source = f"def {title}({_SHARED_ARGS}, order, tiles):\n" + indented(body, 1)
    source += indented(row_lines(name, tiled) + BLOCKS[name](nt, tiled), 5)
    source += indented(
        [
            f"o{j}_{i} = add_rn(o{j}_{i}, {segment_value(name, j, i)})"
            for j in range(nt)
            for i in range(4)
        ],
        4,
    )
    store = []
    for j in range(nt):
        for i in range(4):
            o, h = f"o{j}_{i}", f"h{j}_{i}"
            if name in PARTS:
                scale = f"ld_nc_f32(da{j}_{i & 1})"
                o, h = f"mul_rn({o}, {scale})", f"mul_rn({h}, {scale})"
            store += [
                f"row, column = uint32(tile * 16 + g + {8 * (i >> 1)}), "
                f"uint32({8 * j + (i & 1)} + 2 * t)",
                "if row < rows and column < count:",
                "    pair = uint32(pairs[column])",
                f"    st_f32(address(out) + (int64(pair) * int64(rows) + int64(row)) * 4, "
                f"{_finish(two, h if two else o, o)})",
            ]
    source += indented(store, 2)
    function = compiled(title, source, _scope())
    types = (*_SHARED_TYPES, I32P, I32P)
    return kernel(*types, threads=THREADS, min_blocks=1, name=title, file=__file__)(function)


_KINDS = [(n, tiled, two) for n in BLOCKS for tiled in (True, False) for two in (True, False)]
_FEW = {kind: _few(*kind) for kind in _KINDS}
_MANY = {kind: _many(*kind) for kind in _KINDS}


@kernel(
    F32P, F32P, U64, U64, U64, I32P, F32P, U32, U32, U32, U32, F32, U32, threads=THREADS
)  # fmt: skip
def moe_f32(out, x, gate, up, stride, ids, weights, m, used, rows, cols, limit, two):
    """Grid (rows / 8, pairs), for float32 weights: a warp takes one row of one pair's expert."""
    t = uint32(cuda.threadIdx.x)
    lane, warp = t & uint32(31), t >> uint32(5)
    row = uint32(uint32(cuda.blockIdx.x) * uint32(WARPS) + warp)
    pair = uint32(cuda.blockIdx.y)
    if row < rows:
        at = int64(ids[pair]) * int64(stride) + int64(row) * int64(cols) * 4
        source = uint32(pair // used) if two != uint32(0) else pair
        base = address(x) + int64(source) * int64(cols) * 4
        a, b = float32(0), float32(0)
        for k in range(lane, cols, uint32(32)):
            v = ld_nc_f32(base + int64(k) * 4)
            a = fma_rn(ld_nc_f32(int64(gate) + at + int64(k) * 4), v, a)
            if two != uint32(0):
                b = fma_rn(ld_nc_f32(int64(up) + at + int64(k) * 4), v, b)
        a, b = warp_sum(a), warp_sum(b)
        if lane == uint32(0):
            value = a
            if two != uint32(0):
                value = mul_rn(gated(a, b, limit), weights[pair])
            st_f32(address(out) + (int64(pair) * int64(rows) + int64(row)) * 4, value)


@kernel(F32P, F32P, F32P, U32, U32, U32, U32, threads=THREADS)
def moe_sum(out, pairs, shared, count, d, used, has_shared):
    """One value a thread: slots in slot order, then the shared expert."""
    k = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if k < count:
        row, column = uint32(k // d), uint32(k % d)
        base = address(pairs) + (int64(row) * int64(used) * int64(d) + int64(column)) * 4
        value = float32(0)
        for s in range(used):
            value = add_rn(value, ld_nc_f32(base + int64(s) * int64(d) * 4))
        if has_shared != uint32(0):
            value = add_rn(value, shared[k])
        out[k] = value


@kernel(F32P, F32P, F32P, U32, F32, threads=THREADS)
def swiglu_values(out, gate, up, count, limit):
    k = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if k < count:
        out[k] = gated(gate[k], up[k], limit)


@kernel(F32P, F32P, U32, threads=THREADS)
def add_values(out, x, count):
    k = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if k < count:
        out[k] = add_rn(out[k], x[k])


def _product(
    ctx: Context,
    out: DeviceArray,
    x: DeviceArray,
    ids: DeviceArray,
    weights: DeviceArray,
    pair: tuple[Weight, ...],
    limit: float,
    plan: tuple[DeviceArray, DeviceArray] | None,
) -> None:
    """One matrix (down) or two (gate, up) of the chosen experts over the pairs' rows."""
    w, two = pair[0], len(pair) == 2
    m, used, other = ids.size, ids.shape[1], pair[-1]
    name, cols = w.format, w.cols
    assert all(p.format == name and p.tiled == w.tiled for p in pair), pair
    if name == "F32":
        ctx.launch(
            moe_f32, (-(-w.rows // WARPS), m), out, x, w.codes, other.codes, w.strides[0], ids,
            weights, m, used, w.rows, cols, limit, int(two),
        )  # fmt: skip
        return
    block = SIZES[name].block
    rows = activations(ctx, x, name)
    if isinstance(rows, Split):
        codes, width, plane, dstep = rows.parts, 2, rows.n_pad * cols * 2, 0
    else:
        codes, width, plane, dstep = rows.codes, 1, 0, rows.n_pad * 4
    segments = -(-cols // SEGMENT)
    assert segments <= SLOTS, (w.name, cols)
    row_bytes = w.file_bytes // (w.rows * w.n_expert)
    args = (
        codebook(ctx), codes.address, rows.scales.address, ids, weights, m, used, w.rows,
        cols // block, segments, row_bytes, row_bytes * block // cols, plane, width * cols, 4,
        dstep, w.codes, w.scales, w.factors, other.codes, other.scales, other.factors, *w.strides,
        limit, out,
    )  # fmt: skip
    tiles = -(-w.rows // TILE)
    if plan is None:
        body = _FEW[name, w.tiled, two]
        per = max(WARPS // segments, 1)
        ctx.launch(body, (-(-tiles // per), m), *args)
    else:
        body = _MANY[name, w.tiled, two]
        order, table = plan
        ctx.launch(body, (-(-tiles // MANY_TILES), len(table)), *args, order, table)
    distinct = w.n_expert * (1.0 - (1.0 - used / w.n_expert) ** (m // used))
    ctx.charge(body, int(sum(p.file_bytes for p in pair) / w.n_expert * distinct))


def _pairs(
    ctx: Context,
    x: DeviceArray,
    ids: DeviceArray,
    weights: DeviceArray,
    gate: Weight,
    up: Weight,
    down: Weight,
    limit: float,
) -> DeviceArray:
    """Results of every pair, (n * used, n_embd)."""
    m = ids.size
    plan = None
    if m > MAX_FEW:
        plan = sort_pairs(ctx, ids, gate.n_expert, WIDTH)
    middle = ctx.scratch("moe middle", (m, gate.rows))
    _product(ctx, middle, x, ids, weights, (gate, up), limit, plan)
    ctx.wrote(middle)
    done = ctx.scratch("moe pairs", (m, down.rows))
    _product(ctx, done, middle, ids, weights, (down,), limit, plan)
    return done


def routed_moe(
    ctx: Context,
    out: DeviceArray,
    x: DeviceArray,
    ids: DeviceArray,
    weights: DeviceArray,
    gate: Weight,
    up: Weight,
    down: Weight,
    limit: float,
) -> None:
    """Sum over the chosen experts of down_e @ (swiglu(gate_e @ x, up_e @ x) * weight).

    Parameters
    ----------
    out, x : float32 DeviceArrays of shape (n, n_embd)
    ids : int32 DeviceArray of shape (n, n_expert_used)
    weights : float32 DeviceArray of shape (n, n_expert_used)
    gate, up : Weight of shape (n_expert, n_ff, n_embd)
    down : Weight of shape (n_expert, n_embd, n_ff)
    limit : float
        Clamp; at most 1e-6 means none.
    """
    done = _pairs(ctx, x, ids, weights, gate, up, down, limit)
    _sum(ctx, out, done, None, ids.shape[1])


def _sum(
    ctx: Context, out: DeviceArray, done: DeviceArray, shared: DeviceArray | None, used: int
) -> None:
    d = out.shape[1]
    blocks = -(-out.size // THREADS)
    ctx.launch(moe_sum, blocks, out, done, shared, out.size, d, used, int(shared is not None))
    ctx.wrote(out)


def feed_forward(
    ctx: Context,
    out: DeviceArray,
    x: DeviceArray,
    ids: DeviceArray,
    weights: DeviceArray,
    gate: Weight,
    up: Weight,
    down: Weight,
    limit: float,
    shared: tuple[Weight, Weight, Weight, float] | None,
) -> None:
    """`routed_moe`, `shared_ffn` (gate, up, down, limit) and their sum."""
    done = _pairs(ctx, x, ids, weights, gate, up, down, limit)
    extra = None
    if shared is not None:
        extra = ctx.scratch("moe shared", out.shape)
        shared_ffn(ctx, extra, x, *shared)
    _sum(ctx, out, done, extra, ids.shape[1])


def shared_ffn(
    ctx: Context,
    out: DeviceArray,
    x: DeviceArray,
    gate: Weight,
    up: Weight,
    down: Weight,
    limit: float,
) -> None:
    """down @ swiglu(gate @ x, up @ x): the shared expert.

    Parameters
    ----------
    out, x : float32 DeviceArrays of shape (n, n_embd)
    gate, up : Weight of shape (n_ff, n_embd)
    down : Weight of shape (n_embd, n_ff)
    limit : float
    """
    n = x.shape[0]
    a = ctx.scratch("shared gate", (n, gate.rows))
    b = ctx.scratch("shared up", (n, up.rows))
    matmul_multi(ctx, [a, b], x, [gate, up])
    swiglu(ctx, a, a, b, limit)
    matmul(ctx, out, a, down)


def swiglu(
    ctx: Context, out: DeviceArray, gate: DeviceArray, up: DeviceArray, limit: float
) -> None:
    """silu(gate) * up, gate clamped above and up on both sides; out may be gate or up."""
    ctx.launch(swiglu_values, -(-out.size // THREADS), out, gate, up, out.size, limit)
    ctx.wrote(out)


def add(ctx: Context, out: DeviceArray, x: DeviceArray) -> None:
    """out += x, arrays of one shape."""
    ctx.launch(add_values, -(-out.size // THREADS), out, x, out.size)
    ctx.wrote(out)


def moe_bytes(n: int, used: int, gate: Any, down: Any) -> int:
    """Working memory of `feed_forward` on n rows: pairs' rows in float32 and quantised."""
    m = padded(n * used) if n * used <= PAD_MANY else n * used + PAD_MANY
    wide = gate.rows * (4 + 6) + down.rows * 4
    return m * wide + n * (2 * gate.rows * 4 + down.rows * 4)


__all__ = ["add", "feed_forward", "moe_bytes", "routed_moe", "shared_ffn", "swiglu"]
