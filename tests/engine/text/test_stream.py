"""Streaming text equals decoding at once, at every prefix; think-block state."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import TextError
from engine.text.stream import TextStream
from engine.text.tokenizer import Tokenizer
from tests.engine.text.vocabulary import SAMPLES, metadata

TOK = Tokenizer.from_metadata(metadata())


def check_every_prefix(ids: list[int]) -> None:
    stream = TextStream(TOK)
    shown = ""
    for n, token in enumerate(ids, 1):
        shown += stream.push(token)
        assert shown + stream.pending == TOK.decode(ids[:n])
    assert shown + stream.finish() == TOK.decode(ids)


@pytest.mark.parametrize("text", SAMPLES)
def test_texts(text):
    ids = TOK.encode(text).ids
    check_every_prefix(ids)
    stream = TextStream(TOK)
    # Valid text: no piece ever holds a replacement character, i.e. no character was split.
    assert "\ufffd" not in "".join(stream.push(i) for i in ids)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, TOK.n_vocab - 1), max_size=40))
def test_any_ids(ids):
    check_every_prefix(ids)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=24))
def test_any_bytes(raw):
    of_byte = {TOK.token_bytes(i): i for i in range(TOK.n_vocab)}
    check_every_prefix([of_byte[bytes([b])] for b in raw])


def test_a_character_waits_for_its_last_byte():
    of_byte = {TOK.token_bytes(i): i for i in range(TOK.n_vocab)}
    stream = TextStream(TOK)
    raw = "👩".encode()

    pieces = [stream.push(of_byte[bytes([b])]) for b in raw]

    assert pieces == ["", "", "", "👩"]
    assert stream.pending == ""


def test_control_token_ends_an_unfinished_character():
    of_byte = {TOK.token_bytes(i): i for i in range(TOK.n_vocab)}
    stream = TextStream(TOK, thinking=True)
    close = TOK.special_id("</think>")

    assert stream.push(of_byte[b"\xe6"]) == ""
    assert stream.push(close) == "\ufffd</think>"
    assert not stream.thinking


def test_think_state():
    opened, closed = TOK.special_id("<think>"), TOK.special_id("</think>")
    word = TOK.encode("a").ids[0]
    stream = TextStream(TOK)
    states = []
    for token in (word, opened, word, closed, word, closed, opened):
        stream.push(token)
        states.append(stream.thinking)

    assert states == [False, True, True, False, False, False, True]
    assert stream.n_thinking == 4
    assert TextStream(TOK, thinking=True).thinking


def test_spelled_out_tag_does_not_switch():
    stream = TextStream(TOK, thinking=True)
    for token in TOK.encode("</think>").ids:
        stream.push(token)

    assert stream.thinking


def test_unknown_id():
    with pytest.raises(TextError):
        TextStream(TOK).push(random.Random(1).randrange(10**6, 10**7))
