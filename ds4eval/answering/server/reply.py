"""Gathers one reply out of a server's documents and makes it an answer.

Thinking that a server sends apart is recorded inside think tags, as our engine would have written
it. Nothing here knows a connection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from ds4eval.documents import Document
from ds4eval.events import Text
from ds4eval.plan import Job, ReplySettings
from ds4eval.records.answer import Answer
from ds4eval.records.record import CALLED, EOS, FILTERED, LIMIT
from engine.tooling.openai import shapes
from engine.tooling.openai.refusals import Trouble, check_document
from engine.tooling.results import redact
from engine.tooling.results.redact import scrubbed

OPEN, CLOSE = "<think>", "</think>"
# A close tag that a model wrote inside its thinking must not end it.
_DEFUSED = "<\\/think>"
_STOPS = {
    "length": LIMIT,
    "max_tokens": LIMIT,
    "model_length": LIMIT,
    "content_filter": FILTERED,
    "refusal": FILTERED,
    "tool_calls": CALLED,
    "tool_use": CALLED,
    "function_call": CALLED,
}


def stop_of(finish: str) -> str:
    """How a reply with this finish reason ended; words of other servers mean an ordinary end."""
    return _STOPS.get(finish, EOS)


class Reply:
    """A reply on its way.

    Parameters
    ----------
    job : Job
    settings : ReplySettings
    api : {'chat', 'completions'}
    body : dict
        The request as it was sent.
    notes : list of str
        What was changed in it for this server.
    start : float
        When it was sent (`time.perf_counter`).
    """

    def __init__(
        self,
        job: Job,
        settings: ReplySettings,
        api: str,
        body: Document,
        notes: list[str],
        start: float,
    ) -> None:
        self.job = job
        self.settings = settings
        self.api = api
        self.body = body
        self.notes = notes
        self.start = start
        self.thoughts: list[str] = []
        self.content: list[str] = []
        self.refusal: list[str] = []
        # In our own rendering the prompt ends inside a think block.
        self.in_prompt = api == "completions" and settings.think != "none"
        self.thinking = self.in_prompt
        self.tail = ""
        self.screen = redact.Stream()
        self.usage: dict[str, Any] = {}
        self.finish = ""
        self.called = False
        self.pieces = 0
        self.first = self.last = start

    @property
    def finished(self) -> bool:
        """Whether the server said why the reply ended."""
        return bool(self.finish)

    @property
    def anything(self) -> bool:
        return bool(self.pieces or self.finish or self.called or self.refusal)

    def take(self, document: dict[str, Any], at: float) -> Iterator[Text]:
        """One document; yields the text that it brings.

        Raises
        ------
        Trouble, ValueError
            If it reports an error, or is no part of a reply.
        """
        check_document(document)
        if isinstance(document.get("usage"), dict):
            self.usage = document["usage"]
        for choice in shapes.choices_of(document):
            shown = self._message(shapes.message_of(choice))
            self.finish = shapes.finish_of(choice.get("finish_reason")) or self.finish
            if shown:
                self.last = at
                if not self.pieces:
                    self.first = at
                self.pieces += 1
                yield self._event(self.screen.take(shown))
        rest = self.screen.end() if self.finish else ""
        if rest:
            yield self._event(rest)
        if self.finish in shapes.BROKEN:
            raise Trouble(
                f"server: expected a whole reply, found it ended by {self.finish}",
                retry=True,
                costly=True,
            )

    def _event(self, shown: str) -> Text:
        limit = self.settings.budget.tokens
        return Text(self.job.n, shown, self.thinking, 1, self.pieces, limit, limit, 0.0)

    def _message(self, message: dict[str, Any]) -> str:
        """Text of a message that a reader sees, its tags included."""
        shown = ""
        thought = shapes.thoughts_of(message)
        if thought:
            self.thoughts.append(thought)
            self.thinking = True
            shown = thought
        text = shapes.text_of(message.get("content"), "content")
        if text:
            if self.thoughts and not self.content:
                shown += CLOSE
                self.thinking = False
            self.content.append(text)
            window = self.tail + text
            if OPEN in window or CLOSE in window:
                self.thinking = window.rfind(OPEN) > window.rfind(CLOSE)
            self.tail = window[-len(CLOSE) + 1 :]
            shown += text
        self.called = self.called or bool(message.get("tool_calls") or message.get("function_call"))
        if isinstance(message.get("refusal"), str) and message["refusal"]:
            self.refusal.append(message["refusal"])
        return shapes.whole_text(shown)

    @property
    def stop(self) -> str:
        """How it ended."""
        text = any(piece.strip() for piece in self.content)
        if self.refusal and not text:
            return FILTERED
        if self.called and not text and self.finish in ("", "stop"):
            return CALLED
        made = self.made
        if not self.finish and made is not None and made >= self.settings.budget.tokens:
            return LIMIT
        return stop_of(self.finish)

    @property
    def made(self) -> int | None:
        """Tokens of the reply, as far as the server says."""
        return shapes.count_of(self.usage.get("completion_tokens"))

    def _think_tokens(self) -> int | None:
        details = self.usage.get("completion_tokens_details")
        details = details if isinstance(details, dict) else {}
        return shapes.count_of(details.get("reasoning_tokens"))

    @property
    def thought(self) -> bool:
        """Whether any thinking came back, in whichever form; our own rendering opens the block."""
        content = "".join(self.content)
        return bool(
            self.in_prompt
            or self.thoughts
            or OPEN in content
            or CLOSE in content
            or (self._think_tokens() or 0) > 0
        )

    def text(self) -> tuple[str, bool]:
        """The whole reply, and whether it begins inside a think block."""
        content = shapes.whole_text("".join(self.content))
        if self.thoughts:
            thoughts = shapes.whole_text("".join(self.thoughts)).replace(CLOSE, _DEFUSED)
            over = bool(content) or self.stop != LIMIT
            return thoughts + (CLOSE if over else "") + content, True
        if self.in_prompt:
            return content, True
        closes, opens = content.find(CLOSE), content.find(OPEN)
        if closes >= 0 and not 0 <= opens < closes:
            return content, True  # the server's template opened the block in the prompt
        # Cut before any tag came, where thinking was asked for, it may all be thinking.
        silent = self.settings.think != "none" and opens < 0 and self.stop == LIMIT
        return content, silent

    def answer(self, stop: str = "", error: str = "") -> Answer:
        """The answer; `stop` says how it ended where that was not the server's doing."""
        output, opened = self.text()
        output = scrubbed(output)
        sent = json.dumps({k: self.body.get(k) for k in ("messages", "prompt")}, sort_keys=True)
        notes = list(self.notes)
        # A reply that was cut may be thinking that nothing marks as such.
        whole = not stop and self.stop == EOS
        if whole and self.settings.think != "none" and not self.thought:
            notes.append("no thinking came back")
        streamed = self.pieces > 1
        stop = stop or self.stop
        if stop == FILTERED and not error:
            error = "server: expected an answer, found it withheld: " + "".join(self.refusal)
        if stop == CALLED and not error:
            error = "server: expected an answer, found a call of a tool that was not offered"
        return Answer(
            stop,
            output=output,
            prompt_sha256=hashlib.sha256(sent.encode()).hexdigest(),
            output_sha256=hashlib.sha256(output.encode("utf-8", "replace")).hexdigest(),
            prompt_tokens=shapes.count_of(self.usage.get("prompt_tokens")),
            gen_tokens=self.made,
            think_tokens=self._think_tokens(),
            limit_tokens=self.settings.budget.tokens,
            opened=opened,
            close="natural" if opened and CLOSE in output else "none",
            # A reply that came at once says nothing of when its first token was there.
            prefill_s=self.first - self.start if streamed else None,
            decode_s=self.last - (self.first if streamed else self.start) if self.pieces else None,
            finish_reason=scrubbed(self.finish),
            notes=notes,
            error=scrubbed(error)[:500].strip(),
        )
