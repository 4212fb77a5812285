"""Panels, bands and labels of the plot, and the command around it."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from ds4bench.commands.plot import plot_command
from ds4bench.records.csv_text import to_csv
from ds4bench.records.rows import SweepResult
from ds4bench.report import curves as plot_data
from ds4bench.report import plot
from ds4bench.report.curves import Source
from engine.errors import EngineError
from engine.tooling.report import figures
from engine.tooling.report.labels import clean_label
from tests.ds4bench.speed_rows import sweep

PNG = b"\x89PNG\r\n\x1a\n"


def source(rows, label="base", **kw):
    return Source(label, SweepResult(tuple(rows), {}, "memory", **kw))


def titles(fig):
    return [axes.get_title(loc="left") for axes in fig.axes if axes.axison]


def test_panels_are_those_that_the_data_have():
    assert titles(plot.figure([source(sweep())])) == [
        "Prefill",
        "Decode",
        "Decode speed-up over plain",
        "Draft tokens kept",
    ]
    assert titles(plot.figure([source(sweep(modes=("plain",)))])) == ["Prefill", "Decode"]
    only_prefill = [replace(r, gen_tokens=0, gen_s=None) for r in sweep(modes=("plain",))]
    assert titles(plot.figure([source(only_prefill)])) == ["Prefill"]


def test_curve_is_the_median_with_the_range_of_repeats():
    rows = sweep(runs=5, modes=("plain",))

    [curve] = plot_data.curves(source(rows), plot_data.decode)

    at = [[r.gen_tps for r in rows if r.ctx_tokens == c] for c in curve.ctx]
    np.testing.assert_allclose(curve.mid, np.median(at, axis=1))
    np.testing.assert_allclose(curve.low, np.min(at, axis=1))
    np.testing.assert_allclose(curve.high, np.max(at, axis=1))
    assert curve.repeats == 5


def test_a_shared_prefill_counts_once():
    curves = plot_data.curves(source(sweep()), plot_data.prefill)

    assert [c.mode for c in curves] == ["plain"]


def test_speed_up_pairs_rows_of_one_run_and_never_unlike_prefills():
    rows = sweep(runs=3, noise=0.0)
    [curve] = plot_data.speedups(source(rows))
    np.testing.assert_allclose(curve.mid, 1.3)

    unlike = [replace(r, prefill_tokens=1) if r.mode == "plain" else r for r in rows]
    assert plot_data.speedups(source(unlike)) == []


def test_failed_rows_are_not_drawn():
    rows = sweep(runs=1, modes=("plain",))
    broken = [replace(r, status="error") if r.ctx_tokens == 4096 else r for r in rows]

    [curve] = plot_data.curves(source(broken), plot_data.decode)

    assert curve.ctx.tolist() == [2048, 8192]
    with pytest.raises(EngineError, match="expected at least one finished row, found none in base"):
        plot.figure([source([replace(r, status="error") for r in rows])])


@pytest.mark.parametrize("theme", plot.THEMES)
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(sweep(runs=1, ctx=(2048,), modes=("plain",)), id="one row only"),
        pytest.param(sweep(runs=4, ctx=(2048,)), id="one frontier with repeats"),
        pytest.param(sweep(runs=3, noise=0.0), id="all values equal"),
        pytest.param(sweep(runs=1), id="no repeats"),
        pytest.param(sweep(runs=1, ctx=(1, 2, 3)), id="tiny contexts"),
        pytest.param(sweep(runs=1, ctx=(1000, 1003)), id="no power of two in range"),
        pytest.param(sweep(runs=1, ctx=tuple(range(64, 65536, 997))), id="dense sweep"),
    ],
)
def test_degenerate_data_are_drawn(rows, theme):
    fig = plot.figure([source(rows)], theme)

    assert plot.render(fig, "png", theme).startswith(PNG)
    for axes in fig.axes:
        low, high = axes.get_xlim()
        assert high > low > 0


@pytest.mark.parametrize(
    "label",
    ["$x^2$ \\frac", "_hidden", "<script>&\"'", "模型", "a\x00\n\x1b[31m\u202eb", "", "x" * 200],
)
def test_labels_are_data_not_markup(label):
    label = clean_label(label)
    sources = [source(sweep(runs=1), label), source(sweep(runs=1), "other")]

    svg = plot.render(plot.figure(sources, title=label), "svg")

    ET.fromstring(svg)
    assert b"<script" not in svg


def test_same_input_same_bytes():
    first, second = (plot.render(plot.figure([source(sweep())]), "svg") for _ in range(2))
    assert first == second


def test_inline_svg_takes_its_colours_from_the_page():
    text = figures.inline(plot.figure([source(sweep())]), "p1", 'speed of "base"')

    root = ET.fromstring(text)
    assert root.get("role") == "img" and root.get("aria-label") == 'speed of "base"'
    assert root.get("viewBox") and root.get("width") is None
    assert all(i.get("id").startswith("p1-") for i in root.iter() if i.get("id"))
    for name in ("--ink", "--paper", "--line", "--s0", "--s1"):
        assert f"var({name})" in text
        assert all(name in plot.theme_variables(theme) for theme in plot.THEMES)
    assert "#ffffff" not in text and "http" not in text.replace("http://www.w3.org", "")


@pytest.mark.parametrize("theme", plot.THEMES)
def test_ink_and_series_stand_out_from_the_paper(theme):
    """WCAG 2: text 4.5 to 1, graphics 3 to 1 (two light series reach 2.3 and carry markers)."""

    def luminance(colour):
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        rgb = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]

    def contrast(a, b):
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    names = plot.theme_variables(theme)
    paper = names["--paper"]
    assert contrast(names["--ink"], paper) >= 7
    assert contrast(names["--muted"], paper) >= 4.5
    assert contrast(names["--context"], paper) >= 3
    assert min(contrast(names[f"--s{i}"], paper) for i in range(4)) >= 3


def test_tick_text():
    found = [plot_data.tick_text(x) for x in (1, 512, 1024, 1536, 65536, 1 << 20)]
    assert found == ["1", "512", "1k", "1.5k", "64k", "1M"]


def test_command_writes_both_kinds_and_overlays_published_curves(tmp_path):
    data = tmp_path / "mine.csv"
    data.write_bytes(to_csv(sweep(), upstream_only=False))
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"

    result = CliRunner().invoke(
        plot_command, [str(data), "--vs", "gb10,m4_max", "-o", str(png), "-o", str(svg), "--dark"]
    )

    assert result.exit_code == 0, result.output
    assert png.read_bytes().startswith(PNG)
    ET.fromstring(svg.read_bytes())


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--vs", "gb11"], 2, "found 'gb11'"),
        ([], 2, "expected results files or --vs"),
        (["missing.csv", "-o", "a.svg"], 1, "missing.csv: expected a readable file"),
        (["--vs", "gb10", "-o", "a.pdf"], 2, "expected a name ending in .svg or .png"),
        (["--vs", "gb10", "-o", "nowhere/a.svg"], 2, "expected an existing folder"),
    ],
)
def test_command_refuses(tmp_path, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(plot_command, arguments)

    assert result.exit_code == code
    assert text in result.output
    assert list(tmp_path.iterdir()) == []


def test_command_writes_the_title_above_the_panels(tmp_path):
    titled, plain = tmp_path / "a.svg", tmp_path / "b.svg"
    for path, more in ((titled, ["--title", "Two machines"]), (plain, [])):
        result = CliRunner().invoke(plot_command, ["--vs", "gb10", "-o", str(path), *more])
        assert result.exit_code == 0, result.output
    # The back end writes letters as shapes, and what they say as a comment.
    assert "Two machines" in titled.read_text() and "Two machines" not in plain.read_text()


def test_list_names_sources():
    result = CliRunner().invoke(plot_command, ["--list"])
    assert "gb10_mtp" in result.output and "antirez/ds4" in result.output


def test_importing_the_command_is_cheap():
    code = (
        "import sys, ds4bench.commands.plot;"
        "sys.exit(any(m in sys.modules for m in ('matplotlib', 'numpy', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
