"""Logits of the hyper-connections straight from the streams, after spreading what came before.

The matrix has few rows and very long ones, so a block takes 64 columns of every stream: it writes
their new values if a sublayer's output is to be spread first, multiplies them with every row of
the matrix and adds up their squares. The sums of all blocks meet in `hc_enter`; the norm, one
factor per row, is applied there.

The phases stay in one body: as device functions they would cost some of these kernels registers.
One order of summation per output: lane l's values, lanes, streams, then blocks as `hc_enter` says.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

from engine.ops.cuda.build.kernel import F32P, U32, U64, Kernel, device, kernel
from engine.ops.cuda.build.ptx import (
    add_rn,
    fma_rn,
    ld_nc_v4,
    ld_nc_v4_f32,
    lds_v4_f32,
    shared_address,
    shfl_xor_f32,
    unpack_f16,
)
from engine.ops.cuda.build.types import f32, i64, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.hyper.hc import ZERO, expanded
from engine.ops.cuda.products.pack import Weight
from engine.ops.cuda.sizes import COLUMNS, STREAMS, TILE, UNIT

UNITS = COLUMNS // UNIT
THREADS = 32 * STREAMS  # a warp per stream
MANY = 8  # rows of a block when there are more than a few
FEW_ROWS = 16
KINDS = ("f16", "raw", "f32")


@device
def _sixteen_bit(address):
    """Eight float16 values from an address on."""
    i, j, k, m = ld_nc_v4(address)
    a, b = unpack_f16(i)
    c, d = unpack_f16(j)
    e, f = unpack_f16(k)
    g, h = unpack_f16(m)
    return a, b, c, d, e, f, g, h


@device
def _single(address):
    """Eight float32 values from an address on."""
    a, b, c, d = ld_nc_v4_f32(address)
    e, f, g, h = ld_nc_v4_f32(address + 16)
    return a, b, c, d, e, f, g, h


def _address(kind: str) -> Any:
    """Device function: where a lane's eight values of a row of the matrix begin."""
    width = 4 if kind == "f32" else 2

    @device
    def tiled(fn, tile, half, unit, units, lane, count, length):
        place = u32(u32(tile * units + unit) * u32(32) + lane)
        return i64(fn) + i64(u32(place * u32(2) + half)) * 16

    @device
    def plain(fn, tile, half, unit, units, lane, count, length):
        row = u32(tile * u32(TILE) + half * u32(8) + (lane >> u32(2)))
        # Rows past the last are computed from the last one and never looked at.
        row = row if row < count else u32(count - u32(1))
        k = u32(unit * u32(UNIT) + (lane & u32(3)) * u32(8))
        return i64(fn) + (i64(row) * i64(length) + i64(k)) * width

    return tiled if kind == "f16" else plain


