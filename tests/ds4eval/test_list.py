"""`ds4-eval list`: what it prints, and that a question's text is never part of it."""

from __future__ import annotations

import json

import pytest

from ds4eval.commands.list import list_command
from ds4eval.questions.presets import DS4_23
from ds4eval.questions.suites import load_suite, suite_names
from engine.tooling.exits import run_program
from tests.ds4eval import published


def run(capsys, *args):
    status = run_program(list_command, "list", list(args))
    out, err = capsys.readouterr()
    return status, out, err


def test_suites(capsys):
    status, out, _ = run(capsys)

    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(suite_names())
    _, out, _ = run(capsys, "--json")
    assert [json.loads(line)["suite"] for line in out.splitlines()] == list(suite_names())


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_text_is_printed(capsys, form):
    status, out, err = run(capsys, "--suite", "practice", "--keys", *form)
    questions = load_suite("practice").questions

    assert status == 0 and len(out.splitlines()) == 90
    for question in questions:
        assert question.id in out
        assert question.text[:25] not in out + err
        if question.choices:
            # Long choices only: '4' is everywhere.
            long = [choice for choice in question.choices if len(choice) > 8]
            assert not any(choice in out + err for choice in long)


def test_numbers_kinds_and_keys(capsys):
    _, plain, _ = run(capsys, "--suite", "practice", "--ids", "1,57")
    _, keyed, _ = run(capsys, "--suite", "practice", "--ids", "1,57", "--keys")

    assert plain.splitlines()[0].split() == ["1", "integer", "practice/aime/practice-aime-01"]
    assert keyed.splitlines()[0].split()[:2] == ["1", "12"]
    assert keyed.splitlines()[1].split()[0] == "57" and keyed.splitlines()[1].endswith("Law")


def test_offset_leaves_out_the_first_and_keeps_numbers(capsys):
    _, whole, _ = run(capsys, "--suite", "practice")
    _, rest, _ = run(capsys, "--suite", "practice", "--offset", "88")

    assert rest.splitlines() == whole.splitlines()[88:]
    assert [line.split()[0] for line in rest.splitlines()] == ["89", "90"]


def test_data_and_selection(capsys, tmp_path):
    path = published.write(tmp_path, "a.jsonl", published.jsonl_bytes(published.aime_rows()))

    status, out, err = run(
        capsys, "--suite", "aime25", "--dataset", f"aime25={path}", "--filter", "part=II",
        "--limit", "2", "--json",
    )  # fmt: skip

    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [row["id"] for row in rows] == ["aime2025-16", "aime2025-17"]
    assert rows[0]["n"] == 16 and "key" not in rows[0]
    # Findings that matter are said, on stderr.
    assert "aime2025-14" in err


@pytest.mark.parametrize(
    "args, status, message",
    [
        (["--suite", "mmlu"], 2, "suite: expected one of"),
        (["--suite", "aime25", "--dataset", "aime25"], 2, "--dataset: expected NAME=PATH"),
        (["--suite", "aime25", "--dataset", "mmlu=x"], 2, "--dataset: expected NAME=PATH"),
        (["--suite", "aime25", "--dataset", "aime25=/nowhere"], 3, "expected a data file"),
        (["--suite", "practice", "--ids", "zzz"], 2, "ids: expected"),
        (["--suite", "practice", "--ids", ","], 2, "--ids: expected at least one"),
        (["--suite", "practice", "--ids", "@/nowhere"], 2, "--ids: expected a readable file"),
        (["--suite", "practice", "--limit", "0"], 2, "--limit"),
        (["--save", "x.json"], 2, "--save: expected with --from-trace"),
        (["--from-trace", "/nowhere"], 2, "expected a readable file"),
        (["--suite", "nano", "--from-trace", "x"], 2, "expected without --suite"),
    ],
)
def test_refused(capsys, args, status, message):
    found, out, err = run(capsys, *args)

    assert (found, out) == (status, "")
    assert message in err and len(err.splitlines()) == 1


