"""Replies from recorded arrivals, to the microsecond; and prompts of an exact length."""

from __future__ import annotations

import json
import re
import threading

import pytest

pytest.importorskip("httpx")

from ds4bench.plan import Sampling
from ds4bench.server import ask, measure
from ds4bench.server.facts import read_speculation, since
from ds4bench.server.plan import ServerOptions
from ds4bench.server.prompts import cut_for, new_salt
from ds4bench.server.stream import Reply, read_reply
from engine.tooling.openai import wire
from engine.tooling.openai.refusals import Trouble
from engine.tooling.openai.wire import Arrival, Stopped
from tests.ds4bench.servers.speed_server import PIECE, count

MS = 1e-3


def event(text="", finish=None, made=None, **more):
    document = {"choices": [{"index": 0, "text": text, "finish_reason": finish}], **more}
    if made is not None:
        document["usage"] = {"prompt_tokens": 9, "completion_tokens": made}
    return document


def reply(*timed, asked=100):
    """A reply whose documents came at the given milliseconds; it was sent at 10."""
    arrivals = [
        Arrival(at * MS, f"data: {d if isinstance(d, str) else json.dumps(d)}\n\n".encode())
        for at, d in timed
    ]
    return read_reply(arrivals, 10 * MS, asked)


def steps_ms(found):
    gaps, tokens = found.steps()
    return [round(gap / MS, 6) for gap in gaps], list(tokens)


def test_tokens_of_events_are_differences_of_the_servers_counts():
    found = reply(
        (30, event("a", made=1)), (35, event("bcd", made=4)), (41, event("e", made=5)),
        (41.5, event("", "length", made=5)), (42, "[DONE]"),
    )  # fmt: skip
    assert found.ttft_s == pytest.approx(20 * MS)
    assert steps_ms(found) == ([5, 6], [3, 1])
    assert (found.tokens, found.first_tokens, found.prompt_tokens) == (5, 1, 9)


def test_a_first_event_of_several_tokens_is_no_part_of_the_window():
    found = reply((30, event("ab", made=3)), (40, event("cd", "length", made=6)))
    assert found.first_tokens == 3 and steps_ms(found) == ([10], [3])


def test_last_tokens_without_text_are_counted_at_the_end():
    found = reply(
        (30, event("a", made=1)), (35, event("b", made=2)), (44, event("", "stop", made=3)),
    )  # fmt: skip
    assert steps_ms(found) == ([5, 9], [1, 1])
    # In the middle: a token that is part of a character has no text either.
    found = reply(
        (30, event("a", made=1)), (35, event("", made=2)), (40, event("é", "length", made=3)),
    )  # fmt: skip
    assert steps_ms(found) == ([5, 5], [1, 1])


def test_counts_at_the_end_only_are_enough_where_each_event_is_a_token():
    timed = [(30 + 5 * i, event("x")) for i in range(4)]
    found = reply(*timed, (50, {"choices": [], "usage": {"completion_tokens": 4}}))
    assert steps_ms(found) == ([5, 5, 5], [1, 1, 1])
    found = reply(*timed, (50, {"choices": [], "usage": {"completion_tokens": 7}}))
    assert steps_ms(found) == ([5, 5, 5], [])


def test_a_limit_is_a_count_and_nothing_else_is():
    assert reply((30, event("a")), (35, event("b", "length")), asked=12).tokens == 12
    assert reply((30, event("a")), (35, event("b", "stop")), asked=12).tokens is None


def test_chats_with_thoughts_and_roles_are_timed_by_their_first_text():
    def piece(at, **delta):
        return at, {"choices": [{"index": 0, "delta": delta}], "usage": None}

    found = reply(
        piece(20, role="assistant", content=""), piece(30, reasoning_content="hm"),
        piece(36, content="yes"), (37, event("", "stop")),
    )  # fmt: skip
    assert found.ttft_s == pytest.approx(20 * MS) and len(found.at) == 2


def test_odd_values_are_unknown():
    odd = {"prompt_ms": -1, "predicted_n": True, "draft_n": "3", "predicted_ms": float("inf")}
    text = json.dumps(event("a", "length", timings=odd)).replace("Infinity", "1e999")
    found = reply((30, event("x")), (31, text))
    timings = found.timings
    assert (timings.prefill_s, timings.gen_tokens, timings.drafted, timings.gen_s) == (None,) * 4


