"""A comparison as terminal table, Markdown or JSON. Labels are untrusted text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ds4bench.compare.judge import Comparison, Line
from ds4bench.compare.samples import LATENCIES
from ds4bench.compare.stats import ASSUMED_SIGMA, FAR_TIMES, Judgement, Verdict
from engine.tooling.report.intervals import UNKNOWN, Interval, bounds_text, signed
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

WORDS = {
    Verdict.REGRESSED: "REGRESSED",
    Verdict.FINE: "fine",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.DESCRIBED: "no verdict (fewer than 5 samples)",
    Verdict.FAR_SLOWER: "FAR SLOWER (fewer than 5 samples, so no interval)",
    Verdict.OUTPUTS: "OUTPUTS DIFFER",
    None: "INCOMPARABLE",
}
TONES = {
    Verdict.REGRESSED: Tone.BAD,
    Verdict.FINE: Tone.GOOD,
    Verdict.INCONCLUSIVE: Tone.UNSURE,
    Verdict.DESCRIBED: Tone.PLAIN,
    Verdict.FAR_SLOWER: Tone.BAD,
    Verdict.OUTPUTS: Tone.BAD,
    None: Tone.REFUSED,
}
_STRIKING = 8
_LOSSES = (Verdict.REGRESSED, Verdict.FAR_SLOWER)
COLUMNS = (
    Column("what", text=True),
    Column("mode", text=True),
    Column("context", text=True),
    Column("change", toned=True),
    Column("verdict", text=True, toned=True),
    Column("95 % interval"),
    Column("MDE"),
    Column("base"),
    Column("head"),
)


def percent(log_effect: float, digits: int = 2) -> str:
    """A log ratio as a signed percentage; unbounded ones as a dash."""
    if not math.isfinite(log_effect):
        return UNKNOWN
    return f"{signed(100 * math.expm1(log_effect), digits)} %"


def interval_text(interval: Interval | None) -> str:
    """Both bounds as percentages, or a dash."""
    return bounds_text(interval, percent)


def verdict_text(line: Line) -> str:
    """Verdict with the tolerance that it was judged against."""
    judgement = line.judgement
    if judgement.verdict is Verdict.DESCRIBED:
        return "no verdict"
    return f"{word(judgement)} (tolerance {100 * judgement.tolerance:.3g} %)"


def word(judgement: Judgement) -> str:
    """The verdict in a word or two: a loss that was shown is never just "fine"."""
    if judgement.faster:
        return "faster"
    if judgement.verdict is Verdict.FINE and judgement.slower:
        return "slower, within tolerance"
    return str(judgement.verdict)


def _where(line: Line) -> str:
    if line.ctx_tokens is not None:
        return f"at {line.ctx_tokens}"
    return "over 1 frontier" if line.frontiers == 1 else f"over {line.frontiers} frontiers"


def cells_of(line: Line) -> tuple[str, ...]:
    """One table row under `COLUMNS`."""
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
        rate_text(line.metric, line.base_rate),
        rate_text(line.metric, line.head_rate),
    )


def rate_text(metric: str, rate: float) -> str:
    """A rate per second; of a latency, which is judged by its inverse, milliseconds."""
    return f"{1e3 / rate:.2f} ms" if metric in LATENCIES else f"{rate:.2f}"


def headline(result: Comparison) -> str:
    """One line: verdict, arms, how many samples of what."""
    unit = {"pair": "pairs", "process": "processes", "repeat": "repeats"}[result.unit]
    if result.paired:
        count = f"{result.n_base} {unit}"
    else:
        count = f"{result.n_base} and {result.n_head} {unit}"
    return f"{overall_words(result)}: {result.head} against {result.base}, {count}"


def overall_words(result: Comparison) -> str:
    """The verdict of a whole comparison."""
    verdict = result.verdict
    if verdict is Verdict.FINE and any(c.judgement.slower for c in result.curves):
        return "slower, within tolerance"
    if result.n_base == result.n_head == 1 and not result.paired:
        if verdict is Verdict.DESCRIBED:
            return "no verdict (one run each: no interval)"
        if verdict is Verdict.FAR_SLOWER:
            return "FAR SLOWER (one run each: no interval)"
    return WORDS[verdict]


def slower_curves(result: Comparison) -> list[str]:
    """The curves, or failing any the frontiers, that made it a regression: a phrase each."""
    if result.unlike:
        return []
    for lines in (result.curves, result.cells):
        bad = [line for line in lines if line.judgement.verdict in _LOSSES]
        if bad:
            return [
                f"{line.metric} {line.mode} {_where(line)}: "
                f"{percent(line.judgement.estimate.mean)}, "
                f"tolerance {100 * line.judgement.tolerance:.3g} %"
                for line in bad
            ]
    return []


def summary_of(result: Comparison, *, every_cell: bool = False) -> Summary:
    """The comparison in the form that terminal and Markdown share."""
    return Summary(
        headline(result),
        TONES[result.verdict],
        reasons=slower_curves(result),
        refusals=refusals(result),
        advice=advice(result),
        tables=[table_of(lines, title) for lines, title in _tables(result, every_cell)],
        remarks=_remarks(result),
    )


def refusals(result: Comparison) -> list[str]:
    """Why the runs are not compared, and what is broken whatever the speed."""
    unlike = [f"unlike in {difference}" for difference in result.unlike]
    outputs = [f"outputs differ: {text}" for text in result.outputs]
    return unlike + outputs + [f"broken: {text}" for text in result.broken]


def advice(result: Comparison) -> str:
    """What to add to the command line so that all refusals go, as far as options can do that."""
    names = list(dict.fromkeys(d.name for d in result.unlike))
    if "rows" in names:
        return "measure the same contexts and modes on both sides; no option can compare these"
    if result.outputs:
        names.append("outputs")
    if not names:
        return ""
    options = " ".join(f"--allow {name}" for name in names)
    return f"{options} would compare them all the same"


def table_of(lines: Sequence[Line], title: str = "", caption: str = "") -> Table:
    """Judged effects as a table."""
    rows = [Row(cells_of(line), TONES[line.judgement.verdict]) for line in lines]
    return Table(COLUMNS, rows, title, caption)


def print_rich(result: Comparison, console: Console, *, every_cell: bool = False) -> None:
    """Tables for people; plain text where the output is no terminal."""
    from rich.cells import cell_len

    summary = summary_of(result, every_cell=every_cell)
    tables = []
    for lines, title in _tables(result, every_cell):
        table = table_of(lines, title)
        cells = [[c.heading for c in COLUMNS], *(row.cells for row in table.rows)]
        width = sum(max(map(cell_len, column)) for column in zip(*cells)) + 2 * (len(COLUMNS) - 1)
        # Rich would cut words and fold numbers to make a wide table fit.
        tables.append(table if width <= console.width else stacked(lines, title))
    print_summary(replace(summary, tables=tables), console)


def stacked(lines: Sequence[Line], title: str = "") -> Table:
    """The same effects for a narrow terminal: two lines of text each, which wrap between words."""
    rows = []
    for line in lines:
        where = _where(line)
        cells = dict(zip((column.name for column in COLUMNS), cells_of(line)))
        tone = TONES[line.judgement.verdict]
        head = f"{line.metric} {line.mode} {where}: {cells['change']}, {cells['verdict']}"
        rest = ("95 % interval", "MDE", "base", "head")
        rows.append(Row((head,), tone))
        rows.append(Row(("  " + ", ".join(f"{name} {cells[name]}" for name in rest),)))
    return Table((Column(title, text=True, toned=True),), rows)


def to_markdown(result: Comparison, *, every_cell: bool = False, heading: str = "###") -> str:
    """A summary for a CI job's page or a pull request."""
    return summary_markdown(summary_of(result, every_cell=every_cell), heading)


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
    return line.judgement.verdict not in _LOSSES and not significant


