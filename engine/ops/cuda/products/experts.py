"""Feed-forward: routed experts in tensor core products, the shared expert, SwiGLU, their sum.

Pairs (row, slot) of one expert are the columns of its products, so an expert's weights are read
once for all of them. Gate and up are computed by one block, which applies SwiGLU and the router's
weight before anything is rounded; the result is quantised and goes through the expert's down
matrix; slots are added in slot order. A pair's result does not depend on who shares its tile.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, I32P, U32, U64, kernel
from engine.ops.cuda.build.ptx import add_rn, address, fma_rn, ld_nc_f32, mul_rn
from engine.ops.cuda.build.reduce import warp_sum
from engine.ops.cuda.build.types import f32, i64, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.products.act import Split
from engine.ops.cuda.products.decode_bits import st_f32
from engine.ops.cuda.products.experts_act import middle_forms
from engine.ops.cuda.products.experts_kernels import EXPERTS, FEW, MANY, MANY_TILES, gated
from engine.ops.cuda.products.generate import SEGMENT, SLOTS, THREADS, WARPS
from engine.ops.cuda.products.moe_plan import MAX_FEW, sort_pairs
from engine.ops.cuda.products.pack import Weight, codebook
from engine.ops.cuda.products.products import activations, matmul, matmul_multi
from engine.ops.cuda.sizes import PAD_MANY, SIZES, TILE, WIDTH, padded


@kernel(
    F32P, F32P, U64, U64, U64, I32P, F32P, U32, U32, U32, U32, F32, U32, threads=THREADS,
    writes=("out",),
)  # fmt: skip
def moe_f32(out, x, gate, up, stride, ids, weights, m, used, rows, cols, limit, two):
    """Grid (rows / 8, pairs), for float32 weights: a warp takes one row of one pair's expert."""
    t = u32(cuda.threadIdx.x)
    lane, warp = t & u32(31), t >> u32(5)
    row = u32(u32(cuda.blockIdx.x) * u32(WARPS) + warp)
    pair = u32(cuda.blockIdx.y)
    if row < rows:
        at = i64(ids[pair]) * i64(stride) + i64(row) * i64(cols) * 4
        source = u32(pair // used) if two != u32(0) else pair
        base = address(x) + i64(source) * i64(cols) * 4
        a, b = f32(0), f32(0)
        for k in range(lane, cols, u32(32)):
            v = ld_nc_f32(base + i64(k) * 4)
            a = fma_rn(ld_nc_f32(i64(gate) + at + i64(k) * 4), v, a)
            if two != u32(0):
                b = fma_rn(ld_nc_f32(i64(up) + at + i64(k) * 4), v, b)
        a, b = warp_sum(a), warp_sum(b)
        if lane == u32(0):
            value = a
            if two != u32(0):
                value = mul_rn(gated(a, b, limit), weights[pair])
            st_f32(address(out) + (i64(pair) * i64(rows) + i64(row)) * 4, value)


@kernel(F32P, F32P, F32P, U32, U32, U32, U32, threads=THREADS, writes=("out",))
def moe_sum(out, pairs, shared, count, d, used, has_shared):
    """One value a thread: slots in slot order, then the shared expert."""
    k = u32(u32(cuda.blockIdx.x) * u32(THREADS) + u32(cuda.threadIdx.x))
    if k < count:
        row, column = u32(k // d), u32(k % d)
        base = address(pairs) + (i64(row) * i64(used) * i64(d) + i64(column)) * 4
        value = f32(0)
        for s in range(used):
            value = add_rn(value, ld_nc_f32(base + i64(s) * i64(d) * 4))
        if has_shared != u32(0):
            value = add_rn(value, shared[k])
        out[k] = value


@kernel(F32P, F32P, F32P, U32, F32, threads=THREADS, writes=("out",))
def swiglu_values(out, gate, up, count, limit):
    k = u32(u32(cuda.blockIdx.x) * u32(THREADS) + u32(cuda.threadIdx.x))
    if k < count:
        out[k] = gated(gate[k], up[k], limit)


@kernel(F32P, F32P, U32, threads=THREADS, writes=("out",))
def add_values(out, x, count):
    k = u32(u32(cuda.blockIdx.x) * u32(THREADS) + u32(cuda.threadIdx.x))
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
    args = EXPERTS(
        grid=codebook(ctx),
        xq=codes.address,
        dq=rows.scales.address,
        ids=ids,
        weights=weights,
        m=m,
        used=used,
        rows=w.rows,
        blocks=cols // block,
        segments=segments,
        row_bytes=row_bytes,
        block_bytes=row_bytes * block // cols,
        plane=plane,
        xcol=width * cols,
        dcol=4,
        dstep=dstep,
        codes0=w.codes,
        scales0=w.scales,
        factors0=w.factors,
        codes1=other.codes,
        scales1=other.scales,
        factors1=other.factors,
        codes_stride=w.strides[0],
        scales_stride=w.strides[1],
        factors_stride=w.strides[2],
        limit=limit,
        out=out,
    )
    tiles = -(-w.rows // TILE)
    if plan is None:
        body = FEW[name, w.tiled, two]
        per = max(WARPS // segments, 1)
        ctx.launch(body, (-(-tiles // per), m), *args)
    else:
        body = MANY[name, w.tiled, two]
        order, table = plan
        ctx.launch(body, (-(-tiles // MANY_TILES), len(table)), *args, order, table)
    distinct = w.n_expert * (1.0 - (1.0 - used / w.n_expert) ** (m // used))
    ctx.charge(body, int(sum(p.file_bytes for p in pair) / w.n_expert * distinct))


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
    feed_forward(ctx, out, x, ids, weights, gate, up, down, limit, None)


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
    """`routed_moe`, `shared_ffn` (gate, up, down, limit) if given, and their sum."""
    m, used = ids.size, ids.shape[1]
    plan = sort_pairs(ctx, ids, gate.n_expert, WIDTH) if m > MAX_FEW else None
    middle = ctx.scratch("moe middle", (m, gate.rows))
    _product(ctx, middle, x, ids, weights, (gate, up), limit, plan)
    ctx.wrote(middle)
    extra = None
    if shared is not None:
        shared_gate, shared_up, shared_down, shared_limit = shared
        a, b = _gate_up(ctx, x, shared_gate, shared_up)
        if not middle_forms(ctx, middle, down, a, b, shared_down, shared_limit):
            swiglu(ctx, a, a, b, shared_limit)
        extra = ctx.scratch("moe shared", out.shape)
        matmul(ctx, extra, a, shared_down)
    done = ctx.scratch("moe pairs", (m, down.rows))
    _product(ctx, done, middle, ids, weights, (down,), limit, plan)
    blocks = -(-out.size // THREADS)
    ctx.launch(
        moe_sum, blocks, out, done, extra, out.size, out.shape[1], used, int(extra is not None)
    )
    ctx.wrote(out)


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
    a, b = _gate_up(ctx, x, gate, up)
    swiglu(ctx, a, a, b, limit)
    matmul(ctx, out, a, down)


def _gate_up(
    ctx: Context, x: DeviceArray, gate: Weight, up: Weight
) -> tuple[DeviceArray, DeviceArray]:
    a = ctx.scratch("shared gate", (x.shape[0], gate.rows))
    b = ctx.scratch("shared up", (x.shape[0], up.rows))
    matmul_multi(ctx, [a, b], x, [gate, up])
    return a, b


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
