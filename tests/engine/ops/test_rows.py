"""Norms, rope, hyper-connections and stored rows: against the reference, and row by row."""

import numpy as np
import pytest

from engine.ops import cpu, reference
from engine.ops.host import draft_report, first_maxima, ring_mean, ring_put
from engine.ops.reference import rounding
from tests.engine.ops.support import angles, normal, poisoned, same_bits, threads

# float32 rounding of a sum of up to 4096 squares or 8 products, relative to values of order 1.
TOL = {"rtol": 3e-6, "atol": 2e-6}


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 64), (3, 255), (2, 1024), (70, 1030)])
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(rng, n, d, weighted):
    x, weight = normal(rng, n, d), normal(rng, d) if weighted else None
    expected, actual = poisoned(n, d), poisoned(n, d)
    reference.rms_norm(expected, x, weight, 1e-6)

    cpu.rms_norm(actual, x, weight, 1e-6)

    np.testing.assert_allclose(actual, expected, **TOL)
    for i in (0, n - 1):
        alone = poisoned(1, d)
        cpu.rms_norm(alone, x[i : i + 1], weight, 1e-6)
        assert same_bits(alone[0], actual[i])
    cpu.rms_norm(x, x, weight, 1e-6)
    assert same_bits(x, actual)


def test_rms_eps_is_added_to_the_mean_square(rng):
    x = normal(rng, 1, 64) * np.float32(1e-3)
    small, large = poisoned(1, 64), poisoned(1, 64)

    cpu.rms_norm(small, x, None, 1e-6)
    cpu.rms_norm(large, x, None, 1e-5)

    mean = np.mean(x.astype(np.float64) ** 2)
    ratio = np.sqrt((mean + 1e-5) / (mean + 1e-6))
    np.testing.assert_allclose(small / large, ratio, rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "n_head", "d", "n_rot"), [(1, 1, 64, 64), (3, 5, 96, 32), (9, 16, 512, 64)]
)
def test_rope(rng, n, n_head, d, n_rot):
    q = normal(rng, n, n_head, d)
    cos, sin = angles(rng, n, n_rot)
    for name, args in (
        ("q_norm_rope", (1e-6,)),
        ("rope_tail", (False,)),
        ("rope_tail", (True,)),
    ):
        expected, actual = q.copy(), q.copy()
        getattr(reference, name)(expected, cos, sin, *args)
        getattr(cpu, name)(actual, cos, sin, *args)
        np.testing.assert_allclose(actual, expected, **TOL)
        alone = q[n - 1 :].copy()
        getattr(cpu, name)(alone, cos[n - 1 :].copy(), sin[n - 1 :].copy(), *args)
        assert same_bits(alone[0], actual[n - 1])


def _hc(rng, n, n_hc, d):
    width = n_hc * (2 + n_hc)
    return normal(rng, n, width) * 2, normal(rng, n, n_hc, d), normal(rng, 3), normal(rng, width)


@pytest.mark.parametrize(
    ("n", "n_hc", "d", "n_iter"),
    [(1, 4, 1024, 20), (3, 4, 33, 1), (2, 2, 600, 3), (40, 8, 513, 20)],
)
def test_hyper_connections(rng, n, n_hc, d, n_iter):
    mix, state, scale, base = _hc(rng, n, n_hc, d)
    actual = poisoned(n, d), poisoned(n, n_hc), poisoned(n, n_hc, n_hc)
    expected = tuple(a.copy() for a in actual)
    reference.hc_split(*expected, mix, state, scale, base, n_iter, 1e-6)

    cpu.hc_split(*actual, mix, state, scale, base, n_iter, 1e-6)

    for a, e in zip(actual, expected):
        # Twenty divisions by sums of like numbers: about one ulp each.
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=3e-6)
    last = poisoned(1, d), poisoned(1, n_hc), poisoned(1, n_hc, n_hc)
    cpu.hc_split(*last, mix[n - 1 :], state[n - 1 :], scale, base, n_iter, 1e-6)
    for a, b in zip(actual, last):
        assert same_bits(a[n - 1], b[0])

    y, out, wanted = normal(rng, n, d), poisoned(n, n_hc, d), poisoned(n, n_hc, d)
    reference.hc_expand(wanted, y, actual[1], actual[2], state)
    cpu.hc_expand(out, y, actual[1], actual[2], state)
    np.testing.assert_allclose(out, wanted, rtol=3e-6, atol=5e-6)
    in_place = state.copy()
    cpu.hc_expand(in_place, y, actual[1], actual[2], in_place)
    assert same_bits(in_place, out)
    alone = poisoned(1, n_hc, d)
    cpu.hc_expand(alone, y[:1], actual[1][:1], actual[2][:1], state[:1])
    assert same_bits(alone[0], out[0])

    x, wanted = poisoned(n, d), poisoned(n, d)
    head = mix[:, :n_hc].copy(), state, scale[:1], base[:n_hc], 1e-6
    reference.hc_collapse(wanted, *head)
    cpu.hc_collapse(x, *head)
    np.testing.assert_allclose(x, wanted, **TOL)


