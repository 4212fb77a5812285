"""NVFP4: blocks of 64 values, each sixteen of which share an unsigned e4m3 scale.

Activations are those of `blocks_32`, two of whose blocks meet one of these. A panel is one stream:
a vector of four scales a row, then eight vectors of codes as in the file.
"""

from __future__ import annotations

from engine.ops.cpu.formats.blocks_32 import E2M1_BIAS, E2M1_TABLE, SLAB, X_BYTES, X_SCALE
from engine.ops.cpu.formats.leaves import Leaves, make
from engine.ops.cpu.simd.ir import F32, I8, I32, I64, vec

BLOCK = 36
_PANEL = 9 * 64
FORMS = {"NVFP4": _PANEL}


def scale(ir, panel, sub: int):
    """Half of the e4m3 scale of sixteen values, as f32; the codes' values are doubled."""
    b, of = ir.b, vec(I32)
    bits = ir.byte(ir.load(panel, of, 64), sub)
    low = ir.mask(bits, 0x7F)
    # e4m3 has 7 for the exponent's bias where f32 has 127; one less for the half.
    normal = b.add(b.shl(low, ir.const(20, of)), ir.const(119 << 23, of))
    small = b.fmul(ir.floats(low), ir.const(2.0**-10, vec(F32)))
    tiny = b.icmp_unsigned("<", low, ir.const(8, of))
    value = b.select(tiny, small, b.bitcast(normal, vec(F32)))
    none = b.icmp_unsigned("==", bits, ir.const(0x7F, of))
    return b.select(none, ir.const(0.0, vec(F32)), value)


def _codes(ir, panel, sub: int):
    """Four vectors of bytes above the bias: the values of a sub-block in order."""
    two = [ir.load(ir.at(panel, 64 * (1 + 2 * sub + k)), vec(I32), 64) for k in range(2)]
    nibbles = [ir.mask(ir.shr(v, s), 0x0F0F0F0F) for s in (0, 4) for v in two]
    return [ir.lookup(E2M1_TABLE, ir.as_bytes(v)) for v in nibbles]


def _dot(n: int):
    """Per sixteen values and row: acc = fma(float(isum), dw * dx, acc), isum exact."""

    def emit(ir, acc, panel, xt, b0, nb):
        b = ir.b
        rows = [ir.at(ir.load(ir.at(xt, 8 * t), I64), (b0, 2 * X_BYTES)) for t in range(n)]
        sums = [ir.var(ir.load(ir.at(acc, 64 * t), vec(F32), 64)) for t in range(n)]
        with ir.loop(nb) as i:
            at = ir.at(panel, (i, _PANEL))
            xs = [ir.at(row, (i, 2 * X_BYTES)) for row in rows]
            for sub in range(4):
                factor, codes = scale(ir, at, sub), _codes(ir, at, sub)
                for x, slot in zip(xs, sums, strict=True):
                    half = ir.at(x, X_BYTES * (sub // 2))
                    values = ir.at(half, 16 * (sub % 2))
                    wide = b.sext(ir.load(values, vec(I8)), vec(I32))
                    total = ir.call("llvm.vector.reduce.add.v16i32", I32, wide)
                    ints = ir.splat(b.mul(total, ir.c(-E2M1_BIAS, I32)))
                    for k, w in enumerate(codes):
                        ints = ir.dot(ints, w, ir.x_bytes(ir.at(values, 4 * k)))
                    dx = ir.splat(ir.load(ir.at(half, X_SCALE), F32, 4))
                    b.store(ir.fma(ir.floats(ints), b.fmul(factor, dx), b.load(slot)), slot)
        for t, slot in enumerate(sums):
            ir.store(b.load(slot), ir.at(acc, 64 * t), 64)

    return emit


def _decode(ir, panel, nb, out):
    b = ir.b
    bias = ir.const(E2M1_BIAS, vec(I32))
    with ir.loop(nb) as i:
        at = ir.at(panel, (i, _PANEL))
        for sub in range(4):
            factor = scale(ir, at, sub)
            for q, w in enumerate(_codes(ir, at, sub)):
                for k in range(4):
                    value = b.fmul(factor, ir.floats(b.sub(ir.byte(ir.as_dwords(w), k), bias)))
                    ir.store(value, ir.at(out, (i, 64 * 64), 64 * (16 * sub + 4 * q + k)), 64)


def _pack(ir, src, stride, n_rows, nb, panel):
    def block(i, here):
        at = ir.at(panel, (i, _PANEL))
        for r, row in enumerate(here):
            ir.store(ir.load(row, I32), ir.at(at, 4 * r), 4)
        for quad in range(2):
            for q, dwords in enumerate(ir.transpose4(here, 4 + 16 * quad)):
                ir.store(dwords, ir.at(at, 64 * (1 + 4 * quad + q)), 64)

    ir.each_block(src, stride, n_rows, nb, BLOCK, block)


def leaves(name: str) -> Leaves:
    """Leaves of the format."""
    return make(name, _PANEL, SLAB // 2, _dot, _decode, _pack)
