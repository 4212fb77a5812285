"""Draws the state of the screen as lines of text; widths are counted in terminal cells.

It is pure: equal states give equal lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text as Line

from ds4eval.questions.question import LETTERS
from ds4eval.screen.detail import QUESTION_STYLE, THINK_STYLE, detail_lines, question_lines
from ds4eval.screen.filters import flipped
from ds4eval.screen.help import help_lines
from ds4eval.screen.progress import head_lines
from ds4eval.screen.state import LABELS, Live, View, pieces_of
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
MOST_WORKERS = 6


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
        left = min(max(columns * 2 // 5, MIN_LEFT), MAX_LEFT)
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


def left_lines(view: View, width: int, rows: int) -> list[Line]:
    """Title, score and the list around the cursor."""
    lines = [Line(line.plain, spans=line.spans) for line in head_lines(view, width, rows)]
    for line in lines:
        line.truncate(width)
    space = rows - len(lines)
    if space > 4 and view.notice:
        lines.append(Line(fit(view.notice, width), style="yellow"))
        space -= 1
    if space > 1 and (view.wanted or view.typing is not None):
        lines.append(_wanted(view, width))
        space -= 1
    listed = view.listed()
    place = sum(n < view.shown for n in listed)
    first = max(min(place - space // 2, len(listed) - space), 0)
    lines += [_row(view, n, width) for n in listed[first : first + space]]
    return lines[:rows]


def _wanted(view: View, width: int) -> Line:
    if view.typing is not None:
        return Line(fit(f"search: {view.typing}▏ {len(view.listed())} found", width), style="bold")
    n = len(view.listed())
    return Line(fit(f"{n} of {len(view.jobs)}: {view.wanted} (esc: all)", width), style="cyan")


def _row(view: View, n: int, width: int) -> Line:
    job, state = view.jobs[n - 1], view.states[n - 1]
    digits = max(len(str(len(view.jobs))), 2)
    line = Line(">" if view.selected == n else " ")
    line.append(f"{n:>{digits}} ")
    line.append(f"{LABELS.get(state, state[:4]):<4} ", STYLES.get(state, ""))
    sample, other = view.samples.get(n), view.others.get(n)
    if view.others:
        theirs = other.state if other is not None else "PENDING"
        line.append(f"{LABELS.get(theirs, theirs[:4]):<4} ", STYLES.get(theirs, ""))
        line.append("≠ " if flipped(sample, other) else "  ", "bold magenta")
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
    """Status, workers, question and reply, or the help."""
    if view.help:
        return help_lines(view, width)[:rows]
    if not view.jobs:
        return [Line(fit("loading the model", width))]
    lines = [_status(view, width), *_workers(view, width, rows)]
    space = rows - len(lines)
    shown, _ = reply_window(view, width, space)
    return lines + shown


def reply_window(view: View, width: int, rows: int) -> tuple[list[Line], int]:
    """The lines of the right side below its status, and how many there are to scroll through."""
    n = view.shown
    sample = view.others.get(n) if view.second else view.samples.get(n)
    if n in view.live:
        return _live_window(view, width, rows)
    if sample is None:
        lines = question_lines(view.jobs[n - 1], width)
    else:
        other = view.samples.get(n) if view.second else view.others.get(n)
        lines = detail_lines(view.jobs[n - 1], sample, other, width, view.unfolded)
    most = max(len(lines) - rows, 0)
    top = min((most if view.follows else 0) if view.top is None else view.top, most)
    shown = lines[top : top + rows]
    if rows > 3 and len(lines) > top + rows:
        more = len(lines) - top - rows + 1
        shown[-1] = Line(fit(f"… {more} more lines (space)", width), style=THINK_STYLE)
    return shown, len(lines)


def scroll_rows(view: View, width: int, rows: int) -> int:
    """Rows of the right side that scroll."""
    space = rows - 1 - len(_workers(view, width, rows))
    if view.shown not in view.live:
        return max(space, 1)
    return max(space - len(_head(view, width, space)), 1)


def _live_window(view: View, width: int, rows: int) -> tuple[list[Line], int]:
    head = _head(view, width, rows)
    space = rows - len(head)
    if view.top is None:
        tail = reply_lines(pieces_of(view), width, space)
        if len(tail) < space:
            return head + tail, len(tail)
        # What does not fit is counted only once somebody scrolls.
        return head + tail, len(reply_lines(pieces_of(view), width, 1 << 30))
    lines = reply_lines(pieces_of(view), width, 1 << 30)
    top = min(view.top, max(len(lines) - space, 0))
    return head + lines[top : top + space], len(lines)


def _head(view: View, width: int, rows: int) -> list[Line]:
    """Question and choices above a running reply, as far as there is room for both."""
    question = view.jobs[view.shown - 1].question
    lines = _question(view, width, 4 if rows >= 24 else 2 if rows >= 14 else 1)
    room = max(rows // 3 - len(lines), 0)
    choices = [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(question.choices)]
    if choices and room >= len(choices):
        lines += [Line(fit(choice, width), style=QUESTION_STYLE) for choice in choices]
    elif choices and rows >= 6:
        runs = wrapped(printable("  ".join(" ".join(c.split()) for c in choices)), width)
        kept = runs[: max(room, 1)]
        if len(runs) > len(kept):
            kept[-1] = fit(kept[-1] + " " * width, width - 1).rstrip("… ") + "…"
        lines += [Line(text, style=QUESTION_STYLE) for text in kept]
    if rows - len(lines) > 3:
        lines.append(Line(""))
    return lines


def _status(view: View, width: int) -> Line:
    n = view.shown
    job, live = view.jobs[n - 1], view.live.get(n)
    name = f"{job.question.source}/{job.question.id}" + (
        f" #{job.repeat + 1}" if job.repeat else ""
    )
    if live is None:
        sample = view.others.get(n) if view.second else view.samples.get(n)
        which = f"{view.names[view.second]}:" if len(view.names) > 1 else ""
        if sample is None:
            return Line(fit(f"{which} pending  {name}", width))
        line = Line(fit(which, width // 2) + " " * bool(which))
        line.append(f"{sample.state} ", STYLES.get(sample.state, ""))
        line.append(f"given {printable(sample.given) or '-'} key {printable(sample.expected)}  ")
        if sample.gen_tokens is not None:
            line.append(f"{sample.gen_tokens:,} tokens  ")
    else:
        line = Line("Speed ")
        line.append(f"{live.speed:.2f}", "bold").append(f" t/s  {_phase(live)}  ")
    line.append(fit(name, max(width - cell_len(line.plain), 8)))
    line.truncate(width)
    return line


def _phase(live: Live) -> str:
    if live.phase == "FILL":
        share = 100 * live.done / live.total if live.total else 0
        return f"FILL {count(live.done)}/{count(live.total)} {share:.0f}%"
    most = live.answer_from if live.phase == "THINK" else live.limit
    return f"{live.phase} {count(min(live.generated, most))}/{count(most)}"


def _workers(view: View, width: int, rows: int) -> list[Line]:
    """A line for each reply in progress, where there are several and room for them."""
    room = min(MOST_WORKERS, rows // 5)
    if len(view.live) < 2 or room < 1:
        return []
    lines = []
    numbers = sorted(view.live)
    for n in numbers[: room if len(numbers) <= room else room - 1]:
        live, question = view.live[n], view.jobs[n - 1].question
        text = f"{'▸' if n == view.shown else ' '} #{n} {_phase(live)} {live.speed:.1f} t/s"
        lines.append(Line(fit(f"{text}  {question.source}/{question.id}", width), style="cyan"))
    if len(numbers) > len(lines):
        more = len(numbers) - len(lines)
        lines.append(Line(fit(f"  and {more} more replies in progress", width), style="cyan"))
    return lines


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
