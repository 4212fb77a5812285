"""Text to token ids and back, for one vocabulary; ordinary text never yields control tokens.

Byte-level BPE on the `tokenizers` library with the `joyai-llm` pre-tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import LayoutError, OptionError, TextError
from engine.text import special as special_tokens
from engine.text.vocab import BYTE_OF_CHAR, CHAR_OF_BYTE, UTF8_BYTES, Vocabulary, read_vocabulary

SPECIAL_MODES = ("text", "allow", "error")

# Three isolated splits, in this order: the published pre-tokenizer of DeepSeek V3 and V4
# (tokenizer.json of the models; llama.cpp carries the same under 'joyai-llm').
SPLITS = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+",
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and how many control tokens' texts ordinary text contained."""

    ids: list[int]
    n_special_in_text: int


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text; only in `trusted` runs (ours or a template's) control tokens count."""

    text: str
    trusted: bool = False


class Tokenizer:
    """One vocabulary. Build it with `from_metadata`.

    Attributes
    ----------
    n_vocab : int
    bos_id : int or None
    eos_ids : frozenset of int
        Any of these ends a reply.
    special_ids : dict of str to int
        Control tokens by text.
    chat_template : str or None
        Jinja source that the file carries as one text; see `engine.text.template`.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocab = vocabulary
        try:
            self._finder = special_tokens.finder(vocabulary.special_ids)
        except RecursionError:
            raise LayoutError(
                "tokenizer.ggml.tokens: expected control tokens that differ early, found a chain "
                "of prefixes too deep to search for"
            ) from None
        self._bytes: list[bytes | None] = [None] * len(vocabulary.tokens)
        self._bpe: Any = None

    @classmethod
    def from_metadata(cls, metadata: Any) -> Tokenizer:
        """Tokenizer of a GGUF file's metadata.

        Raises
        ------
        LayoutError
            If the vocabulary is malformed; the message names the key.
        """
        tokenizer = cls(read_vocabulary(metadata))
        tokenizer._byte_ids()
        return tokenizer

    @property
    def n_vocab(self) -> int:
        return len(self._vocab.tokens)

    @property
    def bos_id(self) -> int | None:
        return self._vocab.bos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._vocab.eos_ids

    @property
    def special_ids(self) -> dict[str, int]:
        return self._vocab.special_ids

    @property
    def chat_template(self) -> str | None:
        return self._vocab.chat_template

    def special_id(self, text: str) -> int:
        """Id of the control token with this text.

        Raises
        ------
        LayoutError
            If the vocabulary lacks it.
        """
        token = self._vocab.special_ids.get(text)
        if token is None:
            raise LayoutError(f"tokenizer.ggml.tokens: expected control token {text!r}, found none")
        return token

    def encode(self, text: str, special: str = "text") -> Encoded:
        """Token ids of one string, without BOS.

        Parameters
        ----------
        text : str
        special : {'text', 'allow', 'error'}
            What the texts of control tokens in it become: ordinary text (and are counted),
            control tokens, or an error.

        Raises
        ------
        TextError
            If the string holds lone surrogates, or control tokens under 'error'.
        OptionError
            If `special` is none of the three.
        """
        return self.encode_spans([Span(text, trusted=special == "allow")], special)

    def encode_spans(self, spans: Iterable[Span], special: str = "text") -> Encoded:
        """Token ids of spans that are read as one text.

        Control tokens count only where a trusted span holds them whole, so content can
        neither contain one nor complete one. Between them the text is encoded in one piece:
        for content without control tokens the ids are those of encoding the joined string.

        Raises
        ------
        TextError, OptionError
            As `encode`.
        """
        if special not in SPECIAL_MODES:
            raise OptionError(
                f"special: expected one of {', '.join(SPECIAL_MODES)}, found {special!r}"
            )
        ids: list[int] = []
        n_special = 0
        pending: list[str] = []

        def flush() -> None:
            nonlocal n_special
            text = "".join(pending)
            pending.clear()
            if text:
                n_special += self._count_special(text, special)
                ids.extend(self._encode_ordinary(text))

        for span in spans:
            if not span.trusted:
                pending.append(span.text)
                continue
            end = 0
            for match in self._finder.finditer(span.text) if self._finder else ():
                pending.append(span.text[end : match.start()])
                flush()
                ids.append(self._vocab.special_ids[match[0]])
                end = match.end()
            pending.append(span.text[end:])
        flush()
        return Encoded(ids, n_special)

    def _count_special(self, text: str, special: str) -> int:
        found = self._finder.findall(text) if self._finder else []
        if found and special == "error":
            offset = text.index(found[0])
            raise TextError(
                f"text: expected no control tokens, found {found[0]!r} at character {offset}"
            )
        return len(found)

    def _encode_ordinary(self, text: str) -> list[int]:
        try:
            # The library refuses lone surrogates with a TypeError that names no position.
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TextError(
                f"text: expected Unicode text, found a lone surrogate at character {error.start}"
            ) from None
        if self._bpe is None:
            self._bpe = self._compile()
        return self._bpe.encode(text, add_special_tokens=False).ids

    def _byte_ids(self) -> dict[str, int]:
        """Id of the token that stands for each byte, by the byte's character."""
        fallback = {byte: i for i, byte in self._vocab.byte_tokens.items()}
        table: dict[str, int] = {}
        for byte, char in CHAR_OF_BYTE.items():
            i = self._vocab.ids.get(char)
            if i is None or i in self._vocab.literal:
                i = fallback.get(byte)
            if i is not None:
                table[char] = i
        for byte in UTF8_BYTES:
            if CHAR_OF_BYTE[byte] not in table:
                raise LayoutError(
                    f"tokenizer.ggml.tokens: expected a token for byte 0x{byte:02X}, found none"
                )
        return table

    def _compile(self) -> Any:
        """The library's model: seconds-to-milliseconds work, so done on first use.

        Raises
        ------
        LayoutError
            If a merge names a token that is missing, or that ordinary text must not yield.
        """
        from tokenizers import Regex, models, pre_tokenizers
        from tokenizers import Tokenizer as Library

        vocab = self._vocab
        ordinary = {
            token: i
            for token, i in vocab.ids.items()
            if i not in vocab.literal and i not in vocab.byte_tokens
        }
        ordinary.update(self._byte_ids())
        pairs = []
        for i, merge in enumerate(vocab.merges):
            left, _, right = merge.partition(" ")
            if left not in ordinary or right not in ordinary or left + right not in ordinary:
                missing = next(t for t in (left, right, left + right) if t not in ordinary)
                raise LayoutError(
                    f"tokenizer.ggml.merges: expected ordinary tokens, found {merge!r} at index "
                    f"{i} with {missing!r}, which is none"
                )
            pairs.append((left, right))
        library = Library(models.BPE(vocab=ordinary, merges=pairs))
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS]
            + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        return library

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token; they need not be whole characters.

        Raises
        ------
        TextError
            If there is no such token.
        """
        if not 0 <= token < len(self._bytes):
            raise TextError(f"token id: expected 0 to {self.n_vocab - 1}, found {token}")
        known = self._bytes[token]
        if known is None:
            known = self._bytes[token] = self._spell(token)
        return known

    def _spell(self, token: int) -> bytes:
        if token in self._vocab.byte_tokens:
            return bytes([self._vocab.byte_tokens[token]])
        text = self._vocab.tokens[token]
        if token not in self._vocab.literal:
            try:
                return bytes([BYTE_OF_CHAR[char] for char in text])
            except KeyError:
                # Not written in the byte alphabet, so it can only be meant as it stands.
                pass
        return text.encode("utf-8")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens included; bytes that are no UTF-8 become U+FFFD.

        Raises
        ------
        TextError
            If an id is out of range.
        """
        return b"".join([self.token_bytes(int(i)) for i in ids]).decode("utf-8", errors="replace")
