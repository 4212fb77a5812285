"""Sweeps that go on with earlier results, or refuse to touch them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ds4bench.sweep.run as sweep_module
from ds4bench.records.files import read_rows
from ds4bench.sweep import checks, timed
from ds4bench.sweep.attempts import place_of
from engine.tooling import exits
from engine.tooling.results.environment import environment
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


def test_the_code_hash_covers_whatever_the_timed_process_imports(tmp_path):
    """Every module of ours that a real worker has imported after a decode window is hashed."""
    names = ("nano-iq2-base.gguf", "nano-iq2-mtp.gguf")
    base, mtp = (timed.ROOT / "engine" / "models" / "data" / name for name in names)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from ds4bench.plan import SweepPlan\n"
        "from ds4bench.worker import main, model\n"
        "worker = model.open_worker()\n"
        "plan = SweepPlan(Path(sys.argv[1]), mtp=Path(sys.argv[2]), modes=('mtp-combined',),\n"
        "                 ctx_start=8, ctx_max=8, gen_tokens=4, threads=1)\n"
        "worker.inspect(plan); worker.encode(); worker.load(); worker.begin()\n"
        "worker.prefill(8); worker.decode('mtp-combined'); worker.bandwidth()\n"
        "for name, module in sys.modules.items():\n"
        "    if name.split('.')[0] in ('ds4bench', 'engine') and module.__file__:\n"
        "        print(module.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(base), str(mtp)],
        env={**os.environ, "PYTHONPATH": str(timed.ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {Path(line).resolve() for line in done.stdout.splitlines()}
    hashed = set(timed.timed_sources())
    assert timed.ROOT / "ds4bench" / "worker" / "protocol.py" in imported
    assert not imported - hashed


def test_the_code_hash_follows_every_file(monkeypatch, tmp_path):
    before = timed.timed_code()
    assert len(before) == 64
    copy = tmp_path / "repository"
    for file in timed.timed_sources():
        target = copy / file.relative_to(timed.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    monkeypatch.setattr(timed, "ROOT", copy)
    assert timed.timed_code() == before
    for name in ("worker/protocol.py", "worker/modes.py", "plan.py", "telemetry/roofline.py"):
        file = copy / "ds4bench" / name
        file.write_text(file.read_text() + "# changed")
        after = timed.timed_code()
        assert after != before, name
        before = after


GRID = ("--ctx-start", "2048", "--ctx-max", "8192", "-n", "8", "--out", "o")


def test_rows_of_another_grid_never_join(bench):
    """Fault 1: at 8192 a step of 4096 tokens was divided into 2048."""
    assert bench(*GRID, "--step-mul", "2").exit_code == 0
    before = (bench.folder / "o" / "rows.jsonl").read_bytes()
    result = bench(*GRID, "--step-incr", "2048", "--resume")
    assert result.exit_code == exits.USAGE
    assert "plain at 8192 (run 1) behind a prefill of 2048 tokens" in result.stderr
    assert (bench.folder / "o" / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "narrower",
    [
        ("--ctx-start", "100", "--ctx-max", "300", "--step-incr", "100", "-n", "8"),
        (*SIZE, "--repeats", "1", "--mode", "plain"),
        (*SIZE, "--repeats", "2", "--mode", "plain"),
    ],
)
def test_rows_off_the_new_plan_never_join(bench, narrower):
    """Fault 1: rows of other contexts, runs or modes stood in upstream's six columns."""
    assert bench(*SIZE, "--mode", "plain", "--mode", "mtp-strict", "--repeats", "2",
                 "--out", "o").exit_code == 0  # fmt: skip
    result = bench(*narrower, "--out", "o", "--resume")
    assert result.exit_code == exits.USAGE and "cells of this plan only" in result.stderr


