"""Servers that are busy, silent or gone: waits, limits, interrupts, and whom the key is shown."""

from __future__ import annotations

import email.utils
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("httpx")

from ds4eval.answering.server import backend as backends
from ds4eval.answering.threads import ThreadPool
from ds4eval.control import Control
from ds4eval.events import Ended, Prefill
from ds4eval.records.store import RunStore
from ds4eval.request import ServerOptions
from ds4eval.run.runner import Recorder, run_parallel
from engine.tooling.openai.client import key_notice, open_client
from engine.tooling.openai.refusals import after_of
from tests.ds4eval.fakes import CONFIG, jobs
from tests.ds4eval.servers.odd_server import (
    GOOD,
    GREEDY,
    Client,
    OddServer,
    delta,
    events,
)


@pytest.fixture
def server():
    one = OddServer()
    yield one
    one.close()


def test_retry_after_is_honoured_whatever_its_form(server):
    client = Client(server, max_retries=4)
    asked = client.ask(
        (429, "slow down", {"Retry_After": "15"}),
        (429, "slow down", {"Retry_After": "2.5"}),
        (503, "slow down", {"retry_after_ms": "1500"}),
        (429, "slow down", {"Retry_After": "soon"}),
        GOOD,
    )
    assert client.waits == [15.0, 2.5, 1.5, 8.0] and asked.answer.stop == "eos"
    assert "429" in asked.notices[0] and "asked again in 15 s (1 of 4)" in asked.notices[0]
    date = email.utils.formatdate(1000.0, usegmt=True)
    assert after_of({"retry-after": date}, now=940.0) == 60.0
    assert after_of({"retry-after": date}, now=2000.0) == 0.0


def test_waits_grow_and_have_a_limit_in_number_and_in_all(server, monkeypatch):
    client = Client(server, max_retries=9)
    answer = client.ask(*[503] * 10).answer
    assert client.waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert "after 9 retries, --max-retries" in answer.error and answer.of_question
    client = Client(server, max_retries=1000)
    answer = client.ask(*[503] * 40).answer
    assert sum(client.waits) <= backends.WAITS_S < sum(client.waits) + backends.LONGEST_WAIT_S
    assert "expected waits below 900 s" in answer.error
    server.script.clear()
    asked = Client(server).ask((429, "tomorrow", {"Retry_After": "86400"}))
    assert asked.answer.stop == "error" and "86400" in asked.answer.error


def test_a_page_in_place_of_json_is_told_by_its_title(server):
    page = b"<html><head><title>503 Service\n Unavailable</title></head><body>...</body></html>"
    asked = Client(server, max_retries=0).ask(lambda h: h.send(503, page))
    assert "found 503 Service Unavailable: 503 Service Unavailable" in asked.answer.error


CONTEXT = [
    (400, "This model's maximum context length is 4096 tokens. However, you requested 16900"),
    (400, "'max_tokens' or 'max_completion_tokens' is too large: 16000. This model's maximum "
          "context length is 4096 tokens and your request has 900 input tokens"),
    (400, {"error": {"code": "context_length_exceeded", "message": "Shorten it."}}),
    (400, {"error": {"code": 400, "type": "exceed_context_size_error",
                     "message": "the request exceeds the available context size"}}),
    (400, {"message": "The decoder prompt (length 5000) is longer than the maximum model length",
           "object": "error"}),
    (400, "Input length (9000 tokens) exceeds the maximum allowed length (4096 tokens)."),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"}),
    (413, "payload"),
    [{"error": {"message": "prompt is too long: 9000 tokens > 4096", "code": 400}}],
]  # fmt: skip


@pytest.mark.parametrize("step", CONTEXT)
def test_a_question_that_does_not_fit_is_skipped_alone(server, step):
    client = Client(server)
    answer = client.ask(step).answer
    assert answer.stop == "skipped" and answer.error and len(server.bodies) == 1
    assert client.ask(GOOD).answer.stop == "eos"


