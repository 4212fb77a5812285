"""Running the command in this process, with a fake engine behind it."""

from __future__ import annotations

import pytest

from engine.cli.main import cli
from engine.tooling.exits import run_program
from tests.engine.cli.fakes import FakeEngine


@pytest.fixture
def ds4(capfdbinary):
    """Callable: arguments to (status, stdout, stderr)."""

    def run(*args):
        capfdbinary.readouterr()
        status = run_program(cli, "ds4", [str(a) for a in args])
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


@pytest.fixture
def engine(monkeypatch):
    fake = FakeEngine()
    monkeypatch.setattr("engine.engine.open_engine", fake.open)
    monkeypatch.setattr("engine.engine.check_opening", lambda *_: fake.warning)
    monkeypatch.setattr("engine.cli.prompt.read_header", fake.header)
    return fake
