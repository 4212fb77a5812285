"""Weights in device memory: fragment order of the tensor cores, or the file's bytes in place.

`tiled`: rows in tiles of 16, values in units of 32; the bytes that lane 4 g + t of a warp takes
for rows g and g + 8 and values 8t .. 8t+7 of a unit lie together, so a warp reads whole lines.
Per tile, in this order of dimensions:

    Q8_0     codes (unit, lane, 16): g low, g+8 low, g high, g+8 high    scales (unit, row) f16
    MXFP4    codes (unit, lane, 8): a word of nibbles for g, for g+8      scales (unit, row) u8
    Q4_K     codes (block, unit, lane, 8): a word each, nibble 4i+j in bits 8j+4i
             scales (block, row, 16): 8 of s, 8 of m                      factors (block, row) 2 f16
    Q2_K     codes (block, lane, unit, 4): bits 8b+2r are value b of register r
             scales (block, row, half, 8): s | m << 4 of sub-block 2u + half
                                                                          factors (block, row) 2 f16
    IQ2_XXS  codes (block, unit, row, 8) as in the file                   factors (block, row) f16
    F16 BF16 codes (unit, lane, 32): 8 values of g, 8 of g+8
    F32      codes (row, value): as in the file

`raw`: the file's blocks, row by row. Both give the same numbers to the same lanes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import cuda, int32, uint16, uint32, uint64

from engine.ops.cuda.array import DeviceArray
from engine.ops.cuda.context import Context
from engine.ops.cuda.decode_bits import CODEBOOK
from engine.ops.cuda.kernel import I32P, U8P, U16P, U32, Kernel, kernel

TILE = 16  # rows
UNIT = 32  # values
THREADS = 256
# Looked up row by row, never multiplied with.
IN_FILE_ORDER = ("token_embd.weight",)
PIECE = 64 << 20  # raw bytes uploaded at a time


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes per tile of 16 rows and block of `block` values: codes, scales, factors."""

    block: int
    codes: int
    scales: int
    factors: int


