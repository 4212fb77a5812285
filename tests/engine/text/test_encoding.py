"""Releases of the chat format: published texts, ladders, and how a file is told apart."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from engine.errors import OptionError
from engine.text import chat
from engine.text.chat import Message
from engine.text.encoding import (
    ABSOLUTE_MAXIMUM,
    BEYOND_MAXIMUM,
    ENCODINGS,
    FIRST,
    R0731,
    chosen,
    mtp_warning,
    named_release,
    release_of,
)
from engine.text.template import ChatTemplate

BOS, USER, BOT = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"


@pytest.mark.parametrize(
    ("text", "characters", "n_bytes", "sha256"),
    [
        (
            ABSOLUTE_MAXIMUM,
            476,
            476,
            "f7a24f3b3050d4a8",
        ),
        # The copies in five engines' renderers (Python, Rust, C, C++) agree to the byte.
        (
            BEYOND_MAXIMUM,
            526,
            528,
            "53fb31b8392ec5b4a926481943efc67636748f137c1a49d493a7af4d4fa55d2c",
        ),
    ],
)
def test_instructions_are_the_published_ones(text, characters, n_bytes, sha256):
    """Lengths and digests were taken from independent copies."""
    assert (len(text), len(text.encode())) == (characters, n_bytes)
    assert hashlib.sha256(text.encode()).hexdigest().startswith(sha256)
    assert text.endswith(".\n\n")


@pytest.mark.parametrize("ctx", [1, 393_215, 393_216])
@pytest.mark.parametrize(
    ("mode", "instruction", "tag"),
    [
        ("none", "", "</think>"),
        ("on", "", "<think>"),
        ("low", "", "<think>"),
        ("high", ABSOLUTE_MAXIMUM, "<think>"),
        ("max", BEYOND_MAXIMUM, "<think>"),
    ],
)
def test_ladder_of_0731_has_no_gate(mode, instruction, tag, ctx):
    messages = [Message("system", "S"), Message("user", "x")]

    spans = chat.render_chat(messages, mode, ctx, encoding=R0731)

    assert "".join(s.text for s in spans) == f"{BOS}{instruction}S{USER}x{BOT}{tag}"
    # An instruction is text; it must not turn into control tokens.
    assert [s.text for s in spans if not s.trusted] == [*filter(None, [instruction]), "S", "x"]
    turn = chat.render_turn("y", mode, ctx, closed=True, encoding=R0731)
    assert "".join(s.text for s in turn) == f"{USER}y{BOT}{tag}"


def test_default_effort_sends_no_instruction():
    for encoding in ENCODINGS.values():
        assert encoding.instruction(encoding.effective("on", 1)) == ""
        assert encoding.check("on") == encoding.default
    assert (FIRST.default, R0731.default) == ("high", "low")
    with pytest.raises(OptionError, match=r"--effort: expected .*\(encoding first\), found 'low'"):
        FIRST.check("low", "--effort")
    with pytest.raises(OptionError, match="found 'deep'"):
        R0731.effective("deep", 1)


@pytest.mark.parametrize(
    ("metadata", "file_name", "name", "source"),
    [
        ({}, "m.gguf", "first", ""),
        ({"general.version": "0731"}, "m.gguf", "0731", "general.version"),
        ({"general.version": "v1"}, "m.gguf", "first", ""),
        ({"general.name": "DeepSeek V4 Flash 0731"}, "m.gguf", "0731", "general.name"),
        ({"general.name": "DeepSeek-V4-Flash-0731"}, "m.gguf", "0731", "general.name"),
        ({"general.name": "DeepSeek V4 Flash"}, "q2-imatrix-0731.gguf", "0731", "file name"),
        ({"general.name": "DeepSeek V4 Flash"}, "q2-imatrix.gguf", "first", ""),
        ({"general.name": "10731 steps"}, "run-20731.gguf", "first", ""),
        ({"general.version": 731}, "m.gguf", "first", ""),
    ],
)
def test_release_of_a_file(metadata, file_name, name, source):
    found = release_of(metadata, file_name)

    assert (found.encoding.name, found.source) == (name, source)
    assert bool(found.notice) == (bool(source) or "DeepSeek" in str(metadata))


@pytest.mark.parametrize(("entries", "name"), [(43, "first"), (44, "first"), (46, "0731")])
def test_release_by_the_ratios_of_drafting_blocks(entries, name):
    """Published trunks have 44 entries in the first release and 46 in 0731, for 43 layers."""
    metadata = {
        "deepseek4.block_count": 43,
        "deepseek4.attention.compress_ratios": np.zeros(entries, np.uint32),
    }
    assert release_of(metadata).encoding.name == name


def test_choice_and_names_of_servers():
    assert named_release("deepseek-ai/DeepSeek-V4-Flash-0731").encoding is R0731
    assert named_release("deepseek-v4-flash").encoding is FIRST
    found = release_of({"general.version": "0731"})
    assert chosen(None, found) == found
    assert chosen("first", found).encoding is FIRST
    assert "--encoding" in str(chosen("0731", release_of({})))
    assert "WARNING: --mtp" in mtp_warning(found)
    assert mtp_warning(release_of({})) == ""


@pytest.mark.parametrize(
    ("mode", "told"), [("none", "no"), ("on", "low"), ("high", "high"), ("max", "max")]
)
def test_templates_of_0731_hear_of_every_effort(mode, told):
    source = "{{ reasoning_effort|default('no') }} {{ thinking }} {{ messages[0].content }}"
    with ChatTemplate(source, 10.0) as template:
        spans = template.render([Message("user", "x")], mode, 1000, R0731)

    assert "".join(s.text for s in spans) == f"{told} {mode != 'none'} x"
