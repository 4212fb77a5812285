"""Tables, judgements and intervals of both programs: three forms of the same findings."""

from __future__ import annotations

import io
import math

import pytest

from engine.tooling.report.intervals import Interval, bounds_text, finite, signed
from engine.tooling.report.tables import (
    Column,
    Row,
    Summary,
    Table,
    Tone,
    print_summary,
    summary_markdown,
)

TABLE = Table(
    (Column("what", text=True), Column("rate", "t/s"), Column("verdict", text=True, toned=True)),
    [Row(("a|b", "1.5", "worse"), Tone.BAD), Row(("all", "2.5", "fine"), Tone.GOOD, total=True)],
    title="by mode",
    caption="Rates",
)
SUMMARY = Summary(
    "REGRESSED: <b>",
    Tone.BAD,
    reasons=["decode lost"],
    refusals=["broken: x"],
    advice="--allow x",
    tables=[TABLE],
    remarks=["paired"],
)


def test_markdown_holds_everything_and_no_markup_of_others():
    assert summary_markdown(SUMMARY) == (
        "### ❌ REGRESSED: &lt;b&gt;\n\n- decode lost\n- broken: x\n\n**by mode**\n\n"
        "| what | rate (t/s) | verdict |\n| --- | ---: | --- |\n| a\\|b | 1.5 | **worse** |\n"
        "| all | 2.5 | fine |\n\n- paired\n"
    )


@pytest.mark.parametrize("tone", Tone)
def test_every_tone_has_its_mark(tone):
    first = summary_markdown(Summary("x", tone)).splitlines()[0]
    assert first == (f"### {tone.mark} x" if tone.mark else "### x")


def test_terminal_text():
    from rich.console import Console

    out = io.StringIO()
    print_summary(SUMMARY, Console(file=out, width=80))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines == [
        "REGRESSED: <b>",
        "  broken: x",
        "  --allow x",
        "by mode",
        "what  rate (t/s)  verdict",
        "a|b          1.5  worse",
        "all          2.5  fine",
        "  paired",
    ]


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (None, "-"),
        (Interval(0.0, -math.inf, math.inf), "-"),
        (Interval(0.0, math.nan, 1.0), "-"),
        (Interval(0.0, -0.001, 0.25), "+0.0 .. +0.2"),
        (Interval(0.5, 0.25, 1.0), "+0.2 .. +1.0"),
    ],
)
def test_bounds(interval, text):
    assert bounds_text(interval, lambda value: signed(value, 1)) == text
    assert signed(1.25, 2, sign=False) == "1.25"


def test_strict_json_has_no_nan():
    assert finite({"a": [1.0, math.nan], "b": (math.inf, None)}) == {
        "a": [1.0, None],
        "b": [None, None],
    }


def test_a_page_needs_a_main_part_and_shows_text_as_text():
    from engine.tooling.report.pages import render_page

    values = {"scores": None, "budget": None, "runs": [], "comparisons": []}
    page = render_page("ds4eval.report", "report.html.j2", program="p", title="<script>", **values)
    assert page.startswith("<!doctype html>") and "<title>p: &lt;script&gt;</title>" in page
    assert "<script>" not in page and "--paper: #" in page
