"""Figures of many runs, beside published curves, of several machines; pages on a phone."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.records import reference
from ds4bench.records.rows import SweepResult
from ds4bench.report import curves as plot_data
from ds4bench.report import page, plot
from ds4bench.report.curves import Source
from tests.ds4bench.speed_rows import ENVIRONMENT, FINGERPRINT, sweep, write_journal

GRID = (2048, 4096, 8192, 16384)


def source(label, environment=None, **kw):
    environment = {**ENVIRONMENT, "fingerprint": FINGERPRINT, **(environment or {})}
    return Source(label, SweepResult(tuple(sweep(**kw)), environment, Path("memory")))


def axes_of(fig):
    return {a.get_title(loc="left"): a for a in fig.axes if a.axison}


def looks(line):
    return (line.get_color(), line.get_marker(), str(line._unscaled_dash_pattern))


def height(fig, axes):
    return axes.get_position().height * fig.get_figheight()


@pytest.mark.parametrize("count", [6, 12, 40])
def test_lines_of_many_files_all_look_different(count):
    fig = plot.figure([source(f"run {i}", seed=i, runs=1) for i in range(count)])
    panel = axes_of(fig)["Decode, plain"]
    assert len({looks(line) for line in panel.lines}) == count == len(panel.lines)
    [legend] = fig.legends
    assert len(legend.get_texts()) == count, "a file is named once, not once in each mode"


@pytest.mark.parametrize("count", [2, 12, 30])
def test_panels_of_many_files_are_as_tall_as_those_of_one(count):
    fig = plot.figure([source(f"a run of some name {i}", seed=i, runs=1) for i in range(count)])
    plot.render(fig, "png")
    one = plot.figure([source("one", runs=1)])
    plot.render(one, "png")
    usual = height(one, axes_of(one)["Prefill"])
    assert min(height(fig, axes) for axes in axes_of(fig).values()) > 0.85 * usual


def test_many_files_in_several_modes_have_a_panel_for_each_mode():
    fig = plot.figure([source(f"run {i}", seed=i, runs=1) for i in range(5)])
    assert list(axes_of(fig)) == [
        "Prefill", "Decode, plain", "Decode, mtp-combined",
        "Speed-up over plain, mtp-combined", "Draft tokens kept, mtp-combined",
    ]  # fmt: skip
    few = plot.figure([source(f"run {i}", seed=i, runs=1) for i in range(4)])
    assert "Decode" in axes_of(few)


def test_more_bands_than_three_become_bars_beside_one_another():
    def drawn(count):
        sources = [source(f"r{i}", seed=i, modes=("plain",), noise=0.1) for i in range(count)]
        return axes_of(plot.figure(sources))["Decode"].collections

    assert all("Fill" in type(c).__name__ or "Poly" in type(c).__name__ for c in drawn(3))
    bars = drawn(4)
    assert {type(c).__name__ for c in bars} == {"LineCollection"} and len(bars) == 4
    at = [c.get_segments()[0][0][0] for c in bars]
    assert all(a != b for a, b in combinations(at, 2))


@pytest.mark.parametrize("count", [4, 12, 30])
def test_bars_stay_at_their_points(count):
    """At 1.01 for each file, bars of 30 files stood a sixth of an octave beside their points."""
    sources = [source(f"r{i}", seed=i, modes=("plain",), noise=0.1) for i in range(count)]
    for bars in axes_of(plot.figure(sources))["Decode"].collections:
        at = np.array([segment[0][0] for segment in bars.get_segments()])
        assert np.abs(np.log(at / np.array([2048, 4096, 8192]))).max() <= np.log(1.0601)


def test_break_even_is_drawn_in_the_panels_of_many_files():
    fig = plot.figure([source(f"run {i}", seed=i, runs=1) for i in range(6)])
    panel = axes_of(fig)["Speed-up over plain, mtp-combined"]
    assert any(set(line.get_ydata()) == {1.0} for line in panel.lines)
    assert panel.get_ylim()[0] > 0.5, "a ratio has no use for an axis from zero"


def test_a_narrow_figure_has_one_column_and_nothing_sticks_out():
    name = "a long name of a run, and of the machine that it ran on"
    sources = [source(f"{name} {i}", seed=i) for i in range(3)]
    fig = plot.figure(
        sources, title="A title that no phone has room for in a single line", narrow=True
    )
    fig.canvas.draw()
    lefts = {round(axes.get_position().x0, 2) for axes in fig.axes}
    assert len(lefts) == 1 and fig.get_figwidth() == 4
    for part in (fig.legends[0], fig._suptitle):
        box = part.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= fig.bbox.x1, part


def test_a_page_has_a_drawing_for_phones_and_ids_of_its_own():
    html = page.to_html(page.Report("id", [source("one")]))
    assert html.count('<div class="scroll wide"') == html.count('<div class="scroll narrow"') == 1
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    style = html.split("<style>")[1].split("</style>")[0]
    wide, phone = style.split("@media (max-width: 40rem)")
    assert ".narrow { display: none; }" in wide and "figure .wide { display: none; }" in phone


def test_a_page_of_many_runs_has_a_short_title_and_folds_tables_but_no_failure():
    rows = sweep(runs=2, seed=3)
    rows[0] = replace(rows[0], status="timeout", message="no answer")
    failed = Source("run 5", SweepResult(tuple(rows), {}, Path("f")))
    html = page.to_html(
        page.Report("id", [*(source(f"run {i}", seed=i) for i in range(5)), failed])
    )
    assert "<h1>6 runs: run 0 to run 5</h1>" in html
    assert html.count("<details><summary>run") == 6
    assert "<summary>run 5: 1 rows failed</summary>" in html
    few = page.to_html(page.Report("id", [source("a"), source("b")]))
    assert "<h1>a, b</h1>" in few and "<summary>" not in few


def test_the_base_is_drawn_beside_what_is_judged_against_it(tmp_path):
    base, head = (
        write_journal(tmp_path / "a", sweep()),
        write_journal(tmp_path / "b", sweep(seed=1)),
    )
    arguments = [str(head), "--base", str(base), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.main, ["report", *arguments])
    assert result.exit_code == 0, result.output
    html = (tmp_path / "out" / "report.html").read_text()
    assert "base a: plain" in html and "b: plain" in html and "<h1>b</h1>" in html


def test_the_word_break_even_lies_on_no_data():
    panel = axes_of(plot.figure([source("one")]))["Decode speed-up over plain"]
    assert panel.get_ylabel() == "times plain; dotted: break-even" and not panel.texts


@pytest.mark.parametrize("name", ["gb10", "m4_max"])
def test_published_prefill_is_drawn_where_it_added_as_many_tokens(name):
    own = source("mine", ctx=GRID, runs=1)
    other = Source(name, reference.load(name), published=True)
    kept = plot_data.like(other, [own])
    assert {(r.ctx_tokens, r.prefill_tokens) for r in kept.run.rows} == {
        (2048, 2048), (4096, 2048),
    }  # fmt: skip
    even = source("even", ctx=(2048, 4096, 6144), runs=1)
    assert len(plot_data.like(other, [even]).run.rows) == len(other.run.rows)
    assert plot_data.like(other, []) is other
    fig = plot.figure([own, other])
    [grey] = [line for line in axes_of(fig)["Prefill"].lines if line.get_marker() == "None"]
    np.testing.assert_array_equal(grey.get_xdata(), [2048, 4096])
    [grey] = [line for line in axes_of(fig)["Decode"].lines if line.get_marker() == "None"]
    assert len(grey.get_xdata()) > 8, "decoding at a context is one experiment, whatever the step"
    assert "published prefill is drawn where" in fig.legends[0].get_title().get_text()


def test_files_of_other_steps_are_said_to_be_no_comparison():
    fig = plot.figure([source("a", ctx=GRID, runs=1), source("b", ctx=(8192, 16384), runs=1)])
    assert "do not compare them" in fig.legends[0].get_title().get_text()
    alike = plot.figure([source("a", runs=1), source("b", runs=1, seed=1)])
    assert "compare" not in alike.legends[0].get_title().get_text()


def test_machine_and_model_stand_in_the_figure():
    fig = plot.figure([source("a", runs=1), source("b", runs=1)], title="Title")
    assert fig.get_suptitle() == "Title\nFake 9000, 8 threads; m.gguf"
    other = {"cpu": {"name": "Other 7", "usable_cores": 2}}
    two = plot.figure([source("a", runs=1), source("b", other, runs=1)])
    labels = [text.get_text() for text in two.legends[0].get_texts()]
    assert "a (Fake 9000, 8 threads; m.gguf): plain" in labels
    assert "b (Other 7, 2 threads; m.gguf): plain" in labels
    device = {"gpu": {"name": "NVIDIA H200"}, "fingerprint": {"backend": "cuda"}}
    assert source("c", device).about == "NVIDIA H200; m.gguf"
    assert Source("d", SweepResult((), {}, Path("x.csv"))).about == ""


def test_a_curve_of_a_server_is_not_said_to_be_of_the_clients_processor():
    server = {
        "fingerprint": {"server": "http://host:8000/v1"},
        "server": {"model": "/models/m.gguf"},
        "model": None,
    }
    assert source("s", server).about == "server http://host:8000/v1; m.gguf"
    del server["server"]
    assert source("s", server).about == "server http://host:8000/v1"


def test_what_is_wide_scrolls_by_itself_on_a_phone():
    """At 500 px only tables and drawings are wider than the page, and those scroll alone."""
    sources = [source(f"run {i}", seed=i) for i in range(6)]
    html = page.to_html(page.Report("id", sources))
    style = html.split("<style>")[1].split("</style>")[0]
    assert re.search(r"main, section, figure, details \{[^}]*max-width: 100%", style)
    assert re.search(r"\.scroll \{[^}]*max-width: 100%[^}]*overflow-x: auto", style)
    body = html.split("<main>")[1]
    for wide in ("<table", "<svg role"):
        for before in body.split(wide)[:-1]:
            inside = before.rfind('<div class="scroll')
            assert inside > before.rfind("</div>"), before[-200:]
