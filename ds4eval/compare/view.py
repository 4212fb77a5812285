"""A comparison as terminal table, Markdown or JSON. Labels and ids are untrusted text."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from ds4eval.compare.result import Cost, Flip, Line, RunComparison, RunVerdict
from ds4eval.documents import Document
from ds4eval.stats.paired import ALPHA
from engine.tooling.report.intervals import UNKNOWN, Interval, bounds_text, finite, signed
from engine.tooling.report.labels import clean_label, clean_values
from engine.tooling.report.tables import (
    Column,
    Row,
    Summary,
    Table,
    Tone,
    print_summary,
    summary_markdown,
)

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA, VERSION = "ds4eval.comparison", 1
TONES = {
    RunVerdict.SAME: Tone.GOOD,
    RunVerdict.BETTER: Tone.GOOD,
    RunVerdict.WORSE: Tone.BAD,
    RunVerdict.EQUIVALENT: Tone.GOOD,
    RunVerdict.NOT_WORSE: Tone.GOOD,
    RunVerdict.UNDECIDED: Tone.UNSURE,
    None: Tone.REFUSED,
}
FLIP_COLUMNS = (
    Column("question", text=True),
    Column("A", text=True),
    Column("B", text=True),
    Column("A right"),
    Column("B right"),
    Column("replies part at", text=True),
)
_SHOWN_FLIPS = 30


def points(share: float | None, digits: int = 1, sign: bool = True) -> str:
    """A share as percentage points; a dash for what is unknown or unbounded."""
    if share is None or not math.isfinite(share):
        return UNKNOWN
    return signed(100 * share, digits, sign)


def interval_text(interval: Interval | None, sign: bool = True) -> str:
    """Both bounds in points."""
    return bounds_text(interval, lambda share: points(share, sign=sign))


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def columns_of(result: RunComparison) -> tuple[Column, ...]:
    """Columns of `cells_of`; a question that was asked k times is still one."""
    k = result.repeats
    times, score = (f" x {k}", f" avg@{k}") if k > 1 else ("", "")
    only = "more" if k > 1 else "only"
    names = (
        *(f"n{times}", f"A{score}", f"B{score}", "B-A", "95 % interval"),
        *(f"A {only}", f"B {only}", "p", "Holm", "detectable"),
    )
    return (
        Column("questions", text=True),
        *map(Column, names),
        Column("verdict", text=True, toned=True),
    )


def verdict_text(line: Line, margin: float, same: bool = False) -> str:
    """Verdict in words that say what was shown."""
    words = f"{100 * margin:g} points"
    if same:
        return str(RunVerdict.SAME)
    if line.verdict in (RunVerdict.BETTER, RunVerdict.WORSE) and line.equivalence.equivalent:
        return f"{line.verdict}, by less than {words}"
    if line.verdict is RunVerdict.EQUIVALENT:
        return f"equivalent within {words}"
    if line.verdict is RunVerdict.NOT_WORSE:
        return f"not {words} worse"
    return str(line.verdict)


def cells_of(line: Line, margin: float, same: bool = False) -> tuple[str, ...]:
    """One table row under `columns_of`."""
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
        verdict_text(line, margin, same),
    )


def flip_cells(flip: Flip) -> tuple[str, ...]:
    """One table row under `FLIP_COLUMNS`."""
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


def headline(result: RunComparison) -> str:
    """One line: verdict, difference, runs."""
    names = f"{result.b} (B) against {result.a} (A)"
    line = result.overall
    if line is None:
        return f"INCOMPARABLE: {names}"
    asked = f"{line.n} questions"
    if result.repeats > 1:
        asked += f", {result.repeats} replies each"
    if result.same:
        return f"{RunVerdict.SAME}: {names}, every reply is equal on {asked}"
    word = verdict_text(line, result.margin)
    if line.verdict is RunVerdict.UNDECIDED:
        word += " (too few questions to tell)" if line.n < 100 else " (too close to tell)"
    return (
        f"{word}: {names}, {points(line.interval.estimate)} points "
        f"[{interval_text(line.interval)}] on {asked}"
    )


def in_words(result: RunComparison, line: Line) -> str:
    """The difference as a sentence."""
    a, b = (points(share, sign=False) for share in (line.mean_a, line.mean_b))
    low, high = line.interval.low, line.interval.high
    if low > 0 or high < 0:
        side = "better" if low > 0 else "worse"
        least, most = sorted((abs(low), abs(high)))
        truth = f"{points(least, sign=False)} to {points(most, sign=False)} points {side}"
    else:
        truth = (
            f"anything from {points(-low, sign=False)} points worse to "
            f"{points(high, sign=False)} points better"
        )
    return f"B is right in {b} %, A in {a} %; on questions of this kind B may be {truth}"


def remarks(result: RunComparison) -> list[str]:
    """What a reader must know beside the table."""
    out = [f"differs on purpose in {text}" for text in result.treatment]
    if not result.treatment and not result.unlike:
        known = "header" if result.header_only else "model"
        out.append(f"nothing differs on purpose: same {known}, mode and seed")
    out += result.header_only
    out += [f"allowed to differ in {d}" for d in result.allowed]
    for count, label in ((result.unfinished_a, result.a), (result.unfinished_b, result.b)):
        if count:
            out.append(f"{label} is unfinished: {count} answers are missing")
    if result.left_out:
        out.append(f"{result.left_out} questions that only one run answered are left out")
    line = result.overall
    if line is None:
        return out
    if not result.same:
        out.append(in_words(result, line))
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


def summary_of(result: RunComparison, shown_flips: int = _SHOWN_FLIPS) -> Summary:
    """The comparison in the form that terminal, Markdown and page share."""
    advice = ""
    if result.unlike:
        names = " ".join(f"--allow {name}" for name in dict.fromkeys(d.name for d in result.unlike))
        advice = f"{names} would compare them all the same"
    left = len(result.flips) - shown_flips
    return Summary(
        headline(result),
        TONES[result.verdict],
        refusals=[f"unlike in {item}" for item in result.unlike],
        advice=advice,
        tables=[_lines_table(result)] if result.lines else [],
        remarks=remarks(result),
        details=[flips_table(result, shown_flips)] if result.flips else [],
        more=f"{left} more with --format json" if left > 0 else "",
    )


def _lines_table(result: RunComparison) -> Table:
    return Table(
        columns_of(result),
        [
            Row(
                cells_of(line, result.margin, result.same),
                TONES[RunVerdict.SAME if result.same else line.verdict],
                total=len(result.lines) > 1 and line is result.lines[-1],
            )
            for line in result.lines
        ],
        caption="Paired comparison; p by the exact test, Holm over the groups; detectable: "
        "smallest difference that so many questions would show",
    )


def flips_table(result: RunComparison, shown: int) -> Table:
    """Questions that one run alone got right, losses first."""
    return Table(
        FLIP_COLUMNS,
        [Row(flip_cells(flip)) for flip in result.flips[:shown]],
        title=f"flips: {len(result.flips)}, losses first",
        caption="Losses first; answers of the first repeat that tells",
    )


def print_rich(result: RunComparison, console: Console) -> None:
    """Tables for people; plain text where the output is no terminal."""
    print_summary(summary_of(result), console)


def to_markdown(result: RunComparison, heading: str = "###") -> str:
    """A summary for a CI job's page or a pull request."""
    return summary_markdown(summary_of(result), heading)


def to_json(result: RunComparison) -> Document:
    """Everything as plain values; shares are fractions of 1, unknown numbers null."""
    body = asdict(result)
    for record, line in zip(body["lines"], result.lines):
        record["verdict"] = str(line.verdict)
        record["equivalence"] |= {
            "equivalent": line.equivalence.equivalent,
            "not_inferior": line.equivalence.not_inferior,
        }
    verdict = None if result.verdict is None else str(result.verdict)
    document: Document = finite({"schema": SCHEMA, "version": VERSION, "verdict": verdict, **body})
    return document


def json_text(result: RunComparison) -> str:
    """Strict JSON, ASCII, one LF at the end."""
    return json.dumps(clean_values(to_json(result)), indent=1, allow_nan=False) + "\n"
