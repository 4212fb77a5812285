"""The indexer's rows and queries: float32, or FP4 codes whose dots are exact integers.

An FP4 row is stored as integers (twice the value over the block's scale, -12 .. 12, plus a bias
of 12 so that they are unsigned) and one float32 power of two per 32 values. Sixteen rows are
interleaved by four values, so one vector instruction advances sixteen dots.
"""

from __future__ import annotations

import numpy as np

from engine.errors import SnapshotError
from engine.ops.cpu.kv import VALUE_COST, amax_of
from engine.ops.cpu.norm import norm_row
from engine.ops.cpu.rope import turn_tail
from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team
from engine.ops.cpu.simd import vec
from engine.ops.cpu.simd.scalar import ceil_pow2, round_e2m1
from engine.ops.cpu.simd.vec import LANES
from engine.ops.scalar import E2M1_MAX, FP4_FLOOR

BLOCK = 32
BIAS = 12
ONE = np.float32(1)
HALF = np.float32(0.5)
TWO = np.float32(2)


def _zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zero pages, from a multiple of 64 bytes so that no vector crosses a cache line."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


class IndexRows:
    """Indexer rows of one layer: codes (groups, dim/4, 16 rows, 4), scales (groups, dim/32, 16).

    With `official` false, `rows` (16 * groups, dim) float32 instead. A row that was never
    written is 0 (its codes are not valid until then).
    """

    def __init__(self, cap: int, dim: int, official: bool) -> None:
        assert dim % BLOCK == 0 and (not official or dim & (dim - 1) == 0), dim
        groups = -(-cap // LANES)
        self.dim = dim
        self.official = official
        self.codes = _zeros((groups if official else 0, dim // 4, LANES, 4), np.uint8)
        self.scales = _zeros((groups if official else 0, dim // BLOCK, LANES), np.float32)
        self.rows = _zeros((0 if official else groups * LANES, dim), np.float32)

    @property
    def n_bytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + self.rows.nbytes

    def export(self, n: int) -> np.ndarray:
        if not self.official:
            return self.rows[:n].copy()
        groups = -(-n // LANES)
        codes = self.codes[:groups].transpose(0, 2, 1, 3).reshape(-1, self.dim)[:n]
        scales = self.scales[:groups].transpose(0, 2, 1).reshape(-1, self.dim // BLOCK)[:n]
        values = (codes.astype(np.float32) - np.float32(BIAS)) * HALF
        return values * np.repeat(scales, BLOCK, axis=1)

    def load(self, values: np.ndarray) -> None:
        n = len(values)
        if not self.official:
            self.rows[:n] = values
            return
        values = np.ascontiguousarray(values, np.float32)
        _store_values(self.codes, self.scales, values)
        if not np.array_equal(self.export(n), values, equal_nan=True):
            raise SnapshotError("indexer rows: expected FP4 values, found others")


def new_index_rows(cap, dim, official):
    return IndexRows(cap, dim, official)


@inline_kernel
def _hadamard(x):
    """Orthonormal Walsh-Hadamard transform of a row in place; its length is a power of two."""
    d = x.size
    for j in range(0, d, LANES):
        vec.store(x, j, vec.hadamard_lanes(vec.load(x, j)))
    step = LANES
    while step < d:
        for begin in range(0, d, 2 * step):
            for j in range(begin, begin + step, LANES):
                a = vec.load(x, j)
                b = vec.load(x, j + step)
                vec.store(x, j, vec.add(a, b))
                vec.store(x, j + step, vec.sub(a, b))
        step *= 2
    scale = np.float32(1.0 / np.sqrt(np.float64(d)))
    for j in range(d):
        x[j] *= scale


@inline_kernel
def block_scale(block):
    """Power-of-two scale of 32 values."""
    amax = amax_of(block)
    amax = FP4_FLOOR if amax < FP4_FLOOR else amax
    return ceil_pow2(amax / E2M1_MAX)


@inline_kernel
def code_of(value, inverse):
    """Twice the FP4 magnitude with its sign, as an integer; 0 for NaN (its scale is NaN too)."""
    code = round_e2m1(value * inverse) * TWO
    return np.int32(code) if abs(code) <= TWO * E2M1_MAX else np.int32(0)


@inline_kernel
def _store_codes(codes, scales, row, x):
    group, lane = row // LANES, row % LANES
    for b in range(x.size // BLOCK):
        block = x[b * BLOCK : b * BLOCK + BLOCK]
        scale = block_scale(block)
        inverse = ONE / scale
        scales[group, b, lane] = scale
        for j in range(BLOCK):
            code = np.uint8(code_of(block[j], inverse) + BIAS)
            codes[group, (b * BLOCK + j) // 4, lane, j % 4] = code


@kernel
def _store_values(codes, scales, values):
    for i in range(values.shape[0]):
        _store_codes(codes, scales, i, values[i])


@kernel
def _store(codes, scales, rows, row0, pooled, weight, cos, sin, eps, official):
    n, d = pooled.shape
    row = np.empty(d, np.float32)
    for i in range(n):
        norm_row(row, pooled[i], weight, eps)
        turn_tail(row, cos[i], sin[i], False)
        if official:
            _hadamard(row)
            _store_codes(codes, scales, row0 + i, row)
        else:
            to = rows[row0 + i]
            for j in range(d):
                to[j] = row[j]


def indexer_store(rows, row0, pooled, weight, cos, sin, eps, official):
    assert official == rows.official
    if len(pooled):
        _store(rows.codes, rows.scales, rows.rows, row0, pooled, weight, cos, sin, eps, official)


@inline_kernel
def _fp4_round_trip(block):
    scale = block_scale(block)
    inverse = ONE / scale
    for j in range(block.size):
        block[j] = round_e2m1(block[j] * inverse) * scale


@kernel
def _query(q, cos, sin, official, first, last):
    n_head, d = q.shape[1:]
    for i in range(first, last):
        for h in range(n_head):
            head = q[i, h]
            turn_tail(head, cos[i], sin[i], False)
            if official:
                _hadamard(head)
                for b in range(0, d, BLOCK):
                    _fp4_round_trip(head[b : b + BLOCK])


@kernel
def _query_all(team, q, cos, sin, official):
    n, n_head, d = q.shape
    over(team, n, VALUE_COST * n_head * d, _query, (q, cos, sin, official))


def indexer_query(q, cos, sin, official):
    _query_all(team(), q, cos, sin, official)
