"""First maxima: ties, banned ids, values that are not finite, rows of every length."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import NonFiniteError
from engine.ops.cuda.rows.argmax import argmax, first_maxima


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
