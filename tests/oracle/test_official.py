"""Rounding of rows and queries: ours against torch's FP8 and an enumeration of FP4 values."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]


def _rows(n, dim, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-6, 5, (n, 1))
    x[rng.random((n, dim)) < 0.05] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_fp8_rows(kernels):
    """A norm of ones and an epsilon of zero leave rows as they are up to their length."""
    import torch

    from engine.ops.reference.ops import ReferenceOps
    from tests.oracle.official import kv_row

    if kernels == "cpu":
        from engine.ops import cpu as ops
    else:
        ops = ReferenceOps()
    n, dim, half = 41, 192, 32
    x = _rows(n, dim, 1)
    x /= np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True)).astype(np.float32)
    gain = np.exp(np.random.default_rng(2).standard_normal(dim)).astype(np.float32)
    cos, sin = np.ones((n, half), np.float32), np.zeros((n, half), np.float32)
    ring = np.full((64, dim), np.nan, np.float32)
    ops.kv_store(ring, x.copy(), gain, cos, sin, 3, 1e-6, True)
    square = (x.astype(np.float64) ** 2).mean(1, keepdims=True)
    normed = (x / np.sqrt(square + 1e-6) * gain).astype(np.float32)
    want = kv_row(torch.from_numpy(normed), 2 * half).numpy()
    differ = ring[3 : 3 + n] != want
    # The norm's last bit may push a value over a rounding boundary; one step is 1/8 at most.
    assert differ.mean() < 1e-3
    np.testing.assert_allclose(ring[3 : 3 + n], want, rtol=0.13)
    assert np.isnan(np.delete(ring, np.s_[3 : 3 + n], axis=0)).all()


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_fp4_queries(kernels):
    import torch

    from engine.ops.reference.ops import ReferenceOps
    from tests.oracle.official import index_row

    if kernels == "cpu":
        from engine.ops import cpu as ops
    else:
        ops = ReferenceOps()
    n, heads = 7, 16
    x = _rows(n * heads, 128, 3).reshape(n, heads, 128)
    want = index_row(torch.from_numpy(x)).numpy()
    cos, sin = np.ones((n, 32), np.float32), np.zeros((n, 32), np.float32)
    got = x.copy()
    ops.indexer_query(got, cos, sin, True)
    scale = np.abs(want).reshape(n, heads, 4, 32).max(-1).repeat(32, -1).reshape(want.shape)
    # The transform's last bits may push a value over a rounding boundary; one step is 2 of 6.
    assert (np.abs(got - want) > 1e-3 * scale).mean() < 1e-3
    assert (np.abs(got - want) <= 0.34 * scale + 1e-30).all()