SIZES = {
    "Q8_0": Sizes(32, 512, 32, 0),
    "MXFP4": Sizes(32, 256, 16, 0),
    "Q4_K": Sizes(256, 2048, 256, 64),
    "Q2_K": Sizes(256, 1024, 256, 64),
    "IQ2_XXS": Sizes(256, 1024, 0, 32),
    "F16": Sizes(32, 1024, 0, 0),
    "BF16": Sizes(32, 1024, 0, 0),
    "F32": Sizes(32, 2048, 0, 0),
}


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix, or one per expert, ready for the products.

    Parameters
    ----------
    name, format : str
    rows, cols, n_expert : int
    tiled : bool
    codes, scales, factors : int
        Device addresses; the last two are 0 where the format or layout has none. In the raw
        layout `codes` is the file's first byte.
    strides : tuple of int
        Bytes from one expert to the next in each of the three.
    n_bytes : int
        Device bytes that the copy takes.
    file_bytes : int
        Bytes in the file.
    """

    name: str
    format: str
    rows: int
    cols: int
    n_expert: int
    tiled: bool
    codes: int
    scales: int
    factors: int
    strides: tuple[int, int, int]
    n_bytes: int
    file_bytes: int
    owner: Any = field(repr=False, default=None)

    @property
    def repacked_bytes(self) -> int:
        return self.n_bytes

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.cols // SIZES[self.format].block)


def _dims(tensor: Any) -> tuple[int, int, int]:
    n_expert, rows, cols = (1, *tensor.shape)[-3:]
    return n_expert, rows, cols


def _layout_bytes(name: str, rows: int, cols: int) -> tuple[int, int, int]:
    """Bytes of one expert's codes, scales and factors, each a multiple of 256."""
    s = SIZES[name]
    count = -(-rows // TILE) * -(-cols // s.block)
    return tuple(-(-count * part // 256) * 256 for part in (s.codes, s.scales, s.factors))  # type: ignore[return-value]


def repack_bytes(tensor: Any) -> int:
    """Device bytes that a tiled copy takes."""
    n_expert, rows, cols = _dims(tensor)
    return n_expert * sum(_layout_bytes(tensor.format.name, rows, cols))


# Repacking: one thread writes one 32-bit word of codes, scales or factors. Kernels take
# (codes, scales, factors, raw, rows, blocks, row_bytes, row tiles of this piece, first tile).

_ARGS = (I32P, U8P, U16P, U8P, U32, U32, U32, U32)


def _coordinates(words):
    """A thread's place: (row tile, block, word of the tile's block)."""

    @cuda.jit(device=True, inline="always")
    def place(blocks):
        at = uint64(uint64(cuda.blockIdx.x) * uint64(THREADS) + uint64(cuda.threadIdx.x))
        word = uint32(at % uint64(words))
        rest = uint64(at // uint64(words))
        return uint32(rest // uint64(blocks)), uint32(rest % uint64(blocks)), word

    return place


_place_q8 = _coordinates(136)
_place_mx = _coordinates(68)
_place_q4 = _coordinates(592)
_place_q2 = _coordinates(336)
_place_iq = _coordinates(264)
_place_16 = _coordinates(256)


@kernel(*_ARGS, threads=THREADS)
def tile_q8_0(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """128 words of codes, 8 of scales."""
    tile, block, word = _place_q8(blocks)
    if tile < tiles:
        place = uint64(uint64(tile) * uint64(blocks) + uint64(block))
        value = int32(0)
        if word < uint32(128):
            lane, r = uint32(word >> uint32(2)), uint32(word & uint32(3))
            row = uint32(tile * 16 + (lane >> uint32(2)) + (r & uint32(1)) * 8)
            k = uint32((lane & uint32(3)) * 8 + (r >> uint32(1)) * 4)
            if row < rows:
                source = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 34 + 2 + k))
                for i in range(4):
                    byte = int32(raw[uint64(source + uint64(i))])
                    value = int32(value | int32(byte << int32(8 * i)))
            codes[uint64(place * uint64(128) + uint64(word))] = value
        else:
            first = uint32((word - uint32(128)) * 2)
            for i in range(2):
                row = uint32(tile * 16 + first + uint32(i))
                for j in range(2):
                    byte = uint32(0)
                    if row < rows:
                        source = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 34 + j))
                        byte = uint32(raw[source])
                    scales[uint64(place * uint64(32) + uint64((first + i) * 2 + j))] = byte


@kernel(*_ARGS, threads=THREADS)
def tile_mxfp4(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """64 words of codes, 4 of scales."""
    tile, block, word = _place_mx(blocks)
    if tile < tiles:
        place = uint64(uint64(tile) * uint64(blocks) + uint64(block))
        if word < uint32(64):
            lane, r = uint32(word >> uint32(1)), uint32(word & uint32(1))
            row = uint32(tile * 16 + (lane >> uint32(2)) + r * 8)
            k = uint32((lane & uint32(3)) * 8)
            value = int32(0)
            if row < rows:
                source = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 17 + 1))
                for i in range(8):
                    at = uint32(k + uint32(i))
                    byte = int32(raw[uint64(source + uint64(at & uint32(15)))])
                    code = int32(int32(byte >> int32(4 * int32(at >> uint32(4)))) & int32(15))
                    value = int32(value | int32(code << int32(4 * i)))
            codes[uint64(place * uint64(64) + uint64(word))] = value
        else:
            first = uint32((word - uint32(64)) * 4)
            for i in range(4):
                row = uint32(tile * 16 + first + uint32(i))
                byte = uint32(0)
                if row < rows:
                    byte = uint32(raw[uint64(uint64(row) * uint64(row_bytes) + uint64(block * 17))])
                scales[uint64(place * uint64(16) + uint64(first + uint32(i)))] = byte


@kernel(*_ARGS, threads=THREADS)
def tile_q4_k(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """512 words of codes, 64 of scales, 16 of factors."""
    tile, block, word = _place_q4(blocks)
    if tile < tiles:
        place = uint64(uint64(tile) * uint64(blocks) + uint64(block))
        if word < uint32(512):
            unit, lane = uint32(word >> uint32(6)), uint32((word >> uint32(1)) & uint32(31))
            row = uint32(tile * 16 + (lane >> uint32(2)) + (word & uint32(1)) * 8)
            value = int32(0)
            if row < rows:
                source = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 144 + 16))
                source = uint64(source + uint64((unit >> uint32(1)) * 32 + (lane & uint32(3)) * 8))
                for i in range(8):
                    byte = int32(raw[uint64(source + uint64(i))])
                    code = int32(int32(byte >> int32(4 * int32(unit & uint32(1)))) & int32(15))
                    value = int32(value | int32(code << int32(8 * (i & 3) + 4 * (i >> 2))))
            codes[uint64(place * uint64(512) + uint64(word))] = value
        elif word < uint32(576):
            w = uint32(word - uint32(512))
            row = uint32(tile * 16 + (w >> uint32(2)))
            for i in range(4):
                j = uint32((w & uint32(3)) * 4 + uint32(i))  # 0..7 scales, 8..15 minima
                value = uint32(0)
                if row < rows:
                    base = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 144 + 4))
                    sub = uint32(j & uint32(3))
                    least = uint32((j >> uint32(3)) & uint32(1))
                    if j & uint32(4) == uint32(0):
                        value = uint32(raw[uint64(base + uint64(sub + least * 4))]) & uint32(63)
                    else:
                        low = uint32(raw[uint64(base + uint64(8 + sub))])
                        high = uint32(raw[uint64(base + uint64(sub + least * 4))])
                        value = uint32((low >> uint32(least * 4)) & uint32(15))
                        value = uint32(value | uint32((high >> uint32(6)) << uint32(4)))
                at = uint64(place * uint64(256) + uint64((w >> uint32(2)) * 16 + j))
                scales[at] = value
        else:
            w = uint32(word - uint32(576))
            row = uint32(tile * 16 + w)
            for i in range(2):
                value = uint32(0)
                if row < rows:
                    base = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 144 + 2 * i))
                    value = uint32(raw[base]) | uint32(uint32(raw[uint64(base + 1)]) << uint32(8))
                factors[uint64(place * uint64(32) + uint64(w * 2 + i))] = uint16(value)


