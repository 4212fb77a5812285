"""Sweeps of a server from the command line to every kind of file, and servers that are odd."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

pytest.importorskip("httpx")

from ds4bench import cli
from ds4bench.records.files import read_rows
from ds4bench.records.rows import Telemetry
from ds4bench.report.page import circumstances, rows_table
from ds4bench.server import ask, measure
from ds4bench.server.awake import Awake
from engine.tooling import exits
from engine.tooling.results.journal import read_journal
from tests.ds4bench.servers.speed_server import BOS, SpeedServer, count

GRID = ("--ctx-start", "64", "--ctx-max", "128", "--step-incr", "64", "-n", "20")


@pytest.fixture
def server():
    one = SpeedServer()
    yield one
    one.close()


@pytest.fixture
def sweep(server, tmp_path, monkeypatch):
    """Runs a sweep of the server into a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ask, "FIRST_WAIT_S", 0.01)
    # A busy machine reads several events at once; what is held back, one test shows.
    monkeypatch.setattr(measure, "LEAST_PIECES", 1)
    monkeypatch.setattr(measure, "FIRST_READ_PART", 1.0)
    # What the client's machine is takes most of a second to find out.
    monkeypatch.setattr("ds4bench.server.run.environment", lambda: {"cpu": {"name": "Fake"}})

    def run(*arguments, out="o"):
        files = ["--out", out] if out else []
        line = ["--base-url", server.url, *GRID, *files, *arguments]
        result = CliRunner().invoke(cli.main, line)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    run.folder = tmp_path
    return run


def test_prompts_have_exactly_the_tokens_that_the_server_counts(sweep, server):
    assert sweep().exit_code == exits.OK
    # The server's own count, made here, of the prompts of the rows.
    assert [count(b["prompt"]) + BOS for b in server.measured[-2:]] == [64, 128]
    assert len({b["prompt"][:20] for b in server.measured}) == len(server.measured)


@pytest.mark.parametrize("tokenizer", ["llama.cpp", "vllm", None])
def test_lengths_are_found_with_any_tokenizer_and_without_one(sweep, server, tokenizer):
    server.tokenizer = tokenizer
    assert sweep().exit_code == exits.OK
    assert [count(b["prompt"]) + BOS for b in server.measured[-2:]] == [64, 128]
    by = read_rows(sweep.folder / "o").environment["server"]["counted_by"]
    assert {"llama.cpp": "llama.cpp", "vllm": "vLLM", None: "usage"}[tokenizer] in by


def test_a_chat_is_as_long_as_its_template_makes_it(sweep, server):
    assert sweep("--api", "chat").exit_code == exits.OK
    bodies = server.measured[-2:]
    lengths = [count(b["messages"][0]["content"]) + BOS + 3 for b in bodies]
    assert lengths == [64, 128] and bodies[0]["path"].endswith("/chat/completions")


@pytest.mark.parametrize(("counts", "per_event"), [("each", 1), ("each", 3), ("end", 1)])
def test_rates_are_of_the_stream_and_tokens_of_usage(sweep, server, counts, per_event):
    server.counts, server.per_event = counts, per_event
    assert sweep().exit_code == exits.OK
    for row in read_rows(sweep.folder / "o").good:
        # The first event brings `per_event` tokens, which are no part of the decode window.
        assert row.gen_tokens == 21 - per_event == sum(row.step_tokens)
        assert set(row.step_tokens) == {per_event}
        assert row.gen_s == pytest.approx(sum(row.step_s), rel=1e-9)
        assert row.ttft_s == (row.prefill_s,)
        latencies = np.repeat(np.array(row.step_s[1:]) / per_event, per_event)
        assert row.itl_s(90) == pytest.approx(np.percentile(latencies, 90))


def test_a_stream_without_usage_is_counted_by_its_limit(sweep, server):
    """As llama-cpp-python streams chats: replies at once have usage, streams have none."""
    server.counts = "whole"
    assert sweep("--api", "chat").exit_code == exits.OK
    rows = read_rows(sweep.folder / "o").good
    assert [row.gen_tokens for row in rows] == [20, 20]
    lengths = [count(b["messages"][0]["content"]) + BOS + 3 for b in server.measured[-2:]]
    assert lengths == [64, 128]


def test_several_tokens_in_an_event_without_counts_leave_latencies_unknown(sweep, server):
    server.counts, server.per_event = "end", 3
    assert sweep().exit_code == exits.OK
    for row in read_rows(sweep.folder / "o").good:
        assert row.step_tokens == () and row.itl_s(50) is None and row.steady_tps is None
        # A busy machine may read all events at once: no time between them, and then no rate.
        assert len(row.step_s) == 6 and (row.gen_tps is None) == (row.gen_s == 0)


