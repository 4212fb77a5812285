"""Cases of FAULTS.md that no other test shows: odd files and replies, run folders, terminals."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ds4eval.answering.context import Prompt
from ds4eval.answering.local import EngineBackend
from ds4eval.answering.thinking import rank_in_top
from ds4eval.cli import cli
from ds4eval.compare.judge import compare
from ds4eval.compare.pairs import load_arms
from ds4eval.control import Control
from ds4eval.plan import Budget
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.loaders import load_dataset
from ds4eval.records import record as records
from ds4eval.records import store
from ds4eval.records.replay import read_run
from ds4eval.records.store import RunStore
from ds4eval.run.execute import stop_signals
from engine.errors import NonFiniteError, OptionError, StoreError
from engine.sample import Sampler
from engine.tooling.exits import run_program
from engine.tooling.results.journal import Journal
from tests.ds4eval import published
from tests.ds4eval.eval_runs import sample, write_run
from tests.ds4eval.fakes import CONFIG, SETTINGS, jobs
from tests.ds4eval.test_runner import run, samples_of
from tests.engine.models import model_file

ROOT = Path(__file__).resolve().parents[2]


def load_rows(tmp_path, rows):
    return load_dataset(published.write(tmp_path, "f.jsonl", published.jsonl_bytes(rows)))


# Files, schema, rows -----------------------------------------------------------------------------


def test_file_that_fails_while_it_is_read():
    """Root is refused nothing by permissions, but reading this file's beginning is an error."""
    with pytest.raises(DatasetError, match="/proc/self/mem: expected") as caught:
        load_dataset(Path("/proc/self/mem"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows, field", [("aime", "answer"), ("super", "question")])
def test_key_missing_in_one_record(tmp_path, rows, field):
    rows = published.aime_rows() if rows == "aime" else published.super_rows()
    del rows[2][field]
    with pytest.raises(DatasetError, match=f"record 3, field '{field}'"):
        load_rows(tmp_path, rows)


def test_nested_extra_fields_change_nothing(tmp_path):
    rows = published.super_rows()
    plain = load_rows(tmp_path, rows)
    extra = [{**row, "meta": {"a": [1, {"b": None}]}, "tags": [[], {}]} for row in rows]
    assert load_rows(tmp_path, extra).questions == plain.questions


def test_answer_that_is_nan_in_a_parquet_file(tmp_path):
    rows = [{**row, "answer": float(row["answer"])} for row in published.aime_rows()]
    rows[4]["answer"] = float("nan")
    path = published.write(tmp_path, "a.parquet", published.parquet_bytes(rows))
    with pytest.raises(DatasetError, match="record 5, field 'answer'"):
        load_dataset(path)


@pytest.mark.parametrize("answer", ["7.00E+01", "7E1", "12-Jan", "2025-01-03"])
def test_answers_that_a_spreadsheet_rewrote(tmp_path, answer):
    rows = published.aime_rows()
    rows[0]["answer"] = answer
    with pytest.raises(DatasetError, match=r"record 1, field 'answer'.*a whole number"):
        load_rows(tmp_path, rows)
    lines = published.line_rows()
    lines[0]["answer"] = answer
    if answer != "2025-01-03":
        with pytest.raises(DatasetError, match="expected lines such as"):
            load_rows(tmp_path, lines)


def test_ids_that_a_spreadsheet_rounded(tmp_path):
    rows = [{**row, "uuid": "4.60E+31"} for row in published.super_rows()]
    with pytest.raises(DatasetError, match="expected each id once"):
        load_rows(tmp_path, rows)


def test_long_question_is_asked_and_one_beyond_the_context_is_no_obstacle(
    tmp_path, capsys, monkeypatch
):
    """A prompt of 16384 tokens and more is skipped; alone it leaves nothing to ask."""
    small = str(model_file(tmp_path, "micro", "f32"))
    monkeypatch.chdir(tmp_path)

    def dry_run(*texts):
        rows = [
            {"problem": t, "answer": key, "id": str(i)}
            for i, (t, key) in enumerate(zip(texts, published.AIME_KEYS))
        ]
        path = published.write(tmp_path, "q.jsonl", published.jsonl_bytes(rows))
        return run_program(
            cli, "ds4-eval",
            ["-m", small, "--suite", "aime25", "--dataset", f"aime25={path}", "--dry-run"],
        )  # fmt: skip

    long, huge = "Why? \u6f22\u5b57 12 " * 800, "0 ! " * 12_000
    assert len(long) > 8000
    assert dry_run(long, huge) == 0
    assert "2 questions to ask" in capsys.readouterr().out
    assert dry_run(huge) != 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert "context: expected prompts below 16384 tokens, found none" in said


# Replies, sampling, budgets ----------------------------------------------------------------------


def backend(**attributes):
    """A back end without an engine, for what does not reach it."""
    made = object.__new__(EngineBackend)
    values = {
        "ctx": 100, "ctx_max": 100, "settings": SETTINGS, "think": "high",
        "_session": None, "_saved": None, "_prefix": [], "_close": [7], "_cue": [],
        "_clock": time.perf_counter,
    }  # fmt: skip
    for name, value in (values | attributes).items():
        setattr(made, name, value)
    return made


def answer_of(made):
    steps = made.answer(jobs(1)[0])
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_question_beyond_the_context_is_skipped_with_its_length():
    long = Prompt(tuple(range(100)), 0, True)
    answer = answer_of(backend(encode=lambda question: long))
    assert answer.stop == "skipped" and answer.prompt_tokens == 100
    assert answer.error == "prompt: expected below 100 tokens, found 100"


def test_memory_that_runs_out_costs_one_question():
    def begin():
        raise MemoryError

    made = backend(encode=lambda q: Prompt((1, 2), 0, True), begin=begin, _session="half-written")
    answer = answer_of(made)
    assert answer.stop == "error" and answer.error.startswith("memory: expected enough")
    assert made._session is None, "the next question starts on a timeline of its own"


def test_close_tag_in_ordinary_tokens_ends_thinking():
    """A vocabulary without the tag: it arrives in pieces."""
    made = backend(_open_id=None, _close_id=None)
    pieces, tail, states = ["so", "</", "th", "ink", ">"], "", []
    for token, piece in enumerate(pieces):
        tail += piece
        states.append(made.switches(token, tail, True))
    assert states == [True, True, True, True, False]
    assert made.switches(1, "text", False) is False


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temp", [0.0, 1.0])
def test_no_logit_is_finite(bad, temp):
    with pytest.raises(NonFiniteError, match="64 that are not"):
        Sampler(temp).sample(np.full(64, bad, np.float32), 0)


def test_extreme_options_that_are_allowed():
    logits = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    best = int(logits.argmax())
    for sampler in (Sampler(1.0, top_p=1e-9), Sampler(1.0, min_p=1.0), Sampler(1.0, top_k=1)):
        assert [sampler.sample(logits, i) for i in range(50)] == [best] * 50
    # No limit: none named, top-p 0 or 1 (both are off), more candidates than there are tokens.
    free = [Sampler(1.0).sample(logits, i) for i in range(50)]
    assert len(set(free)) > 10
    for options in ({"top_p": 0.0}, {"top_p": 1.0}, {"top_k": 0}, {"top_k": 1024}):
        assert [Sampler(1.0, **options).sample(logits, i) for i in range(50)] == free


@pytest.mark.parametrize("option", ["--repeats", "--limit", "--soft-limit-think-close-rank"])
def test_none_of_something_is_refused(option, capsys):
    assert run_program(cli, "ds4-eval", [option, "0"]) == 2
    assert option in capsys.readouterr().err


def test_soft_rank_beyond_the_vocabulary_is_every_token():
    logits = np.arange(10, dtype=np.float32)
    assert [rank_in_top(logits, t, 10**9) for t in (9, 0)] == [1, 10]
    Budget(rank=10**9).check("high")


# Run folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_asks_to_stop_and_a_second_one_stops(number):
    before = signal.getsignal(number)
    control = Control()
    with stop_signals(control) as signals:
        os.kill(os.getpid(), number)
        assert signals.number == number and control.interrupts()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(1)
    assert signal.getsignal(number) == before


def test_interrupt_inside_a_write_keeps_whole_records(tmp_path, monkeypatch):
    """KeyboardInterrupt between the bytes of a record: the next run drops the torn end."""
    import engine.tooling.results.journal as journal

    run(tmp_path / "whole", jobs(6))
    real, calls = os.write, []

    def write(fd, data):
        calls.append(1)
        if len(calls) == 6:
            real(fd, data[:25])
            raise KeyboardInterrupt
        return real(fd, data)

    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a", jobs(6))
    kept = {s.key for s in read_run(tmp_path / "a").samples}
    assert 0 < len(kept) < 6
    run(tmp_path / "a", jobs(6))
    assert samples_of(tmp_path / "a") == samples_of(tmp_path / "whole")


@pytest.mark.parametrize("folder", ["/proc/ds4-eval", "/sys/kernel/ds4-eval", "/proc/self"])
def test_folder_that_cannot_be_written(folder):
    with pytest.raises((OptionError, StoreError)) as caught:
        RunStore.open(Path(folder), CONFIG)
    assert folder in str(caught.value) and caught.value.exit_code in (2, 5)


def test_damaged_views_are_written_anew(tmp_path):
    """Tables and manifest follow from the journal; nobody trusts what they hold."""
    run(tmp_path, jobs(3))
    with RunStore.open(tmp_path, CONFIG) as opened:
        opened.publish(force=True)
    good = (tmp_path / records.CSV).read_bytes()
    for name in (records.CSV, records.PARQUET):
        (tmp_path / name).write_bytes(b"PAR1 rubbish \xff\0")
    (tmp_path / records.MANIFEST).write_text('{"version": 99, "torn')
    assert len(read_run(tmp_path).samples) == 3 and read_run(tmp_path).manifest == {}
    run(tmp_path, jobs(3))
    with RunStore.open(tmp_path, CONFIG) as opened:
        opened.begin(jobs(3), {})
        opened.publish(force=True)
    assert (tmp_path / records.CSV).read_bytes() == good
    assert json.loads((tmp_path / records.MANIFEST).read_text())["config"] == CONFIG


def test_run_of_a_newer_version_is_not_touched(tmp_path):
    with Journal.open(tmp_path / records.JOURNAL, records.SCHEMA, 2, {"config": CONFIG}):
        pass
    before = (tmp_path / records.JOURNAL).read_bytes()
    for attempt in (lambda: RunStore.open(tmp_path, CONFIG), lambda: read_run(tmp_path)):
        with pytest.raises(StoreError, match="version"):
            attempt()
    assert (tmp_path / records.JOURNAL).read_bytes() == before


def test_changed_model_file_is_refused(tmp_path):
    run(tmp_path, jobs(1))
    with pytest.raises(OptionError, match=r"model\.header_sha256"):
        RunStore.open(tmp_path, {**CONFIG, "model": {"name": "fake", "header_sha256": "other"}})


def test_clock_that_goes_backwards_changes_nothing_but_stamps(tmp_path, monkeypatch):
    run(tmp_path / "whole", jobs(4))
    now = [2e9]

    def gmtime(seconds=None):
        now[0] -= 3600
        return time_gmtime(now[0])

    time_gmtime = time.gmtime
    monkeypatch.setattr(store.time, "gmtime", gmtime)
    run(tmp_path / "a", jobs(2))
    run(tmp_path / "a", jobs(4))
    monkeypatch.undo()
    found = read_run(tmp_path / "a").samples
    assert samples_of(tmp_path / "a") == samples_of(tmp_path / "whole")
    assert [s.n for s in found] == [1, 2, 3, 4]
    assert sorted((s.started for s in found), reverse=True) == [s.started for s in found]
    assert all(s.decode_s >= 0 and s.prefill_s >= 0 for s in found)


# Comparison --------------------------------------------------------------------------------------


def test_tables_that_a_spreadsheet_rewrote_are_no_runs(tmp_path):
    """`compare` reads journals; a table beside one changes nothing and cannot be given instead."""
    samples = [sample("s", i, "pass") for i in range(4)]
    paths = [write_run(tmp_path / name, samples) for name in "ab"]
    before = compare(*load_arms(paths))
    table = paths[1] / records.CSV
    table.write_text("source;id;verdict\n4,60E+31;03-Jan;=1+1\n7;7;fail\n")
    again = compare(*load_arms(paths))
    assert dataclasses.astuple(again.overall) == dataclasses.astuple(before.overall)
    with pytest.raises(StoreError, match="expected a journal"):
        load_arms([paths[0], table])


def test_runs_that_share_some_questions_are_compared_on_those(tmp_path):
    samples = [sample("s", i, "pass") for i in range(6)]
    arms = load_arms(
        [write_run(tmp_path / "a", samples[:4]), write_run(tmp_path / "b", samples[1:])]
    )
    assert [(d.name, d.detail) for d in compare(*arms).unlike] == [
        ("questions", "questions (1 only in a, 2 only in b)")
    ]
    assert compare(*arms, allow=["questions"]).overall.n == 3


def test_answers_written_twice_count_once(tmp_path):
    samples = [sample("s", i, "pass") for i in range(4)]
    twice = [*samples, dataclasses.replace(samples[0], verdict="fail", state="FAILED")]
    [first, second] = load_arms([write_run(tmp_path / "a", samples),
                                 write_run(tmp_path / "b", twice, None, samples)])  # fmt: skip
    line = compare(first, second).overall
    assert (line.n, line.a_only, line.b_only) == (4, 1, 0), "the later one"
