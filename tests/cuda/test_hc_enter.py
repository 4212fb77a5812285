"""A sublayer's entry in two launches: the reference's values, the single ops' and `act`'s bits."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import reference
from engine.ops.cuda import sizes
from engine.ops.cuda.hyper.hc import hc_expand
from engine.ops.cuda.hyper.hc_enter import can_enter, hc_enter, hc_head
from engine.ops.cuda.products import act, pack
from engine.ops.cuda.rows.norm import rms_norm
from tests.cuda.rows import poisoned, relative, same_bits
from tests.cuda.test_matmul import Mapped
from tests.engine.ops.blocks import dequantised, random_tensor

EPS = 1e-6
N_ITER = 20


class Case:
    """One sublayer's parameters and n rows of streams, host arrays and device arrays."""

    def __init__(self, ctx, n, n_hc, d, fmt="F16", raw=False, head=False, seed=1):
        rng = np.random.default_rng(seed)
        f = np.float32
        self.ctx, self.n, self.n_hc, self.d = ctx, n, n_hc, d
        rows = n_hc if head else n_hc * (2 + n_hc)
        tensor = random_tensor(fmt, rng, rows, n_hc * d)
        self.mapped = Mapped(ctx) if raw else None
        self.fn = pack.prepare(ctx, tensor, place=self.mapped)
        # Logits of some units: the flattened streams have length sqrt(n_hc * d).
        self.scale = (rng.uniform(0.5, 1.5, 1 if head else 3) / np.sqrt(n_hc * d)).astype(f)
        self.base = rng.normal(0, 1, rows).astype(f)
        self.norm = rng.normal(1, 0.2, d).astype(f)
        size = 10.0 ** rng.integers(-2, 3, (n, 1, 1))
        self.state = (rng.normal(0, 1, (n, n_hc, d)) * size).astype(f)
        self.y = rng.normal(0, 1, (n, d)).astype(f)
        self.post = rng.uniform(0, 2, (n, n_hc)).astype(f)
        self.comb = rng.uniform(0, 1, (n, n_hc, n_hc)).astype(f)
        self.weights = dequantised(tensor).astype(np.float64)
        self.params = [ctx.put(v) for v in (self.scale, self.base, self.norm)]

    def expected(self, state):
        """(a, post, comb) of float64 streams; without post and comb for the head."""
        n, n_hc, d = state.shape
        flat = np.empty((n, n_hc * d))
        reference.rms_norm(flat, state.reshape(n, -1), None, EPS)
        mix = flat @ self.weights.T
        x, a = np.empty((n, d)), np.empty((n, d))
        if len(self.scale) == 1:
            reference.hc_collapse(x, mix, state, self.scale, self.base, EPS)
            outs = []
        else:
            outs = [np.empty((n, n_hc)), np.empty((n, n_hc, n_hc))]
            reference.hc_split(x, *outs, mix, state, self.scale, self.base, N_ITER, EPS)
        reference.rms_norm(a, x, self.norm, EPS)
        return [a, *outs]

    def run(self, rows=slice(None), spread=False, formats=()):
        """(a, post, comb, state) on the device."""
        ctx = self.ctx
        state = ctx.put(np.ascontiguousarray(self.state[rows]))
        n, _, d = state.shape
        a = poisoned(ctx, (n, d))
        post = ctx.put(np.ascontiguousarray(self.post[rows]))
        comb = ctx.put(np.ascontiguousarray(self.comb[rows]))
        before = (ctx.put(np.ascontiguousarray(self.y[rows])), post, comb) if spread else None
        if len(self.scale) == 1:
            hc_head(ctx, a, state, self.fn, *self.params, EPS, EPS, formats, before)
        else:
            outs = (a, post, comb, state)
            hc_enter(ctx, *outs, self.fn, *self.params, N_ITER, EPS, EPS, formats, before)
        return a, post, comb, state


# Logits are float32 sums of n_hc * d terms, added up by lanes and blocks: rounding errors walk to
# some 2^-24 of a few units. A normed row divides by its own size, which may be a few times less
# than its terms. Up to 4e-7 was seen.
BOUND = 2e-6


def _close(found, expected):
    assert relative(found[0], expected[0]) < BOUND
    for x, y in zip(found[1:3], expected[1:], strict=False):
        assert np.abs(np.asarray(x) - y).max() < BOUND


@pytest.mark.parametrize("n_hc", [1, 2, 3, 4])
@pytest.mark.parametrize("d", [32, 96, 320])
def test_entry_follows_the_reference(ctx, n_hc, d):
    case = Case(ctx, 3, n_hc, d)
    _close(case.run(), case.expected(case.state.astype(np.float64)))