def _mixer(kind: str, tiles: int, rows_each: int) -> Kernel:
    where = _address(kind)
    eight = _single if kind == "f32" else _sixteen_bit
    halves = 2 * tiles
    n_sums = halves + 1
    weights = UNITS * halves * 8
    slots = rows_each * STREAMS
    span = n_sums * 8
    values = UNITS * 8

    @kernel(
        *(F32P,) * 5,
        *(U64, U32, U32, U32, U32, U32, U32),
        threads=THREADS,
        min_blocks=4,
        name=f"hc_mix_{kind}_{tiles}_{rows_each}",
        writes=("parts", "state"),
    )
    def hc_mix(parts, state, y, post, comb, fn, n, d, n_hc, count, pieces, spread):
        """Grid (pieces of 64 columns, groups of rows): parts (row, count + 1, piece)."""
        stage = cuda.shared.array((slots, COLUMNS), f32, alignment=16)
        sums = cuda.shared.array((slots, span), f32)
        t = u32(cuda.threadIdx.x)
        lane, stream = t & u32(31), t >> u32(5)
        piece = u32(cuda.blockIdx.x)
        first_row = u32(u32(cuda.blockIdx.y) * u32(rows_each))

        # Weights first: they take longest and depend on nothing.
        w = cuda.local.array(weights, f32)
        units = u32(u32(n_hc * d) // u32(UNIT))
        own = stream if stream < n_hc else u32(0)
        for u in range(UNITS):
            column = u32(piece * u32(COLUMNS) + u32(u * UNIT))
            column = column if column < d else u32(0)
            unit = u32(u32(own * d + column) // u32(UNIT))
            for h in range(halves):
                at = where(fn, u32(h >> 1), u32(h & 1), unit, units, lane, count, n_hc * d)
                k = (u * halves + h) * 8
                w[k], w[k + 1], w[k + 2], w[k + 3], w[k + 4], w[k + 5], w[k + 6], w[k + 7] = eight(
                    at
                )

        # Columns of the streams, spread first if there is something to spread.
        column = u32(piece * u32(COLUMNS) + (t & u32(COLUMNS - 1)))
        for r in range(t >> u32(6), rows_each, THREADS // COLUMNS):
            row = u32(first_row + u32(r))
            s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
            if row < n and column < d:
                at = u32(u32(row * n_hc) * d + column)
                s0 = state[at]
                s1 = state[at + d] if n_hc > u32(1) else ZERO
                s2 = state[at + u32(2) * d] if n_hc > u32(2) else ZERO
                s3 = state[at + u32(3) * d] if n_hc > u32(3) else ZERO
                if spread:
                    value = y[u32(row * d + column)]
                    n0 = expanded(value, post, comb, row, u32(0), n_hc, s0, s1, s2, s3)
                    n1, n2, n3 = ZERO, ZERO, ZERO
                    state[at] = n0
                    if n_hc > u32(1):
                        n1 = expanded(value, post, comb, row, u32(1), n_hc, s0, s1, s2, s3)
                        state[at + d] = n1
                    if n_hc > u32(2):
                        n2 = expanded(value, post, comb, row, u32(2), n_hc, s0, s1, s2, s3)
                        state[at + u32(2) * d] = n2
                    if n_hc > u32(3):
                        n3 = expanded(value, post, comb, row, u32(3), n_hc, s0, s1, s2, s3)
                        state[at + u32(3) * d] = n3
                    s0, s1, s2, s3 = n0, n1, n2, n3
            slot = u32(u32(r) * u32(STREAMS))
            k = t & u32(COLUMNS - 1)
            stage[slot, k] = s0
            stage[slot + u32(1), k] = s1
            stage[slot + u32(2), k] = s2
            stage[slot + u32(3), k] = s3
        cuda.syncthreads()

        # A warp multiplies its stream's columns with every row of the matrix, and squares them.
        base = shared_address(stage)
        for r in range(rows_each):
            slot = u32(u32(r * STREAMS) + stream)
            x = cuda.local.array(values, f32)
            squares = ZERO
            for u in range(UNITS):
                k = u32(u32(u * UNIT) + (lane & u32(3)) * u32(8))
                at = u32(base + (slot * u32(COLUMNS) + k) * u32(4))
                x[8 * u], x[8 * u + 1], x[8 * u + 2], x[8 * u + 3] = lds_v4_f32(at)
                x[8 * u + 4], x[8 * u + 5], x[8 * u + 6], x[8 * u + 7] = lds_v4_f32(
                    u32(at + u32(16))
                )
            for k in range(values):
                squares = fma_rn(x[k], x[k], squares)
            for h in range(n_sums):
                total = squares
                if h < halves:
                    total = ZERO
                    for u in range(UNITS):
                        for k in range(8):
                            total = fma_rn(x[8 * u + k], w[(u * halves + h) * 8 + k], total)
                total = add_rn(total, shfl_xor_f32(total, 1))
                total = add_rn(total, shfl_xor_f32(total, 2))
                if lane & u32(3) == u32(0):
                    sums[slot, u32(u32(h * 8) + (lane >> u32(2)))] = total
        cuda.syncthreads()

        # Streams are added up. Row h * 8 + g of the matrix is at h * 8 + g; the squares follow
        # the last half.
        for k in range(t, u32(rows_each) * (count + u32(1)), THREADS):
            r = u32(u32(k) // u32(count + u32(1)))
            out = u32(u32(k) - r * (count + u32(1)))
            row = u32(first_row + r)
            if row < n:
                source = out if out < count else u32(halves * 8)
                slot = u32(r * u32(STREAMS))
                total = sums[slot, source]
                for s in range(1, n_hc):
                    total = add_rn(total, sums[slot + u32(s), source])
                at = u32(u32(row * (count + u32(1)) + out) * pieces + piece)
                parts[at] = total

    return hc_mix


_KERNELS = {
    (kind, tiles, rows): _mixer(kind, tiles, rows)
    for kind in KINDS
    for tiles in (1, 2)
    for rows in (1, MANY)
}


def kind_of(fn: Weight) -> str | None:
    """How the kernels read a matrix; None: they do not."""
    if fn.format == "F32":
        return "f32"
    if fn.format == "F16":
        return "f16" if fn.tiled else "raw"
    return None


def mix(
    ctx: Context,
    parts: DeviceArray,
    state: DeviceArray,
    fn: Weight,
    spread: tuple[DeviceArray, DeviceArray, DeviceArray] | None,
) -> None:
    """Partial logits of every 64 columns, and partial sums of squares.

    Parameters
    ----------
    parts : float32 DeviceArray of shape (n, fn.rows + 1, pieces), overwritten
    state : float32 DeviceArray of shape (n, n_hc, n_embd)
        Changed in place if something is spread; n_embd is a multiple of 32.
    fn : Weight of shape (at most 32, n_hc * n_embd)
    spread : (y, post, comb), optional
        As `hc_expand` takes them.
    """
    n, n_hc, d = state.shape
    kind = kind_of(fn)
    assert kind is not None and d % UNIT == 0 and fn.cols == n_hc * d, (fn, state)
    assert fn.rows <= 2 * TILE and parts.shape == (n, fn.rows + 1, -(-d // COLUMNS)), (fn, parts)
    rows = 1 if n <= FEW_ROWS else MANY
    body = _KERNELS[kind, 1 if fn.rows <= TILE else 2, rows]
    pieces = parts.shape[2]
    arrays = (parts, state, *(spread or (None, None, None)))
    sizes = (n, d, n_hc, fn.rows, pieces, int(spread is not None))
    ctx.launch(body, (pieces, -(-n // rows)), *arrays, fn.codes, *sizes)
    ctx.charge(body, fn.file_bytes)
    if spread is not None:
        ctx.wrote(state)
