"""The bundled model's experts and output as ggml's own quantisers store them, in every format."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest

from engine.gguf.reader import open_gguf
from engine.models import shapes, write
from engine.models.recipes import formats_of
from engine.models.write import Trained, write_model
from engine.quant import registry
from engine.quant.formats import BY_NAME
from tests.engine.ops.blocks import QUANTISED
from tests.engine.test_every_format import N, check, trained

__all__ = ["trained"]  # a fixture

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def ggml():
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    # The library alone: the package's import would start its backends.
    library = ctypes.CDLL(str(Path(found.origin).parent / "lib" / "libggml-base.so"))
    number, address = ctypes.c_int64, ctypes.c_void_p
    quantise = library.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, address, address, number, number, number, address]
    return quantise


def encoder(quantise, name: str):
    form, kind = BY_NAME[name], int(gguf.GGMLQuantizationType[name])

    def encode(rows, importance=None):
        rows = np.ascontiguousarray(rows, np.float32)
        cols = rows.shape[-1]
        n = rows.size // cols
        out = np.zeros(rows.size // form.block_len * form.block_bytes, np.uint8)
        even = np.ones(cols, np.float32)  # weights, without which ggml refuses some formats
        written = quantise(kind, rows.ctypes.data, out.ctypes.data, 0, n, cols, even.ctypes.data)
        assert written == out.size
        return out

    return encode


@pytest.mark.parametrize("name", QUANTISED)
def test_what_ggml_encodes_runs(tmp_path, monkeypatch, trained, ggml, name):
    formats = formats_of("q8_0", "antirez")
    formats |= dict.fromkeys(("expert_in", "expert_out", "output"), name)
    monkeypatch.setattr(write, "formats_of", lambda *args, **more: formats)
    monkeypatch.setitem(registry._QUANTIZE, name, encoder(ggml, name))
    shape = shapes.nano()
    path = tmp_path / "m.gguf"
    known = Trained(trained, write.build_vocab(shape.n_vocab), "nano")
    write_model(path, shape, "q8_0", trained=known)
    with open_gguf(path) as file:
        assert file.tensors["blk.0.ffn_gate_exps.weight"].format.name == name
    check(path, np.random.default_rng(1).integers(3, shape.n_vocab, N).tolist())
