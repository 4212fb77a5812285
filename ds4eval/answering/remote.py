"""Prepares an OpenAI-compatible server to answer: the suites, grades and records stay the same.

`chat` sends messages and lets the server render them; `completions` sends our own rendering of
the prompt, so that a server with the same file gets the very same tokens. How a server is spoken
to stands in `ds4eval.answering.server`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ds4eval.answering.effort import Effort, effort_of
from ds4eval.answering.pool import OneByOne, SideBySide
from ds4eval.answering.server.backend import RemoteBackend
from ds4eval.answering.threads import ThreadPool
from ds4eval.documents import Document
from ds4eval.plan import Job, ReplySettings
from ds4eval.request import ServerOptions
from engine.tooling.openai.client import first_model, key_notice, open_client, place_of


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
    effort : Effort
    said : dict
        What the server says of itself and of the model, where it was asked.
    """

    server: ServerOptions
    model: str
    jobs: int
    effort: Effort
    said: Document = field(default_factory=dict)
    ctx: int = 0
    longest: int = 0
    memory: str = ""  # a server's is not known

    @property
    def name(self) -> str:
        return f"{self.model or 'the first model'} at {urlsplit(self.server.base_url).hostname}"

    @property
    def think(self) -> str:
        return self.effort.think

    @property
    def identity(self) -> dict[str, object]:
        found: dict[str, object] = {
            "name": self.model,
            "backend": "remote",
            "server": place_of(self.server),
            "api": self.server.api,
            **self.effort.identity(),
        }
        if self.server.extra_body:
            found["extra_body"] = self.server.extra_body
        return found

    @property
    def notices(self) -> tuple[str, ...]:
        key = key_notice(self.server)
        effort = self.effort.notice(self.server.api)
        return (f"asking {self.name} ({self.server.api})", *effort, *([key] if key else []))

    def facts(self) -> dict[str, object]:
        """What the manifest says of the server."""
        return {**self.identity, **({"said": self.said} if self.said else {})}

    @contextlib.contextmanager
    def opened(
        self, settings: ReplySettings, jobs: Sequence[Job]
    ) -> Iterator[OneByOne | SideBySide]:
        """A connection, or a pool of them."""
        with open_client(self.server, self.jobs) as client:
            backend = RemoteBackend(client, settings, self.server, self.model)
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
    model = server.model or ""
    said: Document = {}
    if ask and not model:
        with open_client(server) as client:
            model, said = first_model(client, server)
    return ServerAnswerer(server, model, jobs, effort_of(settings, model), said)
