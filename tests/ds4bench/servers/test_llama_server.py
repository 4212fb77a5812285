"""A sweep of llama.cpp's server, held against what the server logs of each request."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.records.files import read_rows
from engine.models.bundled import bundled_model
from engine.tooling import exits

NEEDED = ("llama_cpp", "httpx", "uvicorn", "fastapi", "sse_starlette", "pydantic_settings")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED),
        reason="needs llama-cpp-python[server] and httpx",
    ),
]
LOGGED = re.compile(
    r"prompt eval time =\s+([\d.]+) ms /\s+(\d+) tokens.*?"
    r"\n.*?eval time =\s+([\d.]+) ms /\s+(\d+) runs.*?"
    r"\n.*?total time =\s+([\d.]+) ms /\s+(\d+) tokens"
)


def test_rows_are_what_the_server_logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model",
               bundled_model("base", "q8").path, "--host", "127.0.0.1", "--port", port,
               "--n_ctx", 1024, "--n_threads", 1, "--interrupt_requests", "false",
               "--verbose", "true"]  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen([*map(str, command)], stdout=stream, stderr=stream)
        try:
            import httpx

            for _ in range(240):
                try:
                    httpx.get(f"{url}/models", timeout=1)
                    break
                except httpx.HTTPError:
                    assert server.poll() is None, log.read_text()[-2000:]
                    time.sleep(0.25)
            grid = ["--ctx-start", "128", "--ctx-max", "512", "--step-mul", "2", "-n", "32"]
            line = ["--base-url", url, *grid, "--concurrency", "1,2", "--out", "o"]
            assert CliRunner().invoke(cli.main, line).exit_code == exits.OK
        finally:
            server.terminate()
            server.wait(timeout=30)
    rows = read_rows("o").good
    logged = [tuple(map(float, found)) for found in LOGGED.findall(log.read_text(errors="replace"))]
    # Behind the warm-up: one request of the first row of a context, two of the second.
    of_rows = [n for row in rows for n in [row.ctx_tokens] * row.users]
    assert [int(entry[1]) for entry in logged[-len(of_rows) :]] == of_rows
    assert {int(entry[3]) for entry in logged[-len(of_rows) :]} == {32}
    by_context = {row.ctx_tokens: row for row in rows if row.users == 1}
    alone = [entry for entry, n in zip(logged[-len(of_rows) :], range(len(of_rows))) if n % 3 == 0]
    for row, entry in zip(by_context.values(), alone):
        # The client cannot have waited less than the server worked; the log rounds to 10 us.
        assert row.prefill_s + row.gen_s >= (entry[0] + entry[2]) * 1e-3 - 1e-4
        assert row.gen_tokens == 32 and sum(row.step_tokens) in (0, 32)
