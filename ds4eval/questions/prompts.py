"""Renders a question as chat messages; the form of an answer is asked for here and only here."""

from __future__ import annotations

from ds4eval.questions.question import LETTERS, Question

# Changes whenever a byte of any prompt changes; part of a run's manifest.
PROMPT_VERSION = "1"

SYSTEM = (
    "You are answering a hard benchmark question. "
    "Think it through with care, and write the answer in exactly the form that is asked for."
)
MARKER = "Answer:"
PLACEHOLDERS = {
    "letter": "<letter>",
    "integer": "<integer>",
    "lines": "<line number, or line numbers separated by commas>",
}
_TASKS = {"letter": "Solve the question. ", "integer": "Solve the problem. ", "lines": ""}


def answer_form(kind: str) -> str:
    """The instruction that ends a prompt: one last line, in this form, nothing after it."""
    return (
        f"{_TASKS[kind]}End your reply with exactly one line of the following form, "
        f"and write nothing after it:\n{MARKER} {PLACEHOLDERS[kind]}"
    )


def user_text(question: Question) -> str:
    """Text of the user's message: question, choices with letters, the answer's form."""
    parts = [question.text]
    if question.choices:
        lines = [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(question.choices)]
        parts.append("\n".join(["Choices:", *lines]))
    parts.append(answer_form(question.kind))
    return "\n\n".join(parts)


def messages(question: Question) -> tuple[tuple[str, str], ...]:
    """(role, content) pairs in order: the system's text, then the user's.

    Contents are data: whoever renders them must never let them become control tokens.
    """
    return (("system", SYSTEM), ("user", user_text(question)))
