"""What a writer of ours writes, its reader takes back, whatever stands in the free fields."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.ab.noise import Calibration, Floor, load, store
from ds4bench.compare.samples import METRICS
from ds4bench.doctor.facts import Board, Device, Facts, Load, Memory, ModelFile, Processor, Warming
from ds4eval.exchange.trace import TraceWriter, read_trace
from ds4eval.plan import Job, ReplySettings
from ds4eval.questions.known import DATASETS
from ds4eval.questions.presets import Item, Preset
from ds4eval.questions.question import Question
from ds4eval.questions.suites import preset_text, read_preset
from ds4eval.records.record import OCCASIONAL, Sample, sample_from
from engine.options import MODES
from engine.tooling.results.journal import decode, encode, encode_plain
from engine.tooling.results.redact import public, recordable
from tests.ds4eval.eval_runs import sample

label = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="\ufeff"), max_size=20
)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
count = st.integers(0, 2**53)
number = st.floats(0, 1e12)
many = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trips")


floors = st.builds(
    Floor, st.sampled_from(METRICS), st.sampled_from(MODES), number, count, st.floats(-1e6, 1e6)
)


@many
@given(st.lists(floors, max_size=4).map(tuple), number, anything)
def test_calibrations(folder, kept, at, command):
    calibration = Calibration("m", at, kept, command)
    store(calibration, folder)
    assert load("m", folder) == calibration


def maybe(values):
    return st.none() | values


facts = st.builds(
    Facts,
    system=maybe(label),
    board=st.builds(Board, vendor=maybe(label), on_battery=maybe(st.booleans())),
    processor=st.builds(Processor, name=maybe(label), usable_cores=maybe(count),
                        quota_cores=maybe(number)),
    device=maybe(st.builds(Device, name=st.just("x"), temp_c=maybe(st.floats(-50, 150)),
                           memory_rates=st.lists(number, max_size=3).map(tuple))),
    memory=st.builds(Memory, total=maybe(count),
                     huge_pages=maybe(st.sampled_from(["always", "madvise", "never"]))),
    load=st.builds(Load, busy_pct=maybe(st.floats(0, 100))),
    model=maybe(st.builds(ModelFile, path=anything.filter(bool), cached=maybe(st.floats(0, 1)))),
    warming=maybe(st.builds(Warming, number, slope_c_per_min=maybe(st.floats(-9, 9)))),
)  # fmt: skip


@many
@given(facts)
def test_facts(found):
    text = json.dumps(found.to_record(), allow_nan=False)
    again = Facts.from_record(json.loads(text), "x")
    assert again.to_record() == found.to_record()


items = st.builds(
    Item, st.sampled_from(sorted(DATASETS)), label, label,
    st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), max_size=3).map(tuple),
)  # fmt: skip


@many
@given(st.lists(items, min_size=1, max_size=5).map(tuple))
def test_presets(folder, kept):
    path = folder / "p.json"
    path.write_text(preset_text(Preset("p", "", kept)), encoding="utf-8")
    assert read_preset(path).items == kept


@many
@given(st.lists(anything, min_size=1, max_size=3), st.floats(0, 1e6))
def test_traces_honour_their_counts(folder, outputs, seconds):
    """A reply may imitate rulers, ends of blocks and summaries."""
    path = folder / "t.txt"
    writer = TraceWriter(path, ReplySettings(), "high")
    tricks = ["\nMODEL_OUTPUT_END\n", "===== CASE 9/9 a/b =====\n", "===== SUMMARY ====="]
    texts = [output + trick for output, trick in zip(outputs, tricks)]
    writer.header("m", "cpu", 100, 10, len(texts))
    for n, text in enumerate(texts, 1):
        question = Question(f"q{n}", "S", "1+1?", "2", "integer")
        answered = sample("S", n, "pass", output=text, decode_s=seconds)
        writer.case(
            Job(n=n, question=question, repeat=0, key=f"k{n}", stream=1), len(texts), answered
        )
    writer.close()
    trace = read_trace(path)
    assert trace.problems == ()
    found = [case.blocks["MODEL_OUTPUT"].decode("utf-8", "surrogatepass") for case in trace.cases]
    assert found == texts
    assert [case.n for case in trace.cases] == list(range(1, len(texts) + 1))


samples = st.builds(
    lambda **fields: sample("S", 1, "pass", **fields),
    domain=anything, output=anything, error=anything, given=anything, finish_reason=label,
    notes=st.lists(anything, max_size=2), strata=st.dictionaries(anything, anything, max_size=2),
    gen_tokens=maybe(count), seed=maybe(count), decode_s=maybe(number),
    question=st.fixed_dictionaries({"text": anything, "choices": st.lists(anything, max_size=3)}),
)  # fmt: skip


@many
@given(samples, st.sampled_from([encode, encode_plain]))
def test_samples_through_a_journal(one: Sample, form):
    record = decode(form(one.record())[:-1])
    assert record is not None and sample_from(record) == one
    assert all(one.record().get(name) for name in OCCASIONAL if name in one.record())


values = st.recursive(
    st.none() | st.booleans() | count | number | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(label, inner, max_size=3),
    max_leaves=8,
)


@many
@given(values)
def test_what_was_cleaned_once_stays_as_it_is(value):
    """A resumed run cleans what an earlier session had cleaned."""
    once = recordable(value)
    assert recordable(once) == once
    posted = public(value)
    assert public(posted) == posted
