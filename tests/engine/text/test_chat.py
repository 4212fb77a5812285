"""Rendering: DeepSeek's own published examples, think modes, content that imitates markers."""

from __future__ import annotations

import pytest

from engine.errors import OptionError, TextError
from engine.text import chat
from engine.text.chat import Message
from engine.text.encoding import ABSOLUTE_MAXIMUM, FIRST
from engine.text.tokenizer import Span, Tokenizer
from tests.engine.text.vocabulary import CONTROL, metadata

BOS, EOS, USER, BOT = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
)
BIG = 1 << 20


def text_of(spans: list[Span]) -> str:
    return "".join(span.text for span in spans)


def test_published_example():
    """The first example of DeepSeek's encoding notes."""
    messages = [
        Message("system", "You are a helpful assistant."),
        Message("user", "What is 2+2?"),
    ]

    assert text_of(chat.render_chat(messages, "high", 4096)) == (
        f"{BOS}You are a helpful assistant.{USER}What is 2+2?{BOT}<think>"
    )
    assert text_of(chat.render_chat(messages, "none", 4096)) == (
        f"{BOS}You are a helpful assistant.{USER}What is 2+2?{BOT}</think>"
    )


@pytest.mark.parametrize(
    ("mode", "ctx", "expected"),
    [
        ("none", 10**6, "none"),
        ("high", 10**6, "high"),
        ("max", 393_216, "max"),
        ("max", 393_215, "high"),
        ("max", 1, "high"),
    ],
)
def test_effective_think(mode, ctx, expected):
    assert FIRST.effective(mode, ctx) == expected
    rendered = text_of(chat.render_chat([Message("user", "x")], mode, ctx))
    assert (ABSOLUTE_MAXIMUM in rendered) == (expected == "max")
    assert rendered.startswith(BOS + (ABSOLUTE_MAXIMUM if expected == "max" else USER))


def test_unknown_mode():
    with pytest.raises(OptionError, match="think mode: expected one of none, high, max"):
        chat.render_chat([Message("user", "x")], "low", 10)


def test_history():
    messages = [
        Message("user", "1+1?"),
        Message("assistant", "2", reasoning="easy"),
        Message("user", "2+2?"),
        Message("assistant", "</think>4"),
        Message("user", "3+3?"),
        Message("assistant", "<think>hm</think>6"),
        Message("user", "4+4?"),
    ]

    assert text_of(chat.render_chat(messages, "high", 10)) == (
        f"{BOS}{USER}1+1?{BOT}</think>2{EOS}{USER}2+2?{BOT}</think>4{EOS}"
        f"{USER}3+3?{BOT}</think>6{EOS}{USER}4+4?{BOT}<think>"
    )
    assert text_of(chat.render_chat(messages, "high", 10, keep_reasoning=True)) == (
        f"{BOS}{USER}1+1?{BOT}<think>easy</think>2{EOS}{USER}2+2?{BOT}</think>4{EOS}"
        f"{USER}3+3?{BOT}<think>hm</think>6{EOS}{USER}4+4?{BOT}<think>"
    )


def test_reply_cut_while_thinking():
    messages = [Message("user", "a"), Message("assistant", "<think>wait"), Message("user", "b")]

    assert text_of(chat.render_chat(messages, "none", 10)) == (
        f"{BOS}{USER}a{BOT}</think>{EOS}{USER}b{BOT}</think>"
    )
    assert text_of(chat.render_chat(messages, "none", 10, keep_reasoning=True)) == (
        f"{BOS}{USER}a{BOT}<think>wait{EOS}{USER}b{BOT}</think>"
    )


def test_one_more_turn():
    assert text_of(chat.render_turn("b", "none", 10, closed=True)) == f"{USER}b{BOT}</think>"
    assert text_of(chat.render_turn("b", "high", 10, closed=False)) == (f"{EOS}{USER}b{BOT}<think>")


@pytest.mark.parametrize("special", CONTROL)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("where", ["{}", "a{}", "{}a", "a{}a"])
def test_content_never_becomes_control_tokens(special, role, where):
    tok = Tokenizer.from_metadata(metadata())
    control = set(tok.special_ids.values())
    content = where.format(special)

    def control_ids(text):
        messages = [
            Message("system", text if role == "system" else "s"),
            Message("user", text if role == "user" else "u"),
            Message("assistant", text if role == "assistant" else "r", reasoning="because"),
            Message("user", text if role == "user" else "u"),
        ]
        spans = chat.render_chat(messages, "high", 10, keep_reasoning=True)
        encoded = tok.encode_spans(spans)
        assert tok.decode(encoded.ids) == text_of(spans)
        return [i for i in encoded.ids if i in control], encoded.n_special_in_text

    expected, none = control_ids("plain")
    found, n_special = control_ids(content)

    assert found == expected
    assert none == 0
    assert n_special == (2 if role == "user" else 1)


def test_roles_and_order():
    with pytest.raises(TextError, match="role: expected one of system, user, assistant"):
        Message("tool", "x")
    with pytest.raises(TextError, match="reasoning"):
        Message("user", "x", reasoning="y")
    with pytest.raises(TextError, match="user's message at the end, found 'assistant'"):
        chat.render_chat([Message("assistant", "x")], "none", 10)
    with pytest.raises(TextError, match="found 'no messages'"):
        chat.render_chat([], "none", 10)


def test_empty_system_leaves_nothing():
    spans = chat.render_chat([Message("system", ""), Message("user", "x")], "none", 10)

    assert text_of(spans) == f"{BOS}{USER}x{BOT}</think>"
    assert all(span.text for span in spans)


def test_rendered_prompts_are_recognised():
    assert chat.is_rendered(BOS + "x")
    assert chat.is_rendered(USER)
    assert not chat.is_rendered(" " + BOS)
    assert not chat.is_rendered("<think>")
    assert chat.ends_thinking(chat.render_chat([Message("user", "x")], "high", 10))
    assert not chat.ends_thinking(chat.render_chat([Message("user", "x")], "none", 10))
    assert not chat.ends_thinking([Span("<think>")])
