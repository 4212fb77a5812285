"""Reads one streamed reply for its times and counts: when tokens came, and how many at a time.

An event may bring several tokens (speculation, characters that need more than one token) or none;
how many it brings is taken from counts that the server sends along, never from the text. It reads
what arrived after the reply is over, so that reading costs no time inside the clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from engine.tooling.openai import shapes
from engine.tooling.openai.events import Documents
from engine.tooling.openai.refusals import Trouble, check_document
from engine.tooling.openai.wire import Arrival


@dataclass(slots=True)
class Timings:
    """What a server says of its own work (llama.cpp's `timings`); None is unknown."""

    prefill_s: float | None = None
    prefill_tokens: int | None = None
    gen_s: float | None = None
    gen_tokens: int | None = None
    drafted: int | None = None
    accepted: int | None = None


@dataclass(slots=True)
class Reply:
    """Times are seconds of one monotonic clock.

    Attributes
    ----------
    sent : float
        When the request went out, behind the making of the connection.
    at : list of float
        Arrival of each event that brought tokens.
    counted : list of (int or None)
        Tokens of the reply up to and with each of these events, where the server counts them.
    ended : float
        Arrival of the finish reason, or of the last event.
    """

    sent: float
    at: list[float] = field(default_factory=list)
    counted: list[int | None] = field(default_factory=list)
    ended: float = 0.0
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    timings: Timings = field(default_factory=Timings)

    @property
    def tokens(self) -> int | None:
        return self.completion_tokens

    @property
    def first_tokens(self) -> int:
        """Tokens of the first event; one where the server does not say."""
        return (self.counted[0] if self.counted else None) or 1

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token; None where the reply came at once and says nothing of it."""
        return self.at[0] - self.sent if len(self.at) > 1 else None

    def steps(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Seconds between events, and tokens of each event behind the first.

        The second is empty where nobody knows: the server counts in its last event only, and not
        one token for each event.
        """
        at, counted = list(self.at), list(self.counted)
        total = self.tokens
        if total is not None and None in counted and len(at) == total:
            counted = list(range(1, total + 1))
        known = None not in counted and total is not None
        if known and at and self.ended > at[-1] and (counted[-1] or 0) < (total or 0):
            at.append(self.ended)
            counted.append(total)
        gaps = tuple(b - a for a, b in pairwise(at))
        if not known:
            return gaps, ()
        sure = [n or 0 for n in counted]
        tokens = tuple(b - a for a, b in pairwise(sure))
        return (gaps, tokens) if min(tokens, default=0) >= 0 else (gaps, ())


def read_reply(arrivals: Iterable[Arrival], sent: float, asked: int) -> Reply:
    """The times and counts of a reply that has arrived.

    Parameters
    ----------
    arrivals : iterable of Arrival
        Bytes with the time of each; heads are passed over.
    sent : float
    asked : int
        Most tokens that the request allowed: what a reply has that was ended by this limit.

    Raises
    ------
    Trouble
        If it reports an error.
    ValueError
        If it is no reply.
    """
    reply, documents = Reply(sent), Documents()
    last = sent
    for arrival in arrivals:
        if isinstance(arrival.item, bytes):
            last = arrival.at
            for document in documents.feed(arrival.item):
                _take(reply, document, arrival.at)
    if not documents.done:
        for document in documents.end():
            _take(reply, document, last)
    if not reply.at and not reply.finish:
        raise ValueError("the stream ended before the reply did")
    reply.ended = max(reply.ended, reply.at[-1] if reply.at else reply.ended)
    if reply.completion_tokens is None:
        reply.completion_tokens = reply.timings.gen_tokens
    if reply.completion_tokens is None and reply.finish in ("length", "max_tokens"):
        reply.completion_tokens = asked
    return reply


def _take(reply: Reply, document: dict[str, Any], at: float) -> None:
    check_document(document)
    usage, timings = document.get("usage"), document.get("timings")
    count = None
    if isinstance(timings, dict):
        _timings(reply.timings, timings)
        count = reply.timings.gen_tokens
    if isinstance(usage, dict):
        count = _usage(reply, usage)
    for choice in shapes.choices_of(document):
        message = shapes.message_of(choice)
        text = shapes.thoughts_of(message) or shapes.text_of(message.get("content"), "content")
        before = reply.counted[-1] if reply.counted else None
        # Tokens may have no text of their own: an end of text, or part of a character.
        if text or (count is not None and before is not None and count > before):
            reply.at.append(at)
            reply.counted.append(count)
        finish = shapes.finish_of(choice.get("finish_reason"))
        if finish:
            reply.finish, reply.ended = finish, at
        if finish in shapes.BROKEN:
            raise Trouble(f"server: expected a whole reply, found it ended by {finish}")


def _usage(reply: Reply, usage: dict[str, Any]) -> int | None:
    prompt = shapes.count_of(usage.get("prompt_tokens"))
    reply.prompt_tokens = reply.prompt_tokens if prompt is None else prompt
    count = shapes.count_of(usage.get("completion_tokens"))
    reply.completion_tokens = reply.completion_tokens if count is None else count
    details = usage.get("prompt_tokens_details")
    found = details.get("cached_tokens") if isinstance(details, dict) else None
    # DeepSeek's own service has a name of its own for it.
    cached = shapes.count_of(usage.get("prompt_cache_hit_tokens") if found is None else found)
    reply.cached_tokens = reply.cached_tokens if cached is None else cached
    return count


def _timings(known: Timings, found: dict[str, Any]) -> None:
    for name, place, kind in (
        ("prefill_tokens", "prompt_n", int),
        ("gen_tokens", "predicted_n", int),
        ("drafted", "draft_n", int),
        ("accepted", "draft_n_accepted", int),
        ("prefill_s", "prompt_ms", float),
        ("gen_s", "predicted_ms", float),
    ):
        value = found.get(place)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
            continue
        setattr(known, name, int(value) if kind is int else float(value) * 1e-3)
