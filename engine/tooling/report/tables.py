"""Findings as data, and their three forms: terminal, Markdown, and what a page's macros take.

A `Summary` is a judgement with its tables: both programs' comparisons and scores are one. Nothing
here knows what was compared; every text may hold labels from files and is treated as untrusted.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.tooling.report.labels import escape_markdown

if TYPE_CHECKING:
    from rich.console import Console


class Tone(enum.Enum):
    """How a judgement looks: a class of the page, a style of the terminal, a mark in Markdown."""

    GOOD = ("good", "green", "✅")
    BAD = ("bad", "bold red", "❌")
    UNSURE = ("unsure", "yellow", "❔")
    REFUSED = ("bad", "bold red", "⛔")
    PLAIN = ("plain", "", "")

    def __init__(self, css: str, style: str, mark: str) -> None:
        self.css, self.style, self.mark = css, style, mark


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name, unit : str
    text : bool
        Aligned to the left; other columns hold numbers.
    toned : bool
        Shows the tone of its row.
    """

    name: str
    unit: str = ""
    text: bool = False
    toned: bool = False

    @property
    def heading(self) -> str:
        """Name and unit in one line."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes
    ----------
    cells : tuple of str
    tone : Tone
    rule : bool
        A line above it: another group begins.
    total : bool
        Over all rows before it.
    """

    cells: tuple[str, ...]
    tone: Tone = Tone.PLAIN
    rule: bool = False
    total: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; the caption is for pages, the title for terminal and Markdown."""

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """A judgement and what it rests on.

    Attributes
    ----------
    headline : str
    tone : Tone
    reasons : sequence of str
        What made the judgement, for readers who see no table beside it.
    refusals : sequence of str
        Why it could not be made, or must not be trusted.
    advice : str
        What to do about refusals on a command line.
    tables : sequence of Table
    remarks : sequence of str
    details : sequence of Table
        Behind the remarks.
    more : str
        What was left out of the details.
    """

    headline: str
    tone: Tone
    reasons: Sequence[str] = ()
    refusals: Sequence[str] = ()
    advice: str = ""
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()
    details: Sequence[Table] = ()
    more: str = ""


def print_table(table: Table, console: Console) -> None:
    """A table for people; plain text where the output is no terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=Text(table.title) if table.title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        show_edge=False,
    )
    for column in table.columns:
        drawn.add_column(Text(column.heading), justify="left" if column.text else "right")
    for row in table.rows:
        drawn.add_row(
            *(
                Text(cell, style=row.tone.style if column.toned else "")
                for cell, column in zip(row.cells, table.columns)
            )
        )
    console.print(drawn)


def print_summary(summary: Summary, console: Console) -> None:
    """A judgement for people."""
    from rich.text import Text

    console.print(Text(summary.headline, style=summary.tone.style or "bold"))
    for text in summary.refusals:
        console.print(Text(f"  {text}", style="red"))
    if summary.advice:
        console.print(Text(f"  {summary.advice}"))
    for table in summary.tables:
        print_table(table, console)
    for text in summary.remarks:
        console.print(Text(f"  {text}", style="dim"))
    for table in summary.details:
        print_table(table, console)
    if summary.more:
        console.print(Text(f"  {summary.more}"))


def table_markdown(table: Table) -> list[str]:
    """Lines of a table in GitHub's Markdown."""
    out = [f"**{escape_markdown(table.title)}**", ""] if table.title else []
    out.append(f"| {' | '.join(escape_markdown(column.heading) for column in table.columns)} |")
    out.append("|" + "".join(" --- |" if column.text else " ---: |" for column in table.columns))
    for row in table.rows:
        cells = [
            f"**{escape_markdown(cell)}**"
            if column.toned and column.text and row.tone is Tone.BAD
            else escape_markdown(cell)
            for cell, column in zip(row.cells, table.columns)
        ]
        out.append(f"| {' | '.join(cells)} |")
    return out


def summary_markdown(summary: Summary, heading: str = "###") -> str:
    """A judgement for a CI job's page or a pull request."""
    mark = f"{summary.tone.mark} " if summary.tone.mark else ""
    parts = [[f"{heading} {mark}{escape_markdown(summary.headline)}"]]
    parts.append([f"- {escape_markdown(text)}" for text in (*summary.reasons, *summary.refusals)])
    parts += [table_markdown(table) for table in summary.tables]
    parts.append([f"- {escape_markdown(text)}" for text in summary.remarks])
    parts += [table_markdown(table) for table in summary.details]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"
