"""A server on the loopback with a tokenizer, a prefix cache and several ways to count.

Its tokens are pieces of at most four characters, so that what a prompt holds can be counted here
independently of the program under test.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = re.compile(r"\s?[^\s]{1,4}|\s")
BOS = 1  # tokens that the server adds in front of each prompt
BLOCK = 4


def count(text: str) -> int:
    return len(PIECE.findall(text))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: SpeedServer

    def log_message(self, *args):
        pass

    def send(self, status: int, document) -> None:
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        if self.path.endswith("/models"):
            self.send(200, {"data": [{"id": "some-model", "owned_by": "a test"}]})
        elif self.path == "/metrics" and self.server.metrics is not None:
            page = self.server.metrics(self.server)
            self.send_response(200)
            self.send_header("content-type", "text/plain")
            self.end_headers()
            self.wfile.write(page.encode())
        else:
            self.send(404, {"error": "none"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        if self.path == "/tokenize":
            if server.tokenizer == "llama.cpp" and "content" in body:
                return self.send(200, {"tokens": [1] * count(body["content"])})
            if server.tokenizer == "vllm" and "prompt" in body:
                return self.send(200, {"count": count(body["prompt"]) + BOS})
            return self.send(404, {})
        if not self.path.endswith("completions"):
            return self.send(404, {})
        with server.lock:
            server.bodies.append({"path": self.path, "key": self.headers["authorization"], **body})
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        try:
            self.reply(body)
        finally:
            with server.lock:
                server.under_way -= 1

    def reply(self, body) -> None:
        server = self.server
        for name in server.refuses:
            outer, _, inner = name.partition(".")
            if outer in body and (not inner or inner in (body[outer] or {})):
                return self.send(400, {"error": {"message": f"unknown field {inner or outer}"}})
        if server.status != 200:
            return self.send(server.status, {"error": {"message": "no"}})
        prompt = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        n_prompt = count(prompt) + BOS + (3 if "messages" in body else 0)
        n = min(body["max_tokens"], server.most_tokens)
        with server.lock:
            cached = server.cached(prompt)
            server.prompts.append(prompt)
            if n > 1:
                server.served += n - 1
        if server.together is not None and n > 1:
            server.together.wait(timeout=30)  # until so many requests are there
        if server.whole or not body["stream"]:
            used = {"prompt_tokens": n_prompt, "completion_tokens": n}
            answer = {"choices": [{"text": "x", "finish_reason": "length"}]}
            return self.send(200, answer | ({"usage": used} if server.counts != "never" else {}))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        made = 0
        while made < n:
            made = min(made + server.per_event, n)
            self.event(self.choice(body, "word ", None), n_prompt, made, cached, last=False)
            if server.pace.wait(server.pause_s):
                return None
        self.event(self.choice(body, "", "length"), n_prompt, made, cached, last=True)
        self.wfile.write(b"data: [DONE]\n\n")

    def choice(self, body, text, finish):
        content = {"text": text} if "prompt" in body else {"delta": {"content": text}}
        return {"choices": [{"index": 0, "finish_reason": finish, **content}]}

    def event(self, document, n_prompt, made, cached, *, last) -> None:
        server = self.server
        if server.counts == "each" or (server.counts == "end" and last):
            document["usage"] = {"prompt_tokens": n_prompt, "completion_tokens": made}
            if server.tells_cache:
                document["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
        if server.timings:
            accepted = made // 2
            document["timings"] = {
                "prompt_n": n_prompt - cached, "prompt_ms": 12.5, "predicted_n": made,
                "predicted_ms": 2.0 * made, "draft_n": made, "draft_n_accepted": accepted,
            }  # fmt: skip
        self.wfile.write(f"data: {json.dumps(document)}\n\n".encode())
        self.wfile.flush()


class SpeedServer(ThreadingHTTPServer):
    """What it does is set by attributes before it is asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer = "llama.cpp"
        self.counts = "each"  # each, end, whole (in replies at once only), never
        self.per_event = 1
        self.pause_s = 0.001
        self.most_tokens = 10**9
        self.refuses: tuple[str, ...] = ()
        self.status = 200
        self.tells_cache = True
        self.remembers = True
        self.timings = False
        self.whole = False
        self.metrics = None
        self.together: threading.Barrier | None = None
        self.bodies: list[dict] = []
        self.prompts: list[str] = []
        self.served = self.under_way = self.most = 0
        self.lock = threading.Lock()
        self.pace = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def handle_error(self, request, client_address):
        pass

    def cached(self, prompt: str) -> int:
        """Tokens of the longest earlier prompt that this one begins with, in whole blocks."""
        if not self.remembers:
            return 0
        mine, best = PIECE.findall(prompt), 0
        for other in self.prompts:
            theirs = PIECE.findall(other)
            same = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b),
                        min(len(mine), len(theirs)))  # fmt: skip
            best = max(best, same + BOS)
        return best // BLOCK * BLOCK

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def measured(self) -> list[dict]:
        """The requests that are rows: those for a whole window."""
        most = max((body["max_tokens"] for body in self.bodies), default=0)
        return [body for body in self.bodies if body["max_tokens"] == most]

    def close(self) -> None:
        self.pace.set()
        self.shutdown()
        self.thread.join()
        self.server_close()
