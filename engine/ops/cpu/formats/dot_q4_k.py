"""Q4_K panels and their integer products.

Panel: the 36 dwords of a block as in the file, each as a vector of 16 rows.
"""

from __future__ import annotations

from engine.ops.cpu.formats.dot_k import (
    HIGH32,
    LOW32,
    SLAB,
    decode_nibbles,
    emit_superblocks,
    half_at,
    nibble_sums,
    stage,
    weighted_sums,
)
from engine.ops.cpu.runtime.leaf import leaf
from engine.ops.cpu.simd.ir import F32, I32, LANES, emitter, vec

BLOCK_A, BLOCK_B = 144 * LANES, 0
__all__ = ["BLOCK_A", "BLOCK_B", "SLAB", "decode", "dot1", "dot2", "dot4", "dot8", "pack"]


def _header(ir, base):
    """Block scale, block minimum, and two dwords each of eight 6-bit scales and minima."""
    b = ir.b
    d, s0, s1, s2 = (ir.load(ir.at(base, 64 * k), vec(I32), 64) for k in range(4))

    def upper(low_bits, s):
        top = ir.mask(ir.shr(s, 6), 0x03030303)
        return b.or_(ir.mask(low_bits, 0x0F0F0F0F), b.shl(top, ir.const(4, vec(I32))))

    scales = [ir.mask(s0, 0x3F3F3F3F), upper(s2, s0)]
    minima = [ir.mask(s1, 0x3F3F3F3F), upper(ir.shr(s2, 4), s1)]
    return half_at(ir, d, 0), half_at(ir, d, 1), scales, minima


def _emit_dot(n):
    def emit(ir, acc, pa, pb, xt, b0, nb):
        def block(i, xs):
            base = ir.at(pa, (i, BLOCK_A))
            d, dmin, scales, minima = _header(ir, base)
            staged = stage(ir, [ir.byte(s, k) for s in scales for k in range(4)])
            totals = nibble_sums(ir, xs, ir.at(base, 256), staged, lambda w: w)
            lows = weighted_sums(ir, xs, minima, LOW32, HIGH32)
            down = ir.b.fneg(dmin)
            return [((s, d), (m, down)) for s, m in zip(totals, lows, strict=True)]

        emit_superblocks(ir, n, acc, xt, b0, nb, block)

    return emitter(emit)


_dot1, _dot2, _dot4, _dot8 = (_emit_dot(n) for n in (1, 2, 4, 8))


@emitter
def _decode(ir, pa, pb, nb, panel):
    b = ir.b
    with ir.loop(nb) as i:
        base = ir.at(pa, (i, BLOCK_A))
        d, dmin, scales, minima = _header(ir, base)
        ds = stage(ir, [b.fmul(d, ir.floats(ir.byte(s, k))) for s in scales for k in range(4)])
        ms = stage(ir, [b.fmul(dmin, ir.floats(ir.byte(m, k))) for m in minima for k in range(4)])

        def value(codes, c, sub):
            scale = ir.load(ir.at(ds, (c, 128), 64 * sub), vec(F32), 64)
            low = ir.load(ir.at(ms, (c, 128), 64 * sub), vec(F32), 64)
            return [b.fsub(b.fmul(scale, ir.floats(ir.byte(codes, k))), low) for k in range(4)]

        decode_nibbles(ir, ir.at(base, 256), ir.at(panel, (i, 256 * 64)), value)


@emitter
def _pack(ir, src, stride, n_rows, nb, pa, pb):
    rows = ir.row_addresses(src, stride, n_rows)
    with ir.loop(nb) as i, ir.loop(9) as quad:
        here = [ir.at(r, (i, 144), (quad, 16)) for r in rows]
        at = ir.at(pa, (i, BLOCK_A), (quad, 256))
        for q, dwords in enumerate(ir.transpose4(here, 0)):
            ir.store(dwords, ir.at(at, 64 * q), 64)


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
