"""Products of f32 rows with a panel of f32 weights, and the float formats' panels.

A panel holds 16 rows of a weight, interleaved: value k of the 16 rows is one vector. Products
run over at most 256 values at a time; even and odd k are summed apart, then both are added to
the output in one step, so an output's sum is the same whatever else is computed beside it.
"""

from __future__ import annotations

from engine.ops.cpu.runtime.leaf import leaf
from engine.ops.cpu.simd.ir import F32, I1, I16, I32, I64, emitter, vec

SLAB = 256  # values that one call of a dot leaf covers; part of the order of summation


def _emit_dot(n):
    def emit(ir, acc, panel, xt, k0, nk):
        b = ir.b
        rows = [ir.at(ir.load(ir.at(xt, 8 * t), I64), (k0, 4)) for t in range(n)]
        zero = ir.const(0.0, vec(F32))
        even = [ir.var(zero) for _ in range(n)]
        odd = [ir.var(zero) for _ in range(n)]

        def step(sums, k):
            weights = ir.load(ir.at(panel, (k, 64)), vec(F32), 64)
            for row, slot in zip(rows, sums, strict=True):
                x = ir.splat(ir.load(ir.at(row, (k, 4)), F32, 4))
                b.store(ir.fma(weights, x, b.load(slot)), slot)

        with ir.loop(b.lshr(nk, ir.c(1))) as pair:
            first = b.shl(pair, ir.c(1))
            step(even, first)
            step(odd, b.add(first, ir.c(1)))
        with b.if_then(b.trunc(nk, I1)):
            step(even, b.sub(nk, ir.c(1)))
        for t in range(n):
            out = ir.at(acc, 64 * t)
            part = b.fadd(b.load(even[t]), b.load(odd[t]))
            ir.store(b.fadd(ir.load(out, vec(F32), 64), part), out, 64)

    return emitter(emit)


_dot1, _dot2, _dot4, _dot8 = (_emit_dot(n) for n in (1, 2, 4, 8))


@leaf
def dot1(acc, panel, xt, k0, nk):
    _dot1(acc, panel, xt, k0, nk)


@leaf
def dot2(acc, panel, xt, k0, nk):
    _dot2(acc, panel, xt, k0, nk)


@leaf
def dot4(acc, panel, xt, k0, nk):
    _dot4(acc, panel, xt, k0, nk)


@leaf
def dot8(acc, panel, xt, k0, nk):
    _dot8(acc, panel, xt, k0, nk)


@emitter
def _pack_f32(ir, src, stride, n_rows, nb, panel):
    b = ir.b
    rows = ir.row_addresses(src, stride, n_rows)
    quads = b.lshr(nb, ir.c(2))
    with ir.loop(quads) as i:
        at = ir.at(panel, (i, 256))
        for k, value in enumerate(ir.transpose4([ir.at(r, (i, 16)) for r in rows], 0)):
            ir.store(value, ir.at(at, 64 * k), 64)
    done = b.shl(quads, ir.c(2))
    with ir.loop(b.sub(nb, done)) as i:
        k = b.add(done, i)
        for r, row in enumerate(rows):
            ir.store(ir.load(ir.at(row, (k, 4)), I32), ir.at(panel, (k, 64), 4 * r), 4)


@emitter
def _pack_16bit(ir, src, stride, n_rows, nb, panel):
    b = ir.b
    rows = ir.row_addresses(src, stride, n_rows)
    octets = b.lshr(nb, ir.c(3))
    with ir.loop(octets) as i:
        at = ir.at(panel, (i, 256))
        for q, pair in enumerate(ir.transpose4([ir.at(r, (i, 16)) for r in rows], 0)):
            ir.store(b.trunc(pair, vec(I16)), ir.at(at, 64 * q), 32)
            ir.store(b.trunc(ir.shr(pair, 16), vec(I16)), ir.at(at, 64 * q + 32), 32)
    done = b.shl(octets, ir.c(3))
    with ir.loop(b.sub(nb, done)) as i:
        k = b.add(done, i)
        for r, row in enumerate(rows):
            ir.store(ir.load(ir.at(row, (k, 2)), I16), ir.at(panel, (k, 32), 2 * r), 2)


@emitter
def _decode_f16(ir, panel, nb, out):
    with ir.loop(nb) as k:
        bits = ir.load(ir.at(panel, (k, 32)), vec(I16), 32)
        ir.store(ir.from_half(bits), ir.at(out, (k, 64)), 64)


@emitter
def _decode_bf16(ir, panel, nb, out):
    with ir.loop(nb) as k:
        bits = ir.b.zext(ir.load(ir.at(panel, (k, 32)), vec(I16), 32), vec(I32))
        ir.store(ir.b.shl(bits, ir.const(16, vec(I32))), ir.at(out, (k, 64)), 64)


@leaf
def pack_f32(src, stride, n_rows, nb, panel):
    _pack_f32(src, stride, n_rows, nb, panel)


@leaf
def pack_16bit(src, stride, n_rows, nb, panel):
    _pack_16bit(src, stride, n_rows, nb, panel)


@leaf
def decode_f16(panel, nb, out):
    _decode_f16(panel, nb, out)


@leaf
def decode_bf16(panel, nb, out):
    _decode_bf16(panel, nb, out)
