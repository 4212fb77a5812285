"""Bit planes along a row: Q2_K to Q6_K, the ternary formats, and IQ4_XS.

Each 64 values in order are one vector: bytes are repeated in its halves and shifted by what each
half needs.
"""

from __future__ import annotations

from engine.ops.cpu.formats.blocks_32 import IQ4_TABLE
from engine.ops.cpu.formats.blocks_256 import WIDE
from engine.ops.cpu.one_row import blocks_256
from engine.ops.cpu.one_row.blocks_256 import BYTES, Form
from engine.ops.cpu.simd.ir import I8, I16, I32, I64, vec

_HALF = 32  # bytes of half a vector


def _twice(ir, at, offset: int):
    """32 bytes in both halves."""
    half = ir.load(ir.at(at, offset), vec(I8, _HALF))
    return ir.shuffle(half, half, list(range(_HALF)) * 2)


def shifted(ir, v, shifts, bits: int):
    """Each run of bytes shifted right by its own of `shifts`, cut to the bits of a byte mask."""
    n = v.type.count // 2
    words = ir.b.bitcast(v, vec(I16, n))
    by = [s for s in shifts for _ in range(n // len(shifts))]
    if any(by):
        words = ir.b.lshr(words, ir.const(by, vec(I16, n)))
    return ir.b.bitcast(ir.b.and_(words, ir.const(bits * 0x101, vec(I16, n))), v.type)


def _plus(ir, low, high, by: int):
    """low | high << by, where the bits of `high` stay in their bytes."""
    words = ir.b.shl(ir.b.bitcast(high, vec(I16, 32)), ir.const(by, vec(I16, 32)))
    return ir.b.or_(low, ir.b.bitcast(words, BYTES))


def _where(ir, v, bits, value: int):
    """`value` in each byte of which the bit of `bits`, one for each half, is set; 0 elsewhere."""
    each = [b - 256 if b > 127 else b for half in bits for b in [half] * _HALF]
    hit = ir.b.icmp_unsigned("!=", ir.b.and_(v, ir.const(each, BYTES)), ir.const(0, BYTES))
    return ir.b.select(hit, ir.const(value, BYTES), ir.const(0, BYTES))


def _nibbles(start: int):
    """Low nibbles of 32 bytes, then their high ones."""

    def codes(ir, at, xs):
        for c, x in enumerate(xs):
            yield shifted(ir, _twice(ir, at, start + _HALF * c), (0, 4), 0x0F), x

    return codes


def _two_bits(start: int):
    def codes(ir, at, xs):
        for c, x in enumerate(xs):
            first = 4 * (c % 2)
            v = _twice(ir, at, start + _HALF * (c // 2))
            yield shifted(ir, v, (first, first + 2), 3), x

    return codes


def _scales_q2_k(ir, at):
    return ir.b.zext(shifted(ir, ir.load(at, vec(I8, 16)), (0,), 0x0F), vec(I32))


def _minima_q2_k(ir, at):
    return shifted(ir, ir.load(at, vec(I8, 16)), (4,), 0x0F)


def _codes_q3_k(ir, at, xs):
    tops = _twice(ir, at, 0)
    for c, (low, x) in enumerate(_two_bits(32)(ir, at, xs)):
        yield ir.b.or_(low, _where(ir, tops, (1 << 2 * c, 2 << 2 * c), 4)), x


def _scales_q3_k(ir, at):
    """12 bytes: low nibbles of 8 and high ones of the same, then two bits each of four bytes."""
    b, of = ir.b, vec(I32, 4)
    v = ir.load(ir.at(at, 92), of)  # from four bytes ahead, so that the load ends with them
    low = b.lshr(ir.shuffle(v, v, (1, 2, 1, 2)), ir.const((0, 0, 4, 4), of))
    top = b.lshr(ir.shuffle(v, v, (3, 3, 3, 3)), ir.const((0, 2, 4, 6), of))
    top = b.shl(ir.mask(top, 0x03030303), ir.const(4, of))
    six = b.bitcast(b.or_(ir.mask(low, 0x0F0F0F0F), top), vec(I8, 16))
    return b.sext(b.sub(six, ir.const(32, six.type)), vec(I32))


def _six_bits(ir, at, low: int, top: int):
    """Eight 6-bit numbers as an i64: four whole, four of a nibble and the whole ones' top bits.

    ``low`` is where the whole ones are; ``top`` is which nibbles of the last four bytes count.
    """
    b = ir.b

    def dword(offset):
        return b.zext(ir.load(ir.at(at, offset), I32), I64)

    def masked(v, shift, bits):
        v = b.lshr(v, ir.c(shift)) if shift else v
        return b.and_(v, ir.c(bits))

    first, last = dword(low), dword(12)
    upper = b.or_(masked(last, top, 0x0F0F0F0F), b.shl(masked(first, 6, 0x03030303), ir.c(4)))
    return b.or_(masked(first, 0, 0x3F3F3F3F), b.shl(upper, ir.c(32)))


def _scales_q4_k(ir, at):
    eight = ir.b.bitcast(_six_bits(ir, at, 4, 0), vec(I8, 8))
    return ir.b.zext(eight, vec(I32, 8))


def _minima_q4_k(ir, at):
    two = ir.b.insert_element(ir.const(0, vec(I64, 2)), _six_bits(ir, at, 8, 4), ir.c(0, I32))
    return ir.b.bitcast(two, vec(I8, 16))


def _codes_q5_k(ir, at, xs):
    tops = _twice(ir, at, 16)
    for c, (low, x) in enumerate(_nibbles(48)(ir, at, xs)):
        yield ir.b.or_(low, _where(ir, tops, (1 << 2 * c, 2 << 2 * c), 16)), x


def _codes_q6_k(ir, at, xs):
    for c, x in enumerate(xs):
        half, high = divmod(c, 2)
        low = shifted(ir, ir.load(ir.at(at, 64 * half), BYTES), (4 * high,), 0x0F)
        top = shifted(ir, _twice(ir, at, 128 + _HALF * half), (4 * high, 4 * high + 2), 3)
        yield _plus(ir, low, top, 4), x


def _scales_q6_k(ir, at):
    return ir.b.sext(ir.load(ir.at(at, 192), vec(I8, 16)), vec(I32))


# -- TQ1_0: the source byte of each value, and the power of three that brings its digit to the front

_DIGIT = [(i % 32, i // 32) for i in range(160)]
_DIGIT += [(32 + i % 16, i // 16) for i in range(80)]
_DIGIT += [(48 + i % 4, i // 4) for i in range(16)]


def _codes_tq1_0(ir, at, xs):
    b = ir.b
    # 52 bytes of digits; the load ends two bytes on, with the factor.
    parts = [ir.load(ir.at(at, offset), vec(I8, n)) for offset, n in ((0, 32), (32, 16), (38, 16))]
    tail = ir.shuffle(parts[1], parts[2], (*range(16), *range(26, 32), *[26] * 10))
    whole = ir.shuffle(parts[0], tail, range(64))
    for c, x in enumerate(xs):
        digits = _DIGIT[64 * c : 64 * c + 64]
        v = ir.shuffle(whole, whole, [byte for byte, _ in digits])
        powers = [3**p % 256 for _, p in digits]
        v = b.mul(v, ir.const([p - 256 if p > 127 else p for p in powers], BYTES))
        found = [b.icmp_unsigned(">=", v, ir.const(least, BYTES)) for least in (86, 171 - 256)]
        yield b.add(*(b.zext(hit, BYTES) for hit in found)), x


# -- IQ4_XS


def nibble_pairs(ir, v):
    """Of 32 bytes, each 16's low nibbles, then their high ones."""
    lanes = [16 * (k // 32) + k % 16 for k in range(64)]
    return shifted(ir, ir.shuffle(v, v, lanes), (0, 4, 0, 4), 0x0F)


def _codes_iq4_xs(ir, at, xs):
    for c, x in enumerate(xs):
        v = ir.load(ir.at(at, 8 + _HALF * c), vec(I8, _HALF))
        yield ir.lookup(IQ4_TABLE, nibble_pairs(ir, v)), x


def _scales_iq4_xs(ir, at):
    b, of = ir.b, vec(I32, 8)
    low = ir.splat(ir.load(ir.at(at, 4), I32), 8)
    top = ir.splat(b.zext(ir.load(ir.at(at, 2), I16), I32), 8)
    low = ir.mask(b.lshr(low, ir.const(range(0, 32, 4), of)), 15)
    top = b.shl(ir.mask(b.lshr(top, ir.const(range(0, 16, 2), of)), 3), ir.const(4, of))
    return b.sub(b.or_(low, top), ir.const(32, of))


FORMS = {
    "Q2_K": Form(84, _two_bits(16), _scales_q2_k, 80, minima=_minima_q2_k, low_half=82, by_16=True),
    "Q3_K": Form(110, _codes_q3_k, _scales_q3_k, 108, bias=4),
    "Q4_K": Form(144, _nibbles(16), _scales_q4_k, minima=_minima_q4_k, low_half=2),
    "Q5_K": Form(176, _codes_q5_k, _scales_q4_k, minima=_minima_q4_k, low_half=2),
    "Q6_K": Form(210, _codes_q6_k, _scales_q6_k, 208, bias=32),
    "TQ2_0": Form(66, _two_bits(0), None, 64, bias=1),
    "TQ1_0": Form(54, _codes_tq1_0, None, 52, bias=1),
    "IQ4_XS": Form(136, _codes_iq4_xs, _scales_iq4_xs, bias=WIDE),
}


def emit(name: str):
    """Emitting function of the product of a format of `FORMS`."""
    return blocks_256.emit(FORMS[name])
