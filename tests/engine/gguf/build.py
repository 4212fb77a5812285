"""Writes tiny deepseek4 files with random data through `gguf.GGUFWriter`, in both layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from engine.shape import Shape
from engine.weights import layout
from tests.standins.write import Key

TOKENS = ["<s>", "</s>"]


def tiny_shape(**changes) -> Shape:
    """Three layers, one per compression ratio; every mechanism alive."""
    values = {
        "n_layer": 3,
        "n_vocab": 40,
        "n_embd": 32,
        "n_ctx_train": 4096,
        "n_head": 4,
        "head_dim": 96,
        "n_rot": 32,
        "n_lora_q": 32,
        "n_lora_o": 16,
        "n_out_group": 2,
        "n_swa": 8,
        "compress_ratios": (0, 4, 128),
        "n_idx_head": 2,
        "idx_head_dim": 64,
        "idx_top_k": 4,
        "n_expert": 6,
        "n_expert_used": 2,
        "n_expert_shared": 1,
        "n_ff_exp": 32,
        "n_hash_layer": 1,
        "expert_weights_scale": 1.5,
        "swiglu_limit": (10.0, 10.0, 10.0),
        "swiglu_limit_shared": (10.0, 10.0, 10.0),
        "n_hc": 4,
        "n_sinkhorn": 20,
        "hc_eps": float(np.float32(1e-6)),
        "rms_eps": float(np.float32(1e-6)),
        "rope_base": 10000.0,
        "rope_base_compress": 160000.0,
        "yarn_factor": 16.0,
        "yarn_orig_ctx": 256,
        "yarn_beta_fast": 32.0,
        "yarn_beta_slow": 1.0,
        "name": "tiny",
    }
    values.update(changes)
    return Shape(**values)


def metadata(
    shape: Shape, kind: str = "antirez", mtp: bool = False
) -> dict[str, tuple[str, object]]:
    """Keys of a file without the architecture's prefix, as (GGUF type, value)."""
    s = shape
    n = s.n_layer + (1 if mtp else 0)
    extra = (0,) if kind == "llama" else ()
    keys = {
        "block_count": ("u32", n),
        "context_length": ("u32", s.n_ctx_train),
        "embedding_length": ("u32", s.n_embd),
        "attention.head_count": ("u32", s.n_head),
        "attention.head_count_kv": ("u32", 1),
        "attention.key_length": ("u32", s.head_dim),
        "attention.value_length": ("u32", s.head_dim),
        "attention.layer_norm_rms_epsilon": ("f32", s.rms_eps),
        "attention.q_lora_rank": ("u32", s.n_lora_q),
        "attention.output_lora_rank": ("u32", s.n_lora_o),
        "attention.output_group_count": ("u32", s.n_out_group),
        "attention.sliding_window": ("u32", s.n_swa),
        "attention.indexer.head_count": ("u32", s.n_idx_head),
        "attention.indexer.key_length": ("u32", s.idx_head_dim),
        "attention.indexer.top_k": ("u32", s.idx_top_k),
        "attention.compress_ratios": ("i32[]", [*s.compress_ratios, *extra]),
        "attention.compress_rope_freq_base": ("f32", s.rope_base_compress),
        "rope.dimension_count": ("u32", s.n_rot),
        "rope.freq_base": ("f32", s.rope_base),
        "rope.scaling.type": ("str", "yarn"),
        "rope.scaling.factor": ("f32", s.yarn_factor),
        "rope.scaling.original_context_length": ("u32", s.yarn_orig_ctx),
        "rope.scaling.yarn_beta_fast": ("f32", s.yarn_beta_fast),
        "rope.scaling.yarn_beta_slow": ("f32", s.yarn_beta_slow),
        "expert_count": ("u32", s.n_expert),
        "expert_used_count": ("u32", s.n_expert_used),
        "expert_shared_count": ("u32", s.n_expert_shared),
        "expert_feed_forward_length": ("u32", s.n_ff_exp),
        "expert_weights_scale": ("f32", s.expert_weights_scale),
        "expert_weights_norm": ("bool", True),
        "swiglu_clamp_exp": ("f32[]", [*s.swiglu_limit, *((10.0,) if mtp else ())]),
        "hyper_connection.count": ("u32", s.n_hc),
        "hyper_connection.sinkhorn_iterations": ("u32", s.n_sinkhorn),
        "hyper_connection.epsilon": ("f32", s.hc_eps),
        "hash_layer_count": ("u32", s.n_hash_layer),
    }
    if kind == "llama":
        keys["expert_gating_func"] = ("u32", 4)
        keys["embedding_length_out"] = ("u32", s.n_hc * s.n_embd)
        keys["swiglu_clamp_shexp"] = ("f32[]", [*s.swiglu_limit_shared, *((10.0,) if mtp else ())])
        if mtp:
            keys["nextn_predict_layers"] = ("u32", 1)
    else:
        keys["vocab_size"] = ("u32", s.n_vocab)
        keys["expert_group_count"] = ("u32", 0)
        keys["feed_forward_length"] = ("u32", s.n_ff_exp)
    return keys


