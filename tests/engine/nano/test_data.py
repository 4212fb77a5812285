"""The nano model's data: prompts as ds4-eval sends them, worked answers, rows, the tokenizer."""

import math
import re

import numpy as np
import pytest

from ds4eval.questions.nano import generate
from ds4eval.questions.prompts import SYSTEM, messages
from engine.gguf.reader import open_gguf
from engine.models.bundled import TOKENIZER, bundled_model
from engine.nano import chat, corpus, tokens, vocabulary
from engine.nano.corpus import ALIGN, PADDING, Mix, rows
from engine.nano.items import FAMILIES, SPLITS, item, split_of
from engine.text.chat import Message, render_chat
from engine.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def engine_tokenizer():
    with open_gguf(bundled_model().path) as file:
        return Tokenizer.from_metadata(file.metadata)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("think", [True, False])
def test_training_prompts_are_what_ds4_eval_sends(engine_tokenizer, family, think):
    library = tokens.load()
    assert SYSTEM == chat.SYSTEM
    for question in generate(family, 30):
        drawn = item(family, int(question.id.rsplit("-", 1)[1]), split="held-out")
        turns = [Message(role, text) for role, text in messages(question)]
        spans = render_chat(turns, "high" if think else "none", 4096)
        (prompt, kind), (reply, _) = chat.render_chat(drawn, think)
        assert kind == chat.PROMPT
        ids = library.encode(prompt, add_special_tokens=False).ids
        assert ids == engine_tokenizer.encode_spans(spans).ids
        assert reply.endswith(f"Answer: {question.answer}{chat.EOS}")


@pytest.mark.parametrize("text", ["plain", " 12345 x", "é 火 <letter>\r\n\n", "a\tb  c...\n D. 7"])
def test_the_file_s_tokenizer_gives_the_library_s_ids(engine_tokenizer, text):
    ids = engine_tokenizer.encode(text).ids

    assert ids == tokens.load().encode(text, add_special_tokens=False).ids
    assert engine_tokenizer.decode(ids) == text


def test_learning_the_tokenizer_again_gives_the_same_file(tmp_path):
    vocabulary.train(tmp_path / "again.json")

    assert (tmp_path / "again.json").read_bytes() == TOKENIZER.read_bytes()
    assert tokens.load().get_vocab_size() == vocabulary.SIZE


def worked_end(drawn):
    """How the last worked step of an item says the answer, before any closing words."""
    if drawn.choices:
        return rf"(?:yes, (?:so|thus|hence|then)|The best is) {drawn.answer}\."
    if drawn.kind == "remainder":
        return rf"rest {drawn.answer}\."
    if drawn.kind == "multiples" and drawn.level < 2:
        return rf"so {drawn.answer} rest \d+\."
    return rf"(?:so|With 0) {drawn.answer}\."


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_thinking_part_ends_with_the_answer(family, split):
    for index in range(600):
        drawn = item(family, index, seed=7, split=split)
        a = drawn.answer
        closing = rf"(?: The answer is {a}\.| (?:So|Thus|Hence|Then) {a}\.)?$"
        assert re.search(worked_end(drawn) + closing, drawn.thinking), drawn
        assert split_of(drawn.text) == split
        assert len(set(drawn.choices)) == len(drawn.choices)
        if not drawn.choices:
            assert 0 <= int(a) <= 999


def value(side):
    """A sum of products of integers, e.g. 12-3*4+1."""
    terms = re.findall(r"([+-]?)([\d*]+)", side)
    return sum((-1 if sign == "-" else 1) * math.prod(map(int, t.split("*"))) for sign, t in terms)


@pytest.mark.parametrize("family", FAMILIES)
def test_worked_equations_and_comparisons_hold(family):
    equations = comparisons = 0
    for index in range(600):
        thinking = item(family, index, seed=8).thinking
        # A product and its carry are said in one breath: 8*4=32+3=35.
        thinking = re.sub(r"=(\d+)(\+\d+=)", r"=\1 \1\2", thinking)
        for chain in re.findall(r"[\d+*-]+(?:=[\d+*-]+)+", thinking):
            assert len({value(side) for side in chain.split("=")}) == 1, (chain, thinking)
            equations += 1
        for a, sign, b in re.findall(r"(\d+) ?([<>]) ?(\d+)", thinking):
            assert (int(a) < int(b)) == (sign == "<") and a != b, thinking
            comparisons += 1
    assert equations > 300, equations  # in all three families digits are worked
    assert (comparisons > 100) == (family == "gpqa"), comparisons


def test_rows_train_on_no_held_out_item(monkeypatch):
    seen = []

    def render(drawn, think, system=chat.SYSTEM):
        seen.append(drawn)
        return chat.render_chat(drawn, think, system)

    monkeypatch.setattr(corpus, "render_chat", render)
    rows(5, 24, 512, Mix.stage("exam"))

    assert len(seen) > 50 and {drawn.family for drawn in seen} == set(FAMILIES)
    assert {split_of(drawn.text) for drawn in seen} == {"train"}


@pytest.mark.parametrize("stage, seq", [("drill", 512), ("exam", 512), ("long", 2048)])
def test_rows_hold_aligned_documents_of_every_class(stage, seq):
    made = rows(5, 24, seq, Mix.stage(stage))
    again = rows(5, 24, seq, Mix.stage(stage))

    assert all(np.array_equal(getattr(made, n), getattr(again, n)) for n in ("ids", "cls", "doc"))
    assert not np.array_equal(made.ids, rows(6, 24, seq, Mix.stage(stage)).ids)
    assert made.ids.shape == (24, seq) and made.ids.max() < vocabulary.SIZE
    assert set(np.unique(made.cls)) == {
        chat.PROMPT,
        chat.COMPLETION,
        chat.PROSE,
        chat.RECALL,
        PADDING,
    }
    row, column = np.nonzero(np.diff(made.doc.astype(int), axis=1))
    starts = column + 1
    assert not (starts % ALIGN).any()
    begun = made.cls[row, starts] != PADDING
    assert (made.ids[row[begun], starts[begun]] == tokens.load().token_to_id(chat.BOS)).all()
