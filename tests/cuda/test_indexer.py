"""The indexer's rows and queries against the reference; FP4 values in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import SnapshotError
from engine.ops import reference
from engine.ops.cuda.attention.indexer import indexer_query, indexer_store, new_index_rows
from engine.ops.operands import Windows
from engine.ops.reference.rope import turned
from engine.ops.reference.rounding import fp4_round_trip, hadamard
from tests.cuda.rows import angles, relative, same_bits

POSITIONS = 800
EPS = 1e-6
OFFICIAL = pytest.mark.parametrize(("official", "d"), [(True, 64), (True, 128), (True, 256),
                                                       (False, 128), (False, 96)])  # fmt: skip


def _at(ctx, pos):
    ctx.pos[...] = np.array([pos], np.int32)


def _check(found, expected, unrounded, official):
    """Equal up to rounding; a value at a tie may come out one FP4 step away, and few are."""
    if not official:
        assert relative(found, expected) < 2e-6
        return
    found = found.astype(np.float64)
    other = found != expected
    assert other.mean() < 5e-3, other.mean()
    # Steps are at most a third of the value, or of the block's scale: a sixth of its largest.
    blocks = np.abs(unrounded).reshape(*unrounded.shape[:-1], -1, 32).max(axis=-1)
    step = np.repeat(blocks, 32, axis=-1) * 0.67
    assert (np.abs(found - expected) <= step)[other].all()


@OFFICIAL
@pytest.mark.parametrize("ratio", [4, 128])
@pytest.mark.parametrize(("n", "pos"), [(1, 2), (1, 3), (5, 127), (17, 120), (130, 250)])
def test_rows_of_windows(ctx, n, pos, ratio, official, d):
    rng = np.random.default_rng([n, pos, ratio, d])
    half, cap = 16, POSITIONS // ratio + 1
    most = (n + ratio - 1) // ratio
    pooled = rng.normal(0, 2, (most, d)).astype(np.float32)
    weight = rng.normal(1, 0.3, d).astype(np.float32)
    cos, sin = angles(rng, POSITIONS, half)
    rows, expected = (
        new_index_rows(ctx, cap, d, official),
        reference.new_index_rows(cap, d, official),
    )
    _at(ctx, pos)
    windows = Windows(ratio, n, most, ctx.put(cos), ctx.put(sin))
    indexer_store(ctx, rows, ctx.put(pooled), ctx.put(weight), windows, ctx.pos, EPS, official)
    first, n_emit = pos // ratio, (pos + n) // ratio - pos // ratio
    at = np.arange(first, first + n_emit) * ratio
    reference.indexer_store(
        expected, first, pooled[:n_emit], weight, cos[at], sin[at], EPS, official
    )
    found = rows.export(cap)
    assert found.dtype == np.float32 and found.shape == (cap, d)
    written = slice(first, first + n_emit)
    if n_emit:
        unrounded = (
            expected.rows[written]
            if not official
            else _unrounded(pooled[:n_emit], weight, cos[at], sin[at])
        )
        _check(found[written], expected.rows[written], unrounded, official)
    found[written] = 0
    assert not found.any()


def _unrounded(pooled, weight, cos, sin):
    x = pooled.astype(np.float64)
    x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS) * weight
    return hadamard(turned(x, cos, sin))


@OFFICIAL
@pytest.mark.parametrize(("n", "heads"), [(1, 64), (3, 5), (17, 16)])
def test_queries(ctx, n, heads, official, d):
    rng = np.random.default_rng([n, heads, d])
    pos, half = 130, 16
    q = rng.normal(0, 2, (n, heads, d)).astype(np.float32)
    cos, sin = angles(rng, POSITIONS, half)
    expected = q.astype(np.float64)
    at = slice(pos, pos + n)
    reference.indexer_query(expected, cos[at], sin[at], official)
    _at(ctx, pos)
    found = ctx.put(q)
    indexer_query(ctx, found, ctx.put(cos), ctx.put(sin), official)
    unrounded = hadamard(turned(q, cos[at], sin[at])) if official else expected
    _check(np.asarray(found), expected, unrounded, official)
    narrow = ctx.companion(found, "bf16")
    assert (narrow is not None) == (official and d == 128)
    if narrow is not None:
        wide = (np.asarray(narrow).astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(wide, np.asarray(found))


def test_queries_do_not_see_each_other(ctx):
    rng = np.random.default_rng(1)
    q = rng.normal(0, 2, (17, 16, 128)).astype(np.float32)
    tables = [ctx.put(t) for t in angles(rng, POSITIONS, 32)]
    _at(ctx, 9)
    whole = ctx.put(q)
    indexer_query(ctx, whole, *tables, True)
    for first, stop in ((0, 1), (1, 6), (6, 17)):
        _at(ctx, 9 + first)
        part = ctx.put(q[first:stop])
        indexer_query(ctx, part, *tables, True)
        assert same_bits(part, np.asarray(whole)[first:stop])


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_rows_of_a_snapshot_come_back(ctx, scale):
    rng = np.random.default_rng(2)
    values = fp4_round_trip(rng.normal(0, scale, (9, 128))).astype(np.float32)
    values[3, 32:64] = np.nan
    values[4] = 0
    rows = new_index_rows(ctx, 12, 128, True)
    rows.load(values)
    assert np.array_equal(rows.export(9), values, equal_nan=True)
    assert rows.n_bytes == 12 * 128 * 2


def test_rows_that_are_no_fp4_values_are_refused(ctx):
    rows = new_index_rows(ctx, 4, 128, True)
    good = fp4_round_trip(np.random.default_rng(3).normal(0, 1, (2, 128))).astype(np.float32)
    for wrong in (np.float32(0.3), np.float32(np.nan), np.float32(np.inf)):
        bad = good.copy()
        bad[1, 5] = wrong
        with pytest.raises(SnapshotError, match="FP4 values"):
            rows.load(bad)
    assert not rows.export(4).any()


def test_plain_rows_of_a_snapshot_are_any_values(ctx):
    values = np.random.default_rng(4).normal(0, 1, (3, 96)).astype(np.float32)
    rows = new_index_rows(ctx, 5, 96, False)
    rows.load(values)
    assert same_bits(rows.export(3), values)
