"""All about one finished question as lines: what was asked, said, read by whom, and its cost.

It is pure: equal samples give equal lines. Text of models and data is shown so that it cannot steer
the terminal.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

from rich.console import Console
from rich.text import Text as Line

from ds4eval.compare.pairs import common_prefix
from ds4eval.plan import Job
from ds4eval.questions.question import LETTERS
from ds4eval.records.record import Sample
from ds4eval.screen.marks import CLASSIC, GRADERS, LENIENT, STRICT, Mark, answer_from, marks_of
from engine.tooling.exits import printable

QUESTION_STYLE, THINK_STYLE, HEAD_STYLE = "blue", "dim", "bold"
# Told apart without colour, too: reversed, underlined, italic.
MARK_STYLES = {STRICT: "bold reverse", LENIENT: "underline green", CLASSIC: "italic magenta"}
VERDICT_STYLES = {"pass": "green", "fail": "red", "none": "yellow"}
WORDS = {"pass": "right", "fail": "wrong", "none": "no answer", "": "not graded"}


def safe(text: str) -> str:
    """Text for the screen; nothing in it steers a terminal, and a tab is four cells."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    "))


def wrapped_lines(text: Line, width: int) -> list[Line]:
    """A text as lines of at most `width` cells."""
    console = Console(width=max(width, 1), legacy_windows=False, color_system=None)
    lines = list(text.wrap(console, max(width, 1), no_wrap=False, tab_size=4))
    for line in lines:
        line.rstrip()
        line.truncate(max(width, 1))
    return lines


def question_lines(job: Job, width: int, key: str = "", given: str = "") -> list[Line]:
    """Question and choices; `key` and `given` are marked among the choices where they are told."""
    text = Line(safe(job.question.text), QUESTION_STYLE)
    for place, choice in enumerate(job.question.choices):
        letter = LETTERS[place]
        text.append(f"\n{letter}. {safe(choice)}", QUESTION_STYLE)
        if key and letter == key:
            text.append("  ← key", "bold green")
        if given and letter == given and letter != key:
            text.append("  ← given", "bold red")
    return wrapped_lines(text, width)


def detail_lines(
    job: Job, sample: Sample, other: Sample | None, width: int, unfolded: bool
) -> list[Line]:
    """All lines about one answer; `other` is that of a second run, or None."""
    key = (sample.key, sample.output_sha256, sample.session, sample.grader_version)
    return list(_cached(_Handle(key, job, sample, other), width, unfolded))


class _Handle:
    """A question for the cache: samples hold dicts, and two with one key are the same."""

    def __init__(
        self, key: tuple[object, ...], job: Job, sample: Sample, other: Sample | None
    ) -> None:
        self.key = (*key, job.n, other.key if other else None, id(sample))
        self.job, self.sample, self.other = job, sample, other

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handle) and self.key == other.key


@lru_cache(maxsize=8)
def _cached(handle: _Handle, width: int, unfolded: bool) -> tuple[Line, ...]:
    job, sample, other = handle.job, handle.sample, handle.other
    lines = question_lines(job, width, sample.expected, sample.given)
    lines.append(Line(""))
    lines += wrapped_lines(grades_text(sample), width)
    lines += wrapped_lines(Line(cost_text(sample), THINK_STYLE), width)
    if other is not None:
        lines += wrapped_lines(Line(parting_text(sample, other), "yellow"), width)
    for note in [sample.error, *sample.notes]:
        if note:
            lines += wrapped_lines(Line(safe(note), "yellow"), width)
    lines.append(Line(""))
    lines += reply_lines_of(sample, width, unfolded)
    return tuple(lines)


