"""The check of a trained nano model: its figures, its decoding, its report."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import binomtest

from engine import EngineOptions, open_engine
from engine.models.bundled import bundled_model
from engine.models.shapes import nano
from engine.models.vocab import BOS
from engine.nano.chat import render_chat
from engine.nano.items import item
from engine.spec.protocol import SpecStats
from engine.tooling.diagnose import nano_check
from engine.tooling.report.wilson import wilson_bounds
from engine.training.checkpoint import save_parts
from tests.engine.models import drawn_weights


@pytest.mark.parametrize(("right", "n"), [(0, 2), (1, 1), (41, 500), (455, 500), (500, 500)])
def test_intervals_are_wilson_s(right, n):
    expected = binomtest(right, n).proportion_ci(0.95, "wilson")

    found = wilson_bounds(np.float64(right / n), np.float64(n), nano_check._Z)
    assert tuple(found) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7+5=12 so 12.</think>Answer: 12", "12"),
        ("Answer: C\n", "C"),
        ("Answer: 3 and more", None),
        ("Answer: 3\nAnswer: 4", "4"),
        ("answer: 3", None),
        ("", None),
    ],
)
def test_the_last_line_answers(text, answer):
    assert nano_check.answer_of(text) == answer


@pytest.mark.parametrize(
    ("tokens", "first", "last", "distance"),
    [
        ([1, 2, 3, 9, 1, 2, 3], 4, 7, 4),
        ([5, 5, 5], 2, 3, 1),
        ([7, 8, 9, 7, 8], 3, 5, 3),
        ([7, 8, 9], 2, 3, None),
    ],
)
def test_distance_is_to_the_last_time_the_value_was_read(tokens, first, last, distance):
    assert nano_check._distance(tokens, first, last) == distance


@pytest.fixture(scope="module")
def engine():
    base, mtp = (bundled_model(kind, "q8").path for kind in ("base", "mtp"))
    with open_engine(EngineOptions(base, mtp_path=mtp, threads=1)) as opened:
        yield opened


@pytest.mark.parametrize("limit", [5, 300])
def test_drafts_leave_the_greedy_answer_as_it_is(engine, limit):
    question = item("aime", 0, split="held-out")
    (prompt, _), _ = render_chat(question, True, "")
    ids = list(engine.tokenizer.encode(prompt, "allow").ids)
    session = engine.session(len(ids) + limit + 8)
    session.sync(ids)
    expected = []
    token = int(np.argmax(session.logits))
    while token not in engine.tokenizer.eos_ids and len(expected) < limit:
        expected.append(token)
        token = int(np.argmax(session.eval(token)))
    stats = SpecStats()

    found = nano_check.reply(engine, ids, limit, stats)

    assert found[:limit] == expected
    assert stats.drafted > 0 and len(found) >= 5
    text = engine.tokenizer.decode(found)
    assert (nano_check.answer_of(text) == question.answer) == (limit == 300), text


def test_prose_that_goes_on_is_prose(engine):
    begun = nano_check._prose(3)

    assert [len(ids) for ids in begun] == [256] * 3
    texts = [engine.tokenizer.decode(ids) for ids in begun]
    assert all(text.startswith(BOS) and text.count(BOS) == 1 for text in texts)
    assert len(set(texts)) == 3 and all(text.count(".") > 10 for text in texts)


def test_the_report_counts_every_item(capsys):
    path = bundled_model("base", "q8").path

    words = f"{path} --items 6 --no-think 1 --rows 1 --threads 1"
    assert nano_check.main(words.split()) == 0

    out = capsys.readouterr().out
    lines = {line[:22].strip(): line[22:] for line in out.splitlines()}
    families = re.findall(r"^  (\w+) +(\d+\.\d) % .* n 6$", out, re.MULTILINE)
    assert [name for name, _ in families] == ["aime", "gpqa", "supergpqa"]
    assert sum(float(share) for _, share in families) > 200, "a trained model answers most"
    assert re.findall(r"^  ( 100| 300|1000|4000|more)  ", out, re.MULTILINE) == [
        " 100", " 300", "1000", "4000", "more",
    ]  # fmt: skip
    drafted = re.search(r"draft 1: \d+\.\d % of (\d+)", lines["prose"])
    # Two stories of 64 tokens, at most three of them a step.
    assert drafted is not None and int(drafted[1]) >= 40


def test_weights_of_a_run_are_checked_as_a_file(tmp_path, capsys):
    """Random ones answer nothing, but the whole way from parts to a report is walked."""
    save_parts(tmp_path, drawn_weights(nano()))

    words = f"{tmp_path} --items 1 --rows 0 --recipe f16 --threads 1"
    assert nano_check.main(words.split()) == 0

    out = capsys.readouterr().out
    assert len(re.findall(r" 0\.0 % .* n 1$", out, re.MULTILINE)) == 6
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith("weights-")] == []


@pytest.mark.parametrize("name", ["nano-q8-mtp.gguf", "m.gguf"])
def test_other_files_are_refused(tmp_path, capsys, name):
    assert nano_check.main([str(tmp_path / name)]) == 2
    assert f"path: expected *-base.gguf, found '{name}'" in capsys.readouterr().err
