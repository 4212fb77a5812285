"""`report`: scores by hand, states, the page's structure and safety, files, statuses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from ds4eval.commands.report import report_command
from ds4eval.compare.pairs import load_arms
from ds4eval.records.entries import Entry
from ds4eval.report import view as report_view
from ds4eval.report.page import report_of, to_html
from ds4eval.report.scores import scores_of
from ds4eval.report.text import summary
from ds4eval.stats import scores as stats
from engine.errors import OptionError
from tests.ds4eval.eval_runs import sample, verdicts, write_run

HOSTILE = "<img src=x onerror=alert(1)>|\x1b[31m\u202e\"'"


def plain_run(folder, **changes):
    samples = [sample("GPQA", i, v) for i, v in enumerate(verdicts([1] * 17 + [0] * 8))]
    samples += [
        sample("AIME", i, v, chance=0.001, kind="integer")
        for i, v in enumerate(verdicts([1, 1, 1, 0]))
    ]
    return write_run(folder, [dataclasses.replace(s, **changes) for s in samples])


def scored(*paths, **options):
    return [scores_of(arm, **options) for arm in load_arms(paths)]


def invoke(*arguments):
    return CliRunner().invoke(report_command, [str(a) for a in arguments])


def test_scores_of_one_run(tmp_path):
    [run] = scored(plain_run(tmp_path / "a"))
    gpqa, aime = run.groups
    assert (gpqa.name, gpqa.n, gpqa.passed, gpqa.answers) == ("GPQA", 25, 17, 25)
    assert gpqa.interval == stats.wilson(17, 25)
    assert gpqa.guess_p == stats.guess_tail([0.25] * 25, 17)
    assert (gpqa.chance, aime.chance) == (0.25, 0.001)
    assert run.overall.chance == pytest.approx((25 * 0.25 + 4 * 0.001) / 29)
    assert run.overall.interval == stats.wilson(20, 29)
    assert run.macro is not None and run.macro.estimate == pytest.approx((17 / 25 + 3 / 4) / 2)
    assert run.overall.pass_at == {1: pytest.approx(20 / 29)}
    assert run.overall.majority is run.overall.decoding_se is None
    assert (run.low, run.high) == (pytest.approx(20 / 29), pytest.approx(20 / 29))


def test_a_corrected_question_counts_with_its_exam(tmp_path):
    """As a source of its own it would weigh as much as all the others in the mean of sources."""
    exam = [sample("GPQA Diamond", i, "pass" if i == 0 else "fail") for i in range(4)]
    exam.append(sample("GPQA Diamond (modified)", 4, "pass"))
    others = [sample("AIME2025", i, "fail") for i in range(5, 9)]
    arm = load_arms([write_run(tmp_path / "run", [*exam, *others])])[0]
    scores = scores_of(arm)

    assert [(g.name, g.n, g.passed) for g in scores.groups] == [
        ("GPQA Diamond", 5, 2),
        ("AIME2025", 4, 0),
    ]
    assert scores.macro is not None and scores.macro.estimate == pytest.approx((2 / 5 + 0) / 2)
    [note] = [text for text in report_view.remarks(scores) if "known error" in text]
    assert note.endswith("counted with the exam: 1 (GPQA Diamond (modified))")


def test_a_cut_reply_is_not_a_wrong_one():
    """Two of five were cut: one had no answer yet, the other's was that of closed thinking."""
    answered = [
        sample("exam", 1, "pass"),
        sample("exam", 2, "fail"),
        sample("exam", 3, "none", stop="limit"),
        sample("exam", 4, "fail", close="hard_forced"),
        sample("exam", 5, "pass", close="hard_forced"),
    ]
    entries = [Entry(s.n, s.source, s.id, 0, s.expected, s.chance) for s in answered]
    text = summary(entries, {s.n: s for s in answered})
    assert "with the 2 cut replies that have no right answer" in text
    assert "all wrong 40.0 %, all right 80.0 %" in text
    untouched = summary(entries[:2], {s.n: s for s in answered[:2]})
    assert "cut replies" not in untouched


def test_states_that_are_no_answer(tmp_path):
    samples = [
        sample("s", 0, "pass"),
        sample("s", 1, "none", stop="limit", lenient_verdict="pass"),
        sample("s", 2, "", stop="skipped"),
        sample("s", 3, "fail", close="hard_forced"),
        sample("s", 4, "pass", close="hard_forced"),
        sample("s", 5, "", stop="error"),
    ]
    selected = [*samples, sample("s", 6, ""), sample("s", 7, "")]
    [run] = scored(write_run(tmp_path / "a", samples, None, selected))
    score = run.overall
    assert (score.answers, score.passed, run.arm.selected, run.arm.unfinished) == (5, 2, 8, 3)
    assert (score.cut, score.closed, score.skipped, score.no_answer) == (1, 2, 1, 2)
    assert score.missed == 1
    assert score.interval.estimate == pytest.approx(2 / 5)  # cut and skipped count as wrong
    assert score.without_cut == (1.0, 1)
    # Worst: only question 0. Best: 0 and 4, the two cut ones (1, 3), and three that are missing.
    assert (run.low, run.high) == (pytest.approx(1 / 8), pytest.approx(7 / 8))
    assert run.closes == {"natural": 3, "hard_forced": 2}
    text = "\n".join(report_view.remarks(run))
    assert report_view.headline(run).endswith(
        "2 of 5 answers right; unfinished, 3 of 8 are missing"
    )
    assert "with every missing or cut answer wrong 12.5 %, right 87.5 %" in text
    assert invoke(tmp_path / "a").exit_code == 4


