"""A model whose matrices are in any one format gives the reference set's logits and tokens.

Formats that have an encoder hold the trained weights of the bundled model; the others hold random
valid blocks whose values spread as a generated model's do.
"""

from __future__ import annotations

import gguf.quants
import numpy as np
import pytest

from engine import EngineOptions, open_engine
from engine.gguf.reader import open_gguf
from engine.models import bundled, shapes, write
from engine.models.recipes import OTHERS, formats_of
from engine.models.write import Trained, write_model
from engine.quant import registry
from engine.quant.formats import BY_NAME, KERNELS
from engine.quant.registry import dequantize
from tests.engine.ops.blocks import MIN_AT, PLUS, put_half, put_scale

DRAWN = tuple(n for n in KERNELS["cpu"] if n not in registry._QUANTIZE)
N = 24


def spread(raw: np.ndarray, name: str) -> tuple[float, float]:
    kind = gguf.GGMLQuantizationType[name]
    values = gguf.quants.dequantize(raw, kind)
    return float(values.mean()), float(values.std())


def random_encoder(name: str):
    """Encodes any rows as random blocks with their standard deviation and about a mean of zero."""
    size = BY_NAME[name].block_bytes
    rng = np.random.default_rng(len(name) + size)

    def encode(rows, importance=None):
        raw = rng.integers(0, 256, (rows.size // BY_NAME[name].block_len, size), dtype=np.uint8)
        put_scale(name, raw, 1)
        if name in MIN_AT:
            put_half(raw, MIN_AT[name], 0)
            mean, _ = spread(raw, name)
            whole = raw.copy()
            put_half(whole, MIN_AT[name], 1)
            low = mean - spread(whole, name)[0]
            put_half(raw, MIN_AT[name], mean / low if name not in PLUS else -mean)
        _, std = spread(raw, name)
        factor = float(np.std(rows)) / std
        if name in MIN_AT:
            put_half(raw, MIN_AT[name], factor * mean / low)
        put_scale(name, raw, factor)
        if name == "NVFP4":
            scale = np.float32([np.std(rows) / np.std(gguf.quants.NVFP4.kvalues) * 2])
            raw[:, :4] = gguf.quants.NVFP4.fp32_to_ue4m3(scale)
        return raw.reshape(-1)

    return encode


def logits(path, backend, tokens):
    options = EngineOptions(path=path, backend=backend, activations="f32", kv="f32", threads=2)
    with open_engine(options) as engine:
        return engine.session(64).all_logits(tokens)[0]


def check(path, tokens):
    """Every position's best token, which is what greedy decoding takes, and the logits beside."""
    expected, found = logits(path, "reference", tokens), logits(path, "cpu", tokens)
    assert np.ptp(expected, axis=1).min() > 0.5  # the model tells tokens apart
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.ptp(expected))
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


@pytest.fixture(scope="module")
def trained():
    model = bundled.bundled_model()
    with open_gguf(model.path) as file:
        weights = {
            t.name: t.data.view("<i4").reshape(t.shape)
            if t.format.name == "I32"
            else dequantize(t.data, t.format, t.shape)
            for t in file.tensors.values()
        }
    return weights


@pytest.mark.parametrize("recipe", OTHERS)
def test_the_bundled_model_in_an_encoded_format(tmp_path, trained, recipe):
    shape = shapes.nano()
    path = tmp_path / "m.gguf"
    known = Trained(trained, write.build_vocab(shape.n_vocab), "nano")
    write_model(path, shape, recipe, trained=known)
    with open_gguf(path) as file:
        assert file.tensors["blk.0.ffn_gate_exps.weight"].format.name == recipe.upper()
    check(path, np.random.default_rng(1).integers(3, shape.n_vocab, N).tolist())


@pytest.mark.parametrize("name", DRAWN)
def test_a_generated_model_of_random_blocks(tmp_path, monkeypatch, name):
    formats = formats_of("q8_0", "antirez")
    kinds = ("expert_in", "expert_out", "output")
    if BY_NAME[name].block_len == 32:  # the shape has projections of 64 values
        kinds += ("dense",)
    formats |= dict.fromkeys(kinds, name)
    monkeypatch.setattr(write, "formats_of", lambda *args, **more: formats)
    monkeypatch.setitem(registry._QUANTIZE, name, random_encoder(name))
    path = tmp_path / "m.gguf"
    shape = shapes.micro()
    write_model(path, shape, "q8_0", seed=3)
    check(path, np.random.default_rng(2).integers(3, shape.n_vocab, N).tolist())
