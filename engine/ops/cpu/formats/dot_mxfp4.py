"""MXFP4 panels and their integer products; the arithmetic of `dot_q8_0` over a table of values.

Panel: area a holds the block exponents (16 bytes per block), area b the codes as in the file,
four vectors per block: low nibbles are values 0..15, high ones 16..31.
"""

from __future__ import annotations

from engine.ops.cpu.formats.dot_q8_0 import emit_blocks, emit_decode
from engine.ops.cpu.runtime.leaf import leaf
from engine.ops.cpu.simd.ir import F32, I8, I32, LANES, emitter, vec

BLOCK_A, BLOCK_B = LANES, 16 * LANES
SLAB = 64

# Twice the e2m1 values (OCP Microscaling Formats 1.0), plus 128; the scale is halved instead.
_MAGNITUDES = (0, 1, 2, 3, 4, 6, 8, 12)
_TABLE = [128 + m for m in _MAGNITUDES] + [128 - m for m in _MAGNITUDES]


def _block(ir, pa, pb):
    def block(i):
        low, high = [], []
        for k in range(4):
            codes = ir.load(ir.at(pb, (i, BLOCK_B), 64 * k), vec(I32), 64)
            low.append(ir.lookup(_TABLE, ir.as_bytes(ir.mask(codes, 0x0F0F0F0F))))
            high.append(ir.lookup(_TABLE, ir.as_bytes(ir.mask(ir.shr(codes, 4), 0x0F0F0F0F))))
        # Half of 2**(e - 127): an exponent below 2 gives a denormal.
        e = ir.b.zext(ir.load(ir.at(pa, (i, BLOCK_A)), vec(I8), 16), vec(I32))
        tiny = ir.b.icmp_unsigned("<", e, ir.const(2, vec(I32)))
        normal = ir.b.shl(ir.b.sub(e, ir.const(1, vec(I32))), ir.const(23, vec(I32)))
        first = ir.const(0x00200000, vec(I32))
        denormal = ir.b.select(
            ir.b.icmp_unsigned("==", e, ir.const(0, vec(I32))), first, ir.b.add(first, first)
        )
        scale = ir.b.bitcast(ir.b.select(tiny, denormal, normal), vec(F32))
        return low + high, scale

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
        here = [ir.at(r, (i, 17)) for r in rows]
        for r, row in enumerate(here):
            ir.store(ir.load(row, I8), ir.at(pa, (i, BLOCK_A), r))
        for q, codes in enumerate(ir.transpose4(here, 1)):
            ir.store(codes, ir.at(pb, (i, BLOCK_B), 64 * q), 64)


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
