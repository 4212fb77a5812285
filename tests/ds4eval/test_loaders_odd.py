"""Loaders on unusual but readable values, and on the AIME's many numberings."""

from __future__ import annotations

import pytest

from ds4eval.grading.grade import grade
from ds4eval.questions.aime import KEYS
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.known import ERRATA
from ds4eval.questions.loaders import load_dataset, placed
from ds4eval.questions.presets import DS4_23
from tests.ds4eval import published


def layouts():
    keys = published.AIME_KEYS
    texts = [f"Invented problem {i}." for i in range(30)]
    yield "math-ai", [{"problem": t, "answer": k, "id": str(i)}
                      for i, (t, k) in enumerate(zip(texts, keys))]  # fmt: skip
    yield "MathArena", [{"problem_idx": i + 1, "problem": t, "answer": int(k),
                         "problem_type": ["Algebra"]}
                        for i, (t, k) in enumerate(zip(texts, keys))]  # fmt: skip
    yield "test-time-compute", [{"problem": t, "answer": k} for t, k in zip(texts, keys)]
    yield "Maxwell-Jia", [{"ID": f"2025-{'I' if i < 15 else 'II'}-{i % 15 + 1}", "Problem": t,
                           "Solution": "-", "Answer": int(k)}
                          for i, (t, k) in enumerate(zip(texts, keys))]  # fmt: skip
    yield "yentinglin", [{"id": i + 1, "problem": t, "answer": k, "solution": "", "url": "",
                          "year": "2025"} for i, (t, k) in enumerate(zip(texts, keys))]  # fmt: skip
    yield "GAIR", [{"id": f"{'I' if i < 15 else 'II'}-{i % 15 + 1}", "problem": t, "answer": k}
                   for i, (t, k) in enumerate(zip(texts, keys))]  # fmt: skip
    yield "NVIDIA", [{"id": f"aime25-{i}", "problem": t, "expected_answer": k}
                     for i, (t, k) in enumerate(zip(texts, keys))]  # fmt: skip
    yield "floats", [{"question": t, "answer": float(k)} for t, k in zip(texts, keys)]
    yield "zeros", [{"question": t, "answer": f" {int(k):03d} "} for t, k in zip(texts, keys)]


@pytest.mark.parametrize("name, rows", list(layouts()))
def test_aime_layouts(tmp_path, name, rows):
    loaded = load_dataset(published.write(tmp_path, "a.jsonl", published.jsonl_bytes(rows)))

    assert [q.id for q in loaded.questions] == [f"aime2025-{n:02d}" for n in range(1, 31)]
    assert [q.answer for q in loaded.questions] == published.AIME_KEYS
    assert {q.source for q in loaded.questions} == {"AIME2025"}
    assert not any("expected the key" in str(finding) for finding in loaded.findings)


def test_aime_papers_apart(tmp_path):
    rows = [{"question": row["problem"], "answer": row["answer"]} for row in published.aime_rows()]
    one = published.write(tmp_path, "aime2025-I.jsonl", published.jsonl_bytes(rows[:15]))
    # Named so that a reader that trusts names or order of names goes wrong.
    two = published.write(tmp_path, "a-other.jsonl", published.jsonl_bytes(rows[15:]))

    second = load_dataset(two)
    both = load_dataset(tmp_path)
    ordered = load_dataset([one, two])

    assert [q.id for q in second.questions] == [f"aime2025-{n}" for n in range(16, 31)]
    assert {q.id for q in both.questions} == {q.id for q in ordered.questions}
    assert ordered.questions[15].stratum("part") == "II"
    assert len(ordered.files) == 2 and ordered.sha256 not in {f.sha256 for f in ordered.files}


def test_aime_of_another_year(tmp_path):
    rows = [{"ID": "2024-II-4", "Problem": "Invented.", "Answer": 33}]
    loaded = load_dataset(published.write(tmp_path, "a.jsonl", published.jsonl_bytes(rows)))

    assert loaded.questions[0].key == "AIME2024/aime2024-19"


def test_aime_of_another_year_is_never_that_of_2025(tmp_path):
    rows = [{"ID": "2024-II-4", "Problem": "Invented.", "Answer": 33}]
    path = published.write(tmp_path, "a.jsonl", published.jsonl_bytes(rows))

    assert load_dataset(path).name == "aime24"
    with pytest.raises(DatasetError, match="expected the AIME of 2025, found that of 2024"):
        load_dataset(path, "aime25")
    # MathArena's copy of 2026 has the columns of 2025's, and names no year.
    rows = [
        {"problem_idx": i + 1, "answer": (i * 31) % 1000, "problem": f"Invented {i}."}
        for i in range(30)
    ]
    with pytest.raises(DatasetError, match=r"record 1: expected the known key 70 .* or year"):
        load_rows(tmp_path, rows)


