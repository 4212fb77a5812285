"""Norms against the reference; a row's bits depend on nothing but the row."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import reference
from engine.ops.cuda import sizes
from engine.ops.cuda.products import act
from engine.ops.cuda.rows.norm import rms_norm
from tests.cuda.rows import poisoned, relative, same_bits

# A sum of d squares in float32: a thread's own run, then 10 levels of lanes and warps.
BOUND = 2e-6


@pytest.mark.parametrize("d", [1, 3, 64, 130, 512, 1023, 1024, 2050, 4096])
@pytest.mark.parametrize("weighted", [True, False])
def test_norm_follows_the_reference(ctx, d, weighted):
    rng = np.random.default_rng(d)
    x = (rng.normal(0, 1, (3, d)) * [[1e-3], [1], [1e4]]).astype(np.float32)
    weight = rng.normal(1, 0.5, d).astype(np.float32) if weighted else None
    expected = np.empty((3, d))
    reference.rms_norm(expected, x, weight, 1e-6)
    out = poisoned(ctx, x.shape)
    rms_norm(ctx, out, ctx.put(x), None if weight is None else ctx.put(weight), 1e-6)
    assert relative(out, expected) < BOUND


def test_long_rows(ctx):
    x = np.random.default_rng(1).normal(0, 1, (2, 16384)).astype(np.float32)
    expected = np.empty(x.shape)
    reference.rms_norm(expected, x, None, 1e-6)
    out = ctx.put(x)
    rms_norm(ctx, out, out, None, 1e-6)
    assert relative(out, expected) < BOUND


@pytest.mark.parametrize("d", [130, 512, 4096])
def test_rows_do_not_see_each_other(ctx, d):
    x = np.random.default_rng(2).normal(0, 1, (17, d)).astype(np.float32)
    weight = ctx.put(np.linspace(-1, 2, d, dtype=np.float32))
    rows = ctx.put(x)
    whole = poisoned(ctx, x.shape)
    rms_norm(ctx, whole, rows, weight, 1e-6)
    parts = poisoned(ctx, x.shape)
    for first, stop in ((0, 1), (1, 6), (6, 17)):
        rms_norm(ctx, parts[first:stop], rows[first:stop], weight, 1e-6)
    assert same_bits(whole, parts)


def test_not_a_number_stays_in_its_row(ctx):
    x = np.ones((3, 96), np.float32)
    x[1, 5] = np.nan
    out = poisoned(ctx, x.shape)
    rms_norm(ctx, out, ctx.put(x), None, 1e-6)
    found = np.asarray(out)
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize("d", [64, 512, 4096])
def test_forms_leave_the_row_as_it_is(ctx, d):
    x = np.random.default_rng(d).normal(0, 1, (3, d)).astype(np.float32)
    weight, rows = ctx.put(np.linspace(-1, 2, d, dtype=np.float32)), ctx.put(x)
    plain, out = poisoned(ctx, x.shape), poisoned(ctx, x.shape)
    rms_norm(ctx, plain, rows, weight, 1e-6)
    rms_norm(ctx, out, rows, weight, 1e-6, ("Q8_0", "Q2_K", "F16"))
    assert same_bits(out, plain)
    n_pad = sizes.padded(3)
    for block in (32, 256)[: 1 + (d % 256 == 0)]:
        kept, made = (act.quantised(ctx, a, block, n_pad) for a in (out, plain))
        assert kept.codes.address != made.codes.address
        assert np.array_equal(np.asarray(kept.codes)[:3], np.asarray(made.codes)[:3])
        assert same_bits(np.asarray(kept.scales)[:, :3], np.asarray(made.scales)[:, :3])
    assert ctx.companion(out, f"int8 32 {n_pad}") and ctx.companion(out, f"split F16 {n_pad}")
