"""Attention: against the reference at awkward sizes, and every row as if it were alone."""

import numpy as np
import pytest

from engine.ops import cpu, reference
from tests.engine.ops.support import normal, poisoned, same_bits, threads


def _case(rng, n, n_head, d, pos0, ratio, top_k, cap=512, n_rows=400):
    q, ring, sinks = normal(rng, n, n_head, d) * 2, normal(rng, cap, d), normal(rng, n_head)
    rows = normal(rng, n_rows, d) if ratio else None
    sel = n_sel = None
    if ratio == 4:
        sel, n_sel = np.full((n, top_k), -1, np.int32), np.zeros(n, np.int32)
        for i in range(n):
            visible = (pos0 + i + 1) // 4
            n_sel[i] = min(visible, top_k)
            sel[i, : n_sel[i]] = np.sort(rng.permutation(visible)[: n_sel[i]])
    return q, ring, rows, sel, n_sel, sinks


@pytest.mark.parametrize("ratio", [0, 4, 128])
@pytest.mark.parametrize(
    ("n", "n_head", "d", "pos0"),
    [(1, 1, 16, 0), (3, 5, 80, 2), (1, 16, 512, 900), (4, 6, 192, 127), (9, 64, 128, 1300)],
)
def test_matches_reference(rng, n, n_head, d, pos0, ratio):
    q, ring, rows, sel, n_sel, sinks = _case(rng, n, n_head, d, pos0, ratio, 30)
    expected, actual = poisoned(n, n_head, d), poisoned(n, n_head, d)
    args = ring, rows, sel, n_sel, sinks, pos0, 128, ratio
    reference.attend(expected, q, *args)

    cpu.attend(actual, q, *args)

    # Scores of size 2*sqrt(d) carry about 1e-6 relative; the softmax passes it on.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("ratio", [0, 4, 128])
def test_a_row_does_not_depend_on_its_neighbours(rng, ratio):
    n, n_head, d, pos0 = 37, 10, 128, 1000
    q, ring, rows, sel, n_sel, sinks = _case(rng, n, n_head, d, pos0, ratio, 100)
    whole = poisoned(n, n_head, d)
    cpu.attend(whole, q, ring, rows, sel, n_sel, sinks, pos0, 128, ratio)

    for count in (1, 2):
        with threads(count):
            for first, last in ((0, 1), (5, 8), (0, n), (n - 1, n)):
                part = slice(first, last)
                out = poisoned(last - first, n_head, d)
                chosen = (None, None) if sel is None else (sel[part], n_sel[part])
                cpu.attend(out, q[part], ring, rows, *chosen, sinks, pos0 + first, 128, ratio)
                assert same_bits(out, whole[part])


def test_a_head_does_not_depend_on_its_tile(rng):
    q, ring, rows, sel, n_sel, sinks = _case(rng, 1, 18, 64, 700, 4, 90)
    whole = poisoned(1, 18, 64)
    cpu.attend(whole, q, ring, rows, sel, n_sel, sinks, 700, 128, 4)

    for h in (0, 3, 7, 17):
        alone = poisoned(1, 1, 64)
        head = np.ascontiguousarray(q[:, h : h + 1])
        cpu.attend(alone, head, ring, rows, sel, n_sel, sinks[h : h + 1], 700, 128, 4)
        assert same_bits(alone[0, 0], whole[0, h])


@pytest.mark.parametrize("n_swa", [127, 128, 129])
def test_window_counts_the_current_token(rng, n_swa):
    q, ring, _, _, _, sinks = _case(rng, 1, 4, 64, 500, 0, 0)
    seen, hidden = ring.copy(), ring.copy()
    seen[(500 - n_swa + 1) % 512] += 1
    hidden[(500 - n_swa) % 512] = np.nan
    outs = []
    for rows in (ring, hidden, seen):
        out = poisoned(1, 4, 64)
        cpu.attend(out, q, rows, None, None, None, sinks, 500, n_swa, 0)
        outs.append(out)

    assert same_bits(outs[0], outs[1])
    assert not np.allclose(outs[0], outs[2], atol=1e-5)


def test_sink_takes_weight_and_gives_no_value(rng):
    ring = normal(rng, 256, 64)
    q = np.zeros((1, 2, 64), np.float32)
    sinks = np.array([np.log(10), 80], np.float32)
    out = poisoned(1, 2, 64)

    cpu.attend(out, q, ring, None, None, None, sinks, 9, 128, 0)

    np.testing.assert_allclose(out[0, 0], ring[:10].sum(axis=0) / 20, rtol=1e-5, atol=1e-6)
    assert np.abs(out[0, 1]).max() < 1e-30


def test_nan_in_a_visible_row_is_not_hidden(rng):
    q, ring, _, _, _, sinks = _case(rng, 1, 4, 64, 500, 0, 0)
    ring[500 % 512, 3] = np.nan
    out = np.zeros((1, 4, 64), np.float32)

    cpu.attend(out, q, ring, None, None, None, sinks, 500, 128, 0)

    assert np.isnan(out).all(axis=2).all()
