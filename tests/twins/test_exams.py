"""Exams of two files with equal headers and other weights are never taken for one another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ds4eval.cli import cli
from ds4eval.compare.judge import compare
from ds4eval.compare.pairs import load_arms
from ds4eval.compare.view import remarks
from ds4eval.records.replay import read_run
from engine.gguf.reader import open_gguf
from engine.tooling.exits import run_program
from engine.tooling.results.journal import encode, scan
from tests.ds4eval.fakes import jobs
from tests.ds4eval.test_runner import run as fake_run
from tests.twins import bundled_copy, twin

EXAM = ["--suite", "nano", "--questions", "1", "--plain", "--nothink", "-n", "8", "-t", "1"]


def call(*arguments: object) -> int:
    try:
        return run_program(cli, "ds4-eval", [str(one) for one in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = bundled_copy(tmp_path)
    return ours, twin(ours)


def identities(models):
    found = []
    for path in models:
        with open_gguf(path) as file:
            found.append(file.identity.sampled_sha256())
    return found


def as_an_earlier_release_wrote_it(folder: Path) -> None:
    """Take the identity out of a journal: it then knows the model by its header alone."""
    journal = folder / "samples.jsonl"
    records, _ = scan(journal.read_bytes())
    for record in records:
        for part in (record.get("config", {}).get("model", {}), record.get("answered_by", {})):
            part.pop("sampled_sha256", None)
    journal.write_bytes(b"".join(map(encode, records)))


def test_a_run_is_not_continued_with_other_weights(models, tmp_path, capsys):
    ours, theirs = identities(models)
    assert call(*EXAM, "-m", models[0], "--out", "a") == 0
    before = (tmp_path / "a" / "samples.jsonl").read_bytes()
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["config"]["model"]["sampled_sha256"] == ours
    capsys.readouterr()

    assert call(*EXAM, "-m", models[1], "--out", "a") == 2
    said = capsys.readouterr().err
    assert f"expected the run's own model.sampled_sha256 '{ours}', found '{theirs}'" in said
    assert (tmp_path / "a" / "samples.jsonl").read_bytes() == before

    # Without --out each has a folder of its own.
    folders = []
    for path in models:
        assert call(*EXAM, "-m", path, "--dry-run") == 0
        folders.append(capsys.readouterr().out.split("run folder ")[1].split()[0])
    assert folders[0] != folders[1]

    assert call(*EXAM, "-m", models[1], "--out", "b") == 0
    capsys.readouterr()
    assert call("compare", "a", "b") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"differs on purpose in model.sampled_sha256: {ours} against {theirs}" in said


def test_a_run_of_an_earlier_release_goes_on_and_is_called_header_only(models, tmp_path, capsys):
    assert call(*EXAM, "-m", models[0], "--out", "a") == 0
    as_an_earlier_release_wrote_it(tmp_path / "a")
    capsys.readouterr()

    assert call(*EXAM, "-m", models[0], "--out", "a") == 0
    assert "a: header only: an earlier release began this run" in capsys.readouterr().err
    # Which weights went on with it is known from then on.
    assert call(*EXAM, "-m", models[1], "--out", "a") == 2
    ours, theirs = identities(models)
    said = capsys.readouterr().err
    assert f"expected the run's own sampled_sha256 '{ours}', found '{theirs}'" in said
    assert call(*EXAM, "-m", models[1], "--out", "a", "--force") == 0
    assert "sampled_sha256" in read_run(tmp_path / "a").config["model"]


@pytest.mark.parametrize(
    ("old", "named"), [((True, True), "old and new"), ((True, False), "old"), ((False, False), "")]
)
def test_comparisons_of_header_only_runs_say_so(tmp_path, old, named):
    for name, earlier in zip(("old", "new"), old):
        fake_run(tmp_path / name, jobs(2))
        journal = tmp_path / name / "samples.jsonl"
        records, _ = scan(journal.read_bytes())
        identity = {} if earlier else {"sampled_sha256": "ab"}
        records[0]["config"]["model"] = {"name": "m", "header_sha256": "ee", **identity}
        journal.write_bytes(b"".join(map(encode, records)))
    lines = remarks(compare(*load_arms([tmp_path / "old", tmp_path / "new"])))
    word = "header" if named else "model"
    assert f"nothing differs on purpose: same {word}, mode and seed" in lines
    assert [line for line in lines if "header only" in line] == (
        [f"header only: {named}: an earlier release did not tell model files with equal headers "
         "and other weights apart"] if named else []
    )  # fmt: skip
