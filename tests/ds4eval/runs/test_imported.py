"""A trace beside runs of the same questions: comparable, repeats kept, nothing assumed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ds4eval.cli import cli
from ds4eval.records.replay import read_run
from engine.tooling.exits import INCOMPARABLE, run_program

STORED = Path(__file__).parents[1] / "data" / "stored"


def call(*arguments) -> int:
    try:
        return run_program(cli, "ds4-eval", [str(one) for one in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def trace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.trace"
    path.write_bytes((STORED / "greedy.trace").read_bytes())
    return path


def test_a_trace_is_compared_with_the_run_of_the_same_questions(trace, capsys):
    assert call("import-trace", trace, "--out", "imported") == 0
    capsys.readouterr()
    shutil.copytree(STORED / "greedy", "greedy")
    assert (
        call("regrade", "greedy", "--write") == 0
    )  # the trace is graded as today, the stored run was not
    capsys.readouterr()
    assert call("compare", "imported", "greedy") == 0
    assert capsys.readouterr().out.startswith("the same: greedy (B) against imported (A)")


def test_a_trace_of_other_prompts_is_not(trace, capsys):
    text = trace.read_bytes()
    inner = b"Think it through with care,"
    trace.write_bytes(text.replace(inner, b"Think it over, and do so well"[: len(inner)], 1))
    assert call("import-trace", trace, "--out", "imported") == 0
    assert call("compare", "imported", STORED / "greedy") == INCOMPARABLE
    assert "unlike in prompt_version: expected imported" in capsys.readouterr().out


def test_repeats_of_a_trace_stay_repeats(trace):
    """The same question at another place of the list is another repeat; at the same, a new try."""
    text = trace.read_text()
    first = text[text.index("===== CASE 1/") : text.index("===== CASE 2/")]
    again = first.replace("===== CASE 1/", "===== CASE 9/", 1)
    retried = re.sub(r"generated_tokens: \d+", "generated_tokens: 5", first)
    trace.write_text(text + "\n" + again + retried)
    assert call("import-trace", trace, "--out", "imported") == 0
    run = read_run(Path("imported"))
    found = [(s.id, s.repeat, s.gen_tokens) for s in run.samples if s.id == "nano-aime-0-00000"]
    assert found == [("nano-aime-0-00000", 0, 5), ("nano-aime-0-00000", 1, 43)]
    assert [s.n for s in run.samples] == [1, 2, 3, 4]
