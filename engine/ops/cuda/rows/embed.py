"""Token rows into the residual streams, out of a table in any format, as the file has it."""

from __future__ import annotations

from typing import Any

from numba import cuda

from engine.ops.cuda.build.kernel import F32P, I32P, I64P, U32, U64, Kernel, device, kernel
from engine.ops.cuda.build.ptx import (
    bf2f,
    h2f,
    i2f,
    ld_nc_f32,
    ld_nc_u8,
    ld_nc_u16,
    mul_rn,
    popc,
    sub_rn,
    unpack_f16,
)
from engine.ops.cuda.build.types import f32, i32, i64, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.products.decode_bits import e8m0, raw_q4_k
from engine.ops.cuda.products.pack import Weight, codebook
from engine.ops.cuda.rows import embed_raw

THREADS = 256

# Per format: bytes of a block, its values, and the value k of a block that begins at `at`. Results
# are exact products of what is stored, in float32.


@device
def _f32(at, k, grid):
    return ld_nc_f32(at)


@device
def _f16(at, k, grid):
    return h2f(ld_nc_u16(at))


@device
def _bf16(at, k, grid):
    return bf2f(ld_nc_u16(at))


@device
def _signed_byte(x):
    return i32(i32(x << u32(24)) >> i32(24))


@device
def _q8_0(at, k, grid):
    code = _signed_byte(ld_nc_u8(i64(at + 2 + i64(k))))
    return mul_rn(h2f(ld_nc_u16(at)), i2f(code))


@device
def _mxfp4(at, k, grid):
    byte = ld_nc_u8(i64(at + 1 + i64(k & u32(15))))
    code = u32(u32(byte >> u32((k >> u32(4)) * 4)) & u32(15))
    size = i32(code & u32(7))
    # 0 1 2 3 4 6 8 12: steps of 1, then of 2, then of 4
    size = size if size < i32(5) else (i32(2 * size - 4) if size < i32(7) else i32(12))
    value = i32(-size) if code > u32(7) else size
    return mul_rn(e8m0(ld_nc_u8(at)), i2f(value))


@device
def _q4_k(at, k, grid):
    f, s_low, s_high, m_low, m_high = raw_q4_k(at)
    unit = u32(k >> u32(5))
    shift = i32(8 * i32(unit & u32(3)))
    s = i32(i32((s_low if unit < u32(4) else s_high) >> shift) & i32(255))
    m = i32(i32((m_low if unit < u32(4) else m_high) >> shift) & i32(255))
    byte = ld_nc_u8(i64(at + 16 + i64((unit >> u32(1)) * 32 + (k & u32(31)))))
    code = i32(u32(byte >> u32((unit & u32(1)) * 4)) & u32(15))
    d, least = unpack_f16(f)
    return sub_rn(mul_rn(mul_rn(d, i2f(s)), i2f(code)), mul_rn(least, i2f(m)))


@device
def _q2_k(at, k, grid):
    inside = u32(k & u32(127))
    place = u32((k >> u32(7)) * 32 + (inside & u32(31)))
    byte = ld_nc_u8(i64(at + 16 + i64(place)))
    code = i32(u32(byte >> u32((inside >> u32(5)) * 2)) & u32(3))
    scale = ld_nc_u8(i64(at + i64(k >> u32(4))))
    d = h2f(ld_nc_u16(i64(at + 80)))
    least = h2f(ld_nc_u16(i64(at + 82)))
    first = mul_rn(mul_rn(d, i2f(i32(scale & u32(15)))), i2f(code))
    return sub_rn(first, mul_rn(least, i2f(i32(scale >> u32(4)))))


@device
def _iq2_xxs(at, k, grid):
    base = i64(at + 2 + i64((k >> u32(5)) * 8))
    group = u32((k >> u32(3)) & u32(3))
    row = ld_nc_u8(i64(base + i64(group)))
    low = u32(ld_nc_u16(i64(base + 4)))
    word = u32(low | u32(u32(ld_nc_u16(i64(base + 6))) << u32(16)))
    pattern = u32(u32(word >> u32(group * 7)) & u32(127))
    pattern = u32(pattern | u32(u32(popc(i32(pattern))) & u32(1)) << u32(7))
    j = u32(k & u32(7))
    size = i32(i64(grid[row] >> i64(j * 8)) & i64(255))
    value = i32(-size) if u32(pattern >> j) & u32(1) else size
    scale = i32(i32(2 * i32(word >> u32(28))) + i32(1))
    d = mul_rn(h2f(ld_nc_u16(at)), f32(0.125))
    return mul_rn(mul_rn(d, i2f(scale)), i2f(value))


_FORMATS = {
    "F32": (4, 1, _f32),
    "F16": (2, 1, _f16),
    "BF16": (2, 1, _bf16),
    "Q8_0": (34, 32, _q8_0),
    "MXFP4": (17, 32, _mxfp4),
    "Q4_K": (144, 256, _q4_k),
    "Q2_K": (84, 256, _q2_k),
    "IQ2_XXS": (66, 256, _iq2_xxs),
    **embed_raw.FORMATS,
}


def _kernel(name: str) -> Kernel:
    block_bytes, block, value_at = _FORMATS[name]

    @kernel(
        F32P,
        I32P,
        U64,
        I64P,
        U32,
        U32,
        U32,
        threads=THREADS,
        name=f"embed_{name.lower()}",
        writes=("state",),
    )
    def embed(state, tokens, table, grid, d, n_hc, row_bytes):
        """Grid (pieces of a row, rows)."""
        k = u32(u32(cuda.blockIdx.x) * u32(THREADS) + u32(cuda.threadIdx.x))
        i = u32(cuda.blockIdx.y)
        if k < d:
            row = i64(table) + i64(tokens[i]) * i64(row_bytes)
            at = row + i64(u32(k // u32(block))) * i64(block_bytes)
            value = value_at(at, u32(k % u32(block)), grid)
            for s in range(n_hc):
                state[u32((i * n_hc + u32(s)) * d + k)] = value

    return embed


_KERNELS = {name: _kernel(name) for name in _FORMATS}


def embed_hc(ctx: Context, state: DeviceArray, tokens: DeviceArray, table: Weight) -> None:
    """Copy each token's embedding row into every stream.

    Parameters
    ----------
    state : float32 DeviceArray of shape (n, n_hc, n_embd)
    tokens : int32 DeviceArray of shape (n,)
    table : Weight of shape (n_vocab, n_embd)
        In the file's layout.
    """
    n, n_hc, d = state.shape
    assert not table.tiled or table.format == "F32", table.name
    grid = (-(-d // THREADS), n)
    row_bytes = table.file_bytes // table.rows
    args: tuple[Any, ...] = (state, tokens, table.codes, codebook(ctx), d, n_hc, row_bytes)
    ctx.launch(_KERNELS[table.format], grid, *args)
    ctx.wrote(state)


__all__ = ["embed_hc"]
