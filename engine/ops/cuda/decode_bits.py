"""How stored codes become int8 registers: nibbles, codebook rows, and words at odd addresses."""

from __future__ import annotations

import numpy as np
from numba import int32, int64, uint32

from engine.ops.cuda.kernel import device
from engine.ops.cuda.ptx import (
    bits_f32,
    f32_bits,
    ld_nc_u8,
    ld_nc_u16,
    ld_nc_v4,
    lds_v2,
    popc,
    prmt,
    st_b32,
)
from engine.quant.iq2_xxs_grid import GRID

# Magnitudes of E2M1 codes doubled, as bytes, and the same negated.
_LOW, _HIGH = int32(0x03020100), int32(0x0C080604)
_NEG_LOW = int32(np.array([0, 255, 254, 253], np.uint8).view(np.int32)[0])
_NEG_HIGH = int32(np.array([252, 250, 248, 244], np.uint8).view(np.int32)[0])

# The codebook's rows, magnitudes in ascending bytes.
CODEBOOK = np.ascontiguousarray(GRID.astype(np.uint8)).view(np.int64).reshape(256)


@device
def bits(x, shift, mask):
    return int32(int32(x >> int32(shift)) & int32(mask))


@device
def times(x, y):
    return int32(int32(x) * int32(y))


@device
def plus_times(p, c, e):
    return int32(p + int32(c * e))


@device
def e8m0(e):
    """2^(e - 128), exact down to the two subnormal ones."""
    small = int32(int32(0x00200000) << int32(min(e, uint32(1))))
    normal = int32(int32(int32(max(e, uint32(1))) - int32(1)) << int32(23))
    return bits_f32(small if e < uint32(2) else normal)


@device
def _e2m1_half(selector, signs):
    """Four nibbles: bytes of the doubled value; `signs` has bit 3 of each nibble in place."""
    plain = prmt(_LOW, _HIGH, selector)
    negative = prmt(_NEG_LOW, _NEG_HIGH, selector)
    # A selector's bit 3 spreads the sign of the byte it picks: of 0x80 that is 0xFF.
    spread = int32(prmt(int32(-2139062144), int32(-2139062144), signs) & int32(0x7F7F7F7F))
    mask = int32(int32(spread << int32(1)) | int32(spread & int32(0x01010101)))
    return int32(int32(plain & int32(~mask)) | int32(negative & mask))


@device
def e2m1_bytes(w):
    """Eight nibbles, lowest first, as two words of int8 (value doubled)."""
    magnitude = int32(w & int32(0x77777777))
    sign = int32(w & int32(-2004318072))
    low = _e2m1_half(int32(magnitude & int32(0xFFFF)), int32(sign & int32(0xFFFF)))
    high = _e2m1_half(
        int32(int32(magnitude >> int32(16)) & int32(0xFFFF)),
        int32(int32(sign >> int32(16)) & int32(0xFFFF)),
    )
    return low, high


@device
def _signed(magnitudes, pattern):
    """Bytes whose bit in the 4-bit pattern is set are negated; none of them is 0."""
    ones = int32(int32(pattern * int32(0x00204081)) & int32(0x01010101))
    mask = int32(int32(ones << int32(8)) - ones)
    return int32(int32(magnitudes ^ mask) + ones)


@device
def codebook(table, rows, word, t):
    """IQ2_XXS: the 8 values of group t of a sub-block, as two words of int8."""
    row = int32(int32(rows >> int32(8 * int32(t))) & int32(255))
    pattern = int32(int32(word >> int32(7 * int32(t))) & int32(127))
    odd = int32(popc(pattern) & int32(1))
    pattern = int32(pattern | int32(odd << int32(7)))
    low, high = lds_v2(uint32(table + uint32(row) * uint32(8)))
    return (
        _signed(low, int32(pattern & int32(15))),
        _signed(high, int32(pattern >> int32(4))),
    )


# The file's layout: blocks begin at even addresses, MXFP4's at any.


@device
def raw_word(at):
    """Four bytes at an even address."""
    low, high = int32(ld_nc_u16(at)), int32(ld_nc_u16(int64(at + 2)))
    return int32(low | int32(high << int32(16)))


@device
def raw_quad(at):
    """Sixteen bytes at a multiple of 16."""
    return ld_nc_v4(at)


@device
def raw_mxfp4(at, t):
    """Nibbles of values 8t .. 8t+7: value j < 16 is in byte j's low half, j + 16 in its high."""
    base = int64(at + int64((t & uint32(1)) * uint32(8)))
    shift = int32(4 * int32(t >> uint32(1)))
    value = int32(0)
    for i in range(8):
        nibble = int32(int32(int32(ld_nc_u8(int64(base + i))) >> shift) & int32(15))
        value = int32(value | int32(nibble << int32(4 * i)))
    return value


@device
def raw_q4_k(at):
    """Factors as a word, then the words of 8 scales and of 8 minima."""
    f = raw_word(at)
    s, m, x = raw_word(int64(at + 4)), raw_word(int64(at + 8)), raw_word(int64(at + 12))
    low, top = int32(0x3F3F3F3F), int32(0x03030303)
    nibbles = int32(0x0F0F0F0F)
    s_high = int32(int32(s >> int32(6)) & top)
    m_high = int32(int32(m >> int32(6)) & top)
    return (
        f,
        int32(s & low),
        int32(int32(x & nibbles) | int32(s_high << int32(4))),
        int32(m & low),
        int32(int32(int32(x >> int32(4)) & nibbles) | int32(m_high << int32(4))),
    )


@device
def raw_q2_k(at, t):
    """Factors as a word, then the scale bytes of sub-blocks 2u + (t >> 1), u = 0 .. 7."""
    f = raw_word(int64(at + 80))
    pick = int32(0x6420) if t < uint32(2) else int32(0x7531)
    y0 = prmt(raw_word(at), raw_word(int64(at + 4)), pick)
    y1 = prmt(raw_word(int64(at + 8)), raw_word(int64(at + 12)), pick)
    return f, y0, y1


@device
def st_f32(at, value):
    st_b32(at, f32_bits(value))
