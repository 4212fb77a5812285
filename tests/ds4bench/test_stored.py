"""A sweep that an earlier version of this program stored: it still resumes, compares and plots.

The files in data/sweep-version-1 were written by commit 4ffc6b9 with the tests' worker, whose clock
and tokens are arithmetic: plain and mtp-combined, 100 and 200 tokens, two runs. `extended.csv` is
what that commit wrote for 100 to 400 tokens.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import ds4bench.sweep.run as sweep_module
from ds4bench import cli
from ds4bench.ab import loop
from ds4bench.records import rows as records
from ds4bench.records.files import read_rows
from engine.tooling import exits
from engine.tooling.results.journal import read_journal

STORED = Path(__file__).parent / "data" / "sweep-version-1"
MODES = ("--mode", "plain", "--mode", "mtp-combined", "--repeats", "2")
LONGER = ("--ctx-start", "100", "--ctx-max", "400", "--step-incr", "100", "-n", "8", *MODES)


@pytest.fixture
def stored(bench, monkeypatch):
    """The stored sweep in a folder of its own, and a machine of the recorded name."""
    shutil.copytree(STORED, bench.folder / "o")
    (bench.folder / "o" / "extended.csv").unlink()
    monkeypatch.setattr(sweep_module, "cpu", lambda: {"name": "Fake 9000", "usable_cores": 8})
    return bench


def test_names_of_formats_are_a_contract():
    """Whoever renames a module must not rename what is written into files."""
    assert (records.SCHEMA, records.SCHEMA_VERSION) == ("ds4bench.sweep", 1)
    assert (loop.SCHEMA, loop.SCHEMA_VERSION) == ("ds4bench.ab", 1)


def test_resuming_it_gives_the_rows_that_the_earlier_version_would_have_measured(stored):
    before = read_journal(STORED / "rows.jsonl", "ds4bench.sweep", 1).records
    result = stored(*LONGER, "--out", "o", "--resume")

    assert result.exit_code == exits.OK, result.stderr
    after = read_journal(stored.folder / "o" / "rows.jsonl", "ds4bench.sweep", 1).records
    assert after[: len(before)] == before, "what was there is not touched"
    again = [r for r in after[len(before) :] if r["kind"] == "row"]
    assert {r["ctx_tokens"] for r in again} == {300, 400}, "no finished row is measured again"
    old, new = [
        pd.read_csv(path, dtype=str).drop(columns="cpu_load_pct")
        for path in (STORED / "extended.csv", stored.folder / "o" / "sweep.csv")
    ]
    # Columns that came later stand behind those of then.
    assert list(new)[: len(list(old))] == list(old)
    assert new[list(old)].equals(old)


def test_a_row_of_today_has_the_fields_of_a_row_of_then(stored):
    stored(*LONGER, "--out", "new")
    then, now = (
        [r for r in read_journal(path, "ds4bench.sweep", 1).records if r["kind"] == "row"]
        for path in (STORED / "rows.jsonl", stored.folder / "new" / "rows.jsonl")
    )
    # Since 2026-12 a key also names compilers, instruction set and switches.
    circumstances = {"started_at", "telemetry", "key"}
    cells = {(r["run"], r["ctx_tokens"], r["mode"]): r for r in now}
    for row in then:
        same = cells[row["run"], row["ctx_tokens"], row["mode"]]
        assert list(same) == list(row), "the same fields in the same order"
        assert {k: v for k, v in same.items() if k not in circumstances} == {
            k: v for k, v in row.items() if k not in circumstances
        }


def test_another_version_of_the_code_reads_it_and_does_not_resume_it(stored, monkeypatch):
    """Rows of different timed code never share a journal: the reader sees which field differs."""
    monkeypatch.setattr(sweep_module, "timed_code", lambda: "of another version")
    before = (stored.folder / "o" / "rows.jsonl").read_bytes()
    result = stored(*LONGER, "--out", "o", "--resume")
    assert result.exit_code == exits.USAGE
    assert "to have code 'of another version', found 'code' (--force starts over)" in result.stderr
    assert (stored.folder / "o" / "rows.jsonl").read_bytes() == before
    assert len(read_rows(stored.folder / "o").good) == 8


@pytest.mark.parametrize("name", ["rows.jsonl", "sweep.csv", "sweep.parquet"])
def test_each_of_its_files_is_read_compared_and_plotted(stored, name):
    run = read_rows(STORED / name)
    assert [(r.run, r.ctx_tokens, r.mode) for r in run.good] == [
        (r, c, m) for r in (1, 2) for c in (100, 200) for m in ("plain", "mtp-combined")
    ]
    assert run.good[0].gen_tps == pytest.approx(17.74, abs=0.005)
    whole = read_rows(STORED)
    assert [r.token_hash[:16] for r in run.good] == [r.token_hash[:16] for r in whole.good]
    assert all(row.lossless for row in run.good)

    def command(*arguments):
        return CliRunner().invoke(cli.main, [str(a) for a in arguments])

    compared = command("compare", STORED / name, stored.folder / "o" / name)
    assert compared.exit_code == exits.OK, compared.output
    assert "plain" in compared.output and "+0.00 %" in compared.output
    plotted = command("plot", STORED / name, "-o", stored.folder / "p.svg")
    assert plotted.exit_code == exits.OK, plotted.output
    assert (stored.folder / "p.svg").read_bytes().startswith(b"<?xml")
