"""IQ2_XXS panels and their integer products.

Panel: per block 34 vectors of 16 rows: the block scale, eight 4-bit scales, and 32 vectors of
4-bit codes (sign, magnitude), so that the codebook is resolved when a panel is made. That takes
4.25 bits a weight where the file takes 2.06.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir as llvm_ir
from numba import types
from numba.extending import intrinsic

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
from engine.ops.cpu.runtime.leaf import leaf, load_u16, load_u32, store_u32
from engine.ops.cpu.simd.ir import F32, I32, I64, LANES, emitter, vec

BLOCK_A, BLOCK_B = 34 * 4 * LANES, 0
__all__ = ["BLOCK_A", "BLOCK_B", "SLAB", "decode", "dot1", "dot2", "dot4", "dot8", "pack"]

_MAGNITUDES = (8, 25, 43)  # the codebook's values
_BIAS = 43
_TABLE = [_BIAS] * 16  # weight plus bias of each code; bit 3 is the sign
for _code, _m in enumerate(_MAGNITUDES):
    _TABLE[_code], _TABLE[8 + _code] = _BIAS + _m, _BIAS - _m


def _codebook() -> list[int]:
    """256 codebook rows, then 128 sign patterns, each as eight bytes of codes."""
    from gguf.quants import IQ2_XXS

    IQ2_XXS.init_grid()
    magnitudes = np.asarray(IQ2_XXS.grid).reshape(256, 8)
    grid = np.searchsorted(_MAGNITUDES, magnitudes).astype(np.uint8)
    patterns = np.frombuffer(IQ2_XXS.ksigns, np.uint8)
    signs = np.unpackbits(patterns[:, None], axis=1, bitorder="little").astype(np.uint8) << 3
    return np.concatenate([grid, signs.astype(np.uint8)]).view(np.uint64).ravel().tolist()


@intrinsic
def _codes_of(typingctx, index):
    """Eight bytes of codes: codebook row (0..255) or sign pattern (256 + 0..127)."""

    def codegen(context, builder, signature, args):
        name = "ds4.iq2_xxs.codes"
        kind = llvm_ir.ArrayType(I64, 384)
        table = builder.module.globals.get(name)
        if table is None:
            table = llvm_ir.GlobalVariable(builder.module, kind, name)
            table.linkage, table.global_constant = "internal", True
            table.initializer = llvm_ir.Constant(kind, _codebook())
        return builder.load(builder.gep(table, [llvm_ir.Constant(I64, 0), args[0]]))

    return types.uint64(types.int64), codegen


def _header(ir, base):
    """An eighth of the block scale, and two dwords of odd sub-block scales (1..31)."""
    b = ir.b
    d = half_at(ir, ir.load(base, vec(I32), 64), 0)
    nibbles = ir.load(ir.at(base, 64), vec(I32), 64)
    scales = []
    for i in range(2):
        four = ir.mask(ir.shr(nibbles, 4 * i), 0x0F0F0F0F)
        scales.append(b.or_(b.add(four, four), ir.const(0x01010101, vec(I32))))
    return b.fmul(d, ir.const(0.125, vec(F32))), scales


def _emit_dot(n):
    def emit(ir, acc, pa, pb, xt, b0, nb):
        b = ir.b

        def block(i, xs):
            base = ir.at(pa, (i, BLOCK_A))
            d, scales = _header(ir, base)
            staged = stage(ir, [ir.byte(s, k) for s in scales for k in range(4)])
            totals = nibble_sums(ir, xs, ir.at(base, 128), staged, lambda w: ir.lookup(_TABLE, w))
            lifts = weighted_sums(ir, xs, scales, LOW32, HIGH32)
            bias = ir.const(_BIAS, vec(I32))
            exact = [b.sub(s, b.mul(m, bias)) for s, m in zip(totals, lifts, strict=True)]
            return [((s, d),) for s in exact]

        emit_superblocks(ir, n, acc, xt, b0, nb, block)

    return emitter(emit)


_dot1, _dot2, _dot4, _dot8 = (_emit_dot(n) for n in (1, 2, 4, 8))


@emitter
def _decode(ir, pa, pb, nb, panel):
    b = ir.b
    with ir.loop(nb) as i:
        base = ir.at(pa, (i, BLOCK_A))
        d, scales = _header(ir, base)
        ds = stage(ir, [b.fmul(d, ir.floats(ir.byte(s, k))) for s in scales for k in range(4)])

        def value(codes, c, sub):
            scale = ir.load(ir.at(ds, (c, 128), 64 * sub), vec(F32), 64)
            weights = ir.as_dwords(ir.lookup(_TABLE, ir.as_bytes(codes)))
            bias = ir.const(_BIAS, vec(I32))
            return [b.fmul(scale, ir.floats(b.sub(ir.byte(weights, k), bias))) for k in range(4)]

        decode_nibbles(ir, ir.at(base, 128), ir.at(panel, (i, 256 * 64)), value)


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
    for r in range(16):
        row = src + min(r, n_rows - 1) * stride
        for i in range(nb):
            block = row + i * 66
            out = pa + i * 2176 + 4 * r
            store_u32(out, load_u16(block))
            scales = 0
            for c in range(4):
                for half in range(2):
                    s = 2 * c + half
                    scale = load_u32(block + 2 + 8 * s + 4) >> 28
                    # Byte k of the dword: scale k low, scale k + 4 high.
                    scales |= scale << (8 * (s & 3) + 4 * (s >> 2))
                low = block + 2 + 16 * c
                rows0, signs0 = load_u32(low), load_u32(low + 4)
                rows1, signs1 = load_u32(low + 8), load_u32(low + 12)
                for k in range(4):
                    v0 = _codes_of((rows0 >> (8 * k)) & 255) | _codes_of(
                        256 + ((signs0 >> (7 * k)) & 127)
                    )
                    v1 = _codes_of((rows1 >> (8 * k)) & 255) | _codes_of(
                        256 + ((signs1 >> (7 * k)) & 127)
                    )
                    both = v0 | (v1 << 4)
                    at = out + 128 + 512 * c + 128 * k
                    store_u32(at, both)
                    store_u32(at + 64, both >> 32)
            store_u32(out + 64, scales)
