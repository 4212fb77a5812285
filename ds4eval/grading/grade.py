r"""Grades a reply by three rules side by side; it needs neither a model nor a file.

- `strict`: the answer in the form that the prompt asks for. On a last line, this is
  `Answer: <value>`, or a TeX box alone on it, with nothing behind; where a box is asked for, the
  last box. The value is one answer of the right kind.
- `lenient`: the last statement of an answer anywhere behind the thinking
  (`ds4eval.grading.statements`); failing these, a last line that is nothing but a value.
- `classic`: what the C program ds4-eval would have said (`ds4eval.grading.classic`).

One of them is a run's headline, strict unless the user says otherwise. Text inside a think block
is never graded, except by `classic` when the block was not closed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from ds4eval.grading import classic, extract, latex
from ds4eval.grading.numbers import same_number
from ds4eval.grading.statements import boxes, statements
from ds4eval.questions.question import (
    ALTERNATIVE,
    LETTERS,
    Question,
    QuestionError,
    parse_lines,
)
from ds4eval.questions.spelling import same_text

GRADERS = ("strict", "lenient", "ds4-classic")
# Changes whenever a verdict could; not part of a resume key, since saved replies can be regraded.
GRADER_VERSION = "3"
PASS, FAIL, NO_ANSWER = "pass", "fail", "none"
NOT_GIVEN = "?"

_DENIED = re.compile(
    r"\s{0,6}(?:not|never|neither|none|no|unlikely|n't|isn't|cannot)\b", re.IGNORECASE
)
_HEDGED = re.compile(r"\b(?:or|either|not|nor|and)\b|/", re.IGNORECASE)
# Where a reason or another sentence begins behind an answer in words.
_REASON = re.compile(r",?\s(?:because|since|as)\b|\.\s", re.IGNORECASE)
# A last line of more words is a sentence, not an answer; commands of TeX are no words.
BARE_WORDS = 3
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
# Letters of other scripts that look like Latin capitals; read as these by `lenient` only.
_LOOKALIKES = str.maketrans("АВСЕНІЈАΒΕΗΙ", "ABCEHIJABEHI")


@dataclass(frozen=True, slots=True)
class Grade:
    """One rule's view of a reply.

    `verdict` is 'pass', 'fail' or 'none' (no answer found: counts as wrong, is shown apart);
    `given` is canonical, '?' without an answer; `rule` names the step that decided. For line
    sets, precision and recall against the key; None for other kinds and without an answer.
    """

    verdict: str
    expected: str
    given: str
    rule: str
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class Grades:
    """The three grades of one reply and what became of its thinking ('none', 'closed', 'open')."""

    strict: Grade
    lenient: Grade
    classic: Grade
    thinking: str

    def by_name(self, grader: str) -> Grade:
        """Grade of one of `GRADERS`.

        Raises
        ------
        KeyError
            If there is no such grader.
        """
        names = {"strict": self.strict, "lenient": self.lenient, "ds4-classic": self.classic}
        return names[grader]

    @property
    def missed(self) -> bool:
        """The right answer was given, but not in the form that the headline asks for."""
        return self.strict.verdict == NO_ANSWER and self.lenient.verdict == PASS


def grade(
    question: Question, reply: str | bytes, opened: bool = False, complete: bool = True
) -> Grades:
    """Grade one reply by all three rules. Never raises on what a model wrote.

    Parameters
    ----------
    question : Question
    reply : str or bytes
        The model's whole output; bytes that are not UTF-8 are replaced.
    opened : bool
        The prompt ended with an open think tag.
    complete : bool
        False when the output was cut (token limit, user, error): a last line without a line end
        may then be unfinished, and `strict` and `lenient` do not trust an answer line there.
    """
    raw = reply if isinstance(reply, bytes) else reply.encode("utf-8", "surrogatepass")
    text = reply if isinstance(reply, str) else reply.decode("utf-8", "replace")
    seen = extract.visible_part(text, opened)
    body = extract.clean(seen.text)
    if not complete:
        body = body[: body.rfind("\n") + 1]
    old, step = classic.extract(raw, question.kind, len(question.choices))
    return Grades(
        strict=_judge(question, *_strict(question, body, seen.thinking)),
        lenient=_judge(question, *_lenient(question, body, seen.thinking)),
        classic=_judge_classic(question, old, step),
        thinking=seen.thinking,
    )


def _strict(question: Question, body: str, thinking: str) -> tuple[str | None, str]:
    if thinking == "open" and not body.strip():
        return None, "thinking-open"
    if question.form == "boxed":
        return _last_box(question, body)
    line = extract.last_line(body)
    if line in ("$$", "\\]"):
        line = extract.last_line(body.rstrip()[: -len(line)])  # a formula set apart ends here
    value = extract.line_value(line)
    if value is None:
        alone = re.fullmatch(r"[*_`#>$\s\\(\[]{0,8}\\boxed\s{0,4}\{(.*)\}[*_`$\s\\)\].]{0,8}", line)
        only = boxes(line) if alone else []
        if len(only) == 1 and alone and only[0].value == alone[1]:
            answer = extract.read_value(only[0].value, question)
            return answer, "box-line" if answer is not None else "box-unreadable"
        return None, "no-answer-line"
    answer = extract.read_value(value, question)
    return answer, "answer-line" if answer is not None else "answer-line-unreadable"


def _last_box(question: Question, body: str) -> tuple[str | None, str]:
    """The last box of a reply that was asked for one; others on its line must agree with it."""
    found = boxes(body)
    if not found:
        return None, "no-box"
    start = body.rfind("\n", 0, found[-1].place) + 1
    values = {extract.read_value(box.value, question) for box in found if box.place >= start}
    if len(values) > 1:
        return None, "several-boxes"
    answer = values.pop()
    return answer, "boxed" if answer is not None else "box-unreadable"


def _lenient(question: Question, body: str, thinking: str) -> tuple[str | None, str]:
    answer, rule = _strict(question, body, thinking)
    if answer is not None or rule == "thinking-open":
        return answer, rule
    found = []
    for statement in statements(body):
        answer = _loose_value(question, statement.value)
        if answer is not None:
            found.append((statement.place, answer, statement.rule))
    if found:
        _, answer, rule = max(found)
        return answer, rule
    answer = _bare_line(question, body)
    return (answer, "bare-line") if answer is not None else (None, "nothing-found")


def _bare_line(question: Question, body: str) -> str | None:
    """Value of a last line that is nothing else, unless it ends a list of the choices."""
    line = extract.last_line(body)
    if question.kind in ("text", "latex") and len(_WORD.findall(line)) > BARE_WORDS:
        return None
    answer = _bare_value(question, line)
    if answer is None or question.kind != "letter":
        return answer
    above = extract.last_line(body.rstrip()[: -len(line)])
    return None if _bare_value(question, above) is not None else answer


def _bare_value(question: Question, line: str) -> str | None:
    line = line.translate(_LOOKALIKES) if question.kind == "letter" else line
    return extract.read_value(line.strip("*_`#> "), question, stated=False)


def _loose_value(question: Question, value: str) -> str | None:
    """One answer in a statement's value, or None when it denies, hedges or says nothing."""
    if _DENIED.match(value):
        return None
    value = re.sub(r"^[\s*_`]{1,12}|[\s*_`]{1,12}\Z", "", value)
    if question.kind in ("text", "latex"):
        value = _REASON.split(value, maxsplit=1)[0]
    answer = extract.read_value(value, question)
    if answer is not None:
        return answer
    text = unicodedata.normalize("NFKC", value)
    if question.kind == "letter":
        return _loose_letter(question, text.translate(_LOOKALIKES))
    if question.kind == "integer":
        return _loose_integer(text)
    return None


