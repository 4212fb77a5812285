"""Routing on the device: ids exactly, weights to rounding, ties, padding and row exactness."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops.cuda.rows import router
from engine.ops.reference import router as reference

# p comes from exp and log within 1 ulp each and a root; weights add a sum, a quotient, a product.
RTOL = 1e-6


def run(ctx, logits, bias, used, scale=1.5, margin=True):
    n = len(logits)
    ids, weights = ctx.empty((n, used), np.int32), ctx.empty((n, used))
    edge = ctx.empty((n,)) if margin else None
    router.router_select(
        ctx, ids, weights, ctx.put(logits), None if bias is None else ctx.put(bias), scale, edge
    )
    return np.asarray(ids), np.asarray(weights), np.asarray(edge) if margin else None


def expected(logits, bias, used, scale=1.5):
    n = len(logits)
    ids, weights = np.empty((n, used), np.int32), np.empty((n, used))
    edge = np.empty(n)
    reference.router_select(ids, weights, logits, bias, scale, edge)
    return ids, weights, edge


@pytest.mark.parametrize(
    ("n", "n_expert", "used"), [(1, 256, 6), (5, 256, 8), (3, 33, 2), (2, 8, 8), (4, 100, 1)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_select(ctx, n, n_expert, used, biased):
    rng = np.random.default_rng(n * n_expert + used)
    logits = (rng.standard_normal((n, n_expert)) * 4).astype(np.float32)
    bias = rng.standard_normal(n_expert).astype(np.float32) if biased else None
    ids, weights, edge = run(ctx, logits, bias, used)
    want_ids, want_weights, want_edge = expected(logits, bias, used)
    np.testing.assert_array_equal(ids, want_ids)
    np.testing.assert_allclose(weights, want_weights, rtol=RTOL)
    # a difference of two values of this size, each right to 1e-6 of itself
    np.testing.assert_allclose(edge, want_edge, rtol=RTOL, atol=8e-6)


def test_ties_go_to_the_lower_id(ctx):
    logits = np.zeros((2, 70), np.float32)
    logits[1, [69, 3, 40]] = 2
    ids, weights, edge = run(ctx, logits, None, 4)
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3], [3, 40, 69, 0]])
    np.testing.assert_array_equal(weights[0], np.float32(0.375))
    assert edge[0] == 0 and edge[1] == 0


def test_extremes(ctx):
    """Both branches of softplus, all of p zero, negative sums, and the weights' floor."""
    logits = np.array([[90, 25, -25, -90, 21, 19], [-200] * 6, [0, 1, 2, 3, 4, 5]], np.float32)
    bias = np.array([-20, -20, -1, -1, -20, 0], np.float32)
    for b in (None, bias):
        ids, weights, _ = run(ctx, logits, b, 3)
        want_ids, want_weights, _ = expected(logits, b, 3)
        np.testing.assert_array_equal(ids, want_ids)
        np.testing.assert_allclose(weights, want_weights, rtol=RTOL, atol=1e-30)


def test_values_that_are_no_numbers_keep_ids_valid(ctx):
    logits = np.full((3, 9), np.nan, np.float32)
    logits.view(np.uint32)[1] = 0xFFFFFFFF
    logits[2] = np.arange(9)
    logits[2, 4] = np.nan
    ids, weights, _ = run(ctx, logits, None, 4)
    assert all(len(set(row)) == 4 and min(row) >= 0 and max(row) < 9 for row in ids.tolist())
    assert np.isnan(weights).all()


def test_rows_do_not_depend_on_others(ctx):
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((17, 64)).astype(np.float32)
    whole = run(ctx, logits, None, 6)
    for i in (0, 9, 16):
        for a, b in zip(run(ctx, logits[i : i + 1], None, 6), whole, strict=True):
            np.testing.assert_array_equal(a[0], b[i])
    ids, weights, _ = run(ctx, logits, None, 6, margin=False)
    np.testing.assert_array_equal(ids, whole[0])
    np.testing.assert_array_equal(weights, whole[1])


def test_hash(ctx):
    rng = np.random.default_rng(3)
    n, n_expert, used, n_vocab = 5, 20, 6, 50
    logits = rng.standard_normal((n, n_expert)).astype(np.float32)
    table = rng.permuted(np.tile(np.arange(n_expert, dtype=np.int32), (n_vocab, 1)), axis=1)
    table = np.ascontiguousarray(table[:, :used])
    tokens = np.array([0, 49, 7, 7, 12], np.int32)
    ids, weights = ctx.empty((n, used), np.int32), ctx.empty((n, used))
    router.router_hash(ctx, ids, weights, ctx.put(logits), ctx.put(table), ctx.put(tokens), 2.5)
    want_ids, want = np.empty((n, used), np.int32), np.empty((n, used))
    reference.router_hash(want_ids, want, logits, table, tokens, 2.5)
    np.testing.assert_array_equal(np.asarray(ids), want_ids)
    np.testing.assert_allclose(np.asarray(weights), want, rtol=RTOL)
