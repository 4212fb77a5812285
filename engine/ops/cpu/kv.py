"""KV rows: finished as the published model does and stored by position."""

from __future__ import annotations

import numpy as np

from engine.ops.cpu.norm import norm_row
from engine.ops.cpu.rope import turn_tail
from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team
from engine.ops.cpu.simd.scalar import ceil_pow2, round_e4m3, round_f16
from engine.ops.cpu.simd.vec import bits_of, float_of
from engine.ops.scalar import E4M3_MAX, FP8_FLOOR

VALUE_COST = 8  # multiply-adds that finishing a value is worth
FP8_BLOCK = 64
MAGNITUDE = np.int32(0x7FFFFFFF)
ONE = np.float32(1)


@inline_kernel
def amax_of(x):
    """Greatest magnitude; bits without the sign order as magnitudes do, NaN on top."""
    top = np.int32(0)
    for j in range(x.size):
        bits = np.int32(bits_of(x[j]) & MAGNITUDE)
        top = bits if bits > top else top
    return float_of(top)


@inline_kernel
def _fp8_round_trip(x):
    amax = amax_of(x)
    amax = FP8_FLOOR if amax < FP8_FLOOR else amax
    scale = ceil_pow2(amax / E4M3_MAX)
    inverse = ONE / scale
    for j in range(x.size):
        x[j] = round_e4m3(x[j] * inverse) * scale


@kernel
def _store(rows, x, weight, cos, sin, first, eps, official, begin, stop):
    cap, d = rows.shape
    for i in range(begin, stop):
        row = rows[(first + i) % cap]
        norm_row(row, x[i], weight, eps)
        turn_tail(row, cos[i], sin[i], False)
        if official:
            for block in range(0, d - 2 * cos.shape[1], FP8_BLOCK):
                _fp8_round_trip(row[block : block + FP8_BLOCK])
            for j in range(d):
                row[j] = round_f16(row[j])


@kernel
def _store_all(team, rows, x, weight, cos, sin, first, eps, official):
    n, d = x.shape
    over(team, n, VALUE_COST * d, _store, (rows, x, weight, cos, sin, first, eps, official))


def store_rows(rows, x, weight, cos, sin, first, eps, official):
    """Finish x (n, d) and write it to rows (cap, d) from row `first` on, modulo cap."""
    d = x.shape[1]
    assert not official or (d - 2 * cos.shape[1]) % FP8_BLOCK == 0, (x.shape, cos.shape)
    _store_all(team(), rows, x, weight, cos, sin, first, eps, official)


def kv_store(ring, kv, weight, cos, sin, pos0, eps, official):
    store_rows(ring, kv, weight, cos, sin, pos0, eps, official)
