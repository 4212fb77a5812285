"""Rotary turns against the reference, at positions that only the device knows."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import reference
from engine.ops.cuda.rows.rope import q_norm_rope, rope_tail
from tests.cuda.rows import angles, poisoned, relative, same_bits

POSITIONS = 64


def _at(ctx, pos):
    ctx.pos[...] = np.array([pos], np.int32)


@pytest.mark.parametrize(("heads", "d", "half"), [(1, 64, 32), (3, 70, 16), (64, 512, 32)])
@pytest.mark.parametrize("pos", [0, 37])
def test_query_heads(ctx, heads, d, half, pos):
    rng = np.random.default_rng(d)
    n = 3
    q = rng.normal(0, 3, (n, heads, d)).astype(np.float32)
    cos, sin = angles(rng, POSITIONS, half)
    expected = q.astype(np.float64)
    reference.q_norm_rope(expected, cos[pos : pos + n], sin[pos : pos + n], 1e-6)
    _at(ctx, pos)
    found = ctx.put(q)
    q_norm_rope(ctx, found, ctx.put(cos), ctx.put(sin), 1e-6)
    assert relative(found, expected) < 2e-6


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("heads", "d", "half"), [(2, 64, 32), (5, 130, 8)])
def test_tails(ctx, heads, d, half, inverse):
    rng = np.random.default_rng(d)
    n, pos = 5, 11
    x = rng.normal(0, 1, (n, heads, d)).astype(np.float32)
    cos, sin = angles(rng, POSITIONS, half)
    expected = x.astype(np.float64)
    reference.rope_tail(expected, cos[pos : pos + n], sin[pos : pos + n], inverse)
    _at(ctx, pos)
    found = ctx.put(x)
    rope_tail(ctx, found, ctx.put(cos), ctx.put(sin), inverse)
    assert relative(found, expected) < 3e-7
    assert same_bits(np.asarray(found)[..., : d - 2 * half], x[..., : d - 2 * half])


def test_rows_do_not_see_each_other(ctx):
    rng = np.random.default_rng(5)
    n, pos, half = 17, 20, 32
    x = rng.normal(0, 1, (n, 3, 192)).astype(np.float32)
    tables = [ctx.put(t) for t in angles(rng, POSITIONS, half)]
    _at(ctx, pos)
    whole = ctx.put(x)
    q_norm_rope(ctx, whole, *tables, 1e-6)
    rope_tail(ctx, whole, *tables, True)
    parts = poisoned(ctx, x.shape)
    for first, stop in ((0, 1), (1, 5), (5, 17)):
        part = parts[first:stop]
        part[...] = x[first:stop]
        _at(ctx, pos + first)
        q_norm_rope(ctx, part, *tables, 1e-6)
        rope_tail(ctx, part, *tables, True)
    assert same_bits(whole, parts)
