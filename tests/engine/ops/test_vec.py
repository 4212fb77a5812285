"""Sixteen-lane vectors: one tree of sums, exact byte products on every instruction set."""

import numpy as np
import pytest
import scipy.linalg

from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.simd import ir as simd
from engine.ops.cpu.simd import vec
from tests.engine.ops.support import normal, poisoned, same_bits


@kernel
def _sums(out, x):
    rows = (
        vec.load(x, 0),
        vec.load(x, 16),
        vec.load(x, 32),
        vec.load(x, 48),
        vec.load(x, 64),
        vec.load(x, 80),
        vec.load(x, 96),
        vec.load(x, 112),
        vec.load(x, 128),
        vec.load(x, 144),
        vec.load(x, 160),
        vec.load(x, 176),
        vec.load(x, 192),
        vec.load(x, 208),
        vec.load(x, 224),
        vec.load(x, 240),
    )
    vec.store(out, 0, vec.sum_lanes_of_16(rows))
    for i in range(16):
        out[16 + i] = vec.sum_lanes(vec.load(x, 16 * i))


def test_both_ways_of_summing_lanes_are_one_tree(rng):
    x, out = normal(rng, 256), poisoned(32)

    _sums(out, x)

    tree = x.reshape(16, 16)
    while tree.shape[1] > 1:
        half = tree.shape[1] // 2
        tree = tree[:, :half] + tree[:, half:]
    assert same_bits(out[:16], tree[:, 0])
    assert same_bits(out[16:], tree[:, 0])


@kernel
def _small(out, x):
    vec.store(out, 0, vec.hadamard_lanes(vec.load(x, 0)))
    vec.store(out, 16, vec.relu(vec.load(x, 0)))
    out[32] = vec.max_lanes(vec.load(x, 0))
    vec.store_quarters(out, 33, 5, vec.load(x, 0))


def test_lanes(rng):
    x, out = normal(rng, 16), poisoned(53)
    x[5] = np.nan

    _small(out, x)

    assert same_bits(out[16:32], np.where(x < 0, np.float32(0), x))
    for i in range(4):
        assert same_bits(out[33 + 5 * i : 37 + 5 * i], x[4 * i : 4 * i + 4])
        if i:
            assert np.isnan(out[32 + 5 * i])
    x[5] = 7
    _small(out, x)
    np.testing.assert_allclose(out[:16], scipy.linalg.hadamard(16) @ x, atol=1e-5)
    assert out[32] == 7


@pytest.mark.parametrize("name", list(simd._NEEDS))
def test_byte_products_are_exact(rng, monkeypatch, name):
    if not simd._NEEDS[name] <= simd.target_features():
        pytest.skip(f"this machine has no {name}")
    monkeypatch.setattr(simd, "isa", lambda: name)

    # Compiled here and not cached, so that it is this set's code.
    import numba

    @numba.njit
    def run(out, u, s):
        start = vec.splat(np.int32(-1000))
        vec.store(out, 0, vec.to_float(vec.dot4(start, vec.load(u, 0), vec.load(s, 0))))

    for top in (24, 127):
        u = rng.integers(0, top + 1, 64).astype(np.uint8)
        s = rng.integers(-128, 128, 64).astype(np.int8)
        s[:8], u[:8] = -128, top
        out = poisoned(16)

        run(out, u, s.view(np.uint8))

        exact = (u.astype(int) * s).reshape(16, 4).sum(axis=1) - 1000
        assert out.tolist() == exact.tolist()
