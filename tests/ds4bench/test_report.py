"""The report folder: a page that needs nothing else, a summary, and exports that CI can read."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from ds4bench.ab import noise as calibrate
from ds4bench.commands.report import FILES, report_command
from ds4bench.records.files import read_rows
from ds4bench.records.limits import checked
from ds4bench.records.rows import SweepResult
from ds4bench.report import exports as junit
from ds4bench.report import page as report
from ds4bench.report.curves import Source
from ds4bench.report.reliability import (
    calibrations,
    interval,
    reliability_figure,
    reliability_table,
)
from engine.errors import EngineError
from engine.tooling import exits
from tests.ds4bench.speed_rows import ENVIRONMENT, FINGERPRINT, sweep, write_journal

HOSTILE = "<script>alert(1)</script>\"'|`@x ![](http://e) {{7*7}}"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects tags, text and whatever would make a page load or run something."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.loads, self.text, self.ids = [], [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name in ("src", "srcset", "data", "action") or name.startswith("on"):
                self.loads.append((tag, name))
            if name.endswith("href") and not (value or "").startswith("#"):
                self.loads.append((tag, value))
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def run(rows, label="head", environment=None):
    record = {**ENVIRONMENT, "fingerprint": FINGERPRINT, **(environment or {})}
    return Source(label, SweepResult(tuple(rows), record, label))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole report of a slower head with a failed row, with history, made by the command."""
    root = tmp_path_factory.mktemp("report")
    head = sweep(seed=2, slower=0.85, started_at=1.8e9)
    head[-1] = replace(head[-1], status="crashed_segv", message=HOSTILE)
    write_journal(root / "base", sweep(seed=1, started_at=1.79e9))
    write_journal(root / "head", head)
    options = ["--base", str(root / "base"), "--vs", "gb10", "--out", str(root / "out")]
    result = CliRunner().invoke(
        report_command, [str(root / "head"), *options, "--history", str(root / "h.db"), "--gate"]
    )
    assert result.exit_code == exits.REGRESSION, result.output
    return root / "out"


def test_folder_holds_every_form(folder):
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def test_page_is_whole_loads_nothing_and_runs_nothing(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)

    assert page.open == [] and page.loads == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)|@import", text)
    assert "http" not in text.replace("http://www.w3.org", "").replace("http-equiv", "").replace(
        "http://e", ""
    )
    assert len(page.ids) == len(set(page.ids))


def test_page_is_light_and_dark_and_fits_a_phone(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")

    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text))
    for block in (text[: text.index("prefers-color-scheme")], text):
        defined = set(re.findall(r"^\s*(?:.*?)(--[a-z0-9]+):", block, flags=re.MULTILINE))
        defined |= set(re.findall(r"(--[a-z0-9]+):", block))
        assert used <= defined
    # A series in a fixed colour would be lost on the other background.
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert not re.search(r"(?:fill|stroke): ?#", svg)


def test_tables_are_readable_without_eyes(folder):
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    count = {name: sum(tag == name for tag, _ in page.tags) for name in ("table", "caption")}

    assert count["table"] == count["caption"] >= 3
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")
    assert ("html", {"lang": "en"}) in page.tags


def test_page_says_what_matters(folder):
    text = Page((folder / "report.html").read_text(encoding="utf-8")).text

    for words in ("REGRESSED: head against base", "Fake 9000", "crashed_segv", "GB10"):
        assert words in text
    assert HOSTILE in text  # shown as it is, not obeyed


def test_hostile_labels_stay_text(tmp_path):
    environment = {"cpu": {"name": HOSTILE}, "model_name": HOSTILE, "system": HOSTILE}
    page = report.Report("r", [run(sweep(), HOSTILE, environment)])

    html, markdown = report.to_html(page), report.to_summary(page)

    assert "<script" not in html and "49" not in re.findall(r"\{\{?7\*7\}?\}|49\b", markdown)
    Page(html)
    assert "<script" not in markdown and "![](" not in markdown and "@x" not in markdown


def test_summary_is_markdown_tables_of_equal_width(folder):
    text = (folder / "summary.md").read_text(encoding="utf-8")

    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        widths = {len(line.replace("\\|", "").split("|")) for line in table.splitlines()}
        assert len(widths) == 1
    assert "❌ REGRESSED" in text and "failed:" in text


def test_junit_counts_and_names_failures(folder):
    root = ET.parse(folder / "junit.xml").getroot()

    cases = root.findall(".//testcase")
    assert int(root.get("tests")) == len(cases) > 20
    assert int(root.get("failures")) == len(root.findall(".//failure")) > 0
    assert int(root.get("errors")) == len(root.findall(".//error")) == 1
    failed = {c.get("name") for c in cases if c.find("failure") is not None}
    assert "decode plain curve" in failed
    assert root.find(".//error").get("message").startswith("crashed_segv: <script>")


def test_junit_survives_characters_that_xml_lacks():
    rows = [replace(r, status="error", message="\x00\x1b[31m\ud800") for r in sweep(runs=1)]
    ET.fromstring(junit.to_junit([], [run(rows, "a\x07b")]))


