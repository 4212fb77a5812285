"""Hyper-connections against the reference, for one to four streams."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import reference
from engine.ops.cuda.hyper.hc import hc_collapse, hc_expand, hc_split
from tests.cuda.rows import poisoned, relative, same_bits

EPS = 1e-6


def _case(seed, n, n_hc, d):
    rng = np.random.default_rng(seed)
    width = n_hc * (2 + n_hc)
    f = np.float32
    mix = rng.normal(0, 2, (n, width)).astype(f)
    state = (rng.normal(0, 1, (n, n_hc, d)) * 10.0 ** rng.integers(-2, 3, (n, 1, 1))).astype(f)
    return mix, state, rng.normal(0, 1, 3).astype(f), rng.normal(0, 1, width).astype(f)


def _split(ctx, case, n_iter):
    mix, state, scale, base = map(ctx.put, case)
    n, n_hc, d = state.shape
    outs = [poisoned(ctx, shape) for shape in ((n, d), (n, n_hc), (n, n_hc, n_hc))]
    hc_split(ctx, *outs, mix, state, scale, base, n_iter, EPS)
    return outs


@pytest.mark.parametrize("n_hc", [1, 2, 3, 4])
@pytest.mark.parametrize("n_iter", [1, 20])
def test_split_follows_the_reference(ctx, n_hc, n_iter):
    n, d = 3, 300
    case = _case(n_hc, n, n_hc, d)
    expected = [np.empty(s) for s in ((n, d), (n, n_hc), (n, n_hc, n_hc))]
    reference.hc_split(*expected, *case, n_iter, EPS)
    x, post, comb = _split(ctx, case, n_iter)
    # Weights are within a few ulp (exp and a division); a sum of four has that of its terms.
    top = (np.abs(case[1]).max(axis=(1, 2)) * n_hc)[:, None]
    assert (np.abs(np.asarray(x) - expected[0]) < 1e-6 * top).all()
    assert np.abs(np.asarray(post) - expected[1]).max() < 1e-6
    # Every round divides by sums of rounded values, 2 * n_iter of them.
    assert np.abs(np.asarray(comb) - expected[2]).max() < 3e-6


def test_large_logits_stay_finite(ctx):
    mix, state, scale, base = _case(1, 2, 4, 64)
    mix = mix * np.float32(100)
    case = mix, state, scale, base
    x, post, comb = _split(ctx, case, 20)
    expected = [np.empty(s) for s in ((2, 64), (2, 4), (2, 4, 4))]
    reference.hc_split(*expected, *case, 20, EPS)
    assert relative(x, expected[0]) < 1e-5
    assert np.abs(np.asarray(post) - expected[1]).max() < 1e-5
    # logits of some hundreds are rounded to 2**-16, which is the relative error of their exp
    assert np.abs(np.asarray(comb) - expected[2]).max() < 1e-3


@pytest.mark.parametrize("n_hc", [1, 2, 3, 4])
@pytest.mark.parametrize("in_place", [True, False])
def test_expand_follows_the_reference(ctx, n_hc, in_place):
    rng = np.random.default_rng(n_hc)
    n, d = 3, 333
    state = rng.normal(0, 1, (n, n_hc, d)).astype(np.float32)
    y = rng.normal(0, 1, (n, d)).astype(np.float32)
    post = rng.uniform(0, 2, (n, n_hc)).astype(np.float32)
    comb = rng.uniform(0, 1, (n, n_hc, n_hc)).astype(np.float32)
    expected = np.empty(state.shape)
    reference.hc_expand(expected, y, post, comb, state)
    old = ctx.put(state)
    out = old if in_place else poisoned(ctx, state.shape)
    hc_expand(ctx, out, ctx.put(y), ctx.put(post), ctx.put(comb), old)
    assert relative(out, expected) < 1e-6


@pytest.mark.parametrize("n_hc", [1, 3, 4])
def test_collapse_follows_the_reference(ctx, n_hc):
    mix, state, scale, base = _case(n_hc, 3, n_hc, 130)
    mix, base = np.ascontiguousarray(mix[:, :n_hc]), base[:n_hc]
    expected = np.empty((3, 130))
    reference.hc_collapse(expected, mix, state, scale, base, EPS)
    x = poisoned(ctx, expected.shape)
    hc_collapse(ctx, x, *map(ctx.put, (mix, state, scale, base)), EPS)
    assert (np.abs(np.asarray(x) - expected) < 1e-6 * n_hc * np.abs(state).max()).all()


def test_rows_do_not_see_each_other(ctx):
    case = _case(5, 17, 4, 260)
    whole = _split(ctx, case, 20)
    pieces = []
    for first, stop in ((0, 1), (1, 6), (6, 17)):
        mix, state, scale, base = case
        pieces.append(_split(ctx, (mix[first:stop], state[first:stop], scale, base), 20))
    for k, found in enumerate(whole):
        assert same_bits(found, np.concatenate([np.asarray(p[k]) for p in pieces]))