def test_a_prefill_is_shared_by_rows_of_the_same_step_only(bench):
    """Fault 1, one level below: the runner itself tells steps apart."""
    assert bench(*GRID, "--step-mul", "2").exit_code == 0
    rows = read_rows("o").rows
    assert len({place_of(row) for row in rows}) == len(rows) == 3
    moved = [replace(row, prefill_tokens=row.prefill_tokens // 2) for row in rows]
    assert not {place_of(row) for row in rows} & {place_of(row) for row in moved}


def test_resume_with_another_instruction_set_is_refused(bench, monkeypatch):
    """Fault 11: one CSV held rows of both."""
    monkeypatch.setenv("DS4_CPU_ISA", "avx2")
    assert bench(*SIZE, "--out", "d").exit_code == 0
    monkeypatch.delenv("DS4_CPU_ISA")
    result = bench(*SIZE, "--out", "d", "--resume")
    assert result.exit_code == exits.USAGE
    assert "to have switches DS4_CPU_ISA None, found 'avx2'" in result.stderr


def test_resume_where_auto_repacks_otherwise_is_refused(bench):
    """Fault 11: free memory decides, and may decide otherwise the next time."""
    assert bench(*SIZE, "--out", "d").exit_code == 0
    bench.faults(repacked=True)
    result = bench(*SIZE, "--out", "d", "--resume")
    assert result.exit_code == exits.USAGE
    assert "to have effective repacked True, found False" in result.stderr


def test_resume_with_another_switch_or_compiler_is_refused(bench, monkeypatch):
    assert bench(*SIZE, "--out", "d").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_OPT", "1")
        result = bench(*SIZE, "--out", "d", "--resume")
        assert result.exit_code == exits.USAGE
        assert "switches NUMBA_OPT '1', found None" in result.stderr
    with monkeypatch.context() as patch:
        patch.setattr(checks, "compilers", lambda: {"numba": "99"})
        result = bench(*SIZE, "--out", "d", "--resume")
        assert result.exit_code == exits.USAGE and "compilers " in result.stderr
    result = bench(*SIZE, "--out", "d", "--resume", "--warm-weights")
    assert result.exit_code == exits.USAGE and "to have warm_weights True" in result.stderr


def test_a_switch_that_nothing_reads_is_no_matter(bench, monkeypatch):
    """No kernel runs on a threading layer of numba's, whatever the environment asks for."""
    assert bench(*SIZE, "--out", "d").exit_code == 0
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "workqueue")
    assert bench(*SIZE, "--out", "d", "--resume").exit_code == 0
    assert "threading_layer_env" not in environment()


def test_resume_extends_a_sweep(bench):
    small = ("--ctx-start", "100", "--ctx-max", "200", "--step-incr", "100", "-n", "8")
    assert bench(*small, "--out", "o").exit_code == 0
    assert bench(*ALL, "--out", "o", "--resume").exit_code == 0
    assert bench(*ALL, "--out", "whole").exit_code == 0
    assert measured("o/sweep.parquet").equals(measured("whole/sweep.parquet"))
    rows = read_rows("o").rows
    assert any(row.resumed for row in rows), "contexts were rebuilt outside the clock"


def test_a_newer_journal_is_not_touched(bench):
    line = encode({"schema": "ds4bench.sweep", "version": 99})
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


@pytest.mark.parametrize("turned", [False, True])
def test_no_number_of_threads_is_that_of_the_cores_on_resume(bench, monkeypatch, turned):
    monkeypatch.setattr(sweep_module, "cpu", lambda: {"name": "Fake 9000", "usable_cores": 2})
    short = ("--ctx-start", "100", "--step-incr", "100", "-n", "4", "--out", "o")
    first, second = ((), ("-t", "2")) if not turned else (("-t", "2"), ())
    assert bench(*short, "--ctx-max", "100", *first).exit_code == exits.OK
    resumed = bench(*short, "--ctx-max", "200", *second, "--resume")
    assert resumed.exit_code == exits.OK, resumed.stderr
    refused = bench(*short, "--ctx-max", "300", "-t", "1", "--resume")
    assert refused.exit_code == exits.USAGE and "threads" in refused.stderr
