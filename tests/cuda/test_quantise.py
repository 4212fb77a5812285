"""Activations in the forms that products take, bit by bit where a rule says so."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops.cuda import sizes
from engine.ops.cuda.products import act
from tests.cuda.rows import same_bits
from tests.engine.ops.blocks import quantised_rows


def scratch_of(ctx, x, block):
    n, cols = x.shape
    made = act.quantised(ctx, ctx.put(x), block, sizes.padded(n))
    codes = np.asarray(made.codes)[:n].reshape(n, cols // block, block)
    return codes, np.ascontiguousarray(np.asarray(made.scales).T[:n])


@pytest.mark.parametrize(
    ("n", "cols", "block"),
    [(1, 32, 32), (3, 96, 32), (17, 2080, 32), (2, 256, 256), (5, 2304, 256), (65, 512, 256)],
)
def test_codes_and_scales(ctx, n, cols, block):
    rng = np.random.default_rng(cols)
    x = (rng.standard_normal((n, cols)) * np.exp2(rng.integers(-90, 90, (n, 1)))).astype(np.float32)
    x[0, : block // 2] = 0
    codes, scales = scratch_of(ctx, x, block)
    want_codes, want_scales = quantised_rows(x, block)
    np.testing.assert_array_equal(codes, want_codes)
    assert same_bits(scales, want_scales)


@pytest.mark.parametrize("block", [32, 256])
def test_edges_of_the_rule(ctx, block):
    """Ties go to even, blocks below 2^-120 are zeros, the smallest that is not stays."""
    x = np.zeros((4, block), np.float32)
    x[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]
    x[1, 3] = np.float32(2.0**-120) * np.float32(1 - 2.0**-24)
    x[2, 3] = 2.0**-120
    codes, scales = scratch_of(ctx, x, block)
    assert codes[0, 0, :6].tolist() == [127, 0, 2, 2, 0, -2]
    assert scales[0, 0] == 1
    assert not codes[1].any() and scales[1, 0] == 0
    assert codes[2, 0, 3] == 127 and scales[2, 0] == np.float32(2.0**-120) / np.float32(127)
    assert not codes[3].any() and scales[3, 0] == 0


@pytest.mark.parametrize("block", [32, 256])
def test_what_is_not_finite_becomes_the_scale(ctx, block):
    x = np.ones((3, 2 * block), np.float32)
    x[0, 5], x[1, 5], x[2, 5] = np.nan, np.inf, -np.inf
    _, scales = scratch_of(ctx, x, block)
    assert np.isnan(scales[0, 0]) and np.isposinf(scales[1, 0]) and np.isposinf(scales[2, 0])
    assert same_bits(scales[:, 1], np.full(3, np.float32(1) / np.float32(127)))


def test_rows_do_not_depend_on_others(ctx):
    x = np.random.default_rng(1).standard_normal((20, 512)).astype(np.float32)
    whole = scratch_of(ctx, x, 256)
    for first, stop in ((0, 1), (1, 6), (6, 20)):
        part = scratch_of(ctx, np.ascontiguousarray(x[first:stop]), 256)
        np.testing.assert_array_equal(part[0], whole[0][first:stop])
        assert same_bits(part[1], whole[1][first:stop])


def halves(parts):
    return np.asarray(parts).view(np.float16).astype(np.float64)


def wide(parts):
    return (np.asarray(parts).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@pytest.mark.parametrize(("n", "cols"), [(1, 32), (3, 96), (18, 1000)])
def test_two_halves(ctx, n, cols):
    """hi + lo / 2048, times a power of two: half a step of lo is 2^-22 of a value that is near
    its row's largest, and 2^-36 of the largest where hi has run out of exponents."""
    rng = np.random.default_rng(cols)
    x = rng.standard_normal((n, cols)) * np.exp2(rng.integers(-30, 1, (n, cols)))
    x = (x * np.exp2(rng.integers(-80, 80, (n, 1)))).astype(np.float32)
    made = act.split(ctx, ctx.put(x), "F16", sizes.padded(n))
    parts, scales = halves(made.parts)[:, :n], np.asarray(made.scales)[:n, None].astype(np.float64)
    assert np.array_equal(np.exp2(np.round(np.log2(scales))), scales)
    found = (parts[0] + parts[1] / 2048) * scales
    top = np.abs(x).max(1, keepdims=True).astype(np.float64)
    assert np.all(np.abs(found - x) <= np.maximum(np.abs(x) * 2.0**-22, top * 2.0**-36))


@pytest.mark.parametrize(("n", "cols"), [(1, 32), (18, 1000)])
def test_three_parts(ctx, n, cols):
    """8 bits each: 24 together, which is all of a float32."""
    rng = np.random.default_rng(cols)
    x = (rng.standard_normal((n, cols)) * np.exp2(rng.integers(-80, 80, (n, 1)))).astype(np.float32)
    made = act.split(ctx, ctx.put(x), "BF16", sizes.padded(n))
    found = wide(made.parts)[:, :n].sum(0)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(np.asarray(made.scales)[:n], 1)


def test_extreme_rows_of_halves(ctx):
    """Zeros, the smallest and the largest float32, and what is no number."""
    x = np.zeros((5, 64), np.float32)
    x[1, 7] = 2.0**-149
    x[2, 7] = np.finfo(np.float32).max
    x[3, 7], x[4, 7] = np.nan, np.inf
    made = act.split(ctx, ctx.put(x), "F16", 16)
    parts, scales = halves(made.parts)[:, :5], np.asarray(made.scales)[:5].astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = (parts[0] + parts[1] / 2048) * scales[:, None]
    np.testing.assert_array_equal(found[0], 0)
    # below float32's normal numbers a row is not brought up: half's smallest step is 2^-24
    assert found[1, 7] == 0
    np.testing.assert_allclose(found[2], x[2].astype(np.float64), rtol=2.0**-22)
    assert np.isnan(found[3:]).all()


def test_padding():
    assert [sizes.padded(n) for n in (1, 16, 17, 64, 65, 2048)] == [16, 16, 64, 64, 128, 2048]
