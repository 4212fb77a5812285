"""The list of what a GPU must confirm: nothing that it has measured is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cuda.confirm import STEPS, Step, main

ROOT = Path(__file__).resolve().parents[3]


def step(name, code, minutes=1.0):
    return Step(name, f"claim of {name}", (sys.executable, "-c", code), minutes)


def test_steps_that_fail_or_hang_keep_no_other_from_running(tmp_path):
    steps = [
        step("good", "import os; print(os.environ['DS4_TEST_DEVICE'])"),
        step("bad", "print('half'); raise SystemExit(3)"),
        step("slow", "print('begun', flush=True); import time; time.sleep(60)", 0.02),
        step("last", "print('end')"),
    ]
    assert main(["--out", str(tmp_path)], steps) == 1
    found = json.loads((tmp_path / "confirm.json").read_text())
    assert [(f["step"], f["status"]) for f in found] == [
        ("good", 0), ("bad", 3), ("slow", None), ("last", 0),
    ]  # fmt: skip
    texts = {f["step"]: (tmp_path / f"{f['step']}.txt").read_text().strip() for f in found}
    assert texts == {"good": "gpu", "bad": "half", "slow": "begun", "last": "end"}


def test_a_run_that_is_cut_off_keeps_what_it_has(tmp_path, monkeypatch):
    calls = []

    def cut(command, **_):
        calls.append(command)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return type("Done", (), {"returncode": 0})()

    monkeypatch.setattr("subprocess.run", cut)
    with pytest.raises(KeyboardInterrupt):
        main(["--out", str(tmp_path)], [step(name, "") for name in ("a", "b", "c")])
    found = json.loads((tmp_path / "confirm.json").read_text())
    assert [(f["step"], f["status"]) for f in found] == [("a", 0), ("b", None)]


def test_every_step_can_be_listed_and_names_what_exists(capsys):
    assert main(["--list"]) == 0
    text = capsys.readouterr().out
    for each in STEPS:
        assert f"{each.name}: {each.claim}" in text
        for word in each.command:
            assert not word.startswith("tests/") or (ROOT / word).exists(), word
    with pytest.raises(SystemExit):
        main(["--list", "nonsense"])
