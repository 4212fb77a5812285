"""Formats that are read as the file has them: products, experts and table rows against gguf.quants.

An integer product is exact up to its scales, so against the same quantised activations in float64
only float32 roundings remain: those of a few terms a block, and those of gguf's own values.
"""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops.cuda import sizes
from engine.ops.cuda.products import experts, pack, products
from engine.ops.cuda.products.blocks_raw import RAW_BLOCKS
from engine.ops.cuda.rows.embed import embed_hc
from engine.quant.formats import BY_NAME, KERNELS
from engine.weights.tensor import Tensor
from tests.cuda.rows import poisoned, relative, same_bits
from tests.engine.ops.blocks import dequantised, put_half, quantised_rows

# Where a block's float16 factors lie.
FACTORS = {
    "Q3_K": (108,), "Q5_K": (0, 2), "Q6_K": (208,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ4_XS": (0,),
}  # fmt: skip
# Roundings of 7 blocks of two terms, and of the reference's own values, in units of 2**-24.
BOUND = 2e-6


def random_tensor(name, rng, *shape, title="test"):
    form = BY_NAME[name]
    n = int(np.prod(shape)) // form.block_len
    raw = rng.integers(0, 256, (n, form.block_bytes), dtype=np.uint8)
    for at in FACTORS[name]:
        put_half(raw, at, rng.standard_normal(n) * 0.01)
    return Tensor(f"{title}.weight", form, shape, raw.reshape(-1))


def seen(x):
    codes, scale = quantised_rows(x, 256)
    return (codes * scale[:, :, None].astype(np.float64)).reshape(x.shape)


def test_every_format_of_the_set_has_kernels():
    assert set(RAW_BLOCKS) == set(FACTORS) and set(FACTORS) < set(KERNELS["cuda"])
    assert set(KERNELS["cuda"]) == set(sizes.SIZES)


@pytest.mark.parametrize("name", FACTORS)
def test_products(ctx, name):
    rng = np.random.default_rng(1)
    t = random_tensor(name, rng, 40, 768)
    x = (rng.standard_normal((17, 768)) * 3).astype(np.float32)
    w = pack.prepare(ctx, t)
    assert not w.tiled and w.n_bytes == t.n_bytes == sizes.repack_bytes(t)

    def product(rows):
        out = poisoned(ctx, (len(rows), 40))
        products.matmul(ctx, out, ctx.put(rows), w)
        ctx.forget()
        return np.asarray(out)

    whole = product(x)
    assert relative(whole, seen(x) @ dequantised(t).astype(np.float64).T) < BOUND
    for n in (1, 9):
        assert same_bits(product(x[:n]), whole[:n])


@pytest.mark.parametrize("name", FACTORS)
def test_experts(ctx, name):
    rng = np.random.default_rng(2)
    inner = [random_tensor(name, rng, 3, 256, 256) for _ in range(2)]
    weights = [pack.prepare(ctx, t) for t in inner]
    down = pack.prepare(ctx, random_tensor(name, rng, 3, 256, 256))
    ids = np.array([[2, 0], [1, 2]], np.int32)
    x = (rng.standard_normal((2, 256)) * 0.01).astype(np.float32)
    share = rng.random((2, 2)).astype(np.float32)
    out = poisoned(ctx, (2, 256))
    experts.routed_moe(ctx, out, ctx.put(x), ctx.put(ids), ctx.put(share), *weights, down, 0.0)
    middle = np.asarray(ctx.scratch("moe middle", (4, 256)))
    gate, up = (dequantised(t).astype(np.float64) for t in inner)
    for pair, expert in enumerate(ids.reshape(-1)):
        row = seen(x)[pair // 2]
        g, u = gate[expert] @ row, up[expert] @ row
        expected = g / (1 + np.exp(-g)) * u * share.reshape(-1)[pair]
        # The sigmoid's own error is 2 ulp of its argument.
        assert relative(middle[pair][None], expected[None]) < 20 * BOUND
    assert np.isfinite(np.asarray(out)).all()


@pytest.mark.parametrize("name", FACTORS)
def test_rows_of_a_table(ctx, name):
    rng = np.random.default_rng(3)
    t = random_tensor(name, rng, 5, 512, title="token_embd")
    state = poisoned(ctx, (3, 2, 512))
    tokens = np.array([4, 0, 2], np.int32)
    embed_hc(ctx, state, ctx.put(tokens), pack.prepare(ctx, t))
    expected = dequantised(t)[tokens]
    # One rounding more or less in the product of three factors.
    for stream in range(2):
        np.testing.assert_allclose(np.asarray(state)[:, stream], expected, rtol=3e-7, atol=0)
