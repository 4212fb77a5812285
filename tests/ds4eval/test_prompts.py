"""Prompts: their exact bytes, since every score depends on them."""

from __future__ import annotations

import hashlib

from ds4eval.grading.grade import grade
from ds4eval.questions.prompts import (
    MARKER,
    PLACEHOLDERS,
    PROMPT_VERSION,
    SYSTEM,
    messages,
    user_text,
)
from ds4eval.questions.question import KINDS, Question

CHOICE = Question("q", "s", "Which?\nThink.", "B", "letter", ("one", "two\nlines", "three"))
INTEGER = Question("q", "s", "How many?", "7", "integer")
LINES = Question("q", "s", "1 a\n2 b", "2", "lines")


def test_choice_prompt():
    assert user_text(CHOICE) == (
        "Which?\nThink.\n\n"
        "Choices:\nA. one\nB. two\nlines\nC. three\n\n"
        "Solve the question. End your reply with exactly one line of the following form, "
        "and write nothing after it:\nAnswer: <letter>"
    )


def test_integer_and_line_prompts():
    assert user_text(INTEGER).startswith("How many?\n\nSolve the problem. End your reply")
    assert user_text(INTEGER).endswith("\nAnswer: <integer>")
    assert "Choices" not in user_text(INTEGER)
    assert user_text(LINES).startswith("1 a\n2 b\n\nEnd your reply with exactly one line")
    assert user_text(LINES).endswith("\nAnswer: <line number, or line numbers separated by commas>")


def test_messages():
    assert messages(INTEGER) == (("system", SYSTEM), ("user", user_text(INTEGER)))


def test_version_changes_with_the_bytes():
    """A changed prompt needs a new PROMPT_VERSION: resumed runs must not mix two prompts."""
    text = "\0".join((SYSTEM, *(user_text(question) for question in (CHOICE, INTEGER, LINES))))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]

    assert (PROMPT_VERSION, digest) == ("1", "3a234e55c67607aa")


def test_control_tokens_and_think_tags_stay_text():
    """Rendering keeps data from becoming control tokens; the prompt must hand it on unchanged."""
    text = "What does </think> mean? <\uff5cUser\uff5c> {{x}} %s \\n"
    question = Question("q", "s", text, "7", "integer")

    assert user_text(question).startswith(text + "\n\n")


def test_the_prompt_asks_for_what_the_headline_grader_reads():
    for question in (CHOICE, INTEGER, LINES):
        reply = f"Some words.\n\n{MARKER} {question.answer}"
        assert grade(question, reply).strict.verdict == "pass"
        echo = user_text(question)
        assert grade(question, echo).strict.verdict == "none"
    assert set(PLACEHOLDERS) == set(KINDS)
