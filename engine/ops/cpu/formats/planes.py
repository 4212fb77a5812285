"""Formats whose codes are bit planes: Q2_K to Q6_K, TQ2_0 and TQ1_0.

Panels hold a block's dwords as in the file, each as a vector of 16 rows. TQ1_0, whose bytes hold
five ternary digits, becomes the two-bit codes of TQ2_0 when its panel is made.
"""

from __future__ import annotations

from engine.ops.cpu.formats.blocks_256 import (
    PLANE_ORDER,
    Form,
    Header,
    emit_pack_dwords,
    half_at,
    leaves_of,
    nibble_runs,
    plane_runs,
)
from engine.ops.cpu.formats.leaves import Leaves
from engine.ops.cpu.simd.ir import I8, I16, I32, vec


def _vector(ir, base, k: int, *terms):
    return ir.load(ir.at(base, 64 * k, *terms), vec(I32), 64)


def _shifted(ir, v, by):
    """v >> by in every lane; `by` is an i64 value."""
    return ir.b.lshr(v, ir.splat(ir.b.trunc(by, I32)))


def _or(ir, low, high, by: int):
    return ir.b.or_(low, ir.b.shl(high, ir.const(by, vec(I32))))


# -- two bits: Q2_K, and the ternary formats


def _two_bits(first_vector: int):
    def code(ir, base, half, odd, j, q):
        v = _vector(ir, base, first_vector + q, (half, 512), (odd, 256))
        return ir.as_bytes(ir.mask(ir.shr(v, 2 * j), 0x03030303))

    return plane_runs(code)


def _header_q2_k(ir, base):
    packed = [_vector(ir, base, k) for k in range(4)]
    d = _vector(ir, base, 20)
    scales = [ir.mask(v, 0x0F0F0F0F) for v in packed]
    minima = [ir.mask(ir.shr(v, 4), 0x0F0F0F0F) for v in packed]
    return Header(half_at(ir, d, 0), scales, half_at(ir, d, 1), minima)


def _header_ternary(ir, base):
    return Header(half_at(ir, _vector(ir, base, 16), 0), None)


def _digits(ir, trits):
    """The leading ternary digit of every byte: the byte * 3 >> 8."""
    b, of = ir.b, vec(I8, 64)
    found = [b.icmp_unsigned(">=", trits, ir.const(least, of)) for least in (86, 171 - 256)]
    return b.add(*(b.zext(hit, of) for hit in found))


def _pack_tq1_0(ir, src, stride, n_rows, nb, panel):
    """Bytes 0..31 hold values 32p + i, 32..47 values 160 + 16p + i, 48..51 values 240 + 4p + i,
    where p counts the digits from the first."""
    b = ir.b

    def block(i, here):
        at = ir.at(panel, (i, 64 * 17))
        dwords = [v for quad in range(3) for v in ir.transpose4(here, 16 * quad)]
        for r, row in enumerate(here):
            ir.store(ir.load(ir.at(row, 48), I32), ir.at(at, 4 * r), 4)
        dwords.append(_vector(ir, at, 0))
        fours = {}  # four values each, by their number
        for k, v in enumerate(dwords):
            trits = ir.as_bytes(v)
            start, step, n = (k, 8, 5) if k < 8 else (40 + k - 8, 4, 5) if k < 12 else (60, 1, 4)
            for p in range(n):
                fours[start + step * p] = _digits(ir, trits)
                trits = b.add(trits, b.add(trits, trits))
        for k in range(16):
            half, q = divmod(k, 8)
            codes = ir.const(0, vec(I32))
            for j in range(4):
                codes = _or(ir, codes, ir.as_dwords(fours[32 * half + 8 * j + q]), 2 * j)
            ir.store(codes, ir.at(at, 64 * k), 64)
        for r, row in enumerate(here):
            last = b.zext(ir.load(ir.at(row, 52), I16), I32)
            ir.store(last, ir.at(at, 64 * 16 + 4 * r), 4)

    ir.each_block(src, stride, n_rows, nb, 54, block)


# -- nibbles with 6-bit scales and minima: Q4_K and Q5_K


