"""The choice of compressed rows against the reference: exact sets, ties, margins."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import reference
from engine.ops.cuda.attention import select
from engine.ops.cuda.attention.indexer import new_index_rows
from engine.ops.cuda.attention.select import indexer_select
from engine.ops.reference.rounding import fp4_round_trip
from tests.cuda.rows import poisoned, same_bits


class Case:
    """Rows and queries with small integer factors, so that every sum is exact in float32.

    Choices must then be the reference's to the last row, ties included, and there are many.
    """

    def __init__(self, ctx, n, heads, d, pos, ratio, top_k, official, spare=3, exact=True):
        rng = np.random.default_rng([n, heads, d, pos, top_k, official])
        self.ctx, self.pos, self.ratio, self.top_k = ctx, pos, ratio, top_k
        cap = (pos + n) // ratio + spare
        keys, q = rng.normal(0, 1, (cap, d)), rng.normal(0, 1, (n, heads, d))
        if official:
            keys, q = fp4_round_trip(keys), fp4_round_trip(q)
        elif exact:
            keys, q = np.rint(keys * 2), np.rint(q * 2)
        self.keys, self.q = keys.astype(np.float32), q.astype(np.float32)
        # Powers of two keep sums exact; so does the factor 1 / sqrt(dim * heads) where it is one.
        weights = 2.0 ** rng.integers(-1, 2, (n, heads)) * rng.choice([-1, 1, 1], (n, heads))
        self.weights = weights.astype(np.float32)
        self.rows = new_index_rows(ctx, cap, d, official)
        self.rows.load(self.keys)
        self.mirror = reference.new_index_rows(cap, d, official)
        self.mirror.rows[:] = self.keys

    def expected(self):
        n = len(self.q)
        sel, n_sel = np.full((n, self.top_k), -1, np.int32), np.empty(n, np.int32)
        margin = np.empty(n)
        reference.indexer_select(
            sel, n_sel, self.q, self.weights, self.mirror, self.pos, self.ratio, margin
        )
        return sel, n_sel, margin

    def found(self, first=0, stop=None, scored=True):
        ctx, part = self.ctx, slice(first, stop)
        ctx.pos[...] = np.array([self.pos + first], np.int32)
        q, weights = ctx.put(self.q[part]), ctx.put(self.weights[part])
        n = len(q)
        sel, n_sel = poisoned(ctx, (n, self.top_k), np.int32), poisoned(ctx, (n,), np.int32)
        margin = poisoned(ctx, (n,))
        if not scored:
            q = weights = None
        indexer_select(ctx, sel, n_sel, q, weights, self.rows, ctx.pos, self.ratio, margin)
        return tuple(map(np.asarray, (sel, n_sel, margin)))

    def check(self, **options):
        sel, n_sel, margin = self.found(**options)
        expected = self.expected()
        np.testing.assert_array_equal(n_sel, expected[1])
        for i, k in enumerate(n_sel):
            np.testing.assert_array_equal(sel[i, :k], expected[0][i, :k])
        np.testing.assert_allclose(margin, expected[2], rtol=1e-5, atol=1e-6)


KINDS = pytest.mark.parametrize(("official", "d"), [(True, 128), (True, 64), (False, 128),
                                                    (False, 64)])  # fmt: skip


@KINDS
@pytest.mark.parametrize(("heads", "top_k"), [(8, 8), (2, 24), (32, 64), (128, 16)])
@pytest.mark.parametrize(("n", "pos"), [(1, 700), (5, 90), (17, 300)])
def test_choices(ctx, n, pos, heads, top_k, official, d):
    """Fewer rows than top_k, as many, more; sums are exact, so nothing but the rule decides."""
    # dim * heads is a power of four: its square root is exact.
    heads = heads * d // 128
    Case(ctx, n, heads, d, pos, 4, top_k, official).check()


@KINDS
@pytest.mark.parametrize("heads", [3, 5, 24, 72])
def test_any_number_of_heads(ctx, heads, official, d):
    """Rounded scores: the choice is the reference's wherever its margin exceeds their error."""
    case = Case(ctx, 5, heads, d, 300, 4, 20, official, exact=False)
    case.weights[:] = np.random.default_rng(heads).normal(0.5, 1, case.weights.shape)
    sel, _, margin = case.found()
    expected = case.expected()
    np.testing.assert_allclose(margin, expected[2], rtol=0, atol=2e-5)
    clear = expected[2] > 2e-5
    assert clear.sum() > 2, expected[2]
    np.testing.assert_array_equal(sel[clear], expected[0][clear])


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("pos", [0, 1, 2, 3, 34, 35, 36, 40])
def test_about_top_k_visible_rows(ctx, pos, official):
    Case(ctx, 2, 4, 128, pos, 4, 9, official).check()


@pytest.mark.parametrize("pos", [0, 3, 250])
def test_without_scores_all_visible_rows(ctx, pos):
    Case(ctx, 5, 4, 128, pos, 4, 64, True).check(scored=False)


