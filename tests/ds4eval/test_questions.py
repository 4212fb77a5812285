"""Questions: what is refused, line sets, hashes and orders that must never change."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4eval.questions.question import (
    LETTERS,
    Question,
    QuestionError,
    canonical_answer,
    fingerprint,
    format_lines,
    parse_lines,
    permuted,
    seeded_order,
    stable_hash,
)

GOOD = Question("q1", "Set", "Which?", "B", "letter", ("one", "two", "three"))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("id", "", "id: expected printable"),
        ("id", "a b", "id: expected printable"),
        ("id", "a\n", "id: expected printable"),
        ("id", "a\u202eb", "id: expected printable"),
        ("source", "", "source: expected"),
        ("source", "a\x07", "source: expected"),
        ("text", " \n", "question: expected text"),
        ("kind", "essay", "kind: expected one of"),
        ("choices", (), "choices: expected 2 to 26, found 0"),
        ("choices", ("one",), "choices: expected 2 to 26, found 1"),
        ("choices", ("a", "", "c"), "choices: expected text, found none in B"),
        ("choices", tuple(map(str, range(27))), "choices: expected 2 to 26, found 27"),
        ("answer", "b", "answer: expected the canonical form 'B'"),
        ("answer", "D", "answer: expected a letter A to C"),
        ("answer", "", "answer: expected a letter A to C"),
        ("answer", "AB", "answer: expected a letter A to C"),
        ("permutation", (0, 1), "permutation: expected an order of 3"),
        ("permutation", (0, 0, 1), "permutation: expected an order of 3"),
    ],
)
def test_refused(field, value, message):
    with pytest.raises(QuestionError, match=message.replace("(", r"\(")):
        dataclasses.replace(GOOD, **{field: value})


def test_choices_need_letters():
    with pytest.raises(QuestionError, match="choices: expected none"):
        Question("q", "s", "t", "7", "integer", ("a", "b"))


@pytest.mark.parametrize(
    "answer, kind, expected",
    [
        (" 070 ", "integer", "70"),
        ("000", "integer", "0"),
        ("c", "letter", "C"),
        ("14-12", "lines", "12-14"),
        ("3, 4 ,5", "lines", "3-5"),
        ("9,3,4", "lines", "3-4,9"),
        ("0", "lines", "0"),
    ],
)
def test_canonical_answers(answer, kind, expected):
    assert canonical_answer(answer, kind, 5) == expected


@pytest.mark.parametrize(
    "answer, kind",
    [("--5", "integer"), ("7 0", "integer"), ("\u0667", "integer"), ("9" * 32, "integer"),
     ("1.0", "integer"), ("", "integer"), ("3-", "lines"), ("256", "lines"), ("", "lines"),
     ("1;2", "lines"), ("\u00e4", "letter"), ("F", "letter")],
)  # fmt: skip
def test_no_canonical_form(answer, kind):
    with pytest.raises(QuestionError, match="answer: expected"):
        canonical_answer(answer, kind, 5)


@given(st.sets(st.integers(0, 255), min_size=1))
def test_line_sets_round_trip(lines):
    assert parse_lines(format_lines(lines)) == lines
    assert canonical_answer(format_lines(lines), "lines") == format_lines(lines)


def test_hash_is_sha256_of_lengths_and_parts():
    """Fixed for ever: seeds, samples and orders of past runs depend on it."""
    raw = (1).to_bytes(8, "big") + b"7" + (3).to_bytes(8, "big") + "aä".encode()
    expected = int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")

    assert stable_hash(7, "aä") == expected
    assert stable_hash("ab", "c") != stable_hash("a", "bc")
    assert stable_hash() == int.from_bytes(hashlib.sha256().digest()[:8], "big")


@given(st.integers(1, 26), st.text())
def test_orders_are_orders(count, part):
    order = seeded_order(count, part)

    assert sorted(order) == list(range(count))
    assert order == seeded_order(count, part)


@given(st.integers(2, 10), st.data())
def test_permuting_keeps_the_right_choice(count, data):
    choices = tuple(f"choice {i}" for i in range(count))
    right = data.draw(st.integers(0, count - 1))
    question = Question("q", "s", "t", LETTERS[right], "letter", choices)
    first = data.draw(st.permutations(range(count)))
    second = data.draw(st.permutations(range(count)))

    moved = permuted(permuted(question, first), second)

    assert moved.choices[LETTERS.index(moved.answer)] == f"choice {right}"
    assert tuple(choices[i] for i in moved.permutation) == moved.choices


def test_permuting_refuses_what_is_no_order():
    with pytest.raises(QuestionError, match="expected an order of 3"):
        permuted(GOOD, (0, 1, 1))


def test_fingerprint_follows_what_is_shown():
    changed = [
        dataclasses.replace(GOOD, text="Which one?"),
        dataclasses.replace(GOOD, answer="C"),
        dataclasses.replace(GOOD, choices=("one", "two", "four")),
        permuted(GOOD, (1, 0, 2)),
    ]
    assert len({fingerprint(GOOD), *map(fingerprint, changed)}) == 5
    # Labels and notes change nothing that a model sees.
    assert fingerprint(dataclasses.replace(GOOD, source="Other", domain="d")) == fingerprint(GOOD)


def test_properties():
    assert GOOD.key == "Set/q1" and GOOD.chance == pytest.approx(1 / 3)
    assert Question("q", "s", "t", "7", "integer").chance == 0.001
    assert Question("q", "s", "prose only", "7", "lines").chance == 0.0
    listing = "1 int a;\n2 int b;\n 3 int c;\n4 int d;"
    assert Question("q", "s", listing, "2-3", "lines").chance == 0.5
    noted = dataclasses.replace(GOOD, strata=(("difficulty", "hard"),)).noted("x")
    assert noted.stratum("difficulty") == "hard" and noted.stratum("field") == ""
    assert noted.notes == ("x",)


def test_questions_prompts_and_grading_stand_alone():
    """Importing them loads neither the engine nor click, in a process of its own."""
    code = (
        "import sys, ds4eval.questions.question, ds4eval.questions.prompts, ds4eval.grading.grade;"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('engine', 'click', 'numpy')];"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
