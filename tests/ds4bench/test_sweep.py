"""Whole sweeps with the fake worker: rows, faults, resume, signals, contention, full disks."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections import Counter

import pandas as pd
import pytest
from click.testing import CliRunner

import ds4bench.sweep as sweep_module
from ds4bench import cli, exits
from ds4bench.plan import GIVE_UP_AFTER, PARK_AFTER
from ds4bench.records import read_rows
from ds4bench.records_csv import UPSTREAM
from engine.errors import DEVICE_HUNG
from engine.options import MODES
from engine.tooling.journal import encode, scan
from tests.ds4bench.fakes import SPEC

SIZE = ("--ctx-start", "100", "--ctx-max", "400", "--step-incr", "100", "-n", "8")
ALL = (*SIZE, "--mode", "all", "--repeats", "2")
# Columns that say when and beside what a row was measured, not what was measured.
CIRCUMSTANCES = {"started_at", "resumed", "n_samples", "cpu_load_pct", "cpu_mhz", "cpu_temp_c",
                 "mem_available_bytes", "swap_used_bytes", "child_rss_bytes"}  # fmt: skip


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs a sweep in this process; faults(...) arms the fake worker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DS4_FAKE", raising=False)
    (tmp_path / "m.gguf").write_bytes(b"model")
    real = sweep_module.Request

    def request(*arguments, **options):
        return real(*arguments, worker=SPEC, **options)

    monkeypatch.setattr(sweep_module, "Request", request)
    monkeypatch.setattr(sweep_module, "timed_code", lambda: "code")

    def run(*arguments):
        result = CliRunner().invoke(cli.main, ["-m", "m.gguf", *arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def faults(**config):
        path = tmp_path / "faults.json"
        path.write_text(json.dumps(config))
        monkeypatch.setenv("DS4_FAKE", str(path))

    run.folder = tmp_path
    run.faults = faults
    return run


def table(path):
    return pd.read_csv(path)


def measured(path):
    """A Parquet file without the circumstances."""
    frame = pd.read_parquet(path)
    return frame.drop(columns=[c for c in frame.columns if c in CIRCUMSTANCES])


def command(folder, *arguments):
    return [sys.executable, "-m", "tests.ds4bench.fake_cli", "-m", str(folder / "m.gguf"),
            *map(str, arguments)]  # fmt: skip


def test_one_plain_run_is_six_columns_in_order(bench):
    result = bench(*SIZE, "--csv", "a.csv", "--parquet", "a.parquet")

    assert result.exit_code == 0, result.stderr
    frame = table("a.csv")
    assert tuple(frame.columns) == UPSTREAM
    assert list(frame["ctx_tokens"]) == [100, 200, 300, 400]
    assert list(frame["prefill_tokens"]) == [100] * 4
    assert list(frame["kvcache_bytes"]) == [1000 + 64 * c for c in (100, 200, 300, 400)]
    # Nothing but the work is in the rates, though snapshots cost the fake clock 1000 s each.
    raw = pd.read_parquet("a.parquet")
    for ctx, prefill_s in zip(raw["ctx_tokens"], raw["prefill_s"]):
        assert prefill_s == pytest.approx(0.1 + ctx * 100 * 1e-8)
    assert (raw["gen_s"] < 1).all()
    assert b"\r" not in (bench.folder / "a.csv").read_bytes()


def test_all_modes_do_the_same_work_in_rotated_order(bench):
    result = bench(*ALL, "--out", "o", "--plot", "p.svg")

    assert result.exit_code == 0, result.stderr
    frame = table("o/sweep.csv")
    assert tuple(frame.columns[:6]) == UPSTREAM
    assert len(frame) == 32 and set(frame["gen_tokens"]) == {8}
    assert (frame["lossless"] == 1).all()
    assert frame.groupby(["ctx_tokens"])["token_hash"].nunique().max() == 1
    assert set(frame[frame["mode"] == "mtp-strict"]["tokens_per_step"]) == {2.0}
    assert (frame.groupby(["run", "ctx_tokens"])["prefill_shared"].sum() == 3).all()
    assert (bench.folder / "p.svg").read_bytes().startswith(b"<?xml")
    records, _ = scan((bench.folder / "o" / "rows.jsonl").read_bytes())
    order = [r["mode"] for r in records if r.get("kind") == "row"]
    firsts = Counter(order[::4])
    assert firsts == Counter(dict.fromkeys(MODES, 2))
    assert any(r.get("kind") == "warmup" for r in records)


def test_environment_record_is_complete(bench):
    bench(*SIZE, "--out", "o")
    environment = read_rows("o").environment
    for name in ("code", "packages", "cpu", "python", "bandwidth", "engine", "model", "gpu",
                 "prompt_tokens_sha256", "command", "plan", "fingerprint", "memory"):  # fmt: skip
        assert name in environment, name
    assert environment["bandwidth"]["read_bytes_per_s"] == 1e10
    assert read_rows("o/sweep.parquet").environment == environment


def test_sampled_rows_are_not_stamped(bench):
    assert bench(*SIZE, "--mode", "all", "--temp", "0.7", "--out", "o").exit_code == 0
    assert all(row.lossless is None for row in read_rows("o").rows)


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
    assert bench(*SIZE, "--csv", "a.csv", "--row-timeout", "1").exit_code == exits.PARTIAL
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


def test_copies_to_a_device_are_counted_per_window(bench):
    bench.faults(device=True)
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.OK
    for row in read_rows("a.jsonl").rows:
        assert (row.prefill_h2d_bytes, row.prefill_h2d_copies) == (10, 2)
        assert (row.gen_h2d_bytes, row.gen_h2d_copies) == (10, 2)
    engine = read_rows("a.jsonl").environment["engine"]
    assert engine["first_touch"] == {"h2d_bytes": 10, "h2d_copies": 2}
    assert engine["launches"] == {"decode, 1 rows": 700}


def test_without_a_device_nothing_is_said_about_copies(bench):
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.OK
    assert all(row.gen_h2d_bytes is None for row in read_rows("a.jsonl").rows)
    assert "first_touch" not in read_rows("a.jsonl").environment["engine"]


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


def test_failed_rows_wait_for_retry_failed(bench):
    bench.faults(signal={"name": "SIGSEGV", "mode": "plain", "ctx": 200}, once="struck")
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.PARTIAL
    assert bench(*SIZE, "--csv", "a.csv", "--resume").exit_code == exits.PARTIAL
    assert bench(*SIZE, "--csv", "a.csv", "--resume", "--retry-failed").exit_code == exits.OK
    assert list(table("a.csv")["ctx_tokens"]) == [100, 200, 300, 400]


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
    from ds4bench.runner import Runner

    real = Runner._append

    def append(self, fields, **more):
        real(self, fields, **more)
        if len(self.rows) == 2:
            (bench.folder / "m.gguf").write_bytes(b"another model")

    monkeypatch.setattr(Runner, "_append", append)
    result = bench(*SIZE, "--csv", "a.csv")
    assert result.exit_code == exits.PARTIAL
    assert [r.status for r in read_rows("a.jsonl").rows] == ["ok", "ok", "model_changed"]


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


def test_the_code_hash_covers_what_is_timed(tmp_path):
    import shutil
    from pathlib import Path

    from engine.tooling.environment import sources_sha256

    root = Path(sweep_module.__file__).resolve().parent
    assert len(sweep_module.timed_code()) == 64
    files = [root / name for name in sweep_module.TIMED]
    for file in files:
        shutil.copy(file, tmp_path)
    copies = [tmp_path / file.name for file in files]
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


def test_symbolic_link_as_output(bench):
    (bench.folder / "real").mkdir()
    (bench.folder / "a.csv").symlink_to(bench.folder / "real" / "a.csv")
    assert bench(*SIZE, "--csv", "a.csv").exit_code == 0
    assert (bench.folder / "a.csv").is_symlink()
    assert (bench.folder / "real" / "a.csv").read_text().startswith("ctx_tokens")


def test_output_folder_deleted_meanwhile_is_exit_5(bench, monkeypatch):
    import shutil

    from ds4bench.runner import Runner

    real = Runner._append
    (bench.folder / "d").mkdir()

    def append(self, fields, **more):
        shutil.rmtree(bench.folder / "d", ignore_errors=True)
        real(self, fields, **more)

    monkeypatch.setattr(Runner, "_append", append)
    result = bench(*SIZE, "--csv", "d/a.csv")
    assert result.exit_code == exits.STORE and "deleted" in result.stderr


def spawn(folder, *arguments, **options):
    return subprocess.Popen(
        command(folder, *arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **options.pop("env", {})}, **options,
    )  # fmt: skip


@pytest.fixture
def slow_model(tmp_path):
    """A folder with a model whose steps take real time, so that signals find it at work."""
    (tmp_path / "m.gguf").write_bytes(b"model")
    (tmp_path / "faults.json").write_text(json.dumps({"sleep_s": 0.02}))
    return tmp_path, {"env": {"DS4_FAKE": str(tmp_path / "faults.json")}}


def wait_for_rows(path, n, process):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists():
            rows = [r for r in scan(path.read_bytes())[0] if r.get("kind") == "row"]
            if len(rows) >= n:
                return
        time.sleep(0.01)
    pytest.fail(f"no {n} rows: {process.communicate(timeout=5)[1].decode()}")


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143), (1, 129)])
def test_signals_end_cleanly_and_resume(slow_model, number, code):
    folder, options = slow_model
    with spawn(folder, *ALL, "--csv", "a.csv", **options) as process:
        wait_for_rows(folder / "a.jsonl", 2, process)
        start = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        took = time.monotonic() - start

    assert process.returncode == code, err
    assert b"Traceback" not in err
    assert took < 4  # 2 s on an idle machine; the row in progress takes 0.2 s
    rows = read_rows(folder / "a.jsonl").rows
    assert len(table(folder / "a.csv")) == len(rows) >= 2
    assert all(row.ok for row in rows)


def test_second_ctrl_c_does_not_wait_for_the_row(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"model")
    (tmp_path / "faults.json").write_text(json.dumps({"hang": {"mode": "plain", "ctx": 200}}))
    env = {"DS4_FAKE": str(tmp_path / "faults.json")}
    with spawn(tmp_path, *SIZE, "--csv", "a.csv", env=env) as process:
        wait_for_rows(tmp_path / "a.jsonl", 1, process)
        time.sleep(0.3)
        process.send_signal(2)
        time.sleep(0.5)
        assert process.poll() is None, "the first one waits for the row"
        process.send_signal(2)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"finishing this row" in err
    assert list(table(tmp_path / "a.csv")["ctx_tokens"]) == [100]


def test_two_sweeps_one_file(slow_model):
    folder, options = slow_model
    with spawn(folder, *ALL, "--csv", "a.csv", **options) as first:
        wait_for_rows(folder / "a.jsonl", 1, first)
        with spawn(folder, *ALL, "--csv", "a.csv", "--resume", **options) as second:
            _, err = second.communicate(timeout=20)
        assert second.returncode == exits.STORE
        assert f"found pid {first.pid} on".encode() in err
        with spawn(folder, *ALL, "--csv", "a.csv", "--force", **options) as third:
            _, err = third.communicate(timeout=20)
        assert third.returncode == exits.STORE, err
        first.kill()


def test_four_racers_one_winner(slow_model):
    folder, options = slow_model
    racers = [spawn(folder, *SIZE, "--csv", "a.csv", **options) for _ in range(4)]
    codes = []
    for racer in racers:
        _, err = racer.communicate(timeout=60)
        assert b"Traceback" not in err, err
        codes.append(racer.returncode)
    # A loser finds the lock held, or the finished results.
    assert sorted(codes)[0] == 0 and codes.count(0) == 1
    assert set(codes) <= {0, exits.STORE, exits.USAGE}
    assert list(table(folder / "a.csv")["ctx_tokens"]) == [100, 200, 300, 400]


def test_broken_pipe_on_stdout(slow_model):
    folder, options = slow_model
    with spawn(folder, *ALL, **options) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=20)
    assert process.returncode == exits.ERROR
    assert b"closed pipe" in err and b"Traceback" not in err


def test_full_stdout(slow_model):
    folder, _ = slow_model
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(folder, *SIZE), cwd=folder, stdout=full, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
    assert done.returncode == exits.STORE
    assert b"Traceback" not in done.stderr, done.stderr


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
import runpy
sys.argv[0] = "ds4-bench"
runpy.run_module("tests.ds4bench.fake_cli", run_name="__main__")
"""


