"""Runs to a report: tables, figures and comparison as one context, then HTML and Markdown."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from statistics import median
from typing import Any

from ds4bench.compare import history as past
from ds4bench.compare import trends
from ds4bench.compare.judge import Comparison
from ds4bench.compare.view import (
    TONES,
    headline,
    refusals,
    slower_curves,
    table_of,
    to_markdown,
)
from ds4bench.records.files import (
    bandwidth_rates,
    bandwidth_text,
    label_of,
    machine_bandwidth,
)
from ds4bench.records.rows import SpeedRow, SweepResult, mode_of, mode_rank
from ds4bench.report import curves as plot_data
from ds4bench.report import plot
from ds4bench.report.curves import Source
from ds4bench.report.reliability import reliability_figure, reliability_table
from engine.tooling.report.labels import clean_label, escape_markdown, named
from engine.tooling.report.pages import drawing, render_page
from engine.tooling.report.tables import Column, Row, Summary, Table, Tone, table_markdown

_SHOWN_FAILURES = 20
# The tables of more runs are folded away.
_OPEN_RUNS = 4
# Of a run's rows; those of `Cell.values` are shown where any cell fills them.
COLUMNS = (Column("Mode", text=True), Column("Context", "tokens"))
VALUE_COLUMNS = (
    Column("Prefill", "t/s"),
    Column("Decode", "t/s"),
    Column("± range", "%"),
    Column("vs plain", "×"),
    Column("Tokens/step"),
    Column("Kept", "%"),
    Column("ITL p50", "ms"),
    Column("ITL p99", "ms"),
    Column("Bandwidth", "%"),
    Column("Energy", "J/token"),
)
RUNS_COLUMN = Column("Runs", toned=True)


@dataclass(frozen=True, slots=True)
class Cell:
    """Medians over the runs of one mode at one frontier; None is unknown."""

    mode: str
    ctx_tokens: int
    values: tuple[float | None, ...]
    n_ok: int
    failed: Mapping[str, int]  # runs that failed, by what they said
    lossless: bool | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the templates show.

    Attributes
    ----------
    run_id : str
    sources : list of Source
    published : list of Source
        Curves drawn as context.
    comparisons : list of Comparison
        Each source against the base, if one was given.
    series : list of Series
        The history of the first source's set-up.
    base : list of Source
        The runs that sources are judged against; drawn beside them.
    """

    run_id: str
    sources: list[Source]
    published: list[Source] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    series: list[past.Series] = field(default_factory=list)
    base: list[Source] = field(default_factory=list)

    @property
    def title(self) -> str:
        return named([s.label for s in self.sources])


def run_id(run: SweepResult) -> str:
    """Name of a run's report folder: time, commit, content; the same for the same run."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(past.started_at(run)))
    commit = str((run.environment.get("code") or {}).get("commit") or "")[:9]
    # The commit comes out of a file that anybody may have written.
    safe = commit if commit.isalnum() else ""
    return "-".join(part for part in (stamp, safe, past.digest(run)[:8]) if part)


def cells(run: SweepResult) -> list[Cell]:
    """One cell per mode and frontier, plain first."""
    bandwidth = machine_bandwidth(run.environment)
    groups: dict[tuple[str, int], list[SpeedRow]] = defaultdict(list)
    for row in run.rows:
        groups[row.series, row.ctx_tokens].append(row)
    speedups = {
        (curve.mode, int(ctx)): float(mid)
        for curve in plot_data.speedups(Source("", run))
        for ctx, mid in zip(curve.ctx, curve.mid)
    }
    out = []
    for (mode, ctx), rows in sorted(groups.items(), key=lambda g: (mode_rank(g[0][0]), g[0])):
        good = [row for row in rows if row.ok]
        decode = [r.gen_tps for r in good if r.gen_tps]
        spread = 50 * (max(decode) - min(decode)) / median(decode) if len(decode) > 1 else None
        values = (
            _median(plot_data.prefill(r) for r in good),
            _median(decode),
            spread,
            speedups.get((mode, ctx)),
            _median(r.tokens_per_step for r in good) if mode_of(mode) != "plain" else None,
            _median(plot_data.acceptance(r) for r in good),
            _median(_scaled(r.itl_s(50), 1e3) for r in good),
            _median(_scaled(r.itl_s(99), 1e3) for r in good),
            _median(_scaled(r.bandwidth, 100 / bandwidth) for r in good) if bandwidth else None,
            _median(r.gen_joules_per_token for r in good),
        )
        failed = Counter(f"{r.status}: {r.message}" for r in rows if not r.ok)
        stamps = {r.lossless for r in good}
        lossless = False if False in stamps else (True if True in stamps else None)
        out.append(Cell(mode, ctx, values, len(good), failed, lossless))
    return out


def _median(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def number(value: float | None) -> str:
    """Three or four digits that carry; a dash for unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and abs(value) < 0.1:
        return f"{value:.2g}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:.{digits}f}"


