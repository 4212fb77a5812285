"""Each PTX op's stand-in against NumPy, with the fragment layouts that the PTX manual documents."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda

from engine.ops.cuda.build import asm, ptx
from engine.ops.cuda.build.kernel import F32, F32P, I32, I32P, U32, kernel
from engine.ops.cuda.device.context import Context
from tests.cuda.natsim import NatsimDevice
from tests.cuda.natsim.translate import STAND_INS

rng = np.random.default_rng(7)
LANES = np.arange(32)
G, T = LANES >> 2, LANES & 3


def test_every_op_has_a_stand_in():
    assert sorted(set(asm.TEMPLATES.values()) - set(STAND_INS)) == []


def words(a: np.ndarray) -> np.ndarray:
    """Rows as int32 words, the lowest k in the lowest bits."""
    return np.ascontiguousarray(a).view(np.int32)


def fragments(a: np.ndarray, b: np.ndarray, per_register: int) -> tuple[np.ndarray, np.ndarray]:
    """Registers of A (16, k) and B (8, k), k being halves or one span of 4 registers of a quad."""
    wa, wb = words(a), words(b)
    span = 4
    n = wa.shape[1] // span
    ra = [wa[G + 8 * (i & 1), T + span * (i >> 1)] for i in range(2 * n)]
    rb = [wb[G, T + span * i] for i in range(n)]
    return np.stack(ra, 1), np.stack(rb, 1)


def matrix(d: np.ndarray) -> np.ndarray:
    """D (16, 8) from the four results of every lane."""
    out = np.empty((16, 8), d.dtype)
    for i in range(4):
        out[G + 8 * (i >> 1), 2 * T + (i & 1)] = d[:, i]
    return out


def _mma_kernel(op, name, pointer, n_a, n_b):
    """Kernel that loads fragments, multiplies once, stores the results."""
    if (n_a, n_b) == (4, 2):

        @kernel(pointer, I32P, I32P, pointer, threads=32, name=name)
        def body(d, a, b, c):
            t = cuda.threadIdx.x
            o = t * U32(4)
            p = t * U32(2)
            d0, d1, d2, d3 = op(
                a[o], a[o + U32(1)], a[o + U32(2)], a[o + U32(3)], b[p], b[p + U32(1)],
                c[o], c[o + U32(1)], c[o + U32(2)], c[o + U32(3)],
            )  # fmt: skip
            d[o] = d0
            d[o + U32(1)] = d1
            d[o + U32(2)] = d2
            d[o + U32(3)] = d3
    else:

        @kernel(pointer, I32P, I32P, pointer, threads=32, name=name)
        def body(d, a, b, c):
            t = cuda.threadIdx.x
            o = t * U32(4)
            p = t * U32(2)
            d0, d1, d2, d3 = op(
                a[p], a[p + U32(1)], b[t],
                c[o], c[o + U32(1)], c[o + U32(2)], c[o + U32(3)],
            )  # fmt: skip
            d[o] = d0
            d[o + U32(1)] = d1
            d[o + U32(2)] = d2
            d[o + U32(3)] = d3

    return body


_MMA_S8 = {
    "mma_m16n8k32_s8": (ptx.mma_m16n8k32_s8, np.int8, 32),
    "mma_m16n8k32_u8s8": (ptx.mma_m16n8k32_u8s8, np.uint8, 32),
    "mma_m16n8k16_s8": (ptx.mma_m16n8k16_s8, np.int8, 16),
}
_S8_KERNELS = {
    name: _mma_kernel(op, f"test_{name}", I32P, k // 8, k // 16)
    for name, (op, _, k) in _MMA_S8.items()
}


def _fragment_c(c: np.ndarray) -> np.ndarray:
    return np.stack([c[G + 8 * (i >> 1), 2 * T + (i & 1)] for i in range(4)], 1)


@pytest.mark.parametrize("name", _MMA_S8)
def test_mma_of_bytes_is_exact(ctx, name):
    _, a_type, k = _MMA_S8[name]
    info = np.iinfo(a_type)
    a = rng.integers(info.min, info.max + 1, (16, k)).astype(a_type)
    b = rng.integers(-128, 128, (8, k)).astype(np.int8)
    c = rng.integers(-1000, 1000, (16, 8)).astype(np.int32)
    ra, rb = fragments(a, b, 4)
    d = ctx.empty((32, 4), np.int32)
    args = [ctx.put(x) for x in (ra, rb, _fragment_c(c))]
    ctx.launch(_S8_KERNELS[name], 1, d, *args)
    expected = a.astype(np.int32) @ b.astype(np.int32).T + c
    np.testing.assert_array_equal(matrix(np.asarray(d)), expected)


_F_KERNELS = {
    "f16": _mma_kernel(ptx.mma_m16n8k16_f16, "test_mma_f16", F32P, 4, 2),
    "bf16": _mma_kernel(ptx.mma_m16n8k16_bf16, "test_mma_bf16", F32P, 4, 2),
}


def bf16(x: np.ndarray) -> np.ndarray:
    """bfloat16 bits of values that fit exactly."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    assert (bits & 0xFFFF == 0).all()
    return (bits >> 16).astype(np.uint16)


