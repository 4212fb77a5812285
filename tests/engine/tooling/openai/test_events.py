"""Server-sent events cut into lines; whole replies are in tests/ds4eval/servers."""

from __future__ import annotations

import pytest

from engine.tooling.openai.events import Lines


def test_lines_of_the_standards_examples():
    lines = Lines()
    assert lines.feed(b"a\r") == [b"a"] and lines.feed(b"\nb\r\rc") == [b"b", b""]
    assert lines.feed(b"\n\n") == [b"c", b""] and lines.rest() == b""


def test_a_line_without_an_end_is_no_reply(monkeypatch):
    monkeypatch.setattr("engine.tooling.openai.events.MAX_LINE", 10)
    lines = Lines()
    lines.feed(b"123456789")
    with pytest.raises(ValueError, match="expected lines below 10 bytes"):
        lines.feed(b"01")
