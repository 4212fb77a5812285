"""Q2_K panels and their integer products.

Panel: the 21 dwords of a block as in the file (scales, codes, block scale and minimum), each as a
vector of 16 rows.
"""

from __future__ import annotations

from engine.ops.cpu.formats.dot_k import (
    HIGH16,
    LOW16,
    SLAB,
    emit_superblocks,
    half_at,
    stage,
    weighted_sums,
)
from engine.ops.cpu.runtime.leaf import leaf
from engine.ops.cpu.simd.ir import F32, I32, LANES, emitter, vec

BLOCK_A, BLOCK_B = 84 * LANES, 0
__all__ = ["BLOCK_A", "BLOCK_B", "SLAB", "decode", "dot1", "dot2", "dot4", "dot8", "pack"]

# Vectors 4p..4p+3 of the codes hold, at shift 2j, 16 values of this sub-block.
_SUB_BLOCK = [[8 * (p >> 1) + 2 * j + (p & 1) for j in range(4)] for p in range(4)]


def _header(ir, base):
    packed = [ir.load(ir.at(base, 64 * k), vec(I32), 64) for k in range(4)]
    d = ir.load(ir.at(base, 64 * 20), vec(I32), 64)
    scales = [ir.mask(v, 0x0F0F0F0F) for v in packed]
    minima = [ir.mask(ir.shr(v, 4), 0x0F0F0F0F) for v in packed]
    return half_at(ir, d, 0), half_at(ir, d, 1), scales, minima


def _in_order(ir, packed, convert):
    """The 16 sub-blocks' bytes in the order in which the codes' loop meets them."""
    return [convert(ir.byte(packed[s // 4], s % 4)) for row in _SUB_BLOCK for s in row]


def _first_value(ir, p):
    """256-value index of shift 0 of code vectors 4p."""
    b = ir.b
    half, odd = b.lshr(p, ir.c(1)), b.and_(p, ir.c(1))
    return b.add(b.shl(half, ir.c(7)), b.shl(odd, ir.c(4)))


def _totals(ir, xs, codes, scales):
    b = ir.b
    totals = [ir.var(ir.const(0, vec(I32))) for _ in xs]
    with ir.loop(4) as p:
        packed = [ir.load(ir.at(codes, (p, 256), 64 * q), vec(I32), 64) for q in range(4)]
        first = _first_value(ir, p)
        at = [b.add(x, first) for x in xs]
        for j in range(4):
            ints = [ir.const(0, vec(I32))] * len(xs)
            for q, v in enumerate(packed):
                w = ir.as_bytes(ir.mask(ir.shr(v, 2 * j), 0x03030303))
                for t, x in enumerate(at):
                    ints[t] = ir.dot(ints[t], w, ir.x_bytes(ir.at(x, 32 * j + 4 * q)))
            scale = ir.load(ir.at(scales, (p, 256), 64 * j), vec(I32), 64)
            for t, slot in enumerate(totals):
                b.store(b.add(b.load(slot), b.mul(ints[t], scale)), slot)
    return [b.load(slot) for slot in totals]


def _emit_dot(n):
    def emit(ir, acc, pa, pb, xt, b0, nb):
        def block(i, xs):
            base = ir.at(pa, (i, BLOCK_A))
            d, dmin, scales, minima = _header(ir, base)
            staged = stage(ir, _in_order(ir, scales, lambda s: s))
            totals = _totals(ir, xs, ir.at(base, 256), staged)
            lows = weighted_sums(ir, xs, minima, LOW16, HIGH16)
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
        ds = stage(ir, _in_order(ir, scales, lambda s: b.fmul(d, ir.floats(s))))
        ms = stage(ir, _in_order(ir, minima, lambda m: b.fmul(dmin, ir.floats(m))))
        out = ir.at(panel, (i, 256 * 64))
        with ir.loop(4) as p:
            first = _first_value(ir, p)
            with ir.loop(4) as q:
                v = ir.load(ir.at(base, 256, (p, 256), (q, 64)), vec(I32), 64)
                for j in range(4):
                    scale = ir.load(ir.at(ds, (p, 256), 64 * j), vec(F32), 64)
                    low = ir.load(ir.at(ms, (p, 256), 64 * j), vec(F32), 64)
                    for k in range(4):
                        code = ir.mask(ir.shr(v, 8 * k + 2 * j), 3)
                        value = b.fsub(b.fmul(scale, ir.floats(code)), low)
                        ir.store(value, ir.at(out, (first, 64), (q, 256), 2048 * j + 64 * k), 64)


@emitter
def _pack(ir, src, stride, n_rows, nb, pa, pb):
    rows = ir.row_addresses(src, stride, n_rows)
    with ir.loop(nb) as i:
        here = [ir.at(r, (i, 84)) for r in rows]
        at = ir.at(pa, (i, BLOCK_A))
        with ir.loop(5) as quad:
            moved = [ir.at(r, (quad, 16)) for r in here]
            for q, dwords in enumerate(ir.transpose4(moved, 0)):
                ir.store(dwords, ir.at(at, (quad, 256), 64 * q), 64)
        for r, row in enumerate(here):
            ir.store(ir.load(ir.at(row, 80), I32), ir.at(at, 64 * 20 + 4 * r), 4)


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