def _loose_letter(question: Question, text: str) -> str | None:
    equal = [i for i, choice in enumerate(question.choices) if same_text(text, choice)]
    if len(equal) == 1:
        return LETTERS[equal[0]]
    letters = LETTERS[: len(question.choices)]
    lead = re.match(
        r"[\s*_`]{0,8}(?:(?i:option|choice|letter)\s{1,4})?\\?[(\[{]?\s{0,2}(?:\\text\{|\\mathbf\{)?"
        rf"([{letters}])(?![\w'\u2019])[)\]}}*_`.:$]{{0,6}}(.*)\Z",
        text,
        re.DOTALL,
    )
    if lead is None:
        return None
    rest = lead[2].strip()
    # "C, because ..." is an answer; "A or B", "I think C" and "A is wrong" are not.
    if rest and (_HEDGED.match(rest.lstrip(" ,")) or re.match(r"(?:is|was|isn)\b", rest)):
        return None
    others = [c for i, c in enumerate(question.choices) if LETTERS[i] != lead[1]]
    if any(same_text(rest, other) for other in others):
        return None
    if rest and rest[0].isalpha() and rest[0].islower() and lead[1] in "AI":
        # "a matter of taste" and "I think" begin with a word, not with an option.
        return None
    named = re.findall(rf"(?<![\w'])[{letters}](?![\w'])", rest)
    return lead[1] if not named else None


def _loose_integer(text: str) -> str | None:
    before, _, tail = text.rpartition("=")
    if re.search(r"=[^=]*[,;]\s", before):
        return None  # two equations are no answer
    tail = re.sub(r"\^\s{0,2}(?:\\circ|\{\\circ\})|\u00b0", " ", tail)
    tail = re.sub(r"(?<=[0-9])\\?,(?:\\!)?(?=[0-9]{3}(?![0-9]))", "", tail)
    if _HEDGED.search(tail):
        return None
    numbers = re.findall(
        r"(?<![\w.])([+-]?[0-9]{1,60}(?:\.0{1,20}(?![0-9]))?)(?![\w^/]|\.[0-9])", tail
    )
    distinct = {extract.read_integer(number.split(".")[0]) for number in numbers}
    return distinct.pop() if len(distinct) == 1 and not re.search(r"[\\^/]|sqrt", tail) else None


def _judge(question: Question, given: str | None, rule: str) -> Grade:
    if given is None:
        return Grade(NO_ANSWER, question.answer, NOT_GIVEN, rule)
    if question.kind != "lines":
        return Grade(PASS if _equal(question, given) else FAIL, question.answer, given, rule)
    want = parse_lines(question.answer)
    try:
        got = parse_lines(given)
    except QuestionError:
        return Grade(FAIL, question.answer, given, rule, 0.0, 0.0)
    hit = len(want & got)
    verdict = PASS if got <= want else FAIL
    return Grade(verdict, question.answer, given, rule, hit / len(got), hit / len(want))


def _equal(question: Question, given: str) -> bool:
    """Whether an answer is the key: letters and integers as they are, words and LaTeX by value."""
    key = question.answer
    if question.kind == "text":
        return same_text(given, key) or same_number(given, key)
    if question.kind == "latex":
        return latex.same_value(key, given)
    # Two integers may both have been accepted; no letter holds their separator.
    return given in key.split(ALTERNATIVE)


def _judge_classic(question: Question, given: str, step: str) -> Grade:
    if given == classic.NONE:
        return Grade(NO_ANSWER, question.answer, NOT_GIVEN, step)
    keys = question.answer.split(ALTERNATIVE)
    passed = any(classic.matches(given, key, question.kind) for key in keys)
    return Grade(PASS if passed else FAIL, question.answer, given, step)
