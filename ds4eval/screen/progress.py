"""The head of the screen: keys, time, how far the run is, when it will end, scores by source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.text import Text as Line

from ds4eval.questions.known import exam_of
from ds4eval.screen.state import View
from ds4eval.stats.times import span
from engine.tooling.report.labels import clean_label
from engine.tooling.report.wilson import wilson_bounds

Z = 1.959963984540054  # two-sided 95 per cent
MOST_SOURCES = 5


def clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60:02d}h:{minutes % 60:02d}m"


@dataclass(slots=True)
class SourceScore:
    """Answers of one exam so far."""

    name: str
    asked: int = 0
    final: int = 0
    passed: int = 0
    other_passed: int = 0
    other_final: int = 0


def by_source(view: View) -> list[SourceScore]:
    """Scores of the exams in order of first appearance."""
    found: dict[str, SourceScore] = {}
    for job in view.jobs:
        name = exam_of(job.question.source)
        score = found.setdefault(name, SourceScore(name))
        score.asked += 1
        sample, other = view.samples.get(job.n), view.others.get(job.n)
        if sample is not None and sample.final:
            score.final += 1
            score.passed += sample.passed
        if other is not None and other.final:
            score.other_final += 1
            score.other_passed += other.passed
    return list(found.values())


def head_lines(view: View, width: int, rows: int) -> list[Line]:
    """Title, progress and, where there is room, the exams."""
    lines = [_title(view), _score(view, width)]
    sources = by_source(view)
    if rows >= 18 and sources:
        shown = sources[:MOST_SOURCES]
        names = max(len(clean_label(source.name, width // 3)) for source in shown)
        two = bool(view.others)
        found = [_source(source, names, width, two, True) for source in shown]
        if any(line.cell_len > width for line in found):
            found = [_source(source, names, width, two, False) for source in shown]
        lines += found
        if len(sources) > len(shown):
            lines.append(Line(f"and {len(sources) - len(shown)} more sources", style="dim"))
    return lines


def _title(view: View) -> Line:
    line = Line("ds4-eval ")
    if view.names:
        line.append(clean_label(" | ".join(view.names), 40), "bold")
        return line.append("  ? keys  q leave", "dim")
    if view.ended:
        line.append("DONE " if view.ended == "done" else f"{view.ended.upper()} ", "bold green")
    line.append(clock(view.elapsed_s))
    if view.left_s is not None and not view.ended:
        line.append(f" +{span(view.left_s)}", "bold")
    keys = "  q leaves  ? keys" if view.ended else "  (p)ause (q)uit ? keys"
    if not (view.quitting or view.paused):
        line.append(keys, "dim")
    if view.quitting:
        line.append(" QUITTING", "bold yellow")
    elif view.paused:
        line.append(" PAUSED", "bold red")
    return line


def _score(view: View, width: int) -> Line:
    total = len(view.jobs)
    over = total - view.left
    line = Line("score ")
    line.append(str(view.passed), "green").append(f"/{total}  failed ")
    line.append(str(view.failed), "red" if view.failed else "dim")
    line.append(f"  left {view.left}")
    if view.live and view.speed > 0:
        line.append(f"  {view.speed:.1f} t/s", "bold")
    room = width - len(line.plain) - 2
    if total and not view.names and room >= 10:
        cells = min(room, 24)
        done = cells * over // total
        line.append(" ▕" + "█" * done + "·" * (cells - done) + "▏", "dim")
    return line


def _source(source: SourceScore, names: int, width: int, two: bool, intervals: bool) -> Line:
    line = Line(f"{clean_label(source.name, width // 3):<{names}} ")
    line.append(f"{source.passed}/{source.final}")
    if source.final < source.asked:
        line.append(f" of {source.asked}", "dim")
    line.append(_share(source.passed, source.final, intervals))
    if two:
        line.append(f" | {source.other_passed}/{source.other_final}")
        line.append(_share(source.other_passed, source.other_final, intervals))
    return line


def _share(passed: int, n: int, interval: bool) -> str:
    """Share and Wilson's interval, in per cent."""
    if not n:
        return ""
    if not interval:
        return f" {100 * passed / n:.0f} %"
    low, high = wilson_bounds(np.float64(passed / n), np.float64(n), Z)
    return f" {100 * passed / n:.0f} % [{100 * float(low):.0f}, {100 * float(high):.0f}]"
