"""Packing of the codebook formats: IQ1_S to IQ3_S, and IQ4_XS.

The codebook is resolved when a panel is made: every value becomes a 4-bit code of its format's
table (`tables`), and every sub-block's scale four or eight bits. Codebooks and sign patterns are
`gguf.quants`'s; they become constants of the compiled code.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir as llvm_ir
from numba import types
from numba.extending import intrinsic

from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.leaf import load_u16, load_u32, store_u32
from engine.ops.cpu.simd.ir import I64

CODES = 32  # vectors of nibbles of a block
_SIGN = 3  # the bit of a code that tells the sign


def _grid(name: str) -> np.ndarray:
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


def _table(name: str, rows):
    """An intrinsic ``(index) -> uint64``: row `index` of ``rows()``, a byte a value.

    Rows of four values fill the low half.
    """

    def codegen(context, builder, signature, args):
        of = f"ds4.codes.{name}"
        table = builder.module.globals.get(of)
        if table is None:
            values = rows()
            wide = np.zeros((len(values), 8), np.uint8)
            wide[:, : values.shape[1]] = values
            kind = llvm_ir.ArrayType(I64, len(values))
            table = llvm_ir.GlobalVariable(builder.module, kind, of)
            table.linkage, table.global_constant = "internal", True
            table.initializer = llvm_ir.Constant(kind, wide.view("<u8").ravel().tolist())
        return builder.load(builder.gep(table, [llvm_ir.Constant(I64, 0), args[0]]))

    def codes(typingctx, index):
        return types.uint64(types.int64), codegen

    return intrinsic(codes)


_row_iq2_xxs = _table("iq2_xxs", lambda: _grid("IQ2_XXS"))
_row_iq2_xs = _table("iq2_xs", lambda: _grid("IQ2_XS"))
_row_iq2_s = _table("iq2_s", lambda: _grid("IQ2_S"))
_row_iq3_xxs = _table("iq3_xxs", lambda: _grid("IQ3_XXS"))
_row_iq3_s = _table("iq3_s", lambda: _grid("IQ3_S"))
_row_iq1 = _table("iq1", lambda: _grid("IQ1_S"))
_even = _table("even_signs", _even_signs)
_any = _table("signs", lambda: _signs(np.arange(256)))
_all = _table("all_signs", lambda: _signs(np.array([0, 255])))  # the sign of a whole group


@inline_kernel
def _u8(at):
    return np.int64(load_u16(at) & 255)


@inline_kernel
def _u16(at):
    return np.int64(load_u16(at))


@inline_kernel
def _nibble(at, i):
    return (_u8(at + i // 2) >> (4 * (i % 2))) & 15


# Codes of eight values: group g of the block at `at`.


@inline_kernel
def _codes_iq2_xxs(at, g):
    signs = np.int64(load_u32(at + 6 + 8 * (g // 4)))
    return _row_iq2_xxs(_u8(at + 2 + 8 * (g // 4) + g % 4)) | _even((signs >> 7 * (g % 4)) & 127)


@inline_kernel
def _codes_iq2_xs(at, g):
    q = _u16(at + 2 + 2 * g)
    return _row_iq2_xs(q & 511) | _even(q >> 9)


@inline_kernel
def _codes_iq2_s(at, g):
    top = (_u8(at + 66 + g // 4) >> 2 * (g % 4)) & 3
    return _row_iq2_s(_u8(at + 2 + g) | top << 8) | _any(_u8(at + 34 + g))


@inline_kernel
def _codes_iq3_xxs(at, g):
    signs = np.int64(load_u32(at + 66 + 4 * (g // 4)))
    low, high = _row_iq3_xxs(_u8(at + 2 + 2 * g)), _row_iq3_xxs(_u8(at + 3 + 2 * g))
    return low | high << np.uint64(32) | _even((signs >> 7 * (g % 4)) & 127)


@inline_kernel
def _codes_iq3_s(at, g):
    tops = _u8(at + 66 + g // 4) >> 2 * (g % 4)
    low = _row_iq3_s(_u8(at + 2 + 2 * g) | (tops & 1) << 8)
    high = _row_iq3_s(_u8(at + 3 + 2 * g) | (tops & 2) << 7)
    return low | high << np.uint64(32) | _any(_u8(at + 74 + g))


@inline_kernel
def _codes_iq1_s(at, g):
    top = _u16(at + 34 + 2 * (g // 4))
    return _row_iq1(_u8(at + 2 + g) | ((top >> 3 * (g % 4)) & 7) << 8) | _all(top >> 15)


@inline_kernel
def _codes_iq1_m(at, g):
    top = _u8(at + 32 + g // 2) >> 4 * (g % 2)
    return _row_iq1(_u8(at + g) | (top & 7) << 8) | _all((top >> 3) & 1)


# Scale of sub-block s as stored, and the f16 factor's bits.


@inline_kernel
def _scale_iq2_xxs(at, s):
    return np.int64(load_u32(at + 6 + 8 * s)) >> 28


@inline_kernel
def _scale_iq2_xs(at, s):
    return _nibble(at + 66, s)


@inline_kernel
def _scale_iq2_s(at, s):
    return _nibble(at + 74, s)


@inline_kernel
def _scale_iq3_xxs(at, s):
    return np.int64(load_u32(at + 66 + 4 * s)) >> 28


@inline_kernel
def _scale_iq3_s(at, s):
    return _nibble(at + 106, s)


@inline_kernel
def _scale_iq1_s(at, s):
    return (_u16(at + 34 + 2 * s) >> 12) & 7


@inline_kernel
def _scale_iq1_m(at, s):
    return (_u16(at + 48 + 2 * (s // 4)) >> 3 * (s % 4)) & 7


@inline_kernel
def _first_half(at):
    return _u16(at)


@inline_kernel
def _scattered_half(at):
    d = 0
    for k in range(4):
        d |= (_u16(at + 48 + 2 * k) >> 12) << (4 * k)
    return d


def _pack(block_bytes, n_scales, half, scale, codes):
    """A pack that writes, per block, the factor, the scales and the codes of 16 rows.

    Scales fill a vector for eight sub-blocks: byte k of a lane holds scale k low and k + 4 high.
    """
    heads = n_scales // 8

    @kernel
    def pack(src, stride, n_rows, nb, panel):
        for r in range(16):
            row = src + min(r, n_rows - 1) * stride
            for i in range(nb):
                at = row + i * block_bytes
                out = panel + i * (1 + heads + CODES) * 64 + 4 * r
                store_u32(out, half(at))
                for v in range(heads):
                    packed = 0
                    for s in range(8):
                        packed |= scale(at, 8 * v + s) << (8 * (s & 3) + 4 * (s >> 2))
                    store_u32(out + 64 + 64 * v, packed)
                out += 64 + 64 * heads
                for c in range(4):
                    for k in range(4):
                        low, high = codes(at, 8 * c + k), codes(at, 8 * c + 4 + k)
                        both = low | high << np.uint64(4)
                        store_u32(out + 512 * c + 128 * k, both)
                        store_u32(out + 512 * c + 128 * k + 64, both >> np.uint64(32))

    return pack


def packs() -> dict:
    """Pack of each format by name."""
    return {
        "IQ2_XXS": _pack(66, 8, _first_half, _scale_iq2_xxs, _codes_iq2_xxs),
        "IQ2_XS": _pack(74, 16, _first_half, _scale_iq2_xs, _codes_iq2_xs),
        "IQ2_S": _pack(82, 16, _first_half, _scale_iq2_s, _codes_iq2_s),
        "IQ3_XXS": _pack(98, 8, _first_half, _scale_iq3_xxs, _codes_iq3_xxs),
        "IQ3_S": _pack(110, 8, _first_half, _scale_iq3_s, _codes_iq3_s),
        "IQ1_S": _pack(50, 8, _first_half, _scale_iq1_s, _codes_iq1_s),
        "IQ1_M": _pack(56, 16, _scattered_half, _scale_iq1_m, _codes_iq1_m),
    }