def _remarks(result: Comparison) -> list[str]:
    remarks = [f"allowed to differ in {d}" for d in result.allowed]
    if result.verdict is Verdict.FAR_SLOWER:
        remarks.append(
            f"far slower: the loss is beyond the tolerance by more than {FAR_TIMES:g} times the "
            "noise of one pair, as `ds4-bench calibrate` stored it for this machine or, where it "
            f"did not, {100 * ASSUMED_SIGMA:g} %"
        )
    same = sum(line.same for line in result.tokens)
    if result.tokens:
        remarks.append(f"tokens per step equal in {same} of {len(result.tokens)} cells")
    for line in result.curves:
        if line.hodges_lehmann is not None:
            text = f"{line.metric} {line.mode}: Hodges-Lehmann {interval_text(line.hodges_lehmann)}"
            if result.looks > 1:
                text += " (as of one look)"
            if line.bca is not None:
                text += f"; bootstrap (BCa) {interval_text(line.bca)}"
            remarks.append(text)
    return remarks + result.notes


def to_json(result: Comparison) -> dict[str, Any]:
    """Everything, strict JSON: unbounded and unknown numbers are null; effects are fractions."""
    return {
        "schema": "ds4bench.comparison",
        "version": 1,
        "verdict": None if result.verdict is None else str(result.verdict),
        "words": overall_words(result),
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
        "outputs": result.outputs,
        "looks": result.looks,
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
