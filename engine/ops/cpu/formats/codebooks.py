"""Packing of the codebook formats, IQ1_S to IQ3_S.

The codebook is resolved when a panel is made: every value becomes a 4-bit code of its format's
table (`tables`), and every sub-block's scale four bits. Codebooks and sign patterns are
`gguf.quants`'s; they become constants of the compiled code. A block is taken eight values at a
time, all offsets known when the code is emitted, so that a group costs two look-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from llvmlite import ir as llvm_ir

from engine.ops.cpu.simd.ir import I8, I16, I32, I64

CODES = 32  # vectors of nibbles of a block
_SIGN = 3  # the bit of a code that tells the sign


def grid(name: str) -> np.ndarray:
    """Rows of the codebook `name`, as numbers of the magnitudes in ascending order."""
    from gguf import quants

    kind = getattr(quants, name)
    kind.init_grid()
    values = np.asarray(kind.grid).reshape(kind.grid_shape)
    return np.searchsorted(np.sort(kind.grid_map), values).astype(np.uint8)


def _signs(masks: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(masks.astype(np.uint8)[:, None], axis=1, bitorder="little")
    return bits << np.uint8(_SIGN)


def _even_signs() -> np.ndarray:
    from gguf.quants import IQ2_XXS

    return _signs(np.frombuffer(IQ2_XXS.ksigns, np.uint8))


# Rows of codes by name, one byte a value: codebooks, the sign patterns of an even number of signs,
# of any, and of a whole group.
_ROWS: dict[str, Callable[[], np.ndarray]] = {
    "IQ2_XXS": lambda: grid("IQ2_XXS"),
    "IQ2_XS": lambda: grid("IQ2_XS"),
    "IQ2_S": lambda: grid("IQ2_S"),
    "IQ3_XXS": lambda: grid("IQ3_XXS"),
    "IQ3_S": lambda: grid("IQ3_S"),
    "IQ1": lambda: grid("IQ1_S"),
    "even": _even_signs,
    "any": lambda: _signs(np.arange(256)),
    "all": lambda: _signs(np.array([0, 255])),
}


def _row(ir, name: str, index):
    """Row `index` (an i64) of a table as an i64; rows of four values fill the low half."""
    of = f"ds4.codes.{name}"
    table = ir.b.module.globals.get(of)
    if table is None:
        values = _ROWS[name]()
        wide = np.zeros((len(values), 8), np.uint8)
        wide[:, : values.shape[1]] = values
        kind = llvm_ir.ArrayType(I64, len(values))
        table = llvm_ir.GlobalVariable(ir.b.module, kind, of)
        table.linkage, table.global_constant = "internal", True
        table.initializer = llvm_ir.Constant(kind, wide.view("<u8").ravel().tolist())
    return ir.b.load(ir.b.gep(table, [ir.c(0), index]))


def _number(ir, at, offset: int, of):
    """The unsigned integer at an offset, as an i64."""
    return ir.b.zext(ir.load(ir.at(at, offset), of), I64)


def _bits(ir, x, shift: int, n: int):
    """n bits of an i64 from `shift` on."""
    if shift:
        x = ir.b.lshr(x, ir.c(shift))
    return ir.b.and_(x, ir.c((1 << n) - 1))


def _above(ir, low, high, by: int):
    return ir.b.or_(low, ir.b.shl(high, ir.c(by)))


# -- codes of eight values, an i64: group g of the block at `at`


def _codes_iq2_xxs(ir, at, g: int):
    signs = _number(ir, at, 6 + 8 * (g // 4), I32)
    row = _row(ir, "IQ2_XXS", _number(ir, at, 2 + 8 * (g // 4) + g % 4, I8))
    return ir.b.or_(row, _row(ir, "even", _bits(ir, signs, 7 * (g % 4), 7)))


def _codes_iq2_xs(ir, at, g: int):
    q = _number(ir, at, 2 + 2 * g, I16)
    return ir.b.or_(_row(ir, "IQ2_XS", _bits(ir, q, 0, 9)), _row(ir, "even", _bits(ir, q, 9, 7)))


def _codes_iq2_s(ir, at, g: int):
    top = _bits(ir, _number(ir, at, 66 + g // 4, I8), 2 * (g % 4), 2)
    row = _row(ir, "IQ2_S", _above(ir, _number(ir, at, 2 + g, I8), top, 8))
    return ir.b.or_(row, _row(ir, "any", _number(ir, at, 34 + g, I8)))


def _codes_iq3_xxs(ir, at, g: int):
    signs = _number(ir, at, 66 + 4 * (g // 4), I32)
    low, high = (_row(ir, "IQ3_XXS", _number(ir, at, 2 + 2 * g + k, I8)) for k in range(2))
    return ir.b.or_(_above(ir, low, high, 32), _row(ir, "even", _bits(ir, signs, 7 * (g % 4), 7)))


def _codes_iq3_s(ir, at, g: int):
    tops = _number(ir, at, 66 + g // 4, I8)
    rows = []
    for k in range(2):
        top = _bits(ir, tops, 2 * (g % 4) + k, 1)
        rows.append(_row(ir, "IQ3_S", _above(ir, _number(ir, at, 2 + 2 * g + k, I8), top, 8)))
    return ir.b.or_(_above(ir, rows[0], rows[1], 32), _row(ir, "any", _number(ir, at, 74 + g, I8)))


def _codes_iq1_s(ir, at, g: int):
    tops = _number(ir, at, 34 + 2 * (g // 4), I16)
    index = _above(ir, _number(ir, at, 2 + g, I8), _bits(ir, tops, 3 * (g % 4), 3), 8)
    return ir.b.or_(_row(ir, "IQ1", index), _row(ir, "all", _bits(ir, tops, 15, 1)))


def _codes_iq1_m(ir, at, g: int):
    tops = _number(ir, at, 32 + g // 2, I8)
    shift = 4 * (g % 2)
    index = _above(ir, _number(ir, at, g, I8), _bits(ir, tops, shift, 3), 8)
    return ir.b.or_(_row(ir, "IQ1", index), _row(ir, "all", _bits(ir, tops, shift + 3, 1)))


# -- the scale of sub-block s as stored, and the bits of the f16 factor


def _nibbles_at(start: int):
    def scale(ir, at, s: int):
        return _bits(ir, _number(ir, at, start + s // 2, I8), 4 * (s % 2), 4)

    return scale


def _top_at(start: int, step: int):
    """The high four bits of dwords."""

    def scale(ir, at, s: int):
        return _bits(ir, _number(ir, at, start + step * s, I32), 28, 4)

    return scale


def _scale_iq1_s(ir, at, s: int):
    return _bits(ir, _number(ir, at, 34 + 2 * s, I16), 12, 3)


def _scale_iq1_m(ir, at, s: int):
    return _bits(ir, _number(ir, at, 48 + 2 * (s // 4), I16), 3 * (s % 4), 3)


def _first_half(ir, at):
    return _number(ir, at, 0, I16)


def _scattered_half(ir, at):
    d = ir.c(0)
    for k in range(4):
        d = _above(ir, d, _bits(ir, _number(ir, at, 48 + 2 * k, I16), 12, 4), 4 * k)
    return d


@dataclass(frozen=True, slots=True)
class Codebook:
    """Where a format's block keeps what its panel needs; see `emit_pack`."""

    block_bytes: int
    n_scales: int
    scale: Callable
    codes: Callable
    half: Callable = _first_half


