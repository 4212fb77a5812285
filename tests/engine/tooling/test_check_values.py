"""What a user sees of the scan of a large file, and who need not make it again."""

from __future__ import annotations

import sys

import pytest

from engine.engine import open_engine
from engine.gguf import remembered
from engine.options import EngineOptions
from engine.tooling import check_values as module
from engine.tooling.check_values import check_values, shown_reading
from engine.weights import verify
from tests.engine.gguf.build import write_trunk


@pytest.fixture
def options(tmp_path, monkeypatch):
    """A file that counts as a large one."""
    monkeypatch.setattr(module, "SHOWN_FROM", 0)
    monkeypatch.setattr(remembered, "REMEMBER_FROM", 0)
    monkeypatch.setattr(verify, "_CLEAN", set())
    return EngineOptions(write_trunk(tmp_path / "m.gguf"))


def test_the_first_start_says_what_it_reads_and_the_next_is_silent(options, capsys):
    after = check_values(options)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("m.gguf: reading 0.0 GiB once to find NaN and infinity")
    assert after.check_values == "never", "the engine need not do it again"
    check_values(options)
    assert capsys.readouterr().err == ""


def test_always_says_so_and_never_does_nothing(options, capsys):
    for how, lines in (("always", 1), ("always", 1), ("never", 0)):
        check_values(EngineOptions(options.path, check_values=how))
        said = capsys.readouterr().err
        assert said.count("at every start") == lines and len(said.splitlines()) == lines


def test_small_and_missing_files_are_left_to_the_engine(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SHOWN_FROM", 1 << 30)
    assert check_values(options) is options
    missing = EngineOptions(tmp_path / "none.gguf", tmp_path / "none too.gguf")
    assert check_values(missing) is missing
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(options, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    check_values(options)
    assert "checking values of m.gguf" in capsys.readouterr().err


def test_what_a_tick_raises_ends_the_scan_and_nothing_is_remembered(options):
    def tick():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_values(options, tick)
    seen = []
    check_values(options, lambda: seen.append(1))
    assert seen
    open_engine(options).close()


def test_reading_ahead_is_a_line_and_on_a_terminal_a_bar(options, capsys, monkeypatch):
    line = "m.gguf: reading 2.0 GiB ahead into memory that the device shares"

    def said(**how):
        with shown_reading(options, **how) as bar:
            bar(2 << 30)(1 << 30)
        return capsys.readouterr().err

    assert said().splitlines() == [line]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "reading ahead m.gguf" in said()
    assert line in said(line=True) and "━" not in said(line=True)
    monkeypatch.setattr(module, "SHOWN_FROM", 4 << 30)
    assert said() == "", "nobody would see the bar"
