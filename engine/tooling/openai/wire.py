"""Carries one request to a server in a thread of its own, so that its caller never waits blindly.

A server may be silent for minutes. The caller asks every tenth of a second whether the user wants
to stop or the time for this reply is over, and then cuts the connection.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

POLL_S = 0.1
# After its finish reason a reply has only its counts to come.
GRACE_S = 10.0
MOST_BYTES = 1 << 30


class Stopped(Exception):
    """The user wants no more of this reply."""


class TimeIsUp(Exception):
    """The reply is not there in time."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers of an answer; names of headers in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes, or the head, and when they came (`time.perf_counter`)."""

    at: float
    item: Head | bytes


class Exchange:
    """One request and its answer.

    Parameters
    ----------
    client : httpx.Client
        Which keeps no connections: each exchange has one of its own, to be cut at any time.
    path : str
    body : dict
    """

    def __init__(self, client: httpx.Client, path: str, body: Mapping[str, object]) -> None:
        self.start = time.perf_counter()
        self._sent: float | None = None
        self._queue: queue.SimpleQueue[Arrival | Exception | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._streams: list[Any] = []
        self._closed = False
        self._ends_at = float("inf")
        # ASCII, so that any text of a question can be sent.
        content = json.dumps(body, ensure_ascii=True).encode("ascii")
        arguments = (client, path, content)
        threading.Thread(target=self._carry, args=arguments, daemon=True).start()

    def _carry(self, client: httpx.Client, path: str, content: bytes) -> None:
        try:
            with client.stream(
                "POST",
                path,
                content=content,
                headers={"content-type": "application/json"},
                extensions={"trace": self._trace},
            ) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                self._put(Head(response.status_code, response.reason_phrase, headers))
                size = 0
                for data in response.iter_bytes():
                    size += len(data)
                    if self._closed:
                        return
                    if size > MOST_BYTES:
                        raise ValueError(f"expected a reply below {MOST_BYTES} bytes, found more")
                    self._put(data)
            self._queue.put(None)
        except Exception as error:
            self._queue.put(error)

    def _put(self, item: Head | bytes) -> None:
        self._queue.put(Arrival(time.perf_counter(), item))

    @property
    def sent(self) -> float:
        """When the request went out, behind the making of its connection."""
        return self.start if self._sent is None else self._sent

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Remember what httpcore connects, to cut it, and when the request begins."""
        if name.endswith(".send_request_headers.started"):
            self._sent = time.perf_counter()
        if name.endswith((".connect_tcp.complete", ".start_tls.complete")):
            with self._lock:
                self._streams.append(info.get("return_value"))
            if self._closed:
                self.close()

    def arrivals(self, stop: Callable[[], bool], limit_s: float) -> Iterator[Arrival]:
        """What comes, in order, until the answer is over.

        Raises
        ------
        Stopped, TimeIsUp
            When the user, or the limit, ends it.
        httpx.HTTPError
            When the connection fails.
        """
        self._ends_at = min(self._ends_at, self.start + limit_s)
        while True:
            if stop():
                raise Stopped
            try:
                found = self._queue.get(timeout=POLL_S)
            except queue.Empty:
                if time.perf_counter() >= self._ends_at:
                    raise TimeIsUp from None
                continue
            if found is None:
                return
            if isinstance(found, Exception):
                raise found
            if found.at >= self._ends_at:
                raise TimeIsUp
            yield found

    def expect_end(self) -> None:
        """The reply is there; only what belongs to it may still come, and soon."""
        self._ends_at = min(self._ends_at, time.perf_counter() + GRACE_S)

    def close(self) -> None:
        """Cut the connection, whatever goes on in it."""
        self._closed = True
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            with contextlib.suppress(Exception):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
