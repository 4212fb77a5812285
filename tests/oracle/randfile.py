"""Random deepseek4 GGUF files of freely chosen shape, written with the `gguf` package.

Independent of `engine.models`, so that a mistake about names, axes or metadata cannot hide by
being made twice. Weights are scaled so that every mechanism moves the logits: sinks, APEs, the
router bias, both clamps, hyper-connection mixing and the indexer's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter
from gguf.quants import quantize


@dataclass(frozen=True)
class Spec:
    """Dimensions of one random model; see `engine.shape.Shape` for the names."""

    ratios: tuple[int, ...] = (0, 0, 4, 128, 4, 128)
    n_vocab: int = 2048
    n_embd: int = 256
    n_head: int = 4
    head_dim: int = 256
    n_lora_q: int = 256
    n_lora_o: int = 128
    n_out_group: int = 2
    n_swa: int = 128
    n_idx_head: int = 16
    idx_top_k: int = 16
    n_expert: int = 16
    n_expert_used: int = 4
    n_ff_exp: int = 256
    n_hash_layer: int = 3
    swiglu_limit: float = 1.5
    route_scale: float = 1.5
    yarn_factor: float = 16.0
    yarn_orig_ctx: int = 65536
    rms_eps: float = 1e-6
    seed: int = 1


# Three shapes that share as few dimensions as llama.cpp and HF allow (rope 64, indexer head 128,
# head_dim - 64 a multiple of 64 and head_dim != 128).
SPECS = {
    "A": Spec(),
    "B": Spec(
        ratios=(4, 128, 0, 4, 4),
        n_vocab=515,
        n_embd=192,
        n_head=6,
        head_dim=320,
        n_lora_q=96,
        n_lora_o=64,
        n_out_group=3,
        n_swa=64,
        n_idx_head=24,
        idx_top_k=23,
        n_expert=24,
        n_expert_used=5,
        n_ff_exp=160,
        n_hash_layer=1,
        swiglu_limit=2.0,
        route_scale=2.5,
        yarn_factor=40.0,
        yarn_orig_ctx=4096,
        seed=2,
    ),
    "C": Spec(
        ratios=(128, 0, 128, 4),
        n_vocab=1031,
        n_embd=320,
        n_head=8,
        head_dim=192,
        n_lora_q=128,
        n_lora_o=96,
        n_out_group=1,
        n_swa=96,
        n_idx_head=16,
        idx_top_k=32,
        n_expert=8,
        n_expert_used=3,
        n_ff_exp=192,
        n_hash_layer=0,
        swiglu_limit=1.0,
        route_scale=1.0,
        yarn_factor=4.0,
        yarn_orig_ctx=8192,
        rms_eps=1e-5,
        seed=3,
    ),
    # Small enough to keep its expected logits in the repository; every mechanism acts within
    # 280 tokens, YaRN included, whose original context is short.
    "golden": Spec(
        ratios=(0, 4, 128, 4),
        n_vocab=160,
        n_embd=128,
        n_head=2,
        head_dim=192,
        n_lora_q=64,
        n_lora_o=64,
        n_out_group=2,
        n_swa=40,
        n_idx_head=16,
        idx_top_k=12,
        n_expert=8,
        n_expert_used=3,
        n_ff_exp=64,
        n_hash_layer=1,
        swiglu_limit=1.5,
        yarn_orig_ctx=1024,
        seed=4,
    ),
}


def _metadata(w: GGUFWriter, s: Spec, layout: str, nextn: int = 0) -> None:
    a = "deepseek4"
    n_layer = len(s.ratios)
    for key, value in {
        "block_count": n_layer + nextn,
        "context_length": 1 << 20,
        "embedding_length": s.n_embd,
        "attention.head_count": s.n_head,
        "attention.head_count_kv": 1,
        "attention.key_length": s.head_dim,
        "attention.value_length": s.head_dim,
        "attention.q_lora_rank": s.n_lora_q,
        "attention.output_lora_rank": s.n_lora_o,
        "attention.output_group_count": s.n_out_group,
        "attention.sliding_window": s.n_swa,
        "attention.indexer.head_count": s.n_idx_head,
        "attention.indexer.key_length": 128,
        "attention.indexer.top_k": s.idx_top_k,
        "rope.dimension_count": 64,
        "rope.scaling.original_context_length": s.yarn_orig_ctx,
        "expert_count": s.n_expert,
        "expert_used_count": s.n_expert_used,
        "expert_shared_count": 1,
        "expert_feed_forward_length": s.n_ff_exp,
        "expert_gating_func": 4,
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 20,
        "hash_layer_count": s.n_hash_layer,
    }.items():
        w.add_uint32(f"{a}.{key}", value)
    for key, number in {
        "attention.layer_norm_rms_epsilon": s.rms_eps,
        "attention.compress_rope_freq_base": 160000.0,
        "rope.freq_base": 10000.0,
        "rope.scaling.factor": s.yarn_factor,
        "rope.scaling.yarn_beta_fast": 32.0,
        "rope.scaling.yarn_beta_slow": 1.0,
        "expert_weights_scale": s.route_scale,
        "hyper_connection.epsilon": 1e-6,
    }.items():
        w.add_float32(f"{a}.{key}", number)
    w.add_string(f"{a}.rope.scaling.type", "yarn")
    w.add_bool(f"{a}.expert_weights_norm", True)
    # The converter appends an entry for the MTP block; the other layout does not.
    extra = (0,) if layout == "converter" else ()
    w.add_array(f"{a}.attention.compress_ratios", [*s.ratios, *extra])
    w.add_array(f"{a}.swiglu_clamp_exp", [s.swiglu_limit] * (n_layer + nextn))
    if layout == "converter":
        w.add_uint32(f"{a}.embedding_length_out", 4 * s.n_embd)
    else:
        w.add_uint32(f"{a}.vocab_size", s.n_vocab)
    if nextn:
        w.add_uint32(f"{a}.nextn_predict_layers", nextn)
    special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
    tokens = special + [f"t{i}" for i in range(3, s.n_vocab)]
    w.add_string("tokenizer.ggml.model", "gpt2")
    w.add_string("tokenizer.ggml.pre", "joyai-llm")
    w.add_array("tokenizer.ggml.tokens", tokens)
    w.add_array("tokenizer.ggml.token_type", [3, 3, 3] + [1] * (s.n_vocab - 3))
    w.add_array("tokenizer.ggml.merges", ["t 3"])
    w.add_uint32("tokenizer.ggml.bos_token_id", 0)
    w.add_uint32("tokenizer.ggml.eos_token_id", 1)
    w.add_uint32("tokenizer.ggml.padding_token_id", 2)


Put = Callable[..., None]


def _matrix(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> np.ndarray:
    x = rng.standard_normal(shape, dtype=np.float32)
    return x * np.float32(gain / np.sqrt(shape[-1]))


def _norm(rng: np.random.Generator, n: int) -> np.ndarray:
    return (1 + 0.1 * rng.standard_normal(n)).astype(np.float32)


def _block(put: Put, rng: np.random.Generator, s: Spec, p: str, ratio: int, hashed: bool) -> None:
    """Tensors of one decoder layer; `p` is the name's prefix with its dot."""
    d, hd = s.n_embd, s.head_dim
    for half in ("attn", "ffn"):
        put(f"{p}hc_{half}_fn.weight", _matrix(rng, 24, 4 * d), "hc")
        put(f"{p}hc_{half}_base.weight", rng.standard_normal(24) * 0.5)
        put(f"{p}hc_{half}_scale.weight", 1 + 0.2 * rng.standard_normal(3))
        put(f"{p}{half}_norm.weight", _norm(rng, d))
    put(f"{p}attn_q_a.weight", _matrix(rng, s.n_lora_q, d), "dense")
    put(f"{p}attn_q_a_norm.weight", _norm(rng, s.n_lora_q))
    put(f"{p}attn_q_b.weight", _matrix(rng, s.n_head * hd, s.n_lora_q), "dense")
    put(f"{p}attn_kv.weight", _matrix(rng, hd, d), "dense")
    put(f"{p}attn_kv_a_norm.weight", _norm(rng, hd))
    put(f"{p}attn_sinks.weight", 1 + rng.standard_normal(s.n_head))
    group = s.n_head * hd // s.n_out_group
    put(f"{p}attn_output_a.weight", _matrix(rng, s.n_out_group * s.n_lora_o, group), "dense")
    put(f"{p}attn_output_b.weight", _matrix(rng, d, s.n_out_group * s.n_lora_o, gain=1.5), "dense")
    if ratio:
        width = hd * (2 if ratio == 4 else 1)
        put(f"{p}attn_compressor_kv.weight", _matrix(rng, width, d), "small")
        put(f"{p}attn_compressor_gate.weight", _matrix(rng, width, d), "small")
        put(f"{p}attn_compressor_ape.weight", rng.standard_normal((ratio, width)), "ape")
        put(f"{p}attn_compressor_norm.weight", _norm(rng, hd))
    if ratio == 4:
        put(f"{p}indexer.attn_q_b.weight", _matrix(rng, s.n_idx_head * 128, s.n_lora_q), "small")
        put(f"{p}indexer.proj.weight", _matrix(rng, s.n_idx_head, d), "small")
        put(f"{p}indexer_compressor_kv.weight", _matrix(rng, 256, d), "small")
        put(f"{p}indexer_compressor_gate.weight", _matrix(rng, 256, d), "small")
        put(f"{p}indexer_compressor_ape.weight", rng.standard_normal((4, 256)), "ape")
        put(f"{p}indexer_compressor_norm.weight", _norm(rng, 128))
    put(f"{p}ffn_gate_inp.weight", _matrix(rng, s.n_expert, d), "small")
    if hashed:
        table = np.argsort(rng.random((s.n_vocab, s.n_expert)), axis=1)[:, : s.n_expert_used]
        put(f"{p}ffn_gate_tid2eid.weight", table.astype(np.int32), "i32")
    else:
        put(f"{p}exp_probs_b.bias", 0.2 * rng.standard_normal(s.n_expert))
    for leaf, rows, cols in (
        ("gate", s.n_ff_exp, d),
        ("up", s.n_ff_exp, d),
        ("down", d, s.n_ff_exp),
    ):
        # Experts share a part, so that one flipped router choice does not swamp everything else.
        shared = _matrix(rng, 1, rows, cols)
        own = _matrix(rng, s.n_expert, rows, cols)
        put(f"{p}ffn_{leaf}_exps.weight", 0.8 * shared + 0.6 * own, "expert")
        put(f"{p}ffn_{leaf}_shexp.weight", _matrix(rng, rows, cols), "dense")


