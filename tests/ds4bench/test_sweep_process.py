"""Sweeps as processes: signals, contention, closed pipes, full disks."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ds4bench.records.files import read_rows
from engine.tooling import exits
from engine.tooling.results.journal import scan
from tests.ds4bench.sweeps import (
    ALL,
    SIZE,
    command,
    rows_in,
    spawn,
    table,
    wait_for_rows,
)


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143), (1, 129)])
def test_signals_end_cleanly_and_resume(slow_model, number, code):
    folder, options = slow_model
    with spawn(folder, *ALL, "--csv", "a.csv", **options) as process:
        wait_for_rows(folder / "a.jsonl", 2, process)
        before = rows_in(folder / "a.jsonl")
        process.send_signal(number)
        _, err = process.communicate(timeout=120)

    assert process.returncode == code, err
    assert b"Traceback" not in err
    rows = read_rows(folder / "a.jsonl").rows
    # The row in progress is finished; another may have ended between the count and the signal.
    assert len(rows) <= before + 2
    assert len(table(folder / "a.csv")) == len(rows) >= 2
    assert all(row.ok for row in rows)


def test_nohup_is_respected(slow_model):
    """Fault 6: a sweep under nohup goes on when its terminal goes away."""
    folder, options = slow_model
    argv = ["nohup", *command(folder, *SIZE, "--csv", "a.csv")]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), **options["env"]}
    with subprocess.Popen(
        argv, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        wait_for_rows(folder / "a.jsonl", 1, process)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=120)
    assert process.returncode == exits.OK, err
    assert list(table(folder / "a.csv")["ctx_tokens"]) == [100, 200, 300, 400]


def test_a_stopped_process_is_no_good_row(slow_model):
    """Fault 10: a row with SIGSTOP in it was ok at a third of the speed."""
    folder, options = slow_model
    (folder / "faults.json").write_text(json.dumps({"sleep_s": 0.1}))
    with spawn(folder, *SIZE, "--csv", "a.csv", **options) as process:
        wait_for_rows(folder / "a.jsonl", 1, process)
        [worker] = psutil.Process(process.pid).children()
        worker.suspend()
        time.sleep(1.5)
        worker.resume()
        _, err = process.communicate(timeout=120)
    assert process.returncode == exits.OK, err
    records, _ = scan((folder / "a.jsonl").read_bytes())
    [bad] = [r for r in records if r.get("kind") == "row" and r["status"] != "ok"]
    assert bad["status"] == "stalled" and bad["telemetry"]["stopped_s"] > 0.5
    assert b"stood still for" in err and b"measured once more" in err
    assert [row.status for row in read_rows(folder / "a.jsonl").rows] == ["ok"] * 4


def test_without_files_nobody_is_told_to_resume(slow_model):
    """Fault 20: the journal of such a sweep is a temporary one."""
    folder, options = slow_model
    with spawn(folder, *ALL, **options) as process:
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == exits.TERMINATED, err
    assert b"on standard output only" in err and b"rows are safe" not in err


def test_a_terminal_that_goes_away_costs_no_view(slow_model):
    folder, options = slow_model
    main, side = pty.openpty()
    with spawn(folder, *ALL, "--out", "o", stderr=side, **options) as process:
        os.close(side)
        deadline = time.monotonic() + 120
        while rows_in(folder / "o" / "rows.jsonl") < 2 and time.monotonic() < deadline:
            if select.select([main], [], [], 0.05)[0]:
                os.read(main, 4096)
        os.close(main)
        process.send_signal(signal.SIGHUP)
        process.wait(timeout=20)
    assert process.returncode == exits.HANGUP
    rows = read_rows(folder / "o").rows
    assert len(table(folder / "o" / "sweep.csv")) == len(rows) >= 2


def test_a_terminal_shows_each_row_once(slow_model):
    """Fault 27: one line for people and one of CSV."""
    folder, options = slow_model
    main, side = pty.openpty()
    shown = b""
    with spawn(folder, *SIZE, stdout=side, stderr=side, **options) as process:
        os.close(side)
        with contextlib.suppress(OSError):  # the end of a terminal is an error on Linux
            while data := os.read(main, 4096):
                shown += data
    os.close(main)
    assert process.returncode == exits.OK
    assert shown.count(b"ctx_tokens,") == 1
    for ctx in (100, 200, 300, 400):
        assert shown.count(b"%d,100,999" % ctx) == (ctx == 100)
        assert shown.count(b"%d,100," % ctx) == 1
    assert b"prefill " not in shown


def test_one_ctrl_c_is_enough_while_the_model_loads(slow_model):
    folder, options = slow_model
    (folder / "faults.json").write_text(json.dumps({"load_s": 60}))
    with spawn(folder, *ALL, "--csv", "a.csv", **options) as process:
        deadline = time.monotonic() + 120
        while not (folder / "a.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # from the journal to the load
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == exits.INTERRUPTED, err
    assert b"Traceback" not in err and b"finishing this row" not in err


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
        # A stopped process holds its lock, however slowly the others start on a busy machine.
        first.send_signal(signal.SIGSTOP)
        with spawn(folder, *ALL, "--csv", "a.csv", "--resume", **options) as second:
            _, err = second.communicate(timeout=60)
        assert second.returncode == exits.STORE
        assert f"found pid {first.pid} on".encode() in err
        with spawn(folder, *ALL, "--csv", "a.csv", "--force", **options) as third:
            _, err = third.communicate(timeout=60)
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
