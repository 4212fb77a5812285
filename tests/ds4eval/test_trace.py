"""Traces: written in the C program's format, read back whatever a reply contains, imported."""

from __future__ import annotations

import re

import pytest

from ds4eval.exchange.import_trace import question_from, samples_from
from ds4eval.exchange.trace import TraceWriter, latest_cases, read_trace
from ds4eval.plan import ReplySettings
from engine.errors import OptionError
from engine.tooling.exits import run_program
from tests.ds4eval.fakes import SETTINGS, FakeBackend, jobs
from tests.ds4eval.test_runner import run

RULER = "===== CASE 1/1 fake/integer/q002 =====\nstatus: PASSED\nMODEL_OUTPUT_BEGIN bytes=4\n"


def written(tmp_path, todo, script=None):
    path = tmp_path / "trace.txt"
    writer = TraceWriter(path, SETTINGS, "high")
    writer.header("m.gguf", "cpu", 200, 100, len(todo))
    run(tmp_path / "run", todo, FakeBackend(script or {}), trace=writer)
    writer.summary(1, 2, len(todo))
    writer.close()
    return path


def test_header_and_case_have_upstreams_lines_in_upstreams_order(tmp_path):
    text = written(tmp_path, jobs(3), {"q003": "x</think>\nAnswer: B"}).read_text()
    keys = re.findall(r"(?m)^([a-z_]+):", text.split("=====")[0])
    assert keys == [
        "started_unix", "model", "backend", "ctx", "max_tokens", "max_prompt_tokens", "questions",
        "temperature", "top_p", "min_p", "seed", "think_mode_requested",
        "soft_limit_reply_budget", "hard_limit_reply_budget", "soft_limit_think_close_rank",
    ]  # fmt: skip
    case = text.split("===== CASE ")[3]
    assert case.startswith("3/3 fake/letter/q003 =====\n")
    keys = re.findall(r"(?m)^([a-z_]+):", case.split("SYSTEM_PROMPT_BEGIN")[0])
    assert keys == [
        "timestamp_unix", "source", "id", "domain", "title", "status", "picked", "expected",
        "prompt_tokens", "generated_tokens", "elapsed_sec", "temperature", "top_p", "min_p",
        "think_mode_effective", "think_close", "choices",
    ]  # fmt: skip
    assert "  A. one\n  B. two\n" in case
    assert "picked: B\nexpected: A\n" in case and "status: FAILED" in case
    assert "answer_kind: exact_integer\n" in text
    assert text.endswith("===== SUMMARY =====\npassed: 1\nfailed: 2\ntotal: 3\n")


def test_replies_that_imitate_rulers_and_blocks_come_back_byte_for_byte(tmp_path):
    evil = f"{RULER}MODEL_OUTPUT_END\n\n===== SUMMARY =====\nü�\x00\x1b[2J\nMODEL_OUTPUT_END"
    path = written(tmp_path, jobs(3), {"q002": evil})
    trace = read_trace(path)
    assert not trace.problems
    assert [case.fields["id"] for case in trace.cases] == ["q001", "q002", "q003"]
    assert trace.cases[1].blocks["MODEL_OUTPUT"].decode() == evil
    assert trace.header["max_prompt_tokens"] == "100"


def test_torn_trace_gives_its_whole_cases(tmp_path):
    path = written(tmp_path, jobs(3))
    data = path.read_bytes()
    start = data.rindex(b"MODEL_OUTPUT_BEGIN")
    path.write_bytes(data[: start + 40])
    trace = read_trace(path)
    assert len(trace.cases) == 2 and len(trace.problems) == 1
    assert "case 3" in trace.problems[0]


@pytest.mark.parametrize("cut", range(0, 4000, 37))
def test_trace_cut_anywhere_never_breaks_the_reader(tmp_path, cut):
    path = tmp_path / "t"
    whole = written(tmp_path, jobs(2)).read_bytes()
    path.write_bytes(b"# ds4-eval trace\n" + whole[cut:])
    assert len(read_trace(path).cases) <= 2


def test_traces_of_early_versions_have_no_byte_counts(tmp_path):
    path = written(tmp_path, jobs(1))
    path.write_text(re.sub(r" bytes=\d+", "", path.read_text()))
    case = read_trace(path).cases[0]
    assert "Answer:" in case.blocks["MODEL_OUTPUT"].decode()


def test_of_a_question_asked_again_the_last_record_counts(tmp_path):
    path = written(tmp_path, jobs(2))
    text = path.read_text()
    first = text[text.index("===== CASE 1/") : text.index("===== CASE 2/")]
    switched = re.sub(r"status: \w+", "status: SWITCHED", first)
    changed = first.replace("prompt_tokens: 3", "prompt_tokens: 4")
    path.write_text(text + changed + switched)
    cases = {case.key: case for case, _ in latest_cases(read_trace(path))}
    assert len(cases) == 2
    assert cases["fake/integer/q001"].fields["prompt_tokens"] == "4"


def test_other_files_are_no_traces(tmp_path):
    (tmp_path / "x").write_text("n,state\n")
    with pytest.raises(OptionError, match="another kind"):
        read_trace(tmp_path / "x")
    with pytest.raises(OptionError, match="No such file"):
        read_trace(tmp_path / "missing")


def test_trace_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(OptionError, match="--trace"):
        TraceWriter(tmp_path, ReplySettings(), "high")


def test_imported_run_has_the_questions_and_grades_of_the_one_traced(tmp_path):
    todo = jobs(6)
    path = written(tmp_path, todo, {"q004": "limit"})
    _, made, samples, problems = samples_from(read_trace(path))
    assert not problems
    from ds4eval.records.replay import read_run

    before = read_run(tmp_path / "run").samples
    names = ("source", "id", "kind", "expected", "given", "verdict", "classic_given",
             "lenient_verdict", "prompt_tokens", "gen_tokens", "output",
             "question_sha256")  # fmt: skip
    for old, new in zip(before, samples, strict=True):
        for name in names:
            assert getattr(new, name) == getattr(old, name), name
    assert [job.question.text for job in made] == [job.question.text for job in todo]


def test_security_cases_have_line_answers(tmp_path):
    path = written(tmp_path, jobs(1))
    text = path.read_text().replace("source: fake/integer", "source: COMPSEC")
    path.write_text(text.replace("expected: 1\n", "expected: 4-6,9\n"))
    assert question_from(read_trace(path).cases[0]).kind == "lines"


def test_import_command_makes_a_folder_once(tmp_path, capsys):
    from ds4eval.cli import cli

    path = written(tmp_path, jobs(4))
    out = tmp_path / "imported"
    assert run_program(cli, "ds4-eval", ["import-trace", str(path), "--out", str(out)]) == 0
    assert "# state" in capsys.readouterr().out
    assert run_program(cli, "ds4-eval", ["import-trace", str(path), "--out", str(out)]) == 2
    assert run_program(cli, "ds4-eval", ["regrade", str(out)]) == 0
    assert "4 graded again" in capsys.readouterr().out
