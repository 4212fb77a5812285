"""Budgets: score over budget from one run, what was cut asked again, defaults, expectations."""

from __future__ import annotations

import json

import pytest

from ds4eval.cli import cli
from ds4eval.compare.pairs import load_arms
from ds4eval.plan import AIME_TOKENS, DEFAULT_TOKENS, budget_of
from ds4eval.records.replay import read_run
from ds4eval.report.budget import budget_curve, curve_line
from ds4eval.report.scores import scores_of
from ds4eval.request import ReplyOptions
from ds4eval.run.continued import reply_options
from ds4eval.run.expect import expectation
from ds4eval.stats.times import span
from engine.tooling.exits import run_program
from tests.ds4eval.eval_runs import CONFIG, sample, write_run

NANO = ["--suite", "nano", "--nano", "q8", "--questions", "6", "--plain", "-t", "1"]


def call(*arguments) -> int:
    try:
        return run_program(cli, "ds4-eval", [str(one) for one in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def replies(*rows):
    """One question per (tokens, right, cut)."""
    return [
        [(sample("AIME", n, "pass" if right else "none", gen_tokens=tokens,
                 stop="limit" if cut else "eos"), right)]
        for n, (tokens, right, cut) in enumerate(rows)
    ]  # fmt: skip


def test_score_over_budget_counts_what_was_over_and_right():
    rows = [(1500, True, False), (3000, False, False), (7000, True, False), (16000, False, True)]
    curve = budget_curve(replies(*rows))
    found = {p.tokens: (p.right, p.unfinished, p.interval.estimate, p.most) for p in curve.points}
    assert found == {
        2000: (1, 3, 0.25, 1.0),
        4000: (1, 2, 0.25, 0.75),
        8000: (2, 1, 0.5, 0.75),
        16000: (2, 1, 0.5, 0.75),
    }
    assert curve.notable and curve.answers == 4
    assert curve_line(curve).startswith(
        "right by tokens: 2k 25.0 % (to 100.0), 4k 25.0 % (to 75.0)"
    )


def test_curve_takes_the_question_as_the_unit_and_leaves_unknown_counts_out():
    two = [(s, right) for part in replies((1500, True, False), (5000, False, False))
           for s, right in part]  # fmt: skip
    alone = replies((1200, True, False))[0]
    unknown = [(sample("AIME", 9, "pass", gen_tokens=None), True)]
    curve = budget_curve([two, alone, unknown])
    assert (curve.answers, curve.unknown) == (3, 1)
    assert curve.points[0].interval.estimate == pytest.approx(0.75)
    assert "1 replies without a count" in curve_line(curve)


def test_short_whole_replies_say_nothing_of_budgets(tmp_path):
    assert not budget_curve(replies((40, True, False), (90, False, False))).notable
    assert not budget_curve([]).points


def test_curve_stands_in_every_form_of_the_report(tmp_path, capsys):
    rows = [sample("AIME", n, "pass", gen_tokens=1000 * n) for n in range(1, 9)]
    rows.append(sample("AIME", 9, "none", gen_tokens=16000, stop="limit"))
    write_run(tmp_path / "a", rows)
    assert call("report", tmp_path / "a", "--out", tmp_path / "page") == 0
    assert "had the budget been smaller" in capsys.readouterr().out.replace("\n", " ")
    found = json.loads((tmp_path / "page" / "report.json").read_text())
    points = found["runs"][0]["budget"]["points"]
    assert [p["right"] for p in points] == [1, 2, 4, 8, 8]
    assert (tmp_path / "page" / "budget.svg").exists()
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Score over budget" in page and "unfinished" in page
    assert "unfinished" in (tmp_path / "page" / "summary.md").read_text()


def test_aime_has_a_budget_of_its_own():
    assert budget_of(ReplyOptions(), "aime25").tokens == AIME_TOKENS > 3 * 20_000
    assert budget_of(ReplyOptions(), "gpqa-diamond").tokens == DEFAULT_TOKENS
    assert budget_of(ReplyOptions(tokens=5000), "aime25").tokens == 5000


def test_an_aime_run_of_an_earlier_release_keeps_its_budget():
    """It had upstream's; a command that names none goes on with that one."""
    found = {"budget": {"tokens": DEFAULT_TOKENS}}
    kept = reply_options(ReplyOptions(), found)
    assert budget_of(kept, "aime25").tokens == DEFAULT_TOKENS != AIME_TOKENS
    assert reply_options(ReplyOptions(tokens=AIME_TOKENS), found).tokens == AIME_TOKENS


@pytest.fixture(scope="module")
def budgets(tmp_path_factory):
    """The same questions at 60 tokens, those that this cut again at 256, and at 256 at once."""
    folder = tmp_path_factory.mktemp("budgets")
    limits = ["--soft-limit-reply-budget", "12", "--hard-limit-reply-budget", "8"]
    assert call(*NANO, *limits, "-n", "60", "--out", folder / "run") == 0
    first = read_run(folder / "run")
    assert call(*NANO, "-n", "256", "--retry-cut", "--out", folder / "run") == 0
    assert call(*NANO, *limits, "-n", "256", "--out", folder / "whole") == 0
    return folder, first


def test_retry_cut_asks_what_was_cut_and_ends_like_a_run_of_that_budget(budgets):
    folder, first = budgets
    cut = {s.id for s in first.samples if s.touched}
    assert 0 < len(cut) < 6
    run, whole = read_run(folder / "run"), read_run(folder / "whole")
    assert {s.id for s in run.samples if s.budget_tokens == 256} == cut
    said = ("id", "output", "verdict", "given", "stop", "close")
    assert [[getattr(s, n) for n in said] for s in run.samples] == [
        [getattr(s, n) for n in said] for s in whole.samples
    ]
    # The record keeps both, and keys are what they were.
    assert [s.key for s in run.samples] == [s.key for s in first.samples]
    assert {old.id: old.output for olds in run.earlier.values() for old in olds} == {
        s.id: s.output for s in first.samples if s.touched
    }
    assert json.loads((folder / "run" / "manifest.json").read_text())["retry_tokens"] == 256


def test_a_retried_run_is_compared_as_one_of_its_larger_budget(budgets, capsys):
    folder, _ = budgets
    assert call("compare", folder / "run", folder / "whole") == 0
    assert "the same" in capsys.readouterr().out


def test_retry_cut_is_done_once_and_the_old_command_finds_its_run(budgets, capsys):
    folder, _ = budgets
    before = (folder / "run" / "samples.jsonl").read_text().count('"type":"sample"')
    assert call(*NANO, "-n", "256", "--retry-cut", "--out", folder / "run") == 0
    assert call(*NANO, "--out", folder / "run", "--soft-limit-reply-budget", "12",
                "--hard-limit-reply-budget", "8") == 0  # fmt: skip
    assert capsys.readouterr().err.count("answered already") == 2
    after = (folder / "run" / "samples.jsonl").read_text().count('"type":"sample"')
    assert before == after


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retry-cut"], "--retry-cut: expected --out with the run to go on with"),
        (["--retry-cut", "--out", "none"], "expected a run in --out, found none"),
        (["--retry-cut", "--out", "none", "--force"], "expected without --force, found both"),
    ],
)
def test_retry_cut_is_refused_where_there_is_nothing_to_retry(
    options, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert call(*NANO, *options) == 2
    assert message in capsys.readouterr().err


def test_retry_cut_wants_a_larger_budget(budgets, capsys):
    folder, _ = budgets
    assert call(*NANO, "-n", "60", "--retry-cut", "--out", folder / "run") == 2
    assert "expected a budget (-n) above the run's own 60, found 60" in capsys.readouterr().err


def test_a_run_cut_at_two_budgets_is_compared_with_neither(tmp_path, capsys):
    rows = [sample("AIME", n, "none", stop="limit") for n in range(3)]
    write_run(tmp_path / "a", rows)
    mixed = [rows[0], sample("AIME", 1, "none", stop="limit", budget_tokens=64000), rows[2]]
    write_run(tmp_path / "b", mixed)
    assert call("compare", tmp_path / "a", tmp_path / "b") == 8
    assert "16000 and 64000" in capsys.readouterr().out.replace("\n", " ")
    [arm] = load_arms([tmp_path / "b"])
    assert dict(scores_of(arm).facts)["budget tokens"] == "16000 and 64000"


def test_what_a_run_will_take_follows_from_what_was_measured(tmp_path):
    def beside(name, config, **progress):
        (tmp_path / name).mkdir()
        manifest = {"config": config, "progress": progress}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))

    def expected(suite="gpqa", config=CONFIG, workers=1):
        return expectation(30, 16000, suite, config, tmp_path / "new", workers)

    assert expected().line() == "expected: 30 replies of up to 16,000 tokens"
    assert "about 20,000 tokens (the mean of V4 Flash on AIME 2025), 600,000 in all" in (
        expectation(30, 64000, "aime25", CONFIG, tmp_path / "new", 1).line()
    )
    other = {**CONFIG, "model": {"name": "other"}}
    beside("other", other, counted=2, gen_tokens=20, seconds=1.0)
    assert expected().speed is None, "another model's speed says nothing"
    beside("old", CONFIG, counted=10, gen_tokens=20_000, seconds=1000.0)
    line = expected(workers=4).line()
    assert "30 replies of about 2,000 tokens (old), 60,000 in all" in line
    assert "about 12 min at 20 tokens/s on each of 4 workers (old)" in line
    assert "at most 480,000 tokens, 1 h 40 min" in line
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("[1")
    assert expected().speed == 20


def test_spans_are_said_as_people_say_them():
    assert [span(s) for s in (40, 720, 12_000, 190_000)] == [
        "40 s",
        "12 min",
        "3 h 20 min",
        "2 d 5 h",
    ]