@pytest.mark.parametrize("limit", [200, 6000, 9000])
def test_full_disk_is_exit_5_and_resumes(slow_model, limit):
    folder, _ = slow_model
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    arguments = ["-m", str(folder / "m.gguf"), *ALL, "--out", "o"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *arguments], cwd=folder, env=env,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == exits.STORE, done.stderr
    assert "bytes free" in done.stderr and "Traceback" not in done.stderr
    journal = folder / "o" / "rows.jsonl"
    records, good = scan(journal.read_bytes())
    assert good == journal.stat().st_size, "no torn line"
    rows = sum(r.get("kind") == "row" for r in records)
    assert rows > 0 or limit < 9000

    again = subprocess.run(command(folder, *ALL, "--out", "o", "--resume"), cwd=folder, env=env)
    assert again.returncode == 0
    records, _ = scan(journal.read_bytes())
    keys = [r["key"] for r in records if r.get("kind") == "row"]
    assert len(keys) == len(set(keys)) == 32


def await_growth(path, process):
    """Wait until a running sweep has written something."""
    before = path.stat().st_size if path.exists() else 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.stat().st_size > before:
            return
        time.sleep(0.005)


def kill_sweep(folder, kills, seed):
    """SIGKILL a sweep at random moments until `kills` are done, then run it to its end."""
    import random

    draw = random.Random(seed)
    arguments = (*ALL, "--out", "killed")
    env = {"DS4_FAKE": str(folder / "faults.json")}
    (folder / "faults.json").write_text(json.dumps({"sleep_s": 0.003}))
    acknowledged: set[str] = set()
    stops: set[int] = set()
    done = 0
    while done < kills:
        process = spawn(folder, *arguments, "--resume", env=env)
        # Some kills hit the start, most hit rows; long-tailed, so that some runs get to their end.
        if draw.random() < 0.8:
            await_growth(folder / "killed" / "rows.jsonl", process)
        time.sleep(draw.expovariate(1 / 0.15))
        running = process.poll() is None
        process.kill()
        _, err = process.communicate()
        assert running or process.returncode == 0, err
        done += 1
        journal = folder / "killed" / "rows.jsonl"
        if not journal.exists():
            continue
        keys = [r["key"] for r in scan(journal.read_bytes())[0] if r.get("kind") == "row"]
        assert len(keys) == len(set(keys)), "no row twice"
        assert acknowledged <= set(keys), "no row lost"
        # What the parent printed for a row came after its fsync.
        assert len(keys) >= len(acknowledged) + err.count(b"] ctx")
        acknowledged = set(keys)
        stops.add(len(keys))
        for name in ("sweep.csv", "sweep.parquet"):
            if (folder / "killed" / name).exists():
                read_rows(folder / "killed" / name)
        if len(keys) == 32 and not running:
            # Finished before its time: start over, keeping the count of kills.
            for path in (folder / "killed").iterdir():
                path.unlink()
            acknowledged = set()
    assert len(stops) >= 10, "the kills must fall all over the sweep"
    with spawn(folder, *arguments, "--resume", env=env) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    with spawn(folder, *ALL, "--out", "whole", env=env) as process:
        process.communicate(timeout=60)
    killed, whole = folder / "killed", folder / "whole"
    assert sum(r.get("kind") == "row" for r in scan((killed / "rows.jsonl").read_bytes())[0]) == 32
    assert not list(killed.glob(".*.tmp.*")) and not list(killed.glob("*.bad-*"))
    assert measured(killed / "sweep.parquet").equals(measured(whole / "sweep.parquet"))
    assert same_csv(killed / "sweep.csv", whole / "sweep.csv")


def same_csv(a, b):
    """Equal bytes but for the column that holds the machine's load."""
    frames = [pd.read_csv(io.BytesIO(p.read_bytes()), dtype=str) for p in (a, b)]
    return frames[0].drop(columns="cpu_load_pct").equals(frames[1].drop(columns="cpu_load_pct"))


def test_sigkill_and_resume(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"model")
    kill_sweep(tmp_path, 60, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 5))
def test_sigkill_and_resume_many(tmp_path, seed):
    (tmp_path / "m.gguf").write_bytes(b"model")
    kill_sweep(tmp_path, 200, seed)
