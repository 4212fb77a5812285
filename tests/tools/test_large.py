"""Long sweeps are read one record at a time, and rows hold one copy of what they have in common."""

from __future__ import annotations

from ds4bench.records.files import read_rows
from ds4eval.records.replay import read_run
from engine.tooling.results import journal
from tests.counting import lines_run
from tests.tools.large import write_exam, write_sweep


def test_each_line_of_a_journal_is_parsed_once(tmp_path, monkeypatch):
    folder = write_sweep(tmp_path / "a", 200, 20)
    parsed = []
    decode = journal.decode
    monkeypatch.setattr(journal, "decode", lambda line: parsed.append(1) or decode(line))
    assert len(read_rows(folder).rows) == 200
    assert len(parsed) == 202, "header, start and rows"


def test_rows_share_what_they_have_in_common(tmp_path):
    rows = read_rows(write_sweep(tmp_path / "a", 40, 5)).rows
    assert len({id(row.step_tokens) for row in rows}) == 1
    assert len({id(row.mode) for row in rows}) == 2


def test_samples_share_texts_and_questions(tmp_path):
    run = read_run(write_exam(tmp_path / "a", 100))
    assert len({id(s.domain) for s in run.samples}) == len({s.domain for s in run.samples})
    by_id = {}
    for s in run.samples:
        by_id.setdefault((s.source, s.id), set()).add(id(s.question))
    assert all(len(objects) == 1 for objects in by_id.values())


def test_work_grows_with_the_rows_and_no_faster(tmp_path):
    few, many = (write_sweep(tmp_path / str(n), n, 20) for n in (100, 1000))
    read_rows(few)
    assert lines_run(lambda: read_rows(many)) <= 11 * lines_run(lambda: read_rows(few))
