"""Servers as they are: every row of the table in FAULTS.md, over a server on the loopback."""

from __future__ import annotations

import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("httpx")

from ds4eval.answering.server import backend as backends
from ds4eval.answering.server.client import key_notice, open_client
from ds4eval.answering.server.events import Documents, Lines
from ds4eval.answering.server.refusals import after_of
from ds4eval.answering.threads import ThreadPool
from ds4eval.control import Control
from ds4eval.events import Ended, Finished, Prefill
from ds4eval.grading.grade import grade
from ds4eval.plan import Budget, ReplySettings, Sampling
from ds4eval.records.record import read_run
from ds4eval.records.samples import make_sample
from ds4eval.records.store import RunStore
from ds4eval.request import ServerOptions
from ds4eval.run.runner import Recorder, run_parallel
from tests.ds4eval.fakes import CONFIG, jobs, question
from tests.ds4eval.odd_server import (
    DONE,
    GOOD,
    GREEDY,
    Client,
    OddServer,
    delta,
    events,
    usage,
)
from tests.ds4eval.test_run import call

SAMPLED = ReplySettings(sampling=Sampling(1.0, 5, 0.9, 0.05, seed=3), budget=Budget(tokens=50))
KNOWN = {"model", "messages", "max_tokens", "temperature", "stream", "stream_options", "seed",
         "top_p"}  # fmt: skip


@pytest.fixture
def server():
    one = OddServer()
    yield one
    one.close()


def sample_of(answer):
    return make_sample(jobs(1)[0], answer, GREEDY.sampling, "")


# Fields -------------------------------------------------------------------------------------------


def openai_like(body):
    bad = [name for name in body if name not in KNOWN]
    if bad:
        return (400, {"error": {"message": f"Unrecognized request argument supplied: {bad[0]}"}})
    return GOOD


def pydantic_like(body):
    bad = [name for name in body if name not in KNOWN]
    if bad:
        detail = [{"type": "extra_forbidden", "loc": ["body", bad[0]], "msg": "Extra inputs"}]
        return (422, {"detail": detail})
    return GOOD


@pytest.mark.parametrize("rule", [openai_like, pydantic_like])
def test_fields_that_a_strict_server_refuses_are_left_out_once_said_and_recorded(server, rule):
    server.rule = rule
    client = Client(server, SAMPLED, max_retries=0)
    first = client.ask()
    refused = {"repeat_penalty", "top_k", "min_p", "chat_template_kwargs", "thinking"}
    refused |= {"reasoning_effort"}  # the settings name one
    assert first.answer.output == "Answer: 1" and len(server.bodies) == 1 + len(refused)
    assert sum("the server refused" in line for line in first.notices) == len(refused)
    assert refused <= {note.split()[0] for note in first.answer.notes}
    assert sample_of(first.answer).record()["notes"] == first.answer.notes
    again = client.ask()
    assert len(server.bodies) == 2 + len(refused) and set(server.bodies[-1]) - {"path"} == KNOWN
    assert again.answer.notes == first.answer.notes and again.notices == []


def test_a_field_inside_another_is_left_out_alone(server):
    def rule(body):
        inner = body.get("chat_template_kwargs", {})
        return (400, "unexpected keyword argument 'thinking_x'") if "thinking_x" in inner else GOOD

    def other(body):
        inner = body.get("chat_template_kwargs", {})
        return (400, "no such variable: enable_thinking") if "enable_thinking" in inner else GOOD

    server.rule = other
    Client(server).ask()
    assert server.bodies[-1]["chat_template_kwargs"] == {"thinking": True}
    server.rule = rule
    Client(server).ask()
    assert len(server.bodies) == 3


def test_a_refusal_that_names_no_field_is_final(server):
    asked = Client(server).ask((400, "bad request"))
    assert asked.answer.stop == "error" and len(server.bodies) == 1 and not asked.notices


