"""Tokenizer: against the tokenizers library set up by hand, control tokens, hostile input."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from engine.errors import LayoutError, OptionError, TextError
from engine.text.tokenizer import SPLITS, Span, Tokenizer
from engine.text.vocab import BYTE_OF_CHAR, CHAR_OF_BYTE
from tests.counting import MOST_GROWTH, growth, lines_run
from tests.engine.text.vocabulary import CONTROL, PROSE, SAMPLES, WORLD, metadata

TOK = Tokenizer.from_metadata(metadata())


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return TOK


@pytest.fixture(scope="module")
def reference() -> Library:
    """The library configured as DeepSeek's tokenizer.json does, control tokens included."""
    values = metadata()
    library = Library(
        models.BPE(
            vocab={t: i for i, t in enumerate(values["tokenizer.ggml.tokens"])},
            merges=[tuple(m.split(" ")) for m in values["tokenizer.ggml.merges"]],
        )
    )
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(s), "isolated") for s in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.add_special_tokens(CONTROL)
    return library


def test_byte_alphabet_is_the_librarys():
    assert sorted(BYTE_OF_CHAR) == sorted(pre_tokenizers.ByteLevel.alphabet())
    library = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for byte in range(128):
        assert library.pre_tokenize_str(chr(byte))[0][0] == CHAR_OF_BYTE[byte]


@pytest.mark.parametrize("text", SAMPLES)
def test_plain_text_agrees_with_the_library(tok, reference, text):
    encoded = tok.encode(text)

    assert encoded.ids == reference.encode(text, add_special_tokens=False).ids
    assert encoded.n_special_in_text == 0
    assert tok.decode(encoded.ids) == text


def test_random_mixtures_agree_with_the_library(tok, reference):
    rng = random.Random(5)
    pool = "".join(SAMPLES) + "\r\n\t  \u0000\x7f𝔘ſ٤"
    for _ in range(300):
        text = "".join(rng.choice(pool) for _ in range(rng.randrange(60)))

        assert tok.encode(text).ids == reference.encode(text, add_special_tokens=False).ids


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_round_trip_and_no_control_ids(text):
    encoded = TOK.encode(text)

    assert TOK.decode(encoded.ids) == text
    assert not set(encoded.ids) & set(TOK.special_ids.values())


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("1234567", ["123", "456", "7"]),
        ("x٣٤٥٦", ["x", "٣٤٥", "٦"]),
        ("漢字かなカナ。", ["漢字かなカナ", "。"]),
        ("(foo bar)", ["(foo", " bar", ")"]),
        ("a  b\n\n c", ["a", " ", " b", "\n\n", " c"]),
        ("naïve e\u0301t", ["naïve", " e\u0301t"]),
        ("!?\r\n  \n x", ["!?\r\n", "  \n", " x"]),
        ("— x—y", ["—", " x", "—", "y"]),
        ("tab\tword", ["tab", "\tword"]),
        ("end   ", ["end", "   "]),
    ],
)
def test_pre_tokenizer_cuts(text, pieces):
    splits = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(s), "isolated") for s in SPLITS])

    assert [piece for piece, _ in splits.pre_tokenize_str(text)] == pieces


@pytest.mark.parametrize("special", CONTROL)
@pytest.mark.parametrize("where", ["{}", "{} after", "before {}", "mid{}dle", "{0}{0}"])
def test_control_tokens_in_text(tok, reference, special, where):
    text = where.format(special)
    control = tok.special_ids[special]

    as_text = tok.encode(text)
    allowed = tok.encode(text, special="allow")

    assert not set(as_text.ids) & set(tok.special_ids.values())
    assert as_text.n_special_in_text == text.count(special)
    assert tok.decode(as_text.ids) == text
    assert allowed.ids == reference.encode(text, add_special_tokens=False).ids
    assert allowed.ids.count(control) == text.count(special)
    assert allowed.n_special_in_text == 0
    with pytest.raises(TextError, match="expected no control tokens"):
        tok.encode(text, special="error")