def test_repeats(tmp_path):
    shares = [4, 3, 2, 1, 0, 4]
    samples = [
        sample("s", i, "pass" if r < c else "fail", r, given="A" if r < c else "BCD"[r % 3])
        for r in range(4)
        for i, c in enumerate(shares)
    ]
    [run] = scored(write_run(tmp_path / "a", samples))
    score = run.overall
    assert score.interval.estimate == pytest.approx(14 / 24)
    assert sorted(score.pass_at) == [1, 2, 4]
    assert score.pass_at[1] == pytest.approx(14 / 24)
    assert score.pass_at[4] == pytest.approx(5 / 6)
    assert score.pass_at[2] == pytest.approx((1 + 1 + 5 / 6 + 1 / 2 + 0 + 1) / 6)
    # i=3: A, then C, D, B once each: a tie of four. i=4: B C D B: wrong.
    assert score.majority == pytest.approx((1 + 1 + 1 + 1 / 4 + 0 + 1) / 6)
    assert score.decoding_se == stats.decoding_se(shares, [4] * 6)
    assert score.guess_p is None
    table = report_view.table_of(run)
    headings = [column.name for column in table.columns]
    rows = [row.cells for row in table.rows]
    assert headings[3] == "avg@4" and {"pass@2", "pass@4", "maj@4"} <= set(headings)
    assert {len(row) for row in rows} == {len(headings)}


def test_graders_and_breakdowns(tmp_path):
    path = plain_run(tmp_path / "a", classic_verdict="pass", strata={"difficulty": "hard"})
    [run] = scored(path, grader="ds4-classic", by="difficulty")
    assert [g.name for g in run.groups] == ["hard"] and run.macro is None
    assert run.overall.passed == 29
    assert run.overall.graders["strict"] == pytest.approx(20 / 29)
    assert len(report_view.table_of(run).rows) == 1  # one group: a total would repeat it
    with pytest.raises(OptionError, match=r"domain, kind, difficulty, which .*, found 'colour'"):
        scored(path, by="colour")


def test_estimate_for_the_whole_data_set(tmp_path):
    passes = [1, 1, 1, 0, 1, 0, 1, 1]
    samples = [
        sample("SuperGPQA", i, v, strata={"difficulty": "easy" if i < 5 else "hard"})
        for i, v in enumerate(verdicts(passes))
    ]
    folder = write_run(tmp_path / "a", samples)
    assert scored(folder)[0].whole is None
    data = {"strata": ["difficulty"], "population": {"easy": 100, "hard": 300}}
    (folder / "manifest.json").write_text(json.dumps({"data": data}))
    [run] = scored(folder)
    expected = stats.stratified([[1, 1, 1, 0, 1], [0, 1, 1]], [100, 300])
    assert run.whole == (expected, 400)
    assert "estimate for all 400 questions" in "\n".join(report_view.remarks(run))
    for population in ({"easy": 100}, {"easy": 4, "hard": 300}, {"easy": "x", "hard": 1}, []):
        data["population"] = population  # a stratum unknown, too small, or no number
        (folder / "manifest.json").write_text(json.dumps({"data": data}))
        assert scored(folder)[0].whole is None
    (folder / "manifest.json").write_text("[1]")
    assert scored(folder)[0].whole is None