@pytest.mark.parametrize("kind", _F_KERNELS)
def test_mma_of_halves(ctx, kind):
    # Small integers: every product and sum is exact in float32, whatever the order.
    a = rng.integers(-100, 100, (16, 16)).astype(np.float32)
    b = rng.integers(-100, 100, (8, 16)).astype(np.float32)
    c = rng.integers(-100, 100, (16, 8)).astype(np.float32)
    pack = bf16 if kind == "bf16" else lambda x: x.astype(np.float16)
    ra, rb = fragments(pack(a), pack(b), 2)
    d = ctx.empty((32, 4))
    ctx.launch(_F_KERNELS[kind], 1, d, ctx.put(ra), ctx.put(rb), ctx.put(_fragment_c(c)))
    np.testing.assert_array_equal(matrix(np.asarray(d)), a @ b.T + c)


@kernel(I32P, I32P, threads=32, name="test_ldmatrix")
def _ldmatrix(out, x):
    held = cuda.shared.array(128, I32, alignment=16)
    t = cuda.threadIdx.x
    a = ptx.shared_address(held)
    p = ptx.address(x)
    ptx.cp_async16(a + U32(16) * t, p + 16 * t)
    ptx.cp_async_commit()
    ptx.cp_async_wait0()
    cuda.syncthreads()
    o = t * U32(8)
    r0, r1, r2, r3 = ptx.ldmatrix_x4(a + U32(16) * t)
    out[o] = r0
    out[o + U32(1)] = r1
    out[o + U32(2)] = r2
    out[o + U32(3)] = r3
    r0, r1, r2, r3 = ptx.ldmatrix_x4_trans(a + U32(16) * t)
    out[o + U32(4)] = r0
    out[o + U32(5)] = r1
    out[o + U32(6)] = r2
    out[o + U32(7)] = r3


def test_ldmatrix(ctx):
    x = rng.integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16)
    out = ctx.empty((32, 8), np.int32)
    ctx.launch(_ldmatrix, 1, out, ctx.put(x))
    got = np.asarray(out).view(np.uint16).reshape(32, 2, 4, 2)
    for m in range(4):
        for i in range(2):
            np.testing.assert_array_equal(got[:, 0, m, i], x[m, G, 2 * T + i])
            np.testing.assert_array_equal(got[:, 1, m, i], x[m, 2 * T + i, G])