def test_ids_from_a_file(capsys, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("practice-aime-03\n\npractice-aime-01\n")

    _, out, _ = run(capsys, "--suite", "practice", "--ids", f"@{path}")

    assert [line.split()[-1][-2:] for line in out.splitlines()] == ["01", "03"]


# Traces ------------------------------------------------------------------------------------------


def trace_text(cases):
    """A trace as the C program writes it; bodies hold lines that imitate its own."""
    out = "# ds4-eval trace\nmodel: m.gguf\nquestions: 3\n\n"
    for i, (source, id_, expected, choices) in enumerate(cases, 1):
        out += f"===== CASE {i}/{len(cases)} {source}/{id_} =====\ntimestamp_unix: 1\n"
        out += f"source: {source}\nid: {id_}\ndomain: d\ntitle: secret title\nstatus: PASSED\n"
        out += f"picked: ?\nexpected: {expected}\nprompt_tokens: 1\n"
        if choices:
            letters = "ABCDEFGHIJ"
            out += "choices:\n"
            out += "".join(f"  {letters[j]}. {c}\n" for j, c in enumerate(choices))
        else:
            out += "answer_kind: exact_integer\n"
        body = "===== CASE 9/9 AIME2025/aime2025-30 =====\nid: fake\nMODEL_OUTPUT_END\n"
        for label in ("SYSTEM_PROMPT", "QUESTION_PROMPT", "MODEL_OUTPUT"):
            out += f"{label}_BEGIN bytes={len(body)}\n{body}{label}_END\n"
        out += "\n"
    return out


def test_from_trace_and_back(capsys, tmp_path):
    id_ = next(item.id for item in DS4_23 if item.dataset == "gpqa-diamond")
    shown = ["wrong two 0", "right, 0", "wrong one 0", "wrong three 0"]
    cases = [
        ("GPQA Diamond", id_, "B", shown),
        ("AIME2025", "aime2025-01", "70", []),
        ("COMPSEC", "compsec-002", "4,5,6", []),
        ("Unknown set", "x", "1", []),
    ]
    trace = tmp_path / "run.trace"
    trace.write_text(trace_text(cases))
    saved = tmp_path / "mine.json"

    status, out, err = run(capsys, "--from-trace", str(trace), "--save", str(saved))

    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["1", "B", "gpqa-diamond", id_],
        ["2", "70", "aime25", "aime2025-01"],
        ["3", "4,5,6", "compsec", "compsec-002"],
    ]
    assert "Unknown set/x" in err
    assert "secret" not in out + err + saved.read_text()
    assert "wrong" not in saved.read_text()

    data = {
        "gpqa-diamond": (published.write(tmp_path, "g.csv", published.csv_bytes(
            published.gpqa_rows([id_]))),),
        "aime25": (published.write(tmp_path, "a.jsonl", published.jsonl_bytes(
            published.aime_rows())),),
        "compsec": (published.write(tmp_path, "c.jsonl", published.jsonl_bytes(
            published.line_rows())),),
    }  # fmt: skip
    suite = load_suite(str(saved), data)
    # The order of choices is the trace's, in full.
    assert list(suite.questions[0].choices) == shown and suite.questions[0].answer == "B"
    assert [q.answer for q in suite.questions[1:]] == ["70", "4-6"]


def test_saving_replaces_nothing(capsys, tmp_path):
    trace = tmp_path / "run.trace"
    trace.write_text(trace_text([("AIME2025", "aime2025-01", "70", [])]))
    saved = tmp_path / "mine.json"
    saved.write_text("mine")

    status, _, err = run(capsys, "--from-trace", str(trace), "--save", str(saved))

    assert status == 2 and "expected a new file" in err and saved.read_text() == "mine"
    status, _, err = run(capsys, "--from-trace", str(trace), "--save", str(tmp_path / "x.csv"))
    assert status == 2 and "ends in .json" in err


def test_trace_without_usable_cases(capsys, tmp_path):
    trace = tmp_path / "run.trace"
    trace.write_text(trace_text([("Unknown", "x", "1", [])]))

    assert run(capsys, "--from-trace", str(trace))[0] == 3


def test_from_trace_as_json_and_torn(capsys, tmp_path):
    trace = tmp_path / "run.trace"
    text = trace_text(
        [("AIME2025", "aime2025-01", "70", []), ("AIME2025", "aime2025-02", "588", [])]
    )
    trace.write_text(text[:-60])

    status, out, err = run(capsys, "--from-trace", str(trace), "--json")

    assert status == 0
    assert json.loads(out) == {"n": 1, "dataset": "aime25", "id": "aime2025-01", "key": "70"}
    assert "case 2" in err


def test_preset_that_cannot_be_written(capsys, tmp_path):
    trace = tmp_path / "run.trace"
    trace.write_text(trace_text([("AIME2025", "aime2025-01", "70", [])]))

    status, _, err = run(capsys, "--from-trace", str(trace), "--save", "/proc/nowhere/x.json")

    assert status == 5 and "expected to write" in err


def test_choice_seed_changes_the_stored_order(capsys, tmp_path):
    path = published.write(tmp_path, "g.csv", published.csv_bytes(published.gpqa_rows()))
    data = ["--suite", "gpqa-diamond", "--dataset", f"gpqa-diamond={path}", "--json"]

    orders = []
    for seed in ("0", "1"):
        _, out, _ = run(capsys, *data, "--choice-seed", seed)
        orders.append([json.loads(line)["permutation"] for line in out.splitlines()])

    assert orders[0] != orders[1] and sorted(orders[0][0]) == [0, 1, 2, 3]
