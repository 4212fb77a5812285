"""The indexer's rows and queries: norm, tail turn and, if official, Hadamard and FP4.

An FP4 value is at most two significant bits times a power of two, so bfloat16 holds it exactly;
official rows and queries are kept as bfloat16 for tensor cores where those have a kernel (128
dims), all others as float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from engine.errors import SnapshotError
from engine.ops.cuda.build.kernel import F32, F32P, I32P, U16P, U32, Kernel, device, kernel
from engine.ops.cuda.build.ptx import (
    add_rn,
    address,
    fma_rn,
    ld_nc_v2_f32,
    ld_v2_f32,
    mul_rn,
    pack_bf16,
    st_b32,
    st_v2_f32,
    sub_rn,
)
from engine.ops.cuda.build.reduce import inverse_rms, warp_sum
from engine.ops.cuda.build.types import f32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.rows.kv import store_rows, window_of
from engine.ops.cuda.rows.rope import rope_tail, turned
from engine.ops.cuda.rows.rounding import FP4_BLOCK, fp4_pair, hadamard_64
from engine.ops.cuda.sizes import OFFICIAL_DIMS, PACKED_DIM
from engine.ops.operands import Windows
from engine.ops.scalar import E2M1_MAX, FP4_FLOOR

THREADS = 256
ROWS = THREADS // 32  # rows of a block: one warp each
_TWICE_FP4 = (0, 1, 2, 3, 4, 6, 8, 12)


class IndexRows:
    """Indexer rows of one layer, in device memory.

    Parameters
    ----------
    ctx : Context
    cap : int
        Most rows.
    dim : int
    official : bool
        Rows are FP4 values (blocks of 32 with a power-of-two scale).

    Attributes
    ----------
    rows : DeviceArray of shape (cap, dim)
        bfloat16 bits (uint16) where `packed`, else float32.
    """

    def __init__(self, ctx: Context, cap: int, dim: int, official: bool) -> None:
        assert not official or dim in OFFICIAL_DIMS, dim
        self.official = official
        self.packed = official and dim == PACKED_DIM
        self.rows = ctx.zeros((cap, dim), np.uint16 if self.packed else np.float32)

    @property
    def n_bytes(self) -> int:
        """Bytes that all rows take."""
        return self.rows.nbytes

    def export(self, n: int) -> np.ndarray:
        """The first n rows, float32 (n, dim); waits for the device."""
        rows = np.asarray(self.rows[:n])
        return (rows.astype(np.uint32) << 16).view(np.float32) if self.packed else rows

    def load(self, values: np.ndarray) -> None:
        """Replace the first rows by exported ones.

        Raises
        ------
        SnapshotError
            If they are not what this storage holds.
        """
        values = np.ascontiguousarray(values, np.float32)
        if self.official and not _is_fp4(values):
            raise SnapshotError("indexer rows: expected FP4 values, found others")
        if self.packed:
            narrow = (values.view(np.uint32) >> 16).astype(np.uint16)
            self.rows[: len(values)] = np.where(np.isnan(values), np.uint16(0x7FFF), narrow)
        else:
            self.rows[: len(values)] = values


def _is_fp4(values: np.ndarray) -> bool:
    """Whether FP4 rounding would leave every block of 32 as it is; a block may be all NaN."""
    blocks = values.reshape(-1, FP4_BLOCK).astype(np.float64)
    blocks = blocks[~np.isnan(blocks).all(axis=1)]
    amax = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), FP4_FLOOR)
    mantissa, exponent = np.frexp(amax / E2M1_MAX)
    exponent = exponent - (mantissa == 0.5)
    return bool(np.isin(np.abs(np.ldexp(blocks, 1 - exponent)), _TWICE_FP4).all())


def new_index_rows(ctx: Context, cap: int, dim: int, official: bool) -> IndexRows:
    """Storage for up to cap indexer rows of `dim` values, FP4 if official (see `IndexRows`)."""
    return IndexRows(ctx, cap, dim, official)


def _official(dim: int) -> tuple[Any, Any]:
    """Device functions: a warp turns and rounds a row of `dim` values, lane by pairs."""
    steps = dim // 64

    @device
    def turn(a, b, lane, angle, cos, sin, half):
        """Turn the pairs of the tail; step k holds pair 32 k + lane."""
        for k in range(steps):
            pair = u32(u32(32 * k) + lane)
            plain = u32(u32(32 * steps) - half)
            if pair >= plain:
                at = u32(angle + pair - plain)
                a[k], b[k] = turned(a[k], b[k], cos[at], sin[at])

    @device
    def round_row(a, b, lane, share):
        """Hadamard transform (share = dim**-0.5), then FP4."""
        for k in range(steps):
            a[k], b[k] = hadamard_64(a[k], b[k], lane)
        if steps == 2:
            a[0], a[1] = add_rn(a[0], a[1]), sub_rn(a[0], a[1])
            b[0], b[1] = add_rn(b[0], b[1]), sub_rn(b[0], b[1])
        if steps == 4:
            for k in range(0, 4, 2):
                a[k], a[k + 1] = add_rn(a[k], a[k + 1]), sub_rn(a[k], a[k + 1])
                b[k], b[k + 1] = add_rn(b[k], b[k + 1]), sub_rn(b[k], b[k + 1])
            for k in range(2):
                a[k], a[k + 2] = add_rn(a[k], a[k + 2]), sub_rn(a[k], a[k + 2])
                b[k], b[k + 2] = add_rn(b[k], b[k + 2]), sub_rn(b[k], b[k + 2])
        for k in range(steps):
            a[k], b[k] = fp4_pair(mul_rn(a[k], share), mul_rn(b[k], share))

    return turn, round_row


def _store(dim: int) -> Kernel:
    steps = dim // 64
    turn, round_row = _official(dim)
    packed = dim == PACKED_DIM

    @kernel(
        *(U16P if packed else F32P, F32P, F32P, I32P, F32P, F32P),
        *(U32,) * 4,
        *(F32, F32),
        threads=THREADS,
        name=f"indexer_store_{dim}",
        writes=("rows",),
    )
    def indexer_rows(rows, x, weight, pos, cos, sin, n, ratio, cap, half, eps, share):
        """A warp finishes x[i], the row of window pos // ratio + i, if that ends in the call."""
        lane = u32(cuda.threadIdx.x) & u32(31)
        i = u32(cuda.blockIdx.x * ROWS + (cuda.threadIdx.x >> 5))
        window, ends = window_of(pos, n, ratio, i)
        if ends:
            # Norm.
            a = cuda.local.array(steps, f32)
            b = cuda.local.array(steps, f32)
            total = f32(0)
            for k in range(steps):
                at = u32(u32(i * u32(dim)) + u32(64 * k) + lane + lane)
                a[k], b[k] = ld_nc_v2_f32(address(x) + at * 4)
                total = fma_rn(b[k], b[k], fma_rn(a[k], a[k], total))
            scale = inverse_rms(warp_sum(total), u32(dim), eps)
            for k in range(steps):
                u, v = ld_nc_v2_f32(address(weight) + u32(u32(64 * k) + lane + lane) * 4)
                a[k], b[k] = mul_rn(mul_rn(a[k], scale), u), mul_rn(mul_rn(b[k], scale), v)
            # Rotation, rounding, and the row at its place.
            turn(a, b, lane, u32(u32(window * ratio) * half), cos, sin, half)
            round_row(a, b, lane, share)
            row = u32(u32(window % cap) * u32(dim))
            for k in range(steps):
                at = u32(row + u32(64 * k) + lane + lane)
                if packed:
                    st_b32(address(rows) + at * 2, pack_bf16(a[k], b[k]))
                else:
                    st_v2_f32(address(rows) + at * 4, a[k], b[k])

    return indexer_rows


