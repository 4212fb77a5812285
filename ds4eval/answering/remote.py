"""Lets an OpenAI-compatible server answer: the suites, grades and records stay the same.

`chat` sends messages and lets the server render them; `completions` sends our own rendering of
the prompt, so that a server with the same file gets the very same tokens. A server's thinking
(`reasoning_content`) is recorded inside think tags, as our engine would have written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ds4eval.answering.pool import OneByOne, SideBySide
from ds4eval.answering.threads import ThreadPool
from ds4eval.documents import Document
from ds4eval.events import Event, Prefill, Text
from ds4eval.plan import Job, ReplySettings
from ds4eval.questions.prompts import messages
from ds4eval.questions.question import Question
from ds4eval.records.answer import Answer
from ds4eval.records.record import EOS, ERROR, LIMIT, SKIPPED, STOPPED
from ds4eval.request import ServerOptions
from engine.errors import BackendError, OptionError
from engine.text import chat, special

if TYPE_CHECKING:
    import httpx

RETRIES = 3
RETRY_S = 2.0
# Answers that another attempt may change.
RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
CLOSE = "</think>"
# llama-cpp-python's server punishes repetition unless it is told not to (default 1.1).
NEUTRAL = {"repeat_penalty": 1.0}


def _require_httpx() -> None:
    """Refuse to go on without the optional package, which each function imports for itself."""
    if importlib.util.find_spec("httpx") is None:
        raise OptionError("--base-url: expected the package 'httpx' (extra 'remote'), found none")


def completion_prompt(question: Question, think: str) -> str:
    """Our rendering of a question as text, without BOS, which servers add.

    Raises
    ------
    OptionError
        If the question holds the text of a control token: a server would take it for one.
    """
    turns = [chat.Message(role, content) for role, content in messages(question)]
    for turn in turns:
        found = next((token for token in special.KNOWN if token in turn.content), None)
        if found is not None:
            raise OptionError(
                f"{question.key}: expected no control tokens for --api completions, found {found!r}"
            )
    spans = chat.render_chat(turns, think, chat.MAX_THINK_CTX)
    return "".join(span.text for span in spans).removeprefix(special.BOS)


def body_of(job: Job, settings: ReplySettings, api: str, model: str) -> Document:
    """The request for one job.

    Options beyond OpenAI's (top_k, min_p) are sent only when they act; the seed is 31 bits of
    the job's own random stream.
    """
    s = settings.sampling
    body: Document = {
        "model": model,
        "max_tokens": settings.budget.tokens,
        "temperature": s.temp,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if s.temp > 0:
        mixed = f"{s.seed}/{job.stream}".encode()
        body["seed"] = int.from_bytes(hashlib.sha256(mixed).digest()[:4], "big") >> 1
        body["top_p"] = s.top_p or 1.0
        body["top_k"] = s.top_k
        body["min_p"] = s.min_p
    if api == "completions":
        body["prompt"] = completion_prompt(job.question, settings.think)
    else:
        body["messages"] = [{"role": r, "content": c} for r, c in messages(job.question)]
        if settings.think != "high":
            # What DeepSeek's, llama.cpp's and vLLM's templates listen to.
            on = settings.think != "none"
            body["chat_template_kwargs"] = {"thinking": on, "enable_thinking": on}
        if settings.think == "max":
            body["reasoning_effort"] = "max"
    return body


class RemoteBackend:
    """Answers jobs through one server; may be used by several threads.

    Parameters
    ----------
    client : httpx.Client
        With the server's base URL.
    settings : ReplySettings
    api : {'chat', 'completions'}
    model : str
    """

    def __init__(self, client: httpx.Client, settings: ReplySettings, api: str, model: str) -> None:
        self.client = client
        self.settings = settings
        self.api = api
        self.model = model
        self._neutral: Document = dict(NEUTRAL)

    def answer(
        self, job: Job, stop: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Answer]:
        """Answer one job; a failure of the server is an answer with stop 'error'."""
        import httpx

        try:
            body = body_of(job, self.settings, self.api, self.model)
        except OptionError as refusal:
            return Answer(SKIPPED, error=str(refusal))
        yield Prefill(job.n, 0, 0, 0.0)
        error = ""
        for attempt in range(RETRIES):
            if attempt:
                # Sooner than the server asks for, but never all at once.
                time.sleep(min(RETRY_S * 2**attempt, 30.0))
            if stop():
                return Answer(STOPPED)
            reply = _Reply(job, self.settings, self.api, {**body, **self._neutral})
            try:
                yield from reply.read(self.client, stop)
                return reply.answer()
            except httpx.HTTPStatusError as problem:
                response = problem.response
                error = f"server: expected status 200, found {response.status_code}"
                error += f": {_said(response)}" if _said(response) else ""
                if response.status_code in (400, 422) and "repeat_penalty" in error:
                    # A strict server knows no such option, so it has no such habit either.
                    self._neutral = {}
                elif response.status_code not in RETRIED:
                    break
            except (httpx.HTTPError, ValueError) as problem:
                error = f"server: expected a reply, found {type(problem).__name__}: {problem}"
        return Answer(ERROR, error=error[:500])


def _said(response: httpx.Response) -> str:
    """What a server's error says, short."""
    try:
        document = json.loads(response.read())
        message = document.get("error", document)
        message = message.get("message", message) if isinstance(message, dict) else message
        return " ".join(str(message).split())[:300]
    except Exception:
        return ""