@kernel(I32P, I32P, U32, threads=32, name="test_async")
def _async(out, x, keep):
    """Two groups of copies; reads both after waiting for all but `keep`."""
    held = cuda.shared.array(256, I32, alignment=16)
    t = cuda.threadIdx.x
    a = ptx.shared_address(held) + U32(16) * t
    p = ptx.address(x) + 16 * t
    ptx.cp_async16(a, p)
    ptx.cp_async_commit()
    ptx.cp_async16_fill(a + U32(512), p + 512, 8)
    ptx.cp_async_commit()
    if keep == 0:
        ptx.cp_async_wait0()
    elif keep == 1:
        ptx.cp_async_wait1()
    else:
        ptx.cp_async_wait2()
    for i in range(4):
        out[t * U32(8) + U32(i)] = held[t * U32(4) + U32(i)]
        out[t * U32(8) + U32(4 + i)] = held[t * U32(4) + U32(128 + i)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_asynchronous_copies_arrive_at_the_wait(reverse, keep):
    ctx = Context(NatsimDevice(reverse))  # what is there before the wait, no GPU promises
    x = rng.integers(0, 1 << 30, (2, 32, 4)).astype(np.int32)
    out = ctx.empty((32, 2, 4), np.int32)
    ctx.launch(_async, 1, out, ctx.put(x), keep)
    expected = np.full((32, 2, 4), -1)
    if keep < 2:
        expected[:, 0] = x[0]
    if keep < 1:
        expected[:, 1] = x[1] * [1, 1, 0, 0]
    np.testing.assert_array_equal(np.asarray(out), expected)


@kernel(I32P, I32P, F32P, F32P, threads=32, name="test_memory")
def _memory(out, x, out_f, x_f):
    """Every width of load, through every kind of store; lane t moves its 16 words."""
    t = cuda.threadIdx.x
    p = ptx.address(x) + 64 * t
    o = ptx.address(out) + 64 * t
    a, b, c, d = ptx.ld_stream_v4(p)
    ptx.st_v4(o, a, b, c, d)
    a, b = ptx.ld_stream_v2(p + 16)
    ptx.st_v2(o + 16, a, b)
    a, b = ptx.ld_nc_v2(p + 24)
    ptx.st_b32(o + 24, a)
    ptx.st_b32(o + 28, b)
    a, b, c, d = ptx.ld_nc_v4(p + 32)
    ptx.st_v4(o + 32, a, b, c, d)
    ptx.st_u16(o + 48, ptx.ld_nc_u16(p + 48))
    ptx.st_u16(o + 50, ptx.ld_stream_u16(p + 50))
    ptx.st_b32(o + 52, I32(ptx.ld_nc_u8(p + 52) + U32(256) * ptx.ld_stream_u8(p + 53)))
    ptx.st_b32(o + 56, ptx.ld_nc_b32(p + 56))
    ptx.st_b32(o + 60, ptx.ld_stream_b32(p + 60))
    q = ptx.address(x_f) + 64 * t
    r = ptx.address(out_f) + 64 * t
    e, f, g, h = ptx.ld_nc_v4_f32(q)
    ptx.st_v4_f32(r, e, f, g, h)
    e, f = ptx.ld_nc_v2_f32(q + 16)
    ptx.st_v2_f32(r + 16, e, f)
    e, f = ptx.ld_v2_f32(q + 24)
    ptx.st_v2_f32(r + 24, e, f)
    e, f, g, h = ptx.ld_v4_f32(q + 32)
    ptx.st_v4_f32(r + 32, e, f, g, h)
    out_f[t * U32(16) + U32(12)] = ptx.ld_nc_f32(q + 48)
    a, b, c, d = ptx.ld_v4(q + 48)
    out_f[t * U32(16) + U32(13)] = ptx.bits_f32(b)
    a, b = ptx.ld_v2(q + 56)
    out_f[t * U32(16) + U32(14)] = ptx.bits_f32(a)
    out_f[t * U32(16) + U32(15)] = ptx.bits_f32(b)


def test_loads_and_stores(ctx):
    x = rng.integers(-(1 << 31), 1 << 31, (32, 16)).astype(np.int32)
    y = rng.standard_normal((32, 16)).astype(np.float32)
    out, out_f = ctx.empty((32, 16), np.int32), ctx.empty((32, 16))
    ctx.launch(_memory, 1, out, ctx.put(x), out_f, ctx.put(y))
    expected = x.copy()
    expected[:, 13] &= 0xFFFF
    np.testing.assert_array_equal(np.asarray(out), expected)
    np.testing.assert_array_equal(np.asarray(out_f), y)


@kernel(I32P, F32P, threads=32, name="test_shared_window")
def _window(out, out_f):
    held = cuda.shared.array(512, I32, alignment=16)
    t = cuda.threadIdx.x
    a = ptx.shared_address(held) + U32(64) * t
    i = I32(t)
    ptx.sts_v4(a, i, i + 1, i + 2, i + 3)
    ptx.sts_v2(a + U32(16), i + 4, i + 5)
    ptx.sts_b32(a + U32(24), i + 6)
    ptx.sts_u16(a + U32(28), i + 7)
    ptx.sts_u16(a + U32(30), 0)
    f = F32(t)
    ptx.sts_v4_f32(a + U32(32), f, f + F32(1.0), f + F32(2.0), f + F32(3.0))
    ptx.sts_f32(a + U32(48), f)
    ptx.sts_f32(a + U32(52), f)
    cuda.syncwarp()
    o = t * U32(8)
    b = ptx.shared_address(held) + U32(64) * (U32(31) - t)  # another lane's values
    c, d, e, g = ptx.lds_v4(b)
    out[o] = c
    out[o + U32(1)] = d
    out[o + U32(2)] = e
    out[o + U32(3)] = g
    c, d = ptx.lds_v2(b + U32(16))
    out[o + U32(4)] = c
    out[o + U32(5)] = d
    out[o + U32(6)] = ptx.lds_b32(b + U32(24))
    out[o + U32(7)] = ptx.lds_b32(b + U32(28))
    p, q, r, s = ptx.lds_v4_f32(b + U32(32))
    out_f[o] = p
    out_f[o + U32(1)] = q
    out_f[o + U32(2)] = r
    out_f[o + U32(3)] = s
    p, q = ptx.lds_v2_f32(b + U32(48))
    out_f[o + U32(4)] = p
    out_f[o + U32(5)] = q
    out_f[o + U32(6)] = ptx.lds_f32(b + U32(52))
    out_f[o + U32(7)] = F32(0.0)


def test_shared_loads_and_stores(ctx):
    out, out_f = ctx.empty((32, 8), np.int32), ctx.empty((32, 8))
    ctx.launch(_window, 1, out, out_f)
    lane = 31 - LANES
    np.testing.assert_array_equal(np.asarray(out), lane[:, None] + np.arange(8))
    expected = [lane, lane + 1, lane + 2, lane + 3, lane, lane, lane, 0 * lane]
    np.testing.assert_array_equal(np.asarray(out_f).T, expected)
