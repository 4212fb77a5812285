"""The reference ops against formulas and libraries that were not written here."""

import numpy as np
import pytest
import scipy.linalg
import scipy.special

from engine.ops import reference
from engine.ops.reference import rounding
from tests.engine.ops.support import angles, normal


def test_rope_turns_complex_numbers(rng):
    x = rng.standard_normal((3, 2, 10))
    angle = rng.uniform(-3, 3, (3, 3))
    y = x.copy()

    reference.rope_tail(y, np.cos(angle), np.sin(angle), False)

    turned = (x[..., 4::2] + 1j * x[..., 5::2]) * np.exp(1j * angle)[:, None, :]
    np.testing.assert_allclose(y[..., 4::2], turned.real, atol=1e-14)
    np.testing.assert_allclose(y[..., 5::2], turned.imag, atol=1e-14)
    assert np.array_equal(y[..., :4], x[..., :4])
    reference.rope_tail(y, np.cos(angle), np.sin(angle), True)
    np.testing.assert_allclose(y, x, atol=1e-14)


def test_hadamard_is_scipys(rng):
    x = rng.standard_normal((4, 128))

    expected = x @ scipy.linalg.hadamard(128) / np.sqrt(128)

    np.testing.assert_allclose(rounding.hadamard(x), expected, atol=1e-13)


@pytest.mark.parametrize("ratio", [0, 4])
def test_attention_is_a_softmax_with_one_more_logit(rng, ratio):
    q, ring, rows = normal(rng, 1, 3, 16), normal(rng, 64, 16), normal(rng, 9, 16)
    sinks = normal(rng, 3)
    sel, n_sel = np.array([[1, 4, 7, 0]], np.int32), np.array([3], np.int32)
    out = np.empty((1, 3, 16))

    reference.attend(out, q, ring, rows, sel, n_sel, sinks, 40, 5, ratio)

    keys = ring[36:41].astype(np.float64)
    if ratio:
        keys = np.concatenate([keys, rows[[1, 4, 7]]])
    logits = np.concatenate([q[0] @ keys.T / 4, sinks[:, None]], axis=1)
    expected = scipy.special.softmax(logits, axis=1)[:, :-1] @ keys
    np.testing.assert_allclose(out[0], expected, atol=1e-6)


def test_sinkhorn_ends_doubly_stochastic(rng):
    n_hc, mix = 4, normal(rng, 2, 24)
    x, post, comb = np.empty((2, 8)), np.empty((2, 4)), np.empty((2, 4, 4))
    state, scale, base = normal(rng, 2, n_hc, 8), np.ones(3, np.float32), np.zeros(24, np.float32)

    reference.hc_split(x, post, comb, mix, state, scale, base, 200, 0.0)

    np.testing.assert_allclose(comb.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(comb.sum(axis=2), 1, atol=1e-9)
    np.testing.assert_allclose(post, 2 * scipy.special.expit(mix[:, 4:8]), atol=1e-12)
    pre = scipy.special.expit(mix[:, :4])
    np.testing.assert_allclose(x, np.einsum("ns,nsd->nd", pre, state), atol=1e-6)


def test_first_column_pass_of_a_matrix_worked_by_hand():
    # Logits chosen so that the row softmax is (1/4, 3/4) and (1/2, 1/2).
    mix = np.zeros((1, 8))
    mix[0, 4:] = [0, np.log(3), 0, 0]
    x, post, comb = np.empty((1, 1)), np.empty((1, 2)), np.empty((1, 2, 2))
    args = mix, np.ones((1, 2, 1)), np.ones(3), np.zeros(8)

    reference.hc_split(x, post, comb, *args, 1, 0.0)

    np.testing.assert_allclose(comb[0], [[1 / 3, 3 / 5], [2 / 3, 2 / 5]], rtol=1e-12)


def test_streams_are_mixed_from_rows_to_columns():
    state = np.array([[[1.0], [10.0]]])
    comb = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    out = np.empty((1, 2, 1))

    reference.hc_expand(out, np.array([[100.0]]), np.array([[1.0, 2.0]]), comb, state)

    assert out.ravel().tolist() == [100 + 1 + 30, 200 + 2 + 40]


def test_router_weights_and_order():
    logits = np.array([[25.0, -30.0, 0.0, 0.0]])
    p = np.sqrt([25.0, np.exp(-30.0), np.log(2), np.log(2)])
    ids, weights, margin = np.empty((1, 2), np.int32), np.empty((1, 2)), np.empty(1)

    bias = np.array([0, 9, 0, 0], np.float32)
    reference.router_select(ids, weights, logits, bias, 1.5, margin)

    assert ids.tolist() == [[1, 0]]
    np.testing.assert_allclose(weights[0], p[[1, 0]] / p[[0, 1]].sum() * 1.5, rtol=1e-12)
    np.testing.assert_allclose(margin, 5 - p[2], rtol=1e-12)
    tiny = np.full((1, 4), -80.0)
    reference.router_hash(
        ids, weights, tiny, np.array([[2, 3]], np.int32), np.zeros(1, np.int32), 1
    )
    np.testing.assert_allclose(weights, np.exp(-40.0) / 6.103515625e-5, rtol=1e-9)


def test_windows_overlap_only_for_ratio_4(rng):
    kv, score = rng.standard_normal((8, 6)), rng.standard_normal((8, 6))
    ape = np.zeros((4, 6), np.float32)
    rings = np.zeros((32, 6)), np.zeros((32, 6))
    pooled = np.empty((2, 3))

    reference.compressor_pool(pooled, *rings, kv, score, ape, 0, 4)

    first = scipy.special.softmax(score[:4, 3:], axis=0)
    np.testing.assert_allclose(pooled[0], (first * kv[:4, 3:]).sum(axis=0), rtol=1e-12)
    both = np.concatenate([score[:4, :3], score[4:, 3:]])
    values = np.concatenate([kv[:4, :3], kv[4:, 3:]])
    np.testing.assert_allclose(
        pooled[1], (scipy.special.softmax(both, axis=0) * values).sum(axis=0), rtol=1e-12
    )


def test_official_row_is_fp8_before_the_tail_and_f16_everywhere(rng):
    kv, ring = normal(rng, 1, 128), np.full((4, 128), np.nan)
    cos, sin = angles(rng, 1, 64)

    reference.kv_store(ring, kv, np.ones(128, np.float32), cos, sin, 6, 1e-6, True)

    row = ring[2]
    assert np.isnan(ring[[0, 1, 3]]).all()
    assert np.array_equal(row, row.astype(np.float16).astype(np.float64))
    scale = 2.0 ** np.ceil(np.log2(np.abs(row[:64]).max() / 448))
    assert len(np.unique(np.abs(row[:64]) / scale)) <= 64
    assert np.array_equal(rounding.e4m3(row[:64] / scale) * scale, row[:64])
    assert not np.array_equal(rounding.e4m3(row[64:] / scale) * scale, row[64:])
