"""What reports and terminals show of failures, names, times and verdicts (FAULTS.md, Views)."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from click.testing import CliRunner
from rich.console import Console

from ds4bench.commands.ab import ab_command
from ds4bench.commands.compare import compare_command
from ds4bench.compare import view
from ds4bench.compare.judge import compare
from ds4bench.report import exports, page
from engine.tooling import exits
from tests.ds4bench.speed_rows import sweep, write_journal
from tests.ds4bench.test_ab import FAKE
from tests.ds4bench.test_compare import arm, pairs
from tests.ds4bench.test_report import run


def test_failed_runs_are_counted_not_their_messages():
    rows = [
        replace(r, status="timeout", message="no answer") if r.run <= 3 else r
        for r in sweep(runs=5, modes=("plain",), ctx=(2048,))
    ]
    found = run(rows).run

    assert page.rows_table(found).rows[0].cells[-1] == "2 (3 failed)"
    assert page.failures(found) == ["failed: plain at 2048: timeout: no answer (3 runs)"]
    root = ET.fromstring(exports.to_junit([], [run(rows)]))
    assert root.get("errors") == "3", "the same number in both"


def test_several_runs_have_names_of_their_own_in_benchmark_json():
    one, two = run(sweep(), "one"), run(sweep(seed=1), "two")

    names = [e["name"] for e in exports.bigger_is_better([one, two])]
    alone = [e["name"] for e in exports.bigger_is_better([one])]

    assert len(set(names)) == len(names) == 2 * len(alone)
    assert "decode plain at 4096" in alone, "a single run keeps its series"
    assert {"decode plain at 4096 (one)", "decode plain at 4096 (two)"} <= set(names)


def test_times_of_junit_add_up_to_what_was_measured():
    rows = sweep(runs=2)
    root = ET.fromstring(exports.to_junit([], [run(rows)]))

    times = [float(case.get("time")) for case in root.iter("testcase")]
    prefills = {(r.run, r.ctx_tokens): r.prefill_s for r in rows}
    spent = sum(prefills.values()) + sum(r.gen_s for r in rows)
    assert sum(times) == pytest.approx(spent, abs=1e-6 * len(rows))


@pytest.mark.parametrize("command", ["compare", "ab"])
def test_verdicts_as_junit(tmp_path, command):
    out = tmp_path / "x.xml"
    if command == "compare":
        for name, slower in (("base", 1.0), ("head", 0.8)):
            write_journal(tmp_path / name, sweep(slower=slower))
        options = [str(tmp_path / "base"), str(tmp_path / "head"), "--junit", str(out)]
        result = CliRunner().invoke(compare_command, options)
    else:
        options = ["--out", str(tmp_path / "s"), "--max-load", "100", "--max-pairs", "6"]
        options += ["--a", FAKE, "--b", FAKE, "--b-args", "--slower 0.8", "--junit", str(out)]
        result = CliRunner().invoke(ab_command, options)

    assert result.exit_code == exits.REGRESSION, result.output
    root = ET.parse(out).getroot()
    failed = {
        case.get("name") for case in root.iter("testcase") if case.find("failure") is not None
    }
    assert "decode plain curve" in failed and "prefill plain curve" not in failed


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_word_and_no_number_is_cut_however_narrow_the_terminal(width):
    for result in (pairs(6, 0.98), compare(arm(sweep()), arm(sweep(slower=0.8, seed=2)))):
        out = io.StringIO()
        view.print_rich(result, Console(file=out, width=width), every_cell=True)
        text = out.getvalue()

        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        words = " ".join(text.split())
        for line in [*result.curves, *result.cells]:
            assert view.verdict_text(line) in words
            assert view.interval_text(line.judgement.interval) in words
