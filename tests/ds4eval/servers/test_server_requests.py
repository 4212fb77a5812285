"""Requests to servers as they are: fields that are refused, and thinking that is asked for."""

from __future__ import annotations

import pytest

pytest.importorskip("httpx")

from ds4eval.grading.grade import grade
from ds4eval.plan import Budget, ReplySettings, Sampling
from ds4eval.records.samples import make_sample
from tests.ds4eval.fakes import jobs, question
from tests.ds4eval.servers.odd_server import (
    DONE,
    GOOD,
    GREEDY,
    Client,
    OddServer,
    delta,
    usage,
)

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
