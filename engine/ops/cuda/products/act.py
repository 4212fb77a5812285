"""Activation rows as the products take them: int8 codes with scales, or split into 16-bit parts.

Integer products take int8 codes, one scale per block of 32 or 256 values: amax / 127, code
x * (127 / amax) rounded half to even; blocks below 2^-120 become zeros, NaN and infinity become
the scale and so reach every output. Products with float16 or bfloat16 weights take rows split into
parts whose sum is x to 2^-22 or better, so that tensor cores lose no more than float32 sums do.

Rows are padded to whole blocks of the products: columns of a tensor core product that belong to no
row compute whatever lies there, and nobody reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from engine.ops.cuda.build.kernel import F32P, I8P, U16P, U32, Kernel, device, kernel
from engine.ops.cuda.build.ptx import (
    address,
    bf2f,
    bits_f32,
    f2bf,
    f2h,
    f2i_rn,
    f32_bits,
    h2f,
    mul_rn,
    shfl_xor_i32,
    st_v2,
    sub_rn,
)
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context

THREADS = 256
WARPS = THREADS // 32
_SMALLEST = f32(2.0**-120)
_LOW_SCALE = f32(2048.0)


@dataclass(frozen=True, slots=True)
class Quantised:
    """int8 rows: codes (n_pad, cols), scales (cols // block, n_pad) float32."""

    codes: DeviceArray
    scales: DeviceArray
    n_pad: int


@dataclass(frozen=True, slots=True)
class Split:
    """Rows in 16-bit parts: parts (n_part, n_pad, cols) uint16, scales (n_pad,) float32."""

    parts: DeviceArray
    scales: DeviceArray
    n_pad: int


@device
def pack4(a, b, c, d):
    """Four int32 codes as the bytes of one, the first lowest."""
    low = i32(i32(a & i32(255)) | i32(i32(b & i32(255)) << i32(8)))
    high = i32(i32(c & i32(255)) | i32(i32(d & i32(255)) << i32(8)))
    return i32(low | i32(high << i32(16)))


def lane_quantiser(block: int) -> Any:
    """Device function: int8 codes of the 8 values that a lane holds of a row, and the scale."""
    steps = 2 if block == 32 else 5  # lanes that share a block: 4 or 32

    @device
    def quantise_lane(codes, scales, values, row, k, cols, n_pad):
        """`values` are those from column k on, zeros beyond the row; whole warps call it."""
        top = i32(0)
        for i in range(8):
            top = i32(max(top, i32(f32_bits(values[i]) & i32(0x7FFFFFFF))))
        for step in range(steps):
            top = i32(max(top, shfl_xor_i32(top, i32(i32(1) << i32(step)))))
        amax = bits_f32(top)
        scale, inverse = f32(0), f32(0)
        if not amax < _SMALLEST:
            scale = amax / f32(127)
            inverse = f32(127) / amax
        if k < cols:
            c = cuda.local.array(8, i32)
            for i in range(8):
                c[i] = f2i_rn(mul_rn(values[i], inverse))
            low = pack4(c[0], c[1], c[2], c[3])
            high = pack4(c[4], c[5], c[6], c[7])
            st_v2(address(codes) + u32(row * cols + k), low, high)
            if k % u32(block) == u32(0):
                scales[u32(u32(k // u32(block)) * n_pad + row)] = scale

    return quantise_lane


def _quantiser(block: int) -> Kernel:
    quantise_lane = lane_quantiser(block)

    @kernel(
        I8P,
        F32P,
        F32P,
        U32,
        U32,
        threads=THREADS,
        name=f"quantise_{block}",
        writes=("codes", "scales"),
    )
    def quantise(codes, scales, x, cols, n_pad):
        """Grid (pieces of 2048 columns, rows): a lane quantises 8 values."""
        row = u32(cuda.blockIdx.y)
        at = u32(u32(cuda.blockIdx.x) * u32(THREADS) + u32(cuda.threadIdx.x))
        k = u32(at * u32(8))
        values = cuda.local.array(8, f32)
        source = u32(row * cols + k)
        for i in range(8):
            values[i] = f32(0)
            if k < cols:
                values[i] = x[u32(source + u32(i))]
        quantise_lane(codes, scales, values, row, k, cols, n_pad)

    return quantise


_QUANTISE = {block: _quantiser(block) for block in (32, 256)}


@device
def _row_amax(x, start, cols, parts):
    """Bits of the largest magnitude of a row, in every thread of the block."""
    t = u32(cuda.threadIdx.x)
    top = i32(0)
    for k in range(t, cols, u32(THREADS)):
        top = i32(max(top, i32(f32_bits(x[u32(start + u32(k))]) & i32(0x7FFFFFFF))))
    for step in range(5):
        top = i32(max(top, shfl_xor_i32(top, i32(i32(1) << i32(step)))))
    if t & u32(31) == u32(0):
        parts[t >> u32(5)] = top
    cuda.syncthreads()
    top = parts[0]
    for w in range(1, WARPS):
        top = i32(max(top, parts[w]))
    return top


@device
def row_scale(top):
    """(power of two that brings amax into 1..2, its inverse); NaN for rows that are not finite."""
    exponent = i32(top >> i32(23))
    up, down = f32(1), f32(1)
    if exponent >= i32(255):
        down = bits_f32(i32(0x7FC00000))
    elif exponent >= i32(2):
        exponent = i32(min(exponent, i32(253)))  # 2^-127 is no normal number
        up = bits_f32(i32(i32(i32(254) - exponent) << i32(23)))
        down = bits_f32(i32(exponent << i32(23)))
    return up, down


@kernel(U16P, F32P, F32P, U32, U32, threads=THREADS, writes=("parts", "scales"))
def split_f16(parts, scales, x, cols, plane):
    """Grid (rows): x * up = hi + lo / 2048, both float16."""
    shared = cuda.shared.array(WARPS, i32)
    row = u32(cuda.blockIdx.x)
    start = u32(row * cols)
    up, down = row_scale(_row_amax(x, start, cols, shared))
    for k in range(u32(cuda.threadIdx.x), cols, u32(THREADS)):
        at = u32(start + u32(k))
        v = mul_rn(x[at], up)
        hi = f2h(v)
        parts[at] = hi
        parts[u32(at + plane)] = f2h(mul_rn(sub_rn(v, h2f(hi)), _LOW_SCALE))
    if cuda.threadIdx.x == 0:
        scales[row] = down


@kernel(U16P, F32P, F32P, U32, U32, threads=THREADS, writes=("parts", "scales"))
def split_bf16(parts, scales, x, cols, plane):
    """Grid (rows): x = hi + mid + lo, all bfloat16."""
    row = u32(cuda.blockIdx.x)
    start = u32(row * cols)
    for k in range(u32(cuda.threadIdx.x), cols, u32(THREADS)):
        at = u32(start + u32(k))
        v = x[at]
        hi = f2bf(v)
        rest = sub_rn(v, bf2f(hi))
        mid = f2bf(rest)
        parts[at] = hi
        parts[u32(at + plane)] = mid
        parts[u32(at + plane + plane)] = f2bf(sub_rn(rest, bf2f(mid)))
    if cuda.threadIdx.x == 0:
        scales[row] = f32(1)


def quantised(ctx: Context, x: DeviceArray, block: int, n_pad: int) -> Quantised:
    """int8 form of float32 rows, made once for the present values of x.

    Parameters
    ----------
    x : float32 DeviceArray of shape (n, cols)
    block : {32, 256}
    n_pad : int
        Rows that products may touch.
    """
    n, cols = x.shape
    kind, room = quantised_room(ctx, x, block, n_pad)
    if ctx.companion(x, kind) is None:
        grid = (-(-cols // (8 * THREADS)), n)
        ctx.launch(_QUANTISE[block], grid, room.codes, room.scales, x, cols, n_pad)
        ctx.keep(x, kind, room)
    return room


def quantised_room(ctx: Context, x: DeviceArray, block: int, n_pad: int) -> tuple[str, Quantised]:
    """Name of this int8 form among x's companions, and the memory where it lies."""
    cols = x.shape[1]
    kind = f"int8 {block} {n_pad}"
    name = f"{kind} of {x.address:x}"
    codes = ctx.scratch(name, (n_pad, cols), np.int8)
    return kind, Quantised(codes, ctx.scratch(f"scales {name}", (cols // block, n_pad)), n_pad)


def split(ctx: Context, x: DeviceArray, name: str, n_pad: int) -> Split:
    """16-bit parts of float32 rows, made once for the present values of x.

    Parameters
    ----------
    x : float32 DeviceArray of shape (n, cols)
    name : {'F16', 'BF16'}
    n_pad : int
        Rows that products may touch.
    """
    n, cols = x.shape
    kind, room = split_room(ctx, x, name, n_pad)
    if ctx.companion(x, kind) is None:
        body = split_f16 if name == "F16" else split_bf16
        ctx.launch(body, n, room.parts, room.scales, x, cols, n_pad * cols)
        ctx.keep(x, kind, room)
    return room


def split_room(ctx: Context, x: DeviceArray, name: str, n_pad: int) -> tuple[str, Split]:
    """Name of these parts among x's companions, and the memory where they lie."""
    kind = f"split {name} {n_pad}"
    label = f"{kind} of {x.address:x}"
    parts = ctx.scratch(label, (2 if name == "F16" else 3, n_pad, x.shape[1]), np.uint16)
    return kind, Split(parts, ctx.scratch(f"scales {label}", (n_pad,)), n_pad)