@kernel(*_ARGS, threads=THREADS)
def tile_q2_k(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """256 words of codes, 64 of scales, 16 of factors."""
    tile, block, word = _place_q2(blocks)
    if tile < tiles:
        place = uint64(uint64(tile) * uint64(blocks) + uint64(block))
        if word < uint32(256):
            lane, unit = uint32(word >> uint32(3)), uint32(word & uint32(7))
            value = int32(0)
            for r in range(4):
                row = uint32(tile * 16 + (lane >> uint32(2)) + uint32(r & 1) * 8)
                if row < rows:
                    base = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 84 + 16))
                    for b in range(4):
                        k = uint32(unit * 32 + (lane & uint32(3)) * 8 + uint32(r >> 1) * 4 + b)
                        inside = uint32(k & uint32(127))
                        at = uint32((k >> uint32(7)) * 32 + (inside & uint32(31)))
                        byte = int32(raw[uint64(base + uint64(at))])
                        code = int32(
                            int32(byte >> int32(2 * int32(inside >> uint32(5)))) & int32(3)
                        )
                        value = int32(value | int32(code << int32(8 * b + 2 * r)))
            codes[uint64(place * uint64(256) + uint64(word))] = value
        elif word < uint32(320):
            w = uint32(word - uint32(256))
            row = uint32(tile * 16 + (w >> uint32(2)))
            for i in range(4):
                j = uint32((w & uint32(3)) * 4 + uint32(i))  # half * 8 + unit
                value = uint32(0)
                if row < rows:
                    base = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 84))
                    sub = uint32((j & uint32(7)) * 2 + (j >> uint32(3)))
                    value = uint32(raw[uint64(base + uint64(sub))])
                scales[uint64(place * uint64(256) + uint64((w >> uint32(2)) * 16 + j))] = value
        else:
            w = uint32(word - uint32(320))
            row = uint32(tile * 16 + w)
            for i in range(2):
                value = uint32(0)
                if row < rows:
                    base = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 84 + 80 + 2 * i))
                    value = uint32(raw[base]) | uint32(uint32(raw[uint64(base + 1)]) << uint32(8))
                factors[uint64(place * uint64(32) + uint64(w * 2 + i))] = uint16(value)


