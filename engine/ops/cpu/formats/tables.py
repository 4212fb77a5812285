"""Formats whose values are 16 or fewer signed numbers times a scale: IQ1_S to IQ3_S, IQ4_XS.

Panel: per block the factor, the scales and 32 vectors of 4-bit codes, which one table look-up turns
into bytes. The codebooks are resolved when a panel is made (`codebooks`), so a weight takes 4.25
or 4.375 bits there, where the file takes 1.56 to 4.25.
"""

from __future__ import annotations

from engine.ops.cpu.formats.blocks_32 import IQ4_TABLE
from engine.ops.cpu.formats.blocks_256 import (
    WIDE,
    Form,
    Header,
    half_at,
    leaves_of,
    nibble_runs,
)
from engine.ops.cpu.formats.codebooks import BOOKS, CODES, emit_pack
from engine.ops.cpu.formats.leaves import Leaves
from engine.ops.cpu.simd.ir import F32, I16, I32, vec


def _table(magnitudes, bias: int) -> list[int]:
    """Value plus bias of each code, whose bit 3 is the sign; codes without a magnitude are 0."""
    table = [bias] * 16
    for code, m in enumerate(magnitudes):
        table[code], table[8 + code] = bias + m, bias - m
    return table


# Sources: `gguf.quants`, grid_map of each. IQ1 has -1, 0 and 1, moved by an eighth up or down,
# and is told in eighths.
_IQ2 = _table((8, 25, 43), 43)
_IQ3_XXS = _table((4, 12, 20, 28, 36, 44, 52, 62), 62)
_IQ3_S = _table((1, 3, 5, 7, 9, 11, 13, 15), 15)
_IQ1_BIAS = 9
_IQ1 = [_IQ1_BIAS] * 16
for _code, _value in enumerate((-8, 0, 8)):
    _IQ1[_code], _IQ1[8 + _code] = _IQ1_BIAS + _value + 1, _IQ1_BIAS + _value - 1


def _codes(table):
    def convert(ir, nibbles, base, p, half, j):
        return ir.lookup(table, ir.as_bytes(nibbles))

    return convert


def _header(n_scales: int, factor: float):
    """A header whose scales are the odd numbers 2s + 1; `factor` belongs to the block's."""

    def header(ir, base):
        b = ir.b
        d = half_at(ir, ir.load(base, vec(I32), 64), 0)
        scales = []
        for v in range(n_scales // 8):
            packed = ir.load(ir.at(base, 64 + 64 * v), vec(I32), 64)
            for i in range(2):
                four = ir.mask(ir.shr(packed, 4 * i), 0x0F0F0F0F)
                scales.append(b.or_(b.add(four, four), ir.const(0x01010101, vec(I32))))
        return Header(d if factor == 1 else b.fmul(d, ir.const(factor, vec(F32))), scales)

    return header


def _codebook(name: str, factor: float, table, bias: int) -> Form:
    n_scales = BOOKS[name].n_scales
    head, sub = 1 + n_scales // 8, 256 // n_scales
    runs = nibble_runs(head, sub, _codes(table))
    order = list(range(n_scales))
    return Form(
        head + CODES, sub, _header(n_scales, factor), runs, order, bias, emit_pack(BOOKS[name])
    )


# -- IQ4_XS


def _header_iq4_xs(ir, base):
    d = half_at(ir, ir.load(base, vec(I32), 64), 0)
    return Header(d, [ir.load(ir.at(base, 64 + 64 * g), vec(I32), 64) for g in range(2)])


def _runs_iq4_xs(ir, base, p):
    """Sub-block s has vectors 4s..4s+3: low nibbles are its values 0..15, high ones 16..31."""
    for s in range(2):
        at = ir.at(base, 192 + 256 * s, (p, 512))

        def code(j, at=at):
            v = ir.load(ir.at(at, 64 * (j % 4)), vec(I32), 64)
            return ir.lookup(IQ4_TABLE, ir.as_bytes(ir.mask(ir.shr(v, 4 * (j // 4)), 0x0F0F0F0F)))

        first = ir.at(ir.b.shl(p, ir.c(6)), 32 * s)
        yield first, [lambda j=j, code=code: code(j) for j in range(8)]


def _pack_iq4_xs(ir, src, stride, n_rows, nb, panel):
    """The 6-bit scales become signed bytes in two vectors; codes stay as in the file."""
    b, of = ir.b, vec(I32)

    def block(i, here):
        at = ir.at(panel, (i, 64 * 35))
        for quad in range(8):
            for q, dwords in enumerate(ir.transpose4(here, 8 + 16 * quad)):
                ir.store(dwords, ir.at(at, 192 + 256 * quad + 64 * q), 64)
        for r, row in enumerate(here):
            for k in range(2):
                ir.store(ir.load(ir.at(row, 4 * k), I32), ir.at(at, 64 * k + 4 * r), 4)
        first, low = (ir.load(ir.at(at, 64 * k), of, 64) for k in range(2))
        high = ir.shr(first, 16)
        for g in range(2):
            scales = ir.const(0, of)
            for k in range(4):
                s = 4 * g + k
                top = b.shl(ir.mask(ir.shr(high, 2 * s), 3), ir.const(4, of))
                six = b.or_(ir.mask(ir.shr(low, 4 * s), 15), top)
                less = ir.mask(b.sub(six, ir.const(32, of)), 255)
                scales = b.or_(scales, b.shl(less, ir.const(8 * k, of)))
            ir.store(scales, ir.at(at, 64 + 64 * g), 64)
        ir.store(b.zext(b.trunc(first, vec(I16)), of), at, 64)

    ir.each_block(src, stride, n_rows, nb, 136, block)


_EIGHT = list(range(8))
FORMS = {
    "IQ2_XXS": _codebook("IQ2_XXS", 0.125, _IQ2, 43),
    "IQ2_XS": _codebook("IQ2_XS", 0.125, _IQ2, 43),
    "IQ2_S": _codebook("IQ2_S", 0.125, _IQ2, 43),
    "IQ3_XXS": _codebook("IQ3_XXS", 0.25, _IQ3_XXS, 62),
    "IQ3_S": _codebook("IQ3_S", 1.0, _IQ3_S, 15),
    "IQ1_S": _codebook("IQ1_S", 0.125, _IQ1, _IQ1_BIAS),
    "IQ1_M": _codebook("IQ1_M", 0.125, _IQ1, _IQ1_BIAS),
    "IQ4_XS": Form(35, 32, _header_iq4_xs, _runs_iq4_xs, _EIGHT, WIDE, _pack_iq4_xs, True),
}


def leaves(name: str) -> Leaves:
    """Leaves of a format of `FORMS`."""
    return leaves_of(name, FORMS[name])