def test_content_cannot_complete_a_control_token(tok):
    """Neither across two contents nor between content and trusted text."""
    control = set(tok.special_ids.values())
    for special in CONTROL:
        for cut in range(1, len(special)):
            left, right = special[:cut], special[cut:]
            for spans in (
                [Span(left), Span(right)],
                [Span(left, trusted=True), Span(right)],
                [Span(left), Span(right, trusted=True)],
                [Span(left, trusted=True), Span(right, trusted=True)],
            ):
                encoded = tok.encode_spans(spans)
                assert not control & set(encoded.ids)
                assert encoded.n_special_in_text == 1
                assert tok.decode(encoded.ids) == special


def test_spans_of_clean_content_equal_the_joined_text(tok, reference):
    spans = [
        Span("<｜begin▁of▁sentence｜>Sys", trusted=True),
        Span("tem: "),
        Span("12"),
        Span("34 \n"),
        Span("\n <｜User｜>", trusted=True),
        Span(PROSE),
        Span("<｜Assistant｜><think>", trusted=True),
    ]
    joined = "".join(span.text for span in spans)

    ids = tok.encode_spans(spans).ids

    assert ids == reference.encode(joined, add_special_tokens=False).ids


def test_longest_control_token_wins():
    tokens = metadata()["tokenizer.ggml.tokens"]
    more = ["<think>er", "<thi", "[a+]", "[a+](b)"]
    tok = Tokenizer.from_metadata(
        metadata(
            tokens=tokens + more,
            token_type=metadata()["tokenizer.ggml.token_type"] + [4] * len(more),
        )
    )
    ids = tok.encode("<think>er<think><thi[a+](b[a+](b)aa", special="allow").ids
    texts = [tok.decode([i]) for i in ids]

    assert [t for t in texts if t in tok.special_ids] == [
        "<think>er",
        "<think>",
        "<thi",
        "[a+]",
        "[a+](b)",
    ]


def test_without_token_types_control_tokens_are_found_by_text():
    tok = Tokenizer.from_metadata(metadata(token_type=None))

    assert set(tok.special_ids) == set(CONTROL)


@pytest.mark.parametrize("absent", [-1, 2**32 - 1])
def test_ids_of_minus_one_mean_that_there_is_no_such_token(absent):
    # llama.cpp's LLAMA_TOKEN_NULL, which converters write signed or unsigned.
    names = ("bos", "eos", "eot", "eom")
    found = Tokenizer.from_metadata(metadata(**{f"{name}_token_id": absent for name in names}))

    assert found.bos_id == 0 and found.eos_ids == frozenset({1})  # by their texts


@pytest.mark.parametrize("template", [["default", "tool_use"], 3, b"bytes"])
def test_a_template_that_is_no_text_is_ignored(template):
    # Files with several templates hold an array; the chats here are rendered without any.
    assert Tokenizer.from_metadata(metadata(chat_template=template)).chat_template is None


def test_ids_by_text_and_by_key(tok):
    assert (tok.bos_id, tok.eos_ids) == (0, frozenset({1}))
    assert tok.special_id("<think>") == tok.n_vocab - 3
    moved = Tokenizer.from_metadata(metadata(bos_token_id=5, eos_token_id=7, eot_token_id=9))
    assert (moved.bos_id, moved.eos_ids) == (0, frozenset({1, 7, 9}))
    with pytest.raises(LayoutError, match="control token '<nope>'"):
        tok.special_id("<nope>")


def test_numpy_arrays_and_lazy_strings_are_accepted():
    class Strings:
        def __init__(self, values):
            self.values = values

        def __iter__(self):
            return iter(self.values)

    values = metadata()
    values["tokenizer.ggml.token_type"] = np.array(values["tokenizer.ggml.token_type"], "<i4")
    values["tokenizer.ggml.tokens"] = Strings(values["tokenizer.ggml.tokens"])
    values["tokenizer.ggml.merges"] = Strings(values["tokenizer.ggml.merges"])

    assert Tokenizer.from_metadata(values).encode("in the").ids


