"""Headers of published DeepSeek V4 files as literals: metadata and the tensor directory.

Written down from public headers (antirez's Flash trunk of April 2026 and of release 0731, the MTP
file, llama.cpp's converter), not derived from the code under test. The vocabulary is not theirs:
256 byte tokens and the control tokens stand for 129,280.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.standins.write import Entry, Key

Formats = Callable[[int], tuple[str, str]]  # layer -> (gate and up, down)


@dataclass(frozen=True)
class Size:
    """Dimensions of a published model, in this project's names."""

    n_layer: int = 43
    n_embd: int = 4096
    n_head: int = 64
    n_lora_q: int = 1024
    n_out_group: int = 8
    n_expert: int = 256
    n_ff_exp: int = 2048
    idx_top_k: int = 512
    scale: float = 1.5
    ratios: tuple[int, ...] = (0, 0, *(4, 128) * 20, 4)


FLASH = Size()
PRO = Size(61, 7168, 128, 1536, 16, 384, 3072, 1024, 2.5, (128, 128, *(4, 128) * 29, 4))
N_VOCAB, HEAD_DIM, N_ROT, N_LORA_O, USED, HASHED = 129_280, 512, 64, 1024, 6, 3
N_IDX_HEAD, IDX_DIM = 64, 128

CONTROL = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>",
           "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜")  # fmt: skip
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"


def byte_tokens() -> list[str]:
    """GPT-2's printable characters for the 256 bytes, as its published encoder makes them."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in kept]
    table = {b: chr(b) for b in kept} | {b: chr(0x100 + i) for i, b in enumerate(rest)}
    return [table[b] for b in range(256)]


def tokenizer() -> list[Key]:
    """The tokenizer's keys with a vocabulary of 264 tokens and two merges."""
    tokens = [*CONTROL[:3], *byte_tokens(), *CONTROL[3:], "th", "the"]
    types = [3] * 3 + [1] * 256 + [3] * 5 + [1, 1]
    return [
        Key("tokenizer.ggml.model", "str", "gpt2"),
        Key("tokenizer.ggml.pre", "str", "joyai-llm"),
        Key("tokenizer.ggml.tokens", "str[]", tokens),
        Key("tokenizer.ggml.token_type", "i32[]", types),
        Key("tokenizer.ggml.merges", "str[]", ["t h", "th e"]),
        Key("tokenizer.ggml.bos_token_id", "u32", 0),
        Key("tokenizer.ggml.eos_token_id", "u32", 1),
        Key("tokenizer.ggml.padding_token_id", "u32", 2),
        Key("tokenizer.ggml.add_bos_token", "bool", False),
        Key("tokenizer.ggml.add_eos_token", "bool", False),
    ]


def _common(size: Size, prefix: str) -> list[Key]:
    """Keys that both converters write, with the same types."""
    ours = (
        ("block_count", "u32", size.n_layer), ("context_length", "u32", 1_048_576),
        ("embedding_length", "u32", size.n_embd), ("attention.head_count", "u32", size.n_head),
        ("attention.head_count_kv", "u32", 1), ("rope.scaling.type", "str", "yarn"),
        ("rope.scaling.factor", "f32", 16.0),
        ("rope.scaling.original_context_length", "u32", 65_536),
        ("rope.scaling.yarn_beta_fast", "f32", 32.0), ("rope.scaling.yarn_beta_slow", "f32", 1.0),
        ("rope.freq_base", "f32", 10_000.0), ("attention.layer_norm_rms_epsilon", "f32", 1e-6),
        ("expert_used_count", "u32", USED), ("attention.key_length", "u32", HEAD_DIM),
        ("attention.value_length", "u32", HEAD_DIM), ("rope.dimension_count", "u32", N_ROT),
        ("attention.q_lora_rank", "u32", size.n_lora_q),
        ("attention.output_lora_rank", "u32", N_LORA_O),
        ("attention.output_group_count", "u32", size.n_out_group),
        ("attention.compress_rope_freq_base", "f32", 160_000.0),
        ("expert_feed_forward_length", "u32", size.n_ff_exp),
        ("expert_count", "u32", size.n_expert), ("expert_shared_count", "u32", 1),
        ("expert_weights_scale", "f32", size.scale),
        ("hash_layer_count", "u32", HASHED), ("expert_weights_norm", "bool", True),
        ("swiglu_clamp_exp", "f32[]", [10.0] * size.n_layer),
        ("attention.sliding_window", "u32", 128),
        ("attention.indexer.head_count", "u32", N_IDX_HEAD),
        ("attention.indexer.key_length", "u32", IDX_DIM),
        ("attention.indexer.top_k", "u32", size.idx_top_k), ("hyper_connection.count", "u32", 4),
        ("hyper_connection.sinkhorn_iterations", "u32", 20),
        ("hyper_connection.epsilon", "f32", 1e-6),
    )  # fmt: skip
    return [Key(f"{prefix}.{name}", kind, value) for name, kind, value in ours]


