"""A comparison as terminal table, Markdown or JSON. Labels are untrusted text."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ds4bench.compare.judge import Comparison, Line
from ds4bench.compare.stats import Interval, Verdict
from engine.tooling.report.labels import escape_markdown

if TYPE_CHECKING:
    from rich.console import Console

WORDS = {
    Verdict.REGRESSED: "REGRESSED",
    Verdict.FINE: "fine",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.DESCRIBED: "no verdict (fewer than 5 samples)",
    None: "INCOMPARABLE",
}
_COLOURS = {
    Verdict.REGRESSED: "bold red",
    Verdict.FINE: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.DESCRIBED: "dim",
    None: "bold red",
}
_STRIKING = 8
HEADINGS = ("what", "mode", "context", "change", "verdict", "95 % interval", "MDE", "base", "head")
VERDICT = HEADINGS.index("verdict")
_NUMBERS = (3, 5, 6, 7, 8)


def percent(log_effect: float, digits: int = 2) -> str:
    """A log ratio as a signed percentage; unbounded ones as a dash."""
    if not math.isfinite(log_effect):
        return "-"
    # + 0.0: a rounded minus nothing is nothing.
    return f"{round(100 * math.expm1(log_effect), digits) + 0.0:+.{digits}f} %"


def interval_text(interval: Interval | None) -> str:
    """Both bounds as percentages, or a dash."""
    if interval is None or not math.isfinite(interval.half_width):
        return "-"
    return f"{percent(interval.low)} .. {percent(interval.high)}"


def verdict_text(line: Line) -> str:
    """Verdict with the tolerance that it was judged against."""
    judgement = line.judgement
    if judgement.verdict is Verdict.DESCRIBED:
        return "no verdict"
    word = "faster" if judgement.faster else str(judgement.verdict)
    return f"{word} (tolerance {100 * judgement.tolerance:.3g} %)"


def _where(line: Line) -> str:
    if line.ctx_tokens is not None:
        return f"at {line.ctx_tokens}"
    return "over 1 frontier" if line.frontiers == 1 else f"over {line.frontiers} frontiers"


def cells_of(line: Line) -> tuple[str, ...]:
    """One table row under `HEADINGS`."""
    where = f"{line.frontiers} frontiers" if line.ctx_tokens is None else str(line.ctx_tokens)
    if line.ctx_tokens is None and line.frontiers == 1:
        where = "1 frontier"
    mde = line.judgement.mde
    return (
        line.metric,
        line.mode,
        where,
        percent(line.judgement.estimate.mean),
        verdict_text(line),
        interval_text(line.judgement.interval),
        f"{100 * mde:.2f} %" if math.isfinite(mde) else "-",
        f"{line.base_rate:.2f}",
        f"{line.head_rate:.2f}",
    )


def headline(result: Comparison) -> str:
    """One line: verdict, arms, how many samples of what."""
    unit = {"pair": "pairs", "process": "processes", "repeat": "repeats"}[result.unit]
    if result.paired:
        count = f"{result.n_base} {unit}"
    else:
        count = f"{result.n_base} and {result.n_head} {unit}"
    return f"{WORDS[result.verdict]}: {result.head} against {result.base}, {count}"


def slower_curves(result: Comparison) -> list[str]:
    """The curves, or failing any the frontiers, that made it a regression: a phrase each."""
    if result.unlike:
        return []
    for lines in (result.curves, result.cells):
        bad = [line for line in lines if line.judgement.verdict is Verdict.REGRESSED]
        if bad:
            return [
                f"{line.metric} {line.mode} {_where(line)}: "
                f"{percent(line.judgement.estimate.mean)}, "
                f"tolerance {100 * line.judgement.tolerance:.3g} %"
                for line in bad
            ]
    return []


def print_rich(result: Comparison, console: Console, *, every_cell: bool = False) -> None:
    """Tables for people; plain text where the output is no terminal."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(headline(result), style=_COLOURS[result.verdict]))
    for difference in result.unlike:
        console.print(Text(f"  unlike in {difference}", style="red"))
    if result.unlike:
        console.print(Text(f"  --allow {result.unlike[0].name} would compare them all the same"))
    for text in result.broken:
        console.print(Text(f"  broken: {text}", style="red"))
    for lines, title in _tables(result, every_cell):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_edge=False)
        for place, name in enumerate(HEADINGS):
            table.add_column(name, justify="right" if place in _NUMBERS else "left")
        for line in lines:
            style = _COLOURS[line.judgement.verdict]
            cells = [Text(text) for text in cells_of(line)]
            cells[VERDICT].stylize(style)
            table.add_row(*cells)
        console.print(table)
    for text in _remarks(result):
        console.print(Text(f"  {text}", style="dim"))


def _tables(result: Comparison, every_cell: bool) -> list[tuple[list[Line], str]]:
    if result.unlike or not result.curves:
        return []
    tables = [(result.curves, "curves (mean over frontiers)")]
    if every_cell and result.cells:
        tables.append((result.cells, "frontiers"))
    striking = [cell for cell in result.cells if not every_cell and not _dull(cell)]
    if striking:
        # A loss everywhere stands out everywhere: the worst few say where to look.
        worst = sorted(striking, key=lambda c: c.judgement.estimate.mean)[:_STRIKING]
        kept = [cell for cell in striking if cell in worst]
        more = f", worst {len(kept)} of {len(striking)}; --all shows all"
        title = "frontiers that stand out" + (more if len(striking) > len(kept) else "")
        tables.append((kept, title))
    return tables