def _query(dim: int) -> Kernel:
    steps = dim // 64
    turn, round_row = _official(dim)
    packed = dim == PACKED_DIM

    @kernel(
        *(F32P, U16P, I32P, F32P, F32P),
        *(U32,) * 3,
        F32,
        threads=THREADS,
        name=f"indexer_query_{dim}",
        writes=("q", "narrow"),
    )
    def indexer_heads(q, narrow, pos, cos, sin, heads, n_head, half, share):
        """A warp turns and rounds one of `heads` = n * n_head heads; bfloat16 beside if packed."""
        lane = u32(cuda.threadIdx.x) & u32(31)
        head = u32(cuda.blockIdx.x * ROWS + (cuda.threadIdx.x >> 5))
        if head < heads:
            a = cuda.local.array(steps, f32)
            b = cuda.local.array(steps, f32)
            row = u32(head * u32(dim))
            for k in range(steps):
                at = u32(row + u32(64 * k) + lane + lane)
                a[k], b[k] = ld_v2_f32(address(q) + at * 4)
            position = u32(u32(pos[0]) + head // n_head)
            turn(a, b, lane, u32(position * half), cos, sin, half)
            round_row(a, b, lane, share)
            for k in range(steps):
                at = u32(row + u32(64 * k) + lane + lane)
                st_v2_f32(address(q) + at * 4, a[k], b[k])
                if packed:
                    st_b32(address(narrow) + at * 2, pack_bf16(a[k], b[k]))

    return indexer_heads


_STORES = {dim: _store(dim) for dim in OFFICIAL_DIMS}
_QUERIES = {dim: _query(dim) for dim in OFFICIAL_DIMS}


def indexer_store(
    ctx: Context,
    rows: IndexRows,
    pooled: DeviceArray,
    weight: DeviceArray,
    windows: Windows,
    pos0: DeviceArray,
    eps: float,
    official: bool,
) -> None:
    """Norm pooled rows, turn their tails and, if official, Hadamard and FP4; then store them.

    Parameters
    ----------
    rows : IndexRows
        Row w is overwritten for each window w that ends in the call.
    pooled : float32 DeviceArray of shape (ceil(n / ratio) or more, idx_head_dim)
        Row i is of the i-th window that ends in the call.
    weight : float32 DeviceArray of shape (idx_head_dim,)
    windows : Windows
        cos and sin hold every position, (n_positions, n_rot // 2); a row's angles are its window's
        first position's.
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
    eps : float
    official : bool
        As given to `new_index_rows`.
    """
    assert official == rows.official, official
    ratio, n, cos, sin = windows.ratio, windows.n, windows.cos, windows.sin
    assert isinstance(cos, DeviceArray) and isinstance(sin, DeviceArray), windows
    if not official:
        store_rows(ctx, rows.rows, ratio, n, pooled, weight, cos, sin, pos0, eps, False)
        return
    cap, d = rows.rows.shape
    most = (n + ratio - 1) // ratio
    half = cos.shape[1]
    assert pooled.shape[1] == d and len(pooled) >= most and 2 * half <= d, (rows.rows, pooled)
    assert weight.shape == (d,) and cos.shape == sin.shape, (weight, cos, sin)
    args = (n, ratio, cap, half, eps, _share(d))
    grid = -(-most // ROWS)
    ctx.launch(_STORES[d], grid, rows.rows, pooled, weight, pos0, cos, sin, *args)
    ctx.wrote(rows.rows)


def indexer_query(
    ctx: Context, q: DeviceArray, cos: DeviceArray, sin: DeviceArray, official: bool
) -> None:
    """Turn the tails of the indexer's queries and, if official, Hadamard and FP4; in place.

    Parameters
    ----------
    q : float32 DeviceArray of shape (n, n_idx_head, idx_head_dim), changed in place
        Its bfloat16 companion is kept where `select` takes that.
    cos, sin : float32 DeviceArrays of shape (n_positions, n_rot // 2)
    official : bool
    """
    if not official:
        rope_tail(ctx, q, cos, sin, False)
        return
    n, n_head, d = q.shape
    half = cos.shape[1]
    assert d in OFFICIAL_DIMS and 2 * half <= d and cos.shape == sin.shape, (q, cos, sin)
    packed = d == PACKED_DIM
    narrow = ctx.scratch("indexer query", q.shape, np.uint16) if packed else None
    args = (n * n_head, n_head, half, _share(d))
    ctx.launch(_QUERIES[d], -(-n * n_head // ROWS), q, narrow, ctx.pos, cos, sin, *args)
    ctx.wrote(q)
    if packed:
        ctx.keep(q, "bf16", narrow)


def _share(dim: int) -> float:
    return float(np.float32(1.0 / np.sqrt(np.float64(dim))))
