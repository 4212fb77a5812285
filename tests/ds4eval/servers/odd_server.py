"""A server on the loopback that answers each request with the next step of a script."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ds4eval.answering.server.backend import RemoteBackend
from ds4eval.events import Notice, Text
from ds4eval.plan import Budget, ReplySettings, Sampling
from ds4eval.request import ServerOptions
from engine.tooling.openai.client import open_client
from tests.ds4eval.fakes import jobs

GREEDY = ReplySettings(sampling=Sampling(temp=0.0), budget=Budget(tokens=50))
DONE = "data: [DONE]"


def delta(reason=None, **content):
    return {"choices": [{"index": 0, "delta": content, "finish_reason": reason}]}


def usage(**counts):
    return {"choices": [], "usage": counts}


GOOD = [delta("stop", content="Answer: 1"), DONE]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: OddServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.got.append(dict(self.headers))
        status, document = self.server.models
        self.send(status, json.dumps(document).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append({"path": self.path, **body})
            self.server.headers.append(dict(self.headers))
            server = self.server
            step = server.rule(body) if server.rule else server.script.pop(0)
            server.open += 1
            server.most = max(server.most, server.open)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.play(step)
        with self.server.lock:
            self.server.open -= 1

    def play(self, step):
        """A step is a function of the handler, a status, (status, message[, headers]) or events."""
        if callable(step):
            step(self)
        elif isinstance(step, int):
            self.play((step, "no\nmore"))
        elif isinstance(step, tuple):
            status, message, *rest = step
            headers = rest[0] if rest else {}
            document = message if isinstance(message, dict) else {"error": {"message": message}}
            self.send(status, json.dumps(document).encode(), **headers)
        else:
            self.send(200, events(*step))

    def send(self, status, data, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self):
        """Headers of a stream; what is written next goes out at once."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.flush()

    def until_gone(self, data=b""):
        """Keep the connection, writing `data` ten times a second, until the client or the test
        leaves."""
        while not self.server.over.wait(0.05):
            self.connection.settimeout(0.05)
            try:
                if self.connection.recv(1) == b"":
                    return self.server.gone.set()
            except TimeoutError:
                pass
            except OSError:
                return self.server.gone.set()
            if data:
                self.wfile.write(data)


def events(*steps) -> bytes:
    lines = [s if isinstance(s, str) else f"data: {json.dumps(s)}" for s in steps]
    return "".join(f"{line}\n\n" for line in lines).encode("utf-8", "surrogatepass")


class OddServer(ThreadingHTTPServer):
    """`rule`, where set, is asked for the step in place of the script."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list = []
        self.rule: Callable[[dict], object] | None = None
        self.models: tuple[int, object] = (200, {"data": [{"id": "some-model"}]})
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.got: list[dict] = []
        self.lock = threading.Lock()
        self.open = self.most = 0
        self.over = threading.Event()
        self.gone = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def handle_error(self, request, client_address):
        pass  # clients leave in the middle of replies; that is what is tested

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def options(self, **changes) -> ServerOptions:
        given = {"api": "chat", "key_env": "KEY_HERE", "reply_timeout_s": 30.0, "max_retries": 2}
        return ServerOptions(self.url, **{**given, **changes})

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.thread.join()
        self.server_close()


class Asked:
    """What came of asking one question."""

    def __init__(self, answer, events_) -> None:
        self.answer = answer
        self.texts = [event.text for event in events_ if isinstance(event, Text)]
        self.notices = [event.line for event in events_ if isinstance(event, Notice)]
        self.events = events_


class Client:
    """A back end that notes its waits in place of waiting."""

    def __init__(self, server, settings=GREEDY, n=1, **options) -> None:
        self.server = server
        options = server.options(**options)
        self.http = open_client(options, n)
        self.backend = RemoteBackend(self.http, settings, options, "m")
        self.waits: list[float] = []
        self.backend.pause = lambda seconds, stop: self.waits.append(seconds)

    def ask(self, *script, job=None, stop=lambda: False) -> Asked:
        self.server.script += script
        answering = self.backend.answer(job or jobs(1)[0], stop)
        seen = []
        while True:
            try:
                seen.append(next(answering))
            except StopIteration as end:
                return Asked(end.value, seen)
