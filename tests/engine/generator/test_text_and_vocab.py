"""The generated text and the vocabulary learnt from it."""

import hashlib
import subprocess
import sys

import pytest

from engine.models import vocab as vocab_module
from engine.models.text import generate_text
from engine.models.vocab import (
    ASSISTANT,
    BOS,
    DSML,
    END_THINK,
    EOS,
    MIN_SIZE,
    THINK,
    USER,
    build_vocab,
)
from engine.text.tokenizer import Tokenizer


def metadata(vocab):
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "joyai-llm",
        "tokenizer.ggml.tokens": list(vocab.tokens),
        "tokenizer.ggml.token_type": list(vocab.types),
        "tokenizer.ggml.merges": list(vocab.merges),
        "tokenizer.ggml.bos_token_id": vocab.bos,
        "tokenizer.ggml.eos_token_id": vocab.eos,
    }


@pytest.mark.parametrize("n", [0, 1, 77, 5000])
def test_text_has_the_length_asked_for(n):
    assert len(generate_text(3, n)) == n


def test_a_longer_text_continues_a_shorter_one():
    assert generate_text(3, 9000).startswith(generate_text(3, 4000))
    assert generate_text(3, 4000) != generate_text(4, 4000)


def test_text_is_what_it_was():
    # Recorded results name this text by its seed, so its words must stay.
    assert generate_text(0, 60) == TEXT_OF_SEED_0


TEXT_OF_SEED_0 = "Walter carefully described the familiar hammer near the muse"


def test_text_has_prose_numbers_code_and_tables():
    text = generate_text(1, 20_000)

    assert "def " in text and "    return total" in text
    assert " + " in text and "| name " in text
    assert sum(c.isdigit() for c in text) > 300
    assert len(set(text.split())) > 500


@pytest.mark.parametrize("n_vocab", [MIN_SIZE, 512, 1024, 2048])
def test_vocab_has_exactly_its_size(n_vocab):
    vocab = build_vocab(n_vocab)

    assert len(vocab.tokens) == len(vocab.types) == len(set(vocab.tokens)) == n_vocab
    for special in (BOS, EOS, USER, ASSISTANT, THINK, END_THINK, DSML):
        assert special in vocab.tokens


def test_large_vocab_is_filled_with_unused_tokens(monkeypatch):
    monkeypatch.setattr(vocab_module, "_MAX_LEARNT", 1000)
    vocab = build_vocab.__wrapped__(20_000)

    assert len(set(vocab.tokens)) == 20_000
    assert vocab.types.count(5) == 19_000
    assert vocab.tokens[-5:] == (USER, ASSISTANT, THINK, END_THINK, DSML)


@pytest.mark.parametrize("n_vocab", [MIN_SIZE, 1024])
@pytest.mark.parametrize(
    "text",
    [
        generate_text(9, 3000),
        "",
        " \r\n\t  x",
        "Größe — 数字 かな 😀 e\u0301 \x00\x7f",
        "".join(map(chr, range(1, 400))),
    ],
)
def test_encoding_round_trips(n_vocab, text):
    tokenizer = Tokenizer.from_metadata(metadata(build_vocab(n_vocab)))

    ids = tokenizer.encode(text).ids

    assert tokenizer.decode(ids) == text


def test_learnt_merges_shorten_text_not_seen_in_training():
    text = generate_text(12345, 20_000)
    lengths = [
        len(Tokenizer.from_metadata(metadata(build_vocab(n))).encode(text).ids)
        for n in (512, 1024, 2048)
    ]

    # Measured: 0.45, 0.30 and 0.27 tokens per character.
    assert 0.5 * len(text) > lengths[0] > 1.2 * lengths[1] > 1.2 * lengths[2]


def test_vocab_is_the_same_in_another_process():
    code = (
        "import hashlib; from engine.models.vocab import build_vocab;"
        "print(hashlib.sha256(repr(build_vocab(1024)).encode()).hexdigest())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == hashlib.sha256(repr(build_vocab(1024)).encode()).hexdigest()
