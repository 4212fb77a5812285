"""Reads a set of the user's own: one question a record, in the format that `FIELDS` lists.

A field that cannot be right is refused with its record and name; nothing is guessed but the kind
of an answer that can only be of one kind.
"""

from __future__ import annotations

import re
from functools import cached_property

from ds4eval.questions.errors import Finding
from ds4eval.questions.fields import plain_name
from ds4eval.questions.files import Record
from ds4eval.questions.layouts.base import RecordReader, strata_of
from ds4eval.questions.question import LETTERS, Question
from ds4eval.questions.spelling import same_text

# What a record may hold; all but `question` and `answer` may be left out.
FIELDS = ("id", "question", "answer", "kind", "choices", "label", "group")
KINDS = {"integer": "integer", "choice": "letter", "text": "text", "latex": "latex"}
_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,31})(?:\.0{1,9})?\Z")


class OwnReader(RecordReader):
    """Questions of one file in the generic format."""

    def read(self, label: str, keep_going: bool = False) -> list[Question]:
        """All questions of the file.

        Parameters
        ----------
        label : str
            Of questions that have none of their own.
        keep_going : bool
            Turn refused records into findings of level 'error'.

        Raises
        ------
        DatasetError
            Naming record and field, unless `keep_going`.
        """
        known = {plain_name(name) for name in FIELDS}
        unread = [column for name, column in self.fields.names.items() if name not in known]
        if unread:
            shown = ", ".join(repr(column) for column in unread[:6])
            self.findings.append(_note(f"left unread: {shown}"))
        return self.each(lambda record: self._question(record, label), keep_going)

    def _question(self, record: Record, label: str) -> Question:
        choices = self._choices(record)
        kind = self._kind(record, choices)
        group = self.fields.text(record, ("group",), required=False)
        return self.make(
            record,
            id=self.fields.text(record, ("id",), required=False) or self._numbered(record),
            source=self.fields.text(record, ("label",), required=False) or label,
            text=self.fields.text(record, ("question",)),
            answer=self._answer(record, kind, choices),
            kind=kind,
            choices=choices,
            domain=group,
            strata=strata_of(group=group),
        )

    def _numbered(self, record: Record) -> str:
        return f"q{record.number:0{self._digits}d}"

    @cached_property
    def _digits(self) -> int:
        """Of the largest number, so that ids sort; at least four, so that files may grow."""
        return max(4, len(str(max(record.number for record in self.records.records))))

    def _choices(self, record: Record) -> tuple[str, ...]:
        _, value = self.fields.value(record, ("choices",))
        if value is None or value == "" or value == []:
            return ()
        return self.fields.texts(record, ("choices",))

    def _kind(self, record: Record, choices: tuple[str, ...]) -> str:
        """The kind that a record names, or the only one that it can be of."""
        named = self.fields.text(record, ("kind",), required=False)
        rule = f"one of {', '.join(KINDS)}"
        if named:
            if named.casefold() not in KINDS:
                raise self.fields.error(record, "kind", rule, named)
            return KINDS[named.casefold()]
        if choices:
            return "letter"
        answer = self.fields.text(record, ("answer",))
        if _INTEGER.match(answer):
            return "integer"
        raise self.fields.error(record, "kind", f"{rule} (the answer is no integer)", None)

    def _answer(self, record: Record, kind: str, choices: tuple[str, ...]) -> str:
        answer = self.fields.text(record, ("answer",))
        if kind == "letter":
            return self._letter(record, answer, choices)
        if kind == "integer" and _INTEGER.match(answer):
            return answer.replace(",", "").partition(".")[0].removeprefix("+")
        return answer

    def _letter(self, record: Record, answer: str, choices: tuple[str, ...]) -> str:
        """The key of a choice question: its letter, or the text of one of its choices."""
        if not choices:
            raise self.fields.error(record, "choices", "at least two with kind 'choice'", None)
        letters = LETTERS[: len(choices)]
        places = [i for i, choice in enumerate(choices) if same_text(choice, answer)]
        by_letter = len(answer) == 1 and answer.upper() in letters
        if by_letter and places not in ([], [letters.index(answer.upper())]):
            rule = "a letter that is not another choice's text"
            raise self.fields.error(record, "answer", rule, answer)
        if by_letter:
            return answer.upper()
        if len(places) != 1:
            rule = f"a letter A to {letters[-1]}, or the text of one choice"
            raise self.fields.error(record, "answer", rule, answer)
        return letters[places[0]]


def _note(message: str) -> Finding:
    return Finding("note", 0, "", message)
