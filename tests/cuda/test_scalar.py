"""The device's scalar rules give the CPU set's bits, NaN and infinity included."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, uint32

from engine.ops import scalar as rules
from engine.ops.cuda.build import scalar
from engine.ops.cuda.build.kernel import F32P, U32, kernel
from engine.ops.cuda.rows import rounding
from engine.ops.reference import rounding as reference
from tests.cuda.rows import poisoned, relative, same_bits

THREADS = 256


def _map(name):
    rule = getattr(scalar, name)

    @kernel(F32P, F32P, U32, threads=THREADS, name=f"test_{name}")
    def apply(out, x, n):
        i = uint32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if i < n:
            out[i] = rule(x[i])

    return apply


KERNELS = {name: _map(name) for name in rules.RULES}


def _values(name, rng):
    """Every exponent and both signs; for `log` and `ceil_pow2` what they are defined for."""
    every = rng.integers(0, 1 << 32, 3000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    usual = rng.normal(0, 20, 2000).astype(np.float32)
    ties = np.arange(-600, 600, dtype=np.float32) / 8
    edges = [0.0, 1, 448, 6, 65504, 65519.9, 65520, 20, 88.9, 89.1, 103.9, 105, np.inf, np.nan]
    small = [2.0**-6, 2.0**-9, 2.0**-10, 2.0**-14, 2.0**-24, 2.0**-25, 1e-45, 2.0**126, 3e38]
    edges = np.array([*edges, *small], np.float32)
    values = np.concatenate([every, usual, ties, edges, -edges])
    if name in ("log", "ceil_pow2"):
        values = np.abs(values)
        values = values[~(values < 2.0**-126)]
        if name == "ceil_pow2":
            values = values[~(values > 2.0**126) | (values == np.inf)]
    return values


@pytest.mark.parametrize("name", rules.RULES)
def test_rules_have_the_bits_of_the_shared_source(ctx, name):
    x = _values(name, np.random.default_rng(1))
    rule = getattr(rules, name)
    with np.errstate(all="ignore"):
        expected = np.array([rule(v) for v in x], np.float32)
    out = poisoned(ctx, x.shape)
    ctx.launch(KERNELS[name], -(-len(x) // THREADS), out, ctx.put(x), len(x))
    found = np.asarray(out)
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.isnan(found), ~numbers)
    assert same_bits(found[numbers], expected[numbers])


ROW = 64


def _pairs(name):
    rule = getattr(rounding, name)

    @kernel(F32P, F32P, threads=32, name=f"test_{name}")
    def apply(out, x):
        at = uint32(cuda.blockIdx.x * ROW + cuda.threadIdx.x * 2)
        a, b = rule(x[at], x[at + 1])
        out[at] = a
        out[at + 1] = b

    return apply


@kernel(F32P, F32P, threads=32)
def turned_64(out, x):
    lane = uint32(cuda.threadIdx.x)
    at = uint32(cuda.blockIdx.x * ROW + cuda.threadIdx.x * 2)
    a, b = rounding.hadamard_64(x[at], x[at + 1], lane)
    out[at] = a
    out[at + 1] = b


FP8, FP4 = _pairs("fp8_pair"), _pairs("fp4_pair")


def _blocks(rng):
    """Blocks of every scale, with exact ties, zeros and values below the floors."""
    x = rng.normal(0, 1, (40, ROW)) * 10.0 ** rng.integers(-6, 4, (40, 1))
    x[0] = 0
    x[1] = 1e-30
    x[2] = np.arange(ROW) / 4
    x[3] = 448 * np.linspace(-1, 1, ROW)
    x[4, ::2] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [(FP8, reference.fp8_round_trip), (FP4, reference.fp4_round_trip)],
    ids=["fp8", "fp4"],
)
def test_block_round_trips_are_exact(ctx, apply, expected):
    x = _blocks(np.random.default_rng(2))
    out = poisoned(ctx, x.shape)
    ctx.launch(apply, len(x), out, ctx.put(x))
    assert np.array_equal(np.asarray(out), expected(x.astype(np.float64)))


def test_hadamard_turns_a_row_of_a_warp(ctx):
    x = np.random.default_rng(3).normal(0, 1, (5, ROW)).astype(np.float32)
    out = poisoned(ctx, x.shape)
    ctx.launch(turned_64, len(x), out, ctx.put(x))
    expected = reference.hadamard(x.astype(np.float64)) * 8
    # Six additions of values that grow: 6 roundings of at most half an ulp of the largest.
    assert relative(out, expected) < 6 * 2.0**-24 * 4
