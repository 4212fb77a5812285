"""Runs to a report: tables, figures and comparison as one context, then HTML and Markdown."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from statistics import median
from typing import Any

from ds4bench.compare import history as past
from ds4bench.compare.judge import Comparison
from ds4bench.compare.view import (
    HEADINGS,
    VERDICT,
    cells_of,
    headline,
    slower_curves,
    to_markdown,
)
from ds4bench.records.files import label_of, machine_bandwidth
from ds4bench.records.rows import SpeedRow, SweepResult, mode_rank
from ds4bench.report import curves as plot_data
from ds4bench.report import plot
from ds4bench.report.curves import Source
from engine.tooling.report.labels import clean_label, escape_markdown

COLUMNS = (
    ("Mode", ""),
    ("Context", "tokens"),
    ("Prefill", "t/s"),
    ("Decode", "t/s"),
    ("± range", "%"),
    ("vs plain", "×"),
    ("Tokens/step", ""),
    ("Kept", "%"),
    ("ITL p50", "ms"),
    ("ITL p99", "ms"),
    ("Bandwidth", "%"),
    ("Energy", "J/token"),
    ("Runs", ""),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """Medians over the runs of one mode at one frontier; None is unknown."""

    mode: str
    ctx_tokens: int
    values: tuple[float | None, ...]
    n_ok: int
    failed: tuple[str, ...]
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
    """

    run_id: str
    sources: list[Source]
    published: list[Source] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    series: list[past.Series] = field(default_factory=list)


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
        groups[row.mode, row.ctx_tokens].append(row)
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
            _median(r.tokens_per_step for r in good) if mode != "plain" else None,
            _median(plot_data.acceptance(r) for r in good),
            _median(_scaled(r.itl_s(50), 1e3) for r in good),
            _median(_scaled(r.itl_s(99), 1e3) for r in good),
            _median(_scaled(r.bandwidth, 100 / bandwidth) for r in good) if bandwidth else None,
            _median(r.gen_joules_per_token for r in good),
        )
        failed = tuple(dict.fromkeys(f"{r.status}: {r.message}" for r in rows if not r.ok))
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


def used_columns(table: Sequence[Cell]) -> list[int]:
    """Positions of value columns that any cell fills: an empty column says nothing."""
    n = len(COLUMNS) - 3
    return [i for i in range(n) if any(cell.values[i] is not None for cell in table)]