def antirez_keys(
    size: Size = FLASH,
    name: str = "DeepSeek V4 Flash",
    behind: int = 1,
    file_type: int = 19,
    prefix: str = "deepseek4",
) -> list[Key]:
    """Metadata of antirez's trunk; `behind` zeros end the ratios (1 in April, 3 in 0731)."""
    return [
        Key("general.architecture", "str", prefix),
        Key("general.type", "str", "model"),
        Key("general.sampling.top_p", "f32", 1.0),
        Key("general.sampling.temp", "f32", 1.0),
        Key("general.name", "str", name),
        Key("general.size_label", "str", "256x8.4B"),
        Key("general.license", "str", "mit"),
        *_common(size, prefix),
        Key("general.file_type", "u32", file_type),
        Key("tokenizer.chat_template", "str", TEMPLATE),
        Key(f"{prefix}.vocab_size", "u32", N_VOCAB),
        Key(f"{prefix}.attention.compress_ratios", "u32[]", [*size.ratios, *[0] * behind]),
        Key(f"{prefix}.nextn_predict_layers", "u32", 1),
        Key("general.quantization_version", "u32", 2),
        *tokenizer(),
    ]


def llama_keys(size: Size = FLASH, behind: int = 1, file_type: int = 38) -> list[Key]:
    """Metadata of llama.cpp's converter for 0731: i32 ratios, both clamps, no vocab_size."""
    ratios = [*size.ratios, *[0] * behind]
    return [
        Key("general.architecture", "str", "deepseek4"),
        Key("tokenizer.chat_template", "str", TEMPLATE),
        Key("general.type", "str", "model"),
        Key("general.name", "str", "DeepSeek-V4-Flash-0731"),
        Key("general.version", "str", "0731"),
        Key("general.basename", "str", "DeepSeek-V4-Flash"),
        Key("general.tags", "str[]", ["unsloth"]),
        *_common(size, "deepseek4"),
        Key("deepseek4.expert_gating_func", "u32", 4),
        Key("general.file_type", "u32", file_type),
        Key("deepseek4.embedding_length_out", "u32", 4 * size.n_embd),
        Key("deepseek4.swiglu_clamp_shexp", "f32[]", [10.0] * size.n_layer),
        Key("deepseek4.attention.compress_ratios", "i32[]", ratios),
        *tokenizer(),
        Key("general.quantization_version", "u32", 2),
    ]


@dataclass(frozen=True)
class Kinds:
    """Formats of the matrices outside the routed experts."""

    dense: str = "Q8_0"
    mix: str = "F16"
    embedding: str = "F16"
    output: str = "Q8_0"
    pool: str = "F16"
    ape: str = "F16"
    indexer: str = "F16"
    router: str = "F16"


ANTIREZ = Kinds()
LLAMA = Kinds("Q8_0", "F32", "BF16", "BF16", "BF16", "F32", "BF16", "F32")
UNSLOTH = Kinds("Q5_K", "F32", "Q4_K", "Q6_K", "Q8_0", "F32", "Q8_0", "F32")


def trunk(
    experts: Formats = lambda layer: ("IQ2_XXS", "Q2_K"),
    kinds: Kinds = ANTIREZ,
    size: Size = FLASH,
) -> list[Entry]:
    """The tensor directory of a trunk, in antirez's order: hash tables, experts, layers, output."""
    d = size.n_embd
    out = [Entry(f"blk.{i}.ffn_gate_tid2eid.weight", "I32", (USED, N_VOCAB)) for i in range(HASHED)]
    for i in range(size.n_layer):
        wide, down = experts(i)
        up = (d, size.n_ff_exp, size.n_expert)
        out += [
            Entry(f"blk.{i}.ffn_gate_exps.weight", wide, up),
            Entry(f"blk.{i}.ffn_down_exps.weight", down, (size.n_ff_exp, d, size.n_expert)),
            Entry(f"blk.{i}.ffn_up_exps.weight", wide, up),
        ]
    out.append(Entry("token_embd.weight", kinds.embedding, (d, N_VOCAB)))
    for i in range(size.n_layer):
        out += block(f"blk.{i}.", kinds, size)
        if i >= HASHED:
            out.append(Entry(f"blk.{i}.exp_probs_b.bias", "F32", (size.n_expert,)))
        out += _pooled(f"blk.{i}.", size.ratios[i], kinds, size)
    return [
        *out,
        Entry("output_hc_base.weight", "F32", (4,)),
        Entry("output_hc_fn.weight", kinds.mix, (4 * d, 4)),
        Entry("output_hc_scale.weight", "F32", (1,)),
        Entry("output.weight", kinds.output, (d, N_VOCAB)),
        Entry("output_norm.weight", "F32", (d,)),
    ]