def test_a_field_of_the_users_own_is_never_left_out(server):
    client = Client(server, extra_body={"top_k": 40, "min_p": None, "magic": {"a": [1]}})
    asked = client.ask((400, "unknown argument top_k"))
    assert asked.answer.stop == "error" and "top_k" in asked.answer.error
    body = server.bodies[0]
    assert body["top_k"] == 40 and "min_p" not in body and body["magic"] == {"a": [1]}


def test_two_connections_that_are_refused_at_once_both_go_on(server):
    """The second refusal is of a request that was sent before the first one was understood."""
    client = Client(server)
    body, _ = client.backend.adaptation.apply({"top_k": 5, "messages": []})
    assert client.backend.adaptation.refused("top_k is unknown", body)
    assert client.backend.adaptation.refused("top_k is unknown", body) == ""
    assert client.backend.adaptation.apply(body)[0] == {"messages": []}


@pytest.mark.parametrize("top_k", [0, 1])
def test_top_k_is_never_0(server, top_k):
    sampling = Sampling(1.0, top_k, 1.0, 0.0, seed=3)
    Client(server, ReplySettings(sampling=sampling, budget=Budget(tokens=50))).ask(GOOD)
    body = server.bodies[0]
    assert body.get("top_k") == (top_k or None) and "min_p" not in body


def test_max_tokens_is_renamed_for_those_who_want_that(server):
    said = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead."
    )

    def rule(body):
        return (400, {"error": {"message": said, "param": "max_tokens"}}) if "max_tokens" in body \
            else GOOD  # fmt: skip

    server.rule = rule
    asked = Client(server).ask()
    assert server.bodies[-1]["max_completion_tokens"] == 50 and len(server.bodies) == 2
    assert "max_tokens sent as max_completion_tokens" in asked.answer.notes


def test_a_budget_that_is_too_large_is_no_field_to_leave_out(server):
    asked = Client(server).ask((400, "max_tokens is too large: 50. At most 40 are supported."))
    assert asked.answer.stop == "error" and "max_tokens is too large" in asked.answer.error
    assert len(server.bodies) == 1


# Thinking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("think, on", [("high", True), ("none", False), ("max", True)])
def test_thinking_is_asked_for_in_every_spelling(server, think, on):
    settings = ReplySettings(sampling=Sampling(), budget=Budget(tokens=50), think=think)
    asked = Client(server, settings).ask([delta("stop", content="Answer: 1")])
    body = server.bodies[0]
    assert body["chat_template_kwargs"] == {"thinking": on, "enable_thinking": on}
    assert body["thinking"] == {"type": "enabled" if on else "disabled"}
    assert any("none came back" in line for line in asked.notices) is on


def test_a_warning_when_no_thinking_came_back_is_said_once_and_recorded(server):
    client = Client(server)
    first, second = client.ask(GOOD), client.ask(GOOD)
    assert [len(first.notices), len(second.notices)] == [1, 0]
    assert first.answer.notes == second.answer.notes == ["no thinking came back"]
    details = {"reasoning_tokens": 5}
    hidden = [*GOOD[:1], usage(completion_tokens=9, completion_tokens_details=details)]
    assert Client(server).ask(hidden).notices == [], "it was counted, and not shown"


LATE = "hm Answer: 9\n"
THOUGHTS = {
    "reasoning_content": [delta(reasoning_content=LATE), delta("stop", content="Answer: 1")],
    "reasoning": [delta(reasoning=LATE), delta("stop", content="Answer: 1")],
    "both": [delta(reasoning=LATE, reasoning_content=LATE), delta("stop", content="Answer: 1")],
    "parts": [delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": LATE}]}]),
              delta("stop", content=[{"type": "text", "text": "Answer: 1"}])],
    "tags": [delta(content=f"<think>\n{LATE}</th"), delta("stop", content="ink>\n\nAnswer: 1")],
    "no opening tag": [delta(content=f"{LATE}</think"), delta("stop", content=">Answer: 1")],
    "null beside it": [delta(content=None, reasoning_content=LATE),
                       delta("stop", content="Answer: 1", reasoning_content=None)],
    "a tag inside": [delta(reasoning_content=f"no </think>{LATE}"),
                     delta("stop", content="Answer: 1")],
}  # fmt: skip


