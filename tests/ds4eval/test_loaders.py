"""Loaders on files that mimic the published ones, in every format and layout."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from ds4eval.questions import loaders
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.known import DAMAGES, ERRATA, Damage, Mark, normalise
from ds4eval.questions.loaders import load_dataset, placed
from ds4eval.questions.question import LETTERS
from tests.ds4eval import published

ROWS = {
    "aime25": published.aime_rows,
    "gpqa-diamond": published.gpqa_rows,
    "supergpqa": published.super_rows,
    "compsec": published.line_rows,
}


def right(question):
    return question.choices[LETTERS.index(question.answer)]


@pytest.mark.parametrize("form", published.FORMATS)
@pytest.mark.parametrize("name", ROWS)
def test_every_format_gives_the_same_questions(tmp_path, name, form):
    rows = ROWS[name]()
    raw = published.FORMATS[form](rows)
    path = published.write(tmp_path, f"data.{form}", raw)
    plain = published.write(tmp_path, "plain.jsonl", published.jsonl_bytes(rows))

    loaded = load_dataset(path)

    assert loaded.name == name
    assert loaded.questions == load_dataset(plain).questions
    assert len(loaded.questions) == len(rows)
    assert loaded.sha256 == hashlib.sha256(raw).hexdigest()


def test_pandas_reads_the_same_fields(tmp_path):
    """The csv reader against pandas on quotes, line breaks and commas in cells."""
    path = published.write(tmp_path, "gpqa.csv", published.csv_bytes(published.gpqa_rows()))

    frame = pd.read_csv(path)
    loaded = load_dataset(path)

    assert [question.text for question in loaded.questions] == list(frame["Question"])
    assert [right(question) for question in loaded.questions] == [
        text.strip() for text in frame["Correct Answer"]
    ]


def test_names_do_not_decide(tmp_path):
    path = published.write(tmp_path, "gpqa.csv", published.parquet_bytes(published.super_rows()))

    assert load_dataset(path).name == "supergpqa"


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    raw = b"\xef\xbb\xbf" + published.jsonl_bytes(published.aime_rows()).replace(b"\n", b"\r\n")

    loaded = load_dataset(published.write(tmp_path, "a.jsonl", raw))

    assert len(loaded.questions) == 30
    assert not any("\r" in question.text for question in loaded.questions)


def test_line_separator_inside_a_record(tmp_path):
    rows = published.super_rows()
    rows[0]["question"] = "one\u2028two\u0085three?"

    loaded = load_dataset(published.write(tmp_path, "s.jsonl", published.jsonl_bytes(rows)))

    assert loaded.questions[0].text == "one\u2028two\u0085three?"


# GPQA --------------------------------------------------------------------------------------------


def test_gpqa_order_is_of_seed_and_id_alone(tmp_path):
    rows = published.gpqa_rows([f"recX{i:010d}" for i in range(198)])
    one = load_dataset(published.write(tmp_path, "a.csv", published.csv_bytes(rows)))
    two = load_dataset(published.write(tmp_path, "b.csv", published.csv_bytes(rows[::-1])))
    other = load_dataset(published.write(tmp_path, "c.csv", published.csv_bytes(rows)), seed=1)

    assert set(one.questions) == set(two.questions)
    assert one.questions != other.questions
    counts = [sum(q.answer == letter for q in one.questions) for letter in "ABCD"]
    # 198 draws of probability 1/4: five standard deviations are 30.
    assert all(abs(count - 49.5) < 30 for count in counts)


def test_gpqa_permutation_leads_back_to_the_published_order(tmp_path):
    loaded = load_dataset(
        published.write(tmp_path, "a.csv", published.csv_bytes(published.gpqa_rows()))
    )

    for i, question in enumerate(loaded.questions):
        back = [""] * 4
        for shown, source in enumerate(question.permutation):
            back[source] = question.choices[shown]
        assert back == [f"right, {i}", f"wrong one {i}", f"wrong two {i}", f"wrong three {i}"]
        assert right(question) == f"right, {i}"


def test_gpqa_equal_choices_keep_the_right_index(tmp_path):
    rows = published.gpqa_rows()
    rows[0]["Incorrect Answer 2"] = rows[0]["Correct Answer"]
    loaded = load_dataset(published.write(tmp_path, "a.csv", published.csv_bytes(rows)))
    question = loaded.questions[0]

    assert question.permutation[LETTERS.index(question.answer)] == 0
    assert any("same text" in str(finding) for finding in loaded.findings)


def test_gpqa_drafts_and_canary_are_left_behind(tmp_path):
    loaded = load_dataset(
        published.write(tmp_path, "a.csv", published.csv_bytes(published.gpqa_rows()))
    )

    assert published.CANARY not in repr(loaded)
    assert "draft" not in repr(loaded.questions)


def test_gpqa_formatted_layout(tmp_path):
    rows = [
        {"Question": "Which?", "options": ["p", "q", "r", "s"], "answer": 2, "Canary": "x"},
        {"Question": "Who?", "options": ["p", "q", "r", "s"], "answer": "B", "Canary": "x"},
        {"Question": "Why?", "options": ["p", "q", "r", "s"], "answer": 0, "Canary": "x"},
    ]
    path = published.write(tmp_path, "f.json", published.json_bytes(rows))
    with pytest.raises(
        DatasetError, match=r"expected the columns of .*--dataset gpqa-diamond=FILE"
    ):
        load_dataset(path)
    loaded = load_dataset(path, "gpqa-diamond")

    assert [right(question) for question in loaded.questions] == ["r", "q", "p"]
    assert all(question.id.startswith("gpqa-") for question in loaded.questions)


@pytest.mark.parametrize("count, label", [(3, "GPQA Diamond"), (448, "GPQA main")])
def test_gpqa_parts_are_told_by_size(tmp_path, count, label):
    rows = published.gpqa_rows([f"rec{i}" for i in range(count)])
    loaded = load_dataset(published.write(tmp_path, "a.csv", published.csv_bytes(rows)))

    assert {question.source for question in loaded.questions} == {label}


@pytest.mark.parametrize("key", "ABCD")
def test_placed_puts_the_right_choice_at_the_key(tmp_path, key):
    loaded = load_dataset(
        published.write(tmp_path, "a.csv", published.csv_bytes(published.gpqa_rows())), seed=5
    )
    for i, question in enumerate(loaded.questions):
        moved = placed(question, key)
        assert moved.answer == key
        assert right(moved) == f"right, {i}"
        assert moved.permutation[LETTERS.index(key)] == 0
        # The result does not depend on the order that it came in.
        assert moved == placed(placed(question, "C"), key)


# Errata and damage -------------------------------------------------------------------------------


def test_erratum_is_applied_once_and_said(tmp_path):
    erratum = ERRATA[0]
    rows = published.gpqa_rows([erratum.id, "recOther"])
    path = published.write(tmp_path, "a.csv", published.csv_bytes(rows))

    question, other = load_dataset(path).questions
    untouched = load_dataset(path, errata=False).questions[0]

    assert right(question) == erratum.value
    assert question.source == "GPQA Diamond (modified)"
    assert "antirez/ds4#233" in question.notes[0]
    assert other.source == "GPQA Diamond" and not other.notes
    assert right(untouched) == "right, 0" and untouched.source == "GPQA Diamond"
    assert question.permutation == untouched.permutation


def test_erratum_value_follows_from_physics():
    """Lithium-6 at 0.96 c, from atomic mass units: the corrected number, recomputed."""
    energy = 6.0151228874 * 0.93149410242 / (1 - 0.96**2) ** 0.5

    assert ERRATA[0].value == f"{energy:.3f} GeV"


def mark(text):
    """A mark of invented text; the real ones are hashes of text that is not in this repository."""
    return Mark(len(normalise(text)), hashlib.sha256(normalise(text).encode()).hexdigest())


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"Some words, $\alpha = 5^\circ$ and more", None),
        (r"Some words, α=5° and more", None),
        (r"Some words, $\alpha QX = 5^\circ$ and more", "damaged copy"),
        (r"$\alpha = 5$ but QX = 5 as well", "damaged copy"),
        ("Something else", "not a wording"),
    ],
)
def test_damage_is_told_by_marks(tmp_path, monkeypatch, text, expected):
    damage = Damage(
        "aime2025-14", "it is garbled", "someone#1", bad=(mark("QX=5"),), good=(mark("words, 5"),)
    )
    monkeypatch.setattr(loaders, "DAMAGES", {damage.id: damage})
    rows = published.aime_rows()
    rows[13]["problem"] = text
    loaded = load_dataset(published.write(tmp_path, "a.jsonl", published.jsonl_bytes(rows)))

    said = [
        (f.record, f.message[: len(expected or "")]) for f in loaded.findings if f.id == damage.id
    ]

    assert said == ([(14, expected)] if expected else [])


def test_marks_hold_hashes_not_text():
    for damage in DAMAGES.values():
        for mark in (*damage.bad, *damage.good):
            assert len(mark.sha256) == 64 and int(mark.sha256, 16)
    assert normalise(r"$\frac{A}{b}$ 60°") == "ab60"


# SuperGPQA ---------------------------------------------------------------------------------------


def test_supergpqa_fields(tmp_path):
    rows = published.super_rows()
    loaded = load_dataset(published.write(tmp_path, "s.jsonl", published.jsonl_bytes(rows)))
    question = loaded.questions[1]

    assert question.id == rows[1]["uuid"] and question.source == "SuperGPQA"
    assert question.choices == tuple(rows[1]["options"])
    assert question.answer == "B" and question.permutation == ()
    assert question.stratum("difficulty") == "middle"
    assert question.stratum("iscalculation") == "yes"
    assert question.domain == "Law"


def test_supergpqa_letter_wins_over_text(tmp_path):
    rows = published.super_rows()
    rows[2]["answer"] = "something else"
    loaded = load_dataset(published.write(tmp_path, "s.jsonl", published.jsonl_bytes(rows)))

    assert loaded.questions[2].answer == rows[2]["answer_letter"]
    assert loaded.questions[2].notes
    assert [f.level for f in loaded.findings if f.record == 3] == ["warning"]


@pytest.mark.parametrize("shape", ["json", "python", "array"])
def test_options_in_other_shapes(tmp_path, shape):
    rows = published.super_rows()
    plain = load_dataset(published.write(tmp_path, "p.jsonl", published.jsonl_bytes(rows)))
    if shape == "array":
        frame = pd.DataFrame([{**row, "options": np.array(row["options"])} for row in rows])
        path = tmp_path / "s.parquet"
        frame.to_parquet(path)
    else:
        write = json.dumps if shape == "json" else repr
        text = [{**row, "options": write(row["options"])} for row in rows]
        path = published.write(tmp_path, "s.jsonl", published.jsonl_bytes(text))

    assert load_dataset(path).questions == plain.questions


# Line sets ---------------------------------------------------------------------------------------


def test_line_sets(tmp_path):
    rows = published.line_rows()
    loaded = load_dataset(published.write(tmp_path, "c.jsonl", published.jsonl_bytes(rows)))

    assert [q.answer for q in loaded.questions] == ["3", "4-6", "7,9-10"]
    assert {q.kind for q in loaded.questions} == {"lines"}
    assert loaded.questions[1].chance == pytest.approx(3 / 20)


def test_forced_name_reads_line_sets_without_titles(tmp_path):
    rows = [{"id": "a", "question": "1 x\n2 y", "answer": 2}]
    path = published.write(tmp_path, "c.jsonl", published.jsonl_bytes(rows))

    assert load_dataset(path, "compsec").questions[0].answer == "2"


def test_columns_in_any_order_and_spelling(tmp_path):
    rows = published.gpqa_rows()
    shuffled = [{k.upper().replace(" ", "_"): row[k] for k in reversed(row)} for row in rows]
    plain = load_dataset(published.write(tmp_path, "a.csv", published.csv_bytes(rows)))
    other = load_dataset(published.write(tmp_path, "b.csv", published.csv_bytes(shuffled)))

    assert other.questions == plain.questions


def test_csv_field_limit_is_put_back(tmp_path):
    before = csv.field_size_limit()
    rows = published.gpqa_rows()
    rows[0]["Explanation"] = "x" * 200_000
    load_dataset(published.write(tmp_path, "a.csv", published.csv_bytes(rows)))

    assert csv.field_size_limit() == before


def test_unexpected_data_set_is_refused(tmp_path):
    path = published.write(tmp_path, "a.jsonl", published.jsonl_bytes(published.super_rows()))

    with pytest.raises(DatasetError, match="expected gpqa-diamond, found columns of supergpqa"):
        load_dataset(path, "gpqa-diamond")
