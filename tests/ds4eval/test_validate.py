"""`ds4-eval validate` and `ds4-eval self-test`."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ds4eval.commands import self_test as selftest_cmd
from ds4eval.commands.self_test import self_test_command
from ds4eval.commands.validate import validate_command
from ds4eval.grading.golden import golden_cases
from engine.tooling.exits import run_program
from tests.ds4eval import published


def run(capsys, *args, command=validate_command):
    status = run_program(command, "validate", list(map(str, args)))
    out, err = capsys.readouterr()
    return status, out, err


def test_sound_data(capsys, tmp_path):
    path = published.write(tmp_path, "s.jsonl", published.jsonl_bytes(published.super_rows()))

    status, out, _ = run(capsys, path)

    assert status == 0
    assert "supergpqa: 8 questions (8 letter)" in out
    assert "choices: 3 with 4, 5 with 10" in out
    assert "fit for use, 0 errors, 0 warnings" in out
    assert "Invented question" not in out


def test_every_error_is_reported(capsys, tmp_path):
    rows = published.aime_rows()
    for place in (3, 7, 20):
        rows[place]["answer"] = "1000"
    path = published.write(tmp_path, "a.jsonl", published.jsonl_bytes(rows))

    status, out, _ = run(capsys, path)

    assert status == 3
    assert [f"record {n}" in out for n in (4, 8, 21, 5)] == [True, True, True, False]
    assert "unfit, 3 errors" in out


def test_doubles_are_an_error(capsys, tmp_path):
    rows = published.super_rows()
    rows[5]["uuid"] = rows[2]["uuid"]
    path = published.write(tmp_path, "s.jsonl", published.jsonl_bytes(rows))

    status, out, _ = run(capsys, path)

    assert status == 3 and "expected each id once" in out


def test_many_findings_are_counted(capsys, tmp_path):
    rows = published.super_rows([f"{i:032x}" for i in range(70)])
    for row in rows:
        row["answer"] = "elsewhere"
    path = published.write(tmp_path, "s.jsonl", published.jsonl_bytes(rows))

    status, out, _ = run(capsys, path)

    assert status == 0 and "warning: 20 more" in out and "70 warnings" in out


def test_json_report(capsys, tmp_path):
    gpqa = published.write(tmp_path, "g.csv", published.csv_bytes(published.gpqa_rows()))
    aime = published.write(tmp_path, "a.csv.gz", published.FORMATS["csv.gz"](published.aime_rows()))

    status, out, _ = run(capsys, gpqa, aime, "--json")

    first, second = map(json.loads, out.splitlines())
    assert status == 0
    assert (first["dataset"], first["questions"]) == ("gpqa-diamond", 6)
    assert second["files"][0]["form"] == "csv" and len(second["sha256"]) == 64
    assert {finding["id"] for finding in second["findings"]} >= {"aime2025-14", "aime2025-30"}


def test_files_are_read_as_the_data_set_that_is_named(capsys, tmp_path):
    """Columns of titles, questions and answers look like those of questions about lines."""
    rows = [{"title": f"number {i}", "question": row["problem"], "answer": row["answer"]}
            for i, row in enumerate(published.aime_rows())]  # fmt: skip
    path = published.write(tmp_path, "mine.jsonl", published.jsonl_bytes(rows))

    told = run(capsys, path, "--json")
    named = run(capsys, path, "--json", "--as", "aime25")

    assert (told[0], json.loads(told[1])["dataset"]) == (3, "compsec")
    assert (named[0], json.loads(named[1])["dataset"]) == (0, "aime25")
    assert json.loads(named[1])["questions"] == 30


def test_names_are_looked_for(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DS4_EVAL_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    published.write(tmp_path, "compsec.jsonl", published.jsonl_bytes(published.line_rows()))

    status, out, _ = run(capsys, "compsec")

    assert status == 0 and "3 questions (3 lines)" in out


@pytest.mark.parametrize(
    "args, status, message",
    [
        ([], 2, "NAME|FILE...: expected a value"),
        (["/nowhere"], 3, "expected a data file"),
        (["x", "--as", "mmlu"], 2, "--as"),
    ],
)
def test_refused(capsys, args, status, message):
    found, _, err = run(capsys, *args)

    assert found == status and message in err


def test_self_test(capsys):
    status, out, _ = run(capsys, command=self_test_command)

    count = len(golden_cases())
    assert status == 0
    assert f"self-test: {count} of {count} replies graded as expected by strict, lenient" in out


def test_self_test_fails_when_a_grader_changes(capsys, monkeypatch):
    cases = golden_cases()
    wrong = dataclasses.replace(
        cases[0], name="planted", reply="\x1b[2J" + cases[0].reply, expected=(("none", "?"),) * 3
    )
    monkeypatch.setattr(selftest_cmd, "golden_cases", lambda: (*cases[:3], wrong))

    status, out, _ = run(capsys, "--verbose", command=self_test_command)

    assert status == 1
    assert "planted: strict expected none ?, found pass B" in out
    assert "3 of 4 replies" in out and "(DIFFERS)" in out
    assert "\x1b" not in out
