"""Replies of servers as they are: every shape, every end, and states that are no answer."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("httpx")

from ds4eval.records.samples import make_sample
from engine.tooling.openai.events import Documents
from tests.ds4eval.fakes import jobs
from tests.ds4eval.servers.odd_server import (
    DONE,
    GOOD,
    GREEDY,
    Client,
    OddServer,
    delta,
    events,
    usage,
)


@pytest.fixture
def server():
    one = OddServer()
    yield one
    one.close()


def sample_of(answer):
    return make_sample(jobs(1)[0], answer, GREEDY.sampling, "")


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
