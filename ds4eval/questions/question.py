"""Defines a question: text, choices, key and origin. It knows neither files nor the engine.

Every reader of a data set ends here, so that the runner, the graders and the records see one
form. A question that breaks a rule below is refused when it is made, with the field's name.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

KINDS = ("letter", "integer", "lines", "text", "latex")
# How a prompt asks for the answer: on a last line `Answer: ...`, in a TeX box, or in the words of
# simple-evals; see `ds4eval.questions.prompts`.
FORMS = ("line", "boxed", "simple-evals")
LETTERS = string.ascii_uppercase
MIN_CHOICES, MAX_CHOICES = 2, 26
# The largest line number a line set may name; ds4-eval's sets hold 256 entries.
MAX_LINE = 255
# Between two integers that were both accepted.
ALTERNATIVE = "|"
# The longest key of words or LaTeX: longer ones fill more than the one line that is graded.
MAX_TEXT = 400

_INTEGER = re.compile(r"-?[0-9]{1,31}(?:\|-?[0-9]{1,31})?\Z")
_LINES = re.compile(r"[0-9]{1,3}(?:-[0-9]{1,3})?(?:,[0-9]{1,3}(?:-[0-9]{1,3})?)*\Z")


class QuestionError(ValueError):
    """A field of a question breaks a rule. `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Question:
    """One question as it is put to a model.

    Parameters
    ----------
    id : str
        Stable over mirrors of a data set: a record id, a uuid, `aime2025-NN`.
    source : str
        Label in reports: 'GPQA Diamond', 'SuperGPQA', 'AIME2025', 'COMPSEC', 'practice/aime', ...
    text : str
        The question alone, without choices and without the answer's form.
    answer : str
        Canonical key: a letter, an integer without leading zeros (two as `80|81` where both were
        accepted), lines as `3` or `4-6,9`, words, or LaTeX, which is compared by value.
    kind : {'letter', 'integer', 'lines', 'text', 'latex'}
    choices : tuple of str
        In the order shown; empty unless `kind` is 'letter'.
    domain, title : str
        For people; the title may be part of the question's text and is treated like it.
    strata : tuple of (name, value)
        What scores may be broken down by: discipline, field, difficulty, part, ...
    permutation : tuple of int
        `choices[i]` is the published choice number `permutation[i]`; empty when never permuted.
    notes : tuple of str
        What was changed or found odd, each safe to print (no question text).
    form : {'line', 'boxed', 'simple-evals'}
        How the prompt asks for the answer, and so where the headline grader looks for it.

    Raises
    ------
    QuestionError
        If a field breaks a rule.
    """

    id: str
    source: str
    text: str
    answer: str
    kind: str
    choices: tuple[str, ...] = ()
    domain: str = ""
    title: str = ""
    strata: tuple[tuple[str, str], ...] = ()
    permutation: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    form: str = "line"

    def __post_init__(self) -> None:
        if not self.id or any(not char.isprintable() or char.isspace() for char in self.id):
            raise QuestionError("id", f"expected printable text without spaces, found {self.id!r}")
        if not self.source or not self.source.isprintable():
            raise QuestionError("source", f"expected a printable label, found {self.source!r}")
        if not self.text.strip():
            raise QuestionError("question", "expected text, found none")
        if self.kind not in KINDS:
            raise QuestionError("kind", f"expected one of {', '.join(KINDS)}, found {self.kind!r}")
        if self.form not in FORMS:
            raise QuestionError("form", f"expected one of {', '.join(FORMS)}, found {self.form!r}")
        if self.kind == "letter":
            self._check_choices()
        elif self.choices:
            raise QuestionError("choices", f"expected none with an answer of kind {self.kind!r}")
        canonical = canonical_answer(self.answer, self.kind, len(self.choices))
        if canonical != self.answer:
            raise QuestionError(
                "answer", f"expected the canonical form {canonical!r}, found {self.answer!r}"
            )

    def _check_choices(self) -> None:
        count = len(self.choices)
        if not MIN_CHOICES <= count <= MAX_CHOICES:
            raise QuestionError(
                "choices", f"expected {MIN_CHOICES} to {MAX_CHOICES}, found {count}"
            )
        empty = [LETTERS[i] for i, choice in enumerate(self.choices) if not choice.strip()]
        if empty:
            raise QuestionError("choices", f"expected text, found none in {', '.join(empty)}")
        if self.permutation and sorted(self.permutation) != list(range(count)):
            raise QuestionError(
                "permutation", f"expected an order of {count} choices, found {self.permutation}"
            )

    @property
    def key(self) -> str:
        """Name in records: `source/id`, as in the report's last column."""
        return f"{self.source}/{self.id}"

    @property
    def chance(self) -> float:
        """Probability that a blind guess passes; for integers, one of the 1000 AIME allows.

        Words, LaTeX and integers beyond those cannot be guessed.
        """
        if self.kind == "letter":
            return 1 / len(self.choices)
        if self.kind == "integer":
            keys = self.answer.split(ALTERNATIVE)
            return 0.001 * sum(0 <= int(key) <= 999 for key in keys)
        if self.kind != "lines":
            return 0.0
        lines = re.findall(r"(?m)^\s*[0-9]+\b", self.text)
        return len(parse_lines(self.answer)) / len(lines) if lines else 0.0

    def stratum(self, name: str) -> str:
        """Value of one stratum, empty when the data set has none of that name."""
        return dict(self.strata).get(name, "")

    def noted(self, *notes: str) -> Question:
        """The same question with notes added."""
        return replace(self, notes=(*self.notes, *notes))


def canonical_answer(answer: str, kind: str, n_choices: int = 0) -> str:
    """Canonical form of a key.

    Raises
    ------
    QuestionError
        If the text is no answer of this kind, or a letter beyond the choices.
    """
    text = answer.strip()
    if kind == "letter":
        letter = text.upper()
        if len(letter) != 1 or letter not in LETTERS[:n_choices]:
            raise QuestionError(
                "answer", f"expected a letter A to {LETTERS[n_choices - 1]}, found {answer!r}"
            )
        return letter
    if kind == "integer":
        if not _INTEGER.match(text):
            raise QuestionError("answer", f"expected digits 0-9 only, found {answer!r}")
        return ALTERNATIVE.join(str(int(part)) for part in text.split(ALTERNATIVE))
    if kind in ("text", "latex"):
        words = " ".join(text.split())
        if not words or len(words) > MAX_TEXT:
            raise QuestionError(
                "answer", f"expected 1 to {MAX_TEXT} characters, found {len(words)}"
            )
        return words
    lines = re.sub(r"\s*([,-])\s*", r"\1", text)
    if not _LINES.match(lines):
        raise QuestionError("answer", f"expected lines such as 3 or 4-6,9, found {answer!r}")
    return format_lines(parse_lines(lines))


def parse_lines(spec: str) -> frozenset[int]:
    """Line numbers of a canonical set; reversed ranges are swapped, 256 and above refused.

    Raises
    ------
    QuestionError
        If a number is above 255.
    """
    found: set[int] = set()
    for part in spec.split(","):
        first, _, last = part.partition("-")
        low, high = sorted((int(first), int(last or first)))
        if high > MAX_LINE:
            raise QuestionError("answer", f"expected lines up to {MAX_LINE}, found {high}")
        found.update(range(low, high + 1))
    return frozenset(found)


def format_lines(lines: Iterable[int]) -> str:
    """Canonical text of a set of lines: ascending, runs of two or more as `first-last`."""
    runs: list[list[int]] = []
    for line in sorted(set(lines)):
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    return ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in runs)


def stable_hash(*parts: str | int) -> int:
    """64-bit number from parts, the same on every machine and in every release.

    SHA-256 over each part's length and UTF-8 bytes, so that no two part lists collide by joining.
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return int.from_bytes(digest.digest()[:8], "big")


def seeded_order(n: int, *parts: str | int) -> tuple[int, ...]:
    """Order of range(n) drawn from parts: ascending by `stable_hash(*parts, i)`."""
    return tuple(sorted(range(n), key=lambda i: (stable_hash(*parts, i), i)))


def permuted(question: Question, order: Sequence[int]) -> Question:
    """The question with its choices in another order, key and stored permutation following.

    Parameters
    ----------
    order : sequence of int
        New choice i is the present choice `order[i]`.

    Raises
    ------
    QuestionError
        If it is no order of the choices.
    """
    count = len(question.choices)
    if sorted(order) != list(range(count)):
        raise QuestionError("permutation", f"expected an order of {count} choices, found {order}")
    before = question.permutation or tuple(range(count))
    correct = LETTERS.index(question.answer)
    return replace(
        question,
        choices=tuple(question.choices[i] for i in order),
        answer=LETTERS[list(order).index(correct)],
        permutation=tuple(before[i] for i in order),
    )


def fingerprint(question: Question) -> str:
    """SHA-256, hex, of everything that a model is shown or graded by; part of a resume key."""
    parts = (question.kind, question.text, *question.choices, question.answer)
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()
