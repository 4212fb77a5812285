"""The indexer: stored rows, queries, scores and the choice of rows, ties included."""

import numpy as np
import pytest

from engine.errors import SnapshotError
from engine.ops import cpu, reference
from engine.ops.reference import rounding
from tests.engine.ops.support import angles, normal, poisoned, same_bits, threads


def _filled(rng, n_rows, official, dim=128):
    """The same rows in both sets (the reference takes over what the kernels stored)."""
    ours, theirs = (s.new_index_rows(n_rows + 3, dim, official) for s in (cpu, reference))
    cos, sin = angles(rng, n_rows, 64)
    pooled, weight = normal(rng, n_rows, dim), normal(rng, dim)
    cpu.indexer_store(ours, 0, pooled, weight, cos, sin, 1e-6, official)
    theirs.load(ours.export(n_rows))
    return ours, theirs


@pytest.mark.parametrize("official", [False, True])
def test_stored_rows(rng, official):
    n, dim = 45, 128
    pooled, weight = normal(rng, n, dim), normal(rng, dim)
    cos, sin = angles(rng, n, 64)
    ours, theirs = (s.new_index_rows(60, dim, official) for s in (cpu, reference))
    for rows, ops in ((ours, cpu), (theirs, reference)):
        ops.indexer_store(rows, 3, pooled, weight, cos, sin, 1e-6, official)

    actual, expected = ours.export(3 + n), theirs.export(3 + n)

    assert not actual[:3].any()
    if official:
        # float32 may fall on the other side of an FP4 boundary: rarely, and by one step.
        assert (actual != expected).mean() < 1e-3
        assert np.array_equal(rounding.fp4_round_trip(actual.astype(np.float64)), actual)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=3e-6)
    alone = cpu.new_index_rows(60, dim, official)
    for i in range(n):
        part = slice(i, i + 1)
        cpu.indexer_store(alone, 3 + i, pooled[part], weight, cos[part], sin[part], 1e-6, official)
    assert same_bits(alone.export(3 + n), actual)


@pytest.mark.parametrize("ops", [cpu, reference])
def test_zeros_stay_zero(rng, ops):
    rows, q = ops.new_index_rows(8, 128, True), np.zeros((1, 2, 128), np.float32)
    cos, sin = angles(rng, 1, 64)

    ops.indexer_store(rows, 2, q[0, :1], normal(rng, 128), cos, sin, 1e-6, True)
    ops.indexer_query(q, cos, sin, True)

    assert not rows.export(3).any()
    assert not q.any()


@pytest.mark.parametrize("official", [False, True])
def test_export_and_load(rng, official):
    rows, _ = _filled(rng, 37, official)
    values = rows.export(37)
    copy = cpu.new_index_rows(64, 128, official)

    copy.load(values)

    assert same_bits(copy.export(37), values)
    assert not copy.export(40)[37:].any()
    assert copy.n_bytes == 64 * (128 + 16 if official else 512)


def test_load_refuses_what_fp4_cannot_hold(rng):
    for ops in (cpu, reference):
        rows = ops.new_index_rows(16, 128, True)
        with pytest.raises(SnapshotError, match="expected FP4 values"):
            rows.load(normal(rng, 5, 128))


@pytest.mark.parametrize("official", [False, True])
def test_query(rng, official):
    q = normal(rng, 5, 6, 128)
    cos, sin = angles(rng, 5, 64)
    expected, actual = q.copy(), q.copy()
    reference.indexer_query(expected, cos, sin, official)

    cpu.indexer_query(actual, cos, sin, official)

    if official:
        assert (actual != expected).mean() < 1e-3
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)
    alone = q[4:].copy()
    cpu.indexer_query(alone, cos[4:].copy(), sin[4:].copy(), official)
    assert same_bits(alone[0], actual[4])


def _select(ops, n, top_k, q, head_w, rows, pos0, ratio=4):
    sel, n_sel, margin = np.full((n, top_k), -1, np.int32), np.full(n, -1, np.int32), poisoned(n)
    ops.indexer_select(sel, n_sel, q, head_w, rows, pos0, ratio, margin)
    return sel, n_sel, margin


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(
    ("n", "n_head", "n_rows", "top_k"), [(1, 16, 3000, 512), (11, 5, 700, 40), (3, 64, 90, 16)]
)
def test_selection_matches_reference(rng, official, n, n_head, n_rows, top_k):
    ours, theirs = _filled(rng, n_rows, official)
    q, head_w = normal(rng, n, n_head, 128), normal(rng, n, n_head)
    cpu.indexer_query(q, *angles(rng, n, 64), official)
    pos0 = n_rows * 4 - n
    expected = _select(reference, n, top_k, q, head_w, theirs, pos0)

    actual = _select(cpu, n, top_k, q, head_w, ours, pos0)

    assert np.array_equal(actual[1], expected[1])
    np.testing.assert_allclose(actual[2], expected[2], atol=1e-5)
    clear = expected[2] > 1e-5  # a smaller gap is below float32's error of a score
    assert clear.any()
    assert np.array_equal(actual[0][clear], expected[0][clear])
    for count in (1, 2):
        with threads(count):
            for i in range(n):
                part = slice(i, i + 1)
                alone = _select(cpu, 1, top_k, q[part], head_w[part], ours, pos0 + i)
                for a, b in zip(alone, actual):
                    assert same_bits(a[0], b[i])


