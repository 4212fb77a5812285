"""From the parts of a training run to GGUF files: the same values, the same tokens, one record."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from engine.errors import OptionError
from engine.gguf.reader import open_gguf
from engine.models.bundled import KINDS, RECIPES, TOKENIZER, bundled_model
from engine.models.shapes import nano
from engine.training import export
from engine.training.checkpoint import save_parts
from engine.weights.bind import bind_mtp, bind_trunk
from tests.engine.generator import as_stored
from tests.engine.models import drawn_weights


@pytest.fixture(scope="module")
def weights():
    return drawn_weights(nano())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights):
    path = tmp_path_factory.mktemp("run")
    save_parts(path, weights)
    (path / "meta.json").write_text('{"steps": 7}')
    return path


def test_files_hold_the_weights_under_their_names(folder, weights, tmp_path):
    """Read by the `gguf` package."""
    import gguf

    assert export.main([f"{folder}", "--recipe", "f32", "--out", f"{tmp_path / 'new'}"]) == 0

    found = {}
    for kind in ("base", "mtp"):
        for tensor in gguf.GGUFReader(tmp_path / "new" / f"nano-f32-{kind}.gguf").tensors:
            found[tensor.name] = tensor.data
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name].reshape(w.shape), w) for name, w in weights.items())


def test_the_package_is_the_bundled_files_and_their_record(folder, tmp_path):
    assert export.main([f"{folder}", "--out", f"{tmp_path}"]) == 0

    record = json.loads((tmp_path / "nano.json").read_text())
    assert record["training"] == {"steps": 7}
    names = {bundled_model(kind, recipe).path.name for kind in KINDS for recipe in RECIPES}
    assert {p.name for p in tmp_path.iterdir()} == {*names, "nano.json"}
    for name, facts in record["files"].items():
        data = (tmp_path / name).read_bytes()
        assert facts["recipe"] == ("q8_0" if "q8" in name else "iq2")
        assert facts["bytes"] == len(data)
        assert facts["sha256"] == hashlib.sha256(data).hexdigest()
        # 12.6 M, as the bundled files' notice says.
        assert facts["parameters"] == (10_704_825 if "base" in name else 1_907_845)
    for recipe in RECIPES:
        base, mtp = (tmp_path / f"nano-{recipe}-{kind}.gguf" for kind in KINDS)
        with open_gguf(base) as trunk, open_gguf(mtp) as block:
            shape, _ = bind_trunk(trunk)
            bind_mtp(block, shape)
        assert shape == as_stored(nano())


def test_a_package_that_is_too_large_is_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "FORMATS", {"q8": "q8_0"})
    monkeypatch.setattr(export, "MAX_PACKAGE_BYTES", 10 << 20)

    assert export.main([f"{folder}", "--out", f"{tmp_path}"]) == 2
    assert "files: expected at most 10485760 bytes, found" in capsys.readouterr().err
    assert not (tmp_path / "nano.json").exists()


def test_the_vocabulary_is_that_of_the_bundled_file():
    vocab = export.vocab_of(TOKENIZER, nano().n_vocab)

    with open_gguf(bundled_model().path) as file:
        stored = [file.metadata[f"tokenizer.ggml.{n}"] for n in ("tokens", "token_type", "merges")]
        bos, eos, pad = (
            file.metadata[f"tokenizer.ggml.{n}_token_id"] for n in ("bos", "eos", "padding")
        )
    assert [tuple(each) for each in stored] == [vocab.tokens, vocab.types, vocab.merges]
    assert (bos, eos, pad) == (vocab.bos, vocab.eos, vocab.pad)


def test_a_tokenizer_must_fit(tmp_path):
    with pytest.raises(OptionError, match="tokenizer: expected ids below 1000, found 1023"):
        export.vocab_of(TOKENIZER, 1000)
    content = json.loads(TOKENIZER.read_text("utf-8"))
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<think>"]
    content["model"]["vocab"].pop("<think>", None)
    (tmp_path / "t.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(OptionError, match="tokenizer: expected the tokens <think>, found none"):
        export.vocab_of(tmp_path / "t.json", 2048)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("output.weight"), "expected the tensors of the nano shape, .*: output"),
        (lambda w: w.update(extra=np.zeros(2)), "expected the tensors of the nano shape, .* extra"),
        (lambda w: w.update({"output_norm.weight": np.full(1, np.inf)}), "output_norm.*finite"),
    ],
)
def test_damaged_weights_are_refused(weights, tmp_path, change, message):
    damaged = dict(weights)
    change(damaged)
    save_parts(tmp_path, damaged)

    with pytest.raises(OptionError, match=message):
        export.load(tmp_path, TOKENIZER)
