"""Layouts of further exams, with invented questions, and upstream's whole set of ids."""

from __future__ import annotations

import pytest

from ds4eval.questions.aime import KEYS
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.loaders import load_dataset
from ds4eval.questions.presets import DS4_23, DS4_92
from ds4eval.questions.suites import load_suite
from engine.errors import OptionError
from tests.ds4eval import published


def load(tmp_path, rows, name, form="jsonl"):
    path = published.write(tmp_path, f"copy.{form}", published.FORMATS[form](rows))
    return load_dataset(path, name)


def years(year):
    """Layouts of an AIME's copies: columns of HuggingFaceH4, of MathArena, of Maxwell-Jia."""
    keys = [str((i * 31 + year) % 1000) for i in range(30)]
    return keys, {
        "H4": [
            {"id": 60 + i, "problem": f"Invented {i}?", "solution": "s", "answer": key.zfill(3),
             "url": "u", "year": str(year)}
            for i, key in enumerate(keys)
        ],
        "MathArena": [
            {"problem_idx": i + 1, "problem": f"Invented {i}?", "answer": int(key)}
            for i, key in enumerate(keys)
        ],
        "by paper": [
            {"ID": f"{year}-{'I' if i < 15 else 'II'}-{i % 15 + 1}", "Problem": f"Invented {i}?",
             "Solution": "s", "Answer": int(key)}
            for i, key in enumerate(keys)
        ],
    }  # fmt: skip


@pytest.mark.parametrize("year", [2024, 2026])
@pytest.mark.parametrize("layout", ["H4", "MathArena", "by paper"])
def test_aime_of_2024_and_2026(tmp_path, year, layout):
    keys, layouts = years(year)
    name = f"aime{year % 100}"
    loaded = load(tmp_path, layouts[layout], name, "parquet" if layout == "MathArena" else "jsonl")

    assert [q.key for q in loaded.questions][::29] == [
        f"AIME{year}/aime{year}-01",
        f"AIME{year}/aime{year}-30",
    ]
    assert [q.answer for q in loaded.questions] == keys
    assert (loaded.name, loaded.findings) == (name, loaded.findings)
    assert not [f for f in loaded.findings if f.level != "note"]


def test_an_aime_is_of_its_year(tmp_path):
    _, layouts = years(2024)
    with pytest.raises(DatasetError, match="expected the AIME of 2026, found that of 2024"):
        load(tmp_path, layouts["H4"], "aime26")
    # The keys of 2025 in a copy that names no year are 2025's.
    rows = [{"problem_idx": i, "problem": f"{i}?", "answer": int(KEYS[f"aime2025-{i:02d}"])}
            for i in range(1, 31)]  # fmt: skip
    with pytest.raises(DatasetError, match="expected the AIME of 2026, found 30 keys of 2025"):
        load(tmp_path, rows, "aime26")


def test_hmmt(tmp_path):
    rows = [
        {"problem_idx": 1, "problem": "Invented?", "answer": r"\frac{1}{576}",
         "problem_type": ["Algebra", "Geometry"]},
        {"problem_idx": 2, "problem": "Invented?", "answer": "103", "problem_type": ["Algebra"]},
    ]  # fmt: skip
    first, second = load(tmp_path, rows, "hmmt", "parquet").questions

    assert (first.key, first.kind, first.answer) == ("HMMT/hmmt-01", "latex", r"\frac{1}{576}")
    assert (first.domain, second.kind) == ("Algebra, Geometry", "latex")
    with pytest.raises(DatasetError, match="expected a whole number"):
        load(tmp_path, rows, "aime26")


def test_math_500_tells_itself(tmp_path):
    rows = [{"problem": f"Invented {i}?", "solution": "s", "answer": r"\sqrt{2}",
             "subject": "Algebra", "level": 2, "unique_id": f"test/algebra/{i}.json"}
            for i in range(3)]  # fmt: skip
    loaded = load(tmp_path, rows, "")

    assert (loaded.name, loaded.questions[2].key) == ("math-500", "MATH-500/test/algebra/2.json")
    assert dict(loaded.questions[0].strata) == {"subject": "Algebra", "level": "2"}
    assert [f.message for f in loaded.findings] == ["expected 500 questions, found 3"]