def test_byte_tokens_stand_in_for_missing_bytes():
    values = metadata()
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    i = tokens.index(CHAR_OF_BYTE[0x7E])
    tokens[i], types[i] = "<0x7E>", 6
    tok = Tokenizer.from_metadata(values)

    assert tok.encode("~").ids == [i]
    assert tok.decode([i]) == "~"
    assert tok.encode("<0x7E>").ids != [i]


def test_incomplete_bytes_decode_to_replacement(tok):
    euro = [tok.special_ids["<think>"], *tok.encode("€").ids]

    assert tok.decode(euro[:-1]).endswith("\ufffd") or len(euro) == 2
    assert tok.decode([]) == ""


@pytest.mark.parametrize("token", [-1, 10**9])
def test_ids_out_of_range(tok, token):
    with pytest.raises(TextError, match="token id: expected 0 to"):
        tok.decode([token])


def test_lone_surrogates(tok):
    with pytest.raises(TextError, match="lone surrogate at character 2"):
        tok.encode("ab\ud800")


def test_unknown_special_mode(tok):
    with pytest.raises(OptionError, match="special: expected one of text, allow, error"):
        tok.encode("x", special="maybe")


def _swap(values, i, new):
    return [*values[:i], new, *values[i + 1 :]]


def _bad_vocabularies():
    good = metadata()
    tokens, types = good["tokenizer.ggml.tokens"], good["tokenizer.ggml.token_type"]
    merges = good["tokenizer.ggml.merges"]
    n = len(tokens)
    chain = ["<｜" + "x" * k + "｜>" for k in range(200)]
    return {
        "model missing": ({"model": None}, "model"),
        "model llama": ({"model": "llama"}, "model"),
        "model number": ({"model": 3}, "model"),
        "pre other": ({"pre": "llama-bpe"}, "pre"),
        "pre number": ({"pre": 1.5}, "pre"),
        "tokens missing": ({"tokens": None}, "tokens"),
        "tokens empty": ({"tokens": []}, "tokens"),
        "tokens string": ({"tokens": "abc"}, "tokens"),
        "tokens number": ({"tokens": 7}, "tokens"),
        "tokens bytes": ({"tokens": np.zeros(n, np.uint8)}, "tokens"),
        "tokens int inside": ({"tokens": _swap(tokens, 9, 5)}, "tokens"),
        "tokens duplicate": ({"tokens": _swap(tokens, 9, tokens[10])}, "tokens"),
        "tokens empty one": ({"tokens": _swap(tokens, 9, "")}, "tokens"),
        "tokens huge": ({"tokens": _swap(tokens, n - 20, "x" * 5000)}, "tokens"),
        "byte missing": ({"tokens": _swap(tokens, tokens.index("a"), "aaaaaaaaaa")}, "tokens"),
        "control long": ({"tokens": _swap(tokens, 0, "<" * 200)}, "tokens"),
        "types missing one": ({"token_type": types[1:]}, "token_type"),
        "types float": ({"token_type": np.array(types, np.float32)}, "token_type"),
        "types string": ({"token_type": ["1"] * n}, "token_type"),
        "types negative": ({"token_type": _swap(types, 9, -1)}, "token_type"),
        "types 7": ({"token_type": _swap(types, 9, 7)}, "token_type"),
        "types bool": ({"token_type": _swap(types, 9, True)}, "token_type"),
        "types scalar": ({"token_type": 3}, "token_type"),
        "byte token": ({"token_type": _swap(types, 9, 6)}, "tokens"),
        "byte <0x-1>": (
            {"tokens": _swap(tokens, 9, "<0x-1>"), "token_type": _swap(types, 9, 6)},
            "tokens",
        ),
        "byte <0xZZ>": (
            {"tokens": _swap(tokens, 9, "<0xZZ>"), "token_type": _swap(types, 9, 6)},
            "tokens",
        ),
        "control too many": (
            {
                "tokens": [*tokens, *(f"<｜{i}｜>" for i in range(9000))],
                "token_type": [*types, *[3] * 9000],
            },
            "token_type",
        ),
        "control chain": (
            {
                "tokens": [*tokens, *(c for c in chain if len(c) > 128)],
                "token_type": [*types, *[3] * sum(len(c) > 128 for c in chain)],
            },
            "tokens",
        ),
        "merges missing": ({"merges": None}, "merges"),
        "merges one part": ({"merges": [*merges, "ab"]}, "merges"),
        "merges three parts": ({"merges": [*merges, "a b c"]}, "merges"),
        "merges empty": ({"merges": [*merges, ""]}, "merges"),
        "merges no left": ({"merges": [*merges, " a"]}, "merges"),
        "merges no right": ({"merges": [*merges, "a "]}, "merges"),
        "merges int": ({"merges": [*merges, 3]}, "merges"),
        "merges unknown": ({"merges": [*merges, "zq qz"]}, "merges"),
        "merges to control": ({"merges": ["< think>"]}, "merges"),
        "bos out of range": ({"bos_token_id": n}, "bos_token_id"),
        "bos negative": ({"bos_token_id": -2}, "bos_token_id"),
        "bos float": ({"bos_token_id": 0.0}, "bos_token_id"),
        "bos bool": ({"bos_token_id": True}, "bos_token_id"),
        "eos out of range": ({"eos_token_id": 2**32 - 2}, "eos_token_id"),
        "eot string": ({"eot_token_id": "1"}, "eot_token_id"),
    }