def _head(put: Put, rng: np.random.Generator, d: int, p: str) -> None:
    put(f"{p}_fn.weight", _matrix(rng, 4, 4 * d), "hc")
    put(f"{p}_base.weight", 0.5 * rng.standard_normal(4))
    put(f"{p}_scale.weight", 1 + 0.2 * rng.standard_normal(1))


# What each class of tensors is stored as.
RECIPES: dict[str, dict[str, T]] = {
    "f32": {},
    "f16": dict.fromkeys(("embed", "hc", "dense", "small", "ape", "expert"), T.F16),
    "q8_0": dict.fromkeys(("hc", "dense", "small", "expert"), T.Q8_0) | {"embed": T.F16},
    "converter": dict.fromkeys(("embed", "dense", "small"), T.BF16) | {"expert": T.MXFP4},
}
RECIPES["converter_fp8"] = RECIPES["converter"] | {"dense": T.Q8_0}


def _putter(w: GGUFWriter, types: dict[str, T]) -> Put:
    def put(name: str, x: np.ndarray, kind: str = "f32") -> None:
        if kind == "i32":
            w.add_tensor(name, np.ascontiguousarray(x, np.int32))
            return
        x = np.ascontiguousarray(x, np.float32)
        t = types.get(kind, T.F32)
        if t in (T.Q8_0, T.MXFP4) and x.shape[-1] % 32:
            t = T.F16
        if t == T.F32:
            w.add_tensor(name, x)
        elif t == T.F16:
            w.add_tensor(name, x.astype(np.float16))
        else:
            w.add_tensor(name, quantize(x, t), raw_dtype=t)

    return put


