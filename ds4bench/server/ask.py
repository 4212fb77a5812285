"""Asks a server: one request or several side by side, again where that may help.

It knows requests, refusals and waits. What is measured with a reply it does not know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ds4bench.plan import Sampling
from ds4bench.server.plan import ServerOptions
from ds4bench.server.stream import Reply, read_reply
from engine.tooling.openai.adaptation import Adaptation
from engine.tooling.openai.client import first_model, open_client
from engine.tooling.openai.refusals import Refusal, Trouble
from engine.tooling.openai.wire import POLL_S, Arrival, Exchange, Head, Stopped, TimeIsUp

if TYPE_CHECKING:
    import httpx

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
RETRIES = 3
_DONE = b"[DONE]"


class Server:
    """A server that answers requests of one sweep.

    Parameters
    ----------
    options : ServerOptions
    sampling : Sampling
    users : int
        Most requests side by side.
    stop : callable
        True when the reply in progress should be given up.
    note : callable
        One line for the user.

    Raises
    ------
    OptionError
        If the package httpx is missing.
    BackendError
        If it has to be asked for its first model, and cannot be.
    """

    def __init__(
        self,
        options: ServerOptions,
        sampling: Sampling,
        users: int,
        stop: Callable[[], bool],
        note: Callable[[str], None],
    ) -> None:
        self.options = options
        self.sampling = sampling
        self.stop = stop
        self.note = note
        self.client: httpx.Client = open_client(options, users)
        self.adaptation = Adaptation(options.extra_body)
        self.changed: list[str] = []
        self.model = options.model or first_model(self.client, options)[0]
        self.root = options.base_url.removesuffix("/v1")

    def close(self) -> None:
        self.client.close()

    def body(self, prompt: str, n_tokens: int, stream: bool = True) -> dict[str, object]:
        """The request for exactly `n_tokens` tokens, as far as a server can be told so."""
        s = self.sampling
        body: dict[str, object] = {
            "model": self.model,
            "max_tokens": n_tokens,
            "temperature": s.temp,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            # vLLM, SGLang and llama.cpp go on behind an end of text when told so.
            "ignore_eos": True,
            "timings_per_token": True,
            # llama-cpp-python's server punishes repetition unless it is told not to.
            "repeat_penalty": 1.0,
        }
        if not s.greedy:
            body |= {"seed": s.seed, "top_p": s.top_p}
            body |= {"top_k": s.top_k} if s.top_k > 0 else {}
            body |= {"min_p": s.min_p} if s.min_p > 0 else {}
        if self.options.api == "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if not stream:
            body["stream"] = False
            del body["stream_options"]
        for name, value in self.options.extra_body.items():
            body.pop(name, None)
            if value is not None:
                body[name] = value
        return body

    def ask(self, prompts: Sequence[str], n_tokens: int, stream: bool = True) -> list[Reply]:
        """Replies to prompts that are sent side by side; all again where one brought none.

        Without `stream` a reply comes at once: more servers say then how long its prompt was.

        Raises
        ------
        Trouble
            If there is no reply, as often as it was asked.
        Stopped
            If the user wants no more.
        """
        retries = 0
        while True:
            bodies: list[dict[str, object]] = []
            notes: list[str] = []
            for prompt in prompts:
                body, notes = self.adaptation.apply(self.body(prompt, n_tokens, stream))
                bodies.append(body)
            self.changed = notes
            try:
                return self._together(bodies, n_tokens)
            except Trouble as trouble:
                changed = (
                    self.adaptation.refused(trouble.said, bodies[0]) if trouble.refused else None
                )
                if changed is not None:
                    self.note(changed)
                    continue
                if not trouble.retry or retries >= RETRIES:
                    raise
                wait = trouble.after_s
                if wait is None:
                    wait = FIRST_WAIT_S * 2**retries
                if wait > LONGEST_WAIT_S:
                    raise
                retries += 1
                self.note(f"{trouble.message}; asked again in {wait:g} s ({retries} of {RETRIES})")
                self.pause(wait)

    def pause(self, seconds: float) -> None:
        """Wait, but not for a user who wants to stop."""
        until = time.monotonic() + seconds
        while not self.stop() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))

    def _together(self, bodies: list[dict[str, object]], n_tokens: int) -> list[Reply]:
        chat = self.options.api == "chat"
        path = "chat/completions" if chat else "completions"
        exchanges = [Exchange(self.client, path, body) for body in bodies]
        try:
            # Every exchange stamps what arrives in a thread of its own; nothing is read before all
            # of it is there.
            heard = [self._hear(exchange) for exchange in exchanges]
        finally:
            for exchange in exchanges:
                exchange.close()
        replies = []
        for exchange, arrivals in zip(exchanges, heard):
            try:
                replies.append(read_reply(arrivals, exchange.sent, n_tokens))
            except ValueError as error:
                raise Trouble(f"server: expected a streamed reply, found {error}") from None
        return replies

    def _hear(self, exchange: Exchange) -> list[Arrival]:
        """Everything that arrives.

        Raises
        ------
        Trouble, Stopped
        """
        import httpx

        found: list[Arrival] = []
        head: Head | None = None
        limit = self.options.reply_timeout_s
        try:
            for arrival in exchange.arrivals(self.stop, limit):
                if isinstance(arrival.item, Head):
                    head = arrival.item
                    if head.status != 200:
                        exchange.expect_end()
                    continue
                found.append(arrival)
                if _DONE in arrival.item[-64:]:
                    exchange.expect_end()
        except TimeIsUp:
            ended = any(isinstance(a.item, bytes) and _DONE in a.item[-64:] for a in found)
            if not ended and (head is None or head.status == 200):
                raise Trouble(
                    f"server: expected a whole reply within {limit:g} s (--row-timeout), "
                    f"found {len(found)} pieces of one"
                ) from None
        except Stopped:
            raise
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError, OSError) as error:
            raise Trouble(
                f"server: expected a reply, found {type(error).__name__}: {error}",
                retry=not found,
            ) from None
        if head is not None and head.status != 200:
            text = b"".join(a.item for a in found if isinstance(a.item, bytes))
            raise Refusal(head.status, head.reason, head.headers, text[: 1 << 20]).trouble()
        return found

    def get(self, path: str) -> object:
        """The JSON or text of a page beside the API, None where there is none."""
        import httpx

        try:
            response = self.client.get(self.place(path), timeout=httpx.Timeout(10.0))
            if response.status_code != 200:
                return None
            kind = response.headers.get("content-type", "")
            found: object = response.json() if "json" in kind else response.text
            return found
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError):
            return None

    def post(self, path: str, body: dict[str, object]) -> object:
        """The JSON answer of a page beside the API, None where there is none."""
        import httpx

        try:
            response = self.client.post(self.place(path), json=body, timeout=httpx.Timeout(60.0))
            found: object = response.json() if response.status_code == 200 else None
            return found
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError):
            return None

    def place(self, path: str) -> str:
        """An address on the same host, and no other: the key goes along."""
        url = f"{self.root}/{path}"
        ours, theirs = urlsplit(self.options.base_url), urlsplit(url)
        assert (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc), url
        return url