def _dull(line: Line) -> bool:
    significant = line.q_value is not None and line.q_value < 0.05
    return line.judgement.verdict is not Verdict.REGRESSED and not significant


def _remarks(result: Comparison) -> list[str]:
    remarks = [f"allowed to differ in {d}" for d in result.allowed]
    same = sum(line.same for line in result.tokens)
    if result.tokens:
        remarks.append(f"tokens per step equal in {same} of {len(result.tokens)} cells")
    for line in result.curves:
        if line.hodges_lehmann is not None:
            text = f"{line.metric} {line.mode}: Hodges-Lehmann {interval_text(line.hodges_lehmann)}"
            if line.bca is not None:
                text += f"; bootstrap (BCa) {interval_text(line.bca)}"
            remarks.append(text)
    return remarks + result.notes


def to_markdown(result: Comparison, *, every_cell: bool = False, heading: str = "###") -> str:
    """A summary for a CI job's page or a pull request."""
    mark = {Verdict.REGRESSED: "❌", Verdict.FINE: "✅", None: "⛔"}.get(result.verdict, "❔")
    out = [f"{heading} {mark} {escape_markdown(headline(result))}", ""]
    out += [f"- {escape_markdown(text)}" for text in slower_curves(result)]
    out += [f"- unlike in {escape_markdown(str(d))}" for d in result.unlike]
    out += [f"- **broken**: {escape_markdown(text)}" for text in result.broken]
    for lines, title in _tables(result, every_cell):
        if out[-1]:
            out.append("")
        out += [f"**{title}**", "", "| " + " | ".join(HEADINGS) + " |"]
        out.append("|" + "".join(" ---: |" if i in _NUMBERS else " --- |" for i in range(9)))
        for line in lines:
            cells = [escape_markdown(cell) for cell in cells_of(line)]
            if line.judgement.verdict is Verdict.REGRESSED:
                cells[VERDICT] = f"**{cells[VERDICT]}**"
            out.append("| " + " | ".join(cells) + " |")
    remarks = _remarks(result)
    if remarks:
        out.append("")
        out += [f"- {escape_markdown(text)}" for text in remarks]
    return "\n".join(out) + "\n"


def to_json(result: Comparison) -> dict[str, Any]:
    """Everything, strict JSON: unbounded and unknown numbers are null; effects are fractions."""
    return {
        "schema": "ds4bench.comparison",
        "version": 1,
        "verdict": None if result.verdict is None else str(result.verdict),
        "base": result.base,
        "head": result.head,
        "paired": result.paired,
        "unit": result.unit,
        "samples": {"base": result.n_base, "head": result.n_head},
        "curves": [_line_json(line) for line in result.curves],
        "frontiers": [_line_json(line) for line in result.cells],
        "tokens_per_step": [
            {
                "mode": t.mode,
                "ctx_tokens": t.ctx_tokens,
                "base": t.base,
                "head": t.head,
                "same": t.same,
                "deterministic": t.deterministic,
            }
            for t in result.tokens
        ],
        "unlike": [{"field": d.name, "base": d.base, "head": d.head} for d in result.unlike],
        "allowed": [{"field": d.name, "base": d.base, "head": d.head} for d in result.allowed],
        "broken": result.broken,
        "notes": result.notes,
    }


def json_text(result: Comparison) -> str:
    """`to_json` as text with a final LF."""
    return json.dumps(to_json(result), indent=2, allow_nan=False, default=str) + "\n"


def _line_json(line: Line) -> dict[str, Any]:
    judgement = line.judgement
    return {
        "metric": line.metric,
        "mode": line.mode,
        "ctx_tokens": line.ctx_tokens,
        "prefill_tokens": line.prefill_tokens,
        "frontiers": line.frontiers,
        "base_rate": line.base_rate,
        "head_rate": line.head_rate,
        "change": _fraction(judgement.estimate.mean),
        "interval_95": _bounds(judgement.interval),
        "hodges_lehmann_95": _bounds(line.hodges_lehmann),
        "bca_95": _bounds(line.bca),
        "adjusted_high": _fraction(judgement.adjusted_high),
        "p_value": judgement.p_value,
        "q_value": line.q_value,
        "sigma": judgement.estimate.sigma if math.isfinite(judgement.estimate.sigma) else None,
        "samples": judgement.estimate.n,
        "minimum_detectable": judgement.mde if math.isfinite(judgement.mde) else None,
        "tolerance": judgement.tolerance,
        "verdict": str(judgement.verdict),
    }


def _fraction(log_effect: float) -> float | None:
    return math.expm1(log_effect) if math.isfinite(log_effect) else None


def _bounds(interval: Interval | None) -> list[float | None] | None:
    if interval is None or not math.isfinite(interval.half_width):
        return None
    return [_fraction(interval.low), _fraction(interval.high)]