def _finish(w: GGUFWriter) -> None:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_trunk(path: Path, spec: Spec, recipe: str = "f32") -> Path:
    """Write a trunk file; recipes ``converter*`` use that layout's metadata too."""
    rng = np.random.default_rng(spec.seed)
    w = GGUFWriter(str(path), "deepseek4")
    _metadata(w, spec, recipe.partition("_")[0])
    put = _putter(w, RECIPES[recipe])
    put("token_embd.weight", rng.standard_normal((spec.n_vocab, spec.n_embd)), "embed")
    put("output.weight", _matrix(rng, spec.n_vocab, spec.n_embd, gain=3), "dense")
    put("output_norm.weight", _norm(rng, spec.n_embd))
    _head(put, rng, spec.n_embd, "output_hc")
    for i, ratio in enumerate(spec.ratios):
        _block(put, rng, spec, f"blk.{i}.", ratio, i < spec.n_hash_layer)
    _finish(w)
    return path


def write_mtp(path: Path, spec: Spec, layout: str, recipe: str = "f32") -> Path:
    """Write an MTP file with the same weights in either layout.

    Parameters
    ----------
    layout : {'separate', 'nextn'}
        'separate': ``mtp.0.*``; 'nextn': ``blk.<n>.*`` with ``nextn`` leaves and copies of the
        trunk's embedding and output.
    """
    rng = np.random.default_rng(spec.seed + 1000)
    d = spec.n_embd
    w = GGUFWriter(str(path), "deepseek4")
    nextn = int(layout == "nextn")
    _metadata(w, spec, "converter" if nextn else "antirez", nextn)
    put = _putter(w, RECIPES[recipe])
    p = f"blk.{len(spec.ratios)}." if nextn else "mtp.0."
    _block(put, rng, spec, p, 0, False)
    e_proj, h_proj = _matrix(rng, d, d), _matrix(rng, d, d)
    enorm, hnorm, norm = (_norm(rng, d) for _ in range(3))
    if nextn:
        put(f"{p}nextn.eh_proj.weight", np.concatenate([e_proj, h_proj], axis=1), "dense")
        put(f"{p}nextn.enorm.weight", enorm)
        put(f"{p}nextn.hnorm.weight", hnorm)
        put(f"{p}nextn.shared_head_norm.weight", norm)
        _head(put, rng, d, "output_hc")
        trunk = np.random.default_rng(spec.seed)
        put("token_embd.weight", trunk.standard_normal((spec.n_vocab, d)), "embed")
        put("output.weight", _matrix(trunk, spec.n_vocab, d, gain=3), "dense")
        put("output_norm.weight", _norm(trunk, d))
    else:
        put(f"{p}e_proj.weight", e_proj, "dense")
        put(f"{p}h_proj.weight", h_proj, "dense")
        put(f"{p}enorm.weight", enorm)
        put(f"{p}hnorm.weight", hnorm)
        put(f"{p}norm.weight", norm)
        _head(put, rng, d, f"{p}hc_head")
    _finish(w)
    return path
