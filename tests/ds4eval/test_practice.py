"""The practice suite: keys against fresh computations, layouts, and what must not be in it."""

from __future__ import annotations

import inspect
import json
import math
import re

import pytest

from ds4eval.questions.practice import FILES, FOLDER, practice_datasets
from ds4eval.questions.question import LETTERS
from ds4eval.questions.suites import load_suite
from tests.ds4eval import practice_checks, practice_choices


def part(family):
    return practice_datasets()[list(FILES).index(family)].questions


def right(question):
    return question.choices[LETTERS.index(question.answer)]


def number(text):
    """First number of a choice; fractions and negative numbers are read as such."""
    found = re.search(r"-?[0-9][0-9,]*(?:\.[0-9]+)?(?:e-?[0-9]+)?(?:/[0-9]+)?", text)
    assert found, text
    top, _, bottom = found[0].replace(",", "").partition("/")
    return float(top) / float(bottom or 1)


@pytest.mark.parametrize("index", range(30))
def test_aime_key_by_brute_force(index):
    assert part("aime")[index].answer == str(practice_checks.AIME[index]())


def nearest_is_right(question, value):
    """The keyed choice is nearest by far, and near: within rounding of its digits."""
    distance = {
        letter: abs(number(choice) - value) for letter, choice in zip(LETTERS, question.choices)
    }
    ranked = sorted(distance, key=lambda letter: distance[letter])
    assert ranked[0] == question.answer, (value, right(question))
    # Choices show three digits or fewer; the next choice must not be within reach of rounding.
    assert distance[ranked[0]] <= 0.025 * abs(value)
    assert distance[ranked[1]] > 3 * distance[ranked[0]]
    assert len({number(choice) for choice in question.choices}) == len(question.choices)


@pytest.mark.parametrize("index", range(1, 31))
def test_gpqa_key_by_computation(index):
    question = part("gpqa")[index - 1]
    if index == 3:
        assert [c for c in question.choices if practice_choices.gpqa_03(c)] == [right(question)]
        return
    nearest_is_right(question, practice_choices.GPQA[index]())


@pytest.mark.parametrize("index", range(1, 31))
def test_supergpqa_key_by_computation(index):
    question = part("supergpqa")[index - 1]
    check = practice_choices.SUPER[index]
    if inspect.signature(check).parameters:
        assert [c for c in question.choices if check(c)] == [right(question)]
        return
    nearest_is_right(question, check())


def test_sizes_and_kinds():
    assert [len(one.questions) for one in practice_datasets()] == [30, 30, 30]
    assert all(0 <= int(question.answer) <= 999 for question in part("aime"))
    assert {len(question.choices) for question in part("gpqa")} == {4}
    assert {len(question.choices) for question in part("supergpqa")} == {7, 9, 10}
    assert len({question.domain for question in part("supergpqa")}) == 13


def test_every_record_says_how_its_key_was_confirmed():
    for name in ("aime.jsonl", "supergpqa.jsonl"):
        for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
            assert len(json.loads(line)["check"]) > 5
    header = (FOLDER / "gpqa.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith(",Check") and header.startswith("Record ID,")


def test_ids_and_sources():
    suite = load_suite("practice")

    assert len({question.key for question in suite.questions}) == 90
    assert [question.source for question in suite.questions[:3]] == [
        "practice/aime",
        "practice/gpqa",
        "practice/supergpqa",
    ]
    assert suite.questions[0].id == "practice-aime-01"
    assert all(math.isclose(sum(1 for _ in q.choices) * q.chance, 1) for q in part("gpqa"))


def test_keys_do_not_depend_on_the_seed():
    one, two = load_suite("practice", seed=0), load_suite("practice", seed=7)

    assert one.questions == two.questions


def test_no_letter_is_the_key_of_most_questions():
    for family, most in (("gpqa", 12), ("supergpqa", 8)):
        keys = [question.answer for question in part(family)]
        assert max(keys.count(letter) for letter in LETTERS) <= most
