"""Logits of whole models against transformers' DeepseekV4ForCausalLM and llama.cpp.

Reference mode (float32 activations and rows) is held to float32 noise: everything else that two
implementations may do differently cancels out, because both sides see the file's dequantised
weights. int8 mode is held to the noise floor that correct engines show among each other.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from tests.oracle import golden
from tests.oracle.compare import distance, report
from tests.oracle.opened import logits_of, opened
from tests.oracle.randfile import RECIPES, SPECS, write_mtp, write_trunk

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None
        or importlib.util.find_spec("transformers") is None,
        reason="torch and transformers are not installed",
    ),
]
needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)

# Two float32 engines differ by at most 2e-4 after 1000 tokens; the smallest planted fault that
# logits can show (`test_golden.py`) by more than 1e-2.
CLOSE = 1e-3
LENGTHS = (55, 300, 1000)
# int8 activations: rms between two correct engines, and mean KL; chaotic, grows with length.
INT8_RMS = {55: 0.20, 300: 0.20, 1000: 0.25}
INT8_KL = 0.02


def text(n_vocab: int, n: int) -> list[int]:
    return np.random.default_rng(5).integers(0, n_vocab, 1000).tolist()[:n]


def check_close(what, reference, got):
    d = report(what, len(got), distance(reference, got))
    assert d.max_abs < CLOSE
    assert d.top1 == 1


@pytest.fixture(scope="module", params=["A", "B", "C"])
def f32_file(request, tmp_path_factory):
    """(name, Spec, path) of an F32 file of each shape."""
    spec = SPECS[request.param]
    folder = tmp_path_factory.mktemp("f32")
    return request.param, spec, write_trunk(folder / f"{request.param}.gguf", spec, "f32")


@pytest.fixture(scope="module")
def f32_model(f32_file):
    from tests.oracle.hf import hf_model

    return hf_model(f32_file[2])


@needs_llama
@pytest.mark.peer
@pytest.mark.parametrize("n", LENGTHS)
def test_transformers_and_llama_cpp_agree(f32_file, f32_model, n):
    """The oracles themselves: translation of names and metadata is right for both."""
    from tests.oracle.hf import hf_logits
    from tests.oracle.llama import llama_logits

    name, spec, path = f32_file
    ids = text(spec.n_vocab, n)
    check_close(f"{name} F32: HF, llama.cpp", hf_logits(f32_model, ids), llama_logits(path, ids))


@pytest.mark.parametrize("n", LENGTHS)
def test_f32_equals_transformers(f32_file, f32_model, n):
    from tests.oracle.hf import hf_logits

    name, spec, path = f32_file
    ids = text(spec.n_vocab, n)
    with opened(path, "cpu", activations="f32", kv="f32") as engine:
        check_close(f"{name} F32: HF, ds4 f32", hf_logits(f32_model, ids), logits_of(engine, ids))


def test_routing_equals_transformers(f32_file, f32_model):
    from tests.oracle.hf import hf_logits, tap

    _, spec, path = f32_file
    ids = text(spec.n_vocab, 300)
    with tap(f32_model) as seen:
        hf_logits(f32_model, ids)
    with opened(path, "cpu", activations="f32", kv="f32") as engine:
        _, routing = engine.session(300).all_logits(ids, routing=True)
    for layer, ids_hf in enumerate(seen.experts):
        np.testing.assert_array_equal(np.sort(routing.ids[layer], axis=-1), ids_hf)
        if layer >= spec.n_hash_layer:
            bias = f32_model.model.layers[layer].mlp.gate.e_score_correction_bias.numpy()
            logits = seen.router_logits[layer].astype(np.float64)
            score = np.sort(np.sqrt(np.logaddexp(0, logits)) + bias, axis=-1)[:, ::-1]
            margin = score[:, spec.n_expert_used - 1] - score[:, spec.n_expert_used]
            np.testing.assert_allclose(routing.margin[layer], margin, atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 4, 128])
def test_official_rows_of_one_layer_equal_transformers(tmp_path, f32_file, ratio):
    """One layer, so that a rounding that falls the other way cannot cascade."""
    from tests.oracle.hf import hf_logits, hf_model

    name, spec, _ = f32_file
    spec = replace(spec, ratios=(ratio,), n_hash_layer=0)
    path = write_trunk(tmp_path / "one.gguf", spec, "f32")
    model, ids = hf_model(path), text(spec.n_vocab, 300)
    want = hf_logits(model, ids, official=True)
    with opened(path, "cpu", activations="f32", kv="official") as engine:
        got = logits_of(engine, ids)
    what = f"{name} one layer, ratio {ratio}: HF+official rows, ds4 official"
    report(what, 300, distance(want, got))
    exact = np.abs(want - hf_logits(model, ids)).max(axis=1)
    off = np.abs(want - got).max(axis=1)
    # Float32 noise flips about one FP8 code in 50,000 and, in the indexer, some near ties of
    # coarse FP4 scores; every other position must agree as closely as a flip in f16 allows.
    assert (exact > 0.02).mean() > 0.9
    assert (off > 0.02).mean() < 0.05


@pytest.mark.parametrize("n", LENGTHS)
def test_official_rows_equal_transformers_with_the_same_rounding(f32_file, f32_model, n):
    from tests.oracle.hf import hf_logits

    name, spec, path = f32_file
    ids = text(spec.n_vocab, n)
    want = hf_logits(f32_model, ids, official=True)
    with opened(path, "cpu", activations="f32", kv="official") as engine:
        got = logits_of(engine, ids)
    d = report(f"{name} F32: HF+official rows, ds4 official", n, distance(want, got))
    effect = distance(want, hf_logits(f32_model, ids))
    # Flipped roundings cascade: one in 50,000 in the first layer, 2 % of rows' values in the sixth,
    # and by then a few router choices. Leaving the rounding out is the scale to judge by.
    assert d.rms < effect.rms / 2
    assert d.top1 > effect.top1


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r != "f32"])
def test_other_writers_files_equal_transformers(tmp_path, recipe):
    """Files of the `gguf` package's own quantisers, in both layouts' types."""
    from tests.oracle.hf import hf_logits, hf_model

    spec = SPECS["A"]
    path = write_trunk(tmp_path / "a.gguf", spec, recipe)
    ids = text(spec.n_vocab, 300)
    with opened(path, "cpu", activations="f32", kv="f32") as engine:
        got = logits_of(engine, ids)
    check_close(f"A {recipe}: HF(deq), ds4 f32", hf_logits(hf_model(path), ids), got)


MADE = [
    (shape, recipe, layout)
    for shape, layout in (("tiny", "antirez"), ("tiny", "llama"), ("tiny-wide", "antirez"))
    for recipe in ("f16", "q8_0", "q4", "iq2")
]


@pytest.mark.parametrize(("shape", "recipe", "layout"), MADE)
def test_every_recipe(tmp_path, shape, recipe, layout):
    """Our own files: reference mode exactly, int8 mode within the noise floor."""
    from engine.models.shapes import named_shape
    from engine.models.write import write_model
    from tests.oracle.hf import hf_logits, hf_model

    path = tmp_path / "m.gguf"
    write_model(path, named_shape(shape), recipe, 1, layout)
    # In float64: in float32 torch decides near ties of the indexer by the processor it runs on
    # (seen: tiny q4 llama on AVX2, 0.6 from position 270 on, where float64 agrees with us to 2e-5).
    model = hf_model(path).double()
    what = f"{shape} {recipe} {layout}"
    # Every length on the shape that the noise floor was measured on.
    lengths = LENGTHS if (shape, layout) == ("tiny", "antirez") else (300,)
    want = {n: hf_logits(model, text(model.config.vocab_size, n)) for n in lengths}
    for n in lengths:
        ids = text(model.config.vocab_size, n)
        with opened(path, "cpu", activations="f32", kv="f32") as engine:
            check_close(f"{what}: HF(deq), ds4 f32", want[n], logits_of(engine, ids))
    for n in lengths:
        ids = text(model.config.vocab_size, n)
        with opened(path, "cpu", activations="int8", kv="f32") as engine:
            d = report(f"{what}: HF(deq), ds4 int8", n, distance(want[n], logits_of(engine, ids)))
        assert d.rms <= INT8_RMS[n]
        assert d.kl <= INT8_KL
        if n == 300 and layout == "antirez" and importlib.util.find_spec("llama_cpp"):
            from tests.oracle.llama import llama_logits

            peer = distance(want[n], llama_logits(path, ids))
            report(f"{what}: HF(deq), llama.cpp (for scale)", n, peer)


@pytest.mark.parametrize("layout", ["separate", "nextn"])
@pytest.mark.parametrize("name", ["A", "B"])
def test_mtp_equals_transformers_decoder_layer(tmp_path, name, layout):
    from engine.spec.mtp import MtpDrafter as Drafter
    from tests.oracle.hf import hf_model, hf_mtp_logits

    spec = SPECS[name]
    trunk = write_trunk(tmp_path / "t.gguf", spec, "f32")
    block = write_mtp(tmp_path / "m.gguf", spec, layout, "f32")
    ids = text(spec.n_vocab, 300)
    want, _ = hf_mtp_logits(hf_model(trunk), block, ids)
    at = [1, 2, 17, spec.n_swa - 1, spec.n_swa, spec.n_swa + 1, 200, 299]
    got = np.full((len(at), spec.n_vocab), np.nan, np.float32)
    with opened(trunk, "cpu", activations="f32", kv="f32", mtp_path=block) as engine:
        session = engine.session(300)
        drafter = Drafter(session)
        for row, pos in enumerate(at):
            session.sync(ids[:pos])
            assert drafter.ready()
            got[row] = drafter.draft(session.hidden, ids[pos], pos)[0]
    d = report(
        f"{name} MTP {layout}: HF layer, ds4", len(at), distance(want[np.array(at) - 1], got)
    )
    assert d.max_abs < CLOSE
    assert d.top1 == 1


def test_stored_rows_are_what_transformers_computes(tmp_path):
    fresh = golden.hf_rows(golden.write_file(tmp_path))
    stored = golden.load()
    assert fresh.keys() == stored.keys()
    np.testing.assert_allclose(stored["f32"], fresh["f32"], atol=1e-4)
    # Another torch build may flip a rounding to FP8.
    assert distance(stored["official"], fresh["official"]).rms < 0.1
