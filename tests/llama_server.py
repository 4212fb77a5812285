"""llama.cpp's OpenAI-compatible server in a process of its own, for the tests that ask it."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDED = ("llama_cpp", "httpx", "uvicorn", "fastapi", "sse_starlette", "pydantic_settings")
MARKS = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED),
        reason="needs llama-cpp-python[server] and httpx",
    ),
]


@contextlib.contextmanager
def llama_server(model: Path, log: Path, *options: object) -> Iterator[str]:
    """Serve a model of 1024 tokens on one thread; yields the address to ask, ends the server."""
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", model, "--host", "127.0.0.1",
               "--port", port, "--n_ctx", 1024, "--n_threads", 1, *options]  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    with log.open("wb") as stream:
        server = subprocess.Popen([*map(str, command)], stdout=stream, stderr=stream)
        try:
            for _ in range(240):
                try:
                    httpx.get(f"{url}/models", timeout=1)
                    break
                except httpx.HTTPError:
                    assert server.poll() is None, log.read_text()[-2000:]
                    time.sleep(0.25)
            yield url
        finally:
            server.terminate()
            server.wait(timeout=30)
