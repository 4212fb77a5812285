"""Damaged and hostile data files: one line that names file, record, field and byte."""

from __future__ import annotations

import gzip
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4eval.questions import files as loaders_files
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.loaders import data_roots, how_to_get, load_dataset, local_paths
from tests.ds4eval import published

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:28b9\nsize 40000000\n"
LOGIN = b"\n<!DOCTYPE html><html><title>Log in</title></html>"
GOOD = published.jsonl_bytes(published.aime_rows())
SUPER = published.jsonl_bytes(published.super_rows())
GPQA = published.csv_bytes(published.gpqa_rows())

FILES = {
    "empty": (b"", "expected records, found an empty file"),
    "blanks": (b" \n\n", "found only blanks"),
    "mark only": (b"\xef\xbb\xbf", "found only blanks"),
    "header only": (b"problem,answer\n", "found only a header"),
    "empty list": (b"[]", "found only a header"),
    "git-lfs": (LFS, "git-LFS pointer instead of data"),
    "login page": (LOGIN, "found a web page"),
    "zip": (b"PK\x03\x04rest", "a zip archive"),
    "utf-16": ("problem,answer\n".encode("utf-16"), "expected UTF-8 text, found UTF-16"),
    "latin-1": ("problem,answer\ncaf\u00e9,1\n".encode("latin-1"), "line 2, byte 18: .*found 0xe9"),
    "latin-1, blank first line": (b"\nproblem,answer\ncaf\xe9,1\n", "line 3, byte 19: "),
    "surrogate": (b"problem,answer\n\xed\xa0\x80,1\n", "line 2, byte 15: expected UTF-8"),
    "NUL": (b"problem,answer\nab\x00c,1\n", "line 2, byte 17: expected text, found a NUL"),
    "gzip cut": (gzip.compress(GOOD)[:-20], "found a damaged one"),
    "gzip rubbish": (b"\x1f\x8brubbish", "found a damaged one"),
    "gzip of nothing": (gzip.compress(b""), "found nothing in the packed file"),
    "zstd cut": (published.zstd(GOOD)[:-9], "found a damaged one"),
    "zstd rubbish": (b"\x28\xb5\x2f\xfdrubbish", "found a damaged one"),
    "parquet cut": (
        published.parquet_bytes(published.aime_rows())[:-30],
        "whole parquet file, found a damaged one",
    ),
    "parquet head only": (b"PAR1", "whole parquet file"),
    "torn last line": (GOOD[:-20], r"record 30, byte \d+: expected JSON.*partial download"),
    "torn first line": (GOOD[5:], "expected the columns"),
    "half a first line": (b'{"problem": \n' + GOOD, "record 1, byte 12: expected JSON"),
    "no object": (GOOD + b"[1, 2]\n", "record 31, byte .*expected an object, found list"),
    "list of numbers": (b"[1, 2]", "record 1: expected an object, found int"),
    "NaN": (b'{"problem": "a", "answer": NaN}\n', "NaN is no JSON number"),
    "double field": (b'{"problem": "a", "answer": 1, "answer": 2}\n', "'answer' is there twice"),
    "deep": (b'[{"problem": ' + b"[" * 100_000, "nested too deep|expected JSON"),
    "huge number": (b'{"problem": "a", "answer": ' + b"9" * 5000 + b"}\n", "expected"),
    "uneven columns": (b'{"problem": ["a", "b"], "answer": ["1"]}', "columns of one length"),
    "double column": (b"problem,answer,answer\na,1,2\n", "found 'answer' twice"),
    "double plain name": (b"Problem,problem,answer\na,b,1\n", "found 'Problem' and 'problem'"),
    "too many fields": (b"problem,answer\na,1,2\n", "record 1: expected 2 fields, found 3"),
    "too few fields": (b"problem,answer\na,1\nb\n", "record 2: expected 2 fields, found 1"),
    "open quote": (b'problem,answer\n"a,1\n', "record 1: expected csv"),
    "unknown columns": (b"foo,bar\n1,2\n", "expected the columns of .* found 'foo', 'bar'"),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(tmp_path, name):
    raw, message = FILES[name]
    path = published.write(tmp_path, "data.bin", raw)

    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def change(rows, place, **values):
    rows = [dict(row) for row in rows]
    rows[place].update(values)
    return published.jsonl_bytes(rows)


AIME, SUPERS, LINES = published.aime_rows(), published.super_rows(), published.line_rows()
ROWS = {
    "answer missing": (change(AIME, 3, answer=None), r"record 4, field 'answer', byte \d+"),
    "answer a truth value": (change(AIME, 0, answer=True), "found True"),
    "answer above 999": (change(AIME, 0, answer="1000"), "expected 0 to 999, found '1000'"),
    "answer with a blank": (change(AIME, 0, answer="7 0"), "found '7 0'"),
    "answer with a minus": (change(AIME, 0, answer="\u22125"), "expected a whole number"),
    "answer in other digits": (change(AIME, 0, answer="\u0667"), "expected a whole number"),
    "answer a fraction": (change(AIME, 0, answer=7.5), "found 7.5"),
    "answer a list": (change(AIME, 0, answer=[7]), "expected a whole number"),
    "problem empty": (change(AIME, 5, problem="  "), "record 6, field 'problem'"),
    "problem a number of NULs": (change(AIME, 5, problem="a\0b"), "text without NUL"),
    "id twice": (change(AIME, 1, id="0"), "expected each id once, found 'aime2025-01'"),
    "id beyond": (change(AIME, 1, id="45"), "expected a problem of 1 to 30"),
    "uuid missing": (change(SUPERS, 0, uuid=None), "record 1, field 'uuid'"),
    "uuid twice": (change(SUPERS, 1, uuid="0" * 32), "expected each id once"),
    "letter beyond": (change(SUPERS, 0, answer_letter="K"), "expected a letter A to D, found 'K'"),
    "letter empty, text elsewhere": (
        change(SUPERS, 0, answer_letter="", answer="nowhere"),
        "expected the text of one choice, found 0",
    ),
    "no options": (change(SUPERS, 0, options=[]), "expected 2 to 26, found 0"),
    "one option": (change(SUPERS, 0, options=["a"]), "expected 2 to 26, found 1"),
    "27 options": (change(SUPERS, 0, options=list(map(str, range(27)))), "found 27"),
    "empty option": (change(SUPERS, 0, options=["a", " ", "c"]), "found none in B"),
    "null option": (change(SUPERS, 0, options=["a", None]), r"field 'options\[1\]'"),
    "options a word": (change(SUPERS, 0, options="abc"), "expected a list of texts"),
    "options nested": (change(SUPERS, 0, options=[["a"], "b"]), r"field 'options\[0\]'"),
    "question nested": (change(SUPERS, 0, question={"a": 1}), "field 'question'"),
    "lines not a line": (change(LINES, 0, answer="x"), "expected lines such as 3 or 4-6,9"),
    "lines too high": (change(LINES, 0, answer="300"), "expected lines such as"),
    "id with a blank": (change(LINES, 0, id="a b"), "printable text without spaces"),
    "id with an escape": (change(LINES, 0, id="a\x1b[2J"), "printable text without spaces"),
}


@pytest.mark.parametrize("name", ROWS)
def test_damaged_records(tmp_path, name):
    raw, message = ROWS[name]
    path = published.write(tmp_path, "data.jsonl", raw)

    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path)

    assert str(path) in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_long_values_are_cut_in_messages(tmp_path):
    path = published.write(tmp_path, "a.jsonl", change(AIME, 0, answer="x" * 10_000))

    with pytest.raises(DatasetError) as caught:
        load_dataset(path)

    assert len(str(caught.value)) < 300 + len(str(path))


