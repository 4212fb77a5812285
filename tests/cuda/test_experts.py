"""Experts on the device against float64 on what the integer products see, stage by stage."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from engine.ops.cuda.device.context import Context
from engine.ops.cuda.products import experts, moe_plan
from engine.ops.cuda.products.pack import prepare
from engine.quant.formats import BY_NAME
from tests.cuda.natsim import NatsimDevice
from tests.engine.ops.blocks import dequantised, quantised_rows, random_tensor

FORMATS = ("Q8_0", "MXFP4", "Q4_K", "Q2_K", "IQ2_XXS", "F16", "BF16", "F32")
RECIPES = [(f, f) for f in FORMATS] + [("IQ2_XXS", "Q2_K")]
LIMIT = 0.5
MIDDLE, PAIRS = "moe middle", "moe pairs"  # working memory that shows a stage's result


class Mapped:
    """A residency that leaves every tensor where it is."""

    def __init__(self, ctx):
        self.ctx, self.kept = ctx, []

    def place(self, tensor):
        self.kept.append(self.ctx.put(np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)))
        return SimpleNamespace(kind="mapped", address=self.kept[-1].address)


class Case:
    """Random experts of one recipe on a device, and what they are in float64."""

    def __init__(self, ctx, inner, outer, *, tiled=True, n_expert=5, used=3, seed=0):
        rng = np.random.default_rng(seed)
        # K of two segments and a part of one; rows that are no multiple of a tile where they can.
        whole = BY_NAME[inner].block_len == 256 or BY_NAME[outer].block_len == 256
        n_embd, n_ff = (1280, 256) if whole else (1120, 96)
        self.formats = inner, outer
        self.tensors = (
            random_tensor(inner, rng, n_expert, n_ff, n_embd),
            random_tensor(inner, rng, n_expert, n_ff, n_embd),
            random_tensor(outer, rng, n_expert, n_embd, n_ff),
        )
        self.place = None if tiled else Mapped(ctx)
        self.weights = [prepare(ctx, t, place=self.place) for t in self.tensors]
        self.ctx, self.used, self.n_expert = ctx, used, n_expert
        self.n_embd, self.n_ff = n_embd, n_ff

    def rows(self, n, seed=1, kind="mixed"):
        """x, ids, weights of n rows; some experts are used by nobody."""
        rng = np.random.default_rng(seed)
        x = (rng.standard_normal((n, self.n_embd)) * 0.1).astype(np.float32)
        live = self.used if kind == "same" else self.n_expert - 1
        ids = np.argsort(rng.random((n, live)), axis=1)[:, : self.used].astype(np.int32)
        weights = rng.random((n, self.used)).astype(np.float32)
        return x, np.ascontiguousarray(ids), weights

    def run(self, x, ids, weights, limit=LIMIT):
        """The result, and the middle rows and products of every pair."""
        ctx, m = self.ctx, ids.size
        out = ctx.empty(x.shape)
        experts.routed_moe(
            ctx, out, ctx.put(x), ctx.put(ids), ctx.put(weights), *self.weights, limit
        )
        middle = np.asarray(ctx.scratch(MIDDLE, (m, self.n_ff)))
        pairs = np.asarray(ctx.scratch(PAIRS, (m, self.n_embd)))
        return np.asarray(out), middle, pairs


def seen(x, name):
    """Rows as products with a format see them, float64."""
    block = BY_NAME[name].block_len
    if block == 1:
        return x.astype(np.float64)
    codes, scale = quantised_rows(x, block)
    return (codes * scale[:, :, None].astype(np.float64)).reshape(x.shape)


def product(w, x, name):
    """w @ x and a bound of the device's error.

    Integer sums are exact; each block's sum is scaled and added in float32, three roundings of at
    most the sum of magnitudes. Split rows of float formats lose 2^-22 of each value and their sums
    are rounded at every 16 values.
    """
    exact = w @ x
    size = np.abs(w) @ np.abs(x)
    steps = len(x) / BY_NAME[name].block_len if BY_NAME[name].block_len > 1 else len(x) / 16
    return exact, size * (steps + 8) * 2.0**-24


def silu(g):
    return g / (1 + np.exp(-g))


def check(case, x, ids, weights, limit=LIMIT):
    out, middle, pairs = case.run(x, ids, weights, limit)
    inner, outer = case.formats
    gate, up, down = (dequantised(t).astype(np.float64) for t in case.tensors)
    rows = seen(x, inner)
    again = seen(middle, outer)
    m = 0
    clamp = np.inf if limit <= 1e-6 else limit
    for i in range(len(x)):
        for k in range(case.used):
            e, weight = ids[i, k], np.float64(weights[i, k])
            g, g_error = product(gate[e], rows[i], inner)
            u, u_error = product(up[e], rows[i], inner)
            g, u = np.minimum(g, clamp), np.clip(u, -clamp, clamp)
            want = silu(g) * u * weight
            # silu's slope is at most 1.1; exp, quotient and two products round five times
            error = weight * (1.1 * np.abs(u) * g_error + np.abs(silu(g)) * u_error)
            error += np.abs(want) * 5 * 2.0**-23 + 1e-30
            assert (np.abs(middle[m] - want) <= error).all(), (i, k)
            want, error = product(down[e], again[m], outer)
            assert (np.abs(pairs[m] - want) <= error + 1e-30).all(), (i, k)
            m += 1
    total = np.zeros(x.shape, np.float32)
    for k in range(case.used):
        total += pairs.reshape(len(x), case.used, -1)[:, k]
    np.testing.assert_array_equal(out, total)
    return out


@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "raw"])
@pytest.mark.parametrize(("inner", "outer"), RECIPES, ids=map("-".join, RECIPES))
def test_few(ctx, inner, outer, tiled):
    case = Case(ctx, inner, outer, tiled=tiled)
    check(case, *case.rows(5))


@pytest.mark.parametrize("inner", FORMATS)
def test_every_path_has_the_same_bits(inner, monkeypatch):
    """Rows alone, among others, sorted, in either layout: one result."""
    ctx = Context(NatsimDevice())
    outer = "Q2_K" if inner == "IQ2_XXS" else inner
    case, raw = (Case(ctx, inner, outer, tiled=tiled) for tiled in (True, False))
    x, ids, weights = case.rows(33)
    whole = case.run(x, ids, weights)[0]
    for first, stop in ((0, 1), (7, 9), (20, 28), (24, 33)):
        part = slice(first, stop)
        alone = case.run(x[part], ids[part], weights[part])[0]
        np.testing.assert_array_equal(alone, whole[part])
    np.testing.assert_array_equal(raw.run(x[3:6], ids[3:6], weights[3:6])[0], whole[3:6])
    monkeypatch.setattr(experts, "MAX_FEW", 0)
    np.testing.assert_array_equal(case.run(x, ids, weights)[0], whole)
    part = slice(0, 5)
    np.testing.assert_array_equal(raw.run(x[part], ids[part], weights[part])[0], whole[part])


def test_sorted_tiles_in_reverse():
    """Many pairs of few experts fill more than one tile; lanes run backwards."""
    case = Case(Context(NatsimDevice(reverse=True)), "IQ2_XXS", "Q2_K", n_expert=4, used=3)
    x, ids, weights = case.rows(90, kind="same")
    assert ids.size > moe_plan.MAX_FEW and set(ids.reshape(-1)) == {0, 1, 2}
    out = check(case, x, ids, weights)
    other = Case(Context(NatsimDevice()), "IQ2_XXS", "Q2_K", n_expert=4, used=3)
    np.testing.assert_array_equal(other.run(x, ids, weights)[0], out)
    np.testing.assert_array_equal(case.run(x[77:79], ids[77:79], weights[77:79])[0], out[77:79])


@pytest.mark.parametrize("n", [1, 2, 8, 9])
@pytest.mark.parametrize("kind", ["mixed", "same"])
def test_rows_of_the_main_recipe(ctx, n, kind):
    case = Case(ctx, "IQ2_XXS", "Q2_K", n_expert=7, used=6)
    check(case, *case.rows(n, seed=n, kind=kind))


def test_no_limit(ctx):
    case = Case(ctx, "Q8_0", "Q8_0")
    x, ids, weights = case.rows(2)
    x *= 20
    plain = check(case, x, ids, weights, 0.0)
    assert not np.array_equal(plain, check(case, x, ids, weights, LIMIT))


@pytest.mark.parametrize(
    ("n", "outer", "shared"),
    [
        (1, "Q2_K", "Q8_0"),
        (3, "Q2_K", "Q8_0"),
        (2, "Q2_K", "Q2_K"),
        (3, "Q8_0", "Q8_0"),
        (1, "MXFP4", "Q2_K"),
        (2, "F16", "Q8_0"),
        (2, "Q8_0", "F32"),
        (3, "Q2_K", None),
    ],
)
def test_feed_forward_is_its_parts(ctx, n, outer, shared):
    case = Case(ctx, "IQ2_XXS" if outer == "Q2_K" else outer, outer)
    rng = np.random.default_rng(5)
    # Q2_K: wider than the routed experts, and than one piece of the launch that quantises both.
    width = 2304 if shared == "Q2_K" else 64
    dims = ((width, case.n_embd), (width, case.n_embd), (case.n_embd, width))
    names = ("Q8_0", "Q8_0", shared or "Q8_0")
    tensors = [random_tensor(name, rng, *d) for name, d in zip(names, dims, strict=True)]
    extra = [prepare(ctx, t) for t in tensors]
    x, ids, weights = case.rows(n)
    parts = (ctx.put(x), ctx.put(ids), ctx.put(weights), *case.weights, LIMIT)
    out, separate, alone = ctx.empty(x.shape), ctx.empty(x.shape), ctx.empty(x.shape)
    experts.feed_forward(ctx, out, *parts, (*extra, 0.3) if shared else None)
    experts.routed_moe(ctx, separate, *parts)
    if shared:
        experts.shared_ffn(ctx, alone, parts[0], *extra, 0.3)
        experts.add(ctx, separate, alone)
        gate, up, down = (dequantised(t).astype(np.float64) for t in tensors)
        rows = seen(x, "Q8_0")
        g, u = np.minimum(rows @ gate.T, 0.3), np.clip(rows @ up.T, -0.3, 0.3)
        want = silu(g) * u @ down.T
        # int8 rows in the middle: half a step of 1/127 of a block's largest value, every value
        error = np.abs(silu(g) * u).max() / 127 * np.abs(down).sum(axis=1)
        assert (np.abs(np.asarray(alone) - want) <= error).all()
    np.testing.assert_array_equal(np.asarray(out), np.asarray(separate))


def test_swiglu_and_add(ctx):
    rng = np.random.default_rng(2)
    g, u = (rng.standard_normal((3, 333)).astype(np.float32) * 30 for _ in range(2))
    g[0, :4], u[0, :4] = [200, -200, 0, -90], [1, 2, 3, 4]
    for limit in (10.0, 0.0):
        clamp = limit if limit else np.inf
        a, b = np.minimum(g.astype(np.float64), clamp), np.clip(u, -clamp, clamp)
        with np.errstate(over="ignore"):
            want = silu(a) * b
        gate, up = ctx.put(g), ctx.put(u)
        experts.swiglu(ctx, gate, gate, up, limit)
        # exp within 1 ulp, a sum, a quotient, a product; exp(-g) is infinite beyond 89, where the
        # result is below 90 * 100 * exp(-89)
        np.testing.assert_allclose(np.asarray(gate), want, rtol=5e-7, atol=3e-35)
        experts.add(ctx, gate, up)
    np.testing.assert_array_equal(np.asarray(up), u)
