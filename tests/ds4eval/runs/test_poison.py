"""Hostile text in every field of a sample and in file names: every sink shows it, none obeys.

As `ds4bench/faults/test_poison.py` does for sweeps. Fields with a vocabulary are refused where they
are read; what is left is free text: questions, replies, keys, domains, strata, errors, names.
"""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET

import pytest

from ds4eval.cli import cli
from ds4eval.records.replay import read_run
from ds4eval.records.tables import to_csv
from engine.tooling.exits import run_program
from tests.ds4bench.faults.test_poison import (
    MARKDOWN,
    MARKUP,
    NAME,
    STARTS,
    plain_markdown,
    poison,
    steady,
)
from tests.ds4bench.test_report import Page
from tests.ds4eval.eval_runs import sample, write_run

FREE = ("domain", "given", "lenient_given", "classic_given", "error")
ID = re.sub(r"[\s\x00-\x1f\x7f-\x9f]|[^\x20-\x7e]", "", MARKUP + MARKDOWN)[:400]
BAD = poison().replace("\ud800", "")


def call(*arguments) -> int:
    return run_program(cli, "ds4-eval", [str(one) for one in arguments])


def poisoned(n: int, start: str = "=1", verdict: str = "pass", stop: str = "eos", **more):
    bad = poison(start).replace("\ud800", "")
    fields = {name: bad for name in FREE}
    fields |= {"id": f"q{n}=1" + ID, "notes": [bad], "finish_reason": "=1+<b>@a", "expected": "A"}
    fields["strata"] = {"difficulty": bad[:900], bad[:99]: "x"}
    fields["question"] = {"title": bad, "text": bad, "choices": [bad, "b", "c", "d"]}
    fields["output"] = bad + "</think>" + bad
    return sample("GPQA", n, verdict, stop=stop, **{**fields, **more})


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two runs in folders with hostile names; B is worse, and both have replies that failed."""
    monkeypatch.chdir(tmp_path)
    config = {"model": {"name": BAD, "sha256": "aa"}, "data": {"suite": BAD}, "think": BAD}
    out = []
    for place, n_right in (("a", 20), ("b", 9)):
        samples = [poisoned(n, verdict="pass" if n < n_right else "fail") for n in range(24)]
        samples += [poisoned(30 + n, start) for n, start in enumerate(STARTS)]
        samples.append(poisoned(50, verdict="", stop="error"))
        samples.append(poisoned(51, verdict="none", stop="limit"))
        folder = write_run(tmp_path / (NAME + place), samples, config)
        machine = {"cpu": {"name": BAD}, "packages": {"numba": BAD}, "python": BAD}
        manifest = {"created": BAD, "command": [BAD], "environment": machine}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        out.append(folder.name)
    return out


def shown(capsys) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def a_page(text: str) -> None:
    steady(text)
    parsed = Page(text)
    assert parsed.loads == []
    assert not {tag for tag, _ in parsed.tags} & {"img", "iframe", "object", "embed", "form"}
    assert "onerror" in parsed.text


def drawn(data: bytes) -> None:
    root = ET.fromstring(data)
    assert not [one.tag for one in root.iter() if one.tag.endswith(("}script", "}image", "}a"))]
    for one in root.iter():
        steady("".join([one.text or "", *one.attrib.values()]))


@pytest.mark.parametrize("by", ["source", "domain", "difficulty"])
def test_a_report_obeys_nothing(folders, tmp_path, capsys, by):
    out = tmp_path / "out"
    assert call("report", *folders, "--out", out, "--by", by) in (0, 4)
    steady(shown(capsys))
    a_page((out / "report.html").read_text())
    plain_markdown((out / "summary.md").read_text())
    steady(json.dumps(json.loads((out / "report.json").read_bytes()), ensure_ascii=False))
    figures = list(out.glob("*.svg"))
    assert figures
    for figure in figures:
        drawn(figure.read_bytes())


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize("form", ["table", "markdown", "json"])
def test_what_is_printed_obeys_nothing(folders, capsys, command, form):
    call(command, *folders, "--format", form, "--by", "domain")
    text = shown(capsys)
    assert text
    steady(text)
    if form == "markdown":
        plain_markdown(text)
    if form == "json":
        steady(json.dumps(json.loads(text[text.index("{") : text.rindex("}") + 1]),
                          ensure_ascii=False))  # fmt: skip


@pytest.mark.parametrize("form", ["inspect", "lm-eval", "junit", "every-eval-ever"])
@pytest.mark.parametrize("text", [False, True])
def test_an_export_is_well_formed(folders, tmp_path, capsys, form, text):
    if text and form == "every-eval-ever":
        pytest.skip("it has scores only")
    out = tmp_path / {"lm-eval": "folder", "junit": "x.xml"}.get(form, "x.json")
    more = ["--with-text"] if text else []
    assert call("export", folders[0], "--format", form, "-o", out, *more) == 0
    steady(shown(capsys))
    if form == "junit":
        for one in ET.fromstring(out.read_bytes()).iter():
            steady("".join([one.text or "", *one.attrib.values()]))
    elif form == "lm-eval":
        for path in out.iterdir():
            steady(path.name)
            for line in path.read_bytes().splitlines():
                json.loads(line)
    else:
        json.loads(out.read_bytes())


def test_the_page_of_replies_obeys_nothing(folders, tmp_path, capsys):
    assert call("view", *folders, "--html", tmp_path / "page.html") == 0
    steady(shown(capsys))
    page = (tmp_path / "page.html").read_text()
    assert MARKUP[:20] not in page and "<script>a()" not in page
    assert not {tag for tag, _ in Page(page).tags} & {"img", "iframe", "object", "embed"}


def test_tables_hold_no_formula(folders, tmp_path, capsys):
    samples = read_run(tmp_path / folders[0]).samples
    samples += [poisoned(60 + n, start, expected=start + BAD) for n, start in enumerate(STARTS)]
    data = to_csv(samples).decode()
    rows = list(csv.reader(io.StringIO(data, newline="")))
    assert len(rows) > 30
    for cell in (cell for row in rows for cell in row):
        steady(cell)
        assert not re.match(r"\s*[=+@]|-(?![\d.])|[\t\r\n]", cell), ascii(cell)


def test_grading_anew_obeys_nothing(folders, capsys):
    assert call("regrade", folders[0]) in (0, 4)
    text = shown(capsys)
    assert "graded again" in text
    steady(text)


def test_a_record_that_is_no_question_is_one_error(tmp_path, capsys):
    folder = write_run(tmp_path / "run", [poisoned(1, expected=BAD)])
    assert call("export", folder, "--with-text", "-o", tmp_path / "x.json") == 3
    text = shown(capsys)
    assert "GPQA-1-0: expected a question, found one whose answer" in text
    steady(text)


def test_errors_about_names_obey_nothing(folders, tmp_path, capsys):
    missing = folders[0] + "-missing"
    (tmp_path / NAME).write_text(BAD)
    for arguments in (
        ["report", missing], ["compare", folders[0], missing], ["view", missing],
        ["regrade", missing], ["export", missing, "-o", "x.json"], ["validate", missing],
        ["validate", NAME], ["list", "--suite", NAME], ["import-trace", NAME, "--out", "y"],
        ["--suite", NAME], ["--suite", "practice", "--ids", BAD.replace("\x00", "")],
        ["--suite", "practice", "--filter", NAME], ["--out", NAME, "--suite", "nano"],
    ):  # fmt: skip
        assert call(*arguments) != 0, arguments
        text = shown(capsys)
        assert text
        steady(text)