@pytest.mark.parametrize("name", sorted(_bad_vocabularies()))
def test_malformed_vocabularies_name_the_key(name):
    changes, key = _bad_vocabularies()[name]

    with pytest.raises(LayoutError, match=rf"tokenizer\.(ggml\.)?{key}: expected .* found"):
        tok = Tokenizer.from_metadata(metadata(**changes))
        # All is seen at opening, but for what merges refer to.
        assert name in ("merges unknown", "merges to control")
        tok.encode("text")


def test_deep_chain_of_control_tokens_is_an_error_not_a_crash():
    chain = ["<" + "x" * k for k in range(1, 120)]
    values = metadata()
    values["tokenizer.ggml.tokens"] += chain
    values["tokenizer.ggml.token_type"] += [3] * len(chain)
    try:
        tok = Tokenizer.from_metadata(values)
    except LayoutError as error:
        assert "prefixes" in str(error)
    else:
        assert tok.encode("<xxx", special="allow").ids == [tok.special_ids["<xxx"]]


_ADVERSARIAL = {
    "one letter": "a",
    "spaces": " ",
    "newlines": "\n",
    "digits": "1",
    "openers": "<",
    "half a control token": "<｜begin▁of▁",
    "carets": "^",
    "combining": "e\u0301",
    "spaces before letters": "  x",
    "cjk": "漢",
}


@pytest.mark.parametrize("name", sorted(_ADVERSARIAL))
def test_cost_is_linear(tok, name):
    unit = _ADVERSARIAL[name]

    def encode(n: int) -> None:
        text = unit * (n // len(unit))
        assert tok.decode(tok.encode(text, special="text").ids) == text

    assert growth(encode, 25_000) <= MOST_GROWTH


def test_opening_a_large_vocabulary_compiles_nothing():
    """152k tokens: a few lines of Python for each, and no model for encoding yet."""
    tokens = [CHAR_OF_BYTE[b] for b in range(256)]
    tokens += [f"tok{i}" for i in range(152_000)]
    tokens += [f"<｜place▁holder▁no▁{i}｜>" for i in range(800)] + CONTROL
    values = metadata(
        tokens=tokens,
        token_type=[1] * 152_256 + [3] * 808,
        merges=["t o"] * 151_000,
    )
    opened = []

    lines = lines_run(lambda: opened.append(Tokenizer.from_metadata(values)))

    assert lines <= 15 * len(tokens)  # 9.7 on Python 3.11
    assert opened[0]._bpe is None


def test_world_text_counts_no_control(tok):
    assert tok.encode(WORLD).n_special_in_text == 0
