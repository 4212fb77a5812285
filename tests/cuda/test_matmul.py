"""Products of every format: right to rounding, one order of summation in every kernel.

Integer products of blocks are exact, so against the same quantised activations in float64 only
float32 roundings remain: a term's (3: its integer, its scale, its fused addition) and one per
segment. Float formats lose 2^-22 of each activation and round sums of K products.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from engine.ops.cuda.products import pack, products
from engine.quant.formats import NATIVE
from tests.cuda.rows import poisoned, relative, same_bits
from tests.engine.ops.blocks import (
    QUANTISED,
    dequantised,
    integer_parts,
    quantised_rows,
    random_tensor,
)

U = 2.0**-24
COUNTS = (1, 3, 8, 9, 16, 17, 70)
# Rounding errors of a float32 sum of K terms add up like a walk: sqrt(8704) * U = 6e-6 of one
# term, where the largest of a row's sums is above sqrt(K) terms. bfloat16's lowest part alone is
# 2^-16 = 1.5e-5 of a sum, float16's 2^-11: losing a part is seen.
FLOAT_BOUND = 3e-6


class Mapped:
    """A residency that leaves every tensor where it lies."""

    def __init__(self, ctx):
        self.ctx, self.kept = ctx, []

    def place(self, tensor):
        self.kept.append(self.ctx.put(np.ascontiguousarray(tensor.data).reshape(-1)))
        return SimpleNamespace(kind="mapped", address=self.kept[-1].address)


def both_layouts(ctx, tensor):
    """The mapped bytes, to be kept; the tiled weight and the raw one."""
    mapped = Mapped(ctx)
    return mapped, (pack.prepare(ctx, tensor), pack.prepare(ctx, tensor, place=mapped))


def product(ctx, x, w):
    out, rows = poisoned(ctx, (len(x), w.rows)), ctx.put(x)
    products.matmul(ctx, out, rows, w)
    ctx.forget()
    return np.asarray(out)


def integer_reference(x, t):
    """(x @ w.T in float64 on the quantised activations, bound of a float32 sum's error)."""
    block = t.format.block_len
    weights, minima, scale, low = integer_parts(t)
    codes, dx = quantised_rows(x, block)
    n_blocks = codes.shape[1]
    total, size = np.zeros((len(x), t.shape[0])), np.zeros((len(x), t.shape[0]))
    for b in range(n_blocks):
        part = slice(b * block, (b + 1) * block)
        factor = dx[:, None, b].astype(np.float64)
        term = codes[:, b] @ weights[:, part].T * scale[None, :, b] * factor
        total += term
        size += np.abs(term)
        if minima is not None:
            term = codes[:, b] @ minima[:, part].T * low[None, :, b] * factor
            total -= term
            size += np.abs(term)
    terms = n_blocks * (2 if minima is not None else 1)
    segments = -(-t.shape[1] // products.SEGMENT)
    return total, (terms + segments + 3) * U * size


def check(x, t, found):
    if t.format.name in QUANTISED:
        expected, bound = integer_reference(x, t)
        assert np.all(np.abs(found - expected) <= bound)
    else:
        expected = x.astype(np.float64) @ dequantised(t).astype(np.float64).T
        assert relative(found, expected) < FLOAT_BOUND


# The last shape is spread over blocks: kernels of their own, whose lines for a block are the same.
CASES = [(name, *shape) for name in NATIVE for shape in ((40, 1792), (100, 256))]
CASES += [(name, 17, 96) for name in ("Q8_0", "MXFP4", "F16", "BF16", "F32")]
CASES += [(name, 24, 8704) for name in ("Q8_0", "F16", "F32")]
CASES += [
    pytest.param(name, 24, 8704, marks=pytest.mark.slow)
    for name in ("Q4_K", "Q2_K", "IQ2_XXS", "MXFP4", "BF16")
]


@pytest.mark.parametrize(("name", "rows", "cols"), CASES)
def test_products(ctx, name, rows, cols):
    """Every kernel of a format: both layouts, all counts of rows, spread over blocks or not."""
    rng = np.random.default_rng(rows + cols)
    t = random_tensor(name, rng, rows, cols)
    x = (rng.standard_normal((max(COUNTS), cols)) * 3).astype(np.float32)
    mapped, layouts = both_layouts(ctx, t)
    whole = product(ctx, x, layouts[0])
    check(x, t, whole)
    for w in layouts:
        for n in COUNTS:
            assert same_bits(product(ctx, x[:n], w), whole[:n]), (w.tiled, n)
    assert len(mapped.kept) == 1


def test_a_row_s_bits_do_not_depend_on_its_place(ctx):
    rng = np.random.default_rng(3)
    for name in ("Q8_0", "Q2_K", "F16"):
        w = pack.prepare(ctx, random_tensor(name, rng, 48, 768))
        x = rng.standard_normal((19, 768)).astype(np.float32)
        whole = product(ctx, x, w)
        for first, stop in ((18, 19), (5, 12), (2, 18)):
            assert same_bits(product(ctx, x[first:stop], w), whole[first:stop])


@pytest.mark.parametrize("n", [1, 12, 33])
def test_several_weights_share_launches(ctx, n):
    """More jobs than a launch holds, formats and layouts mixed, rows that end within tiles."""
    rng = np.random.default_rng(n)
    x = ctx.put(rng.standard_normal((n, 512)).astype(np.float32))
    kinds = ["Q8_0"] * 5 + ["F16", "Q8_0", "Q8_0", "Q8_0", "F32", "F16"]
    tensors = [random_tensor(k, rng, rows, 512) for k, rows in zip(kinds, range(7, 99, 9))]
    ws = [pack.prepare(ctx, t) for t in tensors]
    mapped = Mapped(ctx)
    ws[2] = pack.prepare(ctx, tensors[2], place=mapped)
    outs = [poisoned(ctx, (n, w.rows)) for w in ws]
    products.matmul_multi(ctx, outs, x, ws)
    for out, w, t in zip(outs, ws, tensors):
        assert same_bits(out, product(ctx, np.asarray(x), w))
        check(np.asarray(x), t, np.asarray(out))


def test_several_long_weights_spread(ctx):
    rng = np.random.default_rng(4)
    x = ctx.put(rng.standard_normal((2, 8704)).astype(np.float32))
    tensors = [random_tensor("F16", rng, rows, 8704) for rows in (24, 3, 17)]
    ws = [pack.prepare(ctx, t) for t in tensors]
    outs = [poisoned(ctx, (2, w.rows)) for w in ws]
    products.matmul_multi(ctx, outs, x, ws)
    for out, t in zip(outs, tensors):
        check(np.asarray(x), t, np.asarray(out))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "F16", "BF16", "F32"])
