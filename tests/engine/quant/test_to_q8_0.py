"""Conversion of foreign formats at load time."""

import gguf
import numpy as np
import pytest
from gguf import quants

from engine.errors import LayoutError
from engine.gguf.tensor import Tensor
from engine.quant import registry
from engine.quant.formats import BY_NAME
from engine.quant.registry import dequantize, to_q8_0


def tensor(name, shape, data):
    return Tensor("blk.0.attn_kv.weight", BY_NAME[name], shape, data)


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1"])
@pytest.mark.parametrize("shape", [(1, 32), (37, 96), (3, 5, 64)])
def test_values_are_gguf_s_within_half_a_step(monkeypatch, name, shape):
    monkeypatch.setattr(registry, "_PIECE_VALUES", 64)  # several pieces
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    kind = gguf.GGMLQuantizationType[name]
    raw = quants.quantize(x, kind)
    source = tensor(name, shape, raw.reshape(-1))

    found = to_q8_0(source)

    expected = quants.dequantize(raw, kind).reshape(shape)
    actual = dequantize(found.data, found.format, found.shape)
    assert (found.name, found.format.name, found.shape) == (source.name, "Q8_0", shape)
    blocks = np.abs(expected.reshape(-1, 32))
    step = np.repeat(blocks.max(axis=1) / 127, 32).reshape(shape)
    # Half a step of rounding, and the scale's own rounding to float16 (2^-11).
    assert (np.abs(actual - expected) <= step / 2 + np.abs(expected) * 2**-10).all()


def test_refusals_name_the_tensor():
    with pytest.raises(LayoutError, match=r"blk\.0\.attn_kv\.weight: .*found 'I8'"):
        to_q8_0(tensor("I8", (1, 32), np.zeros(32, np.uint8)))
    with pytest.raises(LayoutError, match=r"blk\.0\.attn_kv\.weight: .*multiple of 32, found 8"):
        to_q8_0(tensor("F16", (2, 8), np.zeros(32, np.uint8)))
    with pytest.raises(LayoutError, match=r"blk\.0\.attn_kv\.weight: .*expected finite"):
        to_q8_0(tensor("Q4_0", (1, 32), np.full(18, 0xFF, np.uint8)))
