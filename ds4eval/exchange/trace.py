"""Writes the text trace of the C program ds4-eval, and reads such traces back.

Format (antirez/ds4, 2026-05): a header of `key: value` lines; per case a ruler
`===== CASE i/n source/id =====`, `key: value` lines, choices, and byte-counted blocks
`LABEL_BEGIN bytes=N` ... `LABEL_END`; a summary. Byte counts keep a reply that imitates rulers
from being taken for one, and readers must honour them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ds4eval.plan import Job, ReplySettings
from ds4eval.questions.prompts import system_text, user_text
from ds4eval.questions.question import LETTERS
from ds4eval.records.record import Sample
from engine.errors import OptionError, StoreError
from engine.files.regular import read_regular
from engine.text.encoding import DEFAULT_EFFORT

MOST_BYTES = 2 << 30
MOST_CASES = 1_000_000
MOST_FIELDS = 1000  # lines before a case's blocks
_MOST_DIGITS = 15  # of a number: below 2^53, and never slow to read
BLOCKS = ("SYSTEM_PROMPT", "QUESTION_PROMPT", "MODEL_OUTPUT")
_CASE = b"===== CASE "
_SUMMARY = b"===== SUMMARY ====="
# The C program grades by its own rules and knows no other end of a reply.
_STATUS = {"pass": "PASSED", "fail": "FAILED", "none": "FAILED"}


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a trace: its `key: value` lines, choices, and blocks as bytes.

    `n` is its place in the run's list, 0 where the ruler does not say: the same question at two
    places was asked in two repeats, and at one place it was asked again.
    """

    fields: dict[str, str]
    n: int = 0
    choices: tuple[str, ...] = ()
    blocks: dict[str, bytes] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.fields.get('source', '')}/{self.fields.get('id', '')}"


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace as read: header lines, cases in file order, and places that could not be read."""

    header: dict[str, str]
    cases: tuple[Case, ...]
    problems: tuple[str, ...]


# Kinds of answers that the C program does not have.
OTHER_KINDS = ("text", "latex")


class TraceWriter:
    """Appends to a trace, flushed case by case.

    Parameters
    ----------
    path : Path
        Replaced if it exists, as upstream does.

    Raises
    ------
    OptionError
        If it cannot be written; nothing was lost yet.
    """

    def __init__(self, path: Path, settings: ReplySettings, think: str) -> None:
        self.path = path
        self.settings = settings
        self.think = think
        try:
            # A trace holds replies: a new one is for its owner alone.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._file = open(handle, "wb")  # noqa: SIM115 - lives as long as the run
        except OSError as error:
            raise OptionError(
                f"--trace: expected a file that can be written, found {error.strerror}: "
                f"{str(path)!r}"
            ) from None

    def _requested(self) -> str:
        """The effort that was asked for; where none was named, the default one is in effect."""
        asked = self.settings.think
        return self.think if asked == DEFAULT_EFFORT else asked

    def header(self, model: str, backend: str, ctx: int, longest: int, n: int) -> None:
        """Everything known before the first case."""
        s, b = self.settings.sampling, self.settings.budget
        self._write(
            "# ds4-eval trace\n"
            f"started_unix: {int(time.time())}\n"
            f"model: {_line(model)}\n"
            f"backend: {backend}\n"
            f"ctx: {ctx}\n"
            f"max_tokens: {b.tokens}\n"
            f"max_prompt_tokens: {longest}\n"
            f"questions: {n}\n"
            f"temperature: {s.temp:.6g}\n"
            f"top_p: {s.top_p:.6g}\n"
            f"min_p: {s.min_p:.6g}\n"
            f"seed: {s.seed}\n"
            f"think_mode_requested: {self._requested()}\n"
            f"soft_limit_reply_budget: {b.soft}\n"
            f"hard_limit_reply_budget: {b.hard}\n"
            f"soft_limit_think_close_rank: {b.rank}\n\n"
        )

    def case(self, job: Job, total: int, sample: Sample, switched: bool = False) -> None:
        """One answered (or dropped) question; status and `picked` by the C program's rules."""
        q, s = job.question, self.settings.sampling
        status = "SWITCHED" if switched else _STATUS.get(sample.classic_verdict, sample.state)
        elapsed = (sample.prefill_s or 0.0) + (sample.decode_s or 0.0)
        text = (
            f"===== CASE {job.n}/{total} {q.source}/{q.id} =====\n"
            f"timestamp_unix: {int(time.time())}\n"
            f"source: {q.source}\n"
            f"id: {q.id}\n"
            f"domain: {_line(q.domain)}\n"
            f"title: {_line(q.title)}\n"
            f"status: {status}\n"
            f"picked: {sample.classic_given or '?'}\n"
            f"expected: {q.answer}\n"
            f"prompt_tokens: {sample.prompt_tokens or 0}\n"
            f"generated_tokens: {sample.gen_tokens or 0}\n"
            f"elapsed_sec: {elapsed:.3f}\n"
            f"temperature: {s.temp:.6g}\n"
            f"top_p: {s.top_p:.6g}\n"
            f"min_p: {s.min_p:.6g}\n"
            f"think_mode_effective: {self.think}\n"
            f"think_close: {sample.close}\n"
        )
        if sample.close_index is not None:
            text += (
                f"think_close_token_index: {sample.close_index}\n"
                f"think_close_remaining_budget: {sample.close_remaining}\n"
                f"think_close_rank: {sample.close_rank}\n"
            )
        if sample.error:
            text += f"error: {_line(sample.error)}\n"
        if q.choices:
            text += "choices:\n"
            text += "".join(f"  {LETTERS[i]}. {_line(c)}\n" for i, c in enumerate(q.choices))
        else:
            named = q.kind if q.kind in OTHER_KINDS else "exact_integer"
            text += f"answer_kind: {named}\n"
        system, user = system_text(q), user_text(q)
        self._write(text)
        for label, block in zip(BLOCKS, (system, user, sample.output)):
            self._block(label, block)
        self._write("\n")

    def summary(self, passed: int, failed: int, total: int) -> None:
        self._write(f"===== SUMMARY =====\npassed: {passed}\nfailed: {failed}\ntotal: {total}\n")

    def close(self) -> None:
        self._file.close()

    def _block(self, label: str, text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        end = b"" if not raw or raw.endswith(b"\n") else b"\n"
        head = f"{label}_BEGIN bytes={len(raw)}\n".encode("ascii")
        self._put(head + raw + end + f"{label}_END\n".encode("ascii"))

    def _write(self, text: str) -> None:
        self._put(text.encode("utf-8", "surrogatepass"))

    def _put(self, raw: bytes) -> None:
        try:
            self._file.write(raw)
            self._file.flush()
        except OSError as error:
            raise StoreError(f"{self.path}: expected to append, found {error.strerror}") from error


def _line(text: str) -> str:
    """Text that stays on its line."""
    return " ".join(text.split())


def read_trace(path: Path) -> Trace:
    """Read a trace that this or the C program wrote; also one that ends in mid-case.

    Raises
    ------
    OptionError
        If it cannot be read or holds no trace.
    """
    data = read_regular(path, MOST_BYTES)
    if not data.startswith(b"# ds4-eval trace") and _CASE not in data:
        raise OptionError(f"{path}: expected a ds4-eval trace, found another kind of file")
    reader = _Reader(data)
    header = reader.fields()[0]
    cases: list[Case] = []
    problems: list[str] = []
    for case, problem in reader.cases():
        if problem:
            problems.append(problem)
        elif case is not None:
            cases.append(case)
        if len(cases) + len(problems) > MOST_CASES:
            raise OptionError(f"{path}: expected at most {MOST_CASES} cases, found more")
    return Trace(header, tuple(cases), tuple(problems))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def _peek(self) -> bytes | None:
        if self.place >= len(self.data):
            return None
        end = self.data.find(b"\n", self.place)
        return self.data[self.place : end if end >= 0 else len(self.data)]

    def _skip(self, line: bytes) -> None:
        self.place += len(line) + 1

    def fields(self) -> tuple[dict[str, str], list[str]]:
        """`key: value` lines and choices up to a ruler, a block or the end."""
        found: dict[str, str] = {}
        choices: list[str] = []
        while (line := self._peek()) is not None:
            if line.startswith((_CASE, _SUMMARY)) or b"_BEGIN" in line[:40]:
                break
            self._skip(line)
            if len(found) + len(choices) >= MOST_FIELDS:
                continue
            text = line.decode("utf-8", "replace").rstrip("\r")
            if text.startswith("  ") and text[3:5] == ". ":
                choices.append(text[5:])
                continue
            key, colon, value = text.partition(":")
            if colon and key.replace("_", "").isalnum():
                found.setdefault(key, value.removeprefix(" "))
        return found, choices

    def cases(self) -> Iterator[tuple[Case | None, str]]:
        number = 0
        while (line := self._peek()) is not None:
            if not line.startswith(_CASE):
                self._skip(line)
                continue
            number += 1
            ruler = line
            self._skip(line)
            found, choices = self.fields()
            blocks: dict[str, bytes] = {}
            problem = ""
            while (line := self._peek()) is not None and b"_BEGIN" in line[:40]:
                label = line.split(b"_BEGIN", 1)[0].decode("ascii", "replace")
                body = self._block(line, label)
                if body is None:
                    problem = f"case {number}: expected a whole {label} block, found a torn one"
                    self._skip(line)
                    break
                blocks[label] = body
            if not problem and not (found.get("source") and found.get("id")):
                problem = f"case {number}: expected source and id, found none"
            if not problem and "MODEL_OUTPUT" not in blocks:
                problem = f"case {number}: expected a MODEL_OUTPUT block, found none"
            case = Case(found, _place(ruler), tuple(choices), blocks)
            yield (None, problem) if problem else (case, "")

    def _block(self, line: bytes, label: str) -> bytes | None:
        start = self.place + len(line) + 1
        end_mark = f"{label}_END".encode("ascii", "replace")
        count = line.partition(b"bytes=")[2].strip()
        if count:
            if (
                not count.isdigit()
                or len(count) > _MOST_DIGITS
                or int(count) > len(self.data) - start
            ):
                return None
            stop = start + int(count)
        else:  # traces of early versions have no counts
            stop = self.data.find(b"\n" + end_mark, start)
            if stop < 0:
                return None
        after = stop + (self.data[stop : stop + 1] == b"\n")
        if self.data[after : after + len(end_mark)] != end_mark:
            return None
        self.place = after + len(end_mark)
        rest = self._peek()
        if rest is not None:
            self._skip(rest)
        return self.data[start:stop]


def _place(ruler: bytes) -> int:
    """Place of a case in the run's list, out of its ruler; 0 where it does not say."""
    digits = ruler[len(_CASE) :].split(b"/", 1)[0]
    return int(digits) if digits.isdigit() and len(digits) < 10 else 0


def latest_cases(trace: Trace) -> list[tuple[Case, int]]:
    """Cases with their repeats, from 0; of a place that was asked several times the last counts."""
    found: dict[tuple[str, int], Case] = {}
    for case in trace.cases:
        place = case.key, case.n
        if case.fields.get("status") == "SWITCHED" and place in found:
            continue
        found.pop(place, None)
        found[place] = case
    repeats: dict[str, int] = {}
    numbered = {}
    for key, n in sorted(found):
        numbered[key, n] = repeats.get(key, 0)
        repeats[key] = numbered[key, n] + 1
    return [(case, numbered[place]) for place, case in found.items()]


def number(fields: dict[str, str], name: str) -> int | None:
    """Integer field of a trace, None when it is absent or no number of 0 or more."""
    text = fields.get(name, "").strip()
    plain = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if plain else None


def real(fields: dict[str, str], name: str) -> float | None:
    """Number of a trace's field, None when it is absent or no finite number of 0 or more."""
    try:
        value = float(fields.get(name, ""))
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 1e15 else None
