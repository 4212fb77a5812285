"""A sweep of llama.cpp's server, held against what the server logs of each request."""

from __future__ import annotations

import re

from click.testing import CliRunner

from ds4bench import cli
from ds4bench.records.files import read_rows
from engine.models.bundled import bundled_model
from engine.tooling import exits
from tests.llama_server import MARKS, llama_server

pytestmark = MARKS
LOGGED = re.compile(
    r"prompt eval time =\s+([\d.]+) ms /\s+(\d+) tokens.*?"
    r"\n.*?eval time =\s+([\d.]+) ms /\s+(\d+) runs.*?"
    r"\n.*?total time =\s+([\d.]+) ms /\s+(\d+) tokens"
)


def test_rows_are_what_the_server_logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "server.log"
    options = ("--interrupt_requests", "false", "--verbose", "true")
    with llama_server(bundled_model("base", "q8").path, log, *options) as url:
        grid = ["--ctx-start", "128", "--ctx-max", "512", "--step-mul", "2", "-n", "32"]
        line = ["--base-url", url, *grid, "--concurrency", "1,2", "--out", "o"]
        assert CliRunner().invoke(cli.main, line).exit_code == exits.OK
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
