"""A normed row and the forms of it that products want, written by the block that norms it.

The forms are `act`'s, bit for bit: int8 codes per 32 or 256 values, float16 parts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from numba import cuda

from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import F32P, I8P, U16P, U32, device
from engine.ops.cuda.build.ptx import (
    address,
    bits_f32,
    f2h,
    f2i_rn,
    f32_bits,
    h2f,
    ld_v4_f32,
    mul_rn,
    redux_max,
    shfl_xor_i32,
    st_b32,
    st_v2,
    st_v4_f32,
    sub_rn,
)
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.products.act import pack4, quantised_room, row_scale, split_room
from engine.ops.cuda.products.pack import INT8
from engine.ops.cuda.sizes import padded

CODES_32, CODES_256, HALVES = 1, 2, 4
FORMS = ArgumentBlock(
    "Forms",
    codes_32=(I8P, "(n_pad, d): int8 codes of the rows, scaled per 32 values"),
    scales_32=(F32P, "(d / 32, n_pad): their scales"),
    codes_256=(I8P, "(n_pad, d): int8 codes of the rows, scaled per 256 values"),
    scales_256=(F32P, "(d / 256, n_pad): their scales"),
    halves=(U16P, "(2, n_pad, d): float16 of the rows, then 2048 times what that rounds off"),
    halves_scale=(F32P, "(n_pad,): factor of a row's halves"),
    n_pad=(U32, "rows that the products read; a multiple of their tile"),
    which=(U32, "sum of CODES_32, CODES_256 and HALVES: the forms to write"),
)
FORMS_WRITTEN = (
    "codes_32", "scales_32", "codes_256", "scales_256", "halves", "halves_scale",
)  # fmt: skip
SMALLEST = f32(2.0**-120)
LOW_SCALE = f32(2048)
MAGNITUDE = i32(0x7FFFFFFF)


@device
def _size(x):
    return i32(f32_bits(x) & MAGNITUDE)


@device
def _largest(a, b, c, e):
    """Bits of the largest magnitude of four values, NaN on top."""
    return max(max(_size(a), _size(b)), max(_size(c), _size(e)))


@device
def _store_codes(codes, scales, row, j, d, n_pad, block, top, a, b, c, e):
    """int8 codes of four values at column j, and their block's scale."""
    amax = bits_f32(top)
    scale, inverse = f32(0), f32(0)
    if not amax < SMALLEST:
        scale = amax / f32(127)
        inverse = f32(127) / amax
    word = pack4(
        f2i_rn(mul_rn(a, inverse)),
        f2i_rn(mul_rn(b, inverse)),
        f2i_rn(mul_rn(c, inverse)),
        f2i_rn(mul_rn(e, inverse)),
    )
    st_b32(address(codes) + u32(row * d + j), word)
    if j % block == u32(0):
        scales[u32(u32(j // block) * n_pad + row)] = scale


@device
def _pack_halves(a, b):
    """Two float16 bit patterns in one word, the first low."""
    return i32(i32(f2h(a)) | i32(i32(f2h(b)) << i32(16)))


@device
def _rest(x):
    """What float16 loses of x, times 2048."""
    return mul_rn(sub_rn(x, h2f(f2h(x))), LOW_SCALE)


def row_writer(threads: int) -> Any:
    """Device function: a block of this many threads scales a row by its norm and writes forms."""
    warps = threads // 32

    @device
    def write_row(target, source, row, weight, norm, d, tops, to):
        """The d values (a multiple of 4) at address `source`, times norm and weight, to `target`.

        Both are addresses of row `row`; `tops` is shared memory of 32 int32, `to` a kernel's
        block `FORMS`.
        """
        n_pad = to.n_pad
        t = u32(cuda.threadIdx.x)
        lane, warp = t & u32(31), t >> u32(5)
        quads = d >> u32(2)
        # Four values a thread: scaled and stored, then as int8 codes.
        row_top = i32(0)
        for first in range(u32(0), quads, threads):
            q = u32(first + t)
            j = u32(q * u32(4))
            y0, y1, y2, y3 = f32(0), f32(0), f32(0), f32(0)
            if q < quads:
                y0, y1, y2, y3 = ld_v4_f32(source + q * 16)
                w0, w1, w2, w3 = ld_v4_f32(address(weight) + q * 16)
                y0, y1 = mul_rn(mul_rn(y0, norm), w0), mul_rn(mul_rn(y1, norm), w1)
                y2, y3 = mul_rn(mul_rn(y2, norm), w2), mul_rn(mul_rn(y3, norm), w3)
                st_v4_f32(target + q * 16, y0, y1, y2, y3)
            if to.which:
                top = _largest(y0, y1, y2, y3)
                top = max(top, shfl_xor_i32(top, 1))
                top = max(top, shfl_xor_i32(top, 2))
                top = max(top, shfl_xor_i32(top, 4))
                if to.which & u32(CODES_32) and q < quads:
                    block = u32(32)
                    _store_codes(
                        to.codes_32, to.scales_32, row, j, d, n_pad, block, top, y0, y1, y2, y3
                    )
                top = redux_max(top)
                row_top = max(row_top, top)
                if to.which & u32(CODES_256):
                    # Two warps share a block of 256 values.
                    cuda.syncthreads()
                    if lane == u32(0):
                        tops[warp] = top
                    cuda.syncthreads()
                    top = max(top, tops[warp ^ u32(1)])
                    if q < quads:
                        block = u32(256)
                        _store_codes(
                            to.codes_256,
                            to.scales_256,
                            row,
                            j,
                            d,
                            n_pad,
                            block,
                            top,
                            y0,
                            y1,
                            y2,
                            y3,
                        )
        # float16 parts need the whole row's greatest magnitude first.
        if to.which & u32(HALVES):
            cuda.syncthreads()
            if lane == u32(0):
                tops[warp] = row_top
            cuda.syncthreads()
            for w in range(warps):
                row_top = max(row_top, tops[w])
            up, down = row_scale(row_top)
            for q in range(t, quads, threads):
                y0, y1, y2, y3 = ld_v4_f32(target + q * 16)
                y0, y1, y2, y3 = mul_rn(y0, up), mul_rn(y1, up), mul_rn(y2, up), mul_rn(y3, up)
                at = address(to.halves) + u32(row * d) * 2 + q * 8
                st_v2(at, _pack_halves(y0, y1), _pack_halves(y2, y3))
                y0, y1, y2, y3 = _rest(y0), _rest(y1), _rest(y2), _rest(y3)
                st_v2(at + u32(n_pad * d) * 2, _pack_halves(y0, y1), _pack_halves(y2, y3))
            if t == u32(0):
                to.halves_scale[row] = down

    return write_row


@dataclass(frozen=True, slots=True)
class Forms:
    """Working memory of an array's forms, and the arguments (`FORMS`) of kernels that fill it."""

    kept: tuple[tuple[str, Any], ...]
    args: tuple[Any, ...]

    def keep(self, ctx: Context, x: DeviceArray) -> None:
        """Say that they are x's."""
        ctx.wrote(x)
        for kind, value in self.kept:
            ctx.keep(x, kind, value)


def forms_of(ctx: Context, x: DeviceArray, formats: Collection[str]) -> Forms:
    """Room for the forms of x (n, d) that products with weights of these formats take.

    Formats that need none or another form (F32, BF16), and blocks that do not divide d, are left
    to `act`.
    """
    n, d = x.shape
    n_pad = padded(n)
    kept: list[tuple[str, Any]] = []
    args: list[Any] = []
    which = 0
    for flag, block, users in (
        (CODES_32, 32, INT8[32]),
        (CODES_256, 256, INT8[256]),
    ):
        if d % block or not any(f in users for f in formats):
            args += [None, None]
            continue
        kind, codes = quantised_room(ctx, x, block, n_pad)
        kept.append((kind, codes))
        args += [codes.codes, codes.scales]
        which |= flag
    if "F16" in formats and d % 4 == 0:
        kind, halves = split_room(ctx, x, "F16", n_pad)
        kept.append((kind, halves))
        args += [halves.parts, halves.scales]
        which |= HALVES
    else:
        args += [None, None]
    return Forms(tuple(kept), (*args, n_pad, which))
