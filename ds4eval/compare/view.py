"""A comparison as terminal table, Markdown or JSON. Labels and ids are untrusted text."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from ds4eval.compare.result import Comparison, Cost, Flip, Line, Verdict
from ds4eval.documents import Document
from ds4eval.stats.paired import ALPHA
from ds4eval.stats.scores import Interval
from engine.tooling.report.labels import clean_label, escape_markdown

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA, VERSION = "ds4eval.comparison", 1
COLOURS = {
    Verdict.BETTER: "bold green",
    Verdict.WORSE: "bold red",
    Verdict.EQUIVALENT: "green",
    Verdict.NOT_WORSE: "green",
    Verdict.UNDECIDED: "yellow",
    None: "bold red",
}
MARKS = {
    Verdict.BETTER: "✅",
    Verdict.WORSE: "❌",
    Verdict.EQUIVALENT: "✅",
    Verdict.NOT_WORSE: "✅",
    Verdict.UNDECIDED: "❔",
    None: "⛔",
}
HEADINGS = ("questions", "n", "A", "B", "B-A", "95 % interval", "A only", "B only", "p", "Holm",
            "detectable", "verdict")  # fmt: skip
FLIP_HEADINGS = ("question", "A", "B", "A right", "B right", "replies part at")
_SHOWN_FLIPS = 30


def points(share: float | None, digits: int = 1, sign: bool = True) -> str:
    """A share as percentage points; a dash for what is unknown or unbounded."""
    if share is None or not math.isfinite(share):
        return "-"
    # + 0.0: a rounded minus nothing is nothing.
    value = round(100 * share, digits) + 0.0
    return f"{value:{'+' if sign else ''}.{digits}f}"


def interval_text(interval: Interval | None, sign: bool = True) -> str:
    """Both bounds in points."""
    if interval is None or not math.isfinite(interval.half_width):
        return "-"
    return f"{points(interval.low, sign=sign)} .. {points(interval.high, sign=sign)}"


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def verdict_text(line: Line, margin: float) -> str:
    """Verdict in words that say what was shown."""
    words = f"{100 * margin:g} points"
    if line.verdict in (Verdict.BETTER, Verdict.WORSE) and line.equivalence.equivalent:
        return f"{line.verdict}, by less than {words}"
    if line.verdict is Verdict.EQUIVALENT:
        return f"equivalent within {words}"
    if line.verdict is Verdict.NOT_WORSE:
        return f"not worse by {words}"
    return str(line.verdict)


def cells_of(line: Line, margin: float) -> tuple[str, ...]:
    """One table row under `HEADINGS`."""
    # So few differing questions cannot reach significance: a p value would only mislead.
    mute = line.least_p > ALPHA
    return (
        clean_label(line.name),
        str(line.n),
        points(line.mean_a, sign=False),
        points(line.mean_b, sign=False),
        points(line.interval.estimate),
        interval_text(line.interval),
        str(line.a_only),
        str(line.b_only),
        "too few" if mute else p_text(line.p_value),
        "-" if mute or line.name == "all" else p_text(line.p_holm),
        points(line.detectable, sign=False),
        verdict_text(line, margin),
    )


def flip_cells(flip: Flip) -> tuple[str, ...]:
    """One table row under `FLIP_HEADINGS`."""
    if flip.diverges is None:
        place = "unknown"
    else:
        place = "equal replies" if flip.diverges < 0 else f"character {flip.diverges}"
    return (
        clean_label(f"{flip.source}/{flip.id}", 60),
        clean_label(f"{flip.given_a or '-'} {flip.state_a}", 28),
        clean_label(f"{flip.given_b or '-'} {flip.state_b}", 28),
        f"{flip.passed_a}/{flip.repeats_a}",
        f"{flip.passed_b}/{flip.repeats_b}",
        place,
    )


def cost_text(cost: Cost) -> str:
    """One quantity of both runs with the interval of its paired difference."""
    if cost.name in ("generated tokens", "seconds"):
        a, b = f"{cost.mean_a:,.1f}", f"{cost.mean_b:,.1f}"
        bounds = (cost.interval.low, cost.interval.high)
        known = all(map(math.isfinite, bounds))
        spread = " .. ".join(f"{v + 0.0:+,.1f}" for v in bounds) if known else "-"
        return f"{cost.name} per answer: {a} against {b} (B-A {spread})"
    a, b = points(cost.mean_a, sign=False), points(cost.mean_b, sign=False)
    return f"{cost.name}: {a} % against {b} % (B-A {interval_text(cost.interval)})"


def headline(result: Comparison) -> str:
    """One line: verdict, difference, runs."""
    names = f"{result.b} (B) against {result.a} (A)"
    line = result.overall
    if line is None:
        return f"INCOMPARABLE: {names}"
    word = verdict_text(line, result.margin)
    return (
        f"{word}: {names}, {points(line.interval.estimate)} points "
        f"[{interval_text(line.interval)}] on {line.n} questions"
    )


def remarks(result: Comparison) -> list[str]:
    """What a reader must know beside the table."""
    out = [f"differs on purpose in {text}" for text in result.treatment]
    if not result.treatment and not result.unlike:
        out.append("nothing differs on purpose: same model, mode and seed")
    out += [f"allowed to differ in {d}" for d in result.allowed]
    for count, label in ((result.unfinished_a, result.a), (result.unfinished_b, result.b)):
        if count:
            out.append(f"{label} is unfinished: {count} answers are missing")
    if result.left_out:
        out.append(f"{result.left_out} questions that only one run answered are left out")
    line = result.overall
    if line is None:
        return out
    if line.least_p > ALPHA:
        out.append(
            f"questions that differ: {line.a_only + line.b_only}; no split of so few can reach "
            f"p < {ALPHA:.2g} (least p {line.least_p:.3g})"
        )
    pairing = f"paired SE {points(line.se_paired, 2, False)} points"
    if line.correlation is not None:
        pairing += f", unpaired {points(line.se_unpaired, 2, False)}, r {line.correlation:.2f}"
    out.append(f"{line.test}; {pairing}")
    if line.student is not None:
        out.append(
            f"beside it: Student {interval_text(line.student)}, "
            f"bootstrap over questions {interval_text(line.bootstrap)}"
        )
    same = line.equivalence
    out.append(
        f"equivalence within {100 * same.margin:g} points: 90 % interval "
        f"{interval_text(same.interval)}, p "
        + (">= 0.5" if same.p_value >= 0.5 else p_text(same.p_value))
    )
    out.append(
        f"of {result.answers} answers {result.same_answers} are the same, "
        f"{result.same_replies} as whole replies"
        + (
            ""
            if result.median_divergence is None
            else f"; others part after {result.median_divergence:g} characters (median)"
        )
    )
    return out + [cost_text(cost) for cost in result.costs]


def print_rich(result: Comparison, console: Console) -> None:
    """Tables for people; plain text where the output is no terminal."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(headline(result), style=COLOURS[result.verdict]))
    for item in result.unlike:
        console.print(Text(f"  unlike in {item}", style="red"))
    if result.unlike:
        names = " ".join(f"--allow {name}" for name in dict.fromkeys(d.name for d in result.unlike))
        console.print(Text(f"  {names} would compare them all the same"))
    if result.lines:
        table = Table(box=None, pad_edge=False, show_edge=False)
        for place, name in enumerate(HEADINGS):
            table.add_column(name, justify="left" if place in (0, 11) else "right")
        for line in result.lines:
            *front, last = cells_of(line, result.margin)
            table.add_row(*map(Text, front), Text(last, style=COLOURS[line.verdict]))
        console.print(table)
    for text in remarks(result):
        console.print(Text(f"  {text}", style="dim"))
    if result.flips:
        table = Table(
            title=f"flips: {len(result.flips)}, losses first",
            title_justify="left",
            box=None,
            pad_edge=False,
            show_edge=False,
        )
        for name in FLIP_HEADINGS:
            table.add_column(name)
        for flip in result.flips[:_SHOWN_FLIPS]:
            table.add_row(*map(Text, flip_cells(flip)))
        console.print(table)
        if len(result.flips) > _SHOWN_FLIPS:
            console.print(Text(f"  {len(result.flips) - _SHOWN_FLIPS} more with --format json"))


