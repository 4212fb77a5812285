"""Expert choice: against the reference, ties, margins and the floor of the sum."""

import numpy as np
import pytest

from engine.ops import cpu, reference
from tests.engine.ops.support import normal, poisoned, same_bits


def _select(ops, logits, bias, used, scale=1.5):
    n = len(logits)
    out = np.full((n, used), -1, np.int32), poisoned(n, used), poisoned(n)
    ops.router_select(*out[:2], logits, bias, scale, out[2])
    return out


@pytest.mark.parametrize(
    ("n", "n_expert", "used"), [(1, 256, 6), (3, 7, 7), (60, 256, 6), (5, 33, 1)]
)
@pytest.mark.parametrize("biased", [True, False])
def test_matches_reference(rng, n, n_expert, used, biased):
    logits = normal(rng, n, n_expert) * np.float32(9)
    bias = normal(rng, n_expert) if biased else None
    expected = _select(reference, logits, bias, used)

    ids, weights, margin = _select(cpu, logits, bias, used)

    assert np.array_equal(ids, expected[0])
    np.testing.assert_allclose(weights, expected[1], rtol=1e-6)
    np.testing.assert_allclose(margin, expected[2], atol=2e-6)
    for a, b in zip(_select(cpu, logits[n - 1 :], bias, used), (ids, weights, margin)):
        assert same_bits(a[0], b[n - 1])


@pytest.mark.parametrize("ops", [cpu, reference])
def test_ties_go_to_the_lower_id(ops):
    logits = np.array([[1, 2, 2, 1, 2, 0]], np.float32)

    ids, _, margin = _select(ops, logits, None, 4)

    assert ids.tolist() == [[1, 2, 4, 0]]
    assert margin[0] == 0


@pytest.mark.parametrize("x", [-90, -20.5, -20, 0, 20, 20.5, 300])
def test_branches_of_softplus(x):
    logits = np.array([[x, 1]], np.float32)

    _, weights, _ = _select(cpu, logits, None, 2, scale=1.0)

    p = np.sqrt([max(x, 0) + np.log1p(np.exp(-abs(x))), np.log1p(np.e)])
    np.testing.assert_allclose(weights[0], np.sort(p / p.sum())[::-1], rtol=1e-6)


def test_hash_router(rng):
    table = rng.integers(0, 16, (30, 4)).astype(np.int32)
    table.setflags(write=False)
    tokens, logits = np.array([29, 0, 7], np.int32), normal(rng, 3, 16)
    outs = []
    for ops in (cpu, reference):
        ids, weights = np.full((3, 4), -1, np.int32), poisoned(3, 4)
        ops.router_hash(ids, weights, logits, table, tokens, 1.5)
        outs.append((ids, weights))

    assert np.array_equal(outs[0][0], table[tokens])
    assert np.array_equal(outs[1][0], table[tokens])
    np.testing.assert_allclose(outs[0][1], outs[1][1], rtol=1e-6)


def test_floor_of_the_sum():
    logits = np.full((1, 8), -60, np.float32)

    _, weights, _ = _select(cpu, logits, None, 2)

    np.testing.assert_allclose(weights, np.exp(-30) / 6.103515625e-5 * 1.5, rtol=1e-5)


def test_nan_leaves_valid_ids(rng):
    logits = normal(rng, 2, 16)
    logits[0, :] = np.nan
    logits[1, 3] = np.nan

    ids, weights, _ = _select(cpu, logits, None, 4)

    assert ids.min() >= 0 and ids.max() < 16
    assert np.isnan(weights[0]).all()
