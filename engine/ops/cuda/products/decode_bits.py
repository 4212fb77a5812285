"""How stored codes become int8 registers: nibbles, codebook rows, and words at odd addresses."""

from __future__ import annotations

import numpy as np
from numba import int32, int64, uint32

from engine.ops.cuda.build.kernel import device
from engine.ops.cuda.build.ptx import (
    bits_f32,
    f32_bits,
    ld_nc_u8,
    ld_nc_u16,
    ld_nc_v4,
    lds_b32,
    popc,
    prmt,
    shfl_xor_i32,
    st_b32,
)
from engine.quant.iq2_xxs_grid import GRID

# Magnitudes of E2M1 codes doubled, as bytes, and the same negated.
_LOW, _HIGH = int32(0x03020100), int32(0x0C080604)
_NEG_LOW = int32(np.array([0, 255, 254, 253], np.uint8).view(np.int32)[0])
_NEG_HIGH = int32(np.array([252, 250, 248, 244], np.uint8).view(np.int32)[0])

# IQ2_XXS: magnitudes and their negatives, and the codebook's rows, magnitudes in ascending bytes.
_MAGNITUDES = int32(np.array([8, 25, 43, 0], np.int8).view(np.int32)[0])
_NEGATIVES = int32(np.array([-8, -25, -43, 0], np.int8).view(np.int32)[0])
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
def selectors(row):
    """A codebook row as eight nibbles, 0, 1, 2 for the magnitudes 8, 25, 43, first one lowest."""
    low, high = int32(row), int32(row >> int64(32))
    return int32(_nibbles(low) | int32(_nibbles(high) << int32(16)))


@device
def _nibbles(w):
    w = bits(w, 4, 0x03030303)
    w = int32(int32(w | bits(w, 4, 0x0FFFFFFF)) & int32(0x00330033))
    return int32(int32(w | int32(w >> int32(8))) & int32(0x3333))


@device
def signed_rows(table, row, signs):
    """Eight values as two words of int8.

    `signs` has value i's sign in bit 2 of nibble i: with it the nibbles select from the three
    magnitudes and their negatives.
    """
    picks = lds_b32(uint32(table + uint32(row) * uint32(4)))
    picks = int32(picks ^ int32(signs & int32(0x44444444)))
    low = prmt(_MAGNITUDES, _NEGATIVES, picks)
    return low, prmt(_MAGNITUDES, _NEGATIVES, int32(picks >> int32(16)))


@device
def eighth_signs(w):
    """Four groups' signs, group k's in bit k of nibbles 0 .. 6: nibble 7 becomes their parity."""
    x = int32(w << int32(4))
    x = int32(x ^ int32(x << int32(16)))
    x = int32(x ^ int32(x << int32(8)))
    x = int32(x ^ int32(x << int32(4)))
    return int32(int32(w & int32(0x0FFFFFFF)) | int32(x & int32(-0x10000000)))


@device
def quad_nibbles(low, high, t):
    """The top nibbles of two words of the lanes t = 0 .. 3 of a quad, as eight nibbles."""
    first, second = bits(low, 28, 15), bits(high, 28, 15)
    z = int32(int32(first | int32(second << int32(16))) << int32(4 * int32(t)))
    z = int32(z | shfl_xor_i32(z, 1))
    return int32(z | shfl_xor_i32(z, 2))


@device
def raw_signs(word, t):
    """IQ2_XXS: signs of group t of a sub-block as `signed_rows` takes them."""
    p = bits(word, 7 * int32(t), 127)
    p = int32(p | int32(int32(popc(p) & int32(1)) << int32(7)))
    p = int32(int32(p | int32(p << int32(12))) & int32(0x000F000F))
    p = int32(int32(p | int32(p << int32(6))) & int32(0x03030303))
    p = int32(int32(p | int32(p << int32(3))) & int32(0x11111111))
    return int32(p << int32(2))


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
