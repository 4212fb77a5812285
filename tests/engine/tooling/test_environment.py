"""The environment record: plain JSON, true where it can be checked, silent where unknown."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import numpy

from engine.tooling.results import environment as module

ROOT = Path(__file__).resolve().parents[3]


def test_facts_agree_with_their_sources():
    facts = module.environment()

    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["python"] == platform.python_version()
    assert facts["packages"]["numpy"] == numpy.__version__
    assert facts["cpu"]["logical_cores"] == os.cpu_count()
    assert None not in facts.values() and None not in facts["cpu"].values()


def test_commit_and_dirty_flag(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    git("init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")

    assert module.code(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "out.csv").touch()
    assert module.code(tmp_path)["dirty"] is False
    (tmp_path / "a.py").write_text("x = 2\n")
    assert module.code(tmp_path)["dirty"] is True


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    assert module.code(tmp_path) == {"commit": "", "dirty": None}


def test_without_git_or_proc_nothing_is_invented(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(module, "_read", lambda path: "")

    assert module.code(tmp_path) == {"commit": "", "dirty": None}
    assert "governor" not in module.cpu()


def test_a_system_without_affinity_has_all_its_cores(monkeypatch):
    """macOS has no os.sched_getaffinity: bench-faults 5."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert module.usable_cores() == 12
    assert module.cpu()["usable_cores"] == 12


def test_affinity_is_asked_behind_a_guard_only():
    """Whatever asks for affinity says on the same or the line before that it may be missing."""
    for folder in ("engine", "ds4bench", "ds4eval"):
        for file in (ROOT / folder).rglob("*.py"):
            lines = file.read_text(encoding="utf-8").splitlines()
            for number, line in enumerate(lines):
                if "os.sched_getaffinity(" in line:
                    assert "hasattr(os" in line + lines[number - 1], f"{file}:{number + 1}"
