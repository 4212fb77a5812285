"""The simulator itself: what it computes, and that it finds what it promises to find."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba import cuda

from engine.ops.cuda.build import ptx
from engine.ops.cuda.build.kernel import F32, F32P, I32, I32P, U32, kernel
from engine.ops.cuda.device.context import Context
from tests.cuda.natsim import NatsimDevice, SimulationError


@pytest.fixture(params=[False, True], ids=["forward", "reverse"])
def sim(request):
    """A context that is always simulated: for what a GPU leaves undefined."""
    return Context(NatsimDevice(request.param))


@kernel(F32P, F32P, U32, threads=64, name="test_sum")
def _sum(out, x, n):
    """Block sum through shuffles and shared memory."""
    part = cuda.shared.array(2, F32)
    t = cuda.threadIdx.x
    i = cuda.blockIdx.x * U32(64) + t
    value = F32(0.0)
    if i < n:
        value = x[i]
    for m in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(0xFFFFFFFF, value, m)
    if t & 31 == 0:
        part[t >> 5] = value
    cuda.syncthreads()
    if t == 0:
        out[cuda.blockIdx.x] = part[0] + part[1]


def test_sum(ctx):
    x = np.arange(150, dtype=np.float32)
    out = ctx.empty((3,))
    ctx.launch(_sum, 3, out, ctx.put(x), 150)
    expected = [x[i : i + 64].sum() for i in (0, 64, 128)]
    np.testing.assert_array_equal(np.asarray(out), expected)


@kernel(I32P, I32P, threads=64, name="test_votes")
def _votes(out, x):
    t = cuda.threadIdx.x
    bit = x[t] > 0
    o = t * U32(8)
    out[o] = cuda.ballot_sync(0xFFFFFFFF, bit)
    out[o + U32(1)] = cuda.any_sync(0xFFFFFFFF, bit)
    out[o + U32(2)] = cuda.all_sync(0xFFFFFFFF, bit)
    out[o + U32(3)] = cuda.syncthreads_count(I32(bit))
    out[o + U32(4)] = cuda.syncthreads_or(I32(bit))
    out[o + U32(5)] = cuda.syncthreads_and(I32(bit))
    out[o + U32(6)] = cuda.shfl_up_sync(0xFFFFFFFF, x[t], 3)
    out[o + U32(7)] = cuda.shfl_down_sync(0xFFFFFFFF, x[t], 5)


@pytest.mark.parametrize("chosen", [[], [3], [0, 31, 32, 63], list(range(32)), list(range(64))])
def test_votes_and_shifts(ctx, chosen):
    x = -np.arange(64, dtype=np.int32)
    x[chosen] = 1 + np.array(chosen, np.int32)
    out = ctx.empty((64, 8), np.int32)
    ctx.launch(_votes, 1, out, ctx.put(x))
    got = np.asarray(out)
    bit = x > 0
    for t in range(64):
        warp = slice(t & 32, (t & 32) + 32)
        ballot = sum(1 << i for i in range(32) if bit[warp][i])
        lane = t & 31
        expected = [
            np.array([ballot], np.uint32).view(np.int32)[0],
            bit[warp].any(),
            bit[warp].all(),
            bit.sum(),
            bit.any(),
            bit.all(),
            x[t - 3] if lane >= 3 else x[t],
            x[t + 5] if lane + 5 < 32 else x[t],
        ]
        np.testing.assert_array_equal(got[t], expected)


@kernel(F32P, F32P, threads=32, name="test_products")
def _products(out, x):
    t = cuda.threadIdx.x
    out[t] = x[t] * x[t] + x[0] * x[t]


def test_no_contraction(ctx):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(32).astype(np.float32)
    out = ctx.empty((32,))
    ctx.launch(_products, 1, out, ctx.put(x))
    np.testing.assert_array_equal(np.asarray(out), x * x + x[0] * x)


@kernel(F32P, F32P, threads=32, name="test_math")
def _math(out, x):
    t = cuda.threadIdx.x
    out[t] = math.exp(x[t])
    out[t + 32] = math.sqrt(x[t])
    out[t + 64] = math.log(x[t])
    out[t + 96] = math.floor(x[t])


def test_math(ctx):
    x = np.linspace(0.1, 9, 32, dtype=np.float32)
    out = ctx.empty((4, 32))
    ctx.launch(_math, 1, out, ctx.put(x))
    expected = [np.exp(x), np.sqrt(x), np.log(x), np.floor(x)]
    np.testing.assert_allclose(np.asarray(out), expected, rtol=3e-7)  # libm: 1 ulp


@kernel(I32P, U32, threads=64, name="test_dynamic", dynamic_smem=256)
def _dynamic(out, n):
    held = cuda.shared.array(0, I32)
    fixed = cuda.shared.array(32, I32)
    t = cuda.threadIdx.x
    held[t] = t
    if t < 32:
        fixed[t] = t
    cuda.syncthreads()
    out[t] = held[n - 1 - t] * 100 + fixed[t & 31]


def test_dynamic_shared_memory(ctx):
    out = ctx.empty((64,), np.int32)
    ctx.launch(_dynamic, 1, out, 64)
    t = np.arange(64)
    np.testing.assert_array_equal(np.asarray(out), (63 - t) * 100 + (t & 31))


# What the simulator must find.


@kernel(F32P, threads=64, name="test_divergent")
def _divergent(out):
    t = cuda.threadIdx.x
    if t < 32:
        cuda.syncthreads()
    out[t] = F32(1.0)


@kernel(F32P, threads=64, name="test_half_warp")
def _half_warp(out):
    t = cuda.threadIdx.x
    if t & 1 == 0:
        out[t] = cuda.shfl_xor_sync(0xFFFFFFFF, out[t], 2)


@kernel(F32P, threads=64, name="test_part_mask")
def _part_mask(out):
    t = cuda.threadIdx.x
    out[t] = cuda.shfl_xor_sync(0xFFFF, out[t], 2)


@kernel(F32P, threads=64, name="test_other_site")
def _other_site(out):
    t = cuda.threadIdx.x
    if t & 1 == 0:
        out[t] = cuda.shfl_xor_sync(0xFFFFFFFF, out[t], 2)
    else:
        cuda.syncwarp()


@kernel(F32P, threads=64, name="test_beyond")
def _beyond(out):
    out[cuda.threadIdx.x + 1] = F32(1.0)


@kernel(F32P, threads=64, name="test_before")
def _before(out):
    out[I32(cuda.threadIdx.x) - 1] = F32(1.0)


@kernel(I32P, threads=32, name="test_shared_beyond")
def _shared_beyond(out):
    a = cuda.shared.array(32, I32)
    b = cuda.shared.array(32, I32)
    t = cuda.threadIdx.x
    b[t] = t
    a[t + U32(1)] = t
    out[t] = a[t] + b[t]


@kernel(I32P, threads=32, name="test_unaligned")
def _unaligned(out):
    t = cuda.threadIdx.x
    a, b, c, d = ptx.ld_nc_v4(ptx.address(out) + 8 * t)
    out[t] = a + b + c + d


@kernel(I32P, threads=32, name="test_shared_unaligned")
def _shared_unaligned(out):
    held = cuda.shared.array(128, I32)  # asks for no more than 4 bytes' alignment
    t = cuda.threadIdx.x
    ptx.sts_v4(ptx.shared_address(held) + U32(16 * t), t, t, t, t)
    out[t] = held[t]


@kernel(I32P, threads=32, name="test_window_beyond")
def _window_beyond(out):
    held = cuda.shared.array(32, I32)
    t = cuda.threadIdx.x
    held[t] = t
    out[t] = ptx.lds_b32(ptx.shared_address(held) + U32(128) + t * U32(4))


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (_divergent, "threads that ended"),
        (_half_warp, "some elsewhere or ended"),
        (_part_mask, "full mask"),
        (_other_site, "different ones"),
        (_beyond, "bytes beside one of 256 bytes"),
        (_before, "bytes beside one of 256 bytes"),
        (_shared_beyond, "bytes between them"),
        (_unaligned, "multiple of its size"),
        (_shared_unaligned, "multiple of its size"),
        (_window_beyond, "one beyond"),
    ],
    ids=lambda v: v.name if hasattr(v, "name") else "",
)
def test_finds(sim, bad, found):
    out = sim.put(np.zeros(64, np.int32))
    with pytest.raises(SimulationError, match=found):
        sim.launch(bad, 1, out)


@kernel(F32P, F32P, threads=64, name="test_race")
def _race(out, x):
    held = cuda.shared.array(64, F32)
    t = cuda.threadIdx.x
    held[t] = x[t]
    out[t] = held[63 - t]


def test_reverse_order_shows_a_missing_barrier():
    outcomes = []
    for reverse in (False, True):
        ctx = Context(NatsimDevice(reverse))
        out = ctx.empty((64,))
        ctx.launch(_race, 1, out, ctx.put(np.arange(64, dtype=np.float32)))
        outcomes.append(np.asarray(out))
    assert not np.array_equal(*outcomes, equal_nan=True)


def test_memory_is_poisoned():
    ctx = Context(NatsimDevice())
    assert np.isnan(np.asarray(ctx.empty((5,)))).all()


@kernel(F32P, threads=64, name="test_uninitialised")
def _uninitialised(out):
    held = cuda.shared.array(64, F32)
    t = cuda.threadIdx.x
    if t != 5:
        held[t] = F32(1.0)
    cuda.syncthreads()
    out[t] = held[t]


def test_shared_memory_is_poisoned(sim):
    out = sim.empty((64,))
    sim.launch(_uninitialised, 2, out)  # the second block must not see the first one's values
    assert np.flatnonzero(np.isnan(np.asarray(out))).tolist() == [5]


def test_arguments_that_a_type_cannot_hold_are_refused(sim):
    with pytest.raises(SimulationError, match=r"argument 1: expected uint32, found -1"):
        sim.launch(_dynamic, 1, sim.empty((64,), np.int32), -1)
