"""Rotary position embedding on the trailing dims of every head, adjacent pairs.

Tables of cosines and sines hold every position; row i of a call is at position `ctx.pos` + i.
"""

from __future__ import annotations

from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import address, fma_rn, ld_v2_f32, mul_rn, st_v2_f32
from engine.ops.cuda.build.reduce import inverse_rms, warp_sum
from engine.ops.cuda.build.types import f32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context

THREADS = 256
HEADS = THREADS // 32  # heads of a block: one warp each


@device
def turned(a, b, c, s):
    """The pair (a, b) turned by the angle of cosine c and sine s."""
    return fma_rn(a, c, -mul_rn(b, s)), fma_rn(b, c, mul_rn(a, s))


@kernel(F32P, I32P, F32P, F32P, U32, U32, U32, U32, F32, threads=THREADS, writes=("q",))
def q_norm_rope_heads(q, pos, cos, sin, heads, n_head, d, half, eps):
    """One warp scales and turns one of `heads` = n * n_head heads."""
    lane = u32(cuda.threadIdx.x) & u32(31)
    head = u32(cuda.blockIdx.x * HEADS + (cuda.threadIdx.x >> 5))
    if head < heads:
        angle = u32((u32(pos[0]) + head // n_head) * half)
        at = address(q) + u32(head * d) * 4
        pairs = d >> u32(1)
        plain = u32(pairs - half)
        total = f32(0)
        for p in range(lane, pairs, 32):
            a, b = ld_v2_f32(at + p * 8)
            total = fma_rn(b, b, fma_rn(a, a, total))
        scale = inverse_rms(warp_sum(total), d, eps)
        for p in range(lane, pairs, 32):
            a, b = ld_v2_f32(at + p * 8)
            a, b = mul_rn(a, scale), mul_rn(b, scale)
            if p >= plain:
                k = u32(angle + p - plain)
                a, b = turned(a, b, cos[k], sin[k])
            st_v2_f32(at + p * 8, a, b)


@kernel(F32P, I32P, F32P, F32P, U32, U32, U32, U32, F32, threads=THREADS, writes=("x",))
def rope_tail_pairs(x, pos, cos, sin, heads, n_head, d, half, sign):
    """One thread turns one pair, by its angle times `sign`."""
    i = u32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    head = u32(i // half)
    if head < heads:
        p = u32(i - head * half)
        k = u32((u32(pos[0]) + head // n_head) * half + p)
        at = address(x) + u32(head * d + d - u32(2) * (half - p)) * 4
        a, b = ld_v2_f32(at)
        a, b = turned(a, b, cos[k], mul_rn(sin[k], sign))
        st_v2_f32(at, a, b)


def _sizes(x: DeviceArray, cos: DeviceArray, sin: DeviceArray) -> tuple[int, int, int, int]:
    n, n_head, d = x.shape
    half = cos.shape[1]
    assert cos.shape == sin.shape and d % 2 == 0 and 2 * half <= d, (x, cos, sin)
    return n * n_head, n_head, d, half


def q_norm_rope(
    ctx: Context, q: DeviceArray, cos: DeviceArray, sin: DeviceArray, eps: float
) -> None:
    """Scale every head to unit root mean square (no weight), then turn its tail; in place.

    Parameters
    ----------
    q : float32 DeviceArray of shape (n, n_head, head_dim), changed in place
    cos, sin : float32 DeviceArrays of shape (n_positions, n_rot // 2)
    eps : float
    """
    heads, n_head, d, half = _sizes(q, cos, sin)
    grid = -(-heads // HEADS)
    ctx.launch(q_norm_rope_heads, grid, q, ctx.pos, cos, sin, heads, n_head, d, half, eps)
    ctx.wrote(q)


def rope_tail(
    ctx: Context, x: DeviceArray, cos: DeviceArray, sin: DeviceArray, inverse: bool
) -> None:
    """Turn the last n_rot dims of every head by its row's angles, in place.

    Parameters
    ----------
    x : float32 DeviceArray of shape (n, n_head, head_dim), changed in place
    cos, sin : float32 DeviceArrays of shape (n_positions, n_rot // 2)
    inverse : bool
        Turn back instead.
    """
    heads, n_head, d, half = _sizes(x, cos, sin)
    grid = -(-heads * half // THREADS)
    sign = -1.0 if inverse else 1.0
    ctx.launch(rope_tail_pairs, grid, x, ctx.pos, cos, sin, heads, n_head, d, half, sign)
    ctx.wrote(x)
