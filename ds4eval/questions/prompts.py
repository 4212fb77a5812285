r"""Renders a question as chat messages; the form of an answer is asked for here and only here.

Three forms: `line`, this project's and upstream's, asks for a last line `Answer: ...`; `boxed` asks
for a TeX box in the words of DeepSeek's model cards, without a system message; `simple-evals` uses
the words of openai/simple-evals (`common.py`, `math_eval.py`), without a system message, since
scores compare with others' only under their prompt.
"""

from __future__ import annotations

from ds4eval.questions.question import LETTERS, Question

# Changes whenever a byte of any prompt changes; part of a run's manifest.
PROMPT_VERSION = "1"
VERSIONS = {"line": PROMPT_VERSION, "boxed": "boxed-1", "simple-evals": "simple-evals-1"}

SYSTEM = (
    "You are answering a hard benchmark question. "
    "Think it through with care, and write the answer in exactly the form that is asked for."
)
MARKER = "Answer:"
PLACEHOLDERS = {
    "letter": "<letter>",
    "integer": "<integer>",
    "lines": "<line number, or line numbers separated by commas>",
    "text": "<answer>",
    "latex": "<answer>",
}
_TASKS = {
    "letter": "Solve the question. ",
    "integer": "Solve the problem. ",
    "lines": "",
    "text": "Answer the question. ",
    "latex": "Solve the problem. ",
}
_BOXED = {
    "letter": "the letter of the correct choice",
    "lines": "the line number, or the line numbers separated by commas,",
}


def answer_form(kind: str) -> str:
    """The instruction that ends a prompt: one last line, in this form, nothing after it."""
    return (
        f"{_TASKS[kind]}End your reply with exactly one line of the following form, "
        f"and write nothing after it:\n{MARKER} {PLACEHOLDERS[kind]}"
    )


def user_text(question: Question) -> str:
    """Text of the user's message: question, choices with letters, the answer's form."""
    if question.form == "simple-evals":
        return _simple_evals(question)
    parts = [question.text]
    if question.choices:
        lines = [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(question.choices)]
        parts.append("\n".join(["Choices:", *lines]))
    if question.form == "boxed":
        what = _BOXED.get(question.kind, "your final answer")
        parts.append(f"Please reason step by step, and put {what} within \\boxed{{}}.")
    else:
        parts.append(answer_form(question.kind))
    return "\n\n".join(parts)


def _simple_evals(question: Question) -> str:
    if question.choices:
        letters = LETTERS[: len(question.choices)]
        lines = "\n".join(f"{a}) {choice}" for a, choice in zip(letters, question.choices))
        return (
            "Answer the following multiple choice question. The last line of your response should "
            "be of the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of "
            f"{letters}. Think step by step before answering.\n\n{question.text}\n\n{lines}"
        )
    return (
        "Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $ANSWER (without quotes) where $ANSWER is the answer to the problem."
        f"\n\n{question.text}\n\n"
        'Remember to put your answer on its own line after "Answer:", and you do not need to use a '
        "\\boxed command."
    )


def system_text(question: Question) -> str:
    """Text of the system's message, '' where the form has none."""
    return SYSTEM if question.form == "line" else ""


def messages(question: Question) -> tuple[tuple[str, str], ...]:
    """(role, content) pairs in order: the system's text if there is one, then the user's.

    Contents are data: whoever renders them must never let them become control tokens.
    """
    user = ("user", user_text(question))
    system = system_text(question)
    return (("system", system), user) if system else (user,)