def _header_q4_k(ir, base):
    """Block scale, block minimum, and two dwords each of eight 6-bit scales and minima."""
    d, s0, s1, s2 = (_vector(ir, base, k) for k in range(4))

    def upper(low_bits, s):
        top = ir.mask(ir.shr(s, 6), 0x03030303)
        return _or(ir, ir.mask(low_bits, 0x0F0F0F0F), top, 4)

    scales = [ir.mask(s0, 0x3F3F3F3F), upper(s2, s0)]
    minima = [ir.mask(s1, 0x3F3F3F3F), upper(ir.shr(s2, 4), s1)]
    return Header(half_at(ir, d, 0), scales, half_at(ir, d, 1), minima)


_NIBBLES = nibble_runs(4, 32, lambda ir, nibbles, *_: ir.as_bytes(nibbles))


def _fifth_bit(ir, nibbles, base, p, half, j):
    """Bit s of byte i of the second plane belongs to value i of sub-block s = 2p + half."""
    high = _shifted(ir, _vector(ir, base, 4 + j), ir.at(ir.b.shl(p, ir.c(1)), half))
    return ir.as_bytes(_or(ir, nibbles, ir.mask(high, 0x01010101), 4))


# -- Q3_K and Q6_K: two planes, signed scales


def _header_q3_k(ir, base):
    b = ir.b
    a, c, tops = (_vector(ir, base, k) for k in (24, 25, 26))
    scales = []
    for g, low in enumerate((a, c, ir.shr(a, 4), ir.shr(c, 4))):
        top = ir.mask(ir.shr(tops, 2 * g), 0x03030303)
        six = _or(ir, ir.mask(low, 0x0F0F0F0F), top, 4)
        # Minus 32 in every byte, without a borrow between bytes.
        high = ir.const(-0x7F7F7F80, vec(I32))
        less = b.sub(b.or_(six, high), ir.const(0x20202020, vec(I32)))
        scales.append(b.xor(less, high))
    return Header(half_at(ir, _vector(ir, base, 27), 0), scales)


def _code_q3_k(ir, base, half, odd, j, q):
    b = ir.b
    low = ir.mask(ir.shr(_vector(ir, base, 8 + q, (half, 512), (odd, 256)), 2 * j), 0x03030303)
    by = ir.at(b.shl(half, ir.c(2)), j)
    high = ir.mask(_shifted(ir, _vector(ir, base, q, (odd, 256)), by), 0x01010101)
    return ir.as_bytes(_or(ir, low, high, 2))


def _header_q6_k(ir, base):
    d = half_at(ir, _vector(ir, base, 52), 0)
    return Header(d, [_vector(ir, base, 48 + g) for g in range(4)])


def _code_q6_k(ir, base, half, odd, j, q):
    low = _vector(ir, base, 8 * (j & 1) + q, (half, 1024), (odd, 256))
    low = ir.mask(ir.shr(low, 4 * (j >> 1)), 0x0F0F0F0F)
    high = _vector(ir, base, 32 + q, (half, 512), (odd, 256))
    high = ir.mask(ir.shr(high, 2 * j), 0x03030303)
    return ir.as_bytes(_or(ir, low, high, 4))


_EIGHT = list(range(8))
FORMS = {
    "Q2_K": Form(21, 16, _header_q2_k, _two_bits(4), PLANE_ORDER, 0, emit_pack_dwords(84)),
    "Q3_K": Form(
        28, 16, _header_q3_k, plane_runs(_code_q3_k), PLANE_ORDER, 4, emit_pack_dwords(110), True
    ),
    "Q4_K": Form(36, 32, _header_q4_k, _NIBBLES, _EIGHT, 0, emit_pack_dwords(144)),
    "Q5_K": Form(
        44, 32, _header_q4_k, nibble_runs(12, 32, _fifth_bit), _EIGHT, 0, emit_pack_dwords(176)
    ),
    "Q6_K": Form(
        53, 16, _header_q6_k, plane_runs(_code_q6_k), PLANE_ORDER, 32, emit_pack_dwords(210), True
    ),
    "TQ2_0": Form(17, 32, _header_ternary, _two_bits(0), PLANE_ORDER, 1, emit_pack_dwords(66)),
    "TQ1_0": Form(17, 32, _header_ternary, _two_bits(0), PLANE_ORDER, 1, _pack_tq1_0),
}


def leaves(name: str) -> Leaves:
    """Leaves of a format of `FORMS`."""
    return leaves_of(name, FORMS[name])
