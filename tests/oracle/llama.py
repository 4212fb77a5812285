"""Logits of llama.cpp for a GGUF file, through the low-level API of llama-cpp-python."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np


def llama_logits(
    path: Path, ids: list[int], *, kv_f32: bool = True, threads: int = 2, n_ubatch: int = 512
) -> np.ndarray:
    """Logits at all positions, float32 (n, n_vocab); flash attention and offload off."""
    import llama_cpp as lc

    lc.llama_backend_init()
    quiet = lc.llama_log_callback(lambda *_: None)
    lc.llama_log_set(quiet, ctypes.c_void_p(0))
    mp = lc.llama_model_default_params()
    mp.n_gpu_layers = 0
    model = lc.llama_model_load_from_file(str(path).encode(), mp)
    if not model:
        raise RuntimeError(f"llama.cpp: expected to load {path}")
    cp = lc.llama_context_default_params()
    cp.n_ctx = (len(ids) + 255) // 256 * 256
    cp.n_batch = cp.n_ctx
    cp.n_ubatch = n_ubatch
    cp.n_threads = cp.n_threads_batch = threads
    cp.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
    cp.offload_kqv = cp.op_offload = False
    if kv_f32:
        cp.type_k = cp.type_v = 0  # GGML_TYPE_F32
    ctx = lc.llama_init_from_model(model, cp)
    if not ctx:
        lc.llama_model_free(model)
        raise RuntimeError("llama.cpp: expected a context")
    try:
        n_vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
        batch = lc.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, t in enumerate(ids):
            batch.token[i], batch.pos[i] = t, i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        rc = lc.llama_decode(ctx, batch)
        if rc:
            raise RuntimeError(f"llama_decode: expected 0, found {rc}")
        out = np.ctypeslib.as_array(lc.llama_get_logits(ctx), (len(ids), n_vocab)).copy()
        lc.llama_batch_free(batch)
        return out
    finally:
        lc.llama_free(ctx)
        lc.llama_model_free(model)
