"""Blocks of formats that are multiplied as the file has them: lines like those of `blocks`.

A sub-block of 16 values with a scale of its own takes a product of 16 values (k16), one of 32 takes
k32; the int32 sum of each is multiplied by the sub-block's integer scale, and the block's scales
apply once. So a block is exact up to those, as in the formats that have a tiled layout.
"""

from __future__ import annotations

from engine.ops.cuda.products.lines import Lines, half, scaled, zero

ROWS = (("ra", 0), ("rb", 1))


def _sixteens(nt: int, u: int, s: int) -> Lines:
    """Half a unit: a0, a1 are four values of either row; e0, e1 their scales."""
    lines = []
    for j in range(nt):
        c = ", ".join(f"c{j}_{i}" for i in range(4))
        nought = ", ".join(["i32(0)"] * 4)
        lines += [
            # Values 16 s + 4 t: the column's address is that of 8 t.
            f"b0 = ld_nc_b32(xa{j} + kx + {32 * u + 16 * s} - i64(t) * 4)",
            f"{c} = mma_m16n8k16_s8(a0, a1, b0, {nought})",
        ]
        lines += [f"p{j}_{i} = plus_times(p{j}_{i}, c{j}_{i}, e{i >> 1})" for i in range(4)]
    return lines


def _whole(nt: int, u: int) -> Lines:
    """A unit: a0 .. a3 are its registers; e0, e1 the rows' scales."""
    lines = []
    for j in range(nt):
        c = ", ".join(f"c{j}_{i}" for i in range(4))
        nought = ", ".join(["i32(0)"] * 4)
        lines += [
            f"b0, b1 = ld_nc_v2(xa{j} + kx + {32 * u})",
            f"{c} = mma_m16n8k32_s8(a0, a1, a2, a3, b0, b1, {nought})",
        ]
        lines += [f"p{j}_{i} = plus_times(p{j}_{i}, c{j}_{i}, e{i >> 1})" for i in range(4)]
    return lines


def q6_k(nt: int, tiled: bool) -> Lines:
    assert not tiled
    lines = [half("d0", "ra + 208"), half("d1", "rb + 208")]
    lines += [f"{y}{w} = raw_word({row} + {192 + 4 * w})"
              for y, row in (("y", "ra"), ("z", "rb")) for w in range(4)]  # fmt: skip
    lines += zero(nt, "p")
    for u in range(8):
        for s in range(2):
            word, shift = (2 * u + s) >> 2, 8 * ((2 * u + s) & 3)
            lines += [f"a{r} = q6_k_word({row}, {u >> 2}, {u & 3}, {16 * s} + t * 4)"
                      for row, r in ROWS]  # fmt: skip
            lines += [f"e{r} = signed_byte({y}{word}, {shift})" for y, r in (("y", 0), ("z", 1))]
            lines += _sixteens(nt, u, s)
    return lines + scaled(nt, "d0", "d1", "p")


def q3_k(nt: int, tiled: bool) -> Lines:
    assert not tiled
    lines = [half("d0", "ra + 108"), half("d1", "rb + 108")]
    lines += ["y0, y1, y2, y3 = q3_k_scales(ra)", "z0, z1, z2, z3 = q3_k_scales(rb)"]
    lines += zero(nt, "p")
    for u in range(8):
        for s in range(2):
            word, shift = (2 * u + s) >> 2, 8 * ((2 * u + s) & 3)
            lines += [f"a{r} = q3_k_word({row}, {u >> 2}, {u & 3}, {16 * s} + t * 4)"
                      for row, r in ROWS]  # fmt: skip
            lines += [f"e{r} = i32(bits({y}{word}, {shift}, 255) - i32(32))"
                      for y, r in (("y", 0), ("z", 1))]  # fmt: skip
            lines += _sixteens(nt, u, s)
    return lines + scaled(nt, "d0", "d1", "p")


def q5_k(nt: int, tiled: bool) -> Lines:
    assert not tiled
    lines = [
        "f0, y0, y1, y2, y3 = raw_q4_k(ra)",
        "f1, z0, z1, z2, z3 = raw_q4_k(rb)",
        "d0, m0 = unpack_f16(f0)",
        "d1, m1 = unpack_f16(f1)",
    ]
    lines += zero(nt, "p") + zero(nt, "m_")
    for u in range(8):
        word, shift = u >> 2, 8 * (u & 3)
        lines += [f"a{i} = q5_k_word({'rb' if i & 1 else 'ra'}, {u}, {4 * (i >> 1)} + t * 8)"
                  for i in range(4)]  # fmt: skip
        lines += [
            f"e0 = bits(y{word}, {shift}, 255)",
            f"e1 = bits(z{word}, {shift}, 255)",
            f"l0 = times(bits(y{word + 2}, {shift}, 255), 0x01010101)",
            f"l1 = times(bits(z{word + 2}, {shift}, 255), 0x01010101)",
        ]
        lines += _whole(nt, u)
        for j in range(nt):
            m = ", ".join(f"m_{j}_{i}" for i in range(4))
            lines += [
                f"b0, b1 = ld_nc_v2(xa{j} + kx + {32 * u})",
                f"{m} = mma_m16n8k32_s8(l0, l1, l0, l1, b0, b1, {m})",
            ]
    return lines + scaled(nt, "d0", "d1", "p") + scaled(nt, "m0", "m1", "m_", "-")


def iq4_xs(nt: int, tiled: bool) -> Lines:
    assert not tiled
    lines = [half("d0", "ra"), half("d1", "rb"), *zero(nt, "p")]
    for u in range(8):
        for row, r in ROWS:
            lines += [f"a{r}, a{r + 2} = iq4_pair({row}, {u}, t)", f"e{r} = iq4_scale({row}, {u})"]
        lines += _whole(nt, u)
    return lines + scaled(nt, "d0", "d1", "p")


def iq3_xxs(nt: int, tiled: bool) -> Lines:
    assert not tiled
    lines = [half("d0", "ra"), half("d1", "rb")]
    lines += ["d0, d1 = mul_rn(d0, f32(0.25)), mul_rn(d1, f32(0.25))", *zero(nt, "p")]
    for u in range(8):
        for row, r in ROWS:
            lines += [
                f"q = i32(ld_nc_u16(i64({row} + {2 + 8 * u} + i64(t) * 2)))",
                f"w = raw_word({row} + {66 + 4 * u})",
                "h = iq3_xxs_signs(w, t)",
                f"a{r} = signed_word(table, bits(q, 0, 255), h)",
                f"a{r + 2} = signed_word(table, bits(q, 8, 255), bits(h, 4, 15))",
                f"e{r} = i32(bits(w, 27, 30) | i32(1))",
            ]
        lines += _whole(nt, u)
    return lines + scaled(nt, "d0", "d1", "p")


def iq3_s(nt: int, tiled: bool) -> Lines:
    assert not tiled
    lines = [half("d0", "ra"), half("d1", "rb"), *zero(nt, "p")]
    for u in range(8):
        for row, r in ROWS:
            lines += [
                f"q, w, h = iq3_s_rows({row}, {u}, t)",
                f"a{r} = signed_word(table, q, h)",
                f"a{r + 2} = signed_word(table, w, bits(h, 4, 15))",
                f"e{r} = iq3_s_scale({row}, {u})",
            ]
        lines += _whole(nt, u)
    return lines + scaled(nt, "d0", "d1", "p")


RAW_BLOCKS = {
    "Q3_K": q3_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ3_XXS": iq3_xxs,
    "IQ3_S": iq3_s,
    "IQ4_XS": iq4_xs,
}
