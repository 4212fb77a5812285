"""Servers that behave: what is sent, and what a reply becomes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("httpx")

from ds4eval.answering import remote
from ds4eval.answering.effort import DEEPSEEK_HOST, effort_of
from ds4eval.answering.server.backend import RemoteBackend
from ds4eval.answering.server.body import body_of
from ds4eval.cli import cli
from ds4eval.plan import Budget, ReplySettings, Sampling
from ds4eval.request import ServerOptions
from engine.errors import BackendError, OptionError
from engine.text.encoding import ABSOLUTE_MAXIMUM, BEYOND_MAXIMUM
from engine.tooling.exits import run_program
from engine.tooling.openai.client import check_address, first_model, open_client
from tests.ds4eval.fakes import jobs, question
from tests.ds4eval.servers.odd_server import DONE, GOOD, GREEDY, Client, OddServer, delta, usage


@pytest.fixture
def server():
    one = OddServer()
    yield one
    one.close()


def test_chat_reply_with_reasoning_becomes_one_text_with_tags(server, monkeypatch):
    monkeypatch.setenv("KEY_HERE", "secret")
    asked = Client(server).ask([
        ": comment", delta(role="assistant", content=""), delta(reasoning_content="hm, "),
        delta(reasoning_content="yes"), delta(content="Answer"), delta("stop", content=": 1"),
        usage(prompt_tokens=11, completion_tokens=5), DONE,
    ])  # fmt: skip
    answer = asked.answer
    assert answer.output == "hm, yes</think>Answer: 1" == "".join(asked.texts)
    assert (answer.stop, answer.opened, answer.close) == ("eos", True, "natural")
    assert (answer.prompt_tokens, answer.gen_tokens) == (11, 5)
    body = server.bodies[0]
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["temperature"] == 0 and "seed" not in body and "min_p" not in body
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_sampled_requests_carry_a_seed_of_their_own(server):
    settings = ReplySettings(sampling=Sampling(1.0, 5, 0.9, 0.05, seed=3), budget=Budget(tokens=50))
    client = Client(server, settings)
    for job in jobs(3):
        client.ask(GOOD, job=job)
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds)) == 3 and all(0 <= seed < 2**31 for seed in seeds)
    assert (server.bodies[0]["top_k"], server.bodies[0]["min_p"]) == (5, 0.05)
    client.ask(GOOD, job=jobs(1)[0])
    assert server.bodies[-1]["seed"] == seeds[0]


def test_cut_reply_is_a_limit_and_unknown_counts_stay_unknown(server):
    answer = Client(server).ask([delta("length", content="so far")]).answer
    assert (answer.stop, answer.gen_tokens, answer.prompt_tokens) == ("limit", None, None)


def test_completions_get_our_own_prompt_without_bos(server):
    asked = Client(server, api="completions").ask(
        [{"choices": [{"text": "so</thi", "finish_reason": None}]},
         {"choices": [{"text": "nk>Answer: 1", "finish_reason": "stop"}]}])  # fmt: skip
    prompt = server.bodies[0]["prompt"]
    assert server.bodies[0]["path"] == "/v1/completions"
    assert prompt.endswith("<｜Assistant｜><think>") and not prompt.startswith("<｜begin")
    assert (asked.answer.opened, asked.answer.close) == (True, "natural")
    assert "chat_template_kwargs" not in server.bodies[0], "our rendering has asked already"


@pytest.mark.parametrize(
    ("model", "think", "encoding", "kwargs", "effort"),
    [
        ("m", "on", None, True, None),
        ("m", "high", None, True, "high"),
        ("m", "none", None, False, None),
        ("deepseek-v4-flash", "on", None, True, "high"),
        ("DeepSeek-V4-Flash-0731", "on", None, True, "low"),
        ("DeepSeek-V4-Flash-0731", "high", None, True, "high"),
        ("DeepSeek-V4-Flash-0731", "high", "first", True, "high"),
        ("m", "max", "0731", True, "max"),
        ("m", "on", "0731", True, "low"),
    ],
)
def test_servers_are_told_how_much_to_think(model, think, encoding, kwargs, effort):
    """Servers differ in what they do unasked; the efforts are named as the release names them."""
    settings = replace(GREEDY, think=think, encoding=encoding)
    body = body_of(jobs(1)[0], settings, "chat", model)
    assert body["chat_template_kwargs"] == {"thinking": kwargs, "enable_thinking": kwargs}
    assert body["thinking"] == {"type": "enabled" if kwargs else "disabled"}
    assert body.get("reasoning_effort") == effort
    assert effort_of(settings, model).named == (effort is not None or not kwargs)


@pytest.mark.parametrize(("think", "kind"), [("low", "enabled"), ("none", "disabled")])
def test_deepseeks_own_service_has_a_field_of_its_own(think, kind):
    import httpx

    bodies = []

    def handler(request):
        bodies.append(json.loads(request.content))
        return httpx.Response(400, json={"error": "enough"})

    with httpx.Client(
        base_url=f"https://{DEEPSEEK_HOST}/v1/", transport=httpx.MockTransport(handler)
    ) as client:
        settings = replace(GREEDY, think=think)
        server = ServerOptions(f"https://{DEEPSEEK_HOST}/v1", "chat", None, "KEY_HERE", 5.0)
        backend = RemoteBackend(client, settings, server, "deepseek-v4-flash-0731")
        list(backend.answer(jobs(1)[0]))
    assert bodies[0]["thinking"] == {"type": kind}
    assert bodies[0].get("reasoning_effort") == ("low" if think == "low" else None)
    assert "chat_template_kwargs" not in bodies[0]


def test_completions_of_0731_carry_its_instructions():
    body = body_of(
        jobs(1)[0], replace(GREEDY, think="max"), "completions", "DeepSeek-V4-Flash-0731"
    )
    assert body["prompt"].startswith(BEYOND_MAXIMUM)
    body = body_of(jobs(1)[0], replace(GREEDY, think="max"), "completions", "flash")
    assert body["prompt"].startswith(ABSOLUTE_MAXIMUM)


def test_question_with_control_tokens_is_not_sent_as_text(server):
    job = jobs(1)[0]
    object.__setattr__(job, "question", question(1, text="What is <｜User｜>?"))
    answer = Client(server, api="completions").ask(job=job).answer
    assert answer.stop == "skipped" and "<｜User｜>" in answer.error and not server.bodies


def test_busy_server_is_asked_again_and_a_refusal_is_not(server):
    client = Client(server)
    assert client.ask(503, 429, GOOD).answer.output == "Answer: 1"
    assert len(server.bodies) == 3
    answer = client.ask(401).answer
    assert answer.stop == "error" and "401" in answer.error and "no more" in answer.error
    assert len(server.bodies) == 4 and not answer.of_question


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param([delta(content="half")], id="ends early"),
        pytest.param(["data: {broken"], id="no JSON"),
        pytest.param(["data: [1]"], id="no object"),
        pytest.param([{"error": {"message": "out of memory"}}], id="an error in the stream"),
        pytest.param(["event: error\ndata: {}"], id="an event that is an error"),
        pytest.param([delta("abort", content="half")], id="aborted"),
        pytest.param([delta("stop", content=7)], id="content a number"),
        pytest.param([{"choices": 7}], id="choices a number"),
        pytest.param([], id="nothing"),
        pytest.param([DONE], id="nothing but an end"),
    ],
)
def test_broken_streams_are_tried_again_and_then_errors(server, stream):
    client = Client(server, max_retries=9)
    answer = client.ask(stream, stream, stream).answer
    assert answer.stop == "error" and len(server.bodies) == 3 and answer.of_question
    answer = client.ask(stream, [delta("stop", content="whole")]).answer
    assert answer.output == "whole", "nothing of the broken attempt is left in it"


@pytest.mark.parametrize("who", ["me:secret@", "secret@", "@"])
def test_an_address_with_a_user_is_refused_and_not_repeated(who):
    with pytest.raises(OptionError, match="without a user's name or password") as caught:
        check_address(f"http://{who}127.0.0.1:9/v1")
    assert "secret" not in str(caught.value)


def test_server_that_is_not_there_is_refused_before_the_run():
    nowhere = ServerOptions("http://user:secret@127.0.0.1:9/v1", "chat", None, "X", 5.0)
    with open_client(nowhere) as client, pytest.raises(BackendError, match="--base-url") as caught:
        first_model(client, nowhere)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "models, said",
    [
        ((200, {"data": []}), "IndexError"),
        ((200, {"data": [None]}), "TypeError"),
        ((200, {"data": [{"id": 7}]}), "the name 7"),
        ((401, {"error": {"message": "no key"}}), "401 Unauthorized: no key"),
    ],
)
def test_models_that_cannot_be_read_are_refused(server, models, said):
    server.models = models
    with open_client(server.options()) as client, pytest.raises(BackendError, match=said):
        first_model(client, server.options())


def test_a_client_waits_as_long_as_a_reply_may_take():
    """The limit itself is the caller's; the connection must not end a reply before it."""
    with open_client(ServerOptions("http://127.0.0.1:9/v1", reply_timeout_s=7.5)) as client:
        assert client.timeout.read == client.timeout.write == 67.5
        assert client.timeout.connect == 10.0, "a server that is not there is known sooner"