@kernel(*_ARGS, threads=THREADS)
def tile_iq2_xxs(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """256 words of codes, 8 of factors."""
    tile, block, word = _place_iq(blocks)
    if tile < tiles:
        place = uint64(uint64(tile) * uint64(blocks) + uint64(block))
        if word < uint32(256):
            unit = uint32(word >> uint32(5))
            row = uint32(tile * 16 + ((word >> uint32(1)) & uint32(15)))
            value = int32(0)
            if row < rows:
                source = uint64(uint64(row) * uint64(row_bytes))
                source = uint64(source + uint64(block * 66 + 2 + unit * 8 + (word & uint32(1)) * 4))
                for i in range(4):
                    byte = int32(raw[uint64(source + uint64(i))])
                    value = int32(value | int32(byte << int32(8 * i)))
            codes[uint64(place * uint64(256) + uint64(word))] = value
        else:
            w = uint32((word - uint32(256)) * 2)
            for i in range(2):
                row = uint32(tile * 16 + w + uint32(i))
                value = uint32(0)
                if row < rows:
                    base = uint64(uint64(row) * uint64(row_bytes) + uint64(block * 66))
                    value = uint32(raw[base]) | uint32(uint32(raw[uint64(base + 1)]) << uint32(8))
                factors[uint64(place * uint64(16) + uint64(w + uint32(i)))] = uint16(value)


@kernel(*_ARGS, threads=THREADS)
def tile_16bit(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """256 words of codes; columns past the row's end are zero."""
    tile, block, word = _place_16(blocks)
    if tile < tiles:
        place = uint64(uint64(tile) * uint64(blocks) + uint64(block))
        lane, w = uint32(word >> uint32(3)), uint32(word & uint32(7))
        row = uint32(tile * 16 + (lane >> uint32(2)) + (w >> uint32(2)) * 8)
        k = uint32(block * 32 + (lane & uint32(3)) * 8 + (w & uint32(3)) * 2)
        value = int32(0)
        if row < rows and k * 2 < row_bytes:
            source = uint64(uint64(row) * uint64(row_bytes) + uint64(k * 2))
            for i in range(4):
                if k * 2 + uint32(i) < row_bytes:
                    byte = int32(raw[uint64(source + uint64(i))])
                    value = int32(value | int32(byte << int32(8 * i)))
        codes[uint64(place * uint64(256) + uint64(word))] = value


_REPACK: dict[str, tuple[Kernel, int]] = {
    "Q8_0": (tile_q8_0, 136),
    "MXFP4": (tile_mxfp4, 68),
    "Q4_K": (tile_q4_k, 592),
    "Q2_K": (tile_q2_k, 336),
    "IQ2_XXS": (tile_iq2_xxs, 264),
    "F16": (tile_16bit, 256),
    "BF16": (tile_16bit, 256),
}


def codebook(ctx: Context) -> DeviceArray:
    """The codebook of IQ2_XXS in device memory, 256 rows of 8 bytes."""
    found = getattr(ctx, "_codebook", None)
    if found is None:
        found = ctx.put(CODEBOOK)
        ctx._codebook = found  # type: ignore[attr-defined]
    return found


def prepare(ctx: Context, tensor: Any, *, place: Any = None) -> Weight:
    """Put a tensor where the products can read it.

    Parameters
    ----------
    tensor : Tensor
        Native format; shape (rows, cols) or (n_expert, rows, cols).
    place : Residency, optional
        Says whether it is copied or read where it is mapped; copied by default.
    """
    codebook(ctx)  # now: the first product may be part of a recorded pass
    n_expert, rows, cols = _dims(tensor)
    name, row_bytes = tensor.format.name, tensor.format.row_bytes(cols)
    where = place.place(tensor) if place is not None else None
    if where is not None and where.kind == "mapped":
        stride = rows * row_bytes
        return Weight(
            tensor.name, name, rows, cols, n_expert, False, where.address, 0, 0,
            (stride, 0, 0), 0, tensor.n_bytes,
        )  # fmt: skip
    if tensor.name in IN_FILE_ORDER:
        owner = ctx.put(np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8))
        stride = rows * row_bytes
        return Weight(
            tensor.name, name, rows, cols, n_expert, False, owner.address, 0, 0,
            (stride, 0, 0), tensor.n_bytes, tensor.n_bytes, owner,
        )  # fmt: skip
    sizes = _layout_bytes(name, rows, cols)
    owner = ctx.empty((n_expert * sum(sizes),), np.uint8)
    codes = owner.address
    scales = codes + n_expert * sizes[0]
    factors = scales + n_expert * sizes[1]
    for expert in range(n_expert):
        data = tensor.data.reshape(n_expert, rows, row_bytes)[expert]
        at = tuple(b + expert * s for b, s in zip((codes, scales, factors), sizes))
        _fill(ctx, name, at, data, rows, cols)
    return Weight(
        tensor.name, name, rows, cols, n_expert, True, codes, scales, factors,
        sizes, n_expert * sum(sizes), tensor.n_bytes, owner,
    )  # fmt: skip


def _fill(
    ctx: Context, name: str, at: tuple[int, int, int], data: np.ndarray, rows: int, cols: int
) -> None:
    """Upload one expert's rows in pieces of whole tiles and tile them on the device."""
    row_bytes = data.shape[1]
    step = max(PIECE // row_bytes // TILE, 1) * TILE
    s = SIZES[name]
    blocks = -(-cols // s.block)
    for start in range(0, rows, step):
        part = np.ascontiguousarray(data[start : start + step])
        tiles = -(-len(part) // TILE)
        skip = start // TILE * blocks
        if name == "F32":
            view = DeviceArray(ctx, at[0] + start * row_bytes, part.shape, np.uint8)
            ctx.upload(view, part)
            continue
        staged = ctx.scratch("raw rows", part.shape, np.uint8)
        ctx.upload(staged, part)
        body, words = _REPACK[name]
        count = tiles * blocks * words
        ctx.launch(
            body,
            -(-count // THREADS),
            DeviceArray(ctx, at[0] + skip * s.codes, (1,), np.int32),
            DeviceArray(ctx, at[1] + skip * s.scales, (1,), np.uint8),
            DeviceArray(ctx, at[2] + skip * s.factors, (1,), np.uint16),
            staged,
            len(part),
            blocks,
            row_bytes,
            tiles,
        )


__all__ = ["Weight", "codebook", "prepare", "repack_bytes"]
