"""The vocabulary of generated models: byte-level BPE learnt from generated text.

Special tokens carry DeepSeek's own spellings, so chat rendering and other engines find them;
pieces are cut by the same pre-tokenizer that reads the file later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from engine.models.text import generate_text
from engine.text.tokenizer import SPLITS

PRE_TOKENIZER = "joyai-llm"

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK, DSML = "<think>", "</think>", "｜DSML｜"

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # GGUF token types
# Special token -> its type, in order of ids.
SPECIAL = dict.fromkeys((BOS, EOS, PAD, USER, ASSISTANT), CONTROL)
SPECIAL |= dict.fromkeys((THINK, END_THINK, DSML), USER_DEFINED)
_FIRST, _LAST = tuple(SPECIAL)[:3], tuple(SPECIAL)[3:]
MIN_SIZE = len(_FIRST) + 256 + len(_LAST)

_MAX_LEARNT = 16384  # generated text has too few different words to learn more
_TEXT_SEED = 20261122

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜></think>' + m['content'] + eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<｜Assistant｜>' + ('<think>' if thinking is not defined or thinking else '</think>') }}"
    "{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Vocab:
    """Tokens as GGUF stores them: byte-mapped spelling, type, merges in rank order."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    bos: int
    eos: int
    pad: int


def placeholder(i: int) -> str:
    """Spelling of an entry that no text uses."""
    return f"<｜place▁holder▁no▁{i}｜>"


@lru_cache(maxsize=4)
def build_vocab(n_vocab: int) -> Vocab:
    """A vocabulary of exactly n_vocab tokens; the same one every time.

    Ids: three special tokens, 256 bytes, merges in rank order, unused placeholders where the text
    has no more merges to offer, five special tokens.

    Parameters
    ----------
    n_vocab : int
        At least `MIN_SIZE`.
    """
    assert n_vocab >= MIN_SIZE, n_vocab
    n_learn = min(n_vocab, _MAX_LEARNT) - len(_FIRST) - len(_LAST)
    alphabet, merges = _learn(n_learn)
    learnt = [*alphabet, *("".join(pair) for pair in merges)]
    n_unused = n_vocab - len(_FIRST) - len(learnt) - len(_LAST)
    unused = [placeholder(i) for i in range(n_unused)]
    tokens = (*_FIRST, *learnt, *unused, *_LAST)
    types = (
        *(SPECIAL[token] for token in _FIRST),
        *(NORMAL,) * len(learnt),
        *(UNUSED,) * n_unused,
        *(SPECIAL[token] for token in _LAST),
    )
    return Vocab(tokens, types, tuple(" ".join(pair) for pair in merges), 0, 1, 2)


def _learn(n_tokens: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The 256 byte characters and the merges of a BPE of n_tokens tokens or a few less."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    # Mid-size vocabularies need more different words; the text of one seed knows 400 of them.
    n_texts = max(2, n_tokens // 256)
    texts = [generate_text(_TEXT_SEED + i, 100_000) for i in range(n_texts)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    ids = model["vocab"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ids.__getitem__)
    # Older releases of the library join a pair by a space.
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    return alphabet, [(left, right) for left, right in pairs]
