"""Long texts: every answer found again by a reading of the text, and the plot of what came out."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import pytest

from ds4eval.compare.pairs import load_arms
from ds4eval.plan import budget_of
from ds4eval.questions.long import DEPTHS, LENGTHS, TASKS, long_suite
from ds4eval.questions.question import LETTERS, fingerprint
from ds4eval.questions.suites import load_suite, select
from ds4eval.report.depths import depth_figure, shares
from ds4eval.report.page import report_of, svg_files, to_html
from ds4eval.report.scores import scores_of
from ds4eval.request import ReplyOptions
from engine.gguf.reader import open_gguf
from engine.models.bundled import bundled_model
from engine.text.tokenizer import Tokenizer
from engine.tooling.report import figures
from tests.ds4eval.eval_runs import sample, write_run

SHORT = LENGTHS[:2]


def read(text: str, task: str, choices: tuple[str, ...]) -> str:
    """The answer from the words alone; nothing of the generator is used."""
    story, _, asked = text.rpartition("\n\n")
    told = re.findall(r"(?:The|Now the) number of (\w+) is (\d+)\.", story)
    numbers = dict(told)  # of two, the later one
    if task == "several":
        names = re.search(r"numbers of (\w+), (\w+) and (\w+)\?", asked).groups()
        return ", ".join(numbers[name] for name in names)
    if task == "order":
        first = next(name for name, _ in told if name in choices)
        return LETTERS[choices.index(first)]
    if task == "count":
        name = re.search(r"told that (\w+) rang", asked)[1]
        return str(len(re.findall(rf"\b{name} rang the bell\.", story)))
    return numbers[re.search(r"number of (\w+)", asked)[1]]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_answer_is_in_its_text_and_no_other_is(seed):
    for question in long_suite(seed, SHORT):
        task = question.stratum("task")
        assert read(question.text, task, question.choices) == question.answer, question.id
        if task == "recall":
            name = re.search(r"number of (\w+)\?", question.text)[1]
            assert len(re.findall(rf"number of {name} is", question.text)) == 1


def test_facts_lie_where_the_record_says():
    for question in long_suite(3, SHORT):
        story = question.text.rpartition("\n\n")[0]
        depths = [float(part) for part in question.stratum("depths").split()]
        wanted = float(question.stratum("depth"))
        assert depths[0] == pytest.approx(0.9 * wanted if "order" in question.id else wanted)
        if question.stratum("task") == "recall":
            at = story.index(f"is {question.answer}.")
            assert 100 * at / len(story) == pytest.approx(wanted, abs=2)


def test_lengths_depths_tasks_and_seeds():
    suite = load_suite("long")
    assert len(suite.questions) == len(LENGTHS) * len(DEPTHS) * len(TASKS) == 175
    assert [q.source for q in suite.questions[::25]] == [
        *("long/4k", "long/8k", "long/16k", "long/32k", "long/64k", "long/128k", "long/256k"),
    ]
    sizes = [len(q.text) for q in suite.questions[::25]]
    assert all(1.8 < b / a < 2.2 for a, b in pairwise(sizes))
    again, other = long_suite(0, SHORT), long_suite(1, SHORT)
    prints = [fingerprint(q) for q in suite.questions[:50]]
    assert prints == [fingerprint(q) for q in again]
    assert not set(prints) & {fingerprint(q) for q in other}
    some = select(suite.questions, filters=["length=8k", "task=count", "depth=50"])
    assert [q.id for q in some] == ["long-8k-count-050-0"]
    assert budget_of(ReplyOptions(), "long").tokens == 4096


def test_prompts_are_about_as_long_as_they_are_called():
    """By the bundled model's tokenizer, which the lengths were measured with."""
    with open_gguf(bundled_model().path) as file:
        tokenizer = Tokenizer.from_metadata(file.metadata)
    for question in long_suite(0, SHORT)[::5]:
        length = int(question.stratum("length").removesuffix("k")) * 1024
        assert 0.85 < len(tokenizer.encode(question.text).ids) / length < 1


def asked(tmp_path, questions, right):
    samples = [
        dataclasses.replace(
            sample(q.source, i, "pass" if right(q) else "fail"), id=q.id, strata=dict(q.strata)
        )
        for i, q in enumerate(questions)
    ]
    return load_arms([write_run(tmp_path / "run", samples)])


def test_the_plot_shows_what_was_counted(tmp_path):
    arms = asked(tmp_path, long_suite(0, SHORT), lambda q: q.stratum("depth") != "50")
    [run] = [scores_of(arm) for arm in arms]
    rows, columns, found = shares(run, "depth")
    assert (rows, columns) == (["0", "25", "50", "75", "100"], ["4k", "8k"])
    assert found["50", "4k"] == (0, 5) and found["100", "8k"] == (5, 5)
    for theme in ("light", "dark"):
        depth, task = depth_figure(run, theme).axes
        drawn = {(t.get_position(), t.get_text()) for t in depth.texts}
        assert drawn == {
            ((columns.index(c), rows.index(r)), f"{a}/{b}") for (r, c), (a, b) in found.items()
        }
        assert [t.get_text() for t in depth.get_xticklabels()] == columns
        assert [t.get_text() for t in task.get_yticklabels()] == list(TASKS)
        assert figures.render(depth_figure(run, theme), "svg", program="ds4-eval")
    report = report_of(arms)
    assert "depths.svg" in svg_files(report) and "Figure of depths" in to_html(report)


def test_other_runs_have_no_such_plot(tmp_path):
    arms = load_arms([write_run(tmp_path / "run", [sample("GPQA", i, "pass") for i in range(3)])])
    assert depth_figure(scores_of(arms[0])) is None
    assert "Figure of depths" not in to_html(report_of(arms))
