"""Whole runs over odd servers: what fails costs itself alone."""

from __future__ import annotations

import pytest

pytest.importorskip("httpx")

from ds4eval.answering.threads import ThreadPool
from ds4eval.control import Control
from ds4eval.events import Ended, Finished
from ds4eval.records.replay import read_run
from ds4eval.records.store import RunStore
from ds4eval.run.runner import Recorder, run_parallel
from tests.ds4eval.fakes import CONFIG, jobs
from tests.ds4eval.servers.odd_server import (
    GREEDY,
    Client,
    OddServer,
    delta,
    usage,
)
from tests.ds4eval.test_run import call


@pytest.fixture
def server():
    one = OddServer()
    yield one
    one.close()


def test_a_run_over_an_odd_server_goes_to_its_end(server, tmp_path, monkeypatch, capsys):
    """Refused fields, a question that does not fit, one that fails: each costs itself alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY_HERE", "secret")
    script = [
        (400, "unknown field: repeat_penalty"),
        [delta("stop", content="Answer: 1")],
        (400, "maximum context length is 9 tokens"),
        *[(400, "no good")] * 4,  # more in a row than end a run of which nothing is known
        [delta("content_filter")],
        [delta("stop", content="Answer: B"), usage(prompt_tokens=7)],
    ]
    server.script = list(script)
    arguments = ["--suite", "practice", "--limit", "8", "--base-url", server.url, "--plain",
                 "--out", "run", "--api-key-env", "KEY_HERE", "--max-retries", "0",
                 "--reply-timeout", "50", "--extra-body", '{"magic": 1}']  # fmt: skip
    assert call(*arguments) == 4
    out, err = capsys.readouterr()
    assert "the server refused repeat_penalty; it is not sent" in err + out
    assert not server.script and {body["magic"] for body in server.bodies} == {1}
    assert server.headers[0]["Authorization"] == "Bearer secret"
    run = read_run(tmp_path / "run")
    assert [s.stop for s in run.samples] == ["eos", "skipped", *["error"] * 4, "filtered", "eos"]
    assert "repeat_penalty not sent" in run.samples[0].notes
    assert run.config["model"]["extra_body"] == {"magic": 1}
    assert (run.samples[7].prompt_tokens, run.samples[7].gen_tokens) == (7, None)
    row = next(line for line in out.splitlines() if line.startswith("  8 "))
    assert row.split()[2:5] == ["7", "-", "-"], "what is unknown is not 0"
    header, first = (tmp_path / "run" / "results.csv").read_text().splitlines()[:2]
    assert '"notes"' in header and "repeat_penalty not sent" in first
    text = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir())
    assert b"secret" not in text
    # The same command asks again what failed, and nothing else.
    server.script = [[delta("stop", content="Answer: 1")]] * 4
    assert call(*arguments) == 0
    assert [s.stop for s in read_run(tmp_path / "run").samples].count("error") == 0


def test_a_server_that_refuses_everyone_ends_the_run(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    server.rule = lambda body: (401, "no key")
    arguments = ["--suite", "practice", "--base-url", server.url, "--plain", "--out", "run"]
    assert call(*arguments) == 1
    assert "3 questions in a row failed" in capsys.readouterr().err and len(server.bodies) == 3


def test_failures_of_questions_end_a_run_in_the_end(server, tmp_path):
    server.rule = lambda body: (400, "no good")
    client, todo = Client(server), jobs(30)
    with RunStore.open(tmp_path / "run", CONFIG) as store:
        store.begin(todo, {})
        recorder = Recorder(store, GREEDY, len(todo))
        seen = list(run_parallel(todo, ThreadPool(client.backend, 2), recorder, Control(), 0))
    assert isinstance(seen[-1], Ended) and seen[-1].why == "failed"
    assert 20 <= sum(isinstance(event, Finished) for event in seen) < 30
