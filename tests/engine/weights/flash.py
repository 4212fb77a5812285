"""The published Flash model as literals: dimensions, tensors and formats of antirez's file.

Written down from the published tables, not derived from the code under test. Tensors have
dimensions in GGUF's order and bytes without memory.
"""

from __future__ import annotations

import numpy as np

from engine.gguf.tensor import Tensor
from engine.quant.formats import BY_NAME
from engine.shape import Shape

N_LAYER = 43
RATIOS = tuple(0 if i < 2 else 4 if i % 2 == 0 else 128 for i in range(N_LAYER))

FLASH = Shape(
    n_layer=43, n_vocab=129280, n_embd=4096, n_ctx_train=1048576, n_head=64, head_dim=512,
    n_rot=64, n_lora_q=1024, n_lora_o=1024, n_out_group=8, n_swa=128, compress_ratios=RATIOS,
    n_idx_head=64, idx_head_dim=128, idx_top_k=512, n_expert=256, n_expert_used=6,
    n_expert_shared=1, n_ff_exp=2048, n_hash_layer=3, expert_weights_scale=1.5,
    swiglu_limit=(10.0,) * 43, swiglu_limit_shared=(10.0,) * 43, n_hc=4, n_sinkhorn=20,
    hc_eps=1e-6, rms_eps=1e-6, rope_base=1e4, rope_base_compress=1.6e5, yarn_factor=16.0,
    yarn_orig_ctx=65536, yarn_beta_fast=32.0, yarn_beta_slow=1.0,
)  # fmt: skip

TOP = {
    "token_embd.weight": ("F16", 4096, 129280),
    "output.weight": ("Q8_0", 4096, 129280),
    "output_norm.weight": ("F32", 4096),
    "output_hc_fn.weight": ("F16", 16384, 4),
    "output_hc_scale.weight": ("F32", 1),
    "output_hc_base.weight": ("F32", 4),
}
EVERY_LAYER = {
    "hc_attn_fn.weight": ("F16", 16384, 24),
    "hc_attn_scale.weight": ("F32", 3),
    "hc_attn_base.weight": ("F32", 24),
    "hc_ffn_fn.weight": ("F16", 16384, 24),
    "hc_ffn_scale.weight": ("F32", 3),
    "hc_ffn_base.weight": ("F32", 24),
    "attn_norm.weight": ("F32", 4096),
    "attn_q_a.weight": ("Q8_0", 4096, 1024),
    "attn_q_a_norm.weight": ("F32", 1024),
    "attn_q_b.weight": ("Q8_0", 1024, 32768),
    "attn_kv.weight": ("Q8_0", 4096, 512),
    "attn_kv_a_norm.weight": ("F32", 512),
    "attn_sinks.weight": ("F32", 64),
    "attn_output_a.weight": ("Q8_0", 4096, 8192),
    "attn_output_b.weight": ("Q8_0", 8192, 4096),
    "ffn_norm.weight": ("F32", 4096),
    "ffn_gate_inp.weight": ("F16", 4096, 256),
    "ffn_gate_exps.weight": ("IQ2_XXS", 4096, 2048, 256),
    "ffn_up_exps.weight": ("IQ2_XXS", 4096, 2048, 256),
    "ffn_down_exps.weight": ("Q2_K", 2048, 4096, 256),
    "ffn_gate_shexp.weight": ("Q8_0", 4096, 2048),
    "ffn_up_shexp.weight": ("Q8_0", 4096, 2048),
    "ffn_down_shexp.weight": ("Q8_0", 2048, 4096),
}
COMPRESSOR_4 = {
    "attn_compressor_kv.weight": ("F16", 4096, 1024),
    "attn_compressor_gate.weight": ("F16", 4096, 1024),
    "attn_compressor_ape.weight": ("F16", 1024, 4),
    "attn_compressor_norm.weight": ("F32", 512),
    "indexer.attn_q_b.weight": ("F16", 1024, 8192),
    "indexer.proj.weight": ("F16", 4096, 64),
    "indexer_compressor_kv.weight": ("F16", 4096, 256),
    "indexer_compressor_gate.weight": ("F16", 4096, 256),
    "indexer_compressor_ape.weight": ("F16", 256, 4),
    "indexer_compressor_norm.weight": ("F32", 128),
}
COMPRESSOR_128 = {
    "attn_compressor_kv.weight": ("F16", 4096, 512),
    "attn_compressor_gate.weight": ("F16", 4096, 512),
    "attn_compressor_ape.weight": ("F16", 512, 128),
    "attn_compressor_norm.weight": ("F32", 512),
}
HASHED = {"ffn_gate_tid2eid.weight": ("I32", 6, 129280)}
BIASED = {"exp_probs_b.bias": ("F32", 256)}
MTP = {
    "e_proj.weight": ("Q8_0", 4096, 4096),
    "h_proj.weight": ("Q8_0", 4096, 4096),
    "enorm.weight": ("F32", 4096),
    "hnorm.weight": ("F32", 4096),
    "norm.weight": ("F32", 4096),
    "hc_head_fn.weight": ("F32", 16384, 4),
    "hc_head_base.weight": ("F32", 4),
    "hc_head_scale.weight": ("F32", 1),
}


def tensor(name: str, fmt: str, *dims: int) -> Tensor:
    """A tensor whose bytes are all the same byte in memory."""
    shape = tuple(reversed(dims))
    form = BY_NAME[fmt]
    n_bytes = int(np.prod(shape)) // form.block_len * form.block_bytes
    return Tensor(name, form, shape, np.broadcast_to(np.uint8(0), (n_bytes,)))


def trunk() -> dict[str, Tensor]:
    table = dict(TOP)
    for i, ratio in enumerate(RATIOS):
        leaves = EVERY_LAYER | (HASHED if i < 3 else BIASED)
        if ratio:
            leaves = leaves | (COMPRESSOR_4 if ratio == 4 else COMPRESSOR_128)
        table |= {f"blk.{i}.{leaf}": entry for leaf, entry in leaves.items()}
    return {name: tensor(name, *entry) for name, entry in table.items()}


def mtp() -> dict[str, Tensor]:
    block = dict(EVERY_LAYER | BIASED | MTP)
    block |= {f"ffn_{x}_exps.weight": ("Q4_K", 4096, 2048, 256) for x in ("gate", "up")}
    block["ffn_down_exps.weight"] = ("Q4_K", 2048, 4096, 256)
    block |= {f"hc_{x}_fn.weight": ("F32", 16384, 24) for x in ("attn", "ffn")}
    block["ffn_gate_inp.weight"] = ("F32", 4096, 256)
    return {f"mtp.0.{leaf}": tensor(f"mtp.0.{leaf}", *entry) for leaf, entry in block.items()}


class FakeFile:
    """What binding needs of a file, with tensors that have no memory."""

    def __init__(self, tensors, metadata):
        from pathlib import Path

        self.path = Path("flash.gguf")
        self.tensors = tensors
        self.metadata = metadata
