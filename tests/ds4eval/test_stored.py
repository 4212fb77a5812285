"""Run folders that an earlier release wrote still resume, report, compare, regrade and export.

`data/stored` holds two runs of the bundled model over generated questions, made at commit 4ffc6b9
(`greedy`: the first 3; `nano-fdb91a322229`: 2 questions twice, sampled with seed 7, in a folder
that the program named). Only what names the machine was taken out of the records about it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ds4eval.cli import cli
from ds4eval.grading.grade import GRADER_VERSION
from ds4eval.records.record import comparable
from ds4eval.records.replay import read_run
from ds4eval.records.tables import to_csv
from engine.tooling.exits import INCOMPARABLE, run_program
from engine.tooling.results.journal import encode, scan

STORED = Path(__file__).parent / "data" / "stored"
SAMPLED = "nano-fdb91a322229"
UNSEEDED = "nano-9e1dd5bd7a8a"  # the name that it had been given without --seed
GREEDY_COMMAND = ["--suite", "nano", "--nano", "q8", "--questions", "3", "--plain"]
SAMPLED_COMMAND = [*GREEDY_COMMAND[:-2], "2", "--plain", "--repeats", "2", "--temp", "1",
                   "--nothink", "-n", "96"]  # fmt: skip


def call(*arguments: object) -> int:
    try:
        return run_program(cli, "ds4-eval", [str(one) for one in arguments])
    except SystemExit as end:  # `report` and `compare` end the process themselves
        return int(end.code or 0)


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
    """The stored runs where a user would have them."""
    shutil.copytree(STORED / "greedy", tmp_path / "greedy")
    shutil.copytree(STORED / SAMPLED, tmp_path / "ds4-eval-runs" / SAMPLED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def journal_lines(folder: Path) -> list[bytes]:
    return (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("name", ["greedy", SAMPLED])
def test_journal_and_table_say_the_same_as_then(name):
    run = read_run(STORED / name)
    assert not run.dropped_bytes and run.samples
    assert to_csv(run.samples) == (STORED / name / "results.csv").read_bytes()
    data = (STORED / name / "samples.jsonl").read_bytes()
    records, good = scan(data)
    assert good == len(data) and b"".join(map(encode, records)) == data
    assert records[0]["schema"] == "ds4eval.samples"
    written = [record for record in records if record.get("type") == "sample"]
    assert [sample.record() for sample in run.samples] == written


def test_finished_run_is_recognised_without_a_model(copies, monkeypatch, capsys):
    """Configuration, questions and keys are what they were, or the folder would be refused."""

    def never(spec):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("ds4eval.answering.engine.open_backend", never)
    assert call(*GREEDY_COMMAND, "--out", "greedy") == 0
    said = capsys.readouterr()
    assert "all 3 questions are answered already" in said.err
    # The release that began it did not say the last line.
    form = "right, but in another form than asked for: 0 of 3\n"
    assert said.out == (STORED / "greedy" / "report.txt").read_text() + form
    assert (copies / "greedy" / "results.csv").read_bytes() == (
        STORED / "greedy" / "results.csv"
    ).read_bytes()


def test_another_configuration_is_still_refused(capsys):
    assert call(*GREEDY_COMMAND, "-n", "128", "--out", "greedy") == 2
    assert "expected the run's own budget.tokens 256, found 128" in capsys.readouterr().err


def test_unfinished_run_goes_on(copies):
    """Two answers stay as they are; the third is asked again under the key that it had."""
    lines = journal_lines(copies / "greedy")
    (copies / "greedy" / "samples.jsonl").write_bytes(b"".join(lines[:-1]))
    before = read_run(STORED / "greedy").samples
    assert len(read_run(copies / "greedy").samples) == 2
    assert call(*GREEDY_COMMAND, "--out", "greedy") == 0
    after = read_run(copies / "greedy").samples
    assert [comparable(s) for s in after[:2]] == [comparable(s) for s in before[:2]]
    # What the model says may depend on the processor; what it is asked and how may not.
    told = ("key", "id", "prompt_sha256", "prompt_tokens", "question", "limit_tokens", "expected")
    assert [getattr(after[2], n) for n in told] == [getattr(before[2], n) for n in told]
    assert after[2].session == 2 and after[2].graded
    assert journal_lines(copies / "greedy")[: len(lines) - 1] == lines[:-1]


def test_folder_that_the_program_names_is_found_again(copies, capsys):
    folder = copies / "ds4-eval-runs" / SAMPLED
    assert call(*SAMPLED_COMMAND, "--seed", "7", "--dry-run") == 0
    assert f"run folder ds4-eval-runs/{SAMPLED}\n" in capsys.readouterr().out
    # Without --seed the name says nothing of it: the unfinished run is gone on with, seed and all,
    # and a finished one is left alone.
    unseeded = copies / "ds4-eval-runs" / UNSEEDED
    folder.rename(unseeded)
    assert call(*SAMPLED_COMMAND, "--dry-run") == 0
    said = capsys.readouterr()
    assert f"run folder ds4-eval-runs/{UNSEEDED}-2\n" in said.out and "\nseed " in said.err
    lines = journal_lines(unseeded)
    (unseeded / "samples.jsonl").write_bytes(b"".join(lines[:-1]))
    assert call(*SAMPLED_COMMAND, "--dry-run") == 0
    said = capsys.readouterr()
    assert f"run folder ds4-eval-runs/{UNSEEDED}\n" in said.out and "\nseed " not in said.err
    assert call(*SAMPLED_COMMAND) == 0
    assert {sample.seed for sample in read_run(unseeded).samples} == {7}
    assert [s.key for s in read_run(unseeded).samples] == [
        s.key for s in read_run(STORED / SAMPLED).samples
    ]


def test_stored_runs_report_compare_regrade_and_export(capsys):
    assert call("report", "greedy", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["overall"]["passed"] == 3
    assert call("compare", "greedy", "greedy") == 0
    capsys.readouterr()
    assert call("compare", "greedy", f"ds4-eval-runs/{SAMPLED}") == INCOMPARABLE
    capsys.readouterr()
    assert call("regrade", "greedy") == 0
    assert f"3 graded again (version {GRADER_VERSION}): 0 changed" in capsys.readouterr().out
    assert call("export", "greedy", "-o", "log.json") == 0
    assert json.loads(Path("log.json").read_text())["results"]["completed_samples"] == 3
    assert call("export", "greedy", "--format", "lm-eval", "-o", "lm") == 0
    assert len(list(Path("lm").iterdir())) == 3


def test_stored_trace_is_imported_with_the_grades_of_the_run():
    assert call("import-trace", STORED / "greedy.trace", "--out", "imported") == 0
    for ours, theirs in zip(
        read_run(Path("imported")).samples, read_run(STORED / "greedy").samples
    ):
        assert (ours.id, ours.output, ours.verdict) == (theirs.id, theirs.output, theirs.verdict)
