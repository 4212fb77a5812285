"""Single values of a table's rows in the formats that have no tiled layout; see `embed`.

Each function takes the address of a block, the place k of a value in it, and the codebooks.
Results are products of what is stored, in float32, in the order of `gguf.quants`.
"""

from __future__ import annotations

from engine.ops.cuda.build.kernel import device
from engine.ops.cuda.build.ptx import (
    h2f,
    i2f,
    ld_nc_u8,
    ld_nc_u16,
    mul_rn,
    sub_rn,
    unpack_f16,
)
from engine.ops.cuda.build.types import f32, i32, i64, u32
from engine.ops.cuda.products.decode_bits import raw_q4_k, raw_word
from engine.ops.cuda.products.decode_raw import (
    iq3_s_rows,
    iq3_s_scale,
    iq3_xxs_signs,
    iq4_scale,
    iq4_word,
    q3_k_scales,
    q3_k_word,
    q5_k_word,
    q6_k_word,
    signed_byte,
)


@device
def _byte_of(word, k):
    """Byte k & 3 of a word, signed."""
    return signed_byte(word, i32(i32(8) * i32(k & u32(3))))


@device
def q6_k(at, k, grid):
    word = q6_k_word(at, i32(k >> u32(7)), i32(i32(k >> u32(5)) & i32(3)), k & u32(28))
    scale = signed_byte(i32(ld_nc_u8(i64(at + 192 + i64(k >> u32(4))))), 0)
    d = h2f(ld_nc_u16(i64(at + 208)))
    return mul_rn(mul_rn(d, i2f(scale)), i2f(_byte_of(word, k)))


@device
def q3_k(at, k, grid):
    word = q3_k_word(at, i32(k >> u32(7)), i32(i32(k >> u32(5)) & i32(3)), k & u32(28))
    y0, y1, y2, y3 = q3_k_scales(at)
    sub = u32(k >> u32(4))
    low = y0 if sub < u32(4) else y1
    high = y2 if sub < u32(12) else y3
    scale = i32(signed_byte(low if sub < u32(8) else high, i32(i32(8) * i32(sub & u32(3)))) - 32)
    d = h2f(ld_nc_u16(i64(at + 108)))
    return mul_rn(mul_rn(d, i2f(scale)), i2f(_byte_of(word, k)))


@device
def q5_k(at, k, grid):
    f, s_low, s_high, m_low, m_high = raw_q4_k(at)
    unit = u32(k >> u32(5))
    shift = i32(i32(8) * i32(unit & u32(3)))
    s = signed_byte(s_low if unit < u32(4) else s_high, shift)
    m = signed_byte(m_low if unit < u32(4) else m_high, shift)
    word = q5_k_word(at, i32(unit), k & u32(28))
    d, least = unpack_f16(f)
    code = i2f(_byte_of(word, k))
    return sub_rn(mul_rn(mul_rn(d, i2f(s)), code), mul_rn(least, i2f(m)))


@device
def iq4_xs(at, k, grid):
    unit = u32(k >> u32(5))
    byte = i32(ld_nc_u8(i64(at + 8 + i64(unit * u32(16)) + i64(k & u32(15)))))
    level = iq4_word(i32(i32(byte >> i32(i32(4) * i32((k >> u32(4)) & u32(1)))) & i32(15)))
    d = h2f(ld_nc_u16(at))
    return mul_rn(mul_rn(d, i2f(iq4_scale(at, i32(unit)))), i2f(signed_byte(level, 0)))


@device
def _magnitude(grid, first, row, j):
    """Magnitude j of a row of four; `first` is where the codebook begins."""
    pair = grid[u32(u32(first) + (u32(row) >> u32(1)))]
    shift = u32(u32(u32(row) & u32(1)) * u32(32) + j * u32(8))
    return i32(i64(pair >> i64(shift)) & i64(255))


@device
def iq3_xxs(at, k, grid):
    unit, t, j = u32(k >> u32(5)), (k >> u32(3)) & u32(3), k & u32(7)
    aux = raw_word(i64(at + 66 + i64(unit * u32(4))))
    signs = iq3_xxs_signs(aux, t)
    row = ld_nc_u8(i64(at + 2 + i64(unit * u32(8)) + i64(t * u32(2) + (j >> u32(2)))))
    value = _magnitude(grid, 256, row, j & u32(3))
    value = i32(-value) if u32(u32(signs) >> j) & u32(1) else value
    scale = i32(i32(i32(aux >> i32(27)) & i32(30)) | i32(1))
    d = mul_rn(h2f(ld_nc_u16(at)), f32(0.25))
    return mul_rn(mul_rn(d, i2f(scale)), i2f(value))


@device
def iq3_s(at, k, grid):
    unit, t, j = u32(k >> u32(5)), (k >> u32(3)) & u32(3), k & u32(7)
    first, second, signs = iq3_s_rows(at, i32(unit), t)
    value = _magnitude(grid, 384, first if j < u32(4) else second, j & u32(3))
    value = i32(-value) if u32(u32(signs) >> j) & u32(1) else value
    d = h2f(ld_nc_u16(at))
    return mul_rn(mul_rn(d, i2f(iq3_s_scale(at, i32(unit)))), i2f(value))


FORMATS = {
    "Q3_K": (110, 256, q3_k),
    "Q5_K": (176, 256, q5_k),
    "Q6_K": (210, 256, q6_k),
    "IQ3_XXS": (98, 256, iq3_xxs),
    "IQ3_S": (110, 256, iq3_s),
    "IQ4_XS": (136, 256, iq4_xs),
}
