"""The screen: lines without a terminal, a bar on odd terminals, no control characters through."""

from __future__ import annotations

import io

import pytest

from ds4bench.records.rows import SpeedRow
from ds4bench.sweep.progress import ProgressScreen, line_of, printable

ROW = SpeedRow(2048, 2048, 4.0, 4, 0.5, mode="mtp-strict", steps=2, drafted=4, accepted=2)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "environment", [{}, {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"COLUMNS": "40"}]
)
def test_rows_are_readable_on_any_terminal(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    screen = ProgressScreen(3, 1, stream)
    screen.note("a note")
    screen.row(ROW)
    screen.close()
    screen.close()

    text = " ".join(stream.getvalue().split())
    assert "a note" in text and "512.00 t/s" in text and "50% kept" in text


def test_without_a_terminal_rows_are_numbered_lines():
    stream = io.StringIO()
    screen = ProgressScreen(3, 1, stream)
    screen.row(ROW)
    assert stream.getvalue().startswith("[2/3] ctx    2048  mtp-strict")
    assert "\x1b" not in stream.getvalue()


def test_a_vanished_terminal_is_no_error():
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    ProgressScreen(1, 0, Gone()).row(ROW)


def test_control_characters_do_not_reach_the_terminal():
    evil = "\x1b]0;title\x07 \u202ename\r"
    assert printable(evil) == "?]0;title? ?name?"
    failed = SpeedRow(1, 1, status="error", message=evil)
    assert "\x1b" not in line_of(failed)


def test_failed_and_draftless_rows_have_a_line():
    assert "timeout" in line_of(SpeedRow(1, 1, status="timeout"))
    assert "nothing drafted" in line_of(SpeedRow(1, 1, drafted=0, accepted=0, steps=1))
