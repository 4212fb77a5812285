"""Draws the state of the screen as lines of text; widths are counted in terminal cells.

It is pure: equal states give equal lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text as Line

from ds4eval.screen.state import LABELS, View, pieces_of
from engine.tooling.exits import printable

WIDE = 90  # from here on list and reply stand side by side
MIN_LEFT, MAX_LEFT = 42, 72
ANSWER_CELLS = 18
STYLES = {
    "PASSED": "green",
    "FAILED": "red",
    "TRUNCATED": "yellow",
    "INCOMPLETE": "yellow",
    "ERROR": "red",
    "FILTERED": "yellow",
    "TOOL_CALL": "yellow",
    "STOPPED": "yellow",
    "PREFILL": "cyan",
    "RUNNING": "cyan",
}
THINK_STYLE, QUESTION_STYLE = "dim", "blue"


@dataclass(frozen=True, slots=True)
class Layout:
    """Cells of the two parts; side by side when `wide`, otherwise one above the other."""

    wide: bool
    left: int
    right: int
    list_rows: int
    reply_rows: int


def layout(columns: int, rows: int) -> Layout:
    """Parts of a screen of any size."""
    if columns >= WIDE:
        left = min(max(columns // 2, MIN_LEFT), MAX_LEFT)
        return Layout(True, left, max(columns - left - 2, 1), max(rows, 1), max(rows, 1))
    top = min(max(rows // 3, 4), 12)
    return Layout(False, columns, columns, top, max(rows - top - 1, 1))


def fit(text: str, cells: int) -> str:
    """Text cut to a width, with an ellipsis where something is missing."""
    text = printable(" ".join(text.split()))
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(cells - 1, 0)).rstrip() + "…" if cells > 0 else ""


def count(n: int) -> str:
    """Short count: 16000 as 16k, 1000000 as 1m."""
    if n >= 1_000_000:
        return f"{(n + 500_000) // 1_000_000}m"
    return f"{(n + 500) // 1000}k" if n >= 10_000 else str(n)


def clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60:02d}h:{minutes % 60:02d}m"


def left_lines(view: View, width: int, rows: int) -> list[Line]:
    """Title, score and the list around the cursor."""
    lines = [_title(view, width), _score(view, width)]
    space = rows - len(lines)
    if space > 4:
        lines.append(Line(fit(view.notice, width), style="yellow"))
        space -= 1
    total = len(view.jobs)
    first = max(min(view.shown - 1 - space // 2, total - space), 0)
    lines += [_row(view, n, width) for n in range(first + 1, min(first + space, total) + 1)]
    return lines[:rows]


def _title(view: View, width: int) -> Line:
    line = Line("ds4-eval ")
    line.append("(").append("p", "bold").append(")ause (").append("q", "bold").append(")uit ")
    line.append("↑↓ enter ", "dim")
    line.append(clock(view.elapsed_s))
    if view.quitting:
        line.append(" QUITTING", "bold yellow")
    elif view.paused:
        line.append(" PAUSED", "bold red")
    line.truncate(width)
    return line


def _score(view: View, width: int) -> Line:
    line = Line("score ")
    line.append(str(view.passed), "green").append(f"/{len(view.jobs)}  failed ")
    line.append(str(view.failed), "red" if view.failed else "dim")
    line.append(f"  left {view.left}")
    line.truncate(width)
    return line


def _row(view: View, n: int, width: int) -> Line:
    job, state = view.jobs[n - 1], view.states[n - 1]
    digits = max(len(str(len(view.jobs))), 2)
    line = Line(">" if view.selected == n else " ")
    line.append(f"{n:>{digits}} ")
    line.append(f"{LABELS.get(state, state[:4]):<4} ", STYLES.get(state, ""))
    sample = view.samples.get(n)
    answer = ""
    if sample is not None and sample.graded:
        answer = fit(f"{sample.given or '?'}/{sample.expected}", ANSWER_CELLS)
    name = job.question.title or job.question.id
    again = f" #{job.repeat + 1}" if job.repeat else ""
    space = width - cell_len(line.plain) - cell_len(answer) - 1
    label = fit(f"{job.question.source}: {name}{again}", space)
    line.append(label + " " * (max(space, 0) - cell_len(label)) + " " + answer)
    if n in view.live:
        line.stylize("bold")
    return line


def right_lines(view: View, width: int, rows: int) -> list[Line]:
    """Status, question and the end of the reply."""
    if not view.jobs:
        return [Line(fit("loading the model", width))]
    lines = [_status(view, width)]
    question = _question(view, width, 4 if rows >= 24 else 2 if rows >= 14 else 1)
    lines += question
    space = rows - len(lines)
    if space > 3:
        lines.append(Line(""))
        space -= 1
    return lines + reply_lines(pieces_of(view), width, space)


def _status(view: View, width: int) -> Line:
    n = view.shown
    job, live = view.jobs[n - 1], view.live.get(n)
    name = f"{job.question.source}/{job.question.id[:12]}"
    if live is None:
        sample = view.samples.get(n)
        if sample is None:
            return Line(fit(f"pending  {name}", width))
        line = Line(f"{sample.state} ", STYLES.get(sample.state, ""))
        line.append(f"given {sample.given or '-'} expected {sample.expected}  ")
        line.append(f"{sample.gen_tokens or 0} tokens  {name}")
        line.truncate(width)
        return line
    if live.phase == "FILL":
        share = 100 * live.done / live.total if live.total else 0
        text = f"FILL {count(live.done)}/{count(live.total)} {share:.0f}%"
    else:
        most = live.answer_from if live.phase == "THINK" else live.limit
        text = f"{live.phase} {count(min(live.generated, most))}/{count(most)}"
    line = Line("Speed ")
    line.append(f"{live.speed:.2f}", "bold").append(f" t/s  {text}  {name}")
    line.truncate(width)
    return line


def _question(view: View, width: int, rows: int) -> list[Line]:
    words = " ".join(view.jobs[view.shown - 1].question.text.split())
    cut = wrapped(printable(words[: width * (rows + 1)]), width)
    if len(cut) > rows:
        cut = cut[:rows]
        cut[-1] = fit(cut[-1] + " " * width, width - 1).rstrip("… ") + "…"
    return [Line(text, style=QUESTION_STYLE) for text in cut]


def reply_lines(pieces: Sequence[tuple[bool, str]], width: int, rows: int) -> list[Line]:
    """The last rows of a reply, wrapped; thinking is dim."""
    lines: list[Line] = []
    kept: list[tuple[bool, str]] = []
    chars = 0
    # What scrolls out of sight need not be wrapped: at most width * rows cells are visible.
    for thinking, text in reversed(pieces):
        kept.append((thinking, text))
        chars += len(text)
        if chars > width * rows * 2:
            break
    line, used = Line(), 0
    for thinking, text in reversed(kept):
        style = THINK_STYLE if thinking else ""
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append(line)
                line, used = Line(), 0
            for n_run, run in enumerate(wrapped(part, width, used)):
                if n_run or used + cell_len(run) > width:
                    lines.append(line)
                    line, used = Line(), 0
                line.append(run, style)
                used += cell_len(run)
    if used:
        lines.append(line)
    return lines[-rows:] if rows > 0 else []


def wrapped(text: str, width: int, used: int = 0) -> list[str]:
    """Text in runs of at most `width` cells, parted at spaces where a line has one.

    The first run fits behind `used` cells that the line holds already.
    """
    runs: list[str] = []
    start, room, cells, space = 0, max(width - used, 0), 0, -1
    place = 0
    while place < len(text):
        size = cell_len(text[place])
        if cells + size > room:
            end = place
            if text[place] == " ":
                end = place + 1  # the space that does not fit is not carried over
            elif space >= start:
                end = space + 1
            runs.append(text[start : min(end, place)])
            start = place = max(end, start)
            room, cells, space = width, 0, -1
            if size > width:
                start = place = place + 1  # no line can hold it
            continue
        if text[place] == " ":
            space = place
        cells += size
        place += 1
    runs.append(text[start:])
    return [run for run in runs if run]