@pytest.mark.parametrize(("fmt", "raw"), [("F16", False), ("F16", True), ("F32", False)])
@pytest.mark.parametrize("head", [False, True])
def test_entry_and_head_of_every_kind_of_matrix(ctx, fmt, raw, head):
    case = Case(ctx, 2, 4, 128, fmt, raw, head)
    _close(case.run(), case.expected(case.state.astype(np.float64)))


def test_a_matrix_in_place_gives_the_same_bits(ctx):
    for x, y in zip(Case(ctx, 2, 4, 96).run(), Case(ctx, 2, 4, 96, raw=True).run(), strict=True):
        assert same_bits(x, y)


def test_full_width(ctx):
    case = Case(ctx, 2, 4, 4096)
    _close(case.run(), case.expected(case.state.astype(np.float64)))


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("n_hc", [1, 3, 4])
def test_what_came_before_is_spread_first(ctx, n_hc, head):
    case = Case(ctx, 3, n_hc, 160, head=head)
    found = case.run(spread=True)
    state = ctx.put(case.state)
    hc_expand(ctx, state, *map(ctx.put, (case.y, case.post, case.comb)), state)
    assert same_bits(found[3], state)
    case.state = np.array(state)
    again = case.run()
    for x, y in zip(found[: 1 if head else 4], again, strict=False):
        assert same_bits(x, y)
    if head:  # post and comb are inputs only
        assert same_bits(found[1], case.post)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("d", [64, 2560])
def test_rows_do_not_see_each_other(ctx, spread, d):
    case = Case(ctx, 21, 4, d)
    whole = case.run(spread=spread, formats=("Q8_0",))
    cuts = (slice(0, 1), slice(1, 6), slice(6, 21))
    parts = [case.run(rows, spread) for rows in cuts]
    for k, found in enumerate(whole):
        assert same_bits(found, np.concatenate([np.asarray(p[k]) for p in parts]))


@pytest.mark.parametrize("d", [256, 512, 4096])
@pytest.mark.parametrize("n", [1, 2, 17])
def test_forms_have_the_bits_of_the_quantisers(ctx, d, n):
    if d == 4096 and n > 2:
        return
    case = Case(ctx, n, 4, d)
    if n > 1:
        case.state[1] = 0  # a row of zeros
    a, *_ = case.run(formats=("Q8_0", "IQ2_XXS", "F16"))
    n_pad = sizes.padded(n)
    made = [act.quantised(ctx, a, block, n_pad) for block in (32, 256)]
    parts = act.split(ctx, a, "F16", n_pad)
    copy = ctx.put(np.asarray(a))
    expected = [act.quantised(ctx, copy, block, n_pad) for block in (32, 256)]
    for x, y in zip(made, expected, strict=True):
        assert x.codes.address != y.codes.address
        assert np.array_equal(np.asarray(x.codes)[:n], np.asarray(y.codes)[:n])
        assert same_bits(np.asarray(x.scales)[:, :n], np.asarray(y.scales)[:, :n])
    other = act.split(ctx, copy, "F16", n_pad)
    assert np.array_equal(np.asarray(parts.parts)[:, :n], np.asarray(other.parts)[:, :n])
    assert same_bits(np.asarray(parts.scales)[:n], np.asarray(other.scales)[:n])


def test_forms_are_made_by_the_entry_and_dropped_when_the_row_changes(ctx):
    case = Case(ctx, 2, 4, 256)
    a, *_ = case.run(formats=("Q8_0",))
    kind = f"int8 32 {sizes.padded(2)}"
    assert ctx.companion(a, kind) is not None
    assert ctx.companion(a, f"int8 256 {sizes.padded(2)}") is None
    rms_norm(ctx, a, a, None, EPS)
    assert ctx.companion(a, kind) is None


def test_rows_that_are_not_finite_reach_every_form(ctx):
    case = Case(ctx, 2, 4, 256)
    case.state[0, 2, 7] = np.inf
    a, *_ = case.run(formats=("Q8_0", "Q4_K", "F16"))
    assert np.isnan(np.asarray(a)[0]).any() and np.isfinite(np.asarray(a)[1]).all()
    n_pad = sizes.padded(2)
    for found in (act.quantised(ctx, a, 256, n_pad).scales, act.split(ctx, a, "F16", n_pad).scales):
        scales = np.asarray(found).reshape(-1, n_pad)
        assert np.isnan(scales[:, 0]).all() and np.isfinite(scales[:, 1]).all()


def test_other_matrices_are_left_to_the_single_ops(ctx):
    rng = np.random.default_rng(1)
    assert not can_enter(pack.prepare(ctx, random_tensor("Q8_0", rng, 24, 256)), 64)
    assert not can_enter(pack.prepare(ctx, random_tensor("F16", rng, 24, 160)), 40)
    assert can_enter(pack.prepare(ctx, random_tensor("F16", rng, 24, 256)), 64)
