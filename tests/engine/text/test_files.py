"""Text files: strict UTF-8, errors that name file, line and byte."""

from __future__ import annotations

import os

import pytest

from engine.errors import OptionError, TextError
from engine.text.files import decode_text, read_text

BAD = {
    "utf-16": (b"\xff\xfea\x00", 0, 1),
    "latin-1": (b"caf\xe9", 3, 1),
    "latin-1 inside": (b"a\nb\ncaf\xe9 x", 7, 3),
    "surrogate": (b"a\xed\xa0\x80", 1, 1),
    "cesu pair": (b"\xed\xa0\xbd\xed\xb8\x80", 0, 1),
    "beyond U+10FFFF": (b"\xf4\x90\x80\x80", 0, 1),
    "cut sequence": (b"ok\n\xe2\x82", 3, 2),
    "continuation": (b"\x80", 0, 1),
    "overlong": (b"x\xc0\xaf", 1, 1),
    "overlong 3": (b"\xe0\x80\xaf", 0, 1),
    "f8": (b"\xf8\x88\x80\x80\x80", 0, 1),
    "fe": (b"\xfe", 0, 1),
    "bom then bad": (b"\xef\xbb\xbf\xff", 3, 1),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_not_utf8(tmp_path, name):
    raw, offset, line = BAD[name]
    path = tmp_path / "prompt.txt"
    path.write_bytes(raw)

    with pytest.raises(TextError) as caught:
        read_text(path)

    message = str(caught.value)
    assert str(path) in message
    assert f"0x{raw[offset]:02X} at offset {offset} (line {line})" in message


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"\xef\xbb\xbfhi", "hi"),
        (b"a\r\nb\r", "a\r\nb\r"),
        (b"nul\x00", "nul\x00"),
        ("\u2028\U0001f600".encode(), "\u2028\U0001f600"),
        ("x\ufeff".encode(), "x\ufeff"),
    ],
)
def test_accepted(tmp_path, raw, text):
    path = tmp_path / "prompt.txt"
    path.write_bytes(raw)

    assert read_text(path) == text
    assert decode_text(raw, "x") == text


def test_unreadable(tmp_path):
    with pytest.raises(OptionError, match="--prompt-file: expected a readable file, found"):
        read_text(tmp_path / "none", "--prompt-file")
    with pytest.raises(OptionError, match="regular file, found a directory"):
        read_text(tmp_path)
    path = tmp_path / "big"
    path.write_bytes(b"x" * 11)
    with pytest.raises(OptionError, match="at most 10 bytes"):
        read_text(path, max_bytes=10)
    assert len(read_text(path, max_bytes=11)) == 11


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_endless_device():
    with pytest.raises(OptionError, match="--tokens: expected a regular file, found a character"):
        read_text("/dev/zero", "--tokens", max_bytes=1 << 16)