def _given_scores(scores, sign=1.0):
    """Rows and a query whose scores are exactly these (one head, one live dim)."""
    rows = cpu.new_index_rows(len(scores), 32, False)
    values = np.zeros((len(scores), 32), np.float32)
    values[:, 0] = scores
    rows.load(values)
    q = np.zeros((1, 1, 32), np.float32)
    q[0, 0, 0] = 1
    # 1/sqrt(32 * 1) times this is +-1 up to one rounding, the same for every row.
    return rows, q, np.full((1, 1), sign * np.sqrt(32), np.float32)


@pytest.mark.parametrize("top_k", [1, 7, 64, 499])
@pytest.mark.parametrize("kind", ["distinct", "ties", "all equal", "mostly zero", "negative"])
def test_choice_is_numpys_stable_order(rng, top_k, kind):
    n = 500
    scores = {
        "distinct": rng.permutation(n).astype(np.float32) + 1,
        "ties": rng.integers(1, 9, n).astype(np.float32),
        "all equal": np.ones(n, np.float32),
        "mostly zero": np.where(rng.random(n) < 0.05, rng.random(n), -1).astype(np.float32),
        "negative": rng.integers(1, 200, n).astype(np.float32),
    }[kind]
    rows, q, head_w = _given_scores(scores, -1.0 if kind == "negative" else 1.0)

    sel, n_sel, margin = _select(cpu, 1, top_k, q, head_w, rows, 4 * n - 1)

    seen = -scores if kind == "negative" else np.maximum(scores, 0)
    order = np.argsort(-seen, kind="stable")
    assert n_sel[0] == top_k
    assert np.array_equal(sel[0], np.sort(order[:top_k]))
    gap = seen[order[top_k - 1]] - seen[order[top_k]]
    np.testing.assert_allclose(margin[0], gap, rtol=1e-4, atol=1e-6)
    assert (margin[0] == 0) == (gap == 0)


@pytest.mark.parametrize("pos0", [0, 2, 3, 61, 63, 64])
def test_everything_is_chosen_up_to_top_k(pos0):
    rows = cpu.new_index_rows(100, 128, True)
    for ops in (cpu, reference):
        sel, n_sel, margin = _select(ops, 1, 16, None, None, rows, min(pos0, 63))

        visible = (min(pos0, 63) + 1) // 4
        assert n_sel[0] == visible
        assert sel[0, :visible].tolist() == list(range(visible))
        assert margin[0] == np.inf


def test_selection_starts_in_the_middle_of_a_call(rng):
    ours, theirs = _filled(rng, 40, True)
    q, head_w = normal(rng, 12, 16, 128), normal(rng, 12, 16)
    cpu.indexer_query(q, *angles(rng, 12, 64), True)

    actual = _select(cpu, 12, 16, q, head_w, ours, 58)
    expected = _select(reference, 12, 16, q, head_w, theirs, 58)

    assert actual[1].tolist() == [14] + [15] * 4 + [16] * 7
    for i in range(12):
        kept = actual[1][i]
        assert np.array_equal(actual[0][i, :kept], expected[0][i, :kept])
    assert np.isinf(actual[2][:9]).all() and np.isfinite(actual[2][9:]).all()


def test_nan_never_leads_out_of_bounds(rng):
    for official in (False, True):
        rows = cpu.new_index_rows(100, 128, official)
        pooled = normal(rng, 100, 128)
        pooled[::3] = np.nan
        cos, sin = angles(rng, 100, 64)
        cpu.indexer_store(rows, 0, pooled, np.ones(128, np.float32), cos, sin, 1e-6, official)
        q, head_w = normal(rng, 2, 4, 128), normal(rng, 2, 4)
        q[1] = np.nan

        sel, n_sel, _ = _select(cpu, 2, 10, q, head_w, rows, 398)

        for i in range(2):
            assert n_sel[i] == 10
            assert np.array_equal(sel[i], np.unique(sel[i]))
            assert sel[i].min() >= 0 and sel[i].max() < (399 + i) // 4
