"""Servers: what is sent, what is understood of the answer, and what happens when it is wrong."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("httpx")

from ds4eval.answering import remote
from ds4eval.cli import cli
from ds4eval.events import Text
from ds4eval.plan import Budget, ReplySettings, Sampling
from ds4eval.request import ServerOptions
from engine.errors import BackendError
from engine.tooling.exits import run_program
from tests.ds4eval.fakes import jobs, question

GREEDY = ReplySettings(sampling=Sampling(temp=0.0), budget=Budget(tokens=50))


class Server:
    """Answers each POST with the next script: a status, or a list of stream objects."""

    def __init__(self) -> None:
        self.script: list = []
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *args):
                pass

            def do_GET(self):
                self._send(200, json.dumps({"data": [{"id": "some-model"}]}).encode())

            def do_POST(self):
                length = int(self.headers["content-length"])
                outer.bodies.append({"path": self.path, **json.loads(self.rfile.read(length))})
                outer.headers.append(dict(self.headers))
                step = outer.script.pop(0)
                if isinstance(step, int):
                    step = (step, "no\nmore")
                if isinstance(step, tuple):
                    self._send(step[0], json.dumps({"error": {"message": step[1]}}).encode())
                    return
                lines = [s if isinstance(s, str) else f"data: {json.dumps(s)}" for s in step]
                self._send(200, "".join(f"{line}\n\n" for line in lines).encode())

            def _send(self, status, data):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def remote(self) -> ServerOptions:
        return ServerOptions(
            f"http://127.0.0.1:{self.http.server_port}/v1", "chat", None, "KEY_HERE", 5.0
        )

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "RETRY_S", 0.001)
    one = Server()
    yield one
    one.close()


def delta(reason=None, **content):
    return {"choices": [{"delta": content, "finish_reason": reason}]}


def ask(server, api="chat", settings=GREEDY, job=None):
    with remote.open_client(server.remote) as client:
        answering = remote.RemoteBackend(client, settings, api, "m").answer(job or jobs(1)[0])
        events = []
        while True:
            try:
                events.append(next(answering))
            except StopIteration as end:
                return end.value, [e.text for e in events if isinstance(e, Text)]


def test_chat_reply_with_reasoning_becomes_one_text_with_tags(server, monkeypatch):
    monkeypatch.setenv("KEY_HERE", "secret")
    usage = {"prompt_tokens": 11, "completion_tokens": 5}
    server.script = [[
        ": comment", delta(role="assistant", content=""), delta(reasoning_content="hm, "),
        delta(reasoning_content="yes"), delta(content="Answer"), delta("stop", content=": 1"),
        {"choices": [], "usage": usage}, "data: [DONE]",
    ]]  # fmt: skip
    answer, texts = ask(server)
    assert answer.output == "hm, yes</think>Answer: 1" == "".join(texts)
    assert (answer.stop, answer.opened, answer.close) == ("eos", True, "natural")
    assert (answer.prompt_tokens, answer.gen_tokens) == (11, 5)
    body = server.bodies[0]
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["temperature"] == 0 and "seed" not in body and "min_p" not in body
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_sampled_requests_carry_a_seed_of_their_own(server):
    settings = ReplySettings(sampling=Sampling(1.0, 5, 0.9, 0.05, seed=3), budget=Budget(tokens=50))
    seeds = []
    for job in jobs(3):
        server.script = [[delta("stop", content="x")]]
        ask(server, settings=settings, job=job)
        seeds.append(server.bodies[-1]["seed"])
    assert len(set(seeds)) == 3 and all(0 <= seed < 2**31 for seed in seeds)
    assert (server.bodies[0]["top_k"], server.bodies[0]["min_p"]) == (5, 0.05)
    server.script = [[delta("stop", content="x")]]
    ask(server, settings=settings, job=jobs(1)[0])
    assert server.bodies[-1]["seed"] == seeds[0]


def test_cut_reply_is_a_limit_and_unknown_counts_stay_unknown(server):
    server.script = [[delta("length", content="so far")]]
    answer, _ = ask(server)
    assert (answer.stop, answer.gen_tokens, answer.opened) == ("limit", None, False)


def test_completions_get_our_own_prompt_without_bos(server):
    server.script = [[{"choices": [{"text": "so</think>", "finish_reason": None}]},
                      {"choices": [{"text": "Answer: 1", "finish_reason": "stop"}]}]]  # fmt: skip
    answer, _ = ask(server, api="completions")
    prompt = server.bodies[0]["prompt"]
    assert server.bodies[0]["path"] == "/v1/completions"
    assert prompt.endswith("<｜Assistant｜><think>") and not prompt.startswith("<｜begin")
    assert (answer.opened, answer.close) == (True, "natural")


def test_question_with_control_tokens_is_not_sent_as_text(server):
    job = jobs(1)[0]
    object.__setattr__(job, "question", question(1, text="What is <｜User｜>?"))
    answer, _ = ask(server, api="completions", job=job)
    assert answer.stop == "skipped" and "<｜User｜>" in answer.error and not server.bodies


def test_busy_server_is_asked_again_and_a_refusal_is_not(server):
    server.script = [503, 429, [delta("stop", content="Answer: 1")]]
    answer, _ = ask(server)
    assert answer.output == "Answer: 1" and len(server.bodies) == 3
    server.script = [401]
    answer, _ = ask(server)
    assert answer.stop == "error" and "401" in answer.error and "no more" in answer.error
    assert len(server.bodies) == 4


def test_repetition_is_not_punished_and_strict_servers_are_not_asked_twice(server):
    server.script = [(400, "unknown field repeat_penalty"), [delta("stop", content="x")]]
    with remote.open_client(server.remote) as client:
        backend = remote.RemoteBackend(client, GREEDY, "chat", "m")
        for script in ([], [[delta("stop", content="y")]]):
            server.script += script
            for _ in backend.answer(jobs(1)[0]):
                pass
    assert [body.get("repeat_penalty") for body in server.bodies] == [1.0, None, None]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param([delta(content="half")], id="ends early"),
        pytest.param(["data: {broken"], id="no JSON"),
        pytest.param(["data: [1]"], id="no object"),
        pytest.param([{"error": {"message": "out of memory"}}], id="an error in the stream"),
        pytest.param([], id="nothing"),
    ],
)
def test_broken_streams_are_tried_again_and_then_errors(server, stream):
    server.script = [stream] * 3
    answer, _ = ask(server)
    assert answer.stop == "error" and len(server.bodies) == 3
    server.script = [stream, [delta("stop", content="whole")]]
    answer, _ = ask(server)
    assert answer.output == "whole", "nothing of the broken attempt is left in it"


def test_server_that_is_not_there_is_refused_before_the_run():
    nowhere = ServerOptions("http://127.0.0.1:9/v1", "chat", None, "X", 5.0)
    with remote.open_client(nowhere) as client, pytest.raises(BackendError, match="--base-url"):
        remote.first_model(client)


def test_a_client_waits_as_long_as_a_reply_may_take():
    with remote.open_client(ServerOptions("http://127.0.0.1:9/v1", timeout_s=7.5)) as client:
        assert client.timeout.read == client.timeout.write == 7.5
        assert client.timeout.connect == 10.0, "a server that is not there is known sooner"


def test_a_dry_run_asks_nobody(server, tmp_path, monkeypatch, capsys):
    """Neither a server that could answer nor one that is not there, and the name stays open."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "open_client", lambda server: pytest.fail("a connection"))
    words = ["--suite", "practice", "--limit", "1", "--dry-run", "--base-url"]
    for url in (server.remote.base_url, "http://127.0.0.1:9/v1"):
        assert run_program(cli, "ds4-eval", [*words, url]) == 0
        out = capsys.readouterr().out
        assert "answered by the first model at 127.0.0.1" in out
        assert "run folder ds4-eval-runs/practice-..., named when the server has" in out
        assert run_program(cli, "ds4-eval", [*words, url, "--api-model", "m", "--out", "x"]) == 0
        out = capsys.readouterr().out
        assert "answered by m at 127.0.0.1" in out and "run folder x\n" in out
    assert list(tmp_path.iterdir()) == []


def test_first_model_is_the_first_listed(server):
    with remote.open_client(server.remote) as client:
        assert remote.first_model(client) == "some-model"


def test_options_that_no_server_obeys_are_refused():
    from click.testing import CliRunner

    from ds4eval.cli import cli

    for extra in (
        ["--close-cue", "x"],
        ["--hard-limit-reply-budget", "9"],
        ["--ray", "local"],
        ["--nano", "q8"],
    ):
        arguments = ["run", "--base-url", "http://127.0.0.1:9/v1", *extra]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2, (extra, result.output)
        assert result.stderr.startswith(f"ds4-eval: error: {extra[0]}: "), result.stderr
