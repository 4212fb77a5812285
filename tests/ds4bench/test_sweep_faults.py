"""Sweeps whose worker fails: what a fault costs, and how it is recorded."""

from __future__ import annotations

import pytest

from ds4bench.plan import GIVE_UP_AFTER, PARK_AFTER
from ds4bench.records.files import read_rows
from engine.errors import DEVICE_HUNG
from engine.options import MTP_MODES
from engine.tooling import exits
from engine.tooling.results.journal import scan
from tests.ds4bench.sweeps import SIZE, table

MODES = ("plain", *MTP_MODES)  # of --mode all where no DSpark drafter is named


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT", "SIGKILL"])
def test_a_crash_costs_one_row(bench, name):
    bench.faults(signal={"name": name, "mode": "mtp-batched", "ctx": 200})
    result = bench(*SIZE, "--mode", "all", "--out", "o")

    assert result.exit_code == exits.PARTIAL
    bad = [row for row in read_rows("o").rows if not row.ok]
    assert [(r.mode, r.ctx_tokens) for r in bad] == [("mtp-batched", 200)]
    status = {"SIGSEGV": "segv", "SIGBUS": "bus", "SIGABRT": "abort", "SIGKILL": "oom"}[name]
    assert bad[0].status == f"crashed_{status}"
    assert bad[0].prefill_s is not None, "the prefill was measured before"
    assert len(read_rows("o").good) == 15
    assert "1 row(s) failed" in result.stderr


def test_a_crash_in_prefill_fails_that_frontier_and_later_ones_go_on(bench):
    # The context is rebuilt past the place without stopping there, so later frontiers work.
    bench.faults(signal={"name": "SIGSEGV", "mode": "prefill", "ctx": 200})
    result = bench(*SIZE, "--csv", "a.csv")
    assert result.exit_code == exits.PARTIAL
    rows = read_rows("a.jsonl").rows
    assert [(r.ctx_tokens, r.status) for r in rows] == [
        (100, "ok"), (200, "crashed_segv"), (300, "crashed_segv"), (400, "ok"),
    ]  # fmt: skip
    assert list(table("a.csv")["ctx_tokens"]) == [100, 400]


def test_errors_and_non_finite_logits_are_rows(bench):
    bench.faults(error={"mode": "mtp-strict", "ctx": 300}, nonfinite={"mode": "plain", "ctx": 100})
    assert bench(*SIZE, "--mode", "all", "--out", "o").exit_code == exits.PARTIAL
    bad = {(r.mode, r.ctx_tokens): r.status for r in read_rows("o").rows if not r.ok}
    assert bad == {("mtp-strict", 300): "error", ("plain", 100): "nonfinite"}


def test_a_hang_is_a_timeout_row(bench):
    bench.faults(hang={"mode": "plain", "ctx": 200})
    assert bench(*SIZE, "--csv", "a.csv", "--row-timeout", "4").exit_code == exits.PARTIAL
    assert [r.status for r in read_rows("a.jsonl").rows] == ["ok", "timeout", "ok", "ok"]


def test_a_mode_that_always_fails_costs_its_own_rows(bench):
    for fault in (dict(signal={"name": "SIGSEGV", "mode": "mtp-strict"}),
                  dict(nonfinite={"mode": "mtp-strict"})):  # fmt: skip
        bench.faults(**fault)
        result = bench(*SIZE, "--mode", "all", "--out", "o", "--force")
        assert result.exit_code == exits.PARTIAL, result.stderr
        assert {(r.mode, r.ok) for r in read_rows("o").rows} == {
            (mode, mode != "mtp-strict") for mode in MODES
        }


def test_hopeless_sweeps_end(bench):
    bench.faults(signal={"name": "SIGSEGV", "mode": "mtp-strict"})
    arguments = ("--ctx-start", "100", "--ctx-max", "1000", "--step-incr", "100", "-n", "8")
    result = bench(*arguments, "--mode", "mtp-strict", "--out", "o")
    assert result.exit_code == exits.PARTIAL and "giving up" in result.stderr
    assert len(read_rows("o").rows) == GIVE_UP_AFTER
    bench.faults(error={"mode": "prefill"})
    result = bench(*SIZE, "--out", "p")
    assert result.exit_code == exits.ERROR and "expected luck" in result.stderr


