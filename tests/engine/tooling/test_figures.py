"""The shared look: files repeat byte for byte, drawings for pages take their colours from it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.tooling.report import figures
from engine.tooling.report.labels import clean_label, escape_markdown, unique_labels


def drawing(theme: str = "light") -> Figure:
    with matplotlib.rc_context(figures.style(theme)):
        fig = Figure(figsize=(3, 2))
        FigureCanvasAgg(fig)
        axes = fig.subplots()
        for i, colour in enumerate(figures.palette(theme)):
            axes.plot([0, 1], [i, i + 1], color=colour)
        axes.set_title("a < b & \N{FISHEYE}\N{CJK UNIFIED IDEOGRAPH-6DF1}")
    return fig


@pytest.mark.parametrize("theme", figures.THEMES)
@pytest.mark.parametrize("kind,magic", [("png", b"\x89PNG\r\n"), ("svg", b"<?xml")])
def test_files_repeat_byte_for_byte(theme, kind, magic):
    first, second = (figures.render(drawing(theme), kind, theme, program="me") for _ in range(2))
    assert first == second and first.startswith(magic)
    assert b"me" in first


def test_a_drawing_on_a_page_is_light_or_dark_by_its_page():
    text = figures.inline(drawing(), "x7", 'lines "of" <a>')
    root = ET.fromstring(text)
    assert root.get("aria-label") == 'lines "of" <a>' and root.get("role") == "img"
    assert root.get("width") is None and root.get("viewBox")
    assert all(e.get("id", "x7-").startswith("x7-") for e in root.iter())
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text))
    for theme in figures.THEMES:
        assert used <= figures.theme_variables(theme).keys()
    assert {"--paper", "--ink", "--s0", "--s5"} <= used
    assert not re.findall(r"#[0-9a-f]{6}\b", text)  # no colour that a dark page could not change


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", figures.THEMES)
def test_contrast_on_paper(theme):
    """Text at 4.5; series at 2.2: sky blue on white is the palest, and never the only sign."""
    names = figures.theme_variables(theme)
    paper = luminance(names["--paper"])
    for name, colour in names.items():
        if name in ("--paper", "--line", "--edge"):
            continue
        high, low = sorted((paper, luminance(colour)), reverse=True)
        need = 4.5 if name in ("--ink", "--muted") else 2.2
        assert (high + 0.05) / (low + 0.05) >= need, name


def test_labels_are_harmless():
    assert clean_label("a\x1b[31m\u202eb\nc") == "a\ufffd[31m\ufffdb\ufffdc"
    assert clean_label("x" * 50) == "x" * 39 + "…"
    assert unique_labels(["a", "b", "a"]) == ["a (1)", "b", "a (2)"]
    gap = "\u200b"  # breaks mentions and bare links without being seen
    text = escape_markdown("<b>|`x`\n@me [l](http://x) *s* #1")
    assert text == rf"&lt;b&gt;\|\`x\` @{gap}me \[l\](http:{gap}//x) \*s\* \#1"
