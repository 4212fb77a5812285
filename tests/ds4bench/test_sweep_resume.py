"""Sweeps that go on with earlier results, or refuse to touch them."""

from __future__ import annotations

import os

import pytest

import ds4bench.sweep.run as sweep_module
from ds4bench import exits
from ds4bench.records.rows import read_rows
from engine.tooling.results.journal import encode
from tests.ds4bench.sweeps import ALL, SIZE, measured, table


def test_failed_rows_wait_for_retry_failed(bench):
    bench.faults(signal={"name": "SIGSEGV", "mode": "plain", "ctx": 200}, once="struck")
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.PARTIAL
    assert bench(*SIZE, "--csv", "a.csv", "--resume").exit_code == exits.PARTIAL
    assert bench(*SIZE, "--csv", "a.csv", "--resume", "--retry-failed").exit_code == exits.OK
    assert list(table("a.csv")["ctx_tokens"]) == [100, 200, 300, 400]


def test_existing_results_need_resume_or_force(bench):
    assert bench(*SIZE, "--csv", "a.csv").exit_code == 0
    before = (bench.folder / "a.csv").read_bytes()

    refused = bench(*SIZE, "--csv", "a.csv")
    assert refused.exit_code == exits.USAGE and "--force" in refused.stderr
    (bench.folder / "a.csv").unlink()
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.USAGE, "the journal is there"
    assert bench(*SIZE, "--csv", "a.csv", "--resume").exit_code == 0
    assert (bench.folder / "a.csv").read_bytes() == before
    assert bench(*SIZE, "--csv", "a.csv", "--force").exit_code == 0
    old = [n for n in os.listdir(bench.folder) if ".old-" in n]
    assert len(old) == 2 and (bench.folder / "a.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [(("-n", "9"), "gen_tokens"), (("--kv", "f32"), "kv"), (("--seed", "5"), "prompt")],
)
def test_resume_of_something_else_is_refused(bench, change, field):
    assert bench(*SIZE, "--csv", "a.csv").exit_code == 0
    before = (bench.folder / "a.jsonl").read_bytes()
    result = bench(*SIZE, *change, "--csv", "a.csv", "--resume")
    assert result.exit_code == exits.USAGE and f"to have {field}" in result.stderr
    assert (bench.folder / "a.jsonl").read_bytes() == before


def test_resume_with_other_code_is_refused(bench, monkeypatch):
    assert bench(*SIZE, "--csv", "a.csv").exit_code == 0
    monkeypatch.setattr(sweep_module, "timed_code", lambda: "changed")
    result = bench(*SIZE, "--csv", "a.csv", "--resume")
    assert result.exit_code == exits.USAGE and "to have code 'changed'" in result.stderr


def test_resume_on_another_machine_is_refused(bench, monkeypatch):
    monkeypatch.setattr(sweep_module, "cpu", lambda: {"name": "Fake 9000", "usable_cores": 8})
    assert bench(*SIZE, "--csv", "a.csv").exit_code == 0
    assert bench(*SIZE, "--csv", "a.csv", "--resume").exit_code == 0
    # Half of the cores are as good as another machine.
    monkeypatch.setattr(sweep_module, "cpu", lambda: {"name": "Fake 9000", "usable_cores": 4})
    result = bench(*SIZE, "--csv", "a.csv", "--resume")
    assert result.exit_code == exits.USAGE and "to have machine" in result.stderr


def test_the_code_hash_covers_what_is_timed(tmp_path):
    import shutil
    from pathlib import Path

    from engine.tooling.results.environment import sources_sha256

    root = Path(sweep_module.__file__).resolve().parents[1]
    assert len(sweep_module.timed_code()) == 64
    files = [root / name for name in sweep_module.TIMED]
    for file in files:
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.parent.name)
    copies = [tmp_path / name for name in sweep_module.TIMED]
    before = sources_sha256(copies, tmp_path)
    assert before == sources_sha256(files, root)
    copies[0].write_text(copies[0].read_text() + "# changed")
    assert sources_sha256(copies, tmp_path) != before


def test_resume_extends_a_sweep(bench):
    small = ("--ctx-start", "100", "--ctx-max", "200", "--step-incr", "100", "-n", "8")
    assert bench(*small, "--out", "o").exit_code == 0
    assert bench(*ALL, "--out", "o", "--resume").exit_code == 0
    assert bench(*ALL, "--out", "whole").exit_code == 0
    assert measured("o/sweep.parquet").equals(measured("whole/sweep.parquet"))
    rows = read_rows("o").rows
    assert any(row.resumed for row in rows), "contexts were rebuilt outside the clock"


def test_a_newer_journal_is_not_touched(bench):
    line = encode({"schema": "ds4bench.sweep.run", "version": 99})
    (bench.folder / "a.jsonl").write_bytes(line)
    result = bench(*SIZE, "--csv", "a.csv", "--resume")
    assert result.exit_code == exits.STORE and "version 1 to 1, found 99" in result.stderr
    assert (bench.folder / "a.jsonl").read_bytes() == line


def test_torn_tail_is_moved_aside_and_its_row_redone(bench):
    assert bench(*SIZE, "--csv", "a.csv").exit_code == 0
    whole = (bench.folder / "a.csv").read_bytes()
    journal = bench.folder / "a.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])

    result = bench(*SIZE, "--csv", "a.csv", "--resume")

    assert result.exit_code == 0 and "damaged tail moved to" in result.stderr
    assert (bench.folder / "a.csv").read_bytes() == whole
