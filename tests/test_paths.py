"""Every option of every program that takes a path is given a FIFO and a device, and must say no.

A FIFO without a writer blocks whoever opens it for reading, one without a reader whoever opens it
for writing, and /dev/zero never ends. The options are found by walking the programs' own commands,
so that a new one is tried without being named here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

import ds4bench.cli
import ds4eval.cli
import engine.cli.main

PROGRAMS = {
    "ds4-bench": ds4bench.cli.main,
    "ds4-eval": ds4eval.cli.cli,
    "ds4": engine.cli.main.cli,
}
# What a command must be given besides; nothing of it is read before paths are looked at.
BESIDES = {
    "ds4-bench compare": ["a", "b"],
    "ds4-bench plot": ["a"],
    "ds4-bench export": ["a", "--output", "new.csv"],
    "ds4-bench report": ["a"],
    "ds4-bench panel": ["a"],
    "ds4-bench history": ["show", "a"],
    "ds4-eval report": ["a"],
    "ds4-eval view": ["a"],
    "ds4-eval compare": ["a", "b"],
    "ds4-eval regrade": ["a"],
    "ds4-eval export": ["a", "--output", "new.json"],
    "ds4-eval import-trace": ["a", "--out", "new"],
    "ds4 drift": ["a", "b"],
    "ds4 inspect": ["a"],
    "ds4 logits": ["--out", "new.npy", "--tokens", "t"],
    "ds4 make-model": ["--shape", "micro", "--out", "new.gguf"],
}
SECONDS = 30  # a command that blocks is ended; none of these has work to do


class Case(NamedTuple):
    program: str
    command: str
    parameter: str  # an option as it is typed, or the name of an argument
    is_option: bool

    def __str__(self) -> str:
        return f"{self.program} {self.command} {self.parameter}"


def _cases() -> Iterator[Case]:
    for program, group in PROGRAMS.items():
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            for parameter in command.params:
                if isinstance(parameter.type, click.Path):
                    option = isinstance(parameter, click.Option)
                    shown = parameter.opts[-1] if option else str(parameter.name)
                    yield Case(program, name, shown, option)


CASES = list(_cases())


def test_the_walk_sees_what_is_there():
    seen = {str(case) for case in CASES}
    assert {"ds4 run --prompt-file", "ds4-eval run --out", "ds4-bench compare head"} <= seen
    assert len(CASES) > 60


class _Blocked(Exception):
    pass


@pytest.fixture
def clock():
    def ring(number: int, frame: object) -> None:
        raise _Blocked

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _command(case: Case) -> click.Command:
    group = PROGRAMS[case.program]
    command = group.get_command(click.Context(group), case.command)
    assert command is not None
    return command


def _arguments(case: Case, bad: Path) -> list[str]:
    given = list(BESIDES.get(f"{case.program} {case.command}", []))
    if case.is_option:
        if case.parameter in given:
            place = given.index(case.parameter)
            del given[place : place + 2]
        return [case.command, *given, case.parameter, str(bad)]
    arguments = [p.name for p in _command(case).params if isinstance(p, click.Argument)]
    place = arguments.index(case.parameter)
    given[place : place + 1] = [str(bad)]
    return [case.command, *given]


@pytest.mark.parametrize("kind", ["fifo", "device"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_no_regular_file_is_refused_by_name(case, kind, tmp_path, clock, monkeypatch):
    if not hasattr(os, "mkfifo") or not os.path.exists("/dev/zero"):
        pytest.skip("needs FIFOs and devices")
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "odd.csv"
    if kind == "fifo":
        os.mkfifo(bad)
    else:
        bad.symlink_to("/dev/zero")

    try:
        done = CliRunner().invoke(PROGRAMS[case.program], _arguments(case, bad))
    except _Blocked:
        pytest.fail(f"{case}: blocked")

    assert not isinstance(done.exception, _Blocked), "blocked"
    assert done.exit_code == 2, done.output
    what = "a FIFO" if kind == "fifo" else "a character device"
    assert f"expected a file or a folder, found {what}: '{bad}'" in done.output
    assert len(done.output.splitlines()) == 1