@pytest.mark.parametrize(("n_iter", "other"), [(20, 10), (20, 19), (2, 1)])
def test_number_of_sinkhorn_rounds_is_visible(rng, n_iter, other):
    # A permutation-like matrix converges slowly, so one round more or less shows.
    mix = np.zeros((1, 24), np.float32)
    mix[0, 8:] = np.array([9, 0, 0, 0, 9, 9, 0, 0, 0, 9, 9, 0, 0, 0, 9, 9])
    state, scale, base = normal(rng, 1, 4, 16), np.ones(3, np.float32), np.zeros(24, np.float32)
    results = []
    for ops, rounds in ((cpu, n_iter), (reference, n_iter), (reference, other)):
        comb = poisoned(1, 4, 4)
        ops.hc_split(poisoned(1, 16), poisoned(1, 4), comb, mix, state, scale, base, rounds, 1e-6)
        results.append(comb)

    right = np.abs(results[0] - results[1]).max()
    wrong = np.abs(results[0] - results[2]).max()
    assert right < 1e-6 and wrong > 10 * right


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("n", "d", "n_rot"), [(1, 128, 64), (3, 512, 64), (40, 512, 64)])
def test_kv_store(rng, n, d, n_rot, official):
    kv, weight = normal(rng, n, d), normal(rng, d)
    cos, sin = angles(rng, n, n_rot)
    cap, pos0 = 48, 77
    expected, actual = poisoned(cap, d), poisoned(cap, d)
    reference.kv_store(expected, kv, weight, cos, sin, pos0, 1e-6, official)

    cpu.kv_store(actual, kv, weight, cos, sin, pos0, 1e-6, official)

    rows = (pos0 + np.arange(n)) % cap
    others = np.setdiff1d(np.arange(cap), rows)
    assert np.isnan(actual[others]).all()
    a, e = actual[rows], expected[rows]
    if official:
        # float32 against float64 may fall on two sides of a rounding boundary: rarely, one step.
        assert (a != e).mean() < 2e-3
        np.testing.assert_allclose(a, e, rtol=2**-3, atol=1e-3)
        assert np.array_equal(a, a.astype(np.float16).astype(np.float32))
    else:
        np.testing.assert_allclose(a, e, **TOL)
    for i in range(n):
        alone = poisoned(cap, d)
        cpu.kv_store(
            alone, kv[i : i + 1], weight, cos[i : i + 1], sin[i : i + 1], pos0 + i, 1e-6, official
        )
        assert same_bits(alone[rows[i]], actual[rows[i]])
    compressed = poisoned(cap + n, d)
    cpu.compressor_store(compressed, 5, kv, weight, cos, sin, 1e-6, official)
    assert same_bits(compressed[5 : 5 + n], actual[rows])


