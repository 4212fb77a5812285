"""Products against gguf.quants and NumPy, and the promise that no neighbour changes a bit."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import cpu
from engine.ops.cpu.runtime import team
from engine.quant.formats import BY_NAME
from tests.engine.ops.blocks import (
    FORMATS,
    MIN_AT,
    QUANTISED,
    dequantised,
    int8_product,
    put_half,
    put_scale,
    random_blocks,
    random_tensor,
    tensor,
)

ROWS = 37  # two whole groups of 16 rows and a part of one
COUNTS = (1, 2, 3, 5, 8, 17, 64, 70)  # every tile width, and more than one pass over a panel


@pytest.fixture(autouse=True)
def _threads():
    before = team.threads()
    yield
    team.set_threads(before)


def rows(n, cols, seed=1):
    x = np.random.default_rng(seed).standard_normal((n, cols)).astype(np.float32)
    return x * np.float32(3)


def product(x, w):
    out = np.full((len(x), w.rows), np.nan, np.float32)
    cpu.matmul(out, x, w)
    return out


def columns(name):
    """One block, and more blocks than a kernel call covers; odd numbers where blocks allow."""
    return (256, 2304) if BY_NAME[name].block_len > 1 else (1, 259, 1024)


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_do_not_depend_on_company(name, activations):
    rng = np.random.default_rng(3)
    for cols in columns(name):
        t = random_tensor(name, rng, ROWS, cols)
        x = rows(max(COUNTS), cols)
        alone = cpu.prepare(t, activations=activations, repack=False)
        team.set_threads(1)
        expected = np.concatenate([product(x[i : i + 1], alone) for i in range(len(x))])
        assert np.isfinite(expected).all()
        for repack in (False, True):
            w = cpu.prepare(t, activations=activations, repack=repack)
            for threads in (1, 2):
                team.set_threads(threads)
                for n in COUNTS:
                    found = product(x[:n], w)
                    assert found.tobytes() == expected[:n].tobytes(), (cols, repack, threads, n)


@pytest.mark.parametrize("name", FORMATS)
def test_f32_mode_against_float64(name):
    rng = np.random.default_rng(4)
    for cols in columns(name):
        t = random_tensor(name, rng, ROWS, cols)
        x = rows(9, cols)
        w = dequantised(t).astype(np.float64)
        found = product(x, cpu.prepare(t, activations="f32", repack=False))
        # Rounding errors add like a random walk: about 1.5e-6 of the terms' root of squares.
        terms = np.sqrt((x.astype(np.float64) ** 2) @ (w**2).T)
        assert (np.abs(found - x @ w.T) <= 1e-5 * terms).all()


@pytest.mark.parametrize("name", QUANTISED)
def test_int8_mode_is_the_documented_arithmetic(name):
    rng = np.random.default_rng(5)
    for cols in (256, 2304):
        t = random_tensor(name, rng, ROWS, cols)
        x = rows(5, cols)
        found = product(x, cpu.prepare(t, activations="int8", repack=False))
        np.testing.assert_array_equal(found, int8_product(x, t))
        exact = x @ dequantised(t).astype(np.float64).T
        # The noise of 8-bit activations: 0.5 / 127 of a block's largest value, here 3 sigma.
        assert np.abs(found - exact).std() < 0.02 * exact.std()


def extreme_blocks(name, rng):
    """Blocks at the ends of their codes' ranges, with zero, denormal and large scales."""
    raw = random_blocks(name, ROWS * 512, rng)
    third = len(raw) // 3
    raw[:third] = 0xFF
    raw[third : 2 * third] = 0x80 if name == "Q8_0" else 0
    scales = np.float16([0, 6e-8, 6e-5, 1, 6e4])
    put_scale(name, raw, rng.choice(scales, len(raw)))
    if name in MIN_AT:
        put_half(raw, MIN_AT[name], rng.choice(scales, len(raw)))
    if name == "MXFP4":
        raw[:, 0] = rng.choice(np.uint8([0, 1, 2, 3, 127, 180]), len(raw))
    return raw