def markdown_table(
    headings: tuple[str, ...], rows: list[tuple[str, ...]], text: set[int]
) -> list[str]:
    """Lines of a table; columns of the given places are left-aligned, others are numbers."""
    marks = (" --- |" if place in text else " ---: |" for place in range(len(headings)))
    out = ["| " + " | ".join(headings) + " |", "|" + "".join(marks)]
    return out + ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in rows]


def to_markdown(result: Comparison, heading: str = "###") -> str:
    """A summary for a CI job's page or a pull request."""
    out = [f"{heading} {MARKS[result.verdict]} {escape_markdown(headline(result))}", ""]
    out += [f"- unlike in {escape_markdown(str(item))}" for item in result.unlike]
    if result.lines:
        rows = [cells_of(line, result.margin) for line in result.lines]
        out += markdown_table(HEADINGS, rows, {0, 11})
    out += ["", *(f"- {escape_markdown(text)}" for text in remarks(result))]
    if result.flips:
        shown = [flip_cells(flip) for flip in result.flips[:_SHOWN_FLIPS]]
        out += ["", f"**Flips** ({len(result.flips)}, losses first)", ""]
        out += markdown_table(FLIP_HEADINGS, shown, {0, 1, 2, 5})
    return "\n".join(out).rstrip() + "\n"


def finite(document: Document) -> Document:
    """The same document with null for what strict JSON cannot say."""
    return {name: _finite(value) for name, value in document.items()}


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return finite(value)
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(result: Comparison) -> Document:
    """Everything as plain values; shares are fractions of 1, unknown numbers null."""
    body = asdict(result)
    for record, line in zip(body["lines"], result.lines):
        record["verdict"] = str(line.verdict)
        record["equivalence"] |= {
            "equivalent": line.equivalence.equivalent,
            "not_inferior": line.equivalence.not_inferior,
        }
    verdict = None if result.verdict is None else str(result.verdict)
    return finite({"schema": SCHEMA, "version": VERSION, "verdict": verdict, **body})


def json_text(result: Comparison) -> str:
    """Strict JSON, ASCII, one LF at the end."""
    return json.dumps(to_json(result), indent=1, allow_nan=False) + "\n"