def test_a_margin_is_not_needed(ctx):
    case = Case(ctx, 2, 4, 128, 200, 4, 9, True)
    sel, n_sel = poisoned(ctx, (2, 9), np.int32), poisoned(ctx, (2,), np.int32)
    ctx.pos[...] = np.array([200], np.int32)
    q, weights = ctx.put(case.q), ctx.put(case.weights)
    indexer_select(ctx, sel, n_sel, q, weights, case.rows, ctx.pos, 4, None)
    np.testing.assert_array_equal(sel, case.expected()[0])


@pytest.mark.parametrize("official", [True, False])
def test_equal_scores_go_to_the_lower_rows(ctx, official):
    """All rows alike but two, which stand out on either side."""
    case = Case(ctx, 1, 4, 128, 800, 4, 16, official)
    case.keys[:] = case.keys[0]
    case.weights[:] = 1
    case.keys[150] = 0
    case.keys[170] = fp4_round_trip(case.q[0, 0] * 2.0)
    case.rows.load(case.keys)
    case.mirror.rows[:] = case.keys
    sel, _, margin = case.found()
    assert sel[0].tolist() == [*range(15), 170]
    assert margin[0] == 0
    case.check()


def test_more_rows_than_a_block_holds(ctx):
    """Beyond the keys that stay in registers; few heads, so that it stays quick."""
    Case(ctx, 1, 1, 64, 4 * 17000, 4, 512, False).check()


@pytest.mark.parametrize("official", [True, False])
def test_queries_do_not_see_each_other(ctx, official):
    """Scores too, whose order no integer decides: margins keep their bits."""
    case = Case(ctx, 17, 24, 128, 300, 4, 20, official, exact=False)
    case.weights[:] = np.random.default_rng(4).normal(0, 1, case.weights.shape)
    sel, n_sel, margin = case.found()
    for first, stop in ((0, 1), (1, 6), (6, 17), (16, 17)):
        parts = case.found(first, stop)
        assert np.array_equal(parts[0], sel[first:stop])
        assert np.array_equal(parts[1], n_sel[first:stop])
        assert same_bits(parts[2], margin[first:stop])


def test_scores_that_do_not_fit_at_once(ctx, monkeypatch):
    case = Case(ctx, 17, 4, 128, 300, 4, 20, True)
    whole = case.found()
    monkeypatch.setattr(select, "SCORE_BYTES", 3 * 4 * len(case.keys))
    for x, y in zip(case.found(), whole):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("official", [True, False])
def test_nan_is_chosen_last(ctx, official):
    case = Case(ctx, 1, 4, 128, 400, 4, 90, official)
    case.weights[:] = 1
    case.keys[5:25] = np.nan
    case.rows.load(case.keys)
    sel, n_sel, margin = case.found()
    # 100 rows are visible and 20 of them are NaN: the lower ten of these are kept.
    assert n_sel[0] == 90
    assert sel[0].tolist() == [*range(15), *range(25, 100)]
    assert np.isnan(margin[0])


@pytest.mark.parametrize("pos", [3000, 4 * 16384 + 3, 4 * 40000 + 1])
def test_several_blocks_choose_what_one_does(ctx, pos, monkeypatch):
    """Made-up scores with ties across the pieces, infinities and NaN: rows, order, margin."""
    n, top_k, cap = 2, 700, 40005
    rng = np.random.default_rng(pos)
    scores = rng.integers(-300, 300, (n, cap)).astype(np.float32)
    scores[:, 7::501] = np.nan
    scores[0, [3, 16383, 16384, 39999]] = np.inf
    held = ctx.put(scores)
    ctx.pos[...] = np.array([pos], np.int32)

    def chosen():
        out = (
            poisoned(ctx, (n, top_k), np.int32),
            poisoned(ctx, (n,), np.int32),
            poisoned(ctx, (n,)),
        )
        select._choose(ctx, out, held, ctx.pos, (0, n, cap, 4, top_k), 1)
        return [np.asarray(each) for each in out]

    many = chosen()
    monkeypatch.setattr(select, "PIECE", cap)
    one = chosen()
    for found, expected in zip(many, one):
        np.testing.assert_array_equal(found, expected)
    for i in range(n):
        visible = (pos + i + 1) // 4
        order = np.argsort(
            np.where(np.isnan(scores[i, :visible]), np.inf, -scores[i, :visible]), kind="stable"
        )
        kept = [r for r in order if not np.isnan(scores[i, r])][:top_k]
        np.testing.assert_array_equal(many[0][i], np.sort(kept))


def test_rows_behind_the_horizon_are_not_launched_for(ctx):
    """A session with room for more: the same choice from fewer blocks and scores."""
    case = Case(ctx, 2, 4, 128, 400, 4, 20, True, spare=5000)
    whole = case.found()
    ctx.horizon = 512
    near = case.found()
    for found, expected in zip(near, whole):
        np.testing.assert_array_equal(found, expected)
