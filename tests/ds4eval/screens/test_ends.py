"""How a run's command line decides whether the screen stays at the end."""

from __future__ import annotations

import pytest

from ds4eval.cli import cli
from ds4eval.commands import run as run_command
from engine.tooling.exits import run_program


@pytest.mark.parametrize(("options", "stays"), [([], True), (["--close-at-end"], False)])
def test_close_at_end_reaches_the_screen(options, stays, monkeypatch):
    from ds4eval.screen import choose

    made = []
    monkeypatch.setattr(run_command, "check_request", made.append)
    monkeypatch.setattr("ds4eval.run.execute.execute", lambda request: 0)
    monkeypatch.setattr(choose, "why_plain", lambda: "")
    assert run_program(cli, "ds4-eval", ["run", "--suite", "nano", *options]) == 0
    assert choose.open_screen(made[0].output, True).stay is stays
