"""Checks the graders against a table of replies that have misled graders before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ds4eval.grading.grade import GRADERS, grade
from ds4eval.questions.question import Question

GOLDEN = Path(__file__).parents[1] / "data" / "golden.jsonl"


@dataclass(frozen=True, slots=True)
class Case:
    """One row: a question's kind, choices and key, a reply, and per grader (verdict, given)."""

    name: str
    question: Question
    reply: str
    opened: bool
    complete: bool
    expected: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A grader that said something else than the table; pairs are (verdict, given)."""

    case: Case
    grader: str
    expected: tuple[str, str]
    found: tuple[str, str]


def golden_cases() -> tuple[Case, ...]:
    """All rows of the table, in order."""
    cases = []
    with open(GOLDEN, encoding="ascii") as file:
        for line in file:
            row = json.loads(line)
            question = Question(
                id="golden",
                source="golden",
                text="(see the reply)",
                answer=row["key"],
                kind=row["kind"],
                choices=tuple(row["choices"]),
                form=row.get("form", "line"),
            )
            expected = tuple((row[grader][0], row[grader][1]) for grader in GRADERS)
            cases.append(
                Case(row["name"], question, row["reply"], row["opened"], row["complete"], expected)
            )
    return tuple(cases)


def check(cases: tuple[Case, ...]) -> list[Mismatch]:
    """Rows that this build of the graders reads otherwise."""
    found = []
    for case in cases:
        grades = grade(case.question, case.reply, case.opened, case.complete)
        for grader, expected in zip(GRADERS, case.expected):
            one = grades.by_name(grader)
            if (one.verdict, one.given) != expected:
                found.append(Mismatch(case, grader, expected, (one.verdict, one.given)))
    return found
