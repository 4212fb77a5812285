"""Codebook formats along a row, IQ1_S to IQ3_S: indices and signs as vectors, and scales.

What indices mean is the codebook's (`grids`). Signs are given to the activations, so that codes
stay magnitudes.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.ops.cpu.one_row import blocks_256
from engine.ops.cpu.one_row.blocks_256 import BYTES, Form
from engine.ops.cpu.one_row.grids import WORDS, Book, multishift, values_at
from engine.ops.cpu.simd.ir import I1, I8, I16, I32, I64, vec

_IQ1_BIAS = 9


# -- pieces of blocks


def _bytes(ir, at, offset: int, n: int):
    """n bytes as <n x i16>."""
    return ir.b.zext(ir.load(ir.at(at, offset), vec(I8, n)), vec(I16, n))


def _fields(ir, v, shifts, bits: int, shl: int = 0):
    """From each element as many fields as there are shifts, cut to `bits` and moved up."""
    b = ir.b
    n = v.type.count * len(shifts)
    wide = vec(v.type.element, n)
    each = ir.shuffle(v, v, [k // len(shifts) for k in range(n)])
    each = b.lshr(each, ir.const(list(shifts) * v.type.count, wide))
    each = b.and_(each, ir.const((1 << bits) - 1, wide))
    return b.shl(each, ir.const(shl, wide)) if shl else each


def _even(ir, sevens):
    """<32 x i8> of signs from <32 x i16> of seven bits: the eighth makes their number even."""
    b = ir.b
    folded = sevens
    for by in (4, 2, 1):
        folded = b.xor(folded, ir.shr(folded, by))
    eighth = b.shl(folded, ir.const(7, WORDS))
    return b.trunc(b.or_(sevens, eighth), vec(I8, 32))


def _even_signs_of_dwords(ir, dwords):
    """The signs of eight dwords that hold four times seven bits each."""
    if ir.isa == "avx512vbmi":
        wide = ir.b.zext(dwords, vec(I64, 8))
        sevens = multishift(ir, wide, (0, 7, 14, 21, 0, 0, 0, 0))
        # Rows of the matrix are the results' bits, the first row the highest bit's: all seven.
        matrix = sum((0x7F if k == 7 else 1 << k) << 8 * (7 - k) for k in range(8))
        matrix = ir.b.bitcast(ir.const(matrix, vec(I64, 8)), BYTES)
        name = "llvm.x86.vgf2p8affineqb.512"
        signs = ir.call(name, BYTES, sevens, matrix, ir.c(0, I8))
        low = ir.b.trunc(ir.b.bitcast(signs, vec(I64, 8)), vec(I32, 8))
        return ir.b.bitcast(low, vec(I8, 32))
    sevens = _fields(ir, dwords, range(0, 28, 7), 7)
    return _even(ir, ir.b.trunc(sevens, WORDS))


def _signed(ir, x, negative):
    """x, negated where the mask is set; no activation is -128."""
    return ir.b.select(negative, ir.b.neg(x), x)


def _masks(ir, signs):
    """Of 32 bytes of sign bits four masks of 64."""
    bit = [1 << k if k < 7 else -128 for k in range(8)] * 8
    for c in range(4):
        each = ir.shuffle(signs, signs, [8 * c + k // 8 for k in range(64)])
        hit = ir.b.and_(each, ir.const(bit, BYTES))
        yield ir.b.icmp_unsigned("!=", hit, ir.const(0, BYTES))


def _stored_masks(ir, at, offset: int):
    for c in range(4):
        yield ir.b.bitcast(ir.load(ir.at(at, offset + 8 * c), I64), vec(I1, 64))


def _coded(book: Book, indices: Callable, masks: Callable):
    """The codes of a format whose signs go to the activations."""

    def codes(ir, at, xs):
        values = values_at(ir, book, indices(ir, at))
        for value, negative, x in zip(values, masks(ir, at), xs, strict=True):
            yield value, _signed(ir, x, negative)

    return codes


def _odd(ir, s):
    return ir.b.or_(ir.b.shl(s, ir.const(1, s.type)), ir.const(1, s.type))


def _nibbles(start: int, n: int):
    """Odd numbers 2s + 1 of 2n nibbles, low ones first."""

    def scales(ir, at):
        return _odd(
            ir, ir.b.zext(_fields(ir, _bytes(ir, at, start, n), (0, 4), 4), vec(I32, 2 * n))
        )

    return scales


def _top_nibbles(load: Callable):
    """Odd numbers of the high four bits of eight dwords."""

    def scales(ir, at):
        return _odd(ir, ir.shr(load(ir, at), 28))

    return scales


def _halves(ir, v) -> list:
    """<64 x i16> in two parts, or a vector of 32 alone."""
    if v.type.count == 32:
        return [v]
    return [ir.shuffle(v, v, range(32 * k, 32 * k + 32)) for k in range(2)]


# -- IQ2_XXS, IQ2_XS, IQ2_S


def _pairs_iq2_xxs(ir, at):
    """Eight qwords: four indices, then the signs and the scale."""
    return ir.load(ir.at(at, 2), vec(I64, 8))


def _dwords_iq2_xxs(ir, at):
    return ir.b.trunc(ir.shr(_pairs_iq2_xxs(ir, at), 32), vec(I32, 8))


def _indices_iq2_xxs(ir, at):
    whole = ir.load(ir.at(at, 2), BYTES)
    picked = ir.shuffle(whole, whole, [8 * (k // 4) + k % 4 for k in range(32)])
    return [ir.b.zext(picked, WORDS)]


def _masks_iq2_xxs(ir, at):
    return _masks(ir, _even_signs_of_dwords(ir, _dwords_iq2_xxs(ir, at)))


def _words_iq2_xs(ir, at):
    return ir.load(ir.at(at, 2), WORDS)


def _indices_iq2_xs(ir, at):
    return [ir.mask(_words_iq2_xs(ir, at), 511)]


def _masks_iq2_xs(ir, at):
    return _masks(ir, _even(ir, ir.shr(_words_iq2_xs(ir, at), 9)))


def _indices_iq2_s(ir, at):
    tops = _fields(ir, _bytes(ir, at, 66, 8), range(0, 8, 2), 2, 8)
    return [ir.b.or_(_bytes(ir, at, 2, 32), tops)]


# -- IQ3_XXS, IQ3_S


def _dwords_iq3_xxs(ir, at):
    return ir.load(ir.at(at, 66), vec(I32, 8))


def _indices_iq3_xxs(ir, at):
    return _halves(ir, _bytes(ir, at, 2, 64))


def _masks_iq3_xxs(ir, at):
    return _masks(ir, _even_signs_of_dwords(ir, _dwords_iq3_xxs(ir, at)))


def _indices_iq3_s(ir, at):
    tops = _fields(ir, _bytes(ir, at, 66, 8), range(8), 1, 8)
    return _halves(ir, ir.b.or_(_bytes(ir, at, 2, 64), tops))


# -- IQ1_S, IQ1_M: no signs, but all eight values of a row are moved by an eighth up or down


def _moved(ir, values, down, xs):
    """Values above the bias: one down where the mask is set, one up elsewhere."""
    for value, mask, x in zip(values, down, xs, strict=True):
        moved = ir.b.select(mask, ir.const(-1, BYTES), ir.const(1, BYTES))
        yield ir.b.add(value, moved), x


def _eights(ir, flags):
    """Of <32 x i16>, of which one bit counts, four masks that repeat each element eight times."""
    whole = ir.b.trunc(flags, vec(I8, 32))
    for c in range(4):
        each = ir.shuffle(whole, whole, [8 * c + k // 8 for k in range(64)])
        yield ir.b.icmp_unsigned("!=", each, ir.const(0, BYTES))


def _codes_iq1_s(ir, at, xs):
    tops = ir.load(ir.at(at, 34), vec(I16, 8))
    high = _fields(ir, tops, range(0, 12, 3), 3, 8)
    indices = ir.b.or_(_bytes(ir, at, 2, 32), high)
    down = _eights(ir, _fields(ir, tops, (15,) * 4, 1))
    yield from _moved(ir, values_at(ir, _IQ1, [indices]), down, xs)


def _scales_iq1_s(ir, at):
    tops = ir.load(ir.at(at, 34), vec(I16, 8))
    return _odd(ir, ir.b.zext(ir.mask(ir.shr(tops, 12), 7), vec(I32, 8)))


def _codes_iq1_m(ir, at, xs):
    tops = _bytes(ir, at, 32, 16)
    indices = ir.b.or_(_bytes(ir, at, 0, 32), _fields(ir, tops, (0, 4), 3, 8))
    down = _eights(ir, _fields(ir, tops, (3, 7), 1))
    yield from _moved(ir, values_at(ir, _IQ1, [indices]), down, xs)


def _scales_iq1_m(ir, at):
    words = ir.load(ir.at(at, 48), vec(I16, 4))
    return _odd(ir, ir.b.zext(_fields(ir, words, range(0, 12, 3), 3), vec(I32)))


def _half_iq1_m(ir, at):
    """The high four bits of four words."""
    b = ir.b
    words = ir.load(ir.at(at, 48), I64)
    d = ir.c(0)
    for k in range(4):
        d = b.or_(d, b.and_(b.lshr(words, ir.c(12 + 12 * k)), ir.c(15 << 4 * k)))
    return b.trunc(d, I16)


_IQ2 = (8, 25, 43)
_BOOKS = {name: Book(name, _IQ2) for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S")}
_BOOKS["IQ3_XXS"] = Book("IQ3_XXS", (4, 12, 20, 28, 36, 44, 52, 62))
_BOOKS["IQ3_S"] = Book("IQ3_S", (1, 3, 5, 7, 9, 11, 13, 15))
_IQ1 = Book("IQ1_S", tuple(_IQ1_BIAS + 8 * v for v in (-1, 0, 1)))


def _form(name, size, indices, masks, scales, factor):
    return Form(size, _coded(_BOOKS[name], indices, masks), scales, factor=factor)


FORMS = {
    "IQ2_XXS": _form(
        "IQ2_XXS", 66, _indices_iq2_xxs, _masks_iq2_xxs, _top_nibbles(_dwords_iq2_xxs), 0.125
    ),
    "IQ2_XS": _form("IQ2_XS", 74, _indices_iq2_xs, _masks_iq2_xs, _nibbles(66, 8), 0.125),
    "IQ2_S": _form(
        "IQ2_S",
        82,
        _indices_iq2_s,
        lambda ir, at: _stored_masks(ir, at, 34),
        _nibbles(74, 8),
        0.125,
    ),
    "IQ3_XXS": _form(
        "IQ3_XXS", 98, _indices_iq3_xxs, _masks_iq3_xxs, _top_nibbles(_dwords_iq3_xxs), 0.25
    ),
    "IQ3_S": _form(
        "IQ3_S",
        110,
        _indices_iq3_s,
        lambda ir, at: _stored_masks(ir, at, 74),
        _nibbles(106, 4),
        1.0,
    ),
    "IQ1_S": Form(50, _codes_iq1_s, _scales_iq1_s, factor=0.125, bias=_IQ1_BIAS),
    "IQ1_M": Form(56, _codes_iq1_m, _scales_iq1_m, _half_iq1_m, 0.125, _IQ1_BIAS),
}


def emit(name: str):
    """Emitting function of the product of a format of `FORMS`."""
    return blocks_256.emit(FORMS[name])
