"""Logits of llama.cpp for a GGUF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ds4bench.peer.llamacpp import LlamaCpp


def llama_logits(path: Path, ids: list[int], *, kv: str = "f32", threads: int = 2) -> np.ndarray:
    """Logits at all positions, float32 (n, n_vocab)."""
    peer = LlamaCpp(path, threads, kv)
    try:
        return peer.all_logits(ids)
    finally:
        peer.close()
