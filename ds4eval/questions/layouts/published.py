"""Makes questions out of records: one reader for each published layout, chosen by columns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from ds4eval.questions import aime
from ds4eval.questions.errors import DatasetError, Finding
from ds4eval.questions.fields import Fields
from ds4eval.questions.files import Record, Records
from ds4eval.questions.known import AIME_YEARS, LABELS
from ds4eval.questions.layouts.base import (
    ANSWER,
    ANSWER_LETTER,
    OPTIONS,
    QUESTION,
    RecordReader,
    Shown,
    strata_of,
)
from ds4eval.questions.layouts.others import told
from ds4eval.questions.question import (
    ALTERNATIVE,
    LETTERS,
    Question,
    QuestionError,
    canonical_answer,
)

WRONG = tuple(f"incorrectanswer{i}" for i in (1, 2, 3))
RECORD_ID = ("recordid", "id")
AIME_ID = ("id", "problemidx", "problemid", "idx", "index")
SUPER_STRATA = ("discipline", "field", "subfield", "difficulty", "iscalculation")
PROBLEM_PAGE = ("url", "link")
# Four choices without the columns of GPQA or SuperGPQA: an exam that the user has to name.
CHOICES = "choices"
N_GPQA = 4


def detect(fields: Fields) -> str:
    """Data set that a file's columns tell, '' when they tell none.

    Questions with choices in the form of many exams (MMLU, ARC, MMLU-Pro) are `CHOICES`.
    """
    if fields.has("correctanswer", *WRONG):
        return "gpqa-diamond"
    if others := told(fields):
        return others
    options = fields.first(OPTIONS) is not None
    if options and fields.has("discipline"):
        return "supergpqa"
    if options and fields.first(QUESTION) and fields.first((*ANSWER, *ANSWER_LETTER)):
        return CHOICES
    if fields.has("title", "question", "answer") and not fields.has("problem"):
        return "compsec"
    if fields.first(QUESTION) and fields.first(ANSWER) and not options:
        return "aime25"
    return ""


class Reader(RecordReader):
    """Reads the layouts of GPQA, SuperGPQA, line sets and the AIME.

    Parameters
    ----------
    year : int
        Of AIME problems whose record tells none.
    """

    def __init__(self, records: Records, fields: Fields, year: int = 2025) -> None:
        super().__init__(records, fields)
        self.year = year

    # GPQA ------------------------------------------------------------------------------------

    def gpqa(self, record: Record) -> Question:
        """The key is the choice's number, never its text: two choices may read alike."""
        if not self.fields.has("correctanswer"):
            return self._gpqa_formatted(record)
        text = self.fields.text(record, QUESTION)
        right = self.fields.text(record, ("correctanswer",))
        wrong = [self.fields.text(record, (name,)) for name in WRONG]
        return self._gpqa(record, text, (right, *wrong), 0)

    def _gpqa_formatted(self, record: Record) -> Question:
        text = self.fields.text(record, QUESTION)
        choices = self.fields.texts(record, OPTIONS)
        if len(choices) != N_GPQA:
            raise self.fields.error(record, OPTIONS[0], f"{N_GPQA} choices", list(choices))
        column, value = self.fields.value(record, ANSWER)
        letter = value.strip().upper() if isinstance(value, str) else ""
        if len(letter) == 1 and letter in LETTERS[: len(choices)]:
            return self._gpqa(record, text, choices, LETTERS.index(letter))
        place = int(self.fields.integer(record, ANSWER))
        if not self._counts_from_0:
            rule = "a letter, or numbers that count from 0 with a 0 among them"
            raise self.fields.error(record, column, rule, value)
        if not 0 <= place < len(choices):
            raise self.fields.error(record, column, f"an index below {len(choices)}", value)
        return self._gpqa(record, text, choices, place)

    @cached_property
    def _counts_from_0(self) -> bool:
        """Whether a 0 is among the file's answers: 1, 2, 3 alone could be counted either way."""
        values = (self.fields.value(record, ANSWER)[1] for record in self.records.records)
        return any(str(value).strip() in ("0", "0.0") for value in values)

    def _gpqa(self, record: Record, text: str, choices: tuple[str, ...], place: int) -> Question:
        id_ = self.fields.text(record, RECORD_ID, required=False)
        if not id_:
            id_ = f"gpqa-{hashlib.sha256(text.encode('utf-8')).hexdigest()[:14]}"
        if len(set(choices)) < len(choices):
            self.note("note", record, id_, "two choices have the same text")
        domain = self.fields.text(record, ("highleveldomain", "domain"), required=False)
        sub = self.fields.text(record, ("subdomain",), required=False)
        return self.make(
            record,
            id=id_,
            source=LABELS["gpqa-diamond"],
            text=text,
            answer=LETTERS[place],
            kind="letter",
            choices=choices,
            domain=domain or sub,
            strata=strata_of(domain=domain, subdomain=sub),
        )

    # SuperGPQA -------------------------------------------------------------------------------

    def supergpqa(self, record: Record) -> Question:
        """The letter is the key; where the answer's text disagrees, the row is flagged."""
        id_ = self.fields.text(record, ("uuid", "id"))
        text = self.fields.text(record, QUESTION)
        choices = self.fields.texts(record, OPTIONS)
        letter = self.fields.text(record, ANSWER_LETTER, required=False).upper()
        answer = self.fields.text(record, ANSWER, required=False)
        if not letter and answer:
            places = [i for i, choice in enumerate(choices) if choice == answer]
            if len(places) != 1:
                found = f"{len(places)} choices equal to the answer"
                raise self.fields.error(record, "answer", "the text of one choice", Shown(found))
            letter = LETTERS[places[0]]
            self.note("note", record, id_, "no answer letter: derived from the answer's text")
        question = self.make(
            record,
            id=id_,
            source=LABELS["supergpqa"],
            text=text,
            answer=letter,
            kind="letter",
            choices=choices,
            domain=self.fields.text(record, ("discipline",), required=False),
            strata=self._super_strata(record),
        )
        if answer and choices[LETTERS.index(letter)] != answer:
            message = f"the answer's text is not choice {letter}; the letter is trusted"
            self.note("warning", record, id_, message)
            question = question.noted("answer text and letter disagree")
        if len(set(choices)) < len(choices):
            self.note("note", record, id_, "two choices have the same text")
        return question

    def _super_strata(self, record: Record) -> tuple[tuple[str, str], ...]:
        found = {}
        for name in SUPER_STRATA:
            _, value = self.fields.value(record, (name,))
            if isinstance(value, bool):
                found[name] = "yes" if value else "no"
            elif value is not None:
                text = self.fields.text(record, (name,), required=False)
                found[name] = {"true": "yes", "false": "no"}.get(text.lower(), text)
        return strata_of(**found)

    # Line sets -------------------------------------------------------------------------------

    def compsec(self, record: Record) -> Question:
        id_ = self.fields.text(record, ("id", "caseid"))
        column, value = self.fields.value(record, ANSWER)
        if isinstance(value, list):
            value = ",".join(str(item) for item in value)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise self.fields.error(record, column, "lines such as 3 or 4-6,9", value)
        try:
            answer = canonical_answer(str(value), "lines")
        except QuestionError:
            raise self.fields.error(record, column, "lines such as 3 or 4-6,9", value) from None
        return self.make(
            record,
            id=id_,
            source=LABELS["compsec"],
            text=self.fields.text(record, QUESTION),
            answer=answer,
            kind="lines",
            domain=self.fields.text(record, ("domain",), required=False),
            title=self.fields.text(record, ("title",), required=False),
        )

    # AIME ------------------------------------------------------------------------------------

    def aime(self) -> list[Question]:
        """Questions of one paper or of several; ids become aime<year>-NN, II-1 being 16."""
        rows = self.records.records
        answers = [self._aime_answer(record) for record in rows]
        numbers = self._aime_numbers(answers)
        questions = []
        if self.fields.has("problemidx", "problemtype"):
            terms = "the layout of MathArena's copy, which is CC BY-NC-SA 4.0: no commercial use"
            self.findings.append(Finding("note", 0, "", terms))
        for record, answer, (year, number) in zip(rows, answers, numbers):
            kinds = self.fields.value(record, ("problemtype",))[1]
            domain = ", ".join(map(str, kinds)) if isinstance(kinds, list) else ""
            question = self.make(
                record,
                id=f"aime{year}-{number:02d}",
                source=f"AIME{year}",
                text=self.fields.text(record, QUESTION),
                answer=answer,
                kind="integer",
                domain=domain,
                strata=strata_of(part="I" if number <= aime.PER_PAPER else "II"),
            )
            questions.append(question)
        return questions

    def _aime_answer(self, record: Record) -> str:
        _, value = self.fields.value(record, ANSWER)
        key = aime.canonical_key(value) if isinstance(value, str) else None
        if key is None:
            return self._in_range(record, self.fields.integer(record, ANSWER))
        return self._in_range(record, key)

    def _in_range(self, record: Record, key: str) -> str:
        if any(int(part) > aime.MAX_KEY for part in key.split(ALTERNATIVE)):
            raise self.fields.error(record, ANSWER[0], f"0 to {aime.MAX_KEY}", key)
        return key

    def _aime_numbers(self, answers: list[str]) -> list[tuple[int, int]]:
        """(year, number 1 to 30) of every record: from ids where they tell, else from order."""
        rows = self.records.records
        pages = [aime.place_of_page(self.fields.value(record, PROBLEM_PAGE)[1]) for record in rows]
        told = [page for page in pages if page is not None]
        if len(told) == len(rows):
            return self._ranged(told)
        column = self.fields.first(AIME_ID)
        found = [aime.place_of_id(r.fields.get(column) if column else None) for r in rows]
        if all(isinstance(item, tuple) for item in found):
            named = [item for item in found if isinstance(item, tuple)]
            return self._ranged([(y or self._year(r), n) for r, (y, n) in zip(rows, named)])
        years = [self._year(record) for record in rows]
        if all(isinstance(item, int) for item in found):
            plain = [item for item in found if isinstance(item, int)]
            shift = self._shift(plain, column) + self._paper_shift(answers, sorted(plain))
            return self._ranged([(year, item + shift) for year, item in zip(years, plain)])
        if len(rows) not in (aime.PER_PAPER, aime.PER_YEAR):
            raise self.fields.error(
                rows[0], column or "id", "an id, or 15 or 30 records in order", len(rows)
            )
        shift = 1 + self._paper_shift(answers, list(range(len(rows))))
        return self._ranged([(year, i + shift) for i, year in enumerate(years)])

    def _shift(self, plain: list[int], column: str | None) -> int:
        """What is added to plain ids to count from 1."""
        if sorted(plain) == list(range(60, 60 + aime.PER_YEAR)):
            return -59  # HuggingFaceH4's copy of 2024 goes on behind two other years
        # math-ai counts from 0 in `id`, MathArena from 1 in `problem_idx`.
        by_id = column is not None and column.casefold() == "id"
        zero = 0 in plain or (aime.PER_YEAR not in plain and by_id and len(plain) != aime.PER_PAPER)
        return int(zero)

    def _paper_shift(self, answers: list[str], plain: list[int]) -> int:
        """15 when 15 records are the second paper, told by known keys of both papers."""
        if len(answers) != 15 or plain != list(range(plain[0], plain[0] + 15)) or plain[0] > 1:
            return 0
        score = {}
        for shift in (0, 15):
            known = [aime.KEYS.get(f"aime2025-{i + 1 + shift:02d}") for i in range(15)]
            score[shift] = sum(a == b for a, b in zip(answers, known))
        return 15 if score[15] > score[0] else 0

    def _year(self, record: Record) -> int:
        """Year of a record that its id does not tell: its own column, else that of the set."""
        _, value = self.fields.value(record, ("year",))
        text = str(value).removesuffix(".0") if value is not None else ""
        return int(text) if re.fullmatch(r"(?:19|20)[0-9]{2}", text) else self.year

    def _ranged(self, numbers: list[tuple[int, int]]) -> list[tuple[int, int]]:
        for record, (_, number) in zip(self.records.records, numbers):
            if not 1 <= number <= aime.PER_YEAR:
                raise self.fields.error(record, "id", "a problem of 1 to 30", number)
        return numbers

    # -----------------------------------------------------------------------------------------

    def read(self, dataset: str, keep_going: bool = False) -> list[Question]:
        """All questions of the file as one data set.

        With `keep_going`, records that are refused become findings of level 'error' instead.
        """
        one = {"gpqa-diamond": self.gpqa, "supergpqa": self.supergpqa, "compsec": self.compsec}
        read: Callable[[Record], Question | None] = one.get(dataset, self._aime_check)
        questions = self.each(read, keep_going)
        if dataset not in AIME_YEARS or any(finding.level == "error" for finding in self.findings):
            return questions
        try:
            return self.aime()
        except DatasetError as error:
            if not keep_going:
                raise
            self.findings.append(Finding("error", 0, "", str(error)))
            return []

    def _aime_check(self, record: Record) -> None:
        """Refuse a record of the AIME whatever its number; questions are made by `aime`."""
        self._aime_answer(record)
        self.fields.text(record, QUESTION)


def relabelled(question: Question, label: str) -> Question:
    return replace(question, source=label)
