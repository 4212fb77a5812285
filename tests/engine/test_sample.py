"""Sampling: the truncation rules by a slow loop, HF's warpers, chi-square, golden draws."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from engine import sample
from engine.errors import NonFiniteError, OptionError
from engine.sample import Sampler


def slow_distribution(logits, temp, top_k, top_p, min_p):
    """The rules one token at a time, in Python floats."""
    top = max(logits)
    weight = [math.exp((v - top) / temp) for v in logits]
    total = math.fsum(weight)
    order = sorted(range(len(logits)), key=lambda i: (-weight[i], i))
    if top_k:
        order = order[:top_k]
    kept, mass = [], 0.0
    for i in order:
        if weight[i] < min_p:
            break
        kept.append(i)
        mass += weight[i]
        if top_p < 1 and mass >= top_p * total:
            break
    share = math.fsum(weight[i] for i in kept)
    return {i: weight[i] / share for i in kept}


SETTINGS = [
    (1.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.05),
    (0.7, 0, 0.9, 0.0),
    (1.3, 0, 0.95, 0.02),
    (1.0, 1, 1.0, 0.0),
    (1.0, 40, 1.0, 0.0),
    (2.0, 40, 0.5, 0.0),
    (0.3, 1024, 0.999, 0.0),
    (1.0, 7, 0.9, 0.3),
    (100.0, 0, 0.97, 0.0),
    (1e-3, 0, 0.9, 0.1),
    (1.0, 0, 0.0, 1.0),
]


@pytest.mark.parametrize(("temp", "top_k", "top_p", "min_p"), SETTINGS)
@pytest.mark.parametrize("n_vocab", [1, 2, 65, 1024, 5000])
def test_distribution_follows_the_rules(temp, top_k, top_p, min_p, n_vocab):
    rng = np.random.default_rng(n_vocab)
    logits = (rng.standard_normal(n_vocab) * 3).astype(np.float32)

    ids, probs = Sampler(temp, top_k, top_p, min_p).distribution(logits)

    expected = slow_distribution(logits.tolist(), temp, top_k, top_p or 1.0, min_p)
    assert ids.dtype == np.int32
    assert probs.dtype == np.float64
    assert (np.diff(ids) > 0).all()
    assert set(ids.tolist()) == set(expected)
    # Two orders of summing at most 5000 float64 values.
    np.testing.assert_allclose(probs, [expected[i] for i in ids.tolist()], rtol=1e-11)


def test_nucleus_wider_than_the_first_sort():
    logits = np.zeros(50_000, np.float32)
    logits[::7] = 1e-3
    sampler = Sampler(1.0, top_p=0.9)

    ids, _ = sampler.distribution(logits)

    expected = slow_distribution(logits.tolist(), 1.0, 0, 0.9, 0.0)
    # All weights nearly tie: rounding may move the edge by one token.
    assert abs(len(ids) - len(expected)) <= 1
    assert set(np.flatnonzero(logits)) <= set(ids.tolist())


def test_ties_go_to_lower_ids():
    logits = np.zeros(3000, np.float32)
    logits[[5, 2999]] = 1

    ids, probs = Sampler(1.0, top_k=4).distribution(logits)

    assert ids.tolist() == [0, 1, 5, 2999]
    np.testing.assert_allclose(probs[2] / probs[0], math.e, rtol=1e-12)
    assert Sampler(0.0).sample(np.array([1, 3, 3, 2], np.float32), 0) == 1


def test_min_p_comes_after_temperature():
    logits = np.array([0.0, -2.0], np.float32)

    assert len(Sampler(1.0, min_p=0.2).distribution(logits)[0]) == 1
    assert len(Sampler(2.0, min_p=0.2).distribution(logits)[0]) == 2


def test_top_p_counts_the_whole_softmax_under_top_k():
    # Shares .4 .3 .2 .1; of the top two alone the first would have .57 and reach .5.
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)

    assert Sampler(1.0, top_k=2, top_p=0.5).distribution(logits)[0].tolist() == [0, 1]


def test_greedy_distribution():
    ids, probs = Sampler().distribution(np.array([1, 5, 5, 0], np.float32))

    assert (ids.tolist(), probs.tolist()) == ([1], [1.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temp", [0.0, 1.0])
@pytest.mark.parametrize("where", [0, 50, 99])
def test_non_finite_logits(bad, temp, where):
    logits = np.zeros(100, np.float32)
    logits[where] = bad

    with pytest.raises(NonFiniteError, match=rf"1 that are not, the first .* at token {where}"):
        Sampler(temp).sample(logits, 0)
    with pytest.raises(NonFiniteError):
        Sampler(temp).distribution(logits)


def test_extreme_logits_stay_finite():
    logits = np.array([-3e38, 3e38, 0, 3e38], np.float32)
    for temp in (1e-30, 1.0, 100.0):
        ids, probs = Sampler(temp).distribution(logits)
        assert np.isfinite(probs).all()
        np.testing.assert_allclose(probs[np.isin(ids, [1, 3])], 0.5)
        assert Sampler(temp).sample(logits, 3) in (1, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temp", -0.1),
        ("temp", 100.1),
        ("temp", math.nan),
        ("temp", math.inf),
        ("top_k", -1),
        ("top_k", 1025),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("seed", -1),
        ("seed", 2**64),
        ("stream", -1),
        ("stream", 2**64),
        ("seed", True),
    ],
)
def test_out_of_range(name, value):
    with pytest.raises(OptionError, match=rf"{name}: expected 0 to .*, found"):
        Sampler(**{name: value})


def test_philox_known_answer():
    """Random123's published vector for philox4x64-10 with zero counter and key.

    NumPy steps the counter before the first block, so position p uses block p + 1.
    """
    bits = np.random.Philox(key=np.zeros(2, np.uint64), counter=np.full(4, 2**64 - 1, np.uint64))
    assert int(bits.random_raw()) == 0x16554D9ECA36314C


def test_numbers_depend_on_the_place_only():
    sampler = Sampler(1.0, seed=7, stream=9)
    bulk = sampler.uniforms(0, 2000)
    order = list(range(2000))
    random.Random(0).shuffle(order)

    assert all(sampler.uniform(p) == bulk[p] for p in order)
    np.testing.assert_array_equal(sampler.uniforms(1500, 500), bulk[1500:])
    assert ((bulk >= 0) & (bulk < 1)).all()


def test_seed_stream_lane_and_position_all_matter():
    values = {
        Sampler(1.0, seed=s, stream=t).uniform(p, lane)
        for s in (0, 1, 2**64 - 1)
        for t in (0, 1, 2**64 - 1)
        for p in (0, 1, 2**40)
        for lane in (0, 1, 2)
    }
    assert len(values) == 81


def test_neighbouring_streams_are_uncorrelated():
    a = Sampler(1.0, seed=1, stream=0).uniforms(0, 100_000)
    for other in (
        Sampler(1.0, seed=1, stream=1).uniforms(0, 100_000),
        Sampler(1.0, seed=2, stream=0).uniforms(0, 100_000),
        Sampler(1.0, seed=1, stream=0).uniforms(0, 100_000, lane=1),
    ):
        # Standard error 1 / sqrt(n) = 0.0032; five of them.
        assert abs(np.corrcoef(a, other)[0, 1]) < 0.016


@pytest.mark.parametrize("lane", [0, 1])
def test_uniform_by_kolmogorov_smirnov(lane):
    u = Sampler(1.0, seed=3).uniforms(0, 200_000, lane)
    assert stats.kstest(u, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("temp", "top_k", "top_p", "min_p"), [s for s in SETTINGS if s[0] > 0.1])
def test_a_million_draws_by_chi_square(temp, top_k, top_p, min_p):
    rng = np.random.default_rng(2)
    logits = (rng.standard_normal(300) * 2).astype(np.float32)
    sampler = Sampler(temp, top_k, top_p, min_p, seed=42)
    ids, _ = sampler.distribution(logits)
    expected = slow_distribution(logits.tolist(), temp, top_k, top_p or 1.0, min_p)
    p = np.array([expected[i] for i in ids.tolist()])
    u = sampler.uniforms(0, 1_000_000)

    drawn = np.searchsorted(np.cumsum(p), u, side="right")
    for position in range(0, 3000, 7):
        assert sampler.sample(logits, position) == ids[min(drawn[position], len(ids) - 1)]
    counts = np.bincount(np.minimum(drawn, len(ids) - 1), minlength=len(ids))

    if len(ids) > 1:
        big = p * 1_000_000 >= 5  # the test's approximation needs five expected draws per cell
        observed = np.append(counts[big], counts[~big].sum())
        wanted = np.append(p[big], p[~big].sum()) * 1_000_000
        keep = wanted > 0
        result = stats.chisquare(observed[keep], wanted[keep] * observed.sum() / wanted.sum())
        assert result.pvalue > 1e-3


def test_pick_covers_the_edges():
    ids = np.array([3, 8, 9], np.int32)
    probs = np.array([0.25, 0.5, 0.25])

    assert [sample.pick(ids, probs, u) for u in (0, 0.2499, 0.25, 0.7499, 0.75)] == [3, 3, 8, 8, 9]
    assert sample.pick(ids, probs, np.nextafter(1, 0)) == 9
    assert sample.pick(ids, np.array([0.0, 1.0, 0.0]), 0.0) == 8


# Made once by this module; any change of key, counter or order of summation shows here.
GOLDEN = {
    (1.0, 0, 1.0, 0.0, 0, 0): "119 686 363 277 186 259 521 587 574 188 535 693 719 752 990 476",
    (1.0, 0, 1.0, 0.05, 1, 0): "654 1 627 40 628 330 660 503 495 146 477 653 686 40 713 264",
    (
        0.8,
        40,
        0.95,
        0.0,
        2**64 - 1,
        3,
    ): "231 897 831 574 719 587 897 33 53 587 574 963 343 587 831 198",
}


@pytest.mark.parametrize("settings", sorted(GOLDEN))
def test_golden_draws(settings):
    temp, top_k, top_p, min_p, seed, stream = settings
    logits = np.array([(i * 7919 % 1009) / 150 for i in range(997)], np.float32)
    sampler = Sampler(temp, top_k, top_p, min_p, seed, stream)

    assert [sampler.sample(logits, p) for p in range(100, 116)] == [
        int(token) for token in GOLDEN[settings].split()
    ]


def test_import_needs_no_compiler():
    code = "import sys, engine.sample; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("option", "value", "warper"),
    [
        ("top_k", 40, "TopKLogitsWarper"),
        ("top_p", 0.9, "TopPLogitsWarper"),
        ("min_p", 0.05, "MinPLogitsWarper"),
    ],
)
def test_single_truncations_agree_with_transformers(option, value, warper):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(8)
    for temp in (0.5, 1.0, 1.7):
        logits = (rng.standard_normal(4000) * 3).astype(np.float32)
        ids, probs = Sampler(temp, **{option: value}).distribution(logits)

        scores = torch.from_numpy(logits.astype(np.float64))[None] / temp
        theirs = torch.softmax(getattr(process, warper)(value)(None, scores), -1)[0].numpy()

        assert ids.tolist() == np.flatnonzero(theirs).tolist()
        np.testing.assert_allclose(probs, theirs[ids], rtol=1e-9)