def circumstances(run: SweepResult) -> list[tuple[str, str]]:
    """What a reader must know of where the numbers come from, as label and text."""
    env = run.environment
    code, cpu, gpu, prints, engine = (
        _part(env, name) for name in ("code", "cpu", "gpu", "fingerprint", "engine")
    )
    model = env.get("model")
    first = model[0] if isinstance(model, list) and model and isinstance(model[0], dict) else {}
    commit = str(code.get("commit") or "")
    speed = machine_bandwidth(env)
    rows: list[tuple[str, Any]] = [
        # Folders say more of their owner than of the run.
        ("Results", label_of(run.source)),
        ("Commit", commit + (" with uncommitted changes" if code.get("dirty") else "")),
        ("Processor", cpu.get("name")),
        ("Cores used", engine.get("threads") or cpu.get("usable_cores")),
        ("GPU", gpu.get("name")),
        ("Driver", gpu.get("driver")),
        ("Memory bandwidth, measured", speed and f"{speed / 1e9:.1f} GB/s"),
        ("System", env.get("system")),
        ("Model", env.get("model_name")),
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
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=PackageLoader("ds4bench.report", "style"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["number"] = number
    label = f"Speed of {', '.join(s.label for s in report.sources)} over context"
    chart = Markup(plot.inline_svg([*report.sources, *report.published], "f", label))
    tables = [(s, cells(s.run), circumstances(s.run)) for s in report.sources]
    return templates.get_template("report.html.j2").render(
        report=report,
        title=", ".join(s.label for s in report.sources),
        chart=chart,
        tables=[(s, t, used_columns(t), c) for s, t, c in tables],
        columns=COLUMNS,
        themes={theme: plot.theme_variables(theme) for theme in plot.THEMES},
        headings=HEADINGS,
        verdict_column=VERDICT,
        cells_of=cells_of,
        headline=headline,
        slower_curves=slower_curves,
        sparks=[spark(s) for s in report.series if len(s.points) > 1],
    )


@dataclass(frozen=True, slots=True)
class Spark:
    """A series as the coordinates of a small chart, 300 by 48 units."""

    name: str
    line: str
    dots: list[tuple[float, float, str]]
    changes: list[tuple[float, str]]
    first: float
    last: float


def spark(series: past.Series) -> Spark:
    """Lay out one series; the vertical axis spans its values and at least two per cent."""
    key, points = series.key, series.points
    rates = [p.rate for p in points]
    middle = (max(rates) + min(rates)) / 2
    half = max((max(rates) - min(rates)) / 2, 0.01 * middle)
    xs = [6 + 288 * i / (len(points) - 1) for i in range(len(points))]
    ys = [24 - 18 * (rate - middle) / half for rate in rates]
    names = [
        f"{p.commit[:9] or 'unknown commit'}, "
        f"{time.strftime('%Y-%m-%d', time.gmtime(p.at))}: {number(p.rate)} per s"
        for p in points
    ]
    marks = [
        (
            round((xs[c.index - 1] + xs[c.index]) / 2, 2),
            f"{100 * c.effect:+.1f} % at {points[c.index].commit[:9] or 'unknown commit'}",
        )
        for c in series.changes
    ]
    line = " ".join(f"{x:.2f},{y:.2f}" for x, y in zip(xs, ys))
    dots = [(round(x, 2), round(y, 2), clean_label(n, 80)) for x, y, n in
            zip(xs, ys, names)]  # fmt: skip
    return Spark(
        f"{key.metric} {key.mode} at {key.ctx_tokens}", line, dots, marks, rates[0], rates[-1]
    )


def to_summary(report: Report) -> str:
    """Markdown for a CI job's page."""
    out = [f"## ds4-bench: {escape_markdown(', '.join(s.label for s in report.sources))}", ""]
    for comparison in report.comparisons:
        out.append(to_markdown(comparison))
    for source in report.sources:
        table = cells(source.run)
        used = used_columns(table)
        heads = [_head(COLUMNS[0]), _head(COLUMNS[1])]
        heads += [_head(COLUMNS[i + 2]) for i in used] + [COLUMNS[-1][0]]
        out += [f"**{escape_markdown(source.label)}**", "", "| " + " | ".join(heads) + " |"]
        out.append("| --- |" + " ---: |" * (len(heads) - 1))
        for cell in table:
            row = [cell.mode, str(cell.ctx_tokens), *(number(cell.values[i]) for i in used)]
            row.append(str(cell.n_ok) + (f" ({len(cell.failed)} failed)" if cell.failed else ""))
            out.append("| " + " | ".join(row) + " |")
        lossy = [f"{c.mode} at {c.ctx_tokens}" for c in table if c.lossless is False]
        if lossy:
            out += ["", f"**Not lossless**: {', '.join(lossy)}"]
        failures = [f"{c.mode} at {c.ctx_tokens}: {f}" for c in table for f in c.failed]
        out += [""] + [f"- failed: {escape_markdown(text)}" for text in failures[:20]]
        facts = "; ".join(f"{k}: {v}" for k, v in circumstances(source.run))
        out += ["", f"<sub>{escape_markdown(facts)}</sub>", ""]
    for series in report.series:
        for change in series.changes:
            key, at = series.key, series.points[change.index]
            text = f"{key.metric} {key.mode} at {key.ctx_tokens}: {100 * change.effect:+.1f} %"
            out.append(f"- level change: {text} from {escape_markdown(at.commit[:9] or '?')} on")
    return "\n".join(out).rstrip() + "\n"


def _head(column: tuple[str, str]) -> str:
    return f"{column[0]} ({column[1]})" if column[1] else column[0]