def test_aime_of_2024_in_the_numbering_of_its_best_known_copy(tmp_path):
    """HuggingFaceH4/aime_2024: ids 60 to 89, the year in a column, the problem in an address."""
    page = "https://artofproblemsolving.com/wiki/index.php/2024_AIME_{}_Problems/Problem_{}"
    rows = [
        {"id": 60 + i, "problem": f"Invented {i}.", "answer": f"{i:03d}", "year": "2024",
         "url": page.format("I" if i < 15 else "II", i % 15 + 1)}
        for i in range(30)
    ]  # fmt: skip
    without = [{**row, "url": "u"} for row in rows]
    for copy in (rows, without):
        loaded = load_rows(tmp_path, copy)
        assert [q.key for q in loaded.questions][::29] == [
            "AIME2024/aime2024-01",
            "AIME2024/aime2024-30",
        ]
        assert [q.answer for q in loaded.questions] == [str(i) for i in range(30)]
    # The address wins over the order of rows.
    loaded = load_rows(tmp_path, [{**rows[20], "id": 60}])
    assert loaded.questions[0].id == "aime2024-21"


def test_aime_of_many_years(tmp_path):
    rows = [{"ID": id_, "Question": f"Invented {id_}.", "Answer": key}
            for id_, key in (("1983-1", "060"), ("2004-II-15", "511"))]  # fmt: skip
    loaded = load_rows(tmp_path, rows)

    assert (loaded.name, [q.key for q in loaded.questions]) == (
        "aime",
        ["AIME1983/aime1983-01", "AIME2004/aime2004-30"],
    )


@pytest.mark.parametrize(
    "written, key",
    [
        (r"336^\circ", "336"),
        (r"336^{\circ}", "336"),
        (r"$336^\circ$", "336"),
        ("336°", "336"),
        ("$070$", "70"),
        (r"\boxed{070}", "70"),
        ("080 or 081 (both were accepted)", "80|81"),
    ],
)
def test_keys_as_copies_write_them(tmp_path, written, key):
    rows = [{"ID": "1999-5", "Problem": "Invented", "Answer": written}]

    assert load_rows(tmp_path, rows).questions[0].answer == key


@pytest.mark.parametrize(
    "written", [r"336^\prime", "80 or 81", "1000°", "$$", "80 or 81 or 82 (all were accepted)"]
)
def test_keys_that_are_none(tmp_path, written):
    with pytest.raises(DatasetError, match="record 1"):
        load_rows(tmp_path, [{"ID": "1999-5", "Problem": "Invented", "Answer": written}])


def test_either_of_two_accepted_keys_is_right(tmp_path):
    rows = [{"ID": "1999-5", "Problem": "Invented", "Answer": "080 or 081 (both were accepted)"}]
    question = load_rows(tmp_path, rows).questions[0]

    for given, verdict in (("80", "pass"), ("081", "pass"), ("82", "fail")):
        grades = grade(question, f"Answer: {given}", False, True)
        assert {grades.strict.verdict, grades.classic.verdict} == {verdict}, given
    assert question.chance == 0.002


def test_known_keys_are_those_of_the_report(tmp_path):
    """The keys in the report that the project starts from were written down by others."""
    reported = {item.id: item.key for item in DS4_23 if item.dataset == "aime25"}

    assert len(reported) == 7 and reported.items() <= KEYS.items() and len(KEYS) == 30


def test_aime_key_that_differs_from_a_known_one_is_an_error(tmp_path):
    rows = published.aime_rows()
    rows[0]["answer"] = "71"
    path = published.write(tmp_path, "a.jsonl", published.jsonl_bytes(rows))

    with pytest.raises(DatasetError, match="expected the known key 70 of aime2025-01, found 71"):
        load_dataset(path)
    gathered = load_dataset(path, keep_going=True)
    assert [f.level for f in gathered.findings if "known key" in f.message] == ["error"]


def exams():
    yield "MMLU", [{"question": f"Which {i}?", "subject": "x", "choices": list("pqrs"),
                    "answer": i % 4} for i in range(8)]  # fmt: skip
    yield "MMLU-Pro", [{"question_id": i, "question": f"Which {i}?", "options": list("pqrstuvwxy"),
                        "answer": "ABCDEFGHIJ"[i % 10], "answer_index": i % 10, "category": "x"}
                       for i in range(8)]  # fmt: skip
    yield "ARC", [{"id": f"M{i}", "question": f"Which {i}?", "answerKey": "B",
                   "choices": {"text": list("pqrs"), "label": list("ABCD")}}
                  for i in range(8)]  # fmt: skip


