"""Recipes and headlines: what a command line becomes, what is asked, what a run keeps of it."""

from __future__ import annotations

import hashlib
import json

import pytest

pytest.importorskip("httpx")

from ds4eval.cli import cli
from ds4eval.commands.data_options import HEADLINES
from ds4eval.grading.grade import GRADER_VERSION, grade
from ds4eval.questions.prompts import VERSIONS, messages, user_text
from ds4eval.questions.question import FORMS, Question
from ds4eval.recipes import RECIPES, applied
from ds4eval.records.replay import read_run
from ds4eval.request import Request
from engine.tooling.exits import run_program
from tests.ds4eval.servers.odd_server import OddServer, delta
from tests.ds4eval.test_request import request_of

__all__ = ["request_of"]  # a fixture

CHOICE = ("Which?", "B", "letter", ("one", "two", "three"))
PARTS = (CHOICE, ("How many?", "7", "integer", ()), ("1 a\n2 b", "2", "lines", ()),
         ("Who?", "Ada", "text", ()), ("Half?", r"\frac12", "latex", ()))  # fmt: skip


def asked(form):
    return [Question("q", "s", *parts, form=form) for parts in PARTS]


def call(capsys, *arguments):
    status = run_program(cli, "ds4-eval", [str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    "form, digest",
    [
        ("line", "28f1466f58bc3771"),
        ("boxed", "df16c33f6b5d19a4"),
        ("simple-evals", "8752c2308e78f29f"),
    ],
)
def test_versions_change_with_the_bytes(form, digest):
    text = "\0".join(content for q in asked(form) for _, content in messages(q))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, "a new version is due"
    assert VERSIONS.keys() == set(FORMS) == {r.form for r in RECIPES.values()}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_asks_for_what_its_headline_reads(form):
    for question in asked(form):
        key = question.answer
        reply = f"So it is.\n\n\\boxed{{{key}}}" if form == "boxed" else f"So.\n\nAnswer: {key}"
        assert grade(question, reply).strict.verdict == "pass", question.kind
        if question.kind != "latex":  # whose wrong answers need its package
            assert grade(question, user_text(question)).strict.verdict != "pass", "an echo"
    roles = [role for role, _ in messages(asked(form)[0])]
    assert roles == (["system", "user"] if form == "line" else ["user"])


def test_simple_evals_words():
    text = user_text(asked("simple-evals")[0])
    assert "'Answer: $LETTER' (without quotes) where LETTER is one of ABC." in text
    assert text.endswith("Which?\n\nA) one\nB) two\nC) three")


def test_no_recipe_is_the_request_of_before(request_of):
    assert request_of("--recipe", "upstream").reply == Request().reply
    assert request_of().recipe.record() == {}


def test_card_is_temperature_1_top_p_1_four_times_and_a_box(request_of):
    found = request_of("--recipe", "card")
    reply = found.reply
    assert (reply.temp, reply.top_p, reply.top_k, reply.min_p) == (1.0, 1.0, 0, 0.0)
    assert (found.data.repeats, reply.form) == (4, "boxed")
    assert found.recipe.record() == {
        "name": "card", "version": "1", "prompt": "boxed", "overridden": {},
    }  # fmt: skip


def test_what_the_user_types_beats_the_recipe_and_is_kept(request_of):
    found = request_of("--recipe", "card", "--temp", "0.6", "--repeats", "8", "--top-p", "1")
    assert (found.reply.temp, found.reply.top_p, found.data.repeats) == (0.6, 1.0, 8)
    assert found.recipe.record()["overridden"] == {
        "temp": {"recipe": 1.0, "typed": 0.6},
        "repeats": {"recipe": 4, "typed": 8},
    }
    assert applied("boxed", {"temp": 0.6}).record()["overridden"] == {}


def test_a_recipe_reaches_prompt_manifest_and_report(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = OddServer()
    run = ["--suite", "practice", "--base-url", server.url, "--plain", "--api-model", "m",
           "--seed", "3", "--limit", "2", "--out", "run"]  # fmt: skip
    try:
        server.script = [[delta("stop", content="\\boxed{1}")]] * 4
        assert call(capsys, *run, "--recipe", "card", "--repeats", "2")[0] == 0
        assert {body["temperature"] for body in server.bodies} == {1.0}
        turns = server.bodies[0]["messages"]
        assert [turn["role"] for turn in turns] == ["user"]
        assert turns[0]["content"].endswith("put your final answer within \\boxed{}.")
        # A run under one prompt does not go on under another.
        status, _, err = call(capsys, *run)
        assert status == 2 and "expected the run's own" in err
    finally:
        server.close()
    found = read_run(tmp_path / "run")
    assert found.manifest["recipe"]["overridden"] == {"repeats": {"recipe": 4, "typed": 2}}
    assert found.config["prompt_version"] == "boxed-1"
    assert {s.rule for s in found.samples} <= {"boxed", "box-unreadable"}
    again = f"4 graded again (version {GRADER_VERSION}): 0 changed"
    assert call(capsys, "regrade", "run")[1].startswith(again)
    status, out, _ = call(capsys, "report", "run", "--format", "markdown")
    assert "recipe card, version 1; repeats typed otherwise" in out


@pytest.mark.parametrize("headline", HEADLINES)
def test_the_headline_decides_the_score_and_the_rest_is_shown(
    tmp_path, capsys, monkeypatch, headline
):
    """One reply in the form asked for, one in another, one that only the classic rules pass."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Number {i}?", "answer": 7} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    server = OddServer()
    run = ["--suite", "mine.jsonl", "--base-url", server.url, "--plain", "--api-model", "m",
           "--out", "run"]  # fmt: skip
    replies = ["Answer: 7", "The answer is 7, I say.", "Perhaps 7 or so", "Answer: 8"]
    try:
        server.script = [[delta("stop", content=text)] for text in replies]
        status, out, _ = call(capsys, *run, "--headline", headline)
    finally:
        server.close()
    passed = {"strict": 1, "lenient": 2, "classic": 3}[headline]
    assert status == 0 and f"ds4-eval: {passed}/4 passed" in out
    assert "right, but in another form than asked for: 1 of 4" in out
    found = read_run(tmp_path / "run")
    assert sum(s.passed for s in found.samples) == passed
    assert [s.verdict for s in found.samples] == ["pass", "none", "none", "fail"]
    # The report counts by the run's own headline, and shows the other form beside it.
    shown = json.loads(call(capsys, "report", "run", "--format", "json")[1])["runs"][0]
    assert (shown["overall"]["passed"], shown["overall"]["missed"]) == (passed, 1)
    assert shown["grader"] == {"classic": "ds4-classic"}.get(headline, headline)
    for form in ("table", "markdown"):
        assert "in another form" in call(capsys, "report", "run", "--format", form)[1]
    assert call(capsys, "report", "run", "--out", "pages")[0] == 0
    assert "right, but in another form" in (tmp_path / "pages" / "report.html").read_text()
    # Another headline is another score: a run goes on under its own, `regrade` changes it.
    other = "lenient" if headline == "strict" else "strict"
    status, _, err = call(capsys, *run, "--headline", other)
    assert status == 2 and f"regrade run --headline {other} --write" in err
    assert call(capsys, "regrade", "run", "--headline", other, "--write")[0] == 0
    assert sum(s.passed for s in read_run(tmp_path / "run").samples) == 2 - (other == "strict")
    assert call(capsys, *run, "--headline", other)[0] == 0
