"""How stored codes become int8 registers: nibbles, codebook rows, and words at odd addresses."""

from __future__ import annotations

import numpy as np

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
from engine.ops.cuda.build.types import i32, i64, u32
from engine.quant.iq2_xxs_grid import GRID

# Magnitudes of E2M1 codes doubled, as bytes, and the same negated.
_LOW, _HIGH = i32(0x03020100), i32(0x0C080604)
_NEG_LOW = i32(np.array([0, 255, 254, 253], np.uint8).view(np.int32)[0])
_NEG_HIGH = i32(np.array([252, 250, 248, 244], np.uint8).view(np.int32)[0])

# IQ2_XXS: magnitudes and their negatives, and the codebook's rows, magnitudes in ascending bytes.
_MAGNITUDES = i32(np.array([8, 25, 43, 0], np.int8).view(np.int32)[0])
_NEGATIVES = i32(np.array([-8, -25, -43, 0], np.int8).view(np.int32)[0])
CODEBOOK = np.ascontiguousarray(GRID.astype(np.uint8)).view(np.int64).reshape(256)


@device
def bits(x, shift, mask):
    return i32(i32(x >> i32(shift)) & i32(mask))


@device
def times(x, y):
    return i32(i32(x) * i32(y))


@device
def plus_times(p, c, e):
    return i32(p + i32(c * e))


@device
def e8m0(e):
    """2^(e - 128), exact down to the two subnormal ones."""
    small = i32(i32(0x00200000) << i32(min(e, u32(1))))
    normal = i32(i32(i32(max(e, u32(1))) - i32(1)) << i32(23))
    return bits_f32(small if e < u32(2) else normal)


@device
def _e2m1_half(selector, signs):
    """Four nibbles: bytes of the doubled value; `signs` has bit 3 of each nibble in place."""
    plain = prmt(_LOW, _HIGH, selector)
    negative = prmt(_NEG_LOW, _NEG_HIGH, selector)
    # A selector's bit 3 spreads the sign of the byte it picks: of 0x80 that is 0xFF.
    spread = i32(prmt(i32(-2139062144), i32(-2139062144), signs) & i32(0x7F7F7F7F))
    mask = i32(i32(spread << i32(1)) | i32(spread & i32(0x01010101)))
    return i32(i32(plain & i32(~mask)) | i32(negative & mask))


@device
def e2m1_bytes(w):
    """Eight nibbles, lowest first, as two words of int8 (value doubled)."""
    magnitude = i32(w & i32(0x77777777))
    sign = i32(w & i32(-2004318072))
    low = _e2m1_half(i32(magnitude & i32(0xFFFF)), i32(sign & i32(0xFFFF)))
    high = _e2m1_half(
        i32(i32(magnitude >> i32(16)) & i32(0xFFFF)),
        i32(i32(sign >> i32(16)) & i32(0xFFFF)),
    )
    return low, high


@device
def selectors(row):
    """A codebook row as eight nibbles, 0, 1, 2 for the magnitudes 8, 25, 43, first one lowest."""
    low, high = i32(row), i32(row >> i64(32))
    return i32(_nibbles(low) | i32(_nibbles(high) << i32(16)))


@device
def _nibbles(w):
    w = bits(w, 4, 0x03030303)
    w = i32(i32(w | bits(w, 4, 0x0FFFFFFF)) & i32(0x00330033))
    return i32(i32(w | i32(w >> i32(8))) & i32(0x3333))


@device
def signed_rows(table, row, signs):
    """Eight values as two words of int8.

    `signs` has value i's sign in bit 2 of nibble i: with it the nibbles select from the three
    magnitudes and their negatives.
    """
    picks = lds_b32(u32(table + u32(row) * u32(4)))
    picks = i32(picks ^ i32(signs & i32(0x44444444)))
    low = prmt(_MAGNITUDES, _NEGATIVES, picks)
    return low, prmt(_MAGNITUDES, _NEGATIVES, i32(picks >> i32(16)))


@device
def eighth_signs(w):
    """Four groups' signs, group k's in bit k of nibbles 0 .. 6: nibble 7 becomes their parity."""
    x = i32(w << i32(4))
    x = i32(x ^ i32(x << i32(16)))
    x = i32(x ^ i32(x << i32(8)))
    x = i32(x ^ i32(x << i32(4)))
    return i32(i32(w & i32(0x0FFFFFFF)) | i32(x & i32(-0x10000000)))


@device
def quad_nibbles(low, high, t):
    """The top nibbles of two words of the lanes t = 0 .. 3 of a quad, as eight nibbles."""
    first, second = bits(low, 28, 15), bits(high, 28, 15)
    z = i32(i32(first | i32(second << i32(16))) << i32(4 * i32(t)))
    z = i32(z | shfl_xor_i32(z, 1))
    return i32(z | shfl_xor_i32(z, 2))


@device
def raw_signs(word, t):
    """IQ2_XXS: signs of group t of a sub-block as `signed_rows` takes them."""
    p = bits(word, 7 * i32(t), 127)
    p = i32(p | i32(i32(popc(p) & i32(1)) << i32(7)))
    p = i32(i32(p | i32(p << i32(12))) & i32(0x000F000F))
    p = i32(i32(p | i32(p << i32(6))) & i32(0x03030303))
    p = i32(i32(p | i32(p << i32(3))) & i32(0x11111111))
    return i32(p << i32(2))


# The file's layout: blocks begin at even addresses, MXFP4's at any.


@device
def raw_word(at):
    """Four bytes at an even address."""
    low, high = i32(ld_nc_u16(at)), i32(ld_nc_u16(i64(at + 2)))
    return i32(low | i32(high << i32(16)))


@device
def raw_quad(at):
    """Sixteen bytes at a multiple of 16."""
    return ld_nc_v4(at)


@device
def raw_mxfp4(at, t):
    """Nibbles of values 8t .. 8t+7: value j < 16 is in byte j's low half, j + 16 in its high."""
    base = i64(at + i64((t & u32(1)) * u32(8)))
    shift = i32(4 * i32(t >> u32(1)))
    value = i32(0)
    for i in range(8):
        nibble = i32(i32(i32(ld_nc_u8(i64(base + i))) >> shift) & i32(15))
        value = i32(value | i32(nibble << i32(4 * i)))
    return value


@device
def raw_q4_k(at):
    """Factors as a word, then the words of 8 scales and of 8 minima."""
    f = raw_word(at)
    s, m, x = raw_word(i64(at + 4)), raw_word(i64(at + 8)), raw_word(i64(at + 12))
    low, top = i32(0x3F3F3F3F), i32(0x03030303)
    nibbles = i32(0x0F0F0F0F)
    s_high = i32(i32(s >> i32(6)) & top)
    m_high = i32(i32(m >> i32(6)) & top)
    return (
        f,
        i32(s & low),
        i32(i32(x & nibbles) | i32(s_high << i32(4))),
        i32(m & low),
        i32(i32(i32(x >> i32(4)) & nibbles) | i32(m_high << i32(4))),
    )


@device
def raw_q2_k(at, t):
    """Factors as a word, then the scale bytes of sub-blocks 2u + (t >> 1), u = 0 .. 7."""
    f = raw_word(i64(at + 80))
    pick = i32(0x6420) if t < u32(2) else i32(0x7531)
    y0 = prmt(raw_word(at), raw_word(i64(at + 4)), pick)
    y1 = prmt(raw_word(i64(at + 8)), raw_word(i64(at + 12)), pick)
    return f, y0, y1


@device
def st_f32(at, value):
    st_b32(at, f32_bits(value))
