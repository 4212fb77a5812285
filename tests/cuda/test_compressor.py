"""Compressed rows against the reference, around the borders of windows and of rings."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import reference
from engine.ops.cuda.rows.compressor import compressor_pool, compressor_store
from engine.ops.operands import Windows
from tests.cuda.rows import angles, poisoned, relative, same_bits

RING_ROWS = {4: 32, 128: 256}


def _width(ratio, d):
    return 2 * d if ratio == 4 else d


def _call(ctx, rings, kv, score, ape, pos, ratio, d):
    """Pooled rows of one call; rows of windows that do not end in it stay poisoned."""
    ctx.pos[...] = np.array([pos], np.int32)
    pooled = poisoned(ctx, ((len(kv) + ratio - 1) // ratio, d))
    compressor_pool(ctx, pooled, *rings, kv, score, ape, ctx.pos, ratio)
    emitted = (pos + len(kv)) // ratio - pos // ratio
    found = np.asarray(pooled)
    assert np.isnan(found[emitted:]).all()
    return found[:emitted]


@pytest.mark.parametrize("ratio", [4, 128])
@pytest.mark.parametrize("d", [32, 70])
def test_calls_of_every_size_follow_the_reference(ctx, ratio, d):
    rng = np.random.default_rng(ratio + d)
    width = _width(ratio, d)
    ape = rng.normal(0, 1, (ratio, width)).astype(np.float32)
    shape = (RING_ROWS[ratio], width)
    rings = [ctx.zeros(shape), ctx.zeros(shape)]
    expected_rings = [np.zeros(shape), np.zeros(shape)]
    pos = 0
    for n in (1, 2, 5, 17, 100, 3, 1, 128, 24, 25, 26, 40, 300, 1, 129, 131, 2):
        kv = rng.normal(0, 1, (n, width)).astype(np.float32)
        score = rng.normal(0, 4, (n, width)).astype(np.float32)
        emitted = (pos + n) // ratio - pos // ratio
        expected = np.empty((emitted, d))
        reference.compressor_pool(expected, *expected_rings, kv, score, ape, pos, ratio)
        found = _call(ctx, rings, ctx.put(kv), ctx.put(score), ctx.put(ape), pos, ratio, d)
        # Weights sum to one, so errors are relative to the largest candidate: exp within 1 ulp of
        # arguments up to about 40, whose own rounding is 2**-24 of that.
        assert np.abs(found - expected).max(initial=0) < 1e-5
        for ring, other in zip(rings, expected_rings, strict=True):
            assert np.abs(np.asarray(ring) - other).max() < 2e-6
        pos += n


@pytest.mark.parametrize("ratio", [4, 128])
def test_any_chunking_gives_the_same_bits(ctx, ratio):
    rng = np.random.default_rng(ratio)
    d, n = 40, 400
    width = _width(ratio, d)
    kv, score = (ctx.put(rng.normal(0, 2, (n, width)).astype(np.float32)) for _ in range(2))
    ape = ctx.put(rng.normal(0, 1, (ratio, width)).astype(np.float32))
    shape = (RING_ROWS[ratio], width)
    results = []
    for sizes in ((400,), (1,) * 30 + (17, 16, 25, 26, 200, 86), (127, 2, 130, 141)):
        assert sum(sizes) == n
        rings = [ctx.zeros(shape), ctx.zeros(shape)]
        pooled, pos = [], 0
        for size in sizes:
            part = slice(pos, pos + size)
            pooled.append(_call(ctx, rings, kv[part], score[part], ape, pos, ratio, d))
            pos += size
        results.append([np.concatenate(pooled), *rings])
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            assert same_bits(x, y)


def test_taking_back_tokens_needs_no_copy(ctx):
    """Rows written past a position that the session returns to are written again."""
    rng = np.random.default_rng(6)
    ratio, d = 4, 32
    kv, score = (ctx.put(rng.normal(0, 2, (40, 64)).astype(np.float32)) for _ in range(2))
    wrong = ctx.put(rng.normal(0, 9, (16, 64)).astype(np.float32))
    ape = ctx.put(np.zeros((ratio, 64), np.float32))
    outputs = []
    for rejected in (0, 16):
        rings = [ctx.zeros((32, 64)), ctx.zeros((32, 64))]
        _call(ctx, rings, kv[:21], score[:21], ape, 0, ratio, d)
        if rejected:
            _call(ctx, rings, wrong, wrong, ape, 21, ratio, d)
        outputs.append(_call(ctx, rings, kv[21:40], score[21:40], ape, 21, ratio, d))
    assert same_bits(*outputs)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("pos", "n", "ratio"), [(0, 4, 4), (3, 1, 4), (5, 2, 4), (126, 300, 128)])
def test_windows_go_to_their_own_rows(ctx, pos, n, ratio, official):
    rng = np.random.default_rng(n)
    d, half, cap = 192, 32, 40
    cos, sin = angles(rng, 700, half)
    weight = rng.normal(1, 0.2, d).astype(np.float32)
    n_max = (n + ratio - 1) // ratio
    pooled = rng.normal(0, 1, (n_max, d)).astype(np.float32)
    first, emitted = pos // ratio, (pos + n) // ratio - pos // ratio
    starts = (first + np.arange(emitted)) * ratio
    expected = np.zeros((cap, d))
    reference.compressor_store(
        expected, first, pooled[:emitted], weight, cos[starts], sin[starts], 1e-6, official
    )
    rows = ctx.zeros((cap, d), np.float16 if official else np.float32)
    ctx.pos[...] = np.array([pos], np.int32)
    pooled, weight, cos, sin = map(ctx.put, (pooled, weight, cos, sin))
    windows = Windows(ratio, n, n_max, cos, sin)
    compressor_store(ctx, rows, pooled, weight, windows, ctx.pos, 1e-6, official)
    found = np.asarray(rows).astype(np.float64)
    if official:  # see test_kv: values beside a tie may be one step away
        assert (found != expected).mean() < 1e-3
        assert np.abs(found - expected).max() <= 2.0**-3 * np.abs(expected).max()
    else:
        assert relative(found, expected) < 2e-6
