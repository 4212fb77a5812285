"""Q8_0 panels and their integer products: one f32 step per block of 32.

Panel: area a holds the block scales (16 f16 per block), area b the bytes plus 128, as eight
vectors per block, each with four consecutive values of 16 rows.
"""

from __future__ import annotations

from engine.ops.cpu.runtime.leaf import leaf
from engine.ops.cpu.simd.ir import F32, I16, I32, I64, LANES, emitter, vec

BLOCK_A, BLOCK_B = 2 * LANES, 32 * LANES
# Offsets in a block of activations, after its 32 values: the f32 scale, and -128 * their sum.
X_SCALE, X_LIFT, X_BYTES = 32, 36, 40
SLAB = 64  # blocks that a call covers; sized for the L1 cache, no part of the arithmetic


def emit_blocks(ir, n, acc, xt, b0, nb, block):
    """Sum blocks of 32 into n output vectors.

    ``block(index)`` gives the eight vectors of biased bytes and the scales. Per block and row:
    acc = fma(float(isum), dw * dx, acc), isum exact.
    """
    b = ir.b
    rows = [ir.at(ir.load(ir.at(xt, 8 * t), I64), (b0, X_BYTES)) for t in range(n)]
    sums = [ir.var(ir.load(ir.at(acc, 64 * t), vec(F32), 64)) for t in range(n)]
    with ir.loop(nb) as i:
        weights, scale = block(i)
        xs = [ir.at(row, (i, X_BYTES)) for row in rows]
        chains = 2 if n == 1 else 1
        ints = []
        for t in range(n):
            start = ir.const(0, vec(I32))
            if ir.biased:
                start = ir.splat(ir.load(ir.at(xs[t], X_LIFT), I32, 4))
            ints.append([start, *[ir.const(0, vec(I32))] * (chains - 1)])
        for k, w in enumerate(weights):
            for t in range(n):
                x = ir.x_bytes(ir.at(xs[t], 4 * k))
                ints[t][k % chains] = ir.dot_wide(ints[t][k % chains], w, x)
        for t in range(n):
            total = ints[t][0] if chains == 1 else b.add(*ints[t])
            dx = ir.splat(ir.load(ir.at(xs[t], X_SCALE), F32, 4))
            step = ir.fma(ir.floats(total), b.fmul(scale, dx), b.load(sums[t]))
            b.store(step, sums[t])
    for t in range(n):
        ir.store(b.load(sums[t]), ir.at(acc, 64 * t), 64)


def emit_decode(ir, nb, panel, block):
    """Write blocks as f32: 32 vectors each."""
    with ir.loop(nb) as i:
        weights, scale = block(i)
        for q, w in enumerate(weights):
            signed = ir.as_dwords(ir.b.xor(w, ir.const(-128, w.type)))
            for k in range(4):
                value = ir.b.fmul(scale, ir.floats(ir.byte(signed, k, True)))
                ir.store(value, ir.at(panel, (i, 32 * 64), 64 * (4 * q + k)), 64)


def _block(ir, pa, pb):
    def block(i):
        at = ir.at(pb, (i, BLOCK_B))
        weights = [ir.as_bytes(ir.load(ir.at(at, 64 * k), vec(I32), 64)) for k in range(8)]
        return weights, ir.from_half(ir.load(ir.at(pa, (i, BLOCK_A)), vec(I16), 32))

    return block


def _emit_dot(n):
    def emit(ir, acc, pa, pb, xt, b0, nb):
        emit_blocks(ir, n, acc, xt, b0, nb, _block(ir, pa, pb))

    return emitter(emit)


_dot1, _dot2, _dot4, _dot8 = (_emit_dot(n) for n in (1, 2, 4, 8))


@emitter
def _decode(ir, pa, pb, nb, panel):
    emit_decode(ir, nb, panel, _block(ir, pa, pb))


@emitter
def _pack(ir, src, stride, n_rows, nb, pa, pb):
    rows = ir.row_addresses(src, stride, n_rows)
    with ir.loop(nb) as i:
        here = [ir.at(r, (i, 34)) for r in rows]
        for r, row in enumerate(here):
            ir.store(ir.load(row, I16), ir.at(pa, (i, BLOCK_A), 2 * r), 2)
        for half in range(2):
            for q, v in enumerate(ir.transpose4(here, 2 + 16 * half)):
                biased = ir.b.xor(v, ir.const(-0x7F7F7F80, vec(I32)))
                ir.store(biased, ir.at(pb, (i, BLOCK_B), 256 * half + 64 * q), 64)


@leaf
def dot1(acc, pa, pb, xt, b0, nb):
    _dot1(acc, pa, pb, xt, b0, nb)


@leaf
def dot2(acc, pa, pb, xt, b0, nb):
    _dot2(acc, pa, pb, xt, b0, nb)


@leaf
def dot4(acc, pa, pb, xt, b0, nb):
    _dot4(acc, pa, pb, xt, b0, nb)


@leaf
def dot8(acc, pa, pb, xt, b0, nb):
    _dot8(acc, pa, pb, xt, b0, nb)


@leaf
def decode(pa, pb, nb, panel):
    _decode(pa, pb, nb, panel)


@leaf
def pack(src, stride, n_rows, nb, pa, pb):
    _pack(src, stride, n_rows, nb, pa, pb)
