"""Scores of runs as tables of text, shared by terminal, Markdown and page; and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ds4eval.compare.result import RunComparison
from ds4eval.compare.view import interval_text, p_text, points, to_json, to_markdown
from ds4eval.compare.view import print_rich as print_comparison
from ds4eval.documents import Document
from ds4eval.questions.known import exam_of
from ds4eval.report.budget import short
from ds4eval.report.scores import RunScores, Score
from engine.tooling.report.intervals import finite
from engine.tooling.report.labels import clean_label, clean_values, escape_markdown
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

SCHEMA, VERSION = "ds4eval.report", 1


def columns(run: RunScores) -> tuple[Column, ...]:
    """Columns of `cells_of`; columns about repeats only where there are any."""
    k = run.arm.repeats
    repeats = () if k == 1 else (*(f"pass@{n}" for n in _passes(run)), f"maj@{k}", "decoding SE")
    score = "score" if k == 1 else f"avg@{k}"
    names = (
        *("n", "right", score, "95 % interval"),
        *repeats,
        *("guess", "lenient", "classic", "other form", "cut", "no answer", "tokens"),
    )
    return (Column(clean_label(run.by), text=True), *map(Column, names))


def _passes(run: RunScores) -> list[int]:
    """The k of pass@k worth a column: 1 is the score itself."""
    return [k for k in run.overall.pass_at if k > 1]


def cells_of(score: Score, run: RunScores) -> tuple[str, ...]:
    """One row under `columns`; shares in per cent."""
    repeats = (
        ()
        if run.arm.repeats == 1
        else (
            *(points(score.pass_at.get(k), sign=False) for k in _passes(run)),
            points(score.majority, sign=False),
            points(score.decoding_se, 2, sign=False),
        )
    )
    return (
        clean_label(score.name),
        str(score.n),
        f"{score.passed}/{score.answers}",
        points(score.interval.estimate, sign=False),
        interval_text(score.interval, sign=False),
        *repeats,
        points(score.chance, sign=False),
        points(score.graders["lenient"], sign=False),
        points(score.graders["ds4-classic"], sign=False),
        str(score.missed),
        str(score.cut),
        str(score.no_answer),
        "-" if score.tokens is None else f"{score.tokens:,.0f}",
    )


def table_of(run: RunScores) -> Table:
    """All rows; the last is over all questions, where there is more than one group."""
    rows = [Row(cells_of(group, run)) for group in run.groups]
    if len(rows) > 1:
        rows.append(Row(cells_of(run.overall, run), total=True))
    return Table(columns(run), rows, caption=f"Scores of {run.arm.label}, per cent")


def summary_of(run: RunScores) -> Summary:
    """The scores in the form that terminal, Markdown and page share."""
    tone = Tone.UNSURE if run.arm.unfinished else Tone.PLAIN
    tables = [table_of(run)] + ([budget_table(run)] if run.budget.notable else [])
    return Summary(headline(run), tone, tables=tables, remarks=remarks(run))


def budget_table(run: RunScores) -> Table:
    """Score over budget, a row per budget; its last row is the run itself."""
    names = ("tokens", "right", "score", "95 % interval", "unfinished", "at most")
    rows = [
        Row(
            (
                short(point.tokens),
                f"{point.right}/{run.budget.answers}",
                points(point.interval.estimate, sign=False),
                interval_text(point.interval, sign=False),
                str(point.unfinished),
                points(point.most, sign=False),
            )
        )
        for point in run.budget.points
    ]
    return Table(
        tuple(map(Column, names)),
        rows,
        title="score had the budget been smaller (at most: had every unfinished reply been right)",
        caption=f"Score of {run.arm.label} had the budget been smaller, per cent; at most: with "
        "every reply right that was unfinished then",
    )


def headline(run: RunScores) -> str:
    """One line: label, score, interval, counts."""
    score = run.overall
    text = (
        f"{run.arm.label}: {points(score.interval.estimate, sign=False)} % "
        f"[{interval_text(score.interval, sign=False)}], {score.passed} of {score.answers} "
        "answers right"
    )
    if run.arm.repeats > 1:
        text += f", {score.n} questions"
    if run.arm.unfinished:
        text += f"; unfinished, {run.arm.unfinished} of {run.arm.selected} are missing"
    return text


def remarks(run: RunScores) -> list[str]:
    """What a reader must know beside the table."""
    score, out = run.overall, []
    if run.grader != "strict":
        out.append(f"graded by {run.grader}, not by the strict rule")
    recipe = run.arm.run.manifest.get("recipe")
    if isinstance(recipe, dict) and recipe:
        changed = ", ".join(map(str, recipe.get("overridden") or ()))
        text = f"recipe {recipe.get('name')}, version {recipe.get('version')}"
        out.append(clean_label(f"{text}; {changed} typed otherwise" if changed else text, 160))
    share = 100 * score.cut / score.answers
    text = f"{score.cut} replies ({share:.1f} %) ended at their token limit"
    if score.closed:
        text += f"; thinking was closed by force in {score.closed}"
    out.append(text)
    if score.skipped:
        out.append(f"did not fit into the context and count as wrong: {score.skipped}")
    if run.high > run.low:
        out.append(
            f"with every missing or cut answer wrong {points(run.low, sign=False)} %, "
            f"right {points(run.high, sign=False)} %"
        )
    if score.without_cut is not None and score.without_cut[1] < score.answers:
        right, n = score.without_cut
        out.append(f"replies that no budget touched: {points(right, sign=False)} % of {n}")
    where = "in" if run.grader == "lenient" else "not in"
    out.append(
        f"right, but in another form than asked for ({where} the score): {score.missed} of "
        f"{score.answers}"
    )
    corrected = {(s.source, s.id) for s in run.arm.samples if exam_of(s.source) != s.source}
    if corrected:
        sources = ", ".join(sorted({clean_label(source) for source, _ in corrected}))
        out.append(
            f"asked with a known error corrected, and counted with the exam: {len(corrected)} "
            f"({sources})"
        )
    if run.macro is not None:
        out.append(
            f"macro mean over {len(run.groups)} groups {points(run.macro.estimate, sign=False)} % "
            f"[{interval_text(run.macro, sign=False)}]"
        )
    if run.whole is not None:
        interval, size = run.whole
        out.append(
            f"estimate for all {size:,} questions that these are a stratified sample of: "
            f"{points(interval.estimate, sign=False)} % [{interval_text(interval, sign=False)}]"
        )
    if score.guess_p is not None:
        out.append(
            f"blind guessing scores {points(score.chance, sign=False)} % and does as well with "
            f"p {p_text(score.guess_p)}"
        )
    if score.seconds:
        out.append(f"{duration(score.seconds)} of prefill and decode")
    return out


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def print_rich(
    runs: Sequence[RunScores], comparisons: Sequence[RunComparison], console: Console
) -> None:
    """Tables for people; plain text where the output is no terminal."""
    for run in runs:
        print_summary(summary_of(run), console)
        console.print()
    for comparison in comparisons:
        print_comparison(comparison, console)
        console.print()


def to_summary(runs: Sequence[RunScores], comparisons: Sequence[RunComparison]) -> str:
    """Markdown for a CI job's page. Holds no question, no reply and no key."""
    out = []
    for run in runs:
        facts = "; ".join(f"{name}: {text}" for name, text in run.facts)
        out += [summary_markdown(summary_of(run), "##"), f"<sub>{escape_markdown(facts)}</sub>", ""]
    out += [to_markdown(comparison) for comparison in comparisons]
    return "\n".join(out).rstrip() + "\n"


def report_json(runs: Sequence[RunScores], comparisons: Sequence[RunComparison]) -> Document:
    """Everything as plain values for strict JSON; shares are fractions of 1."""
    document: Document = finite(
        {
            "schema": SCHEMA,
            "version": VERSION,
            "runs": [
                {
                    "label": run.arm.label,
                    "run_id": run.arm.run.run_id,
                    "grader": run.grader,
                    "by": run.by,
                    "selected": run.arm.selected,
                    "unfinished": run.arm.unfinished,
                    "repeats": run.arm.repeats,
                    "overall": asdict(run.overall),
                    "groups": [asdict(group) for group in run.groups],
                    "macro": None if run.macro is None else asdict(run.macro),
                    "whole": None
                    if run.whole is None
                    else {**asdict(run.whole[0]), "population": run.whole[1]},
                    "budget": asdict(run.budget),
                    "low": run.low,
                    "high": run.high,
                    "closes": run.closes,
                    "facts": dict(run.facts),
                }
                for run in runs
            ],
            "comparisons": [to_json(comparison) for comparison in comparisons],
        }
    )
    cleaned: Document = clean_values(document)
    return cleaned
