"""Releases of the chat format: published texts, ladders, and how a file is told apart."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from engine.engine import Engine
from engine.errors import OptionError
from engine.gguf.reader import open_gguf
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
    release_of_file,
)
from engine.text.template import ChatTemplate
from engine.text.tokenizer import Tokenizer
from tests.engine.gguf.build import tiny_shape, write_trunk
from tests.engine.text.vocabulary import metadata

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


def test_one_call_renders_a_first_turn_by_the_release_of_the_file():
    """`Engine.chat` needs a tokenizer and a release only; nothing is opened for it here."""
    tokenizer = Tokenizer.from_metadata(metadata())
    later = SimpleNamespace(tokenizer=tokenizer, release=release_of({"general.version": "0731"}))
    first = SimpleNamespace(tokenizer=tokenizer, release=release_of({}))

    plain = Engine.chat(first, "Hi")
    assert plain == Engine.chat(first, "Hi", think="high") == Engine.chat(later, "Hi")
    assert plain == Engine.chat(later, "Hi", think="low")
    text = tokenizer.decode(Engine.chat(later, "Hi", think="max"))
    assert text.startswith(BOS + BEYOND_MAXIMUM)
    with pytest.raises(OptionError, match="think: expected none or high, found 'max'"):
        Engine.chat(first, "Hi", think="max")


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


@pytest.mark.parametrize(
    ("link", "target"),
    [("ds4flash.gguf", "Flash-0731.gguf"), ("Flash-0731.gguf", "5f1c9e")],
    ids=["a short name of one's own", "a download cache"],
)
def test_a_link_and_what_it_leads_to_both_name_the_release(tmp_path, link, target):
    write_trunk(tmp_path / target, tiny_shape())
    (tmp_path / link).symlink_to(target)
    with open_gguf(tmp_path / link) as file:
        assert release_of_file(file).encoding.name == "0731"
    with open_gguf(write_trunk(tmp_path / "other.gguf", tiny_shape())) as file:
        assert release_of_file(file).encoding.name == "first"
