"""The same vocabulary in llama.cpp: identical ids for text and for rendered chat."""

from __future__ import annotations

import random

import pytest

from engine.text import chat
from engine.text.encoding import ENCODINGS
from engine.text.tokenizer import Tokenizer
from tests.engine.text.vocabulary import SAMPLES, metadata

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    llama_cpp = pytest.importorskip("llama_cpp")
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("vocab") / "vocab.gguf"
    values = metadata()
    writer = gguf.GGUFWriter(str(path), "deepseek4")
    writer.add_tokenizer_model(values["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(values["tokenizer.ggml.pre"])
    writer.add_token_list(values["tokenizer.ggml.tokens"])
    writer.add_token_types(values["tokenizer.ggml.token_type"])
    writer.add_token_merges(values["tokenizer.ggml.merges"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    yield lambda text, special: model.tokenize(text.encode(), add_bos=False, special=special)
    model.close()


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.from_metadata(metadata())


@pytest.mark.parametrize("text", SAMPLES)
def test_samples(tok, peer, text):
    assert tok.encode(text).ids == peer(text, False)


def test_random_mixtures(tok, peer):
    rng = random.Random(11)
    pool = "".join(SAMPLES)
    for _ in range(400):
        text = "".join(rng.choice(pool) for _ in range(rng.randrange(1, 50)))

        assert tok.encode(text).ids == peer(text, False), text


@pytest.mark.parametrize(
    ("encoding", "think"), [(e, mode) for e in ENCODINGS.values() for mode in e.modes]
)
def test_rendered_chat(tok, peer, encoding, think):
    messages = [
        chat.Message("system", "Be brief."),
        chat.Message("user", "Čau 12345 <think>?"),
        chat.Message("assistant", "OK"),
        chat.Message("user", SAMPLES[0]),
    ]
    spans = chat.render_chat(messages, think, 1 << 20, encoding=encoding)
    clean = [s.text.replace("<think>?", "think?") if not s.trusted else s.text for s in spans]
    spans_clean = [type(s)(t, s.trusted) for s, t in zip(spans, clean)]

    assert tok.encode_spans(spans_clean).ids == peer("".join(clean), True)
    # With the control token in the content the two must differ: llama.cpp obeys it.
    assert tok.encode_spans(spans).ids != peer("".join(s.text for s in spans), True)