def test_a_dry_run_asks_nobody(server, tmp_path, monkeypatch, capsys):
    """Neither a server that could answer nor one that is not there, and the name stays open."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "open_client", lambda server: pytest.fail("a connection"))
    words = ["--suite", "practice", "--limit", "1", "--dry-run", "--base-url"]
    for url in (server.options().base_url, "http://127.0.0.1:9/v1"):
        assert run_program(cli, "ds4-eval", [*words, url]) == 0
        out = capsys.readouterr().out
        assert "answered by the first model at 127.0.0.1" in out
        assert "run folder ds4-eval-runs/practice-..., named when the server has" in out
        assert run_program(cli, "ds4-eval", [*words, url, "--api-model", "m", "--out", "x"]) == 0
        out = capsys.readouterr().out
        assert "answered by m at 127.0.0.1" in out and "run folder x\n" in out
    assert list(tmp_path.iterdir()) == []


def test_first_model_is_the_first_listed(server):
    with open_client(server.options()) as client:
        assert first_model(client, server.options())[0] == "some-model"


def test_options_that_no_server_obeys_are_refused():
    from click.testing import CliRunner

    from ds4eval.cli import cli

    for extra in (
        ["--close-cue", "x"],
        ["--hard-limit-reply-budget", "9"],
        ["--ray", "local"],
        ["--nano", "q8"],
        ["--extra-body", "{"],
        ["--extra-body", "[1]"],
        ["--extra-body", '{"x": NaN}'],
        ["--extra-body", '{"model": "m"}'],
    ):
        arguments = ["run", "--base-url", "http://127.0.0.1:9/v1", *extra]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2, (extra, result.output)
        assert result.stderr.startswith(f"ds4-eval: error: {extra[0]}: "), result.stderr


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://h:0/v1", "http://h/v1?a=b"])
def test_addresses_that_are_none_are_refused(url):
    from click.testing import CliRunner

    from ds4eval.cli import cli

    result = CliRunner().invoke(cli, ["run", "--base-url", url])
    assert result.exit_code == 2 and result.stderr.startswith("ds4-eval: error: --base-url: ")