@pytest.mark.parametrize("name", THOUGHTS)
def test_thinking_is_told_from_the_answer_in_every_form(server, name):
    asked = Client(server).ask([*THOUGHTS[name], DONE])
    grades = grade(question(1), asked.answer.output, asked.answer.opened, True)
    assert (grades.strict.given, grades.thinking) == ("1", "closed"), asked.answer.output
    assert asked.notices == []


def test_tags_cut_at_any_byte(server):
    text = f"<think>{LATE}</think>\nAnswer: 1"
    for at in range(1, len(text)):
        asked = Client(server).ask([delta(content=text[:at]), delta("stop", content=text[at:])])
        assert asked.answer.output == text
        last = [event for event in asked.events if hasattr(event, "thinking")][-1]
        assert last.thinking is False


CUT = {
    "apart": [delta(reasoning_content=LATE), delta("length", content=None)],
    "in tags": [delta("length", content=f"<think>{LATE}")],
    "without a tag": [delta("length", content=LATE)],
}


@pytest.mark.parametrize("name", CUT)
def test_a_reply_that_was_cut_in_its_thoughts_has_no_answer(server, name):
    answer = Client(server).ask(CUT[name]).answer
    sample = sample_of(answer)
    assert (answer.stop, sample.state, sample.given) == ("limit", "TRUNCATED", "?")


# Shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counts, tokens",
    [
        ({"prompt_tokens": "11", "completion_tokens": "5"}, (11, 5)),
        ({"prompt_tokens": 11.0, "completion_tokens": 5.0}, (11, 5)),
        ({"prompt_tokens": None, "completion_tokens": -1}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": "many"}, (None, None)),
        ({"completion_tokens_details": None}, (None, None)),
        ({}, (None, None)),
        (None, (None, None)),
        ("none", (None, None)),
    ],
)
def test_counts_are_numbers_or_unknown(server, counts, tokens):
    answer = Client(server).ask([*GOOD[:1], {"choices": [], "usage": counts}, DONE]).answer
    assert (answer.prompt_tokens, answer.gen_tokens) == tokens
    assert answer.stop == "eos"


