"""Lets a server answer one question after another: asks again where that may help, else goes on.

A question's failure is an answer with stop 'error' and never an exception. It knows the order of
attempts and their limits; connections, requests and replies have modules of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from ds4eval.answering.server.body import body_of
from ds4eval.answering.server.reply import Reply
from ds4eval.documents import Document
from ds4eval.events import Event, Notice, Prefill
from ds4eval.plan import Job, ReplySettings
from ds4eval.records.answer import Answer
from ds4eval.records.record import ERROR, SKIPPED, STOPPED
from ds4eval.request import ServerOptions
from engine.errors import OptionError
from engine.tooling.openai.adaptation import Adaptation
from engine.tooling.openai.events import Documents
from engine.tooling.openai.refusals import Refusal, Trouble
from engine.tooling.openai.wire import POLL_S, Exchange, Head, Stopped, TimeIsUp

if TYPE_CHECKING:
    import httpx

# Waits between attempts: 1, 2, 4, ... seconds, or as long as the server asks for.
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
# All waits for one question. A server that is away for longer needs a person, or a later run.
WAITS_S = 900.0
# A reply that broke off has cost its tokens; it is not written over and over.
COSTLY_RETRIES = 2
NO_THINKING = (
    "thinking was asked for and none came back: scores are those of replies without it, unless "
    "the server hides it (--extra-body may hold the server's own switch)"
)


class RemoteBackend:
    """Answers jobs through one server; may be used by several threads.

    Parameters
    ----------
    client : httpx.Client
        See `engine.tooling.openai.client`.
    settings : ReplySettings
    server : ServerOptions
    model : str
        As the server calls it.
    """

    def __init__(
        self, client: httpx.Client, settings: ReplySettings, server: ServerOptions, model: str
    ) -> None:
        self.client = client
        self.settings = settings
        self.server = server
        self.model = model
        self.adaptation = Adaptation(server.extra_body)
        self._warned = False

    def answer(
        self, job: Job, stop: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Answer]:
        """Answer one job, within the limits of attempts, waits and time."""
        server = self.server
        try:
            host = self.client.base_url.host
            body = body_of(job, self.settings, server.api, self.model, server.extra_body, host)
        except OptionError as refusal:
            return Answer(SKIPPED, error=str(refusal))
        yield Prefill(job.n, 0, 0, 0.0)
        retries, costly, waited = 0, 0, 0.0
        while True:
            if stop():
                return Answer(STOPPED)
            sent, notes = self.adaptation.apply(body)
            try:
                answer = yield from self._attempt(job, sent, notes, stop)
            except Trouble as caught:
                trouble = caught
            else:
                if "no thinking came back" in answer.notes and not self._warned:
                    self._warned = True
                    yield Notice(NO_THINKING)
                return answer
            if trouble.too_long:
                return Answer(SKIPPED, error=trouble.message[:500], notes=notes)
            changed = self.adaptation.refused(trouble.said, sent) if trouble.refused else None
            if changed is not None:
                if changed:
                    yield Notice(changed)
                continue
            costly += trouble.costly
            wait = trouble.after_s
            if wait is None:
                wait = min(FIRST_WAIT_S * 2**retries, LONGEST_WAIT_S)
            error = self._give_up(trouble, retries, costly, waited + wait)
            if error:
                return Answer(
                    ERROR, error=error[:500], notes=notes, of_question=trouble.of_question
                )
            retries += 1
            waited += wait
            yield Notice(
                f"question {job.n}: {trouble.message}; asked again in {wait:g} s "
                f"({retries} of {server.max_retries})"
            )
            self.pause(wait, stop)

    def _give_up(self, trouble: Trouble, retries: int, costly: int, waits_s: float) -> str:
        """Why there is no further attempt; '' when there is one."""
        if not trouble.retry or costly > COSTLY_RETRIES:
            return trouble.message
        if retries >= self.server.max_retries:
            return f"{trouble.message} (after {retries} retries, --max-retries)"
        if waits_s > WAITS_S:
            return f"{trouble.message} (expected waits below {WAITS_S:g} s, found {waits_s:g} s)"
        return ""

    def pause(self, seconds: float, stop: Callable[[], bool]) -> None:
        """Wait, but not for a user who wants to stop."""
        until = time.monotonic() + seconds
        while not stop() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))

    def _attempt(
        self, job: Job, body: Document, notes: list[str], stop: Callable[[], bool]
    ) -> Generator[Event, None, Answer]:
        """Ask once.

        Raises
        ------
        Trouble
            If no whole reply came.
        """
        import httpx

        path = "completions" if self.server.api == "completions" else "chat/completions"
        try:
            exchange = Exchange(self.client, path, body)
        except (ValueError, TypeError, RecursionError) as error:
            raise Trouble(f"request: expected JSON, found {error}") from None
        reply = Reply(job, self.settings, self.server.api, body, notes, exchange.start)
        try:
            yield from self._read(exchange, reply, stop)
        except Stopped:
            return reply.answer(STOPPED)
        except TimeIsUp:
            if not reply.finished:
                limit = self.server.reply_timeout_s
                late = f"server: expected a whole reply within {limit:g} s (--reply-timeout)"
                answer = reply.answer(ERROR, f"{late}, found {reply.pieces} pieces of one")
                return answer.about_question()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError, OSError) as error:
            if not reply.finished:
                raise Trouble(
                    f"server: expected a reply, found {type(error).__name__}: {error}",
                    retry=True,
                    costly=reply.pieces > 0 or isinstance(error, ValueError),
                    of_question=not isinstance(error, httpx.ConnectError),
                ) from None
        finally:
            exchange.close()
        return reply.answer()

    def _read(
        self, exchange: Exchange, reply: Reply, stop: Callable[[], bool]
    ) -> Generator[Event, None, None]:
        """Read the answer to its end.

        Raises
        ------
        Trouble
            If it is a refusal.
        ValueError
            If it is no reply, or ends before the reply does.
        """
        import httpx

        documents = Documents()
        head: Head | None = None
        refusal = b""
        try:
            for arrival in exchange.arrivals(stop, self.server.reply_timeout_s):
                if isinstance(arrival.item, Head):
                    head = arrival.item
                elif head is not None and head.status != 200:
                    refusal += arrival.item[: 1 << 20]
                else:
                    for document in documents.feed(arrival.item):
                        yield from reply.take(document, arrival.at)
                if documents.done:
                    break
                if reply.finished or (head is not None and head.status != 200):
                    exchange.expect_end()
        except (TimeIsUp, httpx.HTTPError):
            # A refusal is one even if its text never ends.
            if head is None or head.status == 200:
                raise
        if head is not None and head.status != 200:
            raise Refusal(head.status, head.reason, head.headers, refusal).trouble()
        if not documents.done:
            for document in documents.end():
                yield from reply.take(document, time.perf_counter())
        if not reply.finished and not (documents.done and reply.anything):
            raise ValueError("the stream ended before the reply did")
