"""The environment record: plain JSON, true where it can be checked, silent where unknown."""

from __future__ import annotations

import json
import os
import platform
import subprocess

import numpy

from engine.tooling.results import environment as module


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
