"""Sweeps of two files with equal headers and other weights are never taken for one another."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from ds4bench.compare.judge import compare
from ds4bench.compare.samples import Arm, facts, load_arm, unlike
from ds4bench.plan import Prompt, SweepPlan
from ds4bench.records.rows import SweepResult
from ds4bench.worker import model as worker_model
from ds4bench.worker.model import FileModel
from engine.gguf.reader import open_gguf
from engine.tooling import exits
from tests.ds4bench.speed_rows import ENVIRONMENT, FINGERPRINT, sweep, write_journal
from tests.ds4bench.test_ab import FakeSweeps, session
from tests.twins import bundled_copy, twin


@pytest.fixture
def models(tmp_path):
    ours = bundled_copy(tmp_path)
    return ours, twin(ours)


def bench(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "ds4bench.cli", *map(str, arguments)], cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True,
    )  # fmt: skip


def test_real_sweeps_neither_resume_nor_compare(models, tmp_path):
    size = ("--ctx-start", "32", "--ctx-max", "32", "-n", "2", "-t", "1")
    first = bench(tmp_path, "-m", models[0], *size, "--out", "a")
    assert first.returncode == exits.OK, first.stderr
    before = (tmp_path / "a" / "rows.jsonl").read_bytes()
    ids = [FileModel().inspect(plan_of(path)).model_id for path in models]

    resumed = bench(tmp_path, "-m", models[1], *size, "--out", "a", "--resume")
    assert resumed.returncode == exits.USAGE
    assert f"to have model '{ids[1]}', found '{ids[0]}'" in resumed.stderr
    assert (tmp_path / "a" / "rows.jsonl").read_bytes() == before

    other = bench(tmp_path, "-m", models[1], *size, "--out", "b")
    assert other.returncode == exits.OK, other.stderr
    compared = bench(tmp_path, "compare", "a", "b")
    assert compared.returncode == exits.INCOMPARABLE
    assert "unlike in model" in compared.stdout + compared.stderr
    files = [load_arm(tmp_path / name).environment["model"][0] for name in "ab"]
    assert files[0]["header_sha256"] == files[1]["header_sha256"]
    assert files[0]["sampled_sha256"] != files[1]["sampled_sha256"]


def plan_of(path):
    return SweepPlan(model=path, mtp=None, ctx_start=32, ctx_max=32, gen_tokens=2,
                     prompt=Prompt(seed=1))  # fmt: skip


def test_files_too_large_to_be_hashed_whole_are_told_apart(models, monkeypatch):
    monkeypatch.setattr(worker_model, "HASH_WHOLE", 0)
    found = [FileModel().inspect(plan_of(path)) for path in models]
    sampled = []
    for path in models:
        with open_gguf(path) as file:
            sampled.append(file.identity.sampled_sha256())
    assert [f.model_id for f in found] == [f"sampled:{name}" for name in sampled]
    assert len(set(sampled)) == 2
    arms = [arm_of([dataclasses.asdict(file) for file in f.files]) for f in found]
    [difference] = unlike(*arms)
    assert (difference.base, difference.head) == tuple([f"sampled:{s}"] for s in sampled)


def arm_of(model):
    environment = {**ENVIRONMENT, "model": model, "fingerprint": FINGERPRINT}
    return Arm("a", (SweepResult(tuple(sweep()), environment, "memory"),))


OLD = {"sha256": None, "header_sha256": "ee", "size": 9, "id": "header:ee:9:1"}
NEW = {**OLD, "sampled_sha256": "ab", "id": "sampled:ab"}


@pytest.mark.parametrize(
    ("base", "head", "same", "noted"),
    [
        (OLD, OLD, True, True),
        (OLD, NEW, True, True),
        (NEW, OLD, True, True),
        (NEW, NEW, True, False),
        (NEW, {**NEW, "sampled_sha256": "cd"}, False, False),
        (OLD, {**NEW, "header_sha256": "ff"}, False, True),
        (OLD, {**NEW, "size": 10}, False, True),
        ({**NEW, "sha256": "11"}, {**NEW, "sha256": "22"}, False, False),
        ({**OLD, "sha256": "11"}, {**NEW, "sha256": "11"}, True, False),
    ],
)
def test_records_of_earlier_releases_are_called_header_only(base, head, same, noted):
    result = compare(arm_of([base]), arm_of([head]))
    assert [d.name for d in result.unlike] == ([] if same else ["model"])
    assert any(note.startswith("model: header only") for note in result.notes) is noted


def test_another_number_of_files_is_another_model():
    assert [d.name for d in unlike(arm_of([NEW]), arm_of([NEW, NEW]))] == ["model"]
    assert facts(arm_of([OLD, NEW]).environment)["model"] == ["header only ee:9", "sampled:ab"]


@pytest.mark.parametrize("old", ["ab", "b", ""])
def test_a_side_that_knows_its_model_by_the_header_alone_is_named(tmp_path, old):
    class Old(FakeSweeps):
        def __call__(self, letter, folder):
            file = {"sha256": None, "header_sha256": "ee", "size": 9}
            if letter not in old:
                file["sampled_sha256"] = "ab"
            rows = sweep(runs=1, ctx=(2048,), seed=len(self.calls))
            self.calls.append(letter)
            write_journal(folder, rows, {"model": [file]})

    result = session(tmp_path, Old(), max_pairs=6).run()

    assert not result.unlike
    assert sum(n.startswith("model: header only") for n in result.notes) == bool(old)