def test_all_damage_is_gathered_when_asked(tmp_path):
    rows = [json.loads(line) for line in SUPER.splitlines()]
    rows[1]["options"] = []
    rows[4]["answer_letter"] = "Z"
    path = published.write(tmp_path, "s.jsonl", published.jsonl_bytes(rows))

    loaded = load_dataset(path, keep_going=True)

    assert len(loaded.questions) == 6
    assert [f.record for f in loaded.findings if f.level == "error"] == [2, 5]


def test_missing_directory_and_link_loop(tmp_path):
    with pytest.raises(DatasetError, match="No such file"):
        load_dataset(tmp_path / "nowhere.csv")
    with pytest.raises(DatasetError, match="found none"):
        load_dataset(tmp_path)
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    with pytest.raises(DatasetError, match=r"found (Too many|Symlink)"):
        load_dataset(loop)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path):
    path = published.write(tmp_path, "a.jsonl", GOOD)
    path.chmod(0)
    with pytest.raises(DatasetError, match="Permission denied"):
        load_dataset(path)


def test_folder_with_its_only_data_file(tmp_path):
    published.write(tmp_path, "readme.txt", b"not data")
    published.write(tmp_path, ".hidden.json", b"{}")
    published.write(tmp_path, "s.jsonl", SUPER)

    assert load_dataset(tmp_path).name == "supergpqa"

    published.write(tmp_path, "t.jsonl", SUPER)
    with pytest.raises(DatasetError, match="expected one data file, found 2"):
        load_dataset(tmp_path)


def test_unpacked_size_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders_files, "MAX_BYTES", 1 << 20)
    for name, pack in (("a.gz", gzip.compress), ("a.zst", published.zstd)):
        path = published.write(tmp_path, name, pack(b"[" + b" " * (2 << 20)))
        with pytest.raises(DatasetError, match="expected at most 1 MiB unpacked"):
            load_dataset(path)


def test_search_order(tmp_path, monkeypatch):
    monkeypatch.setenv("DS4_EVAL_DATA", f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}")
    assert data_roots()[:2] == (tmp_path / "one", tmp_path / "two")
    with pytest.raises(DatasetError, match="ds4-eval fetch aime25"):
        local_paths("aime25")
    (tmp_path / "two").mkdir()
    there = published.write(tmp_path / "two", "aime25.jsonl.gz", gzip.compress(GOOD))
    assert local_paths("aime25") == (there,)
    (tmp_path / "one" / "aime25").mkdir(parents=True)
    assert local_paths("aime25") == (tmp_path / "one" / "aime25",)
    assert local_paths("aime25", [there]) == (there,)
    assert "--dataset compsec=FILE" in how_to_get("compsec")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_load_or_are_refused(tmp_path_factory, data):
    """Cut, changed and random files: a DatasetError or a data set, never another exception."""
    base = data.draw(st.sampled_from([GOOD, SUPER, GPQA, gzip.compress(SUPER)]))
    raw = bytearray(base)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    path = published.write(tmp_path_factory.mktemp("fuzz"), "x", bytes(raw))
    try:
        loaded = load_dataset(path)
    except DatasetError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert loaded.questions