def test_users_side_by_side_have_rows_of_their_own(sweep, server):
    server.together = None
    assert sweep("--concurrency", "1,3", "--ctx-max", "64").exit_code == exits.OK
    one, three = read_rows(sweep.folder / "o").good
    assert (one.users, three.users) == (1, 3) and three.series == "server cold x3"
    assert len(three.ttft_s) == len(three.user_gen_s) == 3 and three.gen_tokens == 60
    assert three.prefill_s >= max(three.ttft_s) - 1e-9 and three.gen_s >= max(three.user_gen_s)
    rates = np.array(three.user_tokens) / np.array(three.user_gen_s)
    assert three.user_tps == pytest.approx(np.median(rates))
    assert three.prefill_tps == pytest.approx(3 * 64 / three.prefill_s)
    assert three.ttft(99) == pytest.approx(np.percentile(three.ttft_s, 99))


def test_requests_of_users_are_under_way_together(sweep, server, monkeypatch):
    """The server answers nobody before all are there; one after the other would wait for ever."""
    monkeypatch.setattr("ds4bench.server.measure.Meter.warm_up",
                        lambda self: self.server.ask([self.salt() + "word"], 1)[0])  # fmt: skip
    server.together = threading.Barrier(4)
    assert sweep("--concurrency", "4", "--ctx-max", "64").exit_code == exits.OK
    assert server.most == 4


def test_cold_prompts_are_new_and_warm_ones_are_known(sweep, server):
    assert sweep("--cache", "both").exit_code == exits.OK
    rows = {(r.prefix, r.ctx_tokens): r for r in read_rows(sweep.folder / "o").good}
    assert rows["cold", 128].prefill_tokens == 128 and rows["cold", 128].cached_tokens < 16
    assert rows["warm", 128].prefill_tokens == 64
    assert rows["warm", 128].cached_tokens == 64  # the whole of the shorter prompt


def test_a_cache_that_does_otherwise_is_no_good_row(sweep, server):
    server.remembers = False
    assert sweep("--cache", "warm").exit_code == exits.PARTIAL
    rows = read_rows(sweep.folder / "o").rows
    assert [row.status for row in rows] == ["ok", "cache"]
    assert "expected 64 prompt tokens in its cache, found 0" in rows[1].message
    assert rows[1].gen_s is not None, "what was measured is kept"


def test_a_server_that_says_nothing_of_its_cache_is_believed(sweep, server):
    server.tells_cache = False
    assert sweep("--cache", "warm").exit_code == exits.OK
    run = read_rows(sweep.folder / "o")
    assert [row.cached_tokens for row in run.good] == [None, None]
    assert any("prefix cache" in text for text in run.environment["limits"])


def test_acceptance_and_times_of_the_server_stand_in_its_rows(sweep, server):
    server.timings = True
    assert sweep().exit_code == exits.OK
    for row in read_rows(sweep.folder / "o").good:
        assert (row.drafted, row.accepted) == (21, 10) and row.acceptance == pytest.approx(10 / 21)
        assert row.steps == row.gen_tokens - 10
        assert row.server_prefill_s == (0.0125,) and row.server_gen_tokens == (21,)
        assert row.server_gen_s == (pytest.approx(0.042),)


def test_counters_of_vllm_give_acceptance_by_position(sweep, server):
    def page(one):
        return (
            "# HELP vllm:spec_decode_num_drafts_total Drafts.\n"
            f'vllm:spec_decode_num_drafts_total{{model_name="m"}} {10 + one.served}.0\n'
            f'vllm:spec_decode_num_draft_tokens_total{{model_name="m"}} {2 * one.served}.0\n'
            f'vllm:spec_decode_num_accepted_tokens_total{{model_name="m"}} {one.served}.0\n'
            f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="0"}} {one.served}.0\n'
            'vllm:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 0.0\n'
        )

    server.metrics = page
    assert sweep().exit_code == exits.OK
    for row in read_rows(sweep.folder / "o").good:
        assert (row.steps, row.drafted, row.accepted) == (20, 40, 20)
        assert row.drafted_by_depth == (20, 20) and row.accepted_by_depth[0] == 20


@pytest.mark.parametrize(
    "refuses",
    [("ignore_eos",), ("stream_options.continuous_usage_stats", "timings_per_token"),
     ("repeat_penalty", "ignore_eos")],
)  # fmt: skip
def test_fields_that_a_server_refuses_are_left_out_and_recorded(sweep, server, refuses):
    server.refuses = refuses
    result = sweep()
    assert result.exit_code == exits.OK
    changed = read_rows(sweep.folder / "o").environment["server"]["fields_changed"]
    assert {note.split()[0] for note in changed} == set(refuses)
    assert result.stderr.count("the server refused") == len(refuses)


