"""How the published model rounds the rows it stores: FP8 and FP4 blocks, and the Hadamard turn.

All of it within one warp: lane l of step k holds the pair of values 64 k + 2 l, 64 k + 2 l + 1,
so a step is one FP8 block of 64 and two FP4 blocks of 32.
"""

from __future__ import annotations

from engine.ops.cuda.build.kernel import device
from engine.ops.cuda.build.ptx import (
    add_rn,
    bits_f32,
    f32_bits,
    mul_rn,
    redux_max,
    shfl_xor_f32,
    shfl_xor_i32,
    sub_rn,
)
from engine.ops.cuda.build.scalar import ceil_pow2, round_e2m1, round_e4m3
from engine.ops.cuda.build.types import f32, i32
from engine.ops.scalar import E2M1_MAX, E4M3_MAX, FP4_FLOOR, FP8_FLOOR

FP8_BLOCK = 64
FP4_BLOCK = 32
MAGNITUDE = i32(0x7FFFFFFF)
ONE = f32(1)


@device
def magnitude(x):
    """Bits of |x|: they order as magnitudes do, with NaN on top."""
    return i32(f32_bits(x) & MAGNITUDE)


@device
def larger(m, n):
    return n if n > m else m


@device
def fp8_pair(a, b):
    """Round trip of a warp's 64 values through one FP8 E4M3 block."""
    amax = bits_f32(redux_max(larger(magnitude(a), magnitude(b))))
    amax = FP8_FLOOR if amax < FP8_FLOOR else amax
    scale = ceil_pow2(amax / E4M3_MAX)
    inverse = ONE / scale
    return (
        mul_rn(round_e4m3(mul_rn(a, inverse)), scale),
        mul_rn(round_e4m3(mul_rn(b, inverse)), scale),
    )


@device
def fp4_scale(a, b):
    """Scale of the FP4 block that this half of the warp holds: a power of two."""
    top = larger(magnitude(a), magnitude(b))
    top = larger(top, shfl_xor_i32(top, 8))
    top = larger(top, shfl_xor_i32(top, 4))
    top = larger(top, shfl_xor_i32(top, 2))
    top = larger(top, shfl_xor_i32(top, 1))
    amax = bits_f32(top)
    amax = FP4_FLOOR if amax < FP4_FLOOR else amax
    return ceil_pow2(amax / E2M1_MAX)


@device
def fp4_pair(a, b):
    """Round trip of a warp's 64 values through two FP4 E2M1 blocks of 32."""
    scale = fp4_scale(a, b)
    inverse = ONE / scale
    return (
        mul_rn(round_e2m1(mul_rn(a, inverse)), scale),
        mul_rn(round_e2m1(mul_rn(b, inverse)), scale),
    )


@device
def hadamard_lane(x, lane, mask):
    """One butterfly step between lanes that differ in one bit."""
    other = shfl_xor_f32(x, mask)
    return sub_rn(other, x) if lane & mask else add_rn(x, other)


@device
def hadamard_64(a, b, lane):
    """Walsh-Hadamard transform of a warp's 64 values, not scaled: index = 2 * lane + (0 or 1).

    Longer rows combine their steps afterwards with plain sums and differences, and multiply by
    d**-0.5 at the end.
    """
    a, b = add_rn(a, b), sub_rn(a, b)
    a, b = hadamard_lane(a, lane, 1), hadamard_lane(b, lane, 1)
    a, b = hadamard_lane(a, lane, 2), hadamard_lane(b, lane, 2)
    a, b = hadamard_lane(a, lane, 4), hadamard_lane(b, lane, 4)
    a, b = hadamard_lane(a, lane, 8), hadamard_lane(b, lane, 8)
    return hadamard_lane(a, lane, 16), hadamard_lane(b, lane, 16)
