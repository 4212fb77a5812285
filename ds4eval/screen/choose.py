"""Chooses the screen: the full one on a terminal that can show it, otherwise lines of text."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from typing import Protocol

from ds4eval.control import Control
from ds4eval.events import Ended, Event
from ds4eval.request import OutputOptions
from ds4eval.screen.plain import Plain
from engine.tooling.exits import say

MIN_COLUMNS, MIN_LINES = 40, 10


class RunScreen(Protocol):
    """Shows events and passes on what the user asks for."""

    def show(self, events: Iterable[Event], control: Control) -> Ended:
        """Consume all events; returns the last one."""


class PlainScreen:
    """`ds4eval.screen.plain` on standard output."""

    def __init__(self, stream: bool) -> None:
        self.stream = stream

    def show(self, events: Iterable[Event], control: Control) -> Ended:
        return Plain(sys.stdout, self.stream).show(events)


def why_plain() -> str:
    """Why the full screen cannot be used here; '' when it can."""
    # Textual draws on standard error; the report goes to standard output.
    if not all(stream and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return "not a terminal"
    if _in_background():
        return "in the background"
    if os.environ.get("TERM", "") in ("", "dumb"):
        return "the terminal says it is dumb"
    size = os.get_terminal_size()
    if size.columns < MIN_COLUMNS or size.lines < MIN_LINES:
        return f"below {MIN_COLUMNS}x{MIN_LINES}"
    if importlib.util.find_spec("textual") is None:
        return "the package 'textual' is not installed"
    return ""


def _in_background() -> bool:
    """Whether the terminal belongs to another job: taking it over would stop this one."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:
        return False  # a terminal that is not ours to control, such as a test's


class Silent:
    """No screen: of a run that was over before there is nothing to tell line by line."""

    def show(self, events: Iterable[Event], control: Control) -> Ended:
        return next((event for event in events if isinstance(event, Ended)), Ended("done"))


def open_screen(output: OutputOptions, serial: bool, over: bool = False) -> RunScreen:
    """The screen for this run, saying why when it is not the full one.

    Parameters
    ----------
    serial : bool
        Replies come one after another.
    over : bool
        The run was over before: only the full screen has something to show.
    """
    reason = "" if output.plain else why_plain()
    if over and (output.plain or output.close_at_end or reason):
        return Silent()
    if output.plain:
        return PlainScreen(serial)
    if reason:
        say(f"plain output ({reason})")
        return PlainScreen(serial)
    from ds4eval.screen.app import TuiScreen

    return TuiScreen(output.pause_s, stay=not output.close_at_end)