BOOKS = {
    "IQ2_XXS": Codebook(66, 8, _top_at(6, 8), _codes_iq2_xxs),
    "IQ2_XS": Codebook(74, 16, _nibbles_at(66), _codes_iq2_xs),
    "IQ2_S": Codebook(82, 16, _nibbles_at(74), _codes_iq2_s),
    "IQ3_XXS": Codebook(98, 8, _top_at(66, 4), _codes_iq3_xxs),
    "IQ3_S": Codebook(110, 8, _nibbles_at(106), _codes_iq3_s),
    "IQ1_S": Codebook(50, 8, _scale_iq1_s, _codes_iq1_s),
    "IQ1_M": Codebook(56, 16, _scale_iq1_m, _codes_iq1_m, _scattered_half),
}


def emit_pack(book: Codebook):
    """Emitting function of a pack: per block the factor, the scales and the codes of 16 rows.

    Scales fill a vector for eight sub-blocks: byte k of a lane holds scale k low and k + 4 high.
    """
    heads = book.n_scales // 8

    def put(ir, value, address) -> None:
        ir.store(ir.b.trunc(value, I32), address, 4)

    def emit(ir, src, stride, n_rows, nb, panel):
        b = ir.b
        last = b.sub(n_rows, ir.c(1))
        with ir.loop(16) as r:
            inside = b.icmp_signed("<", r, last)
            row = b.add(src, b.mul(b.select(inside, r, last), stride))
            with ir.loop(nb) as i:
                at = ir.at(row, (i, book.block_bytes))
                out = ir.at(panel, (i, (1 + heads + CODES) * 64), (r, 4))
                put(ir, book.half(ir, at), out)
                for v in range(heads):
                    packed = ir.c(0)
                    for s in range(8):
                        shift = 8 * (s & 3) + 4 * (s >> 2)
                        packed = _above(ir, packed, book.scale(ir, at, 8 * v + s), shift)
                    put(ir, packed, ir.at(out, 64 + 64 * v))
                for c in range(4):
                    for k in range(4):
                        low, high = (book.codes(ir, at, 8 * c + 4 * h + k) for h in range(2))
                        both = _above(ir, low, high, 4)
                        place = 64 * (1 + heads) + 512 * c + 128 * k
                        put(ir, both, ir.at(out, place))
                        put(ir, b.lshr(both, ir.c(32)), ir.at(out, place + 64))

    return emit