def grades_text(sample: Sample) -> Line:
    """The three grades: what each read, by which step, in the style that marks it in the reply."""
    rows = (
        (STRICT, sample.verdict, sample.given, sample.rule),
        (LENIENT, sample.lenient_verdict, sample.lenient_given, sample.lenient_rule),
        (CLASSIC, sample.classic_verdict, sample.classic_given, sample.classic_rule),
    )
    text = Line(f"key {safe(sample.expected)}")
    for name, verdict, given, rule in rows:
        text.append("\n")
        text.append(f"{name:<8}", MARK_STYLES[name])
        text.append(" ")
        text.append(f"{WORDS.get(verdict, verdict):<10}", VERDICT_STYLES.get(verdict, ""))
        if verdict:
            text.append(f" {safe(given) or '-'}  {safe(rule)}".rstrip())
    return text


def cost_text(sample: Sample) -> str:
    """Tokens, how the reply ended, and time; what is unknown is left out."""
    parts = []
    counts = (
        ("prompt", sample.prompt_tokens),
        ("reply", sample.gen_tokens),
        ("thinking", sample.think_tokens),
        ("limit", sample.limit_tokens),
    )
    parts += [f"{name} {n:,} tokens" for name, n in counts if n is not None]
    ended = {"eos": "ended by itself", "limit": "cut at its limit"}.get(sample.stop, sample.stop)
    parts.append(ended)
    if sample.close in ("soft_forced", "hard_forced"):
        parts.append(f"thinking closed by its budget ({sample.close.partition('_')[0]})")
    if sample.finish_reason:
        parts.append(f"finish reason {safe(sample.finish_reason)}")
    if sample.prefill_s is not None:
        parts.append(f"prefill {sample.prefill_s:.2f} s")
    if sample.decode_s is not None:
        parts.append(f"decode {sample.decode_s:.2f} s")
        if sample.gen_tokens and sample.decode_s > 0:
            parts.append(f"{sample.gen_tokens / sample.decode_s:.1f} tokens/s")
    if sample.budget_tokens:
        parts.append(f"asked again with {sample.budget_tokens:,} tokens")
    return " · ".join(parts)


def parting_text(sample: Sample, other: Sample) -> str:
    """How the reply of another run differs."""
    if sample.output == other.output:
        return "the other run's reply is the same"
    shared = common_prefix(sample.output, other.output)
    verdict = "right" if other.passed else other.state.lower()
    return (
        f"the other run: {verdict}, given {safe(other.given) or '-'}; the replies part at "
        f"character {shared:,} (tab shows it)"
    )


def reply_lines_of(sample: Sample, width: int, unfolded: bool) -> list[Line]:
    """Thinking, folded unless asked for, and the reply with the graders' marks."""
    if not sample.output:
        return [Line("no reply", THINK_STYLE)]
    begin = answer_from(sample)
    cut = len(sample.output) if begin is None else begin
    thinking = sample.output[:cut]
    lines: list[Line] = []
    if thinking:
        state = "never ended" if begin is None else f"{len(thinking):,} characters"
        sign, hint = ("▾", "t folds it") if unfolded else ("▸", "t shows it")
        lines += wrapped_lines(Line(f"{sign} thinking: {state} ({hint})", HEAD_STYLE), width)
    marks = marks_of(sample)
    if thinking and unfolded:
        end = cut if begin is None else cut - len("</think>")
        shown = marked_text(sample.output, 0, end, marks, THINK_STYLE)
        lines += wrapped_lines(shown, width)
    if begin is not None:
        first = begin + len(sample.output[begin:]) - len(sample.output[begin:].lstrip("\n"))
        lines += wrapped_lines(marked_text(sample.output, first, len(sample.output), marks), width)
    return lines


def marked_text(reply: str, start: int, end: int, marks: list[Mark], style: str = "") -> Line:
    """A part of a reply, marks of the graders in their styles."""
    cuts = sorted({start, end, *(p for m in marks for p in (m.start, m.end) if start < p < end)})
    text = Line("", style)
    for left, right in itertools.pairwise(cuts):
        here = [m.grader for m in marks if m.start <= left and right <= m.end]
        styles = [MARK_STYLES[name] for name in GRADERS if name in here]
        text.append(safe(reply[left:right]), " ".join(styles) or None)
    return text
