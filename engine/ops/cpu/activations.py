"""Activations on their way into a product: int8 quantisation per block, and SwiGLU.

A quantised row is a run of blocks (values, scale, and the sums that the weights' biases and minima
need); kernels take a table of row addresses. Every rule is per block, whatever lies beside it.
"""

from __future__ import annotations

from engine.ops.cpu.formats import blocks_32, blocks_256
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.jobs import (
    A_COLS,
    A_LIMIT,
    A_NEXT,
    A_ROW,
    A_SPLIT,
    A_SRC,
    A_STRIDE,
    A_TABLE,
    A_UP,
    A_WEIGHTS,
    FN,
    N,
)
from engine.ops.cpu.runtime.leaf import call3, leaf, load_i64, store_i64
from engine.ops.cpu.simd.ir import F32, I8, I32, emitter, vec

# Kinds of activation rows.
ROWS_F32, ROWS_32, ROWS_256 = 0, 1, 2

# Blocks with a smaller largest magnitude become zeros: 127 / amax would overflow.
_SMALLEST = 2.0**-120


def _quantise(ir, src, n_vectors):
    """Load 16 n values; returns their int8 codes as <16 x i32> vectors, and the f32 scale.

    scale = amax / 127, code = x * (127 / amax) rounded half to even. A block with NaN or infinity
    gets that as its scale, so that it reaches every output.
    """
    b = ir.b
    xs = [ir.load(ir.at(src, 64 * i), vec(F32), 4) for i in range(n_vectors)]
    bits = [ir.mask(b.bitcast(x, vec(I32)), 0x7FFFFFFF) for x in xs]
    while len(bits) > 1:
        bits = [
            b.select(b.icmp_unsigned(">", p, q), p, q)
            for p, q in zip(bits[::2], bits[1::2], strict=True)
        ]
    # Magnitudes compare like integers, and NaN is the largest.
    amax = b.bitcast(ir.call("llvm.vector.reduce.umax.v16i32", I32, bits[0]), F32)
    tiny = b.fcmp_ordered("<", amax, ir.c(_SMALLEST, F32))
    zero = ir.c(0.0, F32)
    scale = b.select(tiny, zero, b.fdiv(amax, ir.c(127.0, F32)))
    inverse = ir.splat(b.select(tiny, zero, b.fdiv(ir.c(127.0, F32), amax)))
    codes = []
    for x in xs:
        rounded = ir.call("llvm.rint.v16f32", vec(F32), b.fmul(x, inverse))
        codes.append(ir.call("llvm.fptosi.sat.v16i32.v16f32", vec(I32), rounded))
    return codes, scale


def _sum(ir, v):
    return ir.call("llvm.vector.reduce.add.v16i32", I32, v)


@emitter
def _quantise_32(ir, src, row, nb):
    b = ir.b
    with ir.loop(nb) as i:
        at = ir.at(row, (i, blocks_32.X_BYTES))
        codes, scale = _quantise(ir, ir.at(src, (i, 128)), 2)
        for k, v in enumerate(codes):
            ir.store(b.trunc(v, vec(I8)), ir.at(at, 16 * k), 4)
        ir.store(scale, ir.at(at, blocks_32.X_SCALE), 4)
        total = _sum(ir, b.add(*codes))
        ir.store(b.mul(total, ir.c(-128, I32)), ir.at(at, blocks_32.X_LIFT), 4)


@emitter
def _quantise_256(ir, src, row, nb):
    b = ir.b
    with ir.loop(nb) as i:
        at = ir.at(row, (i, blocks_256.X_BYTES))
        codes, scale = _quantise(ir, ir.at(src, (i, 1024)), 16)
        for k, v in enumerate(codes):
            ir.store(b.trunc(v, vec(I8)), ir.at(at, 16 * k), 16)
        ir.store(scale, ir.at(at, blocks_256.X_SCALE), 4)
        sums = [_sum(ir, v) for v in codes]
        pairs = [b.add(x, y) for x, y in zip(sums[::2], sums[1::2], strict=True)]
        for values, low, high in (
            (sums, blocks_256.LOW16, blocks_256.HIGH16),
            (pairs, blocks_256.LOW32, blocks_256.HIGH32),
        ):
            for k, total in enumerate(values):
                # total = lo + 128 * hi with lo in -64..63
                up = b.ashr(b.add(total, ir.c(64, I32)), ir.c(7, I32))
                lo = b.sub(total, b.shl(up, ir.c(7, I32)))
                ir.store(b.trunc(lo, I8), ir.at(at, low + k))
                ir.store(b.trunc(up, I8), ir.at(at, high + k))


