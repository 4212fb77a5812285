"""KV rows: finished as the published model does and stored by position."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, I32P, U16P, U32, Kernel, device, kernel
from engine.ops.cuda.build.ptx import (
    address,
    fma_rn,
    ld_nc_v2_f32,
    ld_v2_f32,
    mul_rn,
    pack_f16,
    st_b32,
    st_v2_f32,
)
from engine.ops.cuda.build.reduce import block_sum, inverse_rms
from engine.ops.cuda.build.scalar import round_f16
from engine.ops.cuda.build.types import f32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.rows.rope import turned
from engine.ops.cuda.rows.rounding import FP8_BLOCK, fp8_pair

THREADS = 256
WARPS = THREADS // 32


def row_finisher(packed: bool) -> Any:
    """Device function that finishes one row, into float16 storage if packed, else float32."""

    @device
    def finish(rows, row, source, weight, cos, sin, angle, d, half, eps, official, parts):
        """A block of THREADS norms the row at address `source`, turns it and rounds it.

        Thread t reads the pairs t, t + THREADS, ... of values, and no other thread does. `angle`
        is where the row's angles begin, `parts` shared memory of 32 float32.
        """
        t = u32(cuda.threadIdx.x)
        lane = t & u32(31)
        pairs = u32(d >> u32(1))
        plain = u32(pairs - half)
        # Sum of squares, and the factor that norms the row.
        total = f32(0)
        for p in range(t, pairs, THREADS):
            a, b = ld_v2_f32(source + p * 8)
            total = fma_rn(b, b, fma_rn(a, a, total))
        scale = inverse_rms(block_sum(total, parts, WARPS), d, eps)

        # A warp takes 32 pairs a step: weight, rotation of the tail, rounding, store.
        target = address(rows)
        at = u32(row * d)
        for step in range(t >> u32(5), (pairs + u32(31)) >> u32(5), WARPS):
            p = u32(step * 32 + lane)
            a, b = f32(0), f32(0)
            if p < pairs:
                a, b = ld_v2_f32(source + p * 8)
                u, v = ld_nc_v2_f32(address(weight) + p * 8)
                a, b = mul_rn(mul_rn(a, scale), u), mul_rn(mul_rn(b, scale), v)
                if p >= plain:
                    k = u32(angle + p - plain)
                    a, b = turned(a, b, cos[k], sin[k])
            if official and step * 32 < plain:
                a, b = fp8_pair(a, b)
            if p < pairs:
                if packed:
                    st_b32(target + at * 2 + p * 4, pack_f16(a, b))
                else:
                    if official:
                        a, b = round_f16(a), round_f16(b)
                    st_v2_f32(target + at * 4 + p * 8, a, b)

    return finish


@device
def window_of(pos, n, ratio, i):
    """Number of the i-th window that ends in the call, and whether there is one."""
    pos0 = u32(pos[0])
    first = u32(pos0 // ratio)
    return u32(first + i), i < u32(u32(pos0 + n) // ratio) - first


def _store(packed: bool) -> Kernel:
    """Kernel that stores float32 rows, or float16 rows if packed."""
    finish = row_finisher(packed)

    @kernel(
        U16P if packed else F32P,
        *(F32P, F32P, I32P, F32P, F32P),
        *(U32,) * 5,
        *(F32, U32),
        threads=THREADS,
        name="store_rows_f16" if packed else "store_rows_f32",
        writes=("rows",),
    )
    def store_rows(rows, x, weight, pos, cos, sin, n, ratio, cap, d, half, eps, official):
        """A block finishes x[i], the row of window pos // ratio + i, if that ends in the call."""
        parts = cuda.shared.array(32, f32)
        i = u32(cuda.blockIdx.x)
        window, ends = window_of(pos, n, ratio, i)
        if ends:
            source = address(x) + u32(i * d) * 4
            angle = u32(u32(window * ratio) * half)
            row = u32(window % cap)
            finish(rows, row, source, weight, cos, sin, angle, d, half, eps, official, parts)

    return store_rows


_PLAIN, _PACKED = _store(False), _store(True)


def store_rows(
    ctx: Context,
    rows: DeviceArray,
    ratio: int,
    n: int,
    x: DeviceArray,
    weight: DeviceArray,
    cos: DeviceArray,
    sin: DeviceArray,
    pos0: DeviceArray,
    eps: float,
    official: bool,
) -> None:
    """Finish the rows of all windows of `ratio` positions that end in the call and store them.

    Window w goes to row w modulo the length of `rows`; its angles are its first position's.
    """
    cap, d = rows.shape
    half = cos.shape[1]
    packed = rows.dtype == np.float16
    assert x.shape[1] == d and weight.shape == (d,) and d % 2 == 0, (rows, x, weight)
    assert len(x) >= (n + ratio - 1) // ratio, (x, n, ratio)
    assert official or not packed, "float16 holds only official rows"
    assert not official or (d - 2 * half) % FP8_BLOCK == 0, (d, half)
    kernel_ = _PACKED if packed else _PLAIN
    args = (n, ratio, cap, d, half, eps, int(official))
    ctx.launch(kernel_, (n + ratio - 1) // ratio, rows, x, weight, pos0, cos, sin, *args)
    ctx.wrote(rows)


def kv_store(
    ctx: Context,
    ring: DeviceArray,
    kv: DeviceArray,
    weight: DeviceArray,
    cos: DeviceArray,
    sin: DeviceArray,
    pos0: DeviceArray,
    eps: float,
    official: bool,
) -> None:
    """Norm, tail turn and rounding of projected rows, stored at their positions.

    Parameters
    ----------
    ring : DeviceArray of shape (cap, head_dim), float32, or float16 for official rows
        Row ``position % cap`` is overwritten for each row of the call; n <= cap.
    kv : float32 DeviceArray of shape (n, head_dim)
        Raw projection.
    weight : float32 DeviceArray of shape (head_dim,)
        Of the norm.
    cos, sin : float32 DeviceArrays of shape (n_positions, n_rot // 2)
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
    eps : float
    official : bool
        FP8 round trip of the dims before the tail, then every value rounded to float16.
    """
    assert len(kv) <= len(ring), (kv, ring)
    store_rows(ctx, ring, 1, len(kv), kv, weight, cos, sin, pos0, eps, official)