@pytest.mark.parametrize(
    "timed",
    [
        [(30, event("a", made=1)), (31, {"error": {"message": "out of memory", "code": 500}})],
        [(30, event("a")), (31, event("", "error"))],
    ],
)
def test_a_broken_reply_is_trouble(timed):
    with pytest.raises(Trouble, match="server: expected"):
        reply(*timed)
    with pytest.raises(ValueError, match="ended before the reply did"):
        reply()


@pytest.mark.parametrize("want", [20, 33, 57, 200])
@pytest.mark.parametrize("guess", [0, 3, 900])
def test_a_cut_has_exactly_the_tokens_that_are_wanted(want, guess):
    text = "Some words, and then longer ones: antidisestablishmentarianism.  Twice!\n" * 30
    head = new_salt()
    at = cut_for(count, head, text, want, 0, guess)
    assert len(PIECE.findall(head + text[:at])) == want and not text[at - 1].isspace()


def test_a_longer_prompt_begins_with_the_tokens_of_a_shorter_one():
    text, head = "These are words of several lengths, all of them known. " * 40, new_salt()
    first = head + text[: cut_for(count, head, text, 40)]
    joined = first + " "
    rest = text[len(first) - len(head) :]
    longer = joined + rest[: cut_for(count, joined, rest, 90, 40)]
    assert PIECE.findall(longer)[:40] == PIECE.findall(first) and count(longer) == 90


def test_prompts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="expected a text of 100 tokens, found"):
        cut_for(count, "", "too short", 100)
    with pytest.raises(ValueError, match="expected a cut of exactly 7 tokens"):
        cut_for(lambda text: 10 * len(text), "", "abcdefgh" * 9, 7)


def test_salts_differ_and_have_equal_letters():
    salts = {new_salt() for _ in range(50)}
    assert len(salts) == 50
    assert len({tuple(sorted(salt)) for salt in salts}) == 1
    assert all(re.fullmatch(r"Mark( [a-p]){16}\.\n\n", salt) for salt in salts)


def test_counters_are_read_from_a_page_of_prometheus():
    page = (
        "# TYPE vllm:spec_decode_num_drafts_total counter\n"
        'vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 1.2e+03\n'
        'vllm:spec_decode_num_drafts_created{engine="0"} 1.7e+09\n'
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 7.0\n'
        "vllm:request_success_total 3\n"
    )
    found = read_speculation(page)
    assert found == {"steps": 1200, "accepted 1": 7}
    assert since({"steps": 1000}, found) == {"steps": 200, "accepted 1": 7}


def asking(stop=lambda: False):
    options = ServerOptions("http://127.0.0.1:9/v1", model="m", reply_timeout_s=0.2)
    return ask.Server(options, Sampling(), 1, stop, lambda text: None)


def test_a_reply_without_an_end_has_a_limit(server_that_never_ends):
    server = asking()
    server.client.base_url = server_that_never_ends
    with pytest.raises(Trouble, match=r"expected a whole reply within 0.2 s \(--row-timeout\)"):
        server.ask(["x"], 4)
    server.close()


def test_stopping_does_not_wait_for_a_server(server_that_never_ends):
    server = asking(stop=lambda: True)
    server.client.base_url = server_that_never_ends
    with pytest.raises(Stopped):
        server.ask(["x"], 4)
    server.close()


@pytest.fixture
def server_that_never_ends(monkeypatch):
    import socket

    monkeypatch.setattr(wire, "POLL_S", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def serve():
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\ndata: {}\n\n")
            over.wait(30)
            connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1/"
        over.set()
        thread.join()


@pytest.mark.parametrize(("together", "good"), [(1, True), (4, True), (5, False), (29, False)])
def test_a_stream_that_is_read_late_is_no_rate(together, good):
    """A busy client read 32 tokens at once and saw 12,633 tokens/s where 600 were usual."""
    reply = Reply(0.0, [1.0] * together + [2.0 + n for n in range(32 - together)], [None] * 32)
    reply.completion_tokens = 32
    if good:
        measure._check_streamed(reply)
    else:
        with pytest.raises(measure._Failed, match=f"first {together} of 32 events") as caught:
            measure._check_streamed(reply)
        assert caught.value.status == "stalled"
