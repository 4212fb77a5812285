"""A small vocabulary in GGUF's form, learnt by the `tokenizers` trainer from the text below."""

from __future__ import annotations

import functools
import json
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CONTROL = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
]

CODE = '''def mean(values):\n    """Average."""\n    total = 0.0\n    for v in values:\n\ttotal += v
    return total / len(values) if values else 0\r\n\r\nprint(mean([1, 22, 333, 4444, 55555]))\n'''
PROSE = (
    "The heron stood in the shallow water and waited. It's 7 o'clock; we'll leave at 19:45, "
    "won't we?  Two spaces, a tab\there, trailing blanks   \n\n\n  and an indented line.\n"
)
WORLD = (
    "今天天气很好，我们去公园吧。ひらがなとカタカナとABC混在。Čeština: příliš žluťoučký kůň. "
    "Ελληνικά λόγια — ещё немного текста… नमस्ते दुनिया ٣٤٥ 한국어 문장 "
    "e\u0301 a\u0308 👩‍👩‍👧 🇮🇹 ½ Ⅷ № €100 “quotes” «guillemets» x²+y³\u00a0z\u2028line\u3000wide\n"
)
SAMPLES = [CODE, PROSE, WORLD, CODE + WORLD + PROSE]


@functools.lru_cache
def _learnt() -> tuple[list[str], list[str]]:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(SAMPLES * 3, trainer)
    model = json.loads(library.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return tokens, merges


def metadata(**changes: Any) -> dict[str, Any]:
    """GGUF tokenizer keys; `changes` by short name, None removes a key."""
    tokens, merges = _learnt()
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "joyai-llm",
        "tokenizer.ggml.tokens": CONTROL[:3] + tokens + CONTROL[3:],
        "tokenizer.ggml.token_type": [3] * 3 + [1] * len(tokens) + [3] * (len(CONTROL) - 3),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    for name, value in changes.items():
        key = "tokenizer.chat_template" if name == "chat_template" else f"tokenizer.ggml.{name}"
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
    return values