@pytest.mark.parametrize("n", [1, 11, 21])
def test_grouped(ctx, name, n):
    """Group g of the activations meets its own rows; the same bits as a product per group."""
    rng = np.random.default_rng(n)
    groups, rows, cols = 3, 32, 512
    t = random_tensor(name, rng, groups * rows, cols)
    x = rng.standard_normal((n, groups, cols)).astype(np.float32)
    mapped, layouts = both_layouts(ctx, t)
    for w in layouts:
        out, rows_in = poisoned(ctx, (n, groups, rows)), ctx.put(x)
        products.matmul_grouped(ctx, out, rows_in, w)
        ctx.forget()
        for g in range(groups):
            raw = t.data.reshape(groups, rows, -1)[g]
            part = pack.prepare(ctx, type(t)("part", t.format, (rows, cols), raw))
            single = product(ctx, np.ascontiguousarray(x[:, g]), part)
            assert same_bits(np.asarray(out)[:, g], single), (w.tiled, g)
    assert len(mapped.kept) == 1


@pytest.mark.parametrize("name", NATIVE)
def test_values_that_are_no_numbers_stay_in_their_row(ctx, name):
    rng = np.random.default_rng(6)
    t = random_tensor(name, rng, 20, 512)
    x = rng.standard_normal((4, 512)).astype(np.float32)
    good = product(ctx, x, pack.prepare(ctx, t))
    x[1, 300] = np.nan
    x[2, 17] = np.inf
    mapped, layouts = both_layouts(ctx, t)
    for w in layouts:
        found = product(ctx, x, w)
        assert not np.isfinite(found[1:3]).any()
        assert same_bits(found[[0, 3]], good[[0, 3]])
    assert len(mapped.kept) == 1


@pytest.mark.parametrize("name", ["Q8_0", "F16", "BF16", "F32"])
def test_magnitudes(ctx, name):
    """Rows whose sizes lie far apart do not disturb each other; rows of zeros give zero."""
    rng = np.random.default_rng(7)
    t = random_tensor(name, rng, 16, 256)
    sizes = np.array([[1e-30], [1e-9], [1], [1e9], [1e30], [0]])
    x = (rng.standard_normal((6, 256)) * sizes).astype(np.float32)
    found = product(ctx, x, pack.prepare(ctx, t))
    check(x, t, found)
    assert not found[5].any()


def test_activations_are_quantised_once_and_again_when_they_change(ctx):
    rng = np.random.default_rng(8)
    w = pack.prepare(ctx, random_tensor("Q8_0", rng, 16, 256))
    x, out = ctx.put(rng.standard_normal((2, 256)).astype(np.float32)), ctx.empty((2, 16))
    with ctx.recording() as log:
        products.matmul(ctx, out, x, w)
        products.matmul(ctx, out, x, w)
    names = [entry.name for entry in log]
    assert names == ["quantise_32", "mm_q8_0_tiled_8", "mm_q8_0_tiled_8"]
    first = np.asarray(out)
    x[...] = np.asarray(x) * np.float32(2)
    products.matmul(ctx, out, x, w)
    assert same_bits(out, first * np.float32(2))
