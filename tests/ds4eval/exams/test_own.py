"""Sets of one's own: every field, every refusal with its place, and runs like those of an exam."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("httpx")

from ds4eval.cli import cli
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.layouts.own import FIELDS
from ds4eval.questions.loaders import load_dataset, load_own
from ds4eval.questions.suites import load_suite
from ds4eval.records.replay import read_run
from engine.errors import OptionError
from engine.tooling.exits import run_program
from tests.ds4eval import published
from tests.ds4eval.servers.odd_server import OddServer, delta

ROWS = [
    {"id": "a-1", "question": "How many?", "answer": -7, "kind": "integer", "group": "sums"},
    {"id": "", "question": "Which?", "answer": "B", "choices": ["plum", "teal"]},
    {"question": "Which color?", "answer": "teal", "kind": "choice", "choices": ["plum", "teal"]},
    {"question": "Capital?", "answer": "Paris", "kind": "text", "label": "places"},
    {"question": "Half?", "answer": r"\frac{1}{2}", "kind": "latex"},
    {"question": "Many?", "answer": "1,234.0"},
]


def write(tmp_path, rows, name="mine.jsonl", form="jsonl"):
    return published.write(tmp_path, name, published.FORMATS[form](rows))


def call(capsys, *arguments):
    status = run_program(cli, "ds4-eval", [str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_every_field_is_read(tmp_path):
    found = load_own(write(tmp_path, ROWS))

    assert [q.key for q in found.questions] == [
        *("mine/a-1", "mine/q0002", "mine/q0003", "places/q0004", "mine/q0005", "mine/q0006"),
    ]
    assert [q.kind for q in found.questions] == [
        *("integer", "letter", "letter", "text", "latex", "integer"),
    ]
    assert [q.answer for q in found.questions] == [
        *("-7", "B", "B", "Paris", r"\frac{1}{2}", "1234"),
    ]
    assert found.questions[0].stratum("group") == "sums" == found.questions[0].domain
    assert (found.name, found.files[0].rows, found.findings) == ("mine", 6, ())


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl.gz", "columns.json"])
def test_every_format_gives_the_same_questions(tmp_path, form):
    rows = [{name: str(row.get(name, "")) for name in FIELDS} for row in ROWS]
    for row, source in zip(rows, ROWS):
        row["choices"] = json.dumps(source["choices"]) if "choices" in source else ""
    path = write(tmp_path, rows, f"mine.{form.removeprefix('columns.')}", form)

    assert load_own(path).questions == load_own(write(tmp_path, ROWS)).questions
    assert path.name.startswith("mine.")
    if form != "columns.json":  # a .json file on a command line is a preset, where it is one
        assert load_suite(str(path)).name == "mine"


@pytest.mark.parametrize(
    "change, field, rule",
    [
        ({"question": ""}, "question", "expected text"),
        ({"question": None}, "question", "expected text"),
        ({"answer": None}, "answer", "expected text"),
        ({"answer": True}, "answer", "expected text"),
        ({"answer": "seven"}, "kind", "expected one of integer, choice, text, latex"),
        ({"answer": "seven", "kind": "integer"}, "answer", "expected digits"),
        ({"answer": "1.5", "kind": "integer"}, "answer", "expected digits"),
        ({"kind": "letters"}, "kind", "expected one of integer, choice, text, latex"),
        ({"kind": "choice"}, "choices", "expected at least two"),
        ({"choices": ["x"], "answer": "A"}, "choices", "expected 2 to 26"),
        ({"choices": ["x", "y"], "answer": "C"}, "answer", "expected a letter A to B"),
        ({"choices": ["x", "y"], "answer": 1}, "answer", "expected a letter A to B"),
        ({"choices": ["x", "x"], "answer": "x"}, "answer", "or the text of one choice"),
        ({"choices": ["B", "A"], "answer": "A"}, "answer", "that is not another choice's text"),
        ({"choices": "x or y", "answer": "A"}, "choices", "expected a list of texts"),
        ({"choices": ["x", "y"], "kind": "text"}, "choices", "expected none with an answer"),
        ({"id": "two words"}, "id", "expected printable text without spaces"),
        ({"answer": "x" * 401, "kind": "text"}, "answer", "expected 1 to 400 characters"),
    ],
)
def test_a_bad_field_is_refused_by_record_and_name(tmp_path, change, field, rule):
    good = {"question": "How many?", "answer": 7}
    path = write(tmp_path, [good, {**good, **change}])

    with pytest.raises(DatasetError) as caught:
        load_own(path)
    text = str(caught.value)
    assert f"record 2, field '{field}'" in text and rule in text


def test_ids_once_each(tmp_path):
    path = write(tmp_path, [{"id": "x", "question": str(i), "answer": i} for i in range(2)])
    with pytest.raises(DatasetError, match="expected each id once, found 'x' as in record 1"):
        load_own(path)


def test_a_file_that_is_not_there_and_a_name_that_is_none():
    with pytest.raises(DatasetError, match=r"nosuch\.jsonl: expected a data file"):
        load_suite("nosuch.jsonl")
    with pytest.raises(OptionError, match="a preset file or a data file, found 'nosuch'"):
        load_suite("nosuch")


def test_validate_lists_every_refusal_and_what_is_left_unread(tmp_path, capsys):
    rows = [{"question": f"{i}?", "answer": "x" if i in (2, 5) else i, "note": 1} for i in range(7)]
    path = write(tmp_path, rows)

    status, out, _ = call(capsys, "validate", path, "--as", "own")
    assert status == 3 and "unfit, 2 errors" in out and "left unread: 'note'" in out
    assert "record 3, field 'kind'" in out and "record 6, field 'kind'" in out
    # Columns that no published layout has tell the format.
    status, out, _ = call(capsys, "validate", write(tmp_path, ROWS))
    assert status == 0 and "mine: 6 questions (2 integer, 1 latex, 2 letter, 1 text)" in out
    # Without them, a set of choices is of some exam, and the message says what to do.
    bare = write(tmp_path, [ROWS[1]], "bare.jsonl")
    status, _, err = call(capsys, "validate", bare)
    assert status == 3 and "--suite FILE asks a set of your own" in err
    assert load_dataset(bare, "own").questions[0].answer == "B"


def test_listed_asked_resumed_and_compared_like_an_exam(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [row for row in ROWS if row.get("kind") != "latex"]
    path = write(tmp_path, rows)
    status, out, _ = call(capsys, "list", "--suite", path, "--keys", "--filter", "group=sums")
    assert status == 0 and out.split() == ["1", "-7", "integer", "mine/a-1", "sums"]

    server = OddServer()
    try:
        run = ["--suite", "mine.jsonl", "--base-url", server.url, "--plain", "--api-model", "m"]
        replies = ["Answer: -7", "Answer: B", "Answer: A", "The answer is paris.", "Answer: 1234"]
        server.script = [[delta("stop", content=text)] for text in replies]
        assert call(capsys, *run, "--out", "a", "--limit", "2")[0] == 0
        again = [*run, "--out", "a", "--trace", "t.txt"]
        assert call(capsys, *again)[0] == 0, "the same command goes on"
        assert not server.script
        server.script = [[delta("stop", content="Answer: B")]] * 5
        assert call(capsys, *run, "--out", "b")[0] == 0
    finally:
        server.close()
    found = read_run(tmp_path / "a")
    assert [s.verdict for s in found.samples] == ["pass", "pass", "fail", "none", "pass"]
    assert [s.lenient_verdict for s in found.samples] == ["pass", "pass", "fail", "pass", "pass"]
    assert [s.classic_verdict for s in found.samples][3] == "none"
    assert found.config["data"]["suite"] == "mine" and list(found.config["data"]["datasets"])
    status, out, _ = call(capsys, "compare", "a", "b")
    assert status in (0, 6, 7) and "mine" in out and "places" in out
    # A trace keeps the kinds of answers that the C program has not.
    assert call(capsys, "import-trace", "t.txt", "--out", "c")[0] == 0
    imported = read_run(tmp_path / "c").samples
    assert [(s.kind, s.expected) for s in imported] == [(s.kind, s.expected) for s in found.samples]
    # Another file of that name is another set.
    write(tmp_path, rows[:4])
    status, _, err = call(capsys, *run, "--out", "a")
    assert status == 2 and "data.datasets.mine" in err


def test_latex_without_its_package_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ds4eval.questions.source.find_spec", lambda name: None)
    path = write(tmp_path, ROWS)

    status, _, err = call(capsys, "--suite", path, "--nano", "q8", "--dry-run")
    assert status == 3 and "pip install 'ds4bench[latex]'" in err and "Traceback" not in err
    assert (
        call(capsys, "--suite", path, "--nano", "q8", "--dry-run", "--filter", "kind=text")[0] == 0
    )
