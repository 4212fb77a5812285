"""A tokenizer's vocabulary as a GGUF file states it, checked; knows nothing of encoding.

Keys (GGUF specification, tokenizer section): `tokenizer.ggml.model` 'gpt2', `.pre`, `.tokens`,
`.token_type` (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte), `.merges`,
`.bos_token_id`, `.eos_token_id`, `.eot_token_id`, `.eom_token_id`, `tokenizer.chat_template`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import LayoutError
from engine.text import special

_KEY = "tokenizer.ggml."
# llama.cpp gives both names the same regular expressions; the converter writes the first.
_PRE = ("joyai-llm", "deepseek-v3")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_MAX_TOKEN_CHARS = 4096
# Bounds on what a file can make us compile; DeepSeek's own figures are 830 tokens, 30 characters.
_MAX_SPECIAL = 8192
_MAX_SPECIAL_CHARS = 128
# What llama.cpp writes for a token that a vocabulary does not have: -1, signed or unsigned.
_NO_TOKEN = (-1, 2**32 - 1)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>\Z")


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's table of 256 printable characters, one per byte (published with its encoder)."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in kept}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(0x100 + len(table) - len(kept))
    return table


CHAR_OF_BYTE = _byte_alphabet()
BYTE_OF_CHAR = {char: byte for byte, char in CHAR_OF_BYTE.items()}
# C0, C1 and F5..FF occur in no UTF-8 text, so a vocabulary may lack them.
UTF8_BYTES = [*range(0xC0), *range(0xC2, 0xF5)]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Checked vocabulary.

    Parameters
    ----------
    tokens : list of str
        Text of every token; ordinary ones are written in the byte alphabet.
    ids : dict of str to int
    merges : list of str
        'left right', best rank first.
    special_ids : dict of str to int
        Control tokens: never produced from ordinary text.
    literal : frozenset of int
        Tokens whose text is meant as it stands, not in the byte alphabet.
    byte_tokens : dict of int to int
        Id to byte value, for tokens written as <0x41>.
    bos_id : int or None
    eos_ids : frozenset of int
    chat_template : str or None
        None also where the file holds several templates in an array, of which none is meant.
    """

    tokens: list[str]
    ids: dict[str, int]
    merges: list[str]
    special_ids: dict[str, int]
    literal: frozenset[int]
    byte_tokens: dict[int, int]
    bos_id: int | None
    eos_ids: frozenset[int]
    chat_template: str | None


def read_vocabulary(metadata: Mapping[str, Any] | Any) -> Vocabulary:
    """Read and check a vocabulary.

    Parameters
    ----------
    metadata : mapping of str to value
        Anything with `in` and `[]`; arrays of strings are iterables of str, numeric arrays
        may be NumPy arrays.

    Raises
    ------
    LayoutError
        Naming the key that is missing, of a wrong type, or contradicts another one. Whether
        merges name known tokens is checked where they are compiled, on first use.
    """
    model = _get(metadata, "model", str)
    if model != "gpt2":
        raise LayoutError(f"{_KEY}model: expected 'gpt2' (byte-level BPE), found {model!r}")
    # Files without the key exist; the architecture has one pre-tokenizer.
    pre = _get(metadata, "pre", str, default=_PRE[0])
    if pre not in _PRE:
        raise LayoutError(f"{_KEY}pre: expected one of {', '.join(_PRE)}, found {pre!r}")

    tokens = _strings(metadata, "tokens")
    if not tokens:
        raise LayoutError(f"{_KEY}tokens: expected at least one token, found none")
    longest = max(tokens, key=len)
    if len(longest) > _MAX_TOKEN_CHARS:
        raise LayoutError(
            f"{_KEY}tokens: expected tokens of at most {_MAX_TOKEN_CHARS} characters, "
            f"found one of {len(longest)}"
        )
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        i = next(i for i, token in enumerate(tokens) if ids[token] != i)
        raise LayoutError(
            f"{_KEY}tokens: expected distinct tokens, found {tokens[i]!r} at {i} and "
            f"{ids[tokens[i]]}"
        )
    if "" in ids:
        raise LayoutError(f"{_KEY}tokens: expected text, found an empty token at {ids['']}")

    types = _token_types(metadata, len(tokens))
    special_ids, literal, byte_tokens = _classify(tokens, types)
    return Vocabulary(
        tokens=tokens,
        ids=ids,
        merges=_merges(metadata),
        special_ids=special_ids,
        literal=literal,
        byte_tokens=byte_tokens,
        bos_id=_bos(metadata, ids, len(tokens)),
        eos_ids=_eos(metadata, ids, len(tokens)),
        chat_template=_chat_template(metadata),
    )


