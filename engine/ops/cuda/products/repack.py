"""Kernels that rearrange a file's rows into fragment order, as `pack` describes it.

One thread writes one 32-bit word of codes, or as many bytes of scales or factors. Grid: all words
of (row tiles, blocks of a row).
"""

from __future__ import annotations

from numba import cuda, int32, uint16, uint32, uint64

from engine.ops.cuda.build.kernel import I32P, U8P, U16P, U32, Kernel, device, kernel

THREADS = 256

_ARGS = (I32P, U8P, U16P, U8P, U32, U32, U32, U32)


def _coordinates(words):
    """A thread's place: (row tile, block, word of the tile's block)."""

    @device
    def place(blocks):
        at = uint64(uint64(cuda.blockIdx.x) * uint64(THREADS) + uint64(cuda.threadIdx.x))
        word = uint32(at % uint64(words))
        rest = uint64(at // uint64(words))
        return uint32(rest // uint64(blocks)), uint32(rest % uint64(blocks)), word

    return place


@device
def _half(raw, row, row_bytes, at):
    """Bits of a float16 that begins at byte `at` of a row."""
    base = uint64(uint64(row) * uint64(row_bytes) + uint64(at))
    return uint32(raw[base]) | uint32(uint32(raw[uint64(base + 1)]) << uint32(8))


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
                    value = _half(raw, row, row_bytes, block * 144 + 2 * i)
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
                    value = _half(raw, row, row_bytes, block * 84 + 80 + 2 * i)
                factors[uint64(place * uint64(32) + uint64(w * 2 + i))] = uint16(value)


@kernel(*_ARGS, threads=THREADS)
def tile_iq2_xxs(codes, scales, factors, raw, rows, blocks, row_bytes, tiles):
    """256 words of codes, 8 of factors."""
    tile, block, word = _place_iq(blocks)
    if tile < tiles:
        place = uint64(uint64(tile) * uint64(blocks) + uint64(block))
        if word < uint32(256):
            lane, t = (
                uint32((word >> uint32(2)) & uint32(31)),
                uint32((word >> uint32(2)) & uint32(3)),
            )
            pair = uint32((word >> uint32(7)) * 2 + ((word >> uint32(1)) & uint32(1)))
            value = int32(0)
            for k in range(4):
                unit = uint32(pair * 2 + uint32(k >> 1))
                row = uint32(tile * 16 + (lane >> uint32(2)) + uint32(k & 1) * 8)
                if row < rows:
                    source = uint64(uint64(row) * uint64(row_bytes))
                    source = uint64(source + uint64(block * 66 + 2 + unit * 8))
                    if word & uint32(1) == uint32(0):
                        byte = int32(raw[uint64(source + uint64(t))])
                        value = int32(value | int32(byte << int32(8 * k)))
                    else:
                        signs = int32(0)
                        for i in range(4):
                            byte = int32(raw[uint64(source + uint64(4 + i))])
                            signs = int32(signs | int32(byte << int32(8 * i)))
                        for i in range(7):
                            bit = int32(int32(signs >> int32(7 * int32(t) + i)) & int32(1))
                            value = int32(value | int32(bit << int32(4 * i + k)))
                        if uint32(k) == t:
                            value = int32(value | int32(signs & int32(-0x10000000)))
            codes[uint64(place * uint64(256) + uint64(word))] = value
        else:
            w = uint32((word - uint32(256)) * 2)
            for i in range(2):
                row = uint32(tile * 16 + w + uint32(i))
                value = uint32(0)
                if row < rows:
                    value = _half(raw, row, row_bytes, block * 66)
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


REPACK: dict[str, tuple[Kernel, int]] = {
    "Q8_0": (tile_q8_0, 136),
    "MXFP4": (tile_mxfp4, 68),
    "Q4_K": (tile_q4_k, 592),
    "Q2_K": (tile_q2_k, 336),
    "IQ2_XXS": (tile_iq2_xxs, 264),
    "F16": (tile_16bit, 256),
    "BF16": (tile_16bit, 256),
}
