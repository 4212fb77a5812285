"""The forward pass against stored logits of transformers, and faults that must be seen there.

Needs no torch: the stored rows are checked against a fresh run in `test_logits.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops.reference.ops import ReferenceOps
from tests.oracle import golden
from tests.oracle.compare import distance
from tests.oracle.controls import FAULTS, UNIT_ONLY
from tests.oracle.opened import logits_of, opened

# Two float32 implementations differ by 3e-5 here; a planted fault by 1e-2 or more.
CLOSE = 1e-3
KERNELS = ("reference", "cpu")
# The first position at which the indexer drops a row.
FIRST_CHOICE = 4 * (golden.SPEC.idx_top_k + 1) - 1


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return golden.write_file(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def expected():
    return golden.load()


def rows(engine):
    return logits_of(engine, golden.tokens())[golden.POSITIONS]


@pytest.mark.parametrize("kernels", KERNELS)
def test_logits_equal_transformers(path, expected, kernels):
    with opened(path, kernels, activations="f32", kv="f32") as engine:
        d = distance(expected["f32"], rows(engine))
    assert d.max_abs < CLOSE
    assert d.top1 == 1


@pytest.mark.parametrize("kernels", KERNELS)
def test_official_rows_equal_transformers_with_the_same_rounding(path, expected, kernels):
    with opened(path, kernels, activations="f32", kv="official") as engine:
        got = rows(engine)
    early = golden.POSITIONS < FIRST_CHOICE
    # A 1e-6 difference flips a rounding to FP8 or f16 now and then: 2^-4 of one value of a row.
    assert np.abs(expected["official"] - expected["f32"])[early].max() > 0.5
    assert np.abs(expected["official"] - got)[early].max() < 0.05
    # Later FP4 makes scores coarse and near ties of the indexer fall differently; most do not.
    late = np.abs(expected["official"] - got).max(axis=1)
    assert np.median(late) < 0.05
    assert distance(expected["official"], got).rms < 0.1


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in UNIT_ONLY])
def test_planted_fault_is_seen(path, expected, fault):
    with opened(path, "cpu", activations="f32", kv="f32") as engine:
        FAULTS[fault](engine)
        d = distance(expected["f32"], rows(engine))
    assert d.max_abs > 10 * CLOSE


def _ops(kernels):
    if kernels == "reference":
        return ReferenceOps()
    from engine.ops import cpu

    return cpu


def _sinkhorn(logits: np.ndarray, n_iter: int, eps: float) -> np.ndarray:
    # Written from the paper (mHC, 2025, eq. of the projection), one matrix at a time.
    out = np.empty_like(logits)
    for i, a in enumerate(logits):
        c = np.exp(a - a.max(1)[:, None])
        c = c / c.sum(1)[:, None] + eps
        for k in range(n_iter):
            if k:
                c = c / (c.sum(1)[:, None] + eps)
            c = c / (c.sum(0)[None, :] + eps)
        out[i] = c
    return out


@pytest.mark.parametrize("kernels", KERNELS)
def test_sinkhorn_runs_exactly_as_often_as_asked(kernels):
    rng = np.random.default_rng(3)
    n, d = 33, 64
    mix = rng.standard_normal((n, 24)).astype(np.float32)
    state = rng.standard_normal((n, 4, d)).astype(np.float32)
    # Wide logits converge slowly: 19, 20 and 21 rounds still differ.
    scale = np.array([1, 1, 9], np.float32)
    base = rng.standard_normal(24).astype(np.float32)
    logits = (mix[:, 8:].astype(np.float64) * 9 + base[8:]).reshape(n, 4, 4)
    want = {k: _sinkhorn(logits, k, 1e-6) for k in (10, 19, 20, 21)}
    for k in (10, 19, 21):
        assert np.abs(want[k] - want[20]).max() > 1e-3
    x = np.full((n, d), np.nan, np.float32)
    post = np.full((n, 4), np.nan, np.float32)
    comb = np.full((n, 4, 4), np.nan, np.float32)
    _ops(kernels).hc_split(x, post, comb, mix, state, scale, base, 20, 1e-6)
    # Float32 exponentials of arguments up to 40, and 40 divisions.
    np.testing.assert_allclose(comb, want[20], atol=2e-5)


@pytest.mark.parametrize("kernels", KERNELS)
def test_rms_norm_uses_the_given_epsilon(kernels):
    rng = np.random.default_rng(4)
    # A root mean square of 1e-3 makes an epsilon of 1e-6 matter by 30 %.
    x = (1e-3 * rng.standard_normal((3, 200))).astype(np.float32)
    weight = rng.standard_normal(200).astype(np.float32)
    for eps in (1e-6, 1e-5):
        out = np.full_like(x, np.nan)
        _ops(kernels).rms_norm(out, x, weight, eps)
        square = (x.astype(np.float64) ** 2).mean(1, keepdims=True)
        np.testing.assert_allclose(out, x / np.sqrt(square + eps) * weight, rtol=2e-6, atol=1e-9)
