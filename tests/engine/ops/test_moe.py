"""Routed and shared feed-forwards against float64, and row by row against themselves."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import cpu
from engine.ops.cpu.runtime import team
from tests.engine.ops.blocks import dequantised, random_tensor

N_EXPERT, FF, EMBD, USED = 7, 256, 512, 3
RECIPES = (
    ("IQ2_XXS", "Q2_K"),
    ("Q4_K", "Q4_K"),
    ("Q8_0", "MXFP4"),
    ("F16", "BF16"),
    ("F32", "F32"),
)


@pytest.fixture(autouse=True)
def _threads():
    before = team.threads()
    yield
    team.set_threads(before)


def silu(x):
    return x / (1 + np.exp(-x))


def experts(recipe, seed=1):
    rng = np.random.default_rng(seed)
    side, down = recipe
    return (
        random_tensor(side, rng, N_EXPERT, FF, EMBD),
        random_tensor(side, rng, N_EXPERT, FF, EMBD),
        random_tensor(down, rng, N_EXPERT, EMBD, FF),
    )


def inputs(n, seed=2):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, EMBD)).astype(np.float32)
    ids = np.argsort(rng.random((n, N_EXPERT)), 1)[:, :USED].astype(np.int32)
    return x, ids, rng.random((n, USED)).astype(np.float32)


def routed(x, ids, weights, prepared, limit):
    out = np.full_like(x, np.nan)
    cpu.routed_moe(out, x, ids, weights, *prepared, limit)
    return out


def prepare(tensors, activations, repack):
    return [cpu.prepare(t, activations=activations, repack=repack) for t in tensors]


def in_float64(x, ids, weights, tensors, limit):
    """Sum of the chosen experts and, beside it, the root of squares of the last product's terms."""
    gate, up, down = (dequantised(t).astype(np.float64) for t in tensors)
    out, size = np.zeros(x.shape), np.zeros(x.shape)
    for i, row in enumerate(x):
        for slot, e in enumerate(ids[i]):
            g, u = gate[e] @ row, up[e] @ row
            if limit > 1e-6:
                g, u = np.minimum(g, limit), np.clip(u, -limit, limit)
            mid = silu(g) * u * weights[i, slot]
            out[i] += down[e] @ mid
            size[i] += np.sqrt(down[e] ** 2 @ mid**2)
    return out, size


@pytest.mark.parametrize("limit", [0.0, 1.5])
@pytest.mark.parametrize("recipe", RECIPES, ids="-".join)
def test_f32_mode_against_float64(recipe, limit):
    tensors = experts(recipe)
    x, ids, weights = inputs(6)
    found = routed(x, ids, weights, prepare(tensors, "f32", False), limit)
    expected, size = in_float64(x, ids, weights, tensors, limit)
    # Two products in a row, each with errors of about 1.5e-6 of its terms' root of squares;
    # silu and the product with up at most double the first one's.
    assert (np.abs(found - expected) <= 5e-5 * size).all()
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("recipe", RECIPES[:3], ids="-".join)
def test_int8_mode_is_near_float64(recipe):
    tensors = experts(recipe)
    x, ids, weights = inputs(6)
    found = routed(x, ids, weights, prepare(tensors, "int8", False), 0.0)
    expected, size = in_float64(x, ids, weights, tensors, 0.0)
    # Activations round to 1/127 of a block's largest, twice; about 1 % of the terms each.
    assert np.sqrt(np.mean(((found - expected) / size) ** 2)) < 0.03


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("recipe", RECIPES[:4], ids="-".join)
def test_rows_do_not_depend_on_company(recipe, activations):
    tensors = experts(recipe)
    x, ids, weights = inputs(64)
    ids[20:40] = ids[20]  # one expert with more rows than the widest tile
    plain = prepare(tensors, activations, False)
    team.set_threads(1)
    expected = np.concatenate(
        [
            routed(x[i : i + 1], ids[i : i + 1], weights[i : i + 1], plain, 1.5)
            for i in range(len(x))
        ]
    )
    assert np.isfinite(expected).all()
    for repack in (False, True):
        prepared = prepare(tensors, activations, repack)
        for threads in (1, 2):
            team.set_threads(threads)
            for n in (1, 2, 3, 8, 17, 64):
                found = routed(x[:n], ids[:n], weights[:n], prepared, 1.5)
                assert found.tobytes() == expected[:n].tobytes(), (repack, threads, n)


