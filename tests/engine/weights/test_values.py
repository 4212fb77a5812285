"""The scan for NaN and infinity against `gguf.quants`, block by block, and its speed."""

from __future__ import annotations

import tracemalloc

import gguf
import numpy as np
import pytest

from engine.gguf.tensor import Tensor
from engine.quant.formats import BY_ID, BY_NAME
from engine.weights import values
from engine.weights.values import scan_ids, scan_values
from tests.counting import lines_run

PLAIN = ["F32", "F16", "BF16", "F64"]
QUANTISED = [
    f.name
    for f in BY_ID.values()
    if f.name in {t.name for t in gguf.quants._type_traits}
    and f.name not in (*PLAIN, "NVFP4")  # whose scales are all finite
]
N = 37


def make(name, data) -> Tensor:
    fmt = BY_NAME[name]
    return Tensor("t", fmt, (data.size // fmt.block_bytes * fmt.block_len,), data)


def dequantised(name, data) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[name]
    block = BY_NAME[name].block_bytes
    # Overflow to infinity is what is looked for.
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data.reshape(-1, block), kind)


@pytest.mark.parametrize("name", QUANTISED)
def test_blocks_that_dequantise_to_nothing_finite_are_found(name):
    """Random bytes, one block at a time: the scan says what gguf's own arithmetic says."""
    rng = np.random.default_rng(0)
    fmt = BY_NAME[name]
    blocks = rng.integers(0, 256, (4000, fmt.block_bytes), dtype=np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = rng.choice([0, 100, 200, 252, 253, 254, 255], 4000)
        # Every element code occurs in each block, so its largest one does.
        blocks[:, 1:9] = np.arange(8, dtype=np.uint8)
    finite = np.isfinite(dequantised(name, blocks)).all(axis=1)
    clean = np.ascontiguousarray(blocks[finite])
    found = [scan_values(make(name, block)) is None for block in blocks[:400]]

    assert scan_values(make(name, clean.reshape(-1))) is None
    # Infinity times a zero quant is NaN, so a bad scale shows in every block of these formats.
    assert found == finite[:400].tolist()
    assert 0 < finite.sum() < 4000


@pytest.mark.parametrize("name", QUANTISED)
def test_a_single_bad_scale_is_located(name):
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (4000, BY_NAME[name].block_bytes), dtype=np.uint8)
    finite = np.isfinite(dequantised(name, blocks)).all(axis=1)
    if name == "MXFP4":
        blocks[:, 0] = np.minimum(blocks[:, 0], 250)
        good, bad = blocks[:N].copy(), blocks[0].copy()
        bad[0] = 255
    else:
        good, bad = blocks[finite][:N], blocks[~finite][0]
    for at in (0, 17, N - 1):
        mixed = good.copy()
        mixed[at] = bad
        assert scan_values(make(name, mixed.reshape(-1))) == (
            f"NaN or infinity in block scale {at} of {N}"
        )


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_plain_floats(name, value):
    values = np.linspace(-1, 1, N).astype(np.float32)
    values[0], values[1] = np.finfo(np.float16).max, 0
    code = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}.get(name)

    def raw(x):
        if name == "BF16":
            return gguf.quants.quantize(x, gguf.GGMLQuantizationType.BF16).view(np.uint8)
        return x.astype(code).view(np.uint8)

    assert scan_values(make(name, raw(values).reshape(-1))) is None
    values[20] = value
    assert scan_values(make(name, raw(values).reshape(-1))) == (
        f"NaN or infinity in value 20 of {N}"
    )


def test_q8_k_and_q8_1():
    for name, scale, width in (("Q8_K", "<f4", 4), ("Q8_1", "<f2", 2)):
        blocks = np.zeros((N, BY_NAME[name].block_bytes), np.uint8)
        assert scan_values(make(name, blocks.reshape(-1))) is None
        blocks[5, :width] = np.array([np.inf], scale).view(np.uint8)
        assert "scale 5 " in scan_values(make(name, blocks.reshape(-1)))


def test_integers_have_nothing_to_scan():
    for name in ("I8", "I32"):
        assert scan_values(make(name, np.full(64, 0xFF, np.uint8))) is None


def test_a_bad_value_behind_the_first_chunk():
    data = np.zeros(40 << 20, np.uint8)
    data[-4:] = 0xFF

    assert (
        scan_values(make("F32", data))
        == f"NaN or infinity in value {10 * 2**20 - 1} of {10 * 2**20}"
    )


def test_ids():
    ids = np.arange(12, dtype="<i4").reshape(6, 2)
    table = Tensor("t", BY_NAME["I32"], (6, 2), ids.reshape(-1).view(np.uint8))

    assert scan_ids(table, 12) is None
    assert scan_ids(table, 11) == "11 in row 5"
    assert scan_ids(Tensor("t", BY_NAME["I32"], (0, 2), np.empty(0, np.uint8)), 4) is None


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q2_K", "IQ2_XXS", "MXFP4", "F16", "F32"])
def test_a_scan_is_a_few_numpy_calls_over_pieces_that_fit_a_cache(name):
    n = (32 << 20) // BY_NAME[name].block_bytes * BY_NAME[name].block_bytes
    tensor = make(name, np.full(n, 0x11, np.uint8))
    pieces = -(-n // values._CHUNK) + 1
    assert scan_values(tensor) is None

    tracemalloc.start()
    lines = lines_run(lambda: scan_values(tensor))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert lines <= 40 * pieces
    # A masked copy of a piece's values, and its comparison where something was found.
    assert peak <= values._CHUNK * 1.1