def add_value(writer: gguf.GGUFWriter, key: str, kind: str, value: object) -> None:
    # fmt: off
    types = {"u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "i32": "INT32",
             "i64": "INT64", "f32": "FLOAT32", "f64": "FLOAT64", "bool": "BOOL", "str": "STRING"}
    # fmt: on
    base = gguf.GGUFValueType[types[kind.removesuffix("[]")]]
    if kind.endswith("[]"):
        writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, base)
    else:
        writer.add_key_value(key, value, base)


def add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, fmt: str) -> None:
    kind = gguf.GGMLQuantizationType[fmt]
    if fmt == "I32":
        writer.add_tensor(name, values.astype(np.int32))
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def random_tensor(rng: np.random.Generator, spec: layout.Spec, n_expert: int) -> np.ndarray:
    if spec.formats == ("I32",):
        return rng.integers(0, n_expert, spec.shape)
    if spec.name.endswith("norm.weight"):
        return (1 + 0.1 * rng.standard_normal(spec.shape)).astype(np.float32)
    return (0.1 * rng.standard_normal(spec.shape)).astype(np.float32)


def write_file(path: Path, keys: dict, specs, *, matrix: str = "F32", arch: str = "deepseek4",
               tokens: list[str] | None = None, name: str = "tiny", n_expert: int = 6,
               seed: int = 0, vocabulary: Sequence[Key] = ()) -> Path:  # fmt: skip
    """Write metadata and a random tensor per spec; matrices in one format, vectors in F32.

    `tokens` is a bare list, which no tokenizer can be made of; `vocabulary` has whole keys.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, arch)
    if name:
        writer.add_name(name)
    for key, (kind, value) in keys.items():
        add_value(writer, f"deepseek4.{key}", kind, value)
    for entry in vocabulary:
        add_value(writer, entry.name, entry.kind, entry.value)
    if tokens:
        writer.add_token_list(tokens)
    for spec in specs:
        fmt = "I32" if spec.formats == ("I32",) else matrix if "Q8_0" in spec.formats else "F32"
        block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[fmt]][0]
        fmt = fmt if spec.shape[-1] % block == 0 else "F32"
        add_tensor(writer, spec.name, random_tensor(rng, spec, n_expert), fmt)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def trunk_specs(shape: Shape) -> list[layout.Spec]:
    specs = list(layout.trunk_specs(shape).values())
    for i in range(shape.n_layer):
        hashed = i < shape.n_hash_layer
        block = layout.layer_specs(shape, f"blk.{i}.", shape.compress_ratio(i), hashed)
        specs += block.values()
    return specs


def write_trunk(path: Path, shape: Shape | None = None, kind: str = "antirez", **options) -> Path:
    """A trunk of the given shape; `kind` ('antirez' or 'llama') decides which keys it carries."""
    shape = shape or tiny_shape()
    options.setdefault("n_expert", shape.n_expert)
    return write_file(path, metadata(shape, kind), trunk_specs(shape), **options)


def write_mtp(path: Path, shape: Shape | None = None, kind: str = "antirez", **options) -> Path:
    """An MTP block of the given trunk's shape in either layout."""
    shape = shape or tiny_shape()
    llama = kind == "llama"
    prefix = f"blk.{shape.n_layer}." if llama else "mtp.0."
    specs = list(layout.mtp_specs(shape, llama).values())
    specs += layout.layer_specs(shape, prefix, 0, hashed=False).values()
    if llama:
        trunk = layout.trunk_specs(shape)
        specs += [trunk["token_embd"], trunk["output"], trunk["output_norm"]]
        return write_file(path, metadata(shape, kind, mtp=True), specs, **options)
    options.setdefault("arch", "deepseek4_mtp_support")
    return write_file(path, {}, specs, **options)