def test_a_sweep_that_cannot_go_on_publishes_what_it_has(bench, monkeypatch):
    """The worker dies, and the next one finds no model any more."""
    from ds4bench.sweep.cells import Runner

    real = Runner._forget_worker

    def lost(self):
        (bench.folder / "m.gguf").rename(bench.folder / "gone.gguf")
        real(self)

    monkeypatch.setattr(Runner, "_forget_worker", lost)
    monkeypatch.setattr(Runner, "_model_changed", lambda self: False)
    bench.faults(signal={"name": "SIGSEGV", "mode": "plain", "ctx": 300})
    result = bench(*SIZE, "--out", "o")
    assert result.exit_code == exits.ERROR and "expected a model" in result.stderr
    assert list(table("o/sweep.csv")["ctx_tokens"]) == [100, 200]


def test_a_lost_device_costs_a_process_and_the_row_is_tried_once_more(bench):
    bench.faults(lost={"mode": "plain", "ctx": 200}, once="struck")
    result = bench(*SIZE, "--csv", "a.csv")
    assert result.exit_code == exits.OK, result.stderr
    assert "once more in a new process" in result.stderr
    bench.faults(lost={"mode": "plain", "ctx": 200})
    result = bench(*SIZE, "--csv", "b.csv")
    assert result.exit_code == exits.PARTIAL
    assert {row.ctx_tokens: row.status for row in read_rows("b.jsonl").rows} == {
        100: "ok", 200: "gpu_fault", 300: "ok", 400: "ok",
    }  # fmt: skip


def test_refused_memory_and_a_hung_device_have_their_own_status(bench):
    bench.faults(
        oom={"mode": "plain", "ctx": 100}, status={"mode": "plain", "ctx": 200, "code": DEVICE_HUNG}
    )
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.PARTIAL
    assert {row.ctx_tokens: row.status for row in read_rows("a.jsonl").rows} == {
        100: "oom", 200: "timeout", 300: "ok", 400: "ok",
    }  # fmt: skip


def test_crash_loop_is_parked_after_three(bench):
    bench.faults(signal={"name": "SIGSEGV", "mode": "plain", "ctx": 200})
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.PARTIAL
    again = (*SIZE, "--csv", "a.csv", "--resume", "--retry-failed")
    for _ in range(PARK_AFTER + 1):
        result = bench(*again)
        assert result.exit_code == exits.PARTIAL
    assert "crashed three times, left alone" in result.stderr
    records, _ = scan((bench.folder / "a.jsonl").read_bytes())
    crashed = [r for r in records if str(r.get("status", "")).startswith("crashed")]
    assert len(crashed) == PARK_AFTER
    assert len(read_rows("a.jsonl").good) == 3


def test_a_mode_that_differs_from_plain_turns_the_exit_status(bench):
    bench.faults(differ="mtp-combined")
    result = bench(*SIZE, "--mode", "all", "--out", "o")
    assert result.exit_code == exits.NOT_LOSSLESS
    assert "mtp-combined at 100 (run 1): emitted other tokens than plain" in result.stderr
    flags = {(r.mode, r.lossless) for r in read_rows("o").rows}
    assert flags == {(m, m != "mtp-combined") for m in MODES}


def test_a_useless_drafter_is_named(bench):
    bench.faults(zero_accept=True)
    result = bench(*SIZE, "--mode", "all", "--out", "o")
    assert "mtp-strict: not one drafted token was kept" in result.stderr


def test_a_replaced_model_ends_the_sweep(bench, monkeypatch):
    from ds4bench.sweep.cells import Runner

    real = Runner._append

    def append(self, row):
        real(self, row)
        if len(self.rows) == 2:
            (bench.folder / "m.gguf").write_bytes(b"another model")

    monkeypatch.setattr(Runner, "_append", append)
    result = bench(*SIZE, "--csv", "a.csv")
    assert result.exit_code == exits.PARTIAL
    assert [r.status for r in read_rows("a.jsonl").rows] == ["ok", "ok", "model_changed"]
