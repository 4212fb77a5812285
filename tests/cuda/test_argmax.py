"""First maxima: ties, banned ids, values that are not finite, rows of every length."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import NonFiniteError
from engine.ops import host
from engine.ops.cuda.rows.argmax import argmax, argmax_rows, draft_report, first_maxima
from tests.cuda.rows import poisoned


@pytest.mark.parametrize("d", [1, 31, 257, 2048, 2049, 9001])
def test_first_of_equal_maxima(ctx, d):
    rng = np.random.default_rng(d)
    # few distinct values, so that maxima tie within lanes, warps and pieces
    logits = rng.integers(-5, 3, (6, d)).astype(np.float32)
    ids, finite = first_maxima(ctx, ctx.put(logits))
    assert np.array_equal(ids, logits.argmax(axis=1)) and finite.all()


def test_a_vocabulary(ctx):
    logits = np.random.default_rng(1).normal(0, 3, (2, 129280)).astype(np.float32)
    logits[1, 129279] = 40
    ids, _ = first_maxima(ctx, ctx.put(logits))
    assert ids.tolist() == [int(logits[0].argmax()), 129279]
    assert argmax(ctx, ctx.put(logits[0])) == ids[0]


def test_banned_ids_are_never_chosen(ctx):
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1, (3, 5000)).astype(np.float32)
    order = np.argsort(-logits, axis=1, kind="stable")
    banned = np.unique(order[:, :3])
    open_logits = logits.copy()
    open_logits[:, banned] = -np.inf
    ids, finite = first_maxima(ctx, ctx.put(logits), ctx.put(banned.astype(np.int32)))
    assert np.array_equal(ids, open_logits.argmax(axis=1)) and finite.all()
    assert not np.array_equal(ids, order[:, 0])


def test_the_lowest_value_wins_when_all_others_are_banned(ctx):
    logits = np.array([[3.0, -3.4e38, 5.0]], np.float32)
    ids, finite = first_maxima(ctx, ctx.put(logits), ctx.put(np.array([0, 2], np.int32)))
    assert ids.tolist() == [1] and finite.all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 700, 4999])
def test_rows_with_other_values_are_flagged(ctx, value, at):
    logits = np.zeros((3, 5000), np.float32)
    logits[1, at] = value
    _, finite = first_maxima(ctx, ctx.put(logits))
    assert finite.tolist() == [True, False, True]
    with pytest.raises(NonFiniteError, match=f"at token {at}"):
        argmax(ctx, ctx.put(logits[1]))


def test_an_id_is_one_of_the_vocabulary_whatever_the_row(ctx):
    """A row may be looked up by it before anybody judges the logits."""
    logits = np.full((2, 3000), np.nan, np.float32)
    logits[1] = np.inf
    ids, bad = (poisoned(ctx, (2,), np.int32) for _ in range(2))
    argmax_rows(ctx, ids, bad, ctx.put(logits))
    assert np.asarray(ids).tolist() == [0, 0] and np.asarray(bad).all()


def test_sets_agree_on_maxima_that_stay_where_they_are(ctx):
    logits = np.random.default_rng(4).integers(-3, 3, (4, 3000)).astype(np.float32)
    logits[2, 17] = np.nan
    banned = np.flatnonzero(logits[0] == 2).astype(np.int32)
    expected = np.empty((2, 4), np.int32)
    host.first_maxima(expected[0], expected[1], logits, banned)
    found = poisoned(ctx, (2, 4), np.int32)
    argmax_rows(ctx, found[0], found[1], ctx.put(logits), ctx.put(banned))
    found = np.asarray(found)
    good = expected[1] == 0
    np.testing.assert_array_equal(found[1] != 0, ~good)
    np.testing.assert_array_equal(found[0][good], expected[0][good])
    assert good.tolist() == [True, True, False, True]


@pytest.mark.parametrize(("d", "rank"), [(4096, 256), (256, 64), (31, 3)])
def test_a_report_has_confidences_and_ids(ctx, d, rank):
    rng = np.random.default_rng(d)
    k = 5
    hidden, rows = (rng.normal(0, 1, (k, n)).astype(np.float32) for n in (d, rank))
    weight = rng.normal(0, 1, d + rank).astype(np.float32)
    ids, bad = np.array([0, 129279, 7, 8, 2**24 - 1], np.int32), np.array([0, 0, 1, 0, 0], np.int32)
    expected = np.empty((k, 2))
    host.draft_report(expected, hidden, rows, weight, ids, bad)
    out = poisoned(ctx, (k, 2))
    draft_report(ctx, out, *(ctx.put(x) for x in (hidden, rows, weight, ids, bad)))
    found = np.asarray(out)
    np.testing.assert_array_equal(found[:, 1], expected[:, 1])
    assert np.isnan(found[2, 1])
    # A thread adds up to 17 products, then 256 threads: 25 roundings of at most their sum.
    sizes = (np.abs(np.concatenate([hidden, rows], axis=1)) * np.abs(weight)).sum(axis=1)
    assert (np.abs(found[:, 0] - expected[:, 0]) < 25 * 2.0**-24 * sizes).all()
    for i in range(k):
        part = poisoned(ctx, (1, 2))
        arrays = (x[i : i + 1] for x in (hidden, rows))
        rest = (weight, ids[i : i + 1], bad[i : i + 1])
        draft_report(ctx, part, *(ctx.put(x) for x in (*arrays, *rest)))
        np.testing.assert_array_equal(np.asarray(part)[0], found[i])