class Page(HTMLParser):
    """What a page holds: tags, attributes, tables as rows of cell counts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[int]] = []
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "br", "img", "use", "path"):
            self.stack.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += 1

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in ("use", "path"):
            assert self.stack.pop() == tag


def page_of(*paths, **options):
    text = to_html(report_of(load_arms(paths), **options))
    return text, Page(text)


def test_page_is_whole_offline_and_without_script(tmp_path):
    paths = [plain_run(tmp_path / "a"), plain_run(tmp_path / "b", verdict="pass")]
    text, page = page_of(*paths)
    assert text.lstrip().startswith("<!doctype html>") and not page.stack
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#"), (tag, name, value)
    assert "url(http" not in text and "@import" not in text
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert text.count("<svg") == 4  # scores, two of lengths, flips


def test_page_can_be_read_without_eyes(tmp_path):
    _, page = page_of(plain_run(tmp_path / "a"), plain_run(tmp_path / "b", verdict="fail"))
    assert all(len(set(table)) == 1 for table in page.tables)  # every row as wide as its head
    assert len(page.tables) == 4  # two runs, comparison, flips
    assert page.tags.count("caption") == 4 and page.tags.count("h1") == 1
    scopes = [value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")]
    assert scopes.count("row") == sum(len(table) - 1 for table in page.tables)
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == 4 and all(labels)
    assert ("html", "lang", "en") in page.attributes


def test_untrusted_text_cannot_act(tmp_path):
    seen = HOSTILE.replace("\x1b", "").replace("\u202e", "")  # a source with more is refused
    samples = [
        sample(f"src{seen}", i, v, given=HOSTILE, id=f"q{i}{HOSTILE}",
               question={"user": "SECRET QUESTION"}, output="SECRET REPLY", domain=HOSTILE)
        for i, v in enumerate(verdicts([1, 0, 1]))
    ]  # fmt: skip
    config = {"model": {"name": HOSTILE, HOSTILE: HOSTILE}}
    first = write_run(tmp_path / "<b>a|", samples, config)
    others = [dataclasses.replace(s, verdict="pass") for s in samples]
    second = write_run(tmp_path / "b", others)
    text, page = page_of(first, second)
    assert "<img" not in text and "img" not in page.tags and "b" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    report = report_of(load_arms([first, second]))
    summary = report_view.to_summary(report.runs, report.comparisons)
    dump = json.dumps(report_view.report_json(report.runs, report.comparisons))
    shown = invoke(first, second).output
    for output in (text, summary, shown):
        assert "\x1b" not in output and "\u202e" not in output
    assert "<img" not in summary
    for output in (text, summary, dump, shown):
        assert "SECRET" not in output


def test_unlike_runs_stand_side_by_side_without_figures(tmp_path):
    first = plain_run(tmp_path / "a")
    samples = [sample("GPQA", i, "pass", grader_version="9") for i in range(3)]
    second = write_run(tmp_path / "b", samples)
    text, page = page_of(first, second)
    assert "INCOMPARABLE" in text and "unlike in questions" in text
    assert text.count("<svg") == 3 and len(page.tables) == 2
    done = invoke(first, second)
    assert done.exit_code == 0 and "INCOMPARABLE" in done.output


def test_folder_of_a_report(tmp_path):
    out = tmp_path / "out" / "deep"
    done = invoke(plain_run(tmp_path / "a"), plain_run(tmp_path / "b"), "--out", out)
    assert done.exit_code == 0
    names = {"report.html", "summary.md", "report.json", "scores.svg", "tokens.svg",
             "tokens2.svg", "flips.svg"}  # fmt: skip
    assert {p.name for p in out.iterdir()} == names
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert invoke(tmp_path / "a", tmp_path / "b", "--out", out).exit_code == 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before  # the same again
    found = json.loads(before["report.json"], parse_constant=lambda name: pytest.fail(name))
    assert (found["schema"], len(found["runs"]), len(found["comparisons"])) == (
        "ds4eval.report",
        2,
        1,
    )


@pytest.mark.parametrize(
    "arguments,status",
    [
        pytest.param(["--fail-under", "60"], 0, id="above the threshold"),
        pytest.param(["--fail-under", "80"], 6, id="below the threshold"),
        pytest.param(["--fail-under", "101"], 2, id="an impossible threshold"),
        pytest.param(["--by", "colour"], 2, id="an unknown breakdown"),
        pytest.param(["--out", "{}/a/samples.jsonl/x"], 2, id="a folder that cannot be made"),
        pytest.param(["--format", "xml"], 2, id="an unknown format"),
    ],
)
def test_exit_status(tmp_path, arguments, status):
    path = plain_run(tmp_path / "a")
    done = invoke(path, *(a.format(tmp_path) for a in arguments))
    assert done.exit_code == status, done.output
    if status == 2:
        assert len(done.output.splitlines()) <= 4  # one message, no traceback


def test_no_run_and_no_such_run(tmp_path):
    assert invoke().exit_code == 2
    done = invoke(tmp_path / "none")
    assert done.exit_code == 3 and "expected a readable file" in done.output


def test_durations():
    found = [report_view.duration(s) for s in (0.0, 119.9, 120.0, 7199.0, 7200.0)]
    assert found == ["0.0 seconds", "119.9 seconds", "2.0 minutes", "120.0 minutes", "2.0 hours"]


@pytest.mark.parametrize("form", ["table", "markdown", "json"])
def test_formats(tmp_path, form):
    done = invoke(plain_run(tmp_path / "a"), "--format", form)
    assert done.exit_code == 0
    if form == "json":
        assert json.loads(done.output)["runs"][0]["overall"]["passed"] == 20
    elif form == "markdown":
        assert done.output.startswith("## a: 69.0 % \\[50.8 .. 82.7\\], 20 of 29 answers right")
    else:
        assert done.output.startswith("a: 69.0 % [50.8 .. 82.7], 20 of 29 answers right")


def test_help_pays_for_nothing(tmp_path):
    """--help must not import what only a report needs."""
    code = (
        "import sys\n"
        "from ds4eval.commands.report import report_command as r\n"
        "from ds4eval.commands.compare import compare_command as c\n"
        "[f.main(['--help'], standalone_mode=False) for f in (r, c)]\n"
        "print([m for m in ('numpy', 'scipy', 'matplotlib', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