@pytest.mark.parametrize("data", [b": keep-alive\n\n", b""], ids=["keep-alives", "silence"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_reply_has_a_limit_on_the_wall_clock(server, data, begun):
    def play(handler):
        if begun:
            handler.begin()
            handler.wfile.write(events(delta(content="so far")))
        handler.until_gone(data if begun else b"")

    answer = Client(server, reply_timeout_s=0.3).ask(play).answer
    assert answer.stop == "error" and "within 0.3 s (--reply-timeout)" in answer.error
    assert answer.output == ("so far" if begun else "") and answer.of_question
    assert server.gone.wait(20), "the connection is cut"


def test_an_end_that_is_not_closed_is_an_end(server, monkeypatch):
    monkeypatch.setattr("engine.tooling.openai.wire.GRACE_S", 0.2)

    def play(handler):
        handler.begin()
        handler.wfile.write(events(*GOOD[:1]))
        handler.until_gone()

    assert Client(server).ask(play).answer.stop == "eos"
    assert server.gone.wait(20)


def silent(handler):
    handler.begin()
    handler.until_gone()


@pytest.mark.parametrize("step", [silent, lambda h: h.until_gone()], ids=["stream", "no head"])
def test_stopping_does_not_wait_for_the_server(server, step):
    """As `q` does in a run of one connection; the limit of the reply would be an 'error'."""
    asked = Client(server).ask(step, stop=lambda: bool(server.bodies))
    assert asked.answer.stop == "stopped" and server.gone.wait(20)


def test_stopping_does_not_wait_between_attempts(server):
    client = Client(server)
    del client.backend.pause
    waiting = threading.Event()
    answering = client.backend.answer(jobs(1)[0], waiting.is_set)
    server.script = [(429, "slow", {"Retry_After": "600"})]
    for event in answering:
        if not isinstance(event, Prefill):
            waiting.set()
    assert len(server.bodies) == 1


def test_quitting_does_not_wait_for_many_connections(server, tmp_path):
    client, control, todo = Client(server, n=3), Control(), jobs(6)

    def rule(body):
        if len(server.bodies) == 3:
            control.quit()
        return silent

    server.rule = rule
    with RunStore.open(tmp_path / "run", CONFIG) as store:
        store.begin(todo, {})
        pool = ThreadPool(client.backend, 3)
        recorder = Recorder(store, GREEDY, len(todo))
        *_, ended = run_parallel(todo, pool, recorder, control, 0)
    assert ended == Ended("quit") and server.gone.wait(20)


def test_interrupt_ends_a_run_that_waits_for_a_silent_server(server, tmp_path):
    server.rule = lambda body: silent
    command = [sys.executable, "-m", "ds4eval.cli", "run", "--base-url", server.url, "--suite",
               "practice", "--limit", "2", "--plain", "--out", "run"]  # fmt: skip
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, env=dict(os.environ))
    try:
        while not server.bodies and run.poll() is None:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130 and b"interrupted; the same command goes on" in err


def test_more_than_a_hundred_connections_at_once(server):
    """httpx would hold the 101st back for ever: nobody is answered before all are there."""
    n = 120
    everyone = threading.Barrier(n)

    def play(handler):
        everyone.wait(60)
        handler.play(GOOD)

    server.rule = lambda body: play
    options = server.options()
    todo = jobs(n)
    with open_client(options, jobs=n) as http:
        backend = backends.RemoteBackend(http, GREEDY, options, "m")
        pool = ThreadPool(backend, n)
        for job in todo:
            pool.submit(job)
        stops: list[str] = []
        while len(stops) < n:
            stops += [one.answer.stop for one in pool.poll(1.0) if one.answer is not None]
    assert stops == ["eos"] * n and server.most == n


def test_the_key_goes_to_no_other_host(server, monkeypatch):
    monkeypatch.setenv("KEY_HERE", "secret")
    elsewhere = OddServer()
    try:
        there = {"Location": elsewhere.url + "/chat/completions"}
        answer = Client(server).ask((307, "moved", there)).answer
        assert answer.stop == "error" and elsewhere.url in answer.error
        assert "--base-url" in answer.error and not answer.of_question
        assert elsewhere.headers == [] and "secret" not in answer.error
    finally:
        elsewhere.close()


def test_the_key_goes_through_no_proxy(server, monkeypatch):
    proxy = OddServer()
    try:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KEY_HERE", "secret")
        assert Client(server).ask(GOOD).answer.stop == "eos"
        assert server.headers[0]["Authorization"] == "Bearer secret" and proxy.headers == []
    finally:
        proxy.close()


def test_a_key_that_travels_unencrypted_is_said(monkeypatch):
    monkeypatch.setenv("KEY_HERE", "secret")
    for url, said in (("http://example.org/v1", True), ("https://example.org/v1", False),
                      ("http://127.0.0.1:1/v1", False), ("http://[::1]:1/v1", False)):  # fmt: skip
        assert bool(key_notice(ServerOptions(url, key_env="KEY_HERE"))) is said