class _Reply:
    def __init__(self, job: Job, settings: ReplySettings, api: str, body: Document) -> None:
        self.job = job
        self.settings = settings
        self.api = api
        self.body = body
        self.parts: list[str] = []
        # In chat form a server shows its thinking as such; in ours it goes on behind the tag.
        self.opened = api == "completions" and settings.think != "none"
        self.thinking = self.opened
        self.reasoned = False
        self.pieces = 0
        self.stop = EOS
        self.usage: dict[str, Any] = {}
        self.first_s = self.total_s = 0.0

    def read(self, client: httpx.Client, stop: Callable[[], bool]) -> Generator[Event, None, None]:
        path = "completions" if self.api == "completions" else "chat/completions"
        start = time.perf_counter()
        finished = False
        with client.stream("POST", path, json=self.body) as response:
            if response.status_code != 200:
                response.read()
                response.raise_for_status()
                raise ValueError(f"status {response.status_code}")
            for data in _events(response.iter_lines()):
                if stop():
                    self.stop = STOPPED
                    finished = True
                    break
                if isinstance(data.get("usage"), dict):
                    self.usage = data["usage"]
                for choice in data.get("choices") or []:
                    text = self._take(choice)
                    if choice.get("finish_reason"):
                        finished = True
                        self.stop = LIMIT if choice["finish_reason"] == "length" else EOS
                    if text:
                        self.total_s = time.perf_counter() - start
                        if not self.pieces:
                            self.first_s = self.total_s
                        self.pieces += 1
                        limit = self.settings.budget.tokens
                        yield Text(
                            self.job.n, text, self.thinking, 1, self.pieces, limit, limit, 0.0
                        )
        self.total_s = time.perf_counter() - start
        if not finished:
            raise ValueError("the stream ended before the reply did")

    def _take(self, choice: dict[str, Any]) -> str:
        if self.api == "completions":
            text = choice.get("text") or ""
            self.parts.append(text)
            if self.thinking and CLOSE in "".join(self.parts[-16:]):
                self.thinking = False
            return text
        delta = choice.get("delta") or choice.get("message") or {}
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        text = delta.get("content") or ""
        shown = ""
        if reasoning:
            self.reasoned = self.thinking = self.opened = True
            shown += reasoning
        if text:
            if self.thinking and self.reasoned:
                shown += CLOSE
                self.thinking = False
            shown += text
        if shown:
            self.parts.append(shown)
        return shown

    def answer(self) -> Answer:
        output = "".join(self.parts)
        shown = json.dumps({k: self.body.get(k) for k in ("messages", "prompt")}, sort_keys=True)
        opened = self.opened
        made = self.usage.get("completion_tokens")
        details = self.usage.get("completion_tokens_details") or {}
        closed = opened and CLOSE in output
        return Answer(
            self.stop,
            output=output,
            prompt_sha256=hashlib.sha256(shown.encode()).hexdigest(),
            output_sha256=hashlib.sha256(output.encode("utf-8", "replace")).hexdigest(),
            prompt_tokens=self.usage.get("prompt_tokens"),
            gen_tokens=made,
            think_tokens=details.get("reasoning_tokens"),
            limit_tokens=self.settings.budget.tokens,
            opened=opened,
            close="natural" if closed else "none",
            prefill_s=self.first_s,
            decode_s=max(self.total_s - self.first_s, 0.0),
        )


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Objects of a stream of server-sent events.

    Raises
    ------
    ValueError
        If one is no JSON, or reports an error.
    """
    for line in lines:
        if not line.startswith("data:"):
            continue
        text = line[5:].strip()
        if text == "[DONE]":
            return
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, found {text[:80]!r}")
        if data.get("error"):
            raise ValueError(f"the server said {str(data['error'])[:300]}")
        yield data


@dataclass(frozen=True, slots=True)
class ServerAnswerer:
    """A server that answers; see `ds4eval.answering.pool.Answerer`.

    Parameters
    ----------
    server : ServerOptions
    model : str
        As the server calls it; '' where nobody asked the server.
    jobs : int
        Connections.
    think : str
    """

    server: ServerOptions
    model: str
    jobs: int
    think: str
    ctx: int = 0
    longest: int = 0
    memory: str = ""  # a server's is not known

    @property
    def name(self) -> str:
        return f"{self.model or 'the first model'} at {urlsplit(self.server.base_url).hostname}"

    @property
    def identity(self) -> dict[str, object]:
        place = urlsplit(self.server.base_url)
        return {
            "name": self.model,
            "backend": "remote",
            "server": f"{place.scheme}://{place.hostname}:{place.port or ''}{place.path}",
            "api": self.server.api,
        }

    @property
    def notices(self) -> tuple[str, ...]:
        return (f"asking {self.name} ({self.server.api})",)

    def facts(self) -> dict[str, object]:
        """What the manifest says of the server."""
        return self.identity

    @contextlib.contextmanager
    def opened(
        self, settings: ReplySettings, jobs: Sequence[Job]
    ) -> Iterator[OneByOne | SideBySide]:
        """A connection, or a pool of them."""
        with open_client(self.server) as client:
            backend = RemoteBackend(client, settings, self.server.api, self.model)
            if self.jobs > 1:
                yield SideBySide(ThreadPool(backend, self.jobs))
            else:
                yield OneByOne(backend)


def prepare_server(
    server: ServerOptions, jobs: int, settings: ReplySettings, *, ask: bool = True
) -> ServerAnswerer:
    """Ask the server for its first model, unless one is named or `ask` is false.

    Raises
    ------
    OptionError
        If the package httpx is missing.
    BackendError
        If the server cannot be asked.
    """
    _require_httpx()
    model = server.model or ""
    if ask and not model:
        with open_client(server) as client:
            model = first_model(client)
    return ServerAnswerer(server, model, jobs, settings.think)


def open_client(server: ServerOptions) -> httpx.Client:
    """An HTTP client; the key comes from the environment and goes nowhere but to the server."""
    _require_httpx()
    import httpx

    key = os.environ.get(server.key_env, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(
        base_url=server.base_url + "/",
        headers=headers,
        timeout=httpx.Timeout(server.timeout_s, connect=10.0),
        follow_redirects=False,
    )


def first_model(client: httpx.Client) -> str:
    """Name of the first model that a server lists.

    Raises
    ------
    BackendError
        If it cannot be asked.
    """
    import httpx

    try:
        response = client.get("models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise BackendError(
            f"--base-url: expected a list of models at {client.base_url}models, found "
            f"{type(error).__name__}: {error}"
        ) from None