def test_benchmark_json_is_what_the_action_reads(folder):
    entries = json.loads(
        (folder / "benchmark.json").read_text(), parse_constant=lambda c: pytest.fail(c)
    )

    assert {"name", "unit", "value"} <= set(entries[0])
    assert len({e["name"] for e in entries}) == len(entries)
    assert all(isinstance(e["value"], float) and e["value"] > 0 for e in entries)
    rows = [
        r.gen_tps for r in sweep(seed=2, slower=0.85) if (r.mode, r.ctx_tokens) == ("plain", 4096)
    ]
    [entry] = [e for e in entries if e["name"] == "decode plain at 4096"]
    assert min(rows) <= entry["value"] <= max(rows)


@pytest.mark.parametrize("label", ["=1+1", "+x", "-x", "@SUM(A1)", "\tx"])
def test_no_cell_is_a_formula(label):
    table = list(csv.reader(io.StringIO(junit.rows_csv([run(sweep(runs=1), label)]).decode())))

    assert table[1][0] == "'" + label
    assert table[0][:3] == ["label", "ctx_tokens", "prefill_tokens"]
    assert {len(line) for line in table} == {len(table[0])}


def test_cells_are_medians_and_unknown_is_a_dash():
    rows = sweep(runs=3, seed=4)
    [cell] = [c for c in report.cells(run(rows).run) if (c.mode, c.ctx_tokens) == ("plain", 2048)]

    rates = sorted(r.gen_tps for r in rows if (r.mode, r.ctx_tokens) == ("plain", 2048))
    assert cell.values[1] == rates[1]
    assert cell.values[2] == pytest.approx(50 * (rates[2] - rates[0]) / rates[1])
    assert cell.values[3] is None and report.number(None) == "–"
    shown = [report.number(v) for v in (0.0123, 1.5, 123.46, 12345.6, float("inf"))]
    assert shown == ["0.012", "1.50", "123.5", "12346", "–"]


def test_a_mode_that_lies_is_marked():
    rows = [replace(r, lossless=r.mode == "plain") for r in sweep()]
    page = report.Report("r", [run(rows)])
    assert "not lossless" in report.to_html(page)
    marked = [x for x in report.to_summary(page).splitlines() if "not lossless" in x]
    assert marked and all(x.startswith("| mtp-combined | ") for x in marked)


def test_run_id_is_the_runs_own_and_safe_as_a_folder(tmp_path):
    rows = tuple(replace(r, started_at=1.8e9) for r in sweep())
    one = SweepResult(rows, {"code": {"commit": "../../etc"}}, "x")

    assert report.run_id(one) == report.run_id(replace(one, source="y"))
    assert re.fullmatch(r"20270115T080000-[0-9a-f]{8}", report.run_id(one))
    named = replace(one, environment={"code": {"commit": "0123456789abcdef"}})
    assert "-012345678-" in report.run_id(named)


def test_history_marks_the_commit_that_changed_the_level(tmp_path):
    names = []
    for place in range(20):
        slower = 1.0 if place < 10 else 0.9
        rows = sweep(runs=1, seed=place, slower=slower, started_at=1.8e9 + place, ctx=(2048,))
        code = {"code": {"commit": f"{place:02d}" + "a" * 38, "dirty": False}}
        names.append(str(write_journal(tmp_path / f"r{place}", rows, code)))

    result = CliRunner().invoke(
        report_command,
        [*reversed(names), "--history", str(tmp_path / "h.db"), "--out", str(tmp_path / "o")],
    )

    assert result.exit_code == 0, result.output
    html = (tmp_path / "o" / "report.html").read_text()
    assert "% at 10aaaaaaa" in html
    assert "level change: decode plain at 2048: -" in (tmp_path / "o" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "expected results files"),
        (["missing"], 1, "missing"),
        (["run", "--gate"], 2, "--gate: expected --base"),
        (["run", "--vs", "x"], 2, "--vs: expected"),
        (["run", "--tolerance", "x"], 2, "--tolerance"),
        (["run", "--out", "run/rows.jsonl/x"], 2, "--out: expected a folder that can be made"),
    ],
)
def test_command_refuses(tmp_path, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    write_journal(tmp_path / "run", sweep(runs=1))

    result = CliRunner().invoke(report_command, arguments)

    assert result.exit_code == code and text in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_tolerance_below_this_machines_noise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "folder", lambda: tmp_path / "data")
    for name in ("a", "b"):
        write_journal(tmp_path / name, sweep(runs=6))
    floor = calibrate.Floor("decode", "plain", 0.05, 8, 0.0)
    machine = calibrate.machine_id(read_rows(tmp_path / "a").environment)
    calibrate.store(calibrate.Calibration(machine, 0.0, (floor,)))
    arguments = [str(tmp_path / "b"), "--base", str(tmp_path / "a"), "--tolerance", "decode=1%"]

    result = CliRunner().invoke(report_command, [*arguments, "--out", str(tmp_path / "o")])

    assert result.exit_code == 2 and "decode" in result.output and not (tmp_path / "o").exists()


