"""What a journal of samples may hold: every field is held to its type, range and vocabulary."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4eval.plan import Selected
from ds4eval.records.record import FIELDS, Sample, sample_from
from ds4eval.records.replay import Replay
from engine.errors import StoreError

GOOD = Sample(
    key="ab12", n=1, source="nano", id="aime/1", domain="count", kind="integer", chance=0.0,
    repeat=0, stop="eos", state="PASSED", expected="42", question_sha256="0a", given="42",
    verdict="pass", strata={"depth": "2"}, permutation=[1, 0], output="<think>\x1b[2J</think> 42",
    question={"title": "a", "text": "b\u202e", "choices": ["c"], "opened": True},
)  # fmt: skip
SELECTED: Selected = {
    "key": "ab12", "source": "nano", "id": "1", "repeat": 0, "kind": "integer",
    "expected": "42", "chance": 0.0,
}  # fmt: skip


def test_a_sample_comes_back_as_it_was_written():
    record = json.loads(json.dumps(GOOD.record()))
    assert sample_from(record) == GOOD
    assert sample_from({**record, "invented_later": [1]}) == GOOD


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("state", "<b>PASSED</b>", "expected one of .*PASSED"),
        ("stop", "never", "expected one of .*eos"),
        ("verdict", "PASS", "expected one of .*pass"),
        ("lenient_verdict", 1, "expected `str`, found `int`"),
        ("close", "=1+1", "expected one of .*natural"),
        ("chance", "0.25", "expected `float`, found `str`"),
        ("chance", float("inf"), "expected a finite number"),
        ("repeat", -1, "expected 0 or more"),
        ("gen_tokens", 1.5, r"expected `int \| null`, found `float`"),
        ("gen_tokens", 1 << 70, r"expected|range"),
        ("permutation", [0, "1"], "expected `int`, found `str`"),
        ("strata", [], "expected `object`, found `array`"),
        ("source", "a\nb", "expected visible characters"),
        ("kind", "[x](http://y)", "found "),
        ("question_sha256", "XYZ", "found 'XYZ'"),
        ("question", {"choices": "abc"}, "expected `array`, found `str`"),
        ("output", None, "expected `str`, found `null`"),
        ("started", "2026\x1b]0;x\x07", "expected visible characters"),
        ("rule", "x" * 501, "expected at most 500 characters, found 501"),
    ],
)
def test_a_value_that_cannot_be_names_record_and_field(field, value, words):
    record = {**GOOD.record(), field: value}
    with pytest.raises(StoreError, match=rf"^samples: record 2: {field}[^:]*: .*{words}"):
        sample_from(record, "samples: record 2")


def test_a_field_that_every_version_has_must_be_there():
    record = GOOD.record()
    del record["key"]
    with pytest.raises(StoreError, match=r"^s: key: expected a value, found none$"):
        sample_from(record, "s")


@pytest.mark.parametrize("rows", [3, [3], [{}], [{**SELECTED, "repeat": "0"}], None, "abc"])
def test_a_selection_that_cannot_be_is_refused(rows):
    with pytest.raises(StoreError, match=r"^r: question"):
        Replay().take({"type": "selection", "questions": rows}, "r")


def test_a_grade_is_held_to_the_same_rules():
    replay = Replay()
    replay.add(GOOD)
    replay.take({"type": "grade", "key": "ab12", "verdict": "fail", "state": "FAILED"}, "r")
    assert replay.samples["ab12"] == dataclasses.replace(GOOD, verdict="fail", state="FAILED")
    with pytest.raises(StoreError, match=r"^r: state: "):
        replay.take({"type": "grade", "key": "ab12", "state": "@everyone"}, "r")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIELDS), json_values)
def test_nothing_but_the_one_error_leaves_the_reader(field, value):
    """Whatever a field holds, it is a sample of the declared types or a StoreError."""
    try:
        made = sample_from({**GOOD.record(), field: value})
    except StoreError:
        return
    assert type(getattr(made, field)) in (type(value), float)
