"""`compare` of two lists of rows, through the command."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ds4bench.ab import noise
from ds4bench.commands.compare import compare_command
from tests.ds4bench.speed_rows import write_journal


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """`compare` of two lists of rows: the command's result."""
    monkeypatch.setattr(noise, "folder", lambda: tmp_path / "data")

    def run(base, head, *options, environment=None, fingerprint=None):
        for name, rows in (("base", base), ("head", head)):
            facts = (environment, fingerprint) if name == "head" else ()
            write_journal(tmp_path / f"{len(list(tmp_path.iterdir()))}-{name}", rows, *facts)
        folders = sorted(tmp_path.glob("*-*"), key=lambda p: int(p.name.split("-")[0]))[-2:]
        return CliRunner().invoke(compare_command, [*map(str, folders), *options])

    return run
