"""PTX ops of single values and of whole warps: stand-ins against NumPy."""

from __future__ import annotations

import numpy as np
from numba import cuda

from engine.ops.cuda.build import ptx
from engine.ops.cuda.build.kernel import F32, F32P, I32, I32P, U32, kernel

rng = np.random.default_rng(8)
LANES = np.arange(32)
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.5, 65504.0, 65520.0, 1e-8, 6e-8, 3e38, -np.inf, np.inf, np.nan], np.float32
)


@kernel(I32P, F32P, threads=32, name="test_to_half")
def _to_half(out, x):
    t = cuda.threadIdx.x
    o = t * U32(6)
    out[o] = ptx.f2h(x[t])
    out[o + U32(1)] = ptx.f2bf(x[t])
    out[o + U32(2)] = ptx.pack_f16(x[t], x[t ^ 1])
    out[o + U32(3)] = ptx.pack_bf16(x[t], x[t ^ 1])
    out[o + U32(4)] = ptx.f2i_rn(x[t])
    out[o + U32(5)] = ptx.f32_bits(ptx.rint(x[t]))


def reference_bf16(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def reference_f16(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return np.where(np.isnan(x), 0x7FFF, x.astype(np.float16).view(np.uint16))


def test_rounding_conversions(ctx):
    x = np.concatenate([SPECIAL, [0.5, 1.5, 2.5, -2.5], rng.standard_normal(16) * 1000])
    x = x.astype(np.float32)
    out = ctx.empty((32, 6), np.int32)
    ctx.launch(_to_half, 1, out, ctx.put(x))
    got = np.asarray(out).view(np.uint32)
    h, b = reference_f16(x).astype(np.uint32), reference_bf16(x).astype(np.uint32)
    swap = LANES ^ 1
    whole = np.nan_to_num(np.rint(x.astype(np.float64)), nan=0.0)
    whole = np.clip(whole, -(2**31), 2**31 - 1).astype(np.int64)
    np.testing.assert_array_equal(got[:, 0], h)
    np.testing.assert_array_equal(got[:, 1], b)
    np.testing.assert_array_equal(got[:, 2], h | h[swap] << 16)
    np.testing.assert_array_equal(got[:, 3], b | b[swap] << 16)
    np.testing.assert_array_equal(got[:, 4].view(np.int32), whole)
    np.testing.assert_array_equal(got[:, 5].copy().view(np.float32), np.rint(x))


@kernel(F32P, I32P, threads=256, name="test_from_half")
def _from_half(out, x):
    i = cuda.blockIdx.x * U32(256) + cuda.threadIdx.x
    lo, hi = ptx.unpack_f16(x[i])
    out[i * U32(5)] = lo
    out[i * U32(5) + U32(1)] = hi
    lo, hi = ptx.unpack_bf16(x[i])
    out[i * U32(5) + U32(2)] = lo
    out[i * U32(5) + U32(3)] = hi
    out[i * U32(5) + U32(4)] = ptx.h2f(x[i] & 0xFFFF) - ptx.bf2f(x[i] & 0xFFFF) + ptx.i2f(x[i])


def test_all_halves(ctx):
    bits = np.arange(1 << 16, dtype=np.uint16)
    out = ctx.empty((1 << 15, 5))
    ctx.launch(_from_half, 128, out, ctx.put(bits.view(np.int32)))
    got = np.asarray(out)
    with np.errstate(invalid="ignore"):
        h = bits.view(np.float16).astype(np.float32).reshape(-1, 2)
        b = (bits.astype(np.uint32) << 16).view(np.float32).reshape(-1, 2)
        last = h[:, 0] - b[:, 0] + bits.view(np.int32).astype(np.float32)
    np.testing.assert_array_equal(got[:, :2], h)
    np.testing.assert_array_equal(got[:, 2:4], b)
    np.testing.assert_array_equal(got[:, 4], last)


@kernel(F32P, F32P, F32P, F32P, threads=32, name="test_arithmetic")
def _arithmetic(out, x, y, z):
    t = cuda.threadIdx.x
    o = t * U32(6)
    out[o] = ptx.fma_rn(x[t], y[t], z[t])
    out[o + U32(1)] = ptx.mul_rn(x[t], y[t])
    out[o + U32(2)] = ptx.add_rn(x[t], y[t])
    out[o + U32(3)] = ptx.sub_rn(x[t], y[t])
    out[o + U32(4)] = ptx.fmax(x[t], y[t])
    out[o + U32(5)] = ptx.fmin(x[t], y[t])


def test_arithmetic(ctx):
    x, y, z = rng.standard_normal((3, 32)).astype(np.float32)
    z[:16] = -(x * y)[:16]  # what is left is the rounding error of the product
    x[0], y[1] = np.nan, np.nan
    out = ctx.empty((32, 6))
    ctx.launch(_arithmetic, 1, out, ctx.put(x), ctx.put(y), ctx.put(z))
    wide = (x.astype(np.float64) * y + z).astype(np.float32)  # exact but for one rounding
    expected = [wide, x * y, x + y, x - y, np.fmax(x, y), np.fmin(x, y)]
    np.testing.assert_array_equal(np.asarray(out).T, expected)


@kernel(I32P, I32P, I32P, I32P, threads=32, name="test_bits")
def _bits(out, x, y, z):
    t = cuda.threadIdx.x
    o = t * U32(5)
    out[o] = ptx.dp4a(x[t], y[t], z[t])
    out[o + U32(1)] = ptx.dp4a_us(x[t], y[t], z[t])
    out[o + U32(2)] = ptx.prmt(x[t], y[t], z[t])
    out[o + U32(3)] = ptx.popc(x[t])
    out[o + U32(4)] = ptx.clz(x[t] >> (t & 31))


def test_bits(ctx):
    x, y, z = rng.integers(-(1 << 31), 1 << 31, (3, 32)).astype(np.int32)
    x[3] = 0
    out = ctx.empty((32, 5), np.int32)
    ctx.launch(_bits, 1, out, ctx.put(x), ctx.put(y), ctx.put(z))
    got = np.asarray(out)
    bytes_x, bytes_y = (v.view(np.int8).reshape(32, 4).astype(np.int64) for v in (x, y))
    dot = (bytes_x * bytes_y).sum(1) + z
    np.testing.assert_array_equal(got[:, 0], dot.astype(np.int32))
    dot = ((bytes_x & 255) * bytes_y).sum(1) + z
    np.testing.assert_array_equal(got[:, 1], dot.astype(np.int32))
    for t in range(32):
        both = np.concatenate([x[t : t + 1], y[t : t + 1]]).view(np.uint8)
        picked = []
        for i in range(4):
            nibble = int(z[t]) >> (4 * i) & 15
            byte = int(both[nibble & 7])
            picked.append((255 if byte & 128 else 0) if nibble & 8 else byte)
        assert got[t, 2] == np.array(picked, np.uint8).view(np.int32)[0]
        assert got[t, 3] == bin(int(x[t]) & 0xFFFFFFFF).count("1")
        assert got[t, 4] == 32 - (int(x[t] >> t) & 0xFFFFFFFF).bit_length()


@kernel(I32P, F32P, I32P, threads=64, name="test_warp")
def _warp(out, out_f, x):
    t = cuda.threadIdx.x
    o = t * U32(8)
    out[o] = ptx.shfl_xor_i32(x[t], 5)
    out[o + U32(1)] = ptx.shfl_i32(x[t], x[t] & 31)
    out[o + U32(2)] = ptx.shfl_down_i32(x[t], 7)
    out[o + U32(3)] = ptx.redux_add(x[t])
    out[o + U32(4)] = ptx.redux_max(x[t])
    out[o + U32(5)] = ptx.redux_min(x[t])
    out[o + U32(6)] = ptx.redux_or(x[t])
    out[o + U32(7)] = ptx.ballot(x[t] & 1)
    f = F32(x[t])
    out_f[t] = ptx.shfl_xor_f32(f, 16) + ptx.shfl_f32(f, 3) + ptx.shfl_down_f32(f, 31)


def test_warp(ctx):
    x = rng.integers(-(1 << 20), 1 << 20, 64).astype(np.int32)
    out, out_f = ctx.empty((64, 8), np.int32), ctx.empty((64,))
    ctx.launch(_warp, 1, out, out_f, ctx.put(x))
    for warp in range(2):
        v = x[32 * warp : 32 * warp + 32]
        votes = sum(1 << i for i in range(32) if v[i] & 1)
        down = v[np.where(LANES + 7 < 32, LANES + 7, LANES)]
        ones = np.ones(32, np.int32)
        expected = [
            v[LANES ^ 5], v[v & 31], down, v.sum() * ones, v.max() * ones, v.min() * ones,
            np.bitwise_or.reduce(v) * ones, np.array([votes], np.uint32).view(np.int32)[0] * ones,
        ]  # fmt: skip
        rows = slice(32 * warp, 32 * warp + 32)
        np.testing.assert_array_equal(np.asarray(out)[rows].T, expected)
        f = v.astype(np.float32)
        last = f[np.where(LANES + 31 < 32, LANES + 31, LANES)]
        np.testing.assert_array_equal(np.asarray(out_f)[rows], f[LANES ^ 16] + f[3] + last)


@kernel(I32P, I32P, threads=64, name="test_counters")
def _counters(out, counters):
    t = cuda.threadIdx.x
    ptx.prefetch_bulk(ptx.address(counters), I32(16))
    ptx.depend()
    old = ptx.atom_add(ptx.address(counters), U32(2))
    out[old >> U32(1)] = I32(old)
    ptx.atom_max(ptx.address(counters) + 4, I32(t) * (1 - 2 * (I32(t) & 1)))
    ptx.release()


def test_counters(ctx):
    out, counters = ctx.empty((128,), np.int32), ctx.put(np.array([0, -5, 0, 0], np.int32))
    ctx.launch(_counters, 2, out, counters)
    np.testing.assert_array_equal(np.asarray(out), 2 * np.arange(128))
    assert np.asarray(counters).tolist() == [256, 62, 0, 0]
