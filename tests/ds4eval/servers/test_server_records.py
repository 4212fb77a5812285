"""What a run over a server writes down: the server, not this machine; its address may change."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("httpx")

from ds4eval.compare.pairs import load_arms
from ds4eval.records.replay import read_run
from ds4eval.report.scores import scores_of
from engine.tooling.results.journal import encode, scan
from tests.ds4eval.servers.odd_server import OddServer, delta
from tests.ds4eval.test_run import call


@pytest.fixture
def server():
    one = OddServer()
    yield one
    one.close()


def ask(server, *more) -> int:
    server.script = [[delta("stop", content="Answer: 1")]] * 6
    return call("--suite", "practice", "--limit", "2", "--base-url", server.url, "--plain",
                "--out", "run", *more)  # fmt: skip


@pytest.fixture
def asked(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ask(server) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_the_server_is_recorded_and_the_machine_that_asked_is_not(asked):
    manifest = json.loads((asked / "manifest.json").read_text())
    assert not {"cpu", "gpu", "memory_bytes", "system"} & set(manifest["environment"])
    assert manifest["environment"]["python"], "what graded the replies is known"
    assert manifest["answered_by"]["server"].startswith("http://127.0.0.1:")
    assert "software" in manifest["answered_by"]["said"]
    # Limits of thinking, which no server obeys, are no part of the conditions.
    assert list(manifest["config"]["budget"]) == ["tokens"]
    facts = dict(scores_of(load_arms([asked])[0]).facts)
    assert "processor" not in facts and "budget soft" not in facts


def test_a_run_goes_on_at_another_address_when_asked(server, asked, capsys):
    lines = (asked / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (asked / "samples.jsonl").write_bytes(b"".join(lines[:-1]))
    moved = OddServer()
    try:
        assert ask(moved) == 2
        assert "expected the run's own model.server" in capsys.readouterr().err
        assert ask(moved, "--server-moved") == 0
    finally:
        moved.close()
    run = read_run(asked)
    assert len(run.samples) == 2 and run.config["model"]["server"].endswith("/v1")
    last = json.loads((asked / "manifest.json").read_text())
    assert last["answered_by"]["server"] != run.config["model"]["server"]


def test_a_run_that_an_earlier_release_began_goes_on(server, asked, capsys):
    """It wrote down the limits of thinking, too, and keys follow from what is written."""
    path = asked / "samples.jsonl"
    records, _ = scan(path.read_bytes())
    records[0]["config"]["budget"] = {
        "tokens": 16000, "soft": 1024, "hard": 512, "rank": 3, "cue": "",
    }  # fmt: skip
    path.write_bytes(encode(records[0]))
    assert ask(server) == 0
    again = read_run(asked)
    assert len(again.samples) == 2 and again.config["budget"]["soft"] == 1024
    assert ask(server) == 0
    assert "answered already" in capsys.readouterr().err


def test_a_small_budget_contradicts_no_limit_that_no_server_obeys(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ask(server, "-n", "64") == 0
    assert {body["max_tokens"] for body in server.bodies} == {64}


def test_server_moved_says_nothing_without_a_server(capsys):
    assert call("--server-moved", "--suite", "practice") == 2
    assert "--server-moved: expected with --base-url" in capsys.readouterr().err
