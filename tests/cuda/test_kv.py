"""Stored rows against the reference: rings that wrap, both storages, rounding as published."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import host, reference
from engine.ops.cuda.rows.kv import kv_store
from engine.ops.cuda.rows.rings import add_streams, ring_mean, ring_put
from tests.cuda.rows import angles, poisoned, relative, same_bits

POSITIONS = 800
EPS = 1e-6


def _case(seed, n, d, half):
    rng = np.random.default_rng(seed)
    kv = (rng.normal(0, 1, (n, d)) * 10.0 ** rng.integers(-3, 3, (n, 1))).astype(np.float32)
    weight = rng.normal(1, 0.3, d).astype(np.float32)
    return kv, weight, *angles(rng, POSITIONS, half)


def _store(ctx, ring, kv, weight, cos, sin, pos, official):
    ctx.pos[...] = np.array([pos], np.int32)
    kv_store(ctx, ring, kv, weight, cos, sin, ctx.pos, EPS, official)


def _expected(kv, weight, cos, sin, pos, cap, official):
    ring = np.zeros((cap, kv.shape[1]))
    at = slice(pos, pos + len(kv))
    reference.kv_store(ring, kv, weight, cos[at], sin[at], pos, EPS, official)
    return ring


@pytest.mark.parametrize("pos", [0, 1, 127, 700])
@pytest.mark.parametrize("n", [1, 2, 17])
def test_plain_rows(ctx, pos, n):
    cap, d, half = 130, 200, 20
    case = _case(n, n, d, half)
    ring = ctx.zeros((cap, d))
    _store(ctx, ring, *map(ctx.put, case), pos, False)
    assert relative(ring, _expected(*case, pos, cap, False)) < 2e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("d", "half"), [(192, 32), (512, 32), (320, 96)])
def test_official_rows(ctx, d, half, dtype):
    n, pos, cap = 17, 100, 109
    case = _case(d, n, d, half)
    ring = ctx.zeros((cap, d), dtype)
    _store(ctx, ring, *map(ctx.put, case), pos, True)
    found = np.asarray(ring).astype(np.float64)
    expected = _expected(*case, pos, cap, True)
    # A value that float32 puts on the other side of a tie comes out one step away: a step is at
    # most 2**-3 of the value for FP8 (of its block's largest where it is subnormal), 2**-10 for
    # float16. Such values must be rare; all others are equal.
    other = found != expected
    assert other.mean() < 2e-3
    top = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= 2.0**-3 * top)[other].all()
    tail = slice(d - 2 * half, d)
    step = 2.0**-10 * np.abs(expected[:, tail]) + 2.0**-24
    assert (np.abs(found - expected)[:, tail] <= step).all()


def test_both_storages_hold_the_same_values(ctx):
    case = _case(7, 33, 512, 32)
    rings = [ctx.zeros((64, 512), dtype) for dtype in (np.float32, np.float16)]
    for ring in rings:
        _store(ctx, ring, *map(ctx.put, case), 50, True)
    wide, narrow = map(np.asarray, rings)
    assert np.array_equal(wide, narrow.astype(np.float32))


def test_infinity_beyond_float16(ctx):
    kv, weight, cos, sin = _case(8, 1, 192, 32)
    weight = weight * np.float32(1e7)
    ring = ctx.zeros((2, 192), np.float16)
    _store(ctx, ring, *map(ctx.put, (kv, weight, cos, sin)), 0, True)
    with np.errstate(over="ignore"):
        expected = _expected(kv, weight, cos, sin, 0, 2, True)
    assert np.array_equal(np.isinf(np.asarray(ring)), np.isinf(expected))
    assert np.isinf(expected).any()


@pytest.mark.parametrize("official", [False, True])
def test_rows_do_not_see_each_other(ctx, official):
    n, pos, d = 17, 120, 256
    kv, *rest = map(ctx.put, _case(9, n, d, 32))
    whole, parts = ctx.zeros((128, d)), ctx.zeros((128, d))
    _store(ctx, whole, kv, *rest, pos, official)
    for first, stop in ((0, 1), (1, 6), (6, 17)):
        _store(ctx, parts, kv[first:stop], *rest, pos + first, official)
    assert same_bits(whole, parts)


@pytest.mark.parametrize(("n", "cap", "pos"), [(1, 1, 9), (5, 7, 4), (20, 7, 13), (3, 144, 143)])
def test_ring_of_states(ctx, n, cap, pos):
    rows = np.random.default_rng(n).normal(0, 1, (n, 4, 75)).astype(np.float32)
    skip = max(n - cap, 0)
    expected = np.zeros((cap, 4, 75), np.float32)
    host.ring_put(expected, rows, pos, skip)
    ring = ctx.zeros((cap, 4, 75))
    ctx.pos[...] = np.array([pos], np.int32)
    ring_put(ctx, ring, ctx.put(rows), ctx.pos, skip)
    assert same_bits(ring, expected)


@pytest.mark.parametrize(
    ("n", "cap", "pos", "n_hc"), [(1, 1, 9, 4), (5, 7, 4, 4), (6, 144, 141, 3), (3, 9, 0, 1)]
)
def test_mean_of_the_streams_of_a_ring(ctx, n, cap, pos, n_hc):
    """The streams in order, by position, whatever the number of rows: the processor's bits."""
    ring = np.random.default_rng(n).normal(0, 1, (cap, n_hc, 300)).astype(np.float32)
    expected = np.empty((n, 300), np.float32)
    host.ring_mean(expected, ring, pos)
    held, out = ctx.put(ring), poisoned(ctx, (n, 300))
    ctx.pos[...] = np.array([pos], np.int32)
    ring_mean(ctx, out, held, ctx.pos)
    assert same_bits(out, expected)
    last = poisoned(ctx, (1, 300))
    ctx.pos[...] = np.array([pos + n - 1], np.int32)
    ring_mean(ctx, last, held, ctx.pos)
    assert same_bits(last, expected[-1:])


def test_every_stream_gets_the_row(ctx):
    rng = np.random.default_rng(3)
    state = rng.normal(0, 1, (5, 3, 131)).astype(np.float32)
    y = rng.normal(0, 1, (5, 131)).astype(np.float32)
    found = ctx.put(state)
    add_streams(ctx, found, ctx.put(y))
    assert same_bits(found, state + y[:, None, :])


def test_a_row_of_one_call_may_replace_none_of_the_same_call(ctx):
    ring, kv = ctx.zeros((4, 192)), poisoned(ctx, (5, 192))
    with pytest.raises(AssertionError):
        kv_store(ctx, ring, kv, kv[0], kv, kv, ctx.pos, EPS, False)
