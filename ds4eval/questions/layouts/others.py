r"""Reads HMMT, MATH-500, GSM8K and MMLU-Pro in the layouts in circulation.

HMMT as MathArena's copies have it (`problem_idx`, `problem`, `answer`, `problem_type`); MATH-500
with `problem`, `answer`, `subject`, `level`, `unique_id`; GSM8K with the key behind `####` at the
end of its worked answer; MMLU-Pro with `question_id`, `options`, `answer`, `answer_index`,
`category`. Answers of HMMT and MATH-500 are LaTeX and compared by value.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ds4eval.questions.fields import Fields
from ds4eval.questions.files import Record
from ds4eval.questions.known import LABELS
from ds4eval.questions.layouts.base import ANSWER, OPTIONS, QUESTION, RecordReader, strata_of
from ds4eval.questions.question import LETTERS, Question

_MARK = "####"
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,31})(?:\.0{1,9})?\Z")
_ID_CHARACTERS = re.compile(r"[^\x21-\x7e]+")


def told(fields: Fields) -> str:
    """Data set of these that a file's columns alone tell, '' when they tell none."""
    if fields.has("questionid", "answerindex", "cotcontent") and fields.first(OPTIONS):
        return "mmlu-pro"
    if fields.has("problem", "answer", "subject", "level", "uniqueid"):
        return "math-500"
    return ""


class OtherReader(RecordReader):
    """Questions of one of these sets, named."""

    def read(self, dataset: str, keep_going: bool = False) -> list[Question]:
        """All questions of the file.

        Raises
        ------
        DatasetError
            Naming record and field, unless `keep_going`.
        """
        one: dict[str, Callable[[Record], Question]] = {
            "hmmt": self.hmmt,
            "math-500": self.math,
            "gsm8k": self.gsm8k,
            "mmlu-pro": self.mmlu_pro,
        }
        return self.each(one[dataset], keep_going)

    def hmmt(self, record: Record) -> Question:
        kinds = self.fields.value(record, ("problemtype",))[1]
        domain = ", ".join(map(str, kinds)) if isinstance(kinds, list) else ""
        return self.make(
            record,
            id=self._id(record, ("problemidx", "problemid", "id", "idx"), "hmmt"),
            source=LABELS["hmmt"],
            text=self.fields.text(record, QUESTION),
            answer=self.fields.text(record, ANSWER),
            kind="latex",
            domain=domain,
            strata=strata_of(type=domain),
        )

    def math(self, record: Record) -> Question:
        subject = self.fields.text(record, ("subject", "type"), required=False)
        level = self.fields.text(record, ("level",), required=False)
        return self.make(
            record,
            id=self._id(record, ("uniqueid", "id"), "math-500"),
            source=LABELS["math-500"],
            text=self.fields.text(record, QUESTION),
            answer=self.fields.text(record, ANSWER),
            kind="latex",
            domain=subject,
            strata=strata_of(subject=subject, level=level.removeprefix("Level ")),
        )

    def gsm8k(self, record: Record) -> Question:
        worked = self.fields.text(record, ANSWER)
        key = worked.rpartition(_MARK)[2].strip()
        if not _NUMBER.match(key):
            raise self.fields.error(record, ANSWER[0], f"a whole number behind {_MARK}", worked)
        return self.make(
            record,
            id=self._id(record, ("id",), "gsm8k"),
            source=LABELS["gsm8k"],
            text=self.fields.text(record, QUESTION),
            answer=_digits(key),
            kind="integer",
        )

    def mmlu_pro(self, record: Record) -> Question:
        """The letter is the key; where the index disagrees, the row is flagged."""
        id_ = self._id(record, ("questionid", "id"), "mmlu-pro")
        letter = self.fields.text(record, ("answer",)).upper()
        category = self.fields.text(record, ("category",), required=False)
        question = self.make(
            record,
            id=id_,
            source=LABELS["mmlu-pro"],
            text=self.fields.text(record, QUESTION),
            answer=letter,
            kind="letter",
            choices=self.fields.texts(record, OPTIONS),
            domain=category,
            strata=strata_of(category=category),
        )
        _, index = self.fields.value(record, ("answerindex",))
        if isinstance(index, (int, float)) and index != LETTERS.index(letter):
            message = f"the answer's index is not that of {letter}; the letter is trusted"
            self.note("warning", record, id_, message)
            question = question.noted("answer index and letter disagree")
        return question

    def _id(self, record: Record, aliases: tuple[str, ...], prefix: str) -> str:
        """The record's own id behind the set's name, or its number where it has none."""
        value = self.fields.text(record, aliases, required=False).removesuffix(".0")
        if not value:
            return f"{prefix}-{record.number:04d}"
        value = _ID_CHARACTERS.sub("-", value)
        return f"{prefix}-{int(value):02d}" if value.isdecimal() else value


def _digits(key: str) -> str:
    """Canonical integer of a key that `_NUMBER` fits."""
    sign = "-" if key.startswith("-") else ""
    digits = key.lstrip("-").partition(".")[0].replace(",", "").lstrip("0") or "0"
    return digits if digits == "0" else sign + digits