def rows_table(run: SweepResult) -> Table:
    """One row per mode and frontier; a value that no row has gets no column."""
    table = cells(run)
    used = [
        place
        for place in range(len(VALUE_COLUMNS))
        if any(cell.values[place] is not None for cell in table)
    ]
    rows = []
    for before, cell in zip([None, *table], table):
        count = str(cell.n_ok)
        if cell.failed:
            count += f" ({sum(cell.failed.values())} failed)"
        if cell.lossless is False:
            count += " not lossless"
        values = (number(cell.values[place]) for place in used)
        bad = bool(cell.failed) or cell.lossless is False
        rows.append(
            Row(
                (cell.mode, str(cell.ctx_tokens), *values, count),
                Tone.BAD if bad else Tone.PLAIN,
                rule=before is not None and before.mode != cell.mode,
            )
        )
    return Table(
        (*COLUMNS, *(VALUE_COLUMNS[place] for place in used), RUNS_COLUMN),
        rows,
        caption="Medians over runs. ± range: half of highest minus lowest decode rate.",
    )


def failures(run: SweepResult) -> list[str]:
    """The failed rows, as many as a reader wants to see."""
    found = [
        f"failed: {cell.mode} at {cell.ctx_tokens}: {text}"
        + (f" ({count} runs)" if count > 1 else "")
        for cell in cells(run)
        for text, count in cell.failed.items()
    ]
    return found[:_SHOWN_FAILURES]


def _failed_text(run: SweepResult) -> str:
    """What a folded run must not hide."""
    count = sum(not row.ok for row in run.rows)
    return f": {count} rows failed" if count else ""


def circumstances(run: SweepResult) -> list[tuple[str, str]]:
    """What a reader must know of where the numbers come from, as label and text."""
    env = run.environment
    code, cpu, gpu, prints, engine = (
        _part(env, name) for name in ("code", "cpu", "gpu", "fingerprint", "engine")
    )
    model = env.get("model")
    first = model[0] if isinstance(model, list) and model and isinstance(model[0], dict) else {}
    commit = str(code.get("commit") or "")
    rates = bandwidth_rates(env)
    rows: list[tuple[str, Any]] = [
        # Folders say more of their owner than of the run.
        ("Results", label_of(run.source)),
        ("Commit", commit + (" with uncommitted changes" if code.get("dirty") else "")),
        ("Server", prints.get("server")),
        ("Client's processor" if prints.get("server") else "Processor", cpu.get("name")),
        ("Cores used", engine.get("threads") or cpu.get("usable_cores")),
        ("GPU", gpu.get("name")),
        ("Driver", gpu.get("driver")),
        ("Memory bandwidth, measured", rates and bandwidth_text(rates)),
        ("System", env.get("system")),
        ("Model", env.get("model_name") or _part(env, "server").get("model")),
        ("Model file", PurePath(str(first.get("path") or "")).name),
        ("Model SHA-256", first.get("sha256") or first.get("header_sha256")),
        ("Prompt", prints.get("prompt")),
        ("Activations", prints.get("activations")),
        ("Tokens decoded per row", next((r.gen_tokens for r in run.rows if r.gen_tokens), None)),
    ]
    if not run.exact:
        rows.append(("Precision", "rates rounded to two decimals (CSV)"))
    if run.dropped:
        rows.append(("Unreadable", f"{run.dropped} bytes or lines dropped"))
    return [(label, clean_label(str(text), 200)) for label, text in rows if text]


def _part(environment: dict[str, Any], name: str) -> dict[str, Any]:
    value = environment.get(name)
    return value if isinstance(value, dict) else {}


