"""The graders: the golden table, the classic rules spelled out, and properties of all three."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ds4eval.grading import classic
from ds4eval.grading.golden import GOLDEN, check, golden_cases
from ds4eval.grading.grade import FAIL, GRADERS, NO_ANSWER, NOT_GIVEN, PASS, Grades, grade
from ds4eval.questions.question import LETTERS, Question
from tests.counting import MOST_GROWTH, growth

CASES = golden_cases()
L4 = Question("q", "s", "t", "B", "letter", ("alpha", "beta", "gamma", "delta"))
L10 = Question("q", "s", "t", "C", "letter", tuple(f"{i} m" for i in range(1, 11)))
INT = Question("q", "s", "t", "70", "integer")
LINES = Question("q", "s", "t", "12-14", "lines")
QUESTIONS = (L4, L10, INT, LINES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_golden(case):
    grades = grade(case.question, case.reply, case.opened, case.complete)
    found = tuple(
        (one.verdict, one.given) for one in (grades.strict, grades.lenient, grades.classic)
    )

    assert found == case.expected


def test_golden_table_is_broad():
    assert len(CASES) >= 150 and len({case.name for case in CASES}) == len(CASES)
    kinds = Counter(case.question.kind for case in CASES)
    assert kinds.keys() == {"letter", "integer", "lines", "text"}
    for place in range(3):
        seen = {case.expected[place][0] for case in CASES}
        assert seen == {PASS, FAIL, NO_ANSWER}
    # The rules must be seen to differ from each other.
    assert sum(case.expected[0] != case.expected[1] for case in CASES) > 30
    assert sum(case.expected[1] != case.expected[2] for case in CASES) > 30


def test_a_wrong_row_is_found(monkeypatch):
    """The self-test can fail: a table with one row changed must be told."""
    import dataclasses

    wrong = dataclasses.replace(CASES[0], expected=(("fail", "C"), *CASES[0].expected[1:]))

    assert [m.grader for m in check((wrong, *CASES[1:]))] == ["strict"]
    assert check(CASES) == []


def test_golden_file_is_ascii_and_one_row_a_line():
    rows = [json.loads(line) for line in GOLDEN.read_text(encoding="ascii").splitlines()]

    assert all(set(GRADERS) <= set(row) for row in rows)


# The classic rules once more, byte by byte ------------------------------------------------------


def slow_classic(reply: bytes, kind: str, n_choices: int) -> str:
    """The rules as prose states them, with loops and no patterns."""
    text = bytearray()
    for byte in reply:
        if byte == 0:
            break
        text.append(byte)
    start = 0
    for i in range(len(text)):
        if text[i : i + 8] == b"</think>":
            start = i + 8
            break
    seen = bytes(text[start:])
    marker = None
    for i in range(len(seen)):
        if seen[i : i + 6].lower() == b"answer":
            marker = i
            break

    def alpha(place):
        return 0 <= place < len(seen) and chr(seen[place]) in f"{LETTERS}{LETTERS.lower()}"

    def letter(place):
        one = chr(seen[place]).upper() if seen[place] < 128 else ""
        alone = not alpha(place - 1) and not alpha(place + 1)
        return one if one and one in LETTERS[:n_choices] and alone else ""

    def digit(place):
        return place < len(seen) and 48 <= seen[place] <= 57

    def run(place, end):
        stop = place
        while stop < end and digit(stop):
            stop += 1
        return (seen[place:stop].decode().lstrip("0") or "0")[:31], stop

    if kind == "letter":
        if marker is not None:
            for i in range(marker, min(marker + 96, len(seen))):
                if letter(i):
                    return letter(i)
        for i in range(len(seen) - 1, -1, -1):
            if letter(i):
                return letter(i)
        return "?"
    if kind == "lines" and marker is not None:
        end = marker
        while end < min(marker + 160, len(seen)) and seen[end] != 10:
            end += 1
        spec = lines(seen[marker:end])
        if spec:
            return spec
    if marker is not None:
        end = min(marker + 160, len(seen))
        for i in range(marker, end):
            if digit(i):
                return run(i, end)[0]
    found, i = "?", 0
    while i < len(seen):
        if digit(i):
            found, i = run(i, len(seen))
        else:
            i += 1
    return found


def lines(window: bytes) -> str:
    spec, i = "", 0
    while i < len(window):
        if not 48 <= window[i] <= 57:
            i += 1
            continue
        if spec and len(spec) < 31:
            spec += ","
        for step in ("number", "dash", "number"):
            if step == "dash":
                while i < len(window) and window[i] in b" \t\n\v\f\r":
                    i += 1
                if i >= len(window) or window[i] != 45:
                    break
                spec = (spec + "-")[:31]
                i += 1
                while i < len(window) and window[i] in b" \t\n\v\f\r":
                    i += 1
                continue
            while i < len(window) and 48 <= window[i] <= 57:
                spec = (spec + chr(window[i]))[:31]
                i += 1
        i += 1
    return spec.rstrip(",-")


PIECES = st.sampled_from(
    [b"Answer", b"answer: ", b"ANSWER", b"B", b" C ", b"a", b"I think", b"70", b"007", b" 12 - 14",
     b"9 15", b"3-", b",", b"\n", b"</think>", b"<think>", b"\0", b"\xc3\xa9", b"(D)", b"J.",
     b"not", b" " * 90, b"x" * 60, b"99999999999999999999999999999999999", b"_B_", b"-"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=12).map(b"".join), st.sampled_from(["letter", "integer", "lines"]),
       st.sampled_from([0, 4, 10]))  # fmt: skip
@example(b"answer" + b" " * 89 + b"Bx B", "letter", 4)
@example(b"answer 9 15", "lines", 0)
def test_classic_is_the_prose(reply, kind, n_choices):
    n_choices = n_choices or 10 if kind == "letter" else 0

    assert classic.extract(reply, kind, n_choices)[0] == slow_classic(reply, kind, n_choices)


@pytest.mark.parametrize(
    "given_, expected, passed",
    [
        ("12", "12-14", True),
        ("12,14", "12-14", True),
        ("12,15", "12-14", False),
        ("14-12", "12-14", True),
        ("?", "12-14", False),
        ("300", "12-14", False),
        ("250-900", "250-255", True),
        ("9-,12", "0-12", True),
        ("9-,12", "9,12", False),
        ("9-,12", "1-12", False),
        ("255", "250-255", True),
        ("250-900", "250-254", False),
        ("256", "250-255", False),
    ],
)
def test_classic_line_sets(given_, expected, passed):
    assert classic.matches(given_, expected, "lines") is passed


# Properties --------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["Answer:", "answer", "The answer is", "**", "*", "`", "\\boxed{", "}", "$", "B", "b.", "(C)",
     "70", "070", "1,070", "-", "12-14", "12, 13", "or", "not", "\n", "\r\n", " ", "</think>",
     "<think>", "\u0412", "\uff22", "\u200b", "\x1b[2J", "beta", "=", "None", "\x00", "\u2028"]
)  # fmt: skip
REPLIES = st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=14).map(" ".join))


def sound(grades: Grades, question: Question) -> None:
    for name in GRADERS:
        one = grades.by_name(name)
        assert one.verdict in (PASS, FAIL, NO_ANSWER)
        assert (one.verdict == NO_ANSWER) == (one.given == "?")
        assert one.expected == question.answer and one.rule
        if question.kind == "letter" and one.given != "?":
            assert one.given in LETTERS[: len(question.choices)]
        if question.kind != "lines" and name != "ds4-classic":
            assert (one.verdict == PASS) == (one.given == question.answer)
        # Whatever a model wrote, what is printed of it is harmless.
        assert one.given.isascii() and one.given.isprintable()


@settings(max_examples=400, deadline=None)
@given(REPLIES, st.sampled_from(QUESTIONS), st.booleans(), st.booleans())
def test_never_raises_and_is_sound(reply, question, opened, complete):
    grades = grade(question, reply, opened, complete)

    sound(grades, question)
    assert grades == grade(question, reply, opened, complete)
    if grades.strict.verdict != NO_ANSWER:
        # The lenient rule never loses what the strict one reads.
        assert grades.lenient.given == grades.strict.given


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(QUESTIONS))
def test_bytes_that_are_no_text(reply, question):
    sound(grade(question, reply), question)


@settings(max_examples=200, deadline=None)
@given(REPLIES, st.sampled_from(QUESTIONS), st.sampled_from("ABCD"), st.integers(0, 999))
def test_a_clean_last_line_always_wins(reply, question, letter, integer):
    """Idempotence of the form: whatever came before, the asked line behind it decides."""
    value = {"letter": letter, "integer": str(integer), "lines": str(integer % 256)}[question.kind]
    body = reply.replace("<think>", "").replace("\x1b", "")
    grades = grade(question, f"{body}\nAnswer: {value}\n")

    assert grades.strict.given == value
    # What was given, written in the asked form, is read as itself again.
    again = grade(question, f"Answer: {grades.strict.given}")
    assert again.strict.given == value and again.strict.rule == "answer-line"


@settings(max_examples=150, deadline=None)
@given(REPLIES, st.sampled_from(QUESTIONS))
def test_thinking_is_never_graded(reply, question):
    thought = reply.replace("</think>", "")

    open_block = grade(question, thought, opened=True)
    assert open_block.strict.verdict == open_block.lenient.verdict == NO_ANSWER
    assert open_block.thinking == "open"
    closed = grade(question, f"{thought}</think>Answer: {question.answer}", opened=True)
    assert closed.strict.verdict == PASS and closed.thinking == "closed"


@pytest.mark.parametrize(
    "reply",
    [
        "answer " * 150_000,
        "Answer: " + "9" * 1_000_000,
        "\\boxed{" * 150_000,
        "(" * 1_000_000,
        "*" * 1_000_000 + "Answer: B",
        "a" * 1_000_000,
        "<think>" * 140_000,
        "\x1b]" * 500_000,
        "\x1b[" + ";" * 1_000_000,
        "Answer: " + "{" * 1_000_000,
        " " * 1_000_000 + "B",
        "\n" * 1_000_000,
        "1," * 500_000,
        "answer is not " * 70_000,
    ],
    ids=lambda reply: repr(reply[:10]),
)
def test_a_megabyte_costs_no_more_than_reading(reply):
    """Quadratic patterns would take a hundred times as long for ten times the reply."""

    def grade_part(n: int) -> None:
        part = reply[: n // 2] + reply[-n // 2 :]
        for question in (L10, INT, LINES):
            sound(grade(question, part), question)

    assert growth(grade_part, 100_000) <= MOST_GROWTH


def test_precision_and_recall_of_line_sets():
    one = grade(LINES, "Answer: 13").strict
    two = grade(LINES, "Answer: 13, 20").strict
    far = grade(LINES, "Answer: 300").strict

    assert (one.verdict, one.precision, one.recall) == (PASS, 1.0, pytest.approx(1 / 3))
    assert (two.verdict, two.precision) == (FAIL, 0.5)
    assert (far.verdict, far.precision, far.recall) == (FAIL, 0.0, 0.0)
    assert grade(INT, "Answer: 70").strict.precision is None


@pytest.mark.parametrize(
    ("value", "given"),
    [("G as it burns", "G"), ("G, since it burns", "G"), ("G,because it burns", "G"),
     ("Gas", NOT_GIVEN), ("Has", NOT_GIVEN), ("Bas relief", NOT_GIVEN)],
)  # fmt: skip
def test_a_letter_is_parted_from_its_reason(value, given):
    """A word that begins with a letter and "as" states no letter."""
    assert grade(L10, f"Answer: {value}").strict.given == given


def test_missed_form_is_told():
    assert grade(L4, "The answer is **B**.").missed
    assert not grade(L4, "Answer: B").missed
    assert not grade(L4, "The answer is C").missed


def test_unknown_grader():
    with pytest.raises(KeyError):
        grade(L4, "").by_name("kind")


def test_equal_choices_are_not_told_by_text():
    twins = Question("q", "s", "t", "A", "letter", ("same", "same", "other"))

    assert grade(twins, "Answer: same").lenient.verdict == NO_ANSWER
    assert grade(twins, "Answer: other").lenient.given == "C"
