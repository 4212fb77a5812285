"""One block of a product in tensor core instructions, per format and layout, as source lines.

The lines of a block read and write the names that the table of `generate` lists: addresses of the
weights (cb, sb, fb and place; raw: ra and rb) and of the activations (xa{j}, kx, da{j}_{i}, kd,
plane), the thread's lane, g and t, and the accumulators s{j}_{i}, r{j}_{i} and u{j}_{i}, to which
they add. Other names are theirs. They know neither the kernel around them nor how columns came to
be columns. The order of operations of one accumulator depends on nothing but K.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.ops.cuda.products.blocks_raw import RAW_BLOCKS
from engine.ops.cuda.products.lines import Lines, half, scaled, zero


def _products(nt: int, a: tuple[str, str, str, str], at: str, sums: str = "c") -> Lines:
    """One k32 product of registers a with every column tile, added to int32 {sums}{j}_{i}."""
    lines = []
    for j in range(nt):
        c = ", ".join(f"{sums}{j}_{i}" for i in range(4))
        lines += [
            f"b0, b1 = ld_nc_v2(xa{j} + kx + {at})",
            f"{c} = mma_m16n8k32_s8({', '.join(a)}, b0, b1, {c})",
        ]
    return lines


def q8_0(nt: int, tiled: bool) -> Lines:
    if tiled:
        lines = [
            "a0, a1, a2, a3 = ld_stream_v4(cb + place * 512 + lane * 16)",
            half("d0", "sb + place * 32 + g * 2"),
            half("d1", "sb + place * 32 + g * 2 + 16"),
        ]
    else:
        lines = [half("d0", "ra"), half("d1", "rb")]
        lines += [f"a{i} = raw_word({'rb' if i & 1 else 'ra'} + 2 + t * 8 + {4 * (i >> 1)})"
                  for i in range(4)]  # fmt: skip
    lines += zero(nt) + _products(nt, ("a0", "a1", "a2", "a3"), "0")
    return lines + scaled(nt, "d0", "d1")


def mxfp4(nt: int, tiled: bool) -> Lines:
    if tiled:
        lines = [
            "w0, w1 = ld_stream_v2(cb + place * 256 + lane * 8)",
            "d0 = e8m0(ld_nc_u8(sb + place * 16 + g))",
            "d1 = e8m0(ld_nc_u8(sb + place * 16 + g + 8))",
        ]
    else:
        lines = ["d0 = e8m0(ld_nc_u8(ra))", "d1 = e8m0(ld_nc_u8(rb))"]
        for word, row in (("w0", "ra"), ("w1", "rb")):
            lines.append(f"{word} = raw_mxfp4({row} + 1, t)")
    lines += ["a0, a2 = e2m1_bytes(w0)", "a1, a3 = e2m1_bytes(w1)"]
    lines += zero(nt) + _products(nt, ("a0", "a1", "a2", "a3"), "0")
    return lines + scaled(nt, "d0", "d1")


def q4_k(nt: int, tiled: bool) -> Lines:
    if tiled:
        lines = [
            "y0, y1, y2, y3 = ld_nc_v4(sb + place * 256 + g * 16)",
            "z0, z1, z2, z3 = ld_nc_v4(sb + place * 256 + g * 16 + 128)",
            "f0 = ld_nc_b32(fb + place * 64 + g * 4)",
            "f1 = ld_nc_b32(fb + place * 64 + g * 4 + 32)",
        ]
    else:
        lines = [
            "f0, y0, y1, y2, y3 = raw_q4_k(ra)",
            "f1, z0, z1, z2, z3 = raw_q4_k(rb)",
        ]
    lines += ["d0, m0 = unpack_f16(f0)", "d1, m1 = unpack_f16(f1)"]
    lines += zero(nt, "p") + zero(nt, "m_")
    for u in range(8):
        if tiled:
            lines.append(f"w0, w1 = ld_stream_v2(cb + place * 2048 + {256 * u} + lane * 8)")
            lines += [f"a{i} = bits(w{i & 1}, {4 * (i >> 1)}, 0x0F0F0F0F)"
                      for i in range(4)]  # fmt: skip
        else:
            lines += [
                f"a{i} = bits(raw_word({'rb' if i & 1 else 'ra'} + {16 + 32 * (u >> 1)} + t * 8 "
                f"+ {4 * (i >> 1)}), {4 * (u & 1)}, 0x0F0F0F0F)"
                for i in range(4)
            ]
        word, shift = u >> 2, 8 * (u & 3)
        lines += [
            f"e0 = bits(y{word}, {shift}, 255)",
            f"e1 = bits(z{word}, {shift}, 255)",
            f"l0 = times(bits(y{word + 2}, {shift}, 255), 0x01010101)",
            f"l1 = times(bits(z{word + 2}, {shift}, 255), 0x01010101)",
        ]
        for j in range(nt):
            c = ", ".join(f"c{j}_{i}" for i in range(4))
            m = ", ".join(f"m_{j}_{i}" for i in range(4))
            nought = ", ".join(["i32(0)"] * 4)
            lines += [
                f"b0, b1 = ld_nc_v2(xa{j} + kx + {32 * u})",
                f"{c} = mma_m16n8k32_s8(a0, a1, a2, a3, b0, b1, {nought})",
                f"{m} = mma_m16n8k32_s8(l0, l1, l0, l1, b0, b1, {m})",
            ]
            lines += [f"p{j}_{i} = plus_times(p{j}_{i}, c{j}_{i}, e{i >> 1})" for i in range(4)]
    return lines + scaled(nt, "d0", "d1", "p") + scaled(nt, "m0", "m1", "m_", "-")


def q2_k(nt: int, tiled: bool) -> Lines:
    if tiled:
        lines = [
            "w0, w1, w2, w3 = ld_stream_v4(cb + place * 1024 + lane * 32)",
            "w4, w5, w6, w7 = ld_stream_v4(cb + place * 1024 + lane * 32 + 16)",
            "y0, y1 = ld_nc_v2(sb + place * 256 + g * 16 + (t >> u32(1)) * 8)",
            "z0, z1 = ld_nc_v2(sb + place * 256 + g * 16 + 128 + (t >> u32(1)) * 8)",
            "f0 = ld_nc_b32(fb + place * 64 + g * 4)",
            "f1 = ld_nc_b32(fb + place * 64 + g * 4 + 32)",
        ]
    else:
        lines = [
            "f0, y0, y1 = raw_q2_k(ra, t)",
            "f1, z0, z1 = raw_q2_k(rb, t)",
        ]
    lines += ["d0, m0 = unpack_f16(f0)", "d1, m1 = unpack_f16(f1)"]
    lines += zero(nt, "p") + zero(nt, "m_")
    for u in range(8):
        word, shift = u >> 2, 8 * (u & 3)
        lines += [
            f"e0 = bits(y{word}, {shift}, 15)",
            f"e1 = bits(z{word}, {shift}, 15)",
            f"l0 = times(bits(y{word}, {shift + 4}, 15), 0x01010101)",
            f"l1 = times(bits(z{word}, {shift + 4}, 15), 0x01010101)",
        ]
        for i in range(4):
            if tiled:
                lines.append(f"a{i} = times(bits(w{u}, {2 * i}, 0x03030303), e{i & 1})")
            else:
                at = 16 + 32 * (u >> 2) + 4 * (i >> 1)
                lines.append(
                    f"a{i} = times(bits(raw_word({'rb' if i & 1 else 'ra'} + {at} + t * 8), "
                    f"{2 * (u & 3)}, 0x03030303), e{i & 1})"
                )
        lines += _products(nt, ("a0", "a1", "a2", "a3"), str(32 * u), "p")
        lines += _products(nt, ("l0", "l1", "l0", "l1"), str(32 * u), "m_")
    return lines + scaled(nt, "d0", "d1", "p") + scaled(nt, "m0", "m1", "m_", "-")


def iq2_xxs(nt: int, tiled: bool) -> Lines:
    if tiled:
        lines = [
            "q0, w0, q1, w1 = ld_stream_v4(cb + place * 1024 + lane * 16)",
            "q2, w2, q3, w3 = ld_stream_v4(cb + place * 1024 + 512 + lane * 16)",
            half("d0", "fb + place * 32 + g * 2"),
            half("d1", "fb + place * 32 + g * 2 + 16"),
            "z0, z1 = quad_nibbles(w0, w1, t), quad_nibbles(w2, w3, t)",
        ]
    else:
        lines = [half("d0", "ra"), half("d1", "rb")]
    lines += ["d0 = mul_rn(d0, f32(0.125))", "d1 = mul_rn(d1, f32(0.125))"]
    lines += zero(nt, "p")
    for u in range(8):
        word = u >> 1
        if tiled and u % 2 == 0:
            lines.append(f"w{word} = eighth_signs(w{word})")
        for r, row in enumerate(("ra", "rb")):
            if tiled:
                k = 2 * (u & 1) + r  # group of the word
                nibble = 4 * (word & 1) + k
                z = f"z{word >> 1}"
                lines += [
                    f"i{r} = bits(q{word}, {8 * k}, 255)",
                    f"h{r} = i32(w{word} << i32({2 - k}))"
                    if k < 3
                    else f"h{r} = i32(w{word} >> i32(1))",
                    f"e{r} = i32(bits({z}, {4 * nibble - 1}, 30) | i32(1))"
                    if nibble
                    else f"e{r} = i32(i32(i32({z} << i32(1)) & i32(30)) | i32(1))",
                ]
            else:
                lines += [
                    f"q{r} = raw_word({row} + {2 + 8 * u})",
                    f"w{r} = raw_word({row} + {6 + 8 * u})",
                    f"i{r} = bits(q{r}, 8 * i32(t), 255)",
                    f"h{r} = raw_signs(w{r}, t)",
                    f"e{r} = i32(bits(w{r}, 27, 30) | i32(1))",
                ]
            lines.append(f"a{r}, a{r + 2} = signed_rows(table, i{r}, h{r})")
        for j in range(nt):
            c = ", ".join(f"c{j}_{i}" for i in range(4))
            nought = ", ".join(["i32(0)"] * 4)
            lines += [
                f"b0, b1 = ld_nc_v2(xa{j} + kx + {32 * u})",
                f"{c} = mma_m16n8k32_s8(a0, a1, a2, a3, b0, b1, {nought})",
            ]
            lines += [f"p{j}_{i} = plus_times(p{j}_{i}, c{j}_{i}, e{i >> 1})" for i in range(4)]
    return lines + scaled(nt, "d0", "d1", "p")


def _float(nt: int, tiled: bool, parts: int, mma: str) -> Lines:
    if tiled:
        lines = [
            "a0, a2, a4, a6 = ld_stream_v4(cb + place * 1024 + lane * 32)",
            "a1, a3, a5, a7 = ld_stream_v4(cb + place * 1024 + lane * 32 + 16)",
        ]
    else:
        lines = [
            "a0, a2, a4, a6 = raw_quad(ra + t * 16)",
            "a1, a3, a5, a7 = raw_quad(rb + t * 16)",
        ]
    for j in range(nt):
        for part in range(parts):
            s = ", ".join(f"{'sru'[part]}{j}_{i}" for i in range(4))
            lines += [
                f"b0, b1, b2, b3 = ld_nc_v4(xa{j} + kx + {part} * plane)",
                f"{s} = {mma}(a0, a1, a2, a3, b0, b1, {s})",
                f"{s} = {mma}(a4, a5, a6, a7, b2, b3, {s})",
            ]
    return lines


def f16(nt: int, tiled: bool) -> Lines:
    return _float(nt, tiled, 2, "mma_m16n8k16_f16")


def bf16(nt: int, tiled: bool) -> Lines:
    return _float(nt, tiled, 3, "mma_m16n8k16_bf16")


BLOCKS: dict[str, Callable[[int, bool], Lines]] = {
    "Q8_0": q8_0,
    "MXFP4": mxfp4,
    "Q4_K": q4_k,
    "Q2_K": q2_k,
    "IQ2_XXS": iq2_xxs,
    "F16": f16,
    "BF16": bf16,
    **RAW_BLOCKS,
}
# Formats and layouts that there are kernels for: tiled or not.
LAYOUTS = [
    (name, tiled)
    for name in BLOCKS
    for tiled in (True, False)
    if not tiled or name not in RAW_BLOCKS
]
# Accumulators besides s that a block adds to, per format: the lower parts of split rows.
PARTS = {"F16": "sr", "BF16": "sru"}