def test_fp8_rows_are_exact_where_nothing_else_rounds(rng):
    # Rows of +-1 and 0 patterns keep a norm of exactly 1 or 2, so only FP8 acts.
    kv = np.ones((1, 192), np.float32) * rng.choice([-1, 1], (1, 192)).astype(np.float32)
    weight = (2.0 ** rng.uniform(-9, 9, 192)).astype(np.float32)
    cos, sin = np.ones((1, 32), np.float32), np.zeros((1, 32), np.float32)
    ring = poisoned(1, 192)

    cpu.kv_store(ring, kv, weight, cos, sin, 0, 0.0, True)

    exact = (kv * weight).astype(np.float64)[0]
    exact[:128] = rounding.fp8_round_trip(exact[:128])
    assert np.array_equal(ring[0], exact.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("ops", [cpu, reference])
def test_block_of_zeros_stays_zero(rng, ops):
    kv, weight = normal(rng, 2, 192), normal(rng, 192)
    kv[1] = 0
    weight[:64] = 0
    cos, sin = angles(rng, 2, 64)
    ring = poisoned(4, 192)

    ops.kv_store(ring, kv, weight, cos, sin, 0, 1e-6, True)

    assert not ring[0, :64].any() and ring[0, 64:].all()
    assert not ring[1].any()


@pytest.mark.oracle
def test_fp8_rows_are_torchs(rng):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(normal(rng, 50, 64) * np.float32(30))

    scale = torch.exp2(torch.ceil(torch.log2(x.abs().amax(1, keepdim=True).clamp(min=1e-4) / 448)))
    expected = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(torch.float32) * scale

    actual = rounding.fp8_round_trip(x.numpy().astype(np.float64))
    assert np.array_equal(actual, expected.numpy())


@pytest.mark.parametrize("ratio", [4, 128])
def test_pool_matches_reference_for_any_chunking(rng, ratio):
    d, rows = 96, 32 if ratio == 4 else 256
    width, total = (2 if ratio == 4 else 1) * d, 700
    kv, score, ape = (
        normal(rng, total, width),
        normal(rng, total, width) * 3,
        normal(rng, ratio, width),
    )

    def run(ops, chunks):
        rings = np.zeros((rows, width), np.float32), np.zeros((rows, width), np.float32)
        pooled, pos = poisoned(total // ratio, d), 0
        for n in chunks:
            n = min(n, total - pos)
            first, last = pos // ratio, (pos + n) // ratio
            part = slice(pos, pos + n)
            ops.compressor_pool(pooled[first:last], *rings, kv[part], score[part], ape, pos, ratio)
            pos += n
        assert pos == total
        return pooled, *rings

    expected = run(reference, [total])
    whole = run(cpu, [total])

    for a, e in zip(whole, expected):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=5e-6)
    for chunks in ([1] * total, [3, 1, 127, 130, 2, 300, 5, 400], [64] * 11):
        with threads(1 if len(chunks) == 11 else 2):
            for a, b in zip(run(cpu, chunks), whole):
                assert same_bits(a, b)


@pytest.mark.parametrize("ratio", [4, 128])
def test_pool_after_taking_tokens_back(rng, ratio):
    d, rows = 32, 32 if ratio == 4 else 256
    width, total = (2 if ratio == 4 else 1) * d, 300
    kv, score, ape = normal(rng, total, width), normal(rng, total, width), normal(rng, ratio, width)
    wrong_kv, wrong_score = normal(rng, 16, width), normal(rng, 16, width)

    def run(detour):
        rings = np.zeros((rows, width), np.float32), np.zeros((rows, width), np.float32)
        pooled = poisoned(total // ratio, d)
        for pos in range(total):
            if detour and pos % 7 == 0:
                end = pos + 16
                scrap = poisoned(end // ratio - pos // ratio, d)
                cpu.compressor_pool(scrap, *rings, wrong_kv, wrong_score, ape, pos, ratio)
            first, last = pos // ratio, (pos + 1) // ratio
            part = slice(pos, pos + 1)
            cpu.compressor_pool(pooled[first:last], *rings, kv[part], score[part], ape, pos, ratio)
        return pooled

    assert same_bits(run(True), run(False))


@pytest.mark.parametrize(("cap", "n", "pos0", "skip"), [(1, 1, 9, 0), (5, 3, 4, 0), (5, 12, 3, 7),
                                                        (4, 9, 2, 0), (7, 2, 0, 2)])  # fmt: skip
def test_rows_of_a_ring_lie_where_their_position_says(rng, cap, n, pos0, skip):
    """NumPy's own wrap-around is the second opinion; later rows replace earlier ones."""
    rows, ring = normal(rng, n, 2, 3), normal(rng, cap, 2, 3)
    expected = ring.copy()
    for i in range(skip, n):
        expected[np.ravel_multi_index((pos0 + i,), (cap,), mode="wrap")] = rows[i]
    ring_put(ring, rows, pos0, skip)
    assert same_bits(ring, expected)


def test_means_of_a_ring_lie_by_position_and_agree_with_the_reference(rng):
    ring = normal(rng, 7, 4, 33)
    found, exact = np.empty((5, 33), np.float32), np.empty((5, 33))
    ring_mean(found, ring, 10)
    reference.ring_mean(exact, ring, 10)
    np.testing.assert_array_equal(exact[0], ring[3].astype(np.float64).mean(axis=0))
    # Three sums, each rounded once, of values whose magnitudes are at most the sum of theirs.
    assert (np.abs(found - exact) <= 2.0**-22 * np.abs(ring).max()).all()


def test_maxima_and_reports_of_drafts(rng):
    logits = normal(rng, 3, 40)
    logits[1, 5] = np.inf
    best = logits[0].argmax()
    ids, bad = np.empty(3, np.int32), np.empty(3, np.int32)
    first_maxima(ids, bad, logits, None)
    assert ids[0] == best and bad.tolist() == [0, 1, 0]
    first_maxima(ids, bad, logits, np.array([best], np.int32))
    assert ids[0] == np.argsort(-logits[0])[1]
    hidden, rows, weight = normal(rng, 3, 16), normal(rng, 3, 8), normal(rng, 24)
    out = np.empty((3, 2), np.float32)
    draft_report(out, hidden, rows, weight, ids, bad)
    both = np.concatenate([hidden, rows], axis=1).astype(np.float64)
    np.testing.assert_allclose(out[:, 0], both @ weight.astype(np.float64), rtol=1e-6, atol=1e-6)
    assert out[0, 1] == ids[0] and np.isnan(out[1, 1]) and out[2, 1] == ids[2]
