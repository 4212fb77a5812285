"""Written files against gguf's reader, our own binding and llama.cpp."""

import importlib.util
import os

import gguf
import numpy as np
import pytest

from engine.errors import OptionError
from engine.gguf.reader import open_gguf
from engine.models import container
from engine.models.make import draft_specs, draw, trunk_specs
from engine.models.recipes import LAYOUTS, RECIPES, formats_of
from engine.models.shapes import micro
from engine.models.text import generate_text
from engine.models.vocab import build_vocab
from engine.models.write import write_model
from engine.quant.registry import dequantize, quantize
from engine.text.tokenizer import Tokenizer
from engine.weights.bind import bind_mtp, bind_trunk, check_values, iter_tensors
from tests.engine.generator import as_stored

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Trunk and draft files of the micro shape, made at the first request."""
    folder = tmp_path_factory.mktemp("written")

    def get(recipe, layout="antirez", draft=False):
        path = folder / f"{recipe}-{layout}-{draft}.gguf"
        if not path.exists():
            write_model(path, micro(), recipe, 3, layout, draft=draft)
        return path

    return get


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_files_bind_and_hold_finite_values(files, recipe, layout):
    with open_gguf(files(recipe, layout)) as trunk, open_gguf(files(recipe, layout, True)) as draft:
        shape, weights = bind_trunk(trunk)
        block = bind_mtp(draft, shape)

        assert shape == as_stored(micro())
        for bound in (weights, block):
            check_values("file", iter_tensors(bound))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("recipe", ["f32", "q4", "iq2"])
def test_gguf_s_reader_finds_the_weights_drawn(files, recipe, layout):
    reader = gguf.GGUFReader(files(recipe, layout))
    tensors = {t.name: t for t in reader.tensors}
    formats = formats_of(recipe, layout)
    specs = list(trunk_specs(micro()))

    assert list(tensors) == [s.name for s in specs]
    for spec in specs:
        found = tensors[spec.name]
        assert found.tensor_type.name == formats[spec.kind]
        assert tuple(int(n) for n in reversed(found.shape)) == spec.shape
        values = draw(spec, 3)
        expected = (
            values.view(np.uint8).reshape(-1)
            if spec.kind == "table"
            else quantize(values, formats[spec.kind])
        )
        np.testing.assert_array_equal(found.data.view(np.uint8).reshape(-1), expected)


def test_both_layouts_of_the_draft_block_hold_the_same_weights(files):
    with open_gguf(files("f32")) as trunk:
        shape, _ = bind_trunk(trunk)
    with (
        open_gguf(files("q8_0", "antirez", True)) as a,
        open_gguf(files("q8_0", "llama", True)) as b,
    ):
        left, right = ({t.name: t for t in iter_tensors(bind_mtp(f, shape))} for f in (a, b))
        e, h = (left[f"mtp.0.{side}_proj.weight"].data.reshape(256, -1) for side in "eh")
        joined = b.tensors["blk.4.nextn.eh_proj.weight"].data.reshape(256, -1)

        np.testing.assert_array_equal(joined, np.concatenate([e, h], axis=1))
        for spec in draft_specs(micro()):
            leaf = spec.name.removeprefix("mtp.0.")
            twin = right.get(f"blk.4.{leaf}")
            if twin is not None and twin.format == left[spec.name].format:
                np.testing.assert_array_equal(twin.data, left[spec.name].data)
        assert sum(f"blk.4.{n.removeprefix('mtp.0.')}" in right for n in left) >= 20


def test_every_metadata_key_that_the_peers_need(files):
    antirez = gguf.GGUFReader(files("f32")).fields
    llama = gguf.GGUFReader(files("f32", "llama")).fields
    draft = gguf.GGUFReader(files("f32", "llama", True)).fields

    def value(fields, key):
        return fields[f"deepseek4.{key}"].contents()

    assert value(antirez, "vocab_size") == 512 and "deepseek4.vocab_size" not in llama
    assert value(llama, "embedding_length_out") == 1024
    assert value(antirez, "attention.compress_ratios") == [0, 4, 128, 4]
    assert value(llama, "attention.compress_ratios") == [0, 4, 128, 4, 0]
    assert (value(llama, "block_count"), value(draft, "block_count")) == (4, 5)
    assert value(draft, "nextn_predict_layers") == 1
    assert value(antirez, "expert_weights_norm") is True
    assert value(antirez, "expert_gating_func") == 4
    assert value(antirez, "swiglu_clamp_exp") == [10.0] * 4
    assert value(antirez, "attention.layer_norm_rms_epsilon") == np.float32(1e-6)
    assert antirez["tokenizer.ggml.pre"].contents() == "joyai-llm"


def test_the_file_s_tokenizer_round_trips(files):
    with open_gguf(files("f32")) as file:
        tokenizer = Tokenizer.from_metadata(file.metadata)
    text = generate_text(8, 2000)

    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.bos_id == build_vocab(512).bos and tokenizer.eos_ids == {1}


def test_equal_arguments_give_equal_bytes(tmp_path, files):
    first = files("iq2")

    again = write_model(tmp_path / "again.gguf", micro(), "iq2", 3)
    other = write_model(tmp_path / "other.gguf", micro(), "iq2", 4)

    assert again.path.read_bytes() == first.read_bytes()
    assert other.sha256 != again.sha256 and other.n_bytes == again.n_bytes


def test_summary_is_of_the_file(tmp_path):
    import hashlib

    model = write_model(tmp_path / "m.gguf", micro(), "q8_0", 0)

    assert model.n_bytes == model.path.stat().st_size
    assert model.sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    assert model.n_params == sum(
        int(np.prod(s.shape)) for s in trunk_specs(micro()) if s.kind != "table"
    )
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_existing_files_stay_without_force(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_text("precious")

    with pytest.raises(OptionError, match=r"out: expected a new file .*m\.gguf"):
        write_model(path, micro(), "q8_0")
    assert path.read_text() == "precious"

    write_model(path, micro(), "q8_0", force=True)
    assert path.read_bytes()[:4] == b"GGUF"


def test_a_file_that_appears_meanwhile_stays(tmp_path):
    path = tmp_path / "m.gguf"

    def intrude(name, done, total):
        path.write_text("precious")

    with pytest.raises(OptionError, match="expected a new file"):
        write_model(path, micro(), "q8_0", progress=intrude)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container.os, "fsync", fail)

    with pytest.raises(OSError, match="No space"):
        write_model(tmp_path / "m.gguf", micro(), "q8_0")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "q5"}, "recipe: expected one of f32"),
        ({"layout": "x"}, "layout: expected one of antirez"),
        ({"seed": -1}, "seed: expected 0 to"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, change, message):
    with pytest.raises(OptionError, match=message):
        write_model(tmp_path / "m.gguf", micro(), **change)
    assert os.listdir(tmp_path) == []


def test_bad_paths_are_refused(tmp_path):
    with pytest.raises(OptionError, match="existing folder"):
        write_model(tmp_path / "no" / "m.gguf", micro())
    with pytest.raises(OptionError, match="found the folder"):
        write_model(tmp_path, micro())


@pytest.mark.peer
@needs_llama
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_llama_cpp_runs_the_file(files, recipe, layout):
    from tests.oracle.llama import llama_logits

    path = files(recipe, layout)
    with open_gguf(path) as file:
        ids = Tokenizer.from_metadata(file.metadata).encode(generate_text(5, 1000)).ids[:150]

    logits = llama_logits(path, ids)

    assert np.isfinite(logits).all()
    # The weights are scaled for 3; a part left out or doubled moves it by more than a fifth.
    assert 2.5 < logits.std(axis=1).mean() < 3.6
    assert len(set(logits.argmax(axis=1).tolist())) > 30


def test_dequantised_file_is_close_to_the_weights(files):
    with open_gguf(files("iq2")) as file:
        t = file.tensors["blk.2.ffn_gate_exps.weight"]
        found = dequantize(t.data, t.format, t.shape)
    spec = next(s for s in trunk_specs(micro()) if s.name == t.name)
    weights = draw(spec, 3)

    # IQ2_XXS keeps about 0.33 of a normal value's width as error.
    assert (found - weights).std() / weights.std() == pytest.approx(0.328, abs=0.01)


@pytest.mark.parametrize("recipe", RECIPES)
def test_quick_file_is_valid_and_keeps_the_spread_of_its_values(tmp_path, monkeypatch, recipe):
    from engine.models import stream

    monkeypatch.setattr(stream, "QUICK_VALUES", 1 << 14)
    model = write_model(tmp_path / "quick.gguf", micro(), recipe, 3, quick=True)

    assert model.sha256 == "" and model.n_bytes == model.path.stat().st_size
    name = "blk.1.ffn_gate_exps.weight"
    spread = next(s.std for s in trunk_specs(micro()) if s.name == name)
    with open_gguf(model.path) as file:
        _, weights = bind_trunk(file)
        check_values("file", iter_tensors(weights))
        tensor = file.tensors[name]
        values = dequantize(tensor.data, tensor.format, tensor.shape)
    # 16384 drawn values give the spread to a percent or so; IQ2 adds its own error.
    assert values.std() == pytest.approx(spread, rel=0.1)
    # Rows repeat, but not in step: no two experts are the same.
    assert not np.array_equal(values[0], values[1])


def test_a_joined_matrix_is_quick_too(tmp_path, monkeypatch):
    from engine.models import stream

    monkeypatch.setattr(stream, "QUICK_VALUES", 1 << 12)  # 16 rows
    model = write_model(tmp_path / "q.gguf", micro(), "f32", 3, "llama", draft=True, quick=True)

    tensors = {t.name: t.data for t in gguf.GGUFReader(model.path).tensors}
    embedded, hidden = np.split(tensors[f"blk.{micro().n_layer}.nextn.eh_proj.weight"], 2, axis=1)
    assert len(np.unique(hidden, axis=0)) == 16
    assert len(np.unique(embedded, axis=0)) == len(embedded), "close to the identity: drawn whole"