@pytest.mark.parametrize("name", QUANTISED)
def test_int8_mode_at_the_ends_of_every_range(name):
    rng = np.random.default_rng(6)
    t = tensor(name, extreme_blocks(name, rng), ROWS, 512)
    x = np.zeros((8, 512), np.float32)
    x[1] = 1
    x[2] = -1
    x[3, ::2] = 1e30
    x[3, 1::2] = -1e30
    x[4] = 1e-40
    x[5, 5] = 3e-37  # just below the least block that is not taken for zero
    x[6] = np.where(np.arange(512) % 2, 0.5, 127)  # products end in .5: half to even
    x[7] = np.linspace(-3, 3, 512)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = int8_product(x, t)
    for repack in (False, True):
        found = product(x, cpu.prepare(t, activations="int8", repack=repack))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_K", "IQ2_XXS"])
def test_non_finite_activations_reach_their_row_and_no_other(name, bad):
    t = random_tensor(name, np.random.default_rng(7), 16, 512)
    w = cpu.prepare(t, activations="int8", repack=False)
    x = rows(9, 512)
    clean = product(x, w)
    x[4, 300] = bad
    found = product(x, w)
    assert not np.isfinite(found[4]).any()
    others = np.arange(9) != 4
    assert found[others].tobytes() == clean[others].tobytes()


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0", "Q4_K"])
def test_several_weights_at_once_equal_one_by_one(name, activations):
    rng = np.random.default_rng(8)
    others = ("Q8_0", "F16", "IQ2_XXS", name)
    ts = [random_tensor(o, rng, r, 512) for o, r in zip(others, (24, 5, 16, 40))]
    ws = [cpu.prepare(t, activations=activations, repack=i % 2 == 0) for i, t in enumerate(ts)]
    for n in (1, 6, 33):
        x = rows(n, 512)
        outs = [np.full((n, w.rows), np.nan, np.float32) for w in ws]
        cpu.matmul_multi(outs, x, ws)
        for out, w in zip(outs, ws):
            assert out.tobytes() == product(x, w).tobytes()


@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("each", [16, 24, 5])
def test_grouped_product_is_a_product_per_group(name, each):
    t = random_tensor(name, np.random.default_rng(9), 3 * each, 256)
    for repack in (False, True):
        w = cpu.prepare(t, activations="int8", repack=repack)
        for n in (1, 2, 11):
            x = rows(n * 3, 256).reshape(n, 3, 256)
            out = np.full((n, 3, each), np.nan, np.float32)
            cpu.matmul_grouped(out, x, w)
            for g in range(3):
                whole = product(np.ascontiguousarray(x[:, g]), w)
                np.testing.assert_array_equal(out[:, g], whole[:, g * each : (g + 1) * each])


@pytest.mark.parametrize("name", FORMATS)
def test_embedding_rows_are_gguf_values(name):
    t = random_tensor(name, np.random.default_rng(10), ROWS, 512)
    tokens = np.array([0, 36, 15, 16, 31, 32, 7, 7], np.int32)
    expected = dequantised(t)[tokens]
    for repack in (False, True):
        w = cpu.prepare(t, activations="int8", repack=repack)
        state = np.full((len(tokens), 4, 512), np.nan, np.float32)
        cpu.embed_hc(state, tokens, w)
        for stream in range(4):
            np.testing.assert_array_equal(state[:, stream], expected)


def test_every_half_is_decoded():
    bits = np.arange(1 << 16, dtype=np.uint16)
    t = tensor("F16", bits.view(np.uint8), 256, 256)
    state = np.full((256, 1, 256), -1, np.float32)
    table = cpu.prepare(t, activations="f32", repack=False)
    cpu.embed_hc(state, np.arange(256, dtype=np.int32), table)
    expected = bits.view(np.float16).astype(np.float32).reshape(256, 1, 256)
    np.testing.assert_array_equal(state, expected)


@pytest.mark.parametrize("name", FORMATS)
def test_repacked_bytes_are_as_estimated(name):
    t = random_tensor(name, np.random.default_rng(11), 3, ROWS, 512)
    w = cpu.prepare(t, activations="int8", repack=True)
    assert w.repacked_bytes == cpu.repack_bytes(t)
    assert cpu.prepare(t, activations="int8", repack=False).repacked_bytes == 0