@pytest.mark.parametrize("name, rows", list(exams()))
def test_other_exams_are_not_taken_for_gpqa_or_supergpqa(tmp_path, name, rows):
    with pytest.raises(DatasetError, match="found questions with choices of some exam"):
        load_rows(tmp_path, rows)


def test_four_choices_are_gpqa_when_the_user_says_so_and_ten_never(tmp_path):
    rows = dict(exams())
    assert len(load_rows(tmp_path, rows["MMLU"], "gpqa-diamond").questions) == 8
    with pytest.raises(DatasetError, match="expected 4 choices"):
        load_rows(tmp_path, rows["MMLU-Pro"], "gpqa-diamond")


def test_numbers_that_could_count_from_0_or_from_1_are_refused(tmp_path):
    rows = [{"question": f"Which {i}?", "options": list("pqrs"), "answer": 1 + i % 3}
            for i in range(12)]  # fmt: skip
    with pytest.raises(DatasetError, match="expected a letter, or numbers that count from 0"):
        load_rows(tmp_path, rows, "gpqa-diamond")


@pytest.mark.parametrize(
    "layout",
    [
        {"problem": "p", "solution": "s", "answer": r"\frac{1}{2}", "subject": "Algebra"},
        {"question": "q", "answer": "so it is\n#### 18"},
        {"problem_idx": 1, "problem": "p", "answer": r"2^{10}-1"},
    ],
    ids=["MATH-500", "GSM8K", "HMMT"],
)
def test_exams_with_other_answers_are_refused_by_their_answer(tmp_path, layout):
    with pytest.raises(DatasetError, match=r"field 'answer'.*: expected a whole number"):
        load_rows(tmp_path, [layout])


def load_rows(tmp_path, rows, name="", **options):
    path = published.write(tmp_path, "odd.jsonl", published.jsonl_bytes(rows))
    return load_dataset(path, name, **options)


def test_bytes_and_missing_numbers_from_parquet(tmp_path):
    rows = [{**row, "question": row["question"].encode(), "field": float("nan")}
            for row in published.super_rows()]  # fmt: skip
    path = published.write(tmp_path, "s.parquet", published.parquet_bytes(rows))

    question = load_dataset(path).questions[0]

    assert question.text == "Invented question 0?" and question.stratum("field") == ""


def test_bytes_that_are_no_text(tmp_path):
    rows = [{**row, "question": b"\xff"} for row in published.super_rows()]
    path = published.write(tmp_path, "s.parquet", published.parquet_bytes(rows))

    with pytest.raises(DatasetError, match="record 1, field 'question': expected UTF-8 text"):
        load_dataset(path)


def test_options_as_an_object_of_letters(tmp_path):
    rows = [{**row, "options": dict(zip("ABCDEFGHIJ", row["options"]))}
            for row in published.super_rows()]  # fmt: skip

    assert (
        load_rows(tmp_path, rows).questions == load_rows(tmp_path, published.super_rows()).questions
    )


def test_letter_from_the_answers_text(tmp_path):
    rows = [{**row, "answer_letter": ""} for row in published.super_rows()]

    loaded = load_rows(tmp_path, rows)

    assert [q.answer for q in loaded.questions] == [r["answer_letter"] for r in
                                                    published.super_rows()]  # fmt: skip
    assert sum("derived" in finding.message for finding in loaded.findings) == 8


def test_equal_options_are_said(tmp_path):
    rows = published.super_rows()
    rows[0]["options"][3] = rows[0]["options"][2]

    assert any("same text" in str(finding) for finding in load_rows(tmp_path, rows).findings)


def test_equal_questions_are_said(tmp_path):
    rows = published.super_rows()
    rows[5]["question"] = rows[2]["question"]

    said = [f for f in load_rows(tmp_path, rows).findings if "text is that of" in f.message]
    assert [(f.record, f.id) for f in said] == [(6, rows[5]["uuid"])]


@pytest.mark.parametrize("place", [4, "E", -1])
def test_formatted_gpqa_index_beyond(tmp_path, place):
    rows = [{"Question": "Which?", "options": ["p", "q", "r", "s"], "answer": place}]
    rows.append({**rows[0], "Question": "Who?", "answer": 0})
    with pytest.raises(DatasetError, match=r"an index below 4|a whole number"):
        load_rows(tmp_path, rows, "gpqa-diamond")


def test_line_sets_as_lists_and_numbers(tmp_path):
    rows = [{**row, "answer": answer} for row, answer in zip(published.line_rows(), ([9, 3, 4], 5))]

    assert [q.answer for q in load_rows(tmp_path, rows).questions] == ["3-4,9", "5"]
    with pytest.raises(DatasetError, match="expected lines such as"):
        load_rows(tmp_path, [{**rows[0], "answer": True}])