def _classify(
    tokens: list[str], types: list[int] | None
) -> tuple[dict[str, int], frozenset[int], dict[int, int]]:
    special_ids: dict[str, int] = {}
    literal: set[int] = set()
    byte_tokens: dict[int, int] = {}
    if types is None:
        types = [_CONTROL if special.looks_special(token) else _NORMAL for token in tokens]
    else:
        types = [_CONTROL if token in special.KNOWN else kind for token, kind in zip(tokens, types)]
    for i, kind in enumerate(types):
        if kind == _NORMAL:
            continue
        token = tokens[i]
        if kind == _BYTE:
            match = _BYTE_TOKEN.match(token)
            if match is None:
                raise LayoutError(
                    f"{_KEY}tokens: expected byte token {i} written as <0x00> to <0xFF>, "
                    f"found {token!r}"
                )
            byte_tokens[i] = int(match[1], 16)
        elif kind in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            special_ids[token] = i
            literal.add(i)
        elif kind == _UNUSED:
            literal.add(i)
    if len(special_ids) > _MAX_SPECIAL:
        raise LayoutError(
            f"{_KEY}token_type: expected at most {_MAX_SPECIAL} control tokens, "
            f"found {len(special_ids)}"
        )
    for token in special_ids:
        if len(token) > _MAX_SPECIAL_CHARS:
            raise LayoutError(
                f"{_KEY}tokens: expected control tokens of at most {_MAX_SPECIAL_CHARS} "
                f"characters, found one of {len(token)} at index {special_ids[token]}"
            )
    return special_ids, frozenset(literal), byte_tokens


_ABSENT = object()


def _get(metadata: Any, name: str, kind: type, default: Any = _ABSENT) -> Any:
    key = _KEY + name
    if key not in metadata:
        if default is _ABSENT:
            raise LayoutError(f"{key}: expected {kind.__name__}, found no such key")
        return default
    value = metadata[key]
    if not isinstance(value, kind):
        raise LayoutError(f"{key}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def _strings(metadata: Any, name: str) -> list[str]:
    key = _KEY + name
    if key not in metadata:
        raise LayoutError(f"{key}: expected an array of strings, found no such key")
    value = metadata[key]
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise LayoutError(f"{key}: expected an array of strings, found {type(value).__name__}")
    strings = list(value)
    if set(map(type, strings)) - {str}:
        i, wrong = next((i, s) for i, s in enumerate(strings) if type(s) is not str)
        raise LayoutError(f"{key}: expected strings, found {type(wrong).__name__} at index {i}")
    return strings


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _token_types(metadata: Any, n_vocab: int) -> list[int] | None:
    key = f"{_KEY}token_type"
    if key not in metadata:
        return None
    value = metadata[key]
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise LayoutError(f"{key}: expected an array of integers, found {type(value).__name__}")
    types = value.tolist() if hasattr(value, "tolist") else list(value)
    if len(types) != n_vocab:
        raise LayoutError(f"{key}: expected {n_vocab} entries, one per token, found {len(types)}")
    if set(map(type, types)) != {int} or min(types) < 0 or max(types) > _BYTE:
        i, wrong = next(
            (i, k) for i, k in enumerate(types) if type(k) is not int or not 0 <= k <= _BYTE
        )
        raise LayoutError(f"{key}: expected 0 to {_BYTE}, found {wrong!r} at index {i}")
    return types


def _merges(metadata: Any) -> list[str]:
    merges = _strings(metadata, "merges")
    for i, merge in enumerate(merges):
        left, gap, right = merge.partition(" ")
        if not (left and gap and right) or " " in right:
            raise LayoutError(
                f"{_KEY}merges: expected two parts with one space between, "
                f"found {merge!r} at index {i}"
            )
    return merges


def _token_id(metadata: Any, name: str, n_vocab: int) -> int | None:
    key = _KEY + name
    if key not in metadata:
        return None
    value = metadata[key]
    if _is_int(value) and value in _NO_TOKEN:
        return None
    if not _is_int(value) or not 0 <= value < n_vocab:
        raise LayoutError(f"{key}: expected a token id from 0 to {n_vocab - 1}, found {value!r}")
    return int(value)


def _bos(metadata: Any, ids: dict[str, int], n_vocab: int) -> int | None:
    stated = _token_id(metadata, "bos_token_id", n_vocab)
    # The text is what the model was trained on; a stated id that differs is a converter's slip.
    return ids.get(special.BOS, stated)


def _eos(metadata: Any, ids: dict[str, int], n_vocab: int) -> frozenset[int]:
    stated = [_token_id(metadata, f"{kind}_token_id", n_vocab) for kind in ("eos", "eot", "eom")]
    return frozenset(i for i in (ids.get(special.EOS), *stated) if i is not None)


def _chat_template(metadata: Any) -> str | None:
    """The one template of the file; what is not a text is ignored, as chats do not need it."""
    key = "tokenizer.chat_template"
    if key not in metadata or not isinstance(metadata[key], str):
        return None
    return metadata[key]
