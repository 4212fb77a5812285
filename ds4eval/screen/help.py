"""The keys of the screen, as lines."""

from __future__ import annotations

from rich.text import Text as Line

from ds4eval.screen.detail import wrapped_lines
from ds4eval.screen.state import View

LIST = (
    ("↑ ↓ PgUp PgDn", "go through the list"),
    ("Home End", "first and last question"),
    ("/", "search ids, questions and replies"),
    ("s", "list one state only, then the next"),
    ("o", "list one source only, then the next"),
)
TWO = (("f", "list what one run alone got right"), ("tab", "show the other run's reply"))
REPLY = (
    ("space b", "a screenful of the reply down, up"),
    ("Shift+↑ ↓, J K", "a line of it; also the wheel"),
    ("t", "show or fold the thinking"),
)
RUN = (
    ("enter", "ask the question under the cursor now"),
    ("p", "pause, go on"),
    ("esc", "follow the running question, list everything"),
    ("q", "stop and save; the same command goes on"),
)
OVER = (("esc", "list everything"), ("q", "leave"))
MARKS = (
    "In a reply, the answers that the graders read are marked: strict reversed, lenient "
    "underlined, classic in italics."
)


def help_lines(view: View, width: int) -> list[Line]:
    """What each key does in the present state."""
    rows = (*LIST, *(TWO if view.others else ()), *REPLY, *(OVER if view.ended else RUN))
    lines = wrapped_lines(Line("keys (? closes this)", style="bold"), width)
    for keys, what in rows:
        line = Line()
        line.append(f" {keys:<14} ", "bold").append(what)
        lines += wrapped_lines(line, width)
    return [*lines, Line(""), *wrapped_lines(Line(MARKS), width)]