def test_fused_shared_expert_equals_its_steps():
    rng = np.random.default_rng(4)
    gate, up, down = (
        cpu.prepare(random_tensor("Q8_0", rng, *shape), activations="int8", repack=False)
        for shape in ((FF, EMBD), (FF, EMBD), (EMBD, FF))
    )
    for n in (1, 9):
        x = inputs(n)[0]
        fused = np.full_like(x, np.nan)
        cpu.shared_ffn(fused, x, gate, up, down, 1.5)
        g, u = np.empty((2, n, FF), np.float32)
        cpu.matmul_multi([g, u], x, [gate, up])
        cpu.swiglu(g, g, u, 1.5)
        steps = np.full_like(x, np.nan)
        cpu.matmul(steps, g, down)
        assert fused.tobytes() == steps.tobytes()


def test_slots_add_in_slot_order():
    tensors = experts(("Q8_0", "Q8_0"))
    prepared = prepare(tensors, "int8", False)
    x, _, _ = inputs(1)
    ids, weights = np.array([[5, 0, 3]], np.int32), np.ones((1, 3), np.float32)
    parts = [routed(x, ids[:, [s]].copy(), weights[:, :1].copy(), prepared, 0.0) for s in range(3)]
    found = routed(x, ids, weights, prepared, 0.0)
    assert found.tobytes() == ((parts[0] + parts[1]) + parts[2]).tobytes()
    assert found.tobytes() != (parts[0] + (parts[1] + parts[2])).tobytes()


def test_unknown_expert_is_refused():
    prepared = prepare(experts(("Q8_0", "Q8_0")), "int8", False)
    x, ids, weights = inputs(2)
    for bad in (-1, N_EXPERT):
        ids[1, 1] = bad
        with pytest.raises(AssertionError, match="ids: expected 0 to 6"):
            routed(x, ids, weights, prepared, 0.0)


@pytest.mark.parametrize("cols", [1, 15, 16, 33, 256])
def test_swiglu_against_float64(cols):
    rng = np.random.default_rng(5)
    gate = (rng.standard_normal((5, cols)) * 20).astype(np.float32)
    gate.flat[:5] = [0, -0.0, 80, -80, -200]
    up = (rng.standard_normal((5, cols)) * 20).astype(np.float32)
    for limit in (0.0, 1e-7, 10.0):
        out = np.full_like(gate, np.nan)
        cpu.swiglu(out, gate, up, limit)
        g, u = gate.astype(np.float64), up.astype(np.float64)
        if limit > 1e-6:
            g, u = np.minimum(g, limit), np.clip(u, -limit, limit)
        # exp within 2 ulp, then a sum, a quotient and two products of half an ulp each; below
        # -88 the result is held at about 1e-37 of its true size instead of vanishing.
        np.testing.assert_allclose(out, silu(g) * u, rtol=6e-7, atol=1e-34)


def test_swiglu_passes_on_what_is_not_a_number():
    gate, up = np.ones((2, 1, 20), np.float32)
    gate[0, 3] = np.nan
    up[0, 7] = np.nan
    out = np.zeros_like(gate)
    cpu.swiglu(out, gate, up, 10.0)
    assert np.flatnonzero(np.isnan(out[0])).tolist() == [3, 7]


def test_add_is_in_place_and_elementwise():
    rng = np.random.default_rng(6)
    for shape in ((1, 1), (3, 37), (130, 1024)):
        a, b = rng.standard_normal((2, *shape)).astype(np.float32)
        expected = a + b
        cpu.add(a, b)
        np.testing.assert_array_equal(a, expected)
