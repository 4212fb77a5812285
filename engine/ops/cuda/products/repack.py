"""Kernels that rearrange a file's rows into fragment order, as `pack` describes it.

One thread writes one 32-bit word of codes, or as many bytes of scales or factors. Grid: all words
of (row tiles, blocks of a row).
"""

from __future__ import annotations

from numba import cuda

from engine.ops.cuda.build.kernel import I32P, U8P, U16P, U32, Kernel, device, kernel
from engine.ops.cuda.build.types import i32, u16, u32, u64

THREADS = 256

_ARGS = (I32P, U8P, U16P, U8P, U32, U32, U32, U32)


def _coordinates(words):
    """A thread's place: (row tile, block, word of the tile's block)."""

    @device
    def place(blocks):
        at = u64(u64(cuda.blockIdx.x) * u64(THREADS) + u64(cuda.threadIdx.x))
        word = u32(at % u64(words))
        rest = u64(at // u64(words))
        return u32(rest // u64(blocks)), u32(rest % u64(blocks)), word

    return place


@device
def _half(raw, row, row_bytes, at):
    """Bits of a float16 that begins at byte `at` of a row."""
    base = u64(u64(row) * u64(row_bytes) + u64(at))
    return u32(raw[base]) | u32(u32(raw[u64(base + 1)]) << u32(8))


_place_q8 = _coordinates(136)
_place_mx = _coordinates(68)
_place_q4 = _coordinates(592)
_place_q2 = _coordinates(336)
_place_iq = _coordinates(264)
_place_16 = _coordinates(256)


@kernel(*_ARGS, threads=THREADS, writes=("codes", "scales", "factors"))
def tile_q8_0(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """128 words of codes, 8 of scales."""
    tile, block, word = _place_q8(blocks)
    if tile < tiles:
        place = u64(u64(tile) * u64(blocks) + u64(block))
        value = i32(0)
        if word < u32(128):
            # A word of codes.
            lane, r = u32(word >> u32(2)), u32(word & u32(3))
            row = u32(tile * 16 + (lane >> u32(2)) + (r & u32(1)) * 8)
            k = u32((lane & u32(3)) * 8 + (r >> u32(1)) * 4)
            if row < rows:
                source = u64(u64(row) * u64(row_bytes) + u64(block * 34 + 2 + k))
                for i in range(4):
                    byte = i32(raw[u64(source + u64(i))])
                    value = i32(value | i32(byte << i32(8 * i)))
            codes[u64(place * u64(128) + u64(word))] = value
        else:
            # Two scales of two bytes.
            first = u32((word - u32(128)) * 2)
            for i in range(2):
                row = u32(tile * 16 + first + u32(i))
                for j in range(2):
                    byte = u32(0)
                    if row < rows:
                        source = u64(u64(row) * u64(row_bytes) + u64(block * 34 + j))
                        byte = u32(raw[source])
                    scales[u64(place * u64(32) + u64((first + i) * 2 + j))] = byte


@kernel(*_ARGS, threads=THREADS, writes=("codes", "scales", "factors"))
def tile_mxfp4(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """64 words of codes, 4 of scales."""
    tile, block, word = _place_mx(blocks)
    if tile < tiles:
        place = u64(u64(tile) * u64(blocks) + u64(block))
        if word < u32(64):
            # A word of codes.
            lane, r = u32(word >> u32(1)), u32(word & u32(1))
            row = u32(tile * 16 + (lane >> u32(2)) + r * 8)
            k = u32((lane & u32(3)) * 8)
            value = i32(0)
            if row < rows:
                source = u64(u64(row) * u64(row_bytes) + u64(block * 17 + 1))
                for i in range(8):
                    at = u32(k + u32(i))
                    byte = i32(raw[u64(source + u64(at & u32(15)))])
                    code = i32(i32(byte >> i32(4 * i32(at >> u32(4)))) & i32(15))
                    value = i32(value | i32(code << i32(4 * i)))
            codes[u64(place * u64(64) + u64(word))] = value
        else:
            # Four scales.
            first = u32((word - u32(64)) * 4)
            for i in range(4):
                row = u32(tile * 16 + first + u32(i))
                byte = u32(0)
                if row < rows:
                    byte = u32(raw[u64(u64(row) * u64(row_bytes) + u64(block * 17))])
                scales[u64(place * u64(16) + u64(first + u32(i)))] = byte


@kernel(*_ARGS, threads=THREADS, writes=("codes", "scales", "factors"))
def tile_q4_k(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """512 words of codes, 64 of scales, 16 of factors."""
    tile, block, word = _place_q4(blocks)
    if tile < tiles:
        place = u64(u64(tile) * u64(blocks) + u64(block))
        if word < u32(512):
            # A word of codes.
            unit, lane = u32(word >> u32(6)), u32((word >> u32(1)) & u32(31))
            row = u32(tile * 16 + (lane >> u32(2)) + (word & u32(1)) * 8)
            value = i32(0)
            if row < rows:
                source = u64(u64(row) * u64(row_bytes) + u64(block * 144 + 16))
                source = u64(source + u64((unit >> u32(1)) * 32 + (lane & u32(3)) * 8))
                for i in range(8):
                    byte = i32(raw[u64(source + u64(i))])
                    code = i32(i32(byte >> i32(4 * i32(unit & u32(1)))) & i32(15))
                    value = i32(value | i32(code << i32(8 * (i & 3) + 4 * (i >> 2))))
            codes[u64(place * u64(512) + u64(word))] = value
        elif word < u32(576):
            # Four bytes of scales and minima.
            w = u32(word - u32(512))
            row = u32(tile * 16 + (w >> u32(2)))
            for i in range(4):
                j = u32((w & u32(3)) * 4 + u32(i))  # 0..7 scales, 8..15 minima
                value = u32(0)
                if row < rows:
                    base = u64(u64(row) * u64(row_bytes) + u64(block * 144 + 4))
                    sub = u32(j & u32(3))
                    least = u32((j >> u32(3)) & u32(1))
                    if j & u32(4) == u32(0):
                        value = u32(raw[u64(base + u64(sub + least * 4))]) & u32(63)
                    else:
                        low = u32(raw[u64(base + u64(8 + sub))])
                        high = u32(raw[u64(base + u64(sub + least * 4))])
                        value = u32((low >> u32(least * 4)) & u32(15))
                        value = u32(value | u32((high >> u32(6)) << u32(4)))
                at = u64(place * u64(256) + u64((w >> u32(2)) * 16 + j))
                scales[at] = value
        else:
            # The scale and the minimum of a row's block.
            w = u32(word - u32(576))
            row = u32(tile * 16 + w)
            for i in range(2):
                value = u32(0)
                if row < rows:
                    value = _half(raw, row, row_bytes, block * 144 + 2 * i)
                factors[u64(place * u64(32) + u64(w * 2 + i))] = u16(value)


@kernel(*_ARGS, threads=THREADS, writes=("codes", "scales", "factors"))
def tile_q2_k(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """256 words of codes, 64 of scales, 16 of factors."""
    tile, block, word = _place_q2(blocks)
    if tile < tiles:
        place = u64(u64(tile) * u64(blocks) + u64(block))
        if word < u32(256):
            # A word of codes.
            lane, unit = u32(word >> u32(3)), u32(word & u32(7))
            value = i32(0)
            for r in range(4):
                row = u32(tile * 16 + (lane >> u32(2)) + u32(r & 1) * 8)
                if row < rows:
                    base = u64(u64(row) * u64(row_bytes) + u64(block * 84 + 16))
                    for b in range(4):
                        k = u32(unit * 32 + (lane & u32(3)) * 8 + u32(r >> 1) * 4 + b)
                        inside = u32(k & u32(127))
                        at = u32((k >> u32(7)) * 32 + (inside & u32(31)))
                        byte = i32(raw[u64(base + u64(at))])
                        code = i32(i32(byte >> i32(2 * i32(inside >> u32(5)))) & i32(3))
                        value = i32(value | i32(code << i32(8 * b + 2 * r)))
            codes[u64(place * u64(256) + u64(word))] = value
        elif word < u32(320):
            # Four bytes of scales and minima.
            w = u32(word - u32(256))
            row = u32(tile * 16 + (w >> u32(2)))
            for i in range(4):
                j = u32((w & u32(3)) * 4 + u32(i))  # half * 8 + unit
                value = u32(0)
                if row < rows:
                    base = u64(u64(row) * u64(row_bytes) + u64(block * 84))
                    sub = u32((j & u32(7)) * 2 + (j >> u32(3)))
                    value = u32(raw[u64(base + u64(sub))])
                scales[u64(place * u64(256) + u64((w >> u32(2)) * 16 + j))] = value
        else:
            # The scale and the minimum of a row's block.
            w = u32(word - u32(320))
            row = u32(tile * 16 + w)
            for i in range(2):
                value = u32(0)
                if row < rows:
                    value = _half(raw, row, row_bytes, block * 84 + 80 + 2 * i)
                factors[u64(place * u64(32) + u64(w * 2 + i))] = u16(value)


@kernel(*_ARGS, threads=THREADS, writes=("codes", "scales", "factors"))
def tile_iq2_xxs(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """256 words of codes, 8 of factors."""
    tile, block, word = _place_iq(blocks)
    if tile < tiles:
        place = u64(u64(tile) * u64(blocks) + u64(block))
        if word < u32(256):
            # A word of codes.
            lane, t = (
                u32((word >> u32(2)) & u32(31)),
                u32((word >> u32(2)) & u32(3)),
            )
            pair = u32((word >> u32(7)) * 2 + ((word >> u32(1)) & u32(1)))
            value = i32(0)
            for k in range(4):
                unit = u32(pair * 2 + u32(k >> 1))
                row = u32(tile * 16 + (lane >> u32(2)) + u32(k & 1) * 8)
                if row < rows:
                    source = u64(u64(row) * u64(row_bytes))
                    source = u64(source + u64(block * 66 + 2 + unit * 8))
                    if word & u32(1) == u32(0):
                        byte = i32(raw[u64(source + u64(t))])
                        value = i32(value | i32(byte << i32(8 * k)))
                    else:
                        signs = i32(0)
                        for i in range(4):
                            byte = i32(raw[u64(source + u64(4 + i))])
                            signs = i32(signs | i32(byte << i32(8 * i)))
                        for i in range(7):
                            bit = i32(i32(signs >> i32(7 * i32(t) + i)) & i32(1))
                            value = i32(value | i32(bit << i32(4 * i + k)))
                        if u32(k) == t:
                            value = i32(value | i32(signs & i32(-0x10000000)))
            codes[u64(place * u64(256) + u64(word))] = value
        else:
            # The scales of two rows' blocks.
            w = u32((word - u32(256)) * 2)
            for i in range(2):
                row = u32(tile * 16 + w + u32(i))
                value = u32(0)
                if row < rows:
                    value = _half(raw, row, row_bytes, block * 66)
                factors[u64(place * u64(16) + u64(w + u32(i)))] = u16(value)


@kernel(*_ARGS, threads=THREADS, writes=("codes", "scales", "factors"))
def tile_16bit(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """256 words of codes; columns past the row's end are zero."""
    tile, block, word = _place_16(blocks)
    if tile < tiles:
        place = u64(u64(tile) * u64(blocks) + u64(block))
        lane, w = u32(word >> u32(3)), u32(word & u32(7))
        row = u32(tile * 16 + (lane >> u32(2)) + (w >> u32(2)) * 8)
        k = u32(block * 32 + (lane & u32(3)) * 8 + (w & u32(3)) * 2)
        value = i32(0)
        if row < rows and k * 2 < row_bytes:
            source = u64(u64(row) * u64(row_bytes) + u64(k * 2))
            for i in range(4):
                if k * 2 + u32(i) < row_bytes:
                    byte = i32(raw[u64(source + u64(i))])
                    value = i32(value | i32(byte << i32(8 * i)))
        codes[u64(place * u64(256) + u64(word))] = value


REPACK: dict[str, tuple[Kernel, int]] = {
    "Q8_0": (tile_q8_0, 136),
    "MXFP4": (tile_mxfp4, 68),
    "Q4_K": (tile_q4_k, 592),
    "Q2_K": (tile_q2_k, 336),
    "IQ2_XXS": (tile_iq2_xxs, 264),
    "F16": (tile_16bit, 256),
    "BF16": (tile_16bit, 256),
}