@kernel
def row_bytes(kind, cols):
    """Bytes of one quantised row."""
    if kind == ROWS_32:
        return (cols // 32 * 40 + 63) // 64 * 64
    if kind == ROWS_256:
        return cols // 256 * 320
    return 0


@kernel
def _entry(job, u):
    """Table entry of row u; rows of a grouped product are sorted by group."""
    split = load_i64(job + A_SPLIT)
    at = (u % split) * (load_i64(job + N) // split) + u // split
    return load_i64(job + A_TABLE) + 8 * at


@leaf
def take_f32(job, u0, u1):
    cols = load_i64(job + A_COLS)
    for u in range(u0, u1):
        store_i64(_entry(job, u), load_i64(job + A_SRC) + u * cols * 4)


@leaf
def quantise_32(job, u0, u1):
    cols = load_i64(job + A_COLS)
    for u in range(u0, u1):
        row = load_i64(job + A_ROW) + u * load_i64(job + A_STRIDE)
        store_i64(_entry(job, u), row)
        _quantise_32(load_i64(job + A_SRC) + u * cols * 4, row, cols // 32)


@leaf
def quantise_256(job, u0, u1):
    cols = load_i64(job + A_COLS)
    for u in range(u0, u1):
        row = load_i64(job + A_ROW) + u * load_i64(job + A_STRIDE)
        store_i64(_entry(job, u), row)
        _quantise_256(load_i64(job + A_SRC) + u * cols * 4, row, cols // 256)


# exp on [-87, 88]: 2**n times the Taylor polynomial of the remainder, |r| <= ln(2) / 2, whose
# first dropped term is below 2**-27.
_LOG2E = 1.4426950408889634
_LN2_HIGH = 0.693145751953125  # 15 bits: n * _LN2_HIGH is exact
_LN2_LOW = 1.4286068203094173e-06
_TAYLOR = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)


def _exp(ir, x):
    b, of = ir.b, x.type
    ints, n = vec(I32, of.count), of.count

    def f(value):
        return ir.const(value, of)

    x = b.select(b.fcmp_ordered(">", x, f(88.0)), f(88.0), x)
    x = b.select(b.fcmp_ordered("<", x, f(-87.0)), f(-87.0), x)
    whole = ir.call(f"llvm.rint.v{n}f32", of, b.fmul(x, f(_LOG2E)))
    r = ir.fma(whole, f(-_LN2_HIGH), x)
    r = ir.fma(whole, f(-_LN2_LOW), r)
    y = f(_TAYLOR[0])
    for term in _TAYLOR[1:]:
        y = ir.fma(y, r, f(term))
    power = ir.call(f"llvm.fptosi.sat.v{n}i32.v{n}f32", ints, whole)
    power = b.shl(b.add(power, ir.const(127, ints)), ir.const(23, ints))
    return b.fmul(y, b.bitcast(power, of))


def _swiglu_lanes(ir, n, gate, up, out, limit, weight):
    b, of = ir.b, vec(F32, n)
    top = ir.splat(limit, n)
    low = b.fneg(top)
    g = ir.load(gate, of, 4)
    u = ir.load(up, of, 4)
    g = b.select(b.fcmp_ordered(">", g, top), top, g)
    u = b.select(b.fcmp_ordered(">", u, top), top, u)
    u = b.select(b.fcmp_ordered("<", u, low), low, u)
    bottom = b.fadd(ir.const(1.0, of), _exp(ir, b.fneg(g)))
    y = b.fmul(b.fmul(b.fdiv(g, bottom), u), ir.splat(weight, n))
    ir.store(y, out, 4)


@emitter
def _swiglu(ir, gate, up, out, cols, limit, weight):
    """limit and weight are addresses of one f32 each."""
    b = ir.b
    top, w = ir.load(limit, F32, 4), ir.load(weight, F32, 4)
    vectors = b.lshr(cols, ir.c(4))
    with ir.loop(vectors) as i:
        _swiglu_lanes(ir, 16, *(ir.at(p, (i, 64)) for p in (gate, up, out)), top, w)
    done = b.shl(vectors, ir.c(4))
    with ir.loop(b.sub(cols, done)) as i:
        k = b.add(done, i)
        _swiglu_lanes(ir, 1, *(ir.at(p, (k, 4)) for p in (gate, up, out)), top, w)


@leaf
def swiglu_rows(job, u0, u1):
    """Rows of silu(min(gate, limit)) * clip(up, limit) * weight, written over gate.

    A_NEXT, where set, is a quantising job that each finished row goes through.
    """
    cols = load_i64(job + A_COLS)
    follow = load_i64(job + A_NEXT)
    for u in range(u0, u1):
        gate = load_i64(job + A_SRC) + u * cols * 4
        up = load_i64(job + A_UP) + u * cols * 4
        out = load_i64(job + A_ROW) + u * cols * 4
        weight = load_i64(job + A_WEIGHTS) + u * load_i64(job + A_STRIDE)
        _swiglu(gate, up, out, cols, job + A_LIMIT, weight)
        if follow != 0:
            call3(load_i64(follow + FN), follow, u, u + 1)
