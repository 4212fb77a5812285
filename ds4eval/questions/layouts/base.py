"""What every reader of records shares: findings, questions with errors that name their place.

A reader makes questions of one file's records. It knows neither where the file lies nor what is
done with the questions.
"""

from __future__ import annotations

from collections.abc import Callable

from ds4eval.questions.errors import DatasetError, Finding
from ds4eval.questions.fields import Fields
from ds4eval.questions.files import Record, Records
from ds4eval.questions.question import Question, QuestionError

# Names of every published layout, plain (see `plain_name`), most telling first.
QUESTION = ("question", "problem", "prompt", "questiontext")
ANSWER = ("answer", "expectedanswer", "solutionanswer", "finalanswer")
OPTIONS = ("options", "choices")
ANSWER_LETTER = ("answerletter", "answerkey")


class Shown(str):
    """Text that an error shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class RecordReader:
    """Questions of one file. Findings gather beside them; damage raises DatasetError."""

    def __init__(self, records: Records, fields: Fields) -> None:
        self.records = records
        self.fields = fields
        self.findings: list[Finding] = []

    def note(self, level: str, record: Record, id_: str, message: str) -> None:
        self.findings.append(Finding(level, record.number, id_, message))

    def make(self, record: Record, **parts: object) -> Question:
        """A question, its own refusal turned into one that names file and record."""
        try:
            return Question(**parts)  # type: ignore[arg-type]
        except QuestionError as error:
            rule, _, found = error.message.removeprefix("expected ").partition(", found ")
            raise self.fields.error(record, error.field, rule, Shown(found)) from None

    def each(
        self, read: Callable[[Record], Question | None], keep_going: bool = False
    ) -> list[Question]:
        """Questions of all records; with `keep_going`, refusals become findings of level 'error'.

        Raises
        ------
        DatasetError
            If a record is refused.
        """
        questions = []
        for record in self.records.records:
            try:
                found = read(record)
            except DatasetError as error:
                if not keep_going:
                    raise
                self.note("error", record, "", str(error))
                continue
            if found is not None:
                questions.append(found)
        return questions


def strata_of(**values: str) -> tuple[tuple[str, str], ...]:
    """Strata of a question: those that have a value."""
    return tuple((name, value) for name, value in values.items() if value)
