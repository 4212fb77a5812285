"""Terminals and streams that go away, are closed, too small, or paste text; see FAULTS.md."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from ds4eval.control import Control
from ds4eval.records.replay import read_run
from ds4eval.records.store import RunStore
from ds4eval.run.runner import Recorder, run_serial
from ds4eval.screen.plain import Plain, wants_colour
from tests.ds4eval.fakes import CONFIG, SETTINGS, FakeBackend, jobs
from tests.ds4eval.test_runner import run, samples_of

ROOT = Path(__file__).resolve().parents[2]


class Pipe:
    """A stream whose reader goes away after some writes."""

    def __init__(self, left: int) -> None:
        self.left = left

    def isatty(self) -> bool:
        return False

    def flush(self) -> None: ...

    def write(self, text: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise BrokenPipeError


@pytest.mark.parametrize("left", [0, 5, 30])
def test_reader_that_goes_away_loses_no_record(tmp_path, left):
    todo = jobs(6)
    run(tmp_path / "whole", todo)
    with pytest.raises(BrokenPipeError), RunStore.open(tmp_path / "a", CONFIG) as opened:
        opened.begin(todo, {})
        recorder = Recorder(opened, SETTINGS, len(todo))
        Plain(Pipe(left)).show(run_serial(todo, FakeBackend(), recorder, Control(), 99))
    assert read_run(tmp_path / "a").dropped_bytes == 0
    run(tmp_path / "a", todo)
    assert samples_of(tmp_path / "a") == samples_of(tmp_path / "whole")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams(tmp_path, closed):
    """Also that no later file takes the number of a closed stream."""
    code = (
        "import sys; from ds4eval.cli import cli; from engine.tooling.exits import run_program;"
        "a = run_program(cli, 'x', ['list']); from ds4eval.screen.choose import why_plain;"
        "f = open(sys.argv[1], 'w'); f.write(f'{a} {why_plain()} {f.fileno() > 2}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "said")], cwd=ROOT, timeout=60,
        stdin=subprocess.DEVNULL, preexec_fn=lambda: [os.close(fd) for fd in closed],
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "said").read_text() == "0 not a terminal True"


def in_terminal(tmp_path, size=(24, 100), term="xterm", background=False):
    """What `why_plain` says in a terminal of its own."""
    main, sub = pty.openpty()
    fcntl.ioctl(sub, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    code = (
        "import fcntl, os, subprocess, sys, termios;"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "inner = 'import sys; from ds4eval.screen.choose import why_plain;'"
        "'open(sys.argv[1], \"w\").write(why_plain())';"
        "sys.exit(subprocess.call([sys.executable, '-c', inner, sys.argv[1]],"
        "preexec_fn=os.setpgrp if sys.argv[2] else None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "said"), "y" if background else ""],
        stdin=sub, stdout=sub, stderr=sub, start_new_session=True, cwd=ROOT, timeout=60,
        env={**os.environ, "TERM": term},
    )  # fmt: skip
    os.close(sub)
    os.close(main)
    assert done.returncode == 0
    return (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    "options, said",
    [
        pytest.param({}, "", id="good"),
        pytest.param({"term": "dumb"}, "the terminal says it is dumb", id="dumb"),
        pytest.param({"term": ""}, "the terminal says it is dumb", id="unnamed"),
        pytest.param({"size": (9, 100)}, "below 40x10", id="low"),
        pytest.param({"size": (24, 39)}, "below 40x10", id="narrow"),
        pytest.param({"size": (0, 0)}, "below 40x10", id="no size"),
        pytest.param({"background": True}, "in the background", id="background"),
    ],
)
def test_terminals_that_carry_no_screen(tmp_path, options, said):
    assert in_terminal(tmp_path, **options) == said


@pytest.mark.parametrize(
    "terminal, environment, colour",
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_declined(monkeypatch, terminal, environment, colour):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Pipe(0)
    stream.isatty = lambda: terminal
    assert wants_colour(stream) is colour


def test_pasted_text_is_no_command():
    from textual import events

    from ds4eval.screen.app import EvalApp

    async def main():
        gate = Control()
        app = EvalApp(iter(()), gate)
        async with app.run_test() as pilot:
            app.post_message(events.Paste("q\np\nq"))
            await pilot.pause(0.1)
            assert not gate.interrupts() and not gate.paused and not app.view.quitting
            await pilot.press("q")
            await pilot.pause(0.1)
            assert app.view.quitting, "a typed key is one"
        await asyncio.to_thread(app.wait)

    asyncio.run(main())
