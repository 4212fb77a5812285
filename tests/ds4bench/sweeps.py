"""What tests of whole sweeps share: sizes, readers of results, sweeps as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from engine.tooling.results.journal import scan

SIZE = ("--ctx-start", "100", "--ctx-max", "400", "--step-incr", "100", "-n", "8")
ALL = (*SIZE, "--mode", "all", "--repeats", "2")
# Columns that say when and beside what a row was measured, not what was measured.
CIRCUMSTANCES = {"started_at", "resumed", "n_samples", "cpu_load_pct", "cpu_mhz", "cpu_temp_c",
                 "mem_available_bytes", "swap_used_bytes", "child_rss_bytes"}  # fmt: skip


def table(path):
    return pd.read_csv(path)


def measured(path):
    """A Parquet file without the circumstances."""
    frame = pd.read_parquet(path)
    return frame.drop(columns=[c for c in frame.columns if c in CIRCUMSTANCES])


def command(folder, *arguments):
    return [sys.executable, "-m", "tests.ds4bench.fake_cli", "-m", str(folder / "m.gguf"),
            *map(str, arguments)]  # fmt: skip


def spawn(folder, *arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        command(folder, *arguments), cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **options.pop("env", {})}, **options,
    )  # fmt: skip


def rows_in(path):
    """Rows that a journal holds by now."""
    if not path.exists():
        return 0
    return sum(r.get("kind") == "row" for r in scan(path.read_bytes())[0])


def wait_for_rows(path, n, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if rows_in(path) >= n:
            return
        time.sleep(0.01)
    pytest.fail(f"no {n} rows: {process.communicate(timeout=5)[1].decode()}")
