"""Sweeps killed at random moments lose no row and repeat none."""

from __future__ import annotations

import io
import json
import time

import pandas as pd
import pytest

from ds4bench.records.files import read_rows
from engine.tooling.results.journal import scan
from tests.ds4bench.sweeps import ALL, measured, spawn


def await_growth(path, process):
    """Wait until a running sweep has written something."""
    before = path.stat().st_size if path.exists() else 0
    deadline = time.monotonic() + 120
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
    """Equal bytes but for the machine's load, and for whether a context was rebuilt."""
    frames = [pd.read_csv(io.BytesIO(p.read_bytes()), dtype=str) for p in (a, b)]
    a, b = (frame.drop(columns=["cpu_load_pct", "resumed"]) for frame in frames)
    return a.equals(b)


def test_sigkill_and_resume(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"model")
    kill_sweep(tmp_path, 60, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 5))
def test_sigkill_and_resume_many(tmp_path, seed):
    (tmp_path / "m.gguf").write_bytes(b"model")
    kill_sweep(tmp_path, 200, seed)
