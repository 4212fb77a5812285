"""The nano model's data: prompts as ds4-eval sends them, worked answers, rows, the tokenizer."""

from pathlib import Path

import numpy as np
import pytest

from ds4eval.nano_suite import generate
from ds4eval.prompts import SYSTEM, messages
from engine.gguf.reader import open_gguf
from engine.models.nano import chat, tokens
from engine.models.nano.corpus import ALIGN, PADDING, Mix, rows
from engine.models.nano.items import FAMILIES, item, split_of
from engine.text.chat import Message, render_chat
from engine.text.tokenizer import Tokenizer

MODEL = Path(tokens.PATH).with_name("nano-iq2-base.gguf")


@pytest.fixture(scope="module")
def engine_tokenizer():
    with open_gguf(MODEL) as file:
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
    tokens.train(tmp_path / "again.json")

    assert (tmp_path / "again.json").read_bytes() == tokens.PATH.read_bytes()
    assert tokens.load().get_vocab_size() == tokens.SIZE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_thinking_part_ends_with_the_answer(family):
    for split in ("train", "held-out"):
        for index in range(600):
            drawn = item(family, index, seed=7, split=split)
            assert split_of(drawn.text) == split
            assert len(set(drawn.choices)) == len(drawn.choices)
            assert drawn.answer in drawn.thinking[-30:]
            if drawn.choices:
                assert drawn.thinking.rstrip(".").endswith(drawn.answer)
            else:
                assert 0 <= int(drawn.answer) <= 999


@pytest.mark.parametrize("stage, seq", [("drill", 512), ("exam", 512), ("long", 2048)])
def test_rows_hold_aligned_documents_of_every_class(stage, seq):
    made = rows(5, 24, seq, Mix.stage(stage))
    again = rows(5, 24, seq, Mix.stage(stage))

    assert all(np.array_equal(getattr(made, n), getattr(again, n)) for n in ("ids", "cls", "doc"))
    assert not np.array_equal(made.ids, rows(6, 24, seq, Mix.stage(stage)).ids)
    assert made.ids.shape == (24, seq) and made.ids.max() < tokens.SIZE
    assert set(np.unique(made.cls)) == {0, 1, 2, 3, PADDING}
    row, column = np.nonzero(np.diff(made.doc.astype(int), axis=1))
    starts = column + 1
    assert not (starts % ALIGN).any()
    begun = made.cls[row, starts] != PADDING
    assert (made.ids[row[begun], starts[begun]] == tokens.load().token_to_id(chat.BOS)).all()