def test_a_reply_that_ends_early_is_said_or_is_no_good_row(sweep, server):
    server.most_tokens = 15
    assert sweep().exit_code == exits.OK
    assert {row.message for row in read_rows(sweep.folder / "o").good} == {
        "a reply ended after 15 of 21 tokens"
    }
    server.most_tokens = 5
    assert sweep(out="p").exit_code == exits.PARTIAL
    assert {row.status for row in read_rows(sweep.folder / "p").rows} == {"short"}


ODD = {
    "a reply at once": ({"whole": True}, "expected a stream of tokens, found a reply at once"),
    "no counts at all": (
        {"counts": "never", "tokenizer": None},
        "expected usage.prompt_tokens or a /tokenize, found neither",
    ),
    "held back": ({"per_event": 12, "counts": "each"}, "pieces (a proxy that holds streams back?)"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_says_nothing_of_speed_is_no_good_row(sweep, server, name, monkeypatch):
    monkeypatch.setattr(measure, "LEAST_PIECES", 3)
    given, words = ODD[name]
    for attribute, value in given.items():
        setattr(server, attribute, value)
    result = sweep()
    assert result.exit_code == exits.PARTIAL
    assert words in result.stderr


def test_a_row_in_which_this_machine_stood_still_is_no_good_row(sweep, server, monkeypatch):
    """A paused client saw 378 s of prefill where 20 were usual, and the row was "ok"."""
    paused = Telemetry(stopped_s=350.0)
    monkeypatch.setattr("ds4bench.server.awake.Awake.state", lambda self: paused)
    assert sweep().exit_code == exits.PARTIAL
    rows = read_rows(sweep.folder / "o").rows
    assert {row.status for row in rows} == {"stalled"}
    assert "stood still for 350.0 s" in rows[0].message and rows[0].telemetry.stopped_s == 350.0


def test_time_in_which_nothing_beat_is_noticed_and_a_usual_wait_is_not():
    times = iter([0.0, 0.25, 0.5, 40.5, 40.75])
    last = [0.0]

    def clock():
        last[0] = next(times, last[0])
        return last[0]

    watch = Awake(clock, beat_s=0.001)
    with watch:
        until = time.monotonic() + 10
        while last[0] < 40.75 and time.monotonic() < until:
            time.sleep(0.002)
    assert watch.state().stopped_s == 40.0
    with Awake(beat_s=0.001) as awake:
        time.sleep(0.01)
    assert awake.state() == Telemetry()


def test_a_server_that_refuses_everything_is_refused_before_a_row(sweep, server):
    server.status = 401
    result = sweep()
    assert result.exit_code == exits.ERROR
    assert "--base-url: server: expected status 200, found 401" in result.stderr


def test_a_busy_server_is_asked_again(sweep, server):
    server.status = 503
    threading.Timer(0.005, lambda: setattr(server, "status", 200)).start()
    result = sweep()
    assert result.exit_code == exits.OK


def test_every_file_holds_the_rows_and_a_sweep_goes_on(sweep, server):
    assert sweep("--concurrency", "1,2", "--cache", "both").exit_code == exits.OK
    table = pd.read_csv(sweep.folder / "o" / "sweep.csv", keep_default_na=False)
    assert sorted(table.users) == [1] * 4 + [2] * 4
    assert set(table.prefix) == {"cold", "warm"} and set(table["mode"]) == {"server"}
    parquet = read_rows(sweep.folder / "o" / "sweep.parquet")
    assert [r.ttft_s for r in parquet.rows] == [
        r.ttft_s for r in read_rows(sweep.folder / "o").rows
    ]
    back = read_rows(sweep.folder / "o" / "sweep.csv")
    assert {r.series for r in back.rows} == {r.series for r in parquet.rows}
    asked = len(server.bodies)
    again = sweep("--concurrency", "1,2", "--cache", "both", "--resume")
    assert again.exit_code == exits.OK and "every row is there already" in again.stderr
    assert len(server.bodies) == asked
    other = sweep("--concurrency", "1,2", "--cache", "both", "--resume", "--temp", "1")
    assert other.exit_code == exits.USAGE and "sampling" in other.stderr


def test_rows_of_a_server_are_drawn_compared_and_reported(sweep, server):
    for out in ("o", "p"):
        extra = ("--plot", "own.svg") if out == "o" else ()
        assert sweep("--concurrency", "1,2", *extra, out=out).exit_code == exits.OK
    drawn = CliRunner().invoke(cli.main, ["plot", "o", "p", "-o", "both.svg"])
    assert drawn.exit_code == exits.OK, drawn.output
    assert (sweep.folder / "own.svg").stat().st_size > 1000
    compared = CliRunner().invoke(cli.main, ["compare", "o", "p", "--json", "v.json"])
    assert "server cold x2" in compared.output
    names = {row.cells[0] for row in rows_table(read_rows(sweep.folder / "o")).rows}
    assert names == {"server cold", "server cold x2"}
    told = dict(circumstances(read_rows(sweep.folder / "o")))
    assert told["Model"] == "some-model" and told["Server"].startswith("http://127.0.0.1:")
    assert told["Client's processor"] == "Fake" and "Processor" not in told


def test_two_servers_are_unlike_unless_that_is_allowed(sweep, server):
    assert sweep().exit_code == exits.OK
    second = SpeedServer()
    try:
        line = ["--base-url", second.url, *GRID, "--out", "q"]
        assert CliRunner().invoke(cli.main, line).exit_code == exits.OK
    finally:
        second.close()
    refused = CliRunner().invoke(cli.main, ["compare", "o", "q"])
    assert refused.exit_code == exits.INCOMPARABLE and "server" in refused.output
    allowed = CliRunner().invoke(cli.main, ["compare", "o", "q", "--allow", "server"])
    assert "server cold" in allowed.output and allowed.exit_code != exits.INCOMPARABLE


def test_the_key_is_sent_and_stored_nowhere(sweep, server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    assert sweep("--api-key-env", "MY_KEY", "--extra-body", '{"user": "me"}').exit_code == 0
    assert {b["key"] for b in server.bodies} == {"Bearer sk-very-secret"}
    assert {b["user"] for b in server.bodies} == {"me"}
    for path in (sweep.folder / "o").iterdir():
        assert b"sk-very-secret" not in path.read_bytes()


def test_a_prompt_set_gives_rows_of_each_kind(sweep, server):
    assert sweep("--prompt-set", "panel", "--ctx-max", "64").exit_code == exits.OK
    run = read_rows(sweep.folder / "o")
    assert len({row.text_class for row in run.good}) == 8
    assert {count(b["prompt"]) + BOS for b in server.measured[-8:]} == {64}


def test_the_way_a_server_decodes_may_be_named(sweep, server):
    assert sweep("--mode", "plain", "--api-model", "another").exit_code == exits.OK
    assert {row.mode for row in read_rows(sweep.folder / "o").good} == {"plain"}
    assert {b["model"] for b in server.bodies} == {"another"}


def test_without_files_rows_go_to_standard_output(sweep):
    result = sweep(out=None)
    assert result.exit_code == exits.OK
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ctx_tokens,") and len(lines) == 3


def test_a_dry_run_asks_nobody(sweep, server):
    result = sweep("--dry-run", "--concurrency", "1,2", out=None)
    assert result.exit_code == exits.OK and not server.bodies
    assert "4 rows of 20 tokens" in result.stdout


def test_the_journal_says_what_the_method_does_not_know(sweep):
    assert sweep().exit_code == exits.OK
    records = read_journal(sweep.folder / "o" / "rows.jsonl", "ds4bench.sweep", 1).records
    [start] = [r for r in records if r["kind"] == "start"]
    assert len(start["environment"]["limits"]) == 4
    assert start["environment"]["server"]["owned_by"] == "a test"
    assert start["environment"]["server"]["rtt_s"] > 0
    json.dumps(start, allow_nan=False)


REFUSED = {
    "--base-url ftp://h/v1": "expected http:// or https://",
    "--base-url http://me:pw@127.0.0.1:9/v1": "without a user's name or password",
    "--base-url http://127.0.0.1:9/v1 -m m.gguf": "--model: expected without --base-url",
    "--base-url http://127.0.0.1:9/v1 --cuda": "--backend: expected without --base-url",
    "--base-url http://127.0.0.1:9/v1 --mode all": "--mode: expected one mode of the server",
    "--base-url http://127.0.0.1:9/v1 --concurrency 0": "--concurrency: expected numbers",
    "--base-url http://127.0.0.1:9/v1 --concurrency 2,2": "expected each number once",
    "--base-url http://127.0.0.1:9/v1 --extra-body 3": "--extra-body: expected a JSON object",
    '--base-url http://127.0.0.1:9/v1 --extra-body {"stream":false}': "found 'stream'",
    "--concurrency 2": "--concurrency: expected with --base-url",
    "--cache warm": "--cache: expected with --base-url",
    "--prompt-set panel --prompt-file p.txt": "--prompt-set: expected without --prompt-file",
}


@pytest.mark.parametrize("line", REFUSED)
def test_options_that_contradict_each_other_are_refused(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.main, line.split())
    assert result.exit_code == exits.USAGE, result.output
    assert REFUSED[line] in result.stderr
    assert "pw" not in result.stderr