SHAPES = {
    "content null": [delta(role="assistant", content=None), *GOOD],
    "choices null and of nulls": [{"choices": None}, {"choices": [None]}, {}, *GOOD],
    "delta null": [{"choices": [{"delta": None, "finish_reason": None}]}, *GOOD],
    "other choices": [{"choices": [{"index": 1, "delta": {"content": "Answer: 9"}}]}, *GOOD],
    "content in parts": [delta("stop", content=["Answer", {"type": "text", "text": ": 1"},
                                                {"type": "image_url", "image_url": "x"}])],
    "reason as an object": [delta({"type": "stop"}, content="Answer: 1")],
    "message in a stream": [{"choices": [{"message": {"content": "Answer: 1"},
                                          "finish_reason": "stop"}]}],
    "byte order mark": ["\ufeffdata: " + json.dumps(GOOD[0]), DONE],
    "other fields": ["event: message\nid: 3\nretry: 100\ndata:" + json.dumps(GOOD[0]), DONE],
    "data over lines": ["data: {\"choices\": [{\"delta\": {\"content\":\ndata: \"Answer: 1\"}, "
                        "\"finish_reason\": \"stop\"}]}"],
    "no empty line between": [f"data: {json.dumps(GOOD[0])}\n{DONE}"],
    "keep-alive comments": [": PROCESSING", ": PROCESSING", "event: ping", *GOOD],
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_a_reply_is_read(server, name):
    answer = Client(server).ask(SHAPES[name]).answer
    assert (answer.output, answer.stop) == ("Answer: 1", "eos"), answer.error


def test_half_characters_are_joined_or_replaced(server):
    halves = [delta(content="\ud83d"), delta(content="\ude00 \ud83d"), *GOOD]
    answer = Client(server).ask(halves).answer
    assert answer.output == "\U0001f600 \ufffdAnswer: 1"
    json.dumps(sample_of(answer).record()).encode("utf-8")


SEPARATORS = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg é漢字"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_are_split_at_three_line_ends_only(server, end):
    """Byte by byte, so that every cut is met; separators of Unicode are text."""
    content = SEPARATORS + "\n\nAnswer: 1"
    document = json.dumps(delta("stop", content=content), ensure_ascii=False)
    raw = f"data: {document}{end}{end}{DONE}{end}{end}".encode()

    documents = Documents()
    found = [one for i in range(len(raw)) for one in documents.feed(raw[i : i + 1])]
    assert found == [delta("stop", content=content)] and documents.done

    def play(handler):
        handler.begin()
        for i in range(0, len(raw), 7):
            handler.wfile.write(raw[i : i + 7])
            handler.wfile.flush()

    assert Client(server).ask(play).answer.output == content


def test_lines_of_the_standards_examples():
    lines = Lines()
    assert lines.feed(b"a\r") == [b"a"] and lines.feed(b"\nb\r\rc") == [b"b", b""]
    assert lines.feed(b"\n\n") == [b"c", b""] and lines.rest() == b""


def test_a_line_without_an_end_is_no_reply(monkeypatch):
    monkeypatch.setattr("ds4eval.answering.server.events.MAX_LINE", 10)
    lines = Lines()
    lines.feed(b"123456789")
    with pytest.raises(ValueError, match="expected lines below 10 bytes"):
        lines.feed(b"01")


ENDS = {
    "only an end": ([delta(content="Answer: 1"), DONE], "eos", ""),
    "plain JSON": (
        lambda h: h.send(200, json.dumps({"choices": [{"message": {"content": "Answer: 1"},
            "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}, indent=2).encode()),
        "eos", "stop",
    ),
    "plain JSON without a reason": (
        lambda h: h.send(200, b'{"choices": [{"message": {"content": "Answer: 1"}}]}'), "eos", "",
    ),
    "no last empty line": (
        lambda h: h.send(200, events(*GOOD[:1]).rstrip(b"\n")), "eos", "stop",
    ),
    "another word": ([delta("eos_token", content="Answer: 1")], "eos", "eos_token"),
    "no reason and all of the budget": (
        [delta(content="Answer: 1"), usage(completion_tokens=50), DONE], "limit", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_ends_without_a_reason_are_ends_and_reasons_are_recorded(server, name):
    step, stop, reason = ENDS[name]
    answer = Client(server).ask(step).answer
    assert (answer.output, answer.stop, answer.finish_reason) == ("Answer: 1", stop, reason)
    assert sample_of(answer).finish_reason == reason


def test_a_reply_at_once_has_no_time_to_its_first_token(server):
    answer = Client(server).ask(ENDS["plain JSON"][0]).answer
    assert answer.prefill_s is None and answer.decode_s is not None and answer.gen_tokens == 3


STATES = {
    "FILTERED": [delta("content_filter", content=None)],
    "FILTERED by words": [delta("stop", refusal="I cannot help", content=None)],
    "TOOL_CALL": [delta(tool_calls=[{"index": 0, "function": {"name": "python"}}]),
                  delta("tool_calls")],
    "TRUNCATED": [delta("length", content=None)],
    "INCOMPLETE": [delta("stop", content=None)],
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_no_answer_has_a_state_of_its_own_and_is_never_wrong(server, name):
    sample = sample_of(Client(server).ask([*STATES[name], DONE]).answer)
    assert sample.state == name.split()[0] and sample.verdict != "fail" and sample.final


# Refusals and waits -------------------------------------------------------------------------------


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
    monkeypatch.setattr("ds4eval.answering.server.wire.GRACE_S", 0.2)

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
    client, control, todo = Client(server), Control(), jobs(6)

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


# The key ------------------------------------------------------------------------------------------


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


# Whole runs ---------------------------------------------------------------------------------------


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
