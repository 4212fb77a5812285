"""Hostile text in every field that holds any, and in file names: every sink shows it, none obeys.

Rows with words that are none are refused where they are read; what is left is free text: messages,
the environment of a machine, fingerprints, and the names of folders.
"""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET

import pytest

from ds4bench.cli import main
from engine.tooling.exits import OK, REGRESSION, run_program
from engine.tooling.report.labels import escape_markdown, safe_cell
from tests.ds4bench.speed_rows import sweep, write_journal
from tests.ds4bench.test_report import Page

STEERING = "\x1b[31m\x1b]0;t\x07\x9b2J\x85\u202e\u2066\u200f\ufeff\x00\x08\ud800\ufffe"
MARKUP = "<img src=x onerror=a()><script>a()</script>]]>&\"'{{7*7}}{%x%}$\\badmath{$"
MARKDOWN = "![i](http://e/i) [l](http://e) www.e.org @team #12 `c` *b* | x |\n# Head\n- l\n> q\n"
STARTS = ("=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1")
NAME = re.sub("[/\0\ud800]", "", "=" + STEERING + MARKUP[:23] + MARKDOWN)
# What a terminal or a reader would obey. Line ends are the sinks' own.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def poison(start: str = "=1") -> str:
    return start + STEERING + MARKUP + MARKDOWN


def steady(text: str) -> None:
    assert not OBEYED.search(text), ascii(OBEYED.findall(text))


def plain_markdown(text: str) -> None:
    steady(text)
    # Our own markup is headings, rules of tables, bold cells, <sub> and lists.
    assert not re.search(r"<(?!/?sub>)", text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[\[\]`]", text)
    assert not re.search(r"@\w|://|www\.\w", text)
    heads = [line for line in text.splitlines() if re.match(r"\s*#", line)]
    assert not [line for line in heads if "Head" in line[:12]]


def environment() -> dict:
    """Every string of a start record that a sink shows."""
    bad = poison().replace("\ud800", "")
    return {
        "cpu": {"name": bad, "usable_cores": 8},
        "gpu": {"name": bad, "driver": bad},
        "system": bad,
        "model_name": bad,
        "model": [{"path": "/a/" + bad, "sha256": bad, "header_sha256": bad}],
        "code": {"commit": bad, "dirty": True},
        "engine": {"threads": bad},
        "server": {"model": bad},
    }


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two sweeps in folders with hostile names; the head is slower and has rows that failed."""
    monkeypatch.chdir(tmp_path)
    prints = {"server": poison()[:-20].replace("\ud800", ""), "prompt": "x" + NAME}
    out = []
    for place, slower in (("a", 1.0), ("b", 0.7)):
        rows = sweep(runs=3, slower=slower)
        bad = [
            row
            for n, start in enumerate(STARTS)
            for row in sweep(
                runs=1, ctx=(16384 << n,), modes=("plain",), status="error", run=9,
                message=poison(start).replace("\ud800", ""),
            )
        ]  # fmt: skip
        out.append(write_journal(tmp_path / (NAME + place), [*rows, *bad], environment(), prints))
    return [folder.name for folder in out]


def call(*arguments: str) -> int:
    return run_program(main, "ds4-bench", [str(one) for one in arguments])


def test_a_report_obeys_nothing(folders, tmp_path, capsys):
    out = tmp_path / "out"
    assert call("report", folders[1], "--base", folders[0], "--out", out) == OK
    shown = capsys.readouterr()
    steady(shown.out + shown.err)
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    page = next(data for name, data in found.items() if name.endswith(".html")).decode()
    steady(page)
    parsed = Page(page)
    assert parsed.loads == []
    assert not {tag for tag, _ in parsed.tags} & {"img", "script", "a"}
    assert "onerror" in parsed.text
    plain_markdown(next(data for name, data in found.items() if name.endswith(".md")).decode())
    root = ET.fromstring(next(data for name, data in found.items() if name.endswith(".xml")))
    assert {one.tag for one in root.iter()} <= {
        "testsuites", "testsuite", "testcase", "error", "failure", "skipped", "system-out",
    }  # fmt: skip
    for one in root.iter():
        steady("".join([one.text or "", *one.attrib.values()]))
    table = next(data for name, data in found.items() if name.endswith(".csv")).decode()
    cells = [cell for row in csv.reader(io.StringIO(table, newline="")) for cell in row]
    for cell in cells:
        steady(cell)
        assert not re.match(r"\s*[=+@]|-(?![\d.])|[\t\r\n]", cell), ascii(cell)
    for name, data in found.items():
        if name.endswith(".json"):
            steady(json.dumps(json.loads(data), ensure_ascii=False))


@pytest.mark.parametrize("form", ["svg", "text"])
def test_a_figure_is_well_formed(folders, tmp_path, capsys, form):
    if form == "text":
        call("compare", *folders)
        call("compare", folders[0], folders[0] + "-missing")
        call("report", folders[0] + "-missing")
        call("plot", folders[0] + "-missing", "--out", tmp_path / "y.svg")
    else:
        assert call("plot", *folders, "--out", tmp_path / "x.svg", "--title", NAME) == 0
        root = ET.fromstring((tmp_path / "x.svg").read_bytes())
        assert not [one.tag for one in root.iter() if one.tag.endswith(("}script", "}image", "}a"))]
    shown = capsys.readouterr()
    steady(shown.out + shown.err)


def test_a_comparison_obeys_nothing(folders, tmp_path):
    names = {kind: tmp_path / f"c.{kind}" for kind in ("markdown", "json", "junit")}
    options = [part for kind, path in names.items() for part in (f"--{kind}", path)]
    assert call("compare", *folders, *options) in (OK, REGRESSION)
    plain_markdown(names["markdown"].read_text())
    ET.fromstring(names["junit"].read_bytes())
    steady(json.dumps(json.loads(names["json"].read_bytes()), ensure_ascii=False))


@pytest.mark.parametrize("start", STARTS)
def test_a_cell_is_no_formula(start):
    assert safe_cell(start) == "'" + start
    assert safe_cell("plain") == "plain"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# Head", r"\# Head"),
        ("- item", r"\- item"),
        ("+ item", r"\+ item"),
        ("1. item", r"1\. item"),
        ("12) item", r"12\) item"),
        ("===", r"\==="),
        ("---", r"\---"),
        ("a\x1b[2J\u202e", "a\ufffd\\[2J\ufffd"),
        ("www.e.org", "www\u200b.e.org"),
        ("2.5 tokens", "2.5 tokens"),
    ],
)
def test_markdown_begins_no_block(text, shown):
    assert escape_markdown(text) == shown