def test_aime_without_ids_needs_whole_papers(tmp_path):
    rows = [{"question": f"Invented {i}", "answer": i} for i in range(7)]

    with pytest.raises(DatasetError, match="an id, or 15 or 30 records in order, found 7"):
        load_rows(tmp_path, rows)
    gathered = load_rows(tmp_path, rows, keep_going=True)
    assert [finding.level for finding in gathered.findings if finding.level == "error"] == ["error"]


def test_aime_ids_of_our_own_and_as_floats(tmp_path):
    ours = [{"id": "aime2025-07", "problem": "Invented", "answer": 821}]
    floats = [{**row, "id": float(row["id"])} for row in published.aime_rows()]

    assert load_rows(tmp_path, ours).questions[0].id == "aime2025-07"
    assert load_rows(tmp_path, floats).questions[29].id == "aime2025-30"


def test_aime_ids_that_tell_nothing_leave_the_order(tmp_path):
    rows = [{**row, "id": f"problem {chr(65 + i)}"} for i, row in enumerate(published.aime_rows())]

    assert [q.id for q in load_rows(tmp_path, rows).questions][::29] == [
        "aime2025-01",
        "aime2025-30",
    ]


def test_erratum_already_made(tmp_path):
    rows = published.gpqa_rows([ERRATA[0].id])
    rows[0]["Correct Answer"] = ERRATA[0].value

    question = load_rows(tmp_path, rows).questions[0]

    assert question.source == "GPQA Diamond (modified)" and question.notes == ()


def test_key_beyond_the_choices(tmp_path):
    question = load_rows(tmp_path, published.gpqa_rows()).questions[0]

    with pytest.raises(DatasetError, match="expected a key A to D, found 'E'"):
        placed(question, "E")


def test_unknown_data_set_name(tmp_path):
    with pytest.raises(DatasetError, match="data set: expected one of aime25"):
        load_rows(tmp_path, published.aime_rows(), "mmlu")


def test_terms_of_a_copy_are_said(tmp_path):
    rows = [{"problem_idx": i + 1, "problem": f"Invented {i}", "answer": int(key),
             "problem_type": ["Algebra", "Geometry"]}
            for i, key in enumerate(published.AIME_KEYS)]  # fmt: skip
    loaded = load_rows(tmp_path, rows)

    assert any("no commercial use" in finding.message for finding in loaded.findings)
    assert loaded.questions[0].domain == "Algebra, Geometry"


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("paper", [0, 15])
def test_one_paper_with_ids_of_its_own(tmp_path, first, paper):
    """Fifteen records that count from 0 or 1: known keys tell which paper they are."""
    name = "id" if first == 0 else "problem_idx"
    rows = [
        {name: i + first, "problem": f"Invented {i}", "answer": published.AIME_KEYS[paper + i]}
        for i in range(15)
    ]
    ids = [q.id for q in load_rows(tmp_path, rows).questions]

    assert ids == [f"aime2025-{n:02d}" for n in range(paper + 1, paper + 16)]


def test_second_paper_with_ids_of_both(tmp_path):
    rows = [{"problem_idx": n, "problem": f"Invented {n}", "answer": published.AIME_KEYS[n - 1]}
            for n in range(16, 31)]  # fmt: skip

    assert load_rows(tmp_path, rows).questions[0].id == "aime2025-16"


@pytest.mark.parametrize("answer, expected", [("70.0", "70"), ("000", "0"), (0, "0"), (70.0, "70")])
def test_spellings_of_an_integer(tmp_path, answer, expected):
    rows = [{"id": "2023-I-5", "problem": "Invented", "answer": answer}]

    assert load_rows(tmp_path, rows).questions[0].answer == expected


@pytest.mark.parametrize("answer", ["70.1", "70.", ".0", "70.00x"])
def test_spellings_of_no_integer(tmp_path, answer):
    with pytest.raises(DatasetError, match="expected a whole number"):
        load_rows(tmp_path, [{"id": "2023-I-5", "problem": "Invented", "answer": answer}])


def test_domains_and_counts(tmp_path):
    rows = published.gpqa_rows()
    rows[1]["High-level domain"] = None
    loaded = load_rows(tmp_path, rows)

    assert [q.domain for q in loaded.questions[:2]] == ["Physics", "Optics"]
    assert "note: file: expected 198 questions, found 6" in map(str, loaded.findings)
    whole = load_rows(tmp_path, published.aime_rows())
    assert not any("questions, found" in finding.message for finding in whole.findings)
