"""Records and run folders: what survives, what is refused, what the derived files hold."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ds4eval.records import record as records
from ds4eval.records.answer import Answer
from ds4eval.records.conditions import difference
from ds4eval.records.record import comparable, sample_from, state_of
from ds4eval.records.replay import Replay, read_run
from ds4eval.records.samples import make_sample, question_of, regraded
from ds4eval.records.store import RunStore
from ds4eval.records.tables import cell, to_csv, to_table
from engine.errors import OptionError, StoreError
from engine.tooling.results.journal import read_journal
from tests.ds4eval import fake_run
from tests.ds4eval.fakes import CONFIG, SETTINGS, FakeBackend, jobs, question
from tests.ds4eval.test_runner import run, samples_of


def sample(output="Answer: 1\n", stop="eos", **changes):
    job = jobs(1)[0]
    job = replace(job, question=question(1, **changes.pop("question", {})))
    answer = Answer(stop, output=output, prompt_tokens=3, gen_tokens=5, **changes)
    return make_sample(job, answer, SETTINGS.sampling, "2026-01-01T00:00:00Z", 1)


@pytest.mark.parametrize(
    ("stop", "verdict", "state"),
    [
        ("eos", "pass", "PASSED"), ("eos", "fail", "FAILED"), ("eos", "none", "INCOMPLETE"),
        ("limit", "none", "TRUNCATED"), ("limit", "pass", "PASSED"), ("stopped", "", "STOPPED"),
        ("skipped", "", "SKIPPED"), ("error", "", "ERROR"),
    ],
)  # fmt: skip
def test_states(stop, verdict, state):
    assert state_of(stop, verdict) == state


def test_sample_survives_the_journal_and_the_question_can_be_rebuilt():
    odd = sample("a\0b\x1b]52;c;x\x07\u202e �\nAnswer: 1\n")
    again = sample_from(json.loads(json.dumps(odd.record())))
    assert again == odd
    assert question_of(again) == question(1)
    assert regraded(again) == odd
    assert odd.state == "PASSED"


def test_unknown_fields_of_a_later_version_are_passed_over_and_missing_ones_refused():
    record = sample().record()
    assert sample_from({**record, "invented": 1}) == sample()
    del record["key"]
    with pytest.raises(StoreError, match="key"):
        sample_from(record)


def test_only_a_final_record_replaces_a_final_one():
    done, stopped = sample(), sample(stop="stopped")
    replay = Replay()
    for one in (stopped, done, stopped):
        replay.take(one.record())
    assert list(replay.samples.values()) == [done]
    other = replace(done, given="2", verdict="fail", state="FAILED")
    replay.take(other.record())
    assert list(replay.samples.values()) == [other]


def test_difference_names_the_first_field_that_differs():
    old = {"a": 1, "b": {"c": 2, "d": [1]}}
    assert difference(old, json.loads(json.dumps(old))) is None
    assert difference(old, {"a": 1, "b": {"c": 2, "d": [2]}}) == ("b.d", [1], [2])
    assert difference(old, {"a": 1, "b": {"c": 2, "d": [1], "e": 5}}) == ("b.e", None, 5)


def test_changed_configuration_is_refused_with_its_field_and_nothing_changes(tmp_path):
    run(tmp_path, jobs(3))
    before = (tmp_path / records.JOURNAL).read_bytes()
    changed = {**CONFIG, "budget": {"tokens": 10}}
    with pytest.raises(OptionError, match=r"budget\.tokens 9, found 10"):
        RunStore.open(tmp_path, changed)
    assert (tmp_path / records.JOURNAL).read_bytes() == before


def test_force_starts_over_and_keeps_the_old_run(tmp_path):
    run(tmp_path, jobs(3))
    before = (tmp_path / records.JOURNAL).read_bytes()
    with RunStore.open(tmp_path, {**CONFIG, "budget": {"tokens": 10}}, force=True) as store:
        assert not store.samples
    old = list(tmp_path.glob(f"{records.JOURNAL}.old-*"))
    assert [path.read_bytes() for path in old] == [before]


def test_second_process_is_turned_away_with_the_owner_named(tmp_path):
    with (
        RunStore.open(tmp_path, CONFIG),
        pytest.raises(StoreError, match=f"pid {os.getpid()}"),
    ):
        RunStore.open(tmp_path, CONFIG)
    RunStore.open(tmp_path, CONFIG).close()


def test_journal_of_another_program_is_not_touched(tmp_path):
    path = tmp_path / records.JOURNAL
    path.write_text("not ours\n")
    with pytest.raises(StoreError):
        RunStore.open(tmp_path, CONFIG)
    assert path.read_text() == "not ours\n"


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(OptionError, match="--out"):
        RunStore.open(tmp_path / "x", CONFIG)


def test_tables_hold_every_record_and_no_text_of_question_or_reply(tmp_path):
    secret = "zebra-crossing"
    fields = {"text": f"{secret} what?", "title": secret, "strata": (("a", "b"),)}
    one = sample(f"{secret}\nAnswer: 1\n", question=fields)
    rows = list(csv.DictReader(io.StringIO(to_csv([one]).decode())))
    assert rows[0]["given"] == "1" and rows[0]["strata"] == '{"a": "b"}'
    pq.write_table(to_table([one], {"x": 1}), tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column("gen_tokens").to_pylist() == [5]
    assert json.loads(table.schema.metadata[b"ds4eval"]) == {"x": 1}
    assert table.column("stream").to_pylist() == [one.stream], "64 bits, unsigned"
    assert secret not in to_csv([one]).decode()
    assert secret not in str(table.to_pydict())


def test_manifest_and_tables_of_a_run_name_no_question_text(tmp_path):
    run(tmp_path, jobs(3))
    for name in (records.MANIFEST, records.CSV):
        assert "What is" not in (tmp_path / name).read_text()
    assert "What is" in (tmp_path / records.JOURNAL).read_text()
    assert read_run(tmp_path).manifest["config"] == CONFIG


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param("=1+1", "'=1+1", id="formula"),
        pytest.param("@SUM(A1)", "'@SUM(A1)", id="at"),
        pytest.param("-5", "-5", id="a negative number is one"),
        pytest.param("-cmd", "'-cmd", id="minus and text"),
        pytest.param("a\r\nb\0", "a  b", id="one line"),
        pytest.param(None, "", id="unknown is empty"),
        pytest.param(0.1, "0.1", id="floats in full"),
    ],
)
def test_csv_cells_are_no_formulas(value, shown):
    assert cell(value) == shown


def test_question_that_is_an_integer_as_formula_stays_what_it_is():
    row = to_csv([sample("Answer: -5\n")]).decode().splitlines()[1]
    assert '"-5"' in row


def test_torn_end_is_moved_aside_and_the_question_asked_again(tmp_path):
    run(tmp_path / "a", jobs(5))
    whole = samples_of(tmp_path / "a")
    path = tmp_path / "a" / records.JOURNAL
    path.write_bytes(path.read_bytes()[:-30])
    assert read_run(tmp_path / "a").dropped_bytes > 0
    backend = FakeBackend()
    run(tmp_path / "a", jobs(5), backend)
    assert backend.asked == ["q005"]
    assert samples_of(tmp_path / "a") == whole
    assert list((tmp_path / "a").glob("*.bad-*"))


def test_full_disk_leaves_whole_records_and_the_run_goes_on_later(tmp_path):
    run(tmp_path / "whole", jobs(30))
    size = (tmp_path / "whole" / records.JOURNAL).stat().st_size
    child = subprocess.run(
        [sys.executable, fake_run.__file__, tmp_path / "a", "30"],
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode != 0 and "StoreError" in child.stderr
    acked = child.stdout.split()[1:]
    kept = read_run(tmp_path / "a")
    assert kept.dropped_bytes == 0 and 0 < len(acked) < 30
    assert [s.key for s in kept.samples] == acked
    run(tmp_path / "a", jobs(30))
    assert samples_of(tmp_path / "a") == samples_of(tmp_path / "whole")


def _kill_and_resume(tmp_path: Path, kills: int, n: int) -> None:
    """SIGKILL at random times on one folder; every acknowledged record stays, none comes twice."""
    rng = random.Random(kills)
    run(tmp_path / "whole", jobs(n))
    folder = tmp_path / "a"
    # A server that has imported everything forks each child in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([fake_run.__name__, "pyarrow.parquet"])
    acked: list[str] = []
    done = midway = 0
    while done < kills:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=fake_run.child, args=(str(folder), n, theirs))
        child.start()
        theirs.close()
        assert ours.recv() == "begun"
        # Mostly soon after the start, sometimes late: publishing must not starve the run.
        time.sleep(min(rng.expovariate(1 / 0.02), 0.5))
        child.kill()
        done += 1
        with contextlib.suppress(EOFError):
            while True:
                acked.append(ours.recv())
        child.join(30)
        ours.close()
        child.close()
        if "end" in acked:
            # Finished: the next kills meet a folder of its own.
            acked.remove("end")
            _check(folder, acked, final=True)
            shutil.rmtree(folder)
            acked.clear()
        else:
            midway += 1
            _check(folder, acked, final=False)
    assert midway > kills // 2, "most kills must meet a run at work"
    run(folder, jobs(n))
    assert samples_of(folder) == samples_of(tmp_path / "whole")


def _check(folder: Path, acked: list[str], final: bool) -> None:
    assert len(set(acked)) == len(acked), "a final question was asked twice"
    if not (folder / records.JOURNAL).exists() or not (folder / records.JOURNAL).stat().st_size:
        assert not acked
        return
    contents = read_journal(folder / records.JOURNAL, records.SCHEMA, 1)
    keys = [r["key"] for r in contents.records if r["type"] == "sample"]
    assert len(set(keys)) == len(keys), "nothing doubled"
    assert keys[: len(acked)] == acked or set(acked) <= set(keys), "nothing lost"
    for name in (records.CSV, records.PARQUET):
        path = folder / name
        if path.exists():
            rows = pq.read_table(path).num_rows if name == records.PARQUET else None
            lines = path.read_text().count("\n") - 1 if name == records.CSV else rows
            assert lines <= len(keys), "a table is whole or absent"


def test_forty_kills_lose_nothing_and_double_nothing(tmp_path):
    _kill_and_resume(tmp_path, 40, 60)


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_and_double_nothing(tmp_path):
    _kill_and_resume(tmp_path, 100, 200)


def test_regrade_record_changes_grades_and_nothing_else(tmp_path):
    run(tmp_path, jobs(4))
    with RunStore.open(tmp_path, CONFIG) as store:
        old = store.ordered()[1]
        store.add_grade(replace(old, verdict="none", given="?", state="INCOMPLETE", output="x"))
    new = read_run(tmp_path).samples[1]
    assert (new.verdict, new.state, new.output) == ("none", "INCOMPLETE", old.output)
    changed = {k for k, v in comparable(new).items() if v != comparable(old)[k]}
    assert changed <= {"verdict", "given", "state"}
