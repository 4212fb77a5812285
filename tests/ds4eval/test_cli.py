"""The command line: what is refused before anything is loaded, and with which status."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from ds4eval.cli import COMMANDS, cli
from engine.tooling.exits import run_program
from tests.engine.models import model_file


def call(*arguments: str) -> int:
    return run_program(cli, "ds4-eval", list(arguments))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DS4_EVAL_DATA", raising=False)


def test_help_and_bad_options_load_neither_numba_nor_the_engine():
    code = (
        "import sys; from ds4eval.cli import cli; from engine.tooling.exits import run_program;"
        "a = run_program(cli, 'x', ['--help']); b = run_program(cli, 'x', ['--tokens', '0']);"
        "print(a, b, sorted(set(sys.modules) & {'numba', 'numpy', 'textual', 'engine.engine',"
        " 'pyarrow', 'scipy', 'httpx'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=None)
    assert done.stderr.splitlines()[-1] == "0 2 []"
    for name in COMMANDS:
        assert name in done.stdout
    for option in ("--soft-limit-reply-budget", "--min-p", "--trace", "--nothink", "--suite"):
        assert option in done.stdout


@pytest.mark.parametrize("name", [*COMMANDS, "resume"])
def test_every_command_has_help(name, capsys):
    assert call(name, "--help") == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["-n", "0"], "--tokens", id="no tokens"),
        pytest.param(["-n", "1000001"], "--tokens", id="above the cap"),
        pytest.param(["-n", "512"], "--hard-limit-reply-budget", id="hard reserve of everything",
                     marks=()),
        pytest.param(["--soft-limit-reply-budget", "9", "--hard-limit-reply-budget", "10"],
                     "--soft-limit-reply-budget", id="soft below hard"),
        pytest.param(["--temp", "nan"], "--temp", id="temperature nan"),
        pytest.param(["--temp", "1e9"], "--temp", id="temperature 1e9"),
        pytest.param(["--temp=-1"], "--temp", id="temperature negative"),
        pytest.param(["--top-p", "1.5"], "--top-p", id="top-p above 1"),
        pytest.param(["--min-p", "inf"], "--min-p", id="min-p infinite"),
        pytest.param(["--top-k=-1"], "--top-k", id="top-k negative"),
        pytest.param(["--top-k", "1025"], "--top-k", id="top-k above the cap"),
        pytest.param(["--seed", "0"], "--seed", id="seed zero"),
        pytest.param(["--seed=-1"], "--seed", id="seed negative does not wrap"),
        pytest.param(["--seed", str(2**64)], "--seed", id="seed above 64 bits"),
        pytest.param(["--pause-ms", "0"], "--pause-ms", id="pause of nothing"),
        pytest.param(["--questions", "0"], "--questions", id="no questions"),
        pytest.param(["--questions", "3001"], "--questions", id="more than there are"),
        pytest.param(["--questions", "1", "--limit", "1"], "--questions", id="both limits"),
        pytest.param(["--metal"], "--backend", id="metal"),
        pytest.param(["--cuda", "--metal"], "'metal'", id="the last backend counts"),
        pytest.param(["--backend", "tpu"], "'tpu'", id="unknown backend"),
        pytest.param(["--quality", "--activations", "int8"], "--quality", id="quality of int8"),
        pytest.param(["--mode", "mtp-strict", "--draft", "9"], "--mtp-draft: expected 1 to 4",
                     id="draft too deep, by its former name"),
        pytest.param(["--draft", "2"], "--mtp-draft: expected a --mode", id="draft without a mode"),
        pytest.param(["--device", "1"], "--device: expected with --backend cuda", id="no device"),
        pytest.param(["-t", "5000"], "-t/--threads: expected 1 to 1024", id="too many threads"),
        pytest.param(["-m", "x", "--nano", "iq2"], "--nano: expected without -m", id="two models"),
        pytest.param(["--mtp", "x.gguf"], "--mtp", id="block without a mode"),
        pytest.param(["--suite", "nope"], "suite", id="unknown suite"),
        pytest.param(["--dataset", "x"], "--dataset", id="data set without a path"),
        pytest.param(["--ids", "nope"], "ids", id="unknown id"),
        pytest.param(["--filter", "difficulty"], "filter", id="filter without a pattern"),
        pytest.param(["--filter", "id=zzz"], "selection", id="nothing left"),
        pytest.param(["--max-regression", "1"], "--max-regression", id="no baseline"),
        pytest.param(["--baseline", "nowhere"], "--baseline", id="baseline that is not there"),
        pytest.param(["--fail-under", "101"], "--fail-under", id="above all"),
        pytest.param(["--chdir", "nowhere"], "--chdir", id="folder that is not there"),
        pytest.param(["--base-url", "ftp://x"], "--base-url", id="no http"),
        pytest.param(["--api", "chat"], "--api", id="api without a server"),
        pytest.param(["--trace"], "--trace", id="value missing"),
        pytest.param(["--frobnicate"], "--frobnicate", id="unknown option"),
        pytest.param(["frobnicate"], "frobnicate", id="unknown command"),
        pytest.param(["run", "extra"], "extra", id="positional argument"),
    ],
)  # fmt: skip
def test_bad_options_exit_with_2_and_name_themselves(arguments, said, capsys):
    if arguments == ["-n", "512"]:
        # The nano suite's own reserve is smaller; the C program's applies elsewhere.
        arguments = [*arguments, "--suite", "practice"]
    assert call(*arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in last and last.startswith("ds4-eval: error: ")


def test_missing_data_and_broken_models_exit_with_3(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DS4_EVAL_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert call("--suite", "aime25") == 3
    assert "fetch aime25" in capsys.readouterr().err
    (tmp_path / "m.gguf").write_bytes(b"GGUF, not")
    assert call("-m", "m.gguf", "--suite", "practice", "--limit", "1") == 3
    assert call("-m", "missing.gguf", "--suite", "practice", "--limit", "1") == 3
    assert not (tmp_path / "ds4-eval-runs").exists(), "nothing was begun"


def test_budget_limits_do_not_bind_without_thinking(capsys):
    arguments = ["--suite", "practice", "--limit", "1", "-n", "9", "--nothink", "--dry-run"]
    assert call(*arguments) == 0
    out, err = capsys.readouterr()
    assert "think mode none" in out and "budget 9" in out
    assert re.search(r"memory: context [\d.]+ MiB, activations .*, working memory .*copies of", err)
    assert call(*arguments, "--think") == 2, "the last think option counts"


def test_budget_that_the_model_cannot_hold_is_refused_only_when_it_was_named(
    tmp_path, capsys, monkeypatch
):
    small = str(model_file(tmp_path, "micro", "f32"))  # made for 16384 tokens
    plain = ["-m", small, "--suite", "practice", "--limit", "1", "--dry-run"]
    assert call(*plain, "-n", "16100") == 0
    assert call(*plain, "-n", "16300") == 2
    assert "--tokens: expected at most 16" in capsys.readouterr().err
    monkeypatch.setattr("ds4eval.answering.context.MAX_CONTEXT", 9000)
    assert call(*plain) == 0, "the default budget is what fits"
    assert "context 9000" in capsys.readouterr().out


def test_dry_run_says_what_would_be_asked_and_writes_nothing(tmp_path, capsys):
    assert call("--limit", "5", "--repeats", "3", "--dry-run", "--out", "x") == 0
    out = capsys.readouterr()
    assert "15 questions" in out.out and "run folder x" in out.out
    assert "fetch gpqa-diamond" in out.err and "bundled" in out.err
    assert not (tmp_path / "x").exists()


def test_max_effort_falls_back_and_says_so(capsys):
    assert call("--think-max", "--limit", "1", "--dry-run") == 0
    out = capsys.readouterr()
    assert "393216" in out.err and "think mode high" in out.out


def test_encoding_and_effort_reach_the_run(capsys):
    plain = ["--limit", "1", "--dry-run"]
    assert call("--encoding", "0731", "--think-max", *plain) == 0
    out = capsys.readouterr()
    assert "think mode max" in out.out and "encoding: 0731 (--encoding)" in out.err
    assert "393216" not in out.err, "0731 has no bound of context"
    assert call("--encoding", "0731", *plain) == 0
    assert "think mode low" in capsys.readouterr().out
    assert call("--effort", "low", *plain) == 2
    assert "--effort: expected one of none, high, max" in capsys.readouterr().err
    assert call("--effort", "high", "--nothink", *plain) == 2
    assert "--effort: expected without --nothink" in capsys.readouterr().err


def test_exports_hide_text_unless_asked(tmp_path, capsys):
    from tests.ds4eval.fakes import jobs
    from tests.ds4eval.test_runner import run

    run(tmp_path / "run", jobs(4, repeats=2))
    assert call("export", "run", "-o", "log.json") == 0
    assert call("export", "run", "-o", "log.json") == 2, "files are not replaced unasked"
    assert call("export", "run", "-o", "log.json", "--force") == 0
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["version"] == 2 and log["status"] == "success" and len(log["samples"]) == 8
    assert {s["epoch"] for s in log["samples"]} == {1, 2}
    passed = sum(s["scores"]["strict"]["value"] == "C" for s in log["samples"])
    score = log["results"]["scores"][0]["metrics"]["accuracy"]["value"]
    assert score == pytest.approx(passed / 8)
    assert call("export", "run", "-o", "open.json", "--with-text") == 0
    assert "What is" in (tmp_path / "open.json").read_text()
    assert call("export", "run", "--format", "lm-eval", "-o", "lm") == 0
    files = sorted((tmp_path / "lm").iterdir())
    assert [f.name for f in files] == ["samples_fake_integer.jsonl", "samples_fake_letter.jsonl"]
    for file in [tmp_path / "log.json", *files]:
        assert "What is" not in file.read_text() and "thinking" not in file.read_text()
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert {row["doc_id"] for row in rows} == {0, 1, 2} and len(rows) == 6


def test_regrade_shows_changes_and_keeps_them_only_when_told(tmp_path, monkeypatch, capsys):
    from dataclasses import replace

    from ds4eval.grading import grade as grading
    from ds4eval.records.replay import read_run
    from tests.ds4eval.fakes import FakeBackend, jobs
    from tests.ds4eval.test_runner import run

    script = {"q001": "x</think>\nSo the answer is 1."}
    run(tmp_path / "run", jobs(3), FakeBackend(script))
    assert read_run(tmp_path / "run").samples[0].state == "INCOMPLETE"

    def forgiving(*arguments):
        grades = grading.grade(*arguments)
        return replace(grades, strict=grades.lenient)

    monkeypatch.setattr("ds4eval.records.samples.grade", forgiving)
    assert call("regrade", "run") == 0
    assert "fake/integer/q001: strict none ? -> pass 1" in capsys.readouterr().out
    assert read_run(tmp_path / "run").samples[0].state == "INCOMPLETE"
    assert call("regrade", "run", "--write") == 0
    assert read_run(tmp_path / "run").samples[0].state == "PASSED"
    assert '"PASSED"' in (tmp_path / "run" / "results.csv").read_text().splitlines()[1]
    assert (tmp_path / "run" / "report.txt").read_text().splitlines()[2].split()[1] == "PASSED"
    assert call("regrade", "run") == 0
    assert "0 changed" in capsys.readouterr().out
    assert call("regrade", "nowhere") == 3
