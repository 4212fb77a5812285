"""How the stored codes of formats that are read as the file has them become int8 registers.

These formats have no tiled layout: their blocks lie row by row, at even addresses. Layouts are
GGML's (source: `gguf.quants`); each function takes the address of a block or of a part of it.
"""

from __future__ import annotations

import numpy as np

from engine.ops.cuda.build.kernel import device
from engine.ops.cuda.build.ptx import ld_nc_u8, ld_nc_u16, lds_b32, popc, prmt
from engine.ops.cuda.build.types import i32, i64, u32
from engine.ops.cuda.products.decode_bits import bits, raw_word, times

_TOP = i32(np.array([0x80] * 4, np.uint8).view(np.int32)[0])
_ONES = i32(0x01010101)
_IQ4 = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
).view(np.int32)
_IQ4_0, _IQ4_1, _IQ4_2, _IQ4_3 = (i32(word) for word in _IQ4)


@device
def minus_bytes(x, y):
    """Bytes of x, up to 127, minus bytes of y, up to 128: four int8."""
    return i32(i32(i32(x | _TOP) - y) ^ _TOP)


@device
def q6_k_word(at, n, q, k):
    """Q6_K: four values from 128 n + 32 q + k on, k a multiple of 4."""
    low = bits(raw_word(i64(at + 64 * n + 32 * (q & 1) + i64(k))), 4 * (q >> 1), 0x0F0F0F0F)
    high = bits(raw_word(i64(at + 128 + 32 * n + i64(k))), 2 * q, 0x03030303)
    return minus_bytes(i32(low | i32(high << i32(4))), i32(0x20202020))


@device
def q3_k_word(at, n, q, k):
    """Q3_K: four values from 128 n + 32 q + k on, k a multiple of 4."""
    low = bits(raw_word(i64(at + 32 + 32 * n + i64(k))), 2 * q, 0x03030303)
    high = bits(raw_word(i64(at + i64(k))), 4 * n + q, 0x01010101)
    return minus_bytes(i32(low | i32(high << i32(2))), i32(0x04040404))


@device
def q3_k_scales(at):
    """Q3_K: the scales of sixteen sub-blocks, each a byte, 32 too many."""
    a, b, c = raw_word(i64(at + 96)), raw_word(i64(at + 100)), raw_word(i64(at + 104))
    nibbles = i32(0x0F0F0F0F)
    y0 = i32(i32(a & nibbles) | i32(bits(c, 0, 0x03030303) << i32(4)))
    y1 = i32(i32(b & nibbles) | i32(bits(c, 2, 0x03030303) << i32(4)))
    y2 = i32(bits(a, 4, 0x0F0F0F0F) | i32(bits(c, 4, 0x03030303) << i32(4)))
    y3 = i32(bits(b, 4, 0x0F0F0F0F) | i32(bits(c, 6, 0x03030303) << i32(4)))
    return y0, y1, y2, y3


@device
def signed_byte(word, shift):
    """The byte of a word that begins at bit `shift`, as a signed number."""
    return i32(i32(word << i32(24 - shift)) >> i32(24))


@device
def q5_k_word(at, u, k):
    """Q5_K: four values from 32 u + k on."""
    low = bits(raw_word(i64(at + 48 + 32 * (u >> 1) + i64(k))), 4 * (u & 1), 0x0F0F0F0F)
    high = bits(raw_word(i64(at + 16 + i64(k))), u, 0x01010101)
    return i32(low | i32(high << i32(4)))


@device
def iq4_scale(at, u):
    """IQ4_XS: the scale of sub-block u."""
    low = i32(ld_nc_u8(i64(at + 4 + (u >> 1))))
    low = bits(low, 4 * (u & 1), 15)
    high = bits(i32(ld_nc_u16(i64(at + 2))), 2 * u, 3)
    return i32(i32(low | i32(high << i32(4))) - i32(32))


@device
def iq4_word(n):
    """Four bytes that each hold a place of IQ4's sixteen levels, as the levels."""
    x = i32(n | i32(n >> i32(4)))
    picks = i32(i32(x & i32(0xFF)) | i32(i32(x >> i32(8)) & i32(0xFF00)))
    picks = i32(picks & i32(0x7777))
    upper = times(bits(n, 3, 0x01010101), 255)
    low, high = prmt(_IQ4_0, _IQ4_1, picks), prmt(_IQ4_2, _IQ4_3, picks)
    return i32(i32(low & i32(~upper)) | i32(high & upper))


@device
def iq4_pair(at, u, t):
    """IQ4_XS: values 8t .. 8t+7 of sub-block u as two words."""
    base = i64(at + 8 + 16 * u + i64((t & u32(1)) * u32(8)))
    shift = i32(i32(4) * i32(t >> u32(1)))
    first, second = raw_word(base), raw_word(i64(base + 4))
    return iq4_word(bits(first, shift, 0x0F0F0F0F)), iq4_word(bits(second, shift, 0x0F0F0F0F))


@device
def signed_word(table, row, signs):
    """Four magnitudes of a codebook's row, negated where bits 0 to 3 of `signs` say so."""
    word = lds_b32(u32(table + u32(row) * u32(4)))
    mask = times(i32(times(i32(signs & i32(15)), 0x00204081) & _ONES), 255)
    # No magnitude is nought, so that no byte carries into the next.
    return i32(i32(word ^ mask) + i32(mask & _ONES))


@device
def iq3_xxs_signs(aux, t):
    """IQ3_XXS: eight signs of group t; the last is the parity of the others."""
    p = bits(aux, 7 * i32(t), 127)
    return i32(p | i32(i32(popc(p) & i32(1)) << i32(7)))


@device
def iq3_s_rows(at, u, t):
    """IQ3_S: the two codebook rows of values 8t .. 8t+7 of sub-block u, and their signs."""
    pair = i32(ld_nc_u16(i64(at + 2 + 8 * u + i64(t) * 2)))
    high = i32(ld_nc_u8(i64(at + 66 + u)))
    high = i32(high >> i32(i32(2) * i32(t)))
    first = i32(bits(pair, 0, 255) | i32(i32(high & i32(1)) << i32(8)))
    second = i32(bits(pair, 8, 255) | i32(i32(high & i32(2)) << i32(7)))
    return first, second, i32(ld_nc_u8(i64(at + 74 + 4 * u + i64(t))))


@device
def iq3_s_scale(at, u):
    """IQ3_S: the odd scale of sub-block u."""
    byte = i32(ld_nc_u8(i64(at + 106 + (u >> 1))))
    return i32(i32(bits(byte, 4 * (u & 1), 15) << i32(1)) | i32(1))