def test_report_of_a_bare_csv(tmp_path, monkeypatch):
    from ds4bench.records import reference

    monkeypatch.chdir(tmp_path)
    path = reference.folder() / "m4_max.csv"
    result = CliRunner().invoke(report_command, [str(path)])

    assert result.exit_code == 0, result.output
    [made] = (tmp_path / "reports").iterdir()
    assert made.name.endswith(report.run_id(read_rows(path))[-8:])


def test_tolerance_and_allowed_differences_decide_the_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "folder", lambda: tmp_path / "none")
    write_journal(tmp_path / "base", sweep(runs=6, seed=1, noise=0.002))
    write_journal(tmp_path / "slow", sweep(runs=6, seed=2, slower=0.9, noise=0.002))
    rows = sweep(runs=6, seed=2, noise=0.002)
    write_journal(tmp_path / "unlike", rows, fingerprint={"kv": "f32"})

    def status(head, *more):
        options = [
            "--base",
            str(tmp_path / "base"),
            "--gate",
            "--out",
            str(tmp_path / "o"),
            "--force",
        ]
        return CliRunner().invoke(report_command, [str(tmp_path / head), *options, *more]).exit_code

    assert status("slow") == exits.REGRESSION
    assert status("slow", "--tolerance", "20") == exits.OK
    assert status("unlike") == exits.INCOMPARABLE
    assert status("unlike", "--allow", "kv") == exits.OK


def drafts(rows, *depths):
    """Rows whose drafts were judged as said: by depth, bin -> (judged, kept, confidence)."""
    counts = []
    for depth in depths:
        for place in range(10):
            judged, kept, told = depth.get(place, (0, 0, 0.0))
            squares = kept * (1 - told) ** 2 + (judged - kept) * told**2
            counts += [judged, kept, judged * told, squares]
    return [replace(row, mode="dspark", reliability=tuple(map(float, counts))) for row in rows]


JUDGED = [{9: (10, 9, 0.95), 4: (4, 1, 0.45)}, {9: (5, 5, 0.9)}]


def test_confidences_are_compared_with_what_was_kept():
    """By hand: two equal rows together, a depth of 28 and one of 10 drafts."""
    rows = drafts(sweep(runs=2, ctx=(2048,), modes=("plain",)), *JUDGED)
    (found,) = calibrations(run(rows).run)
    # |9 - 9.5| + |1 - 1.8| of 14; |5 - 4.5| of 5; and of 19 together.
    assert found.ece(0) == pytest.approx(1.3 / 14) and found.ece(1) == pytest.approx(0.1)
    assert found.ece() == pytest.approx(1.8 / 19)
    assert found.brier(1) == pytest.approx(0.01)
    table = reliability_table(run(rows).run)
    assert [row.cells[:5] for row in table.rows] == [
        ("dspark", "1", "28", "80.7", "71.4"),
        ("dspark", "2", "10", "90.0", "100.0"),
        ("dspark", "all", "38", "83.2", "78.9"),
    ]
    assert reliability_table(run(sweep()).run) is None
    assert reliability_figure([run(sweep())]) is None


def test_intervals_of_shares_are_wilsons():
    """9 of 10: 0.5958 to 0.9821, as Newcombe (1998) computes the score interval."""
    assert interval(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert interval(0, 3)[0] == 0 and interval(3, 3)[1] == 1


def test_page_and_summary_show_confidences(tmp_path):
    source = run(drafts(sweep(runs=1, ctx=(2048,), modes=("plain",)), *JUDGED), label=HOSTILE)
    found = report.Report("r", [source, source])
    page = Page(report.to_html(found))
    assert "Confidence of drafts" in page.text and page.open == [] and page.loads == []
    assert len(page.ids) == len(set(page.ids))
    # Bins of a panel, each with its interval; the figure has one panel a source.
    fig = reliability_figure([source, source])
    panels = [axes for axes in fig.axes if axes.axison]
    assert len(panels) == 2 and "ECE 0.095" in panels[0].get_title(loc="left")
    points = panels[0].collections[-1].get_offsets()
    assert [tuple(map(round, point)) for point in points] == [(45, 25), (93, 93)]
    assert "| dspark | all | 19 |" in re.sub(" +", " ", report.to_summary(found))
    plain = report.to_html(report.Report("r", [run(sweep())]))
    assert "Confidence of drafts" not in plain


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0] * 39, "expected reliability of 40 numbers a depth, found 39"),
        ([1.0, 2.0, 0.5, 0.1] * 10, "at most as much as was judged, found \\[1.0, 2.0"),
        ([float("nan")] * 40, "at most as much as was judged"),
    ],
)
def test_counts_that_cannot_be_are_refused(values, text):
    row = replace(sweep(runs=1)[0], reliability=tuple(values))
    with pytest.raises(EngineError, match=text):
        checked(row, "row 1")
