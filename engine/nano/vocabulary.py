"""Learns the nano model's tokenizer: byte-level BPE over generated documents.

``python -m engine.nano.vocabulary`` writes the packaged file anew; equal sources give equal bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.models.bundled import TOKENIZER
from engine.models.vocab import SPECIAL
from engine.nano.corpus import Mix, document
from engine.nano.words import NAMES, ORDINALS, THINGS, WORDS, Draw
from engine.text.tokenizer import SPLITS

SIZE = 1024
_N_DOCUMENTS = 12_000


def train(path: Path = TOKENIZER) -> None:
    """Learn the vocabulary from generated documents; equal sources give equal bytes.

    Digits are cut apart while merges are learnt, so that they stay single tokens: worked
    arithmetic then copies and combines them one by one.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    def cut(patterns: tuple[str, ...]) -> Any:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
            + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut((r"\p{N}", *SPLITS[1:]))
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.pre_tokenizer = cut(tuple(SPLITS))
    tokenizer.decoder = decoders.ByteLevel()
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def _texts() -> list[str]:
    # Every word that may be copied, often enough to become one token behind a space.
    words = " ".join((*NAMES, *WORDS, *THINGS, *ORDINALS))
    texts = [f" {words}"] * 1500
    for i in range(_N_DOCUMENTS):
        stage = ("drill", "exam", "exam", "long")[i % 4]
        text = "".join(t for t, _ in document(Draw("tokens", i), Mix.stage(stage), 400))
        for special in SPECIAL:
            text = text.replace(special, "\n")
        texts.append(text)
    return texts


if __name__ == "__main__":
    train()