def block(prefix: str, kinds: Kinds, size: Size) -> list[Entry]:
    """What every layer has beside its routed experts."""
    d, heads = size.n_embd, size.n_head * HEAD_DIM
    low = size.n_out_group * N_LORA_O
    rows = [
        ("hc_attn_base", "F32", (24,)), ("hc_ffn_base", "F32", (24,)),
        ("hc_attn_fn", kinds.mix, (4 * d, 24)), ("hc_attn_scale", "F32", (3,)),
        ("hc_ffn_fn", kinds.mix, (4 * d, 24)), ("hc_ffn_scale", "F32", (3,)),
        ("attn_sinks", "F32", (size.n_head,)), ("attn_q_a", kinds.dense, (d, size.n_lora_q)),
        ("attn_q_b", kinds.dense, (size.n_lora_q, heads)),
        ("attn_q_a_norm", "F32", (size.n_lora_q,)),
        ("attn_output_a", kinds.dense, (heads // size.n_out_group, low)),
        ("attn_kv", kinds.dense, (d, HEAD_DIM)), ("attn_kv_a_norm", "F32", (HEAD_DIM,)),
        ("attn_output_b", kinds.dense, (low, d)), ("attn_norm", "F32", (d,)),
        ("ffn_norm", "F32", (d,)), ("ffn_gate_shexp", kinds.dense, (d, size.n_ff_exp)),
        ("ffn_up_shexp", kinds.dense, (d, size.n_ff_exp)),
        ("ffn_down_shexp", kinds.dense, (size.n_ff_exp, d)),
        ("ffn_gate_inp", kinds.router, (d, size.n_expert)),
    ]  # fmt: skip
    return [Entry(f"{prefix}{name}.weight", kind, dims) for name, kind, dims in rows]


def _pooled(prefix: str, ratio: int, kinds: Kinds, size: Size) -> list[Entry]:
    """The compressor of a layer with one, and the indexer of ratio 4."""
    if not ratio:
        return []
    d, width = size.n_embd, HEAD_DIM * (2 if ratio == 4 else 1)
    rows = [
        ("attn_compressor_ape", kinds.ape, (width, ratio)),
        ("attn_compressor_kv", kinds.pool, (d, width)),
        ("attn_compressor_gate", kinds.pool, (d, width)),
        ("attn_compressor_norm", "F32", (HEAD_DIM,)),
    ]
    if ratio == 4:
        rows += [
            ("indexer.attn_q_b", kinds.indexer, (size.n_lora_q, N_IDX_HEAD * IDX_DIM)),
            ("indexer.proj", kinds.indexer, (d, N_IDX_HEAD)),
            ("indexer_compressor_kv", kinds.pool, (d, 2 * IDX_DIM)),
            ("indexer_compressor_gate", kinds.pool, (d, 2 * IDX_DIM)),
            ("indexer_compressor_ape", kinds.ape, (2 * IDX_DIM, 4)),
            ("indexer_compressor_norm", "F32", (IDX_DIM,)),
        ]
    return [Entry(f"{prefix}{name}.weight", kind, dims) for name, kind, dims in rows]


def mtp_keys() -> list[Key]:
    """The five keys of antirez's MTP file."""
    return [
        Key("general.architecture", "str", "deepseek4_mtp_support"),
        Key("general.name", "str", "DeepSeek V4 Flash MTP support"),
        Key("deepseek4.expert_count", "u32", 256),
        Key("deepseek4.mtp_layer_count", "u32", 1),
        Key("deepseek4.nextn_predict_layers", "u32", 1),
    ]


def mtp() -> list[Entry]:
    """The 32 tensors of antirez's MTP file; its router and mixes are float32."""
    d, p = FLASH.n_embd, "mtp.0."
    head = [("hc_head_base", (4,)), ("hc_head_fn", (4 * d, 4)), ("hc_head_scale", (1,))]
    up = (d, FLASH.n_ff_exp, FLASH.n_expert)
    return [
        *(Entry(f"{p}{name}.weight", "F32", dims) for name, dims in head),
        *block(p, Kinds(mix="F32", router="F32"), FLASH),
        Entry(f"{p}ffn_gate_exps.weight", "Q4_K", up),
        Entry(f"{p}ffn_up_exps.weight", "Q4_K", up),
        Entry(f"{p}ffn_down_exps.weight", "Q4_K", (FLASH.n_ff_exp, d, FLASH.n_expert)),
        Entry(f"{p}exp_probs_b.bias", "F32", (FLASH.n_expert,)),
        Entry(f"{p}e_proj.weight", "Q8_0", (d, d)),
        Entry(f"{p}h_proj.weight", "Q8_0", (d, d)),
        *(Entry(f"{p}{name}.weight", "F32", (d,)) for name in ("enorm", "hnorm", "norm")),
    ]