def to_html(report: Report) -> str:
    """One page that needs nothing else: styles and figures inside, no script, no network."""
    drawn = [*report.base, *report.sources, *report.published]
    label = f"Speed of {report.title} over context"
    return render_page(
        "ds4bench.report",
        "report.html.j2",
        program="ds4-bench",
        title=report.title,
        filters={"number": number},
        run_id=report.run_id,
        comparisons=[_comparison_part(c) for c in report.comparisons],
        reliability=drawing(
            reliability_figure(report.sources), "r", "Confidence of drafts against their acceptance"
        ),
        chart=drawing(plot.figure(drawn), "f", label),
        chart_narrow=drawing(plot.figure(drawn, narrow=True), "n", label),
        folded=len(report.sources) > _OPEN_RUNS,
        runs=[
            {
                "label": source.label,
                "table": rows_table(source.run),
                "drafts": reliability_table(source.run),
                "failures": failures(source.run),
                "failed": _failed_text(source.run),
                "facts": circumstances(source.run),
            }
            for source in report.sources
        ],
        sparks=[spark(s) for s in report.series if len(s.points) > 1],
    )


def _comparison_part(result: Comparison) -> dict[str, Any]:
    """What the template shows of a comparison: effects by curve, and by frontier folded away."""
    legend = "Change is head over base; MDE is the smallest change that this many samples show."
    judged = not result.unlike
    n_bad = sum(TONES[line.judgement.verdict] is Tone.BAD for line in result.cells)
    return {
        "label": f"Comparison of {result.head} with {result.base}",
        "summary": Summary(
            headline(result),
            TONES[result.verdict],
            reasons=slower_curves(result),
            refusals=refusals(result),
        ),
        "curves": [table_of(result.curves, caption=f"Curves: mean over frontiers. {legend}")]
        if judged
        else [],
        "cells": [table_of(result.cells, caption=f"Frontiers. {legend}")]
        if judged and result.cells
        else [],
        "cells_title": f"Frontiers one by one: {len(result.cells)}, regressed: {n_bad}",
        "notes": result.notes,
    }


@dataclass(frozen=True, slots=True)
class Spark:
    """A series as the coordinates of a small chart, 300 by 48 units."""

    name: str
    line: str
    dots: list[tuple[float, float, str]]
    changes: list[tuple[float, str]]
    first: float
    last: float
    unit: str


def spark(series: past.Series) -> Spark:
    """Lay out one series; the vertical axis spans its values and at least two per cent."""
    key, points = series.key, series.points
    values = [trends.shown(key.metric, p.rate)[0] for p in points]
    unit = trends.shown(key.metric, points[0].rate)[1]
    middle = (max(values) + min(values)) / 2
    half = max((max(values) - min(values)) / 2, 0.01 * middle)
    xs = [6 + 288 * i / (len(points) - 1) for i in range(len(points))]
    ys = [24 - 18 * (value - middle) / half for value in values]
    names = [
        f"{p.commit[:9] or 'unknown commit'}, "
        f"{time.strftime('%Y-%m-%d', time.gmtime(p.at))}: {number(value)} {unit}"
        for p, value in zip(points, values)
    ]
    marks = [
        (
            round((xs[c.index - 1] + xs[c.index]) / 2, 2),
            f"{trends.change_text(key.metric, c)} at "
            f"{points[c.index].commit[:9] or 'unknown commit'}",
        )
        for c in series.changes
    ]
    line = " ".join(f"{x:.2f},{y:.2f}" for x, y in zip(xs, ys))
    dots = [(round(x, 2), round(y, 2), clean_label(n, 80)) for x, y, n in
            zip(xs, ys, names)]  # fmt: skip
    return Spark(trends.name_of(series), line, dots, marks, values[0], values[-1], unit)


def to_summary(report: Report) -> str:
    """Markdown for a CI job's page."""
    out = [f"## ds4-bench: {escape_markdown(report.title)}", ""]
    for comparison in report.comparisons:
        out.append(to_markdown(comparison))
    for source in report.sources:
        table = replace(rows_table(source.run), title=source.label)
        out += [*table_markdown(table), ""]
        drafts = reliability_table(source.run)
        out += [*table_markdown(drafts), ""] if drafts is not None else []
        out += [f"- {escape_markdown(text)}" for text in failures(source.run)]
        facts = "; ".join(f"{k}: {v}" for k, v in circumstances(source.run))
        out += ["", f"<sub>{escape_markdown(facts)}</sub>", ""]
    for series in report.series:
        for change in series.changes:
            at = series.points[change.index]
            effect = trends.change_text(series.key.metric, change)
            text = f"{trends.name_of(series)}: {effect}"
            out.append(f"- level change: {text} from {escape_markdown(at.commit[:9] or '?')} on")
    return "\n".join(out).rstrip() + "\n"