@pytest.mark.parametrize(
    "key, answer", [("18", "18"), ("1,234", "1234"), ("-5", "-5"), ("7.00", "7")]
)
def test_gsm8k_reads_the_key_behind_its_mark(tmp_path, key, answer):
    rows = [{"question": "Invented?", "answer": f"3 + 4 = <<3+4=7>>7\n#### {key}"}]
    [question] = load(tmp_path, rows, "gsm8k").questions

    assert (question.key, question.kind, question.answer) == ("GSM8K/gsm8k-0001", "integer", answer)


def test_gsm8k_without_a_number_is_refused(tmp_path):
    with pytest.raises(
        DatasetError, match=r"record 1, field 'answer'.* a whole number behind ####"
    ):
        load(tmp_path, [{"question": "Invented?", "answer": "#### many"}], "gsm8k")


def test_mmlu_pro_tells_itself(tmp_path):
    rows = [{"question_id": 70 + i, "question": f"Invented {i}?",
             "options": [f"o{j}" for j in range(10 - i % 2)], "answer": "ABCDEFGHIJ"[i],
             "answer_index": i if i != 3 else 5, "cot_content": "", "category": "math", "src": "x"}
            for i in range(4)]  # fmt: skip
    loaded = load(tmp_path, rows, "", "parquet")

    assert (loaded.name, loaded.questions[1].key) == ("mmlu-pro", "MMLU-Pro/mmlu-pro-71")
    assert [q.answer for q in loaded.questions] == list("ABCD")
    assert [len(q.choices) for q in loaded.questions] == [10, 9, 10, 9]
    assert loaded.questions[0].stratum("category") == "math"
    [warning] = [f for f in loaded.findings if f.level == "warning"]
    assert warning.record == 4 and "the letter is trusted" in warning.message


@pytest.mark.parametrize("name", ["aime24", "aime26", "hmmt", "math-500", "gsm8k", "mmlu-pro"])
def test_each_is_a_suite_that_wants_a_copy(tmp_path, monkeypatch, name):
    monkeypatch.setenv("DS4_EVAL_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(DatasetError, match=f"--dataset {name}=FILE, a copy of your own"):
        load_suite(name)


def test_ds4_92_goes_on_from_ds4_23_with_keys_that_others_know():
    """The AIME's keys were written down elsewhere, and must agree with those of the source."""
    assert DS4_92[:23] == DS4_23 and len({item.id for item in DS4_92}) == 92
    names = [item.dataset for item in DS4_92]
    assert names == ["gpqa-diamond", "supergpqa", "aime25"] * 25 + ["compsec"] * 17
    assert all(KEYS[item.id] == item.key for item in DS4_92 if item.dataset == "aime25")
    assert [item.id for item in DS4_92[75:]] == [f"compsec-0{n}" for n in range(76, 93)]
    missing = {f"aime2025-{n:02d}" for n in range(1, 31)} - {item.id for item in DS4_92}
    assert missing == {f"aime2025-{n}" for n in (11, 14, 17, 20, 23)}


def test_ds4_92_over_the_users_copies(tmp_path):
    of = {name: [i for i in DS4_92 if i.dataset == name] for name in {i.dataset for i in DS4_92}}
    code = "\n".join(f"{n}: int v{n};" for n in range(1, 31))
    parts = {
        "gpqa-diamond": published.csv_bytes(
            published.gpqa_rows([item.id for item in of["gpqa-diamond"]])
        ),
        "supergpqa": published.jsonl_bytes(
            published.super_rows(
                [item.id for item in of["supergpqa"]], [item.key for item in of["supergpqa"]]
            )
        ),
        "aime25": published.parquet_bytes(published.aime_rows()),
        "compsec": published.jsonl_bytes(
            [{"id": i.id, "title": "t", "question": code, "answer": i.key} for i in of["compsec"]]
        ),
    }
    data = {name: (published.write(tmp_path, f"{name}.bin", raw),) for name, raw in parts.items()}
    suite = load_suite("ds4-92", data)

    assert [q.id for q in suite.questions] == [item.id for item in DS4_92]
    assert [q.answer for q in suite.questions] == [item.key for item in DS4_92]
    del data["compsec"]
    with pytest.raises((DatasetError, OptionError), match="compsec"):
        load_suite("ds4-92", data)
