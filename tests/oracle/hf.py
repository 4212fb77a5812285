"""A deepseek4 GGUF file as transformers' `DeepseekV4ForCausalLM`: float32, eager, on the CPU.

The file is read and dequantised with the `gguf` package, not with ours, and its metadata are
translated here once more, so this oracle shares no code with the engine. Weight quantisation
cancels out of a comparison because both sides see the same dequantised values.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import nn
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as modeling

LAYER_TYPE = {
    0: "sliding_attention",
    4: "compressed_sparse_attention",
    128: "heavily_compressed_attention",
}

# GGUF leaf -> parameter of a DeepseekV4DecoderLayer. Experts are fused separately.
LAYER_NAMES = {
    "hc_attn_fn.weight": "attn_hc.fn",
    "hc_attn_base.weight": "attn_hc.base",
    "hc_attn_scale.weight": "attn_hc.scale",
    "hc_ffn_fn.weight": "ffn_hc.fn",
    "hc_ffn_base.weight": "ffn_hc.base",
    "hc_ffn_scale.weight": "ffn_hc.scale",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q_a.weight": "self_attn.q_a_proj.weight",
    "attn_q_a_norm.weight": "self_attn.q_a_norm.weight",
    "attn_q_b.weight": "self_attn.q_b_proj.weight",
    "attn_kv.weight": "self_attn.kv_proj.weight",
    "attn_kv_a_norm.weight": "self_attn.kv_norm.weight",
    "attn_sinks.weight": "self_attn.sinks",
    "attn_output_a.weight": "self_attn.o_a_proj.weight",
    "attn_output_b.weight": "self_attn.o_b_proj.weight",
    "attn_compressor_kv.weight": "self_attn.compressor.kv_proj.weight",
    "attn_compressor_gate.weight": "self_attn.compressor.gate_proj.weight",
    "attn_compressor_ape.weight": "self_attn.compressor.position_bias",
    "attn_compressor_norm.weight": "self_attn.compressor.kv_norm.weight",
    "indexer.attn_q_b.weight": "self_attn.compressor.indexer.q_b_proj.weight",
    "indexer.proj.weight": "self_attn.compressor.indexer.scorer.weights_proj.weight",
    "indexer_compressor_kv.weight": "self_attn.compressor.indexer.kv_proj.weight",
    "indexer_compressor_gate.weight": "self_attn.compressor.indexer.gate_proj.weight",
    "indexer_compressor_ape.weight": "self_attn.compressor.indexer.position_bias",
    "indexer_compressor_norm.weight": "self_attn.compressor.indexer.kv_norm.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    "ffn_gate_tid2eid.weight": "mlp.gate.tid2eid",
    "ffn_gate_shexp.weight": "mlp.shared_experts.gate_proj.weight",
    "ffn_up_shexp.weight": "mlp.shared_experts.up_proj.weight",
    "ffn_down_shexp.weight": "mlp.shared_experts.down_proj.weight",
}

# Leaves of an MTP block outside its decoder layer.
MTP_LEAVES = ("nextn.", "e_proj", "h_proj", "enorm", "hnorm", "norm", "hc_head")

TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
    "output_hc_fn.weight": "model.hc_head.hc_fn",
    "output_hc_base.weight": "model.hc_head.hc_base",
    "output_hc_scale.weight": "model.hc_head.hc_scale",
}


@dataclass
class File:
    """Metadata without their architecture prefix, and float32 (or int32) tensors by name."""

    meta: dict[str, Any]
    tensors: dict[str, np.ndarray]


def read_file(path: Path) -> File:
    """Read and dequantise a whole file."""
    reader = GGUFReader(str(path))
    meta = {
        name.removeprefix("deepseek4."): f.contents()
        for name, f in reader.fields.items()
        if not name.startswith("tokenizer.")
    }
    tensors = {}
    for t in reader.tensors:
        if t.tensor_type.name == "I32":
            tensors[t.name] = np.array(t.data)
        else:
            flat = dequantize(t.data, t.tensor_type)
            tensors[t.name] = np.array(flat, np.float32).reshape(t.shape[::-1].tolist())
    return File(meta, tensors)


def hf_config(f: File, *, mtp: bool = False) -> DeepseekV4Config:
    """The configuration that the metadata describe; `mtp`: the MTP block as one layer."""
    m = f.meta
    n_layer = 1 if mtp else m["block_count"]
    ratios = [0] if mtp else m["attention.compress_ratios"][:n_layer]
    n_hash = 0 if mtp else m["hash_layer_count"]
    head_dim = m["attention.key_length"]
    partial = m["rope.dimension_count"] / head_dim
    assert m["expert_shared_count"] == 1 and m["expert_gating_func"] == 4
    config = DeepseekV4Config(
        vocab_size=f.tensors["token_embd.weight"].shape[0],
        hidden_size=m["embedding_length"],
        moe_intermediate_size=m["expert_feed_forward_length"],
        num_hidden_layers=n_layer,
        num_attention_heads=m["attention.head_count"],
        head_dim=head_dim,
        q_lora_rank=m["attention.q_lora_rank"],
        num_experts_per_tok=m["expert_used_count"],
        n_routed_experts=m["expert_count"],
        routed_scaling_factor=m["expert_weights_scale"],
        # Only a warning depends on it: HF compares it with the scaling factor.
        max_position_embeddings=int(
            m["rope.scaling.original_context_length"] * m["rope.scaling.factor"]
        ),
        layer_types=[LAYER_TYPE[r] for r in ratios],
        mlp_layer_types=["hash_moe" if i < n_hash else "moe" for i in range(n_layer)],
        hc_mult=m["hyper_connection.count"],
        hc_sinkhorn_iters=m["hyper_connection.sinkhorn_iterations"],
        hc_eps=m["hyper_connection.epsilon"],
        swiglu_limit=m["swiglu_clamp_exp"][-1 if mtp else 0],
        sliding_window=m["attention.sliding_window"],
        o_groups=m["attention.output_group_count"],
        o_lora_rank=m["attention.output_lora_rank"],
        index_n_heads=m["attention.indexer.head_count"],
        index_head_dim=m["attention.indexer.key_length"],
        index_topk=m["attention.indexer.top_k"],
        rms_norm_eps=m["attention.layer_norm_rms_epsilon"],
        partial_rotary_factor=partial,
        rope_parameters={
            "main": {
                "rope_type": "default",
                "rope_theta": m["rope.freq_base"],
                "partial_rotary_factor": partial,
            },
            "compress": {
                "rope_type": "yarn",
                "rope_theta": m["attention.compress_rope_freq_base"],
                "partial_rotary_factor": partial,
                "factor": m["rope.scaling.factor"],
                "original_max_position_embeddings": m["rope.scaling.original_context_length"],
                "beta_fast": m["rope.scaling.yarn_beta_fast"],
                "beta_slow": m["rope.scaling.yarn_beta_slow"],
                "attention_factor": 1.0,
            },
        },
        pad_token_id=None,
    )
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return config


def _layer_state(f: File, prefix: str) -> dict[str, torch.Tensor]:
    """Parameters of one decoder layer; raises KeyError for a leaf that it does not know."""
    state, experts = {}, {}
    for name, x in f.tensors.items():
        if not name.startswith(prefix):
            continue
        leaf = name.removeprefix(prefix)
        if leaf.endswith("_exps.weight"):
            experts[leaf] = x
        elif not leaf.startswith(
            ("nextn.", "e_proj", "h_proj", "enorm", "hnorm", "norm", "hc_head")
        ):
            state[LAYER_NAMES[leaf]] = torch.from_numpy(x)
    gate_up = np.concatenate([experts["ffn_gate_exps.weight"], experts["ffn_up_exps.weight"]], 1)
    state["mlp.experts.gate_up_proj"] = torch.from_numpy(gate_up)
    state["mlp.experts.down_proj"] = torch.from_numpy(experts["ffn_down_exps.weight"])
    return state


def _set_limits(layer: Any, routed: float, shared: float) -> None:
    # The configuration has one limit; a file has one per layer and kind.
    layer.mlp.experts.limit = routed
    layer.mlp.shared_experts.limit = shared


def hf_model(path: Path) -> DeepseekV4ForCausalLM:
    """The whole trunk of a file, every parameter loaded (strictly), in evaluation mode."""
    f = read_file(path)
    model = DeepseekV4ForCausalLM(hf_config(f)).float().eval()
    state = {new: torch.from_numpy(f.tensors[old]) for old, new in TOP_NAMES.items()}
    for i in range(f.meta["block_count"]):
        for name, x in _layer_state(f, f"blk.{i}.").items():
            state[f"model.layers.{i}.{name}"] = x
    model.load_state_dict(state, strict=True)
    routed = f.meta["swiglu_clamp_exp"]
    shared = f.meta.get("swiglu_clamp_shexp", routed)
    for i, layer in enumerate(model.model.layers):
        _set_limits(layer, routed[i], shared[i])
    return model


@torch.no_grad()
def hf_logits(
    model: DeepseekV4ForCausalLM, ids: list[int], *, official: bool = False
) -> np.ndarray:
    """Logits at all positions, float32 (n, n_vocab).

    `official` stores KV rows as the published model does; see `tests.oracle.official`.
    """
    from tests.oracle import official as numerics

    tokens = torch.tensor([ids])
    if not official:
        return model(tokens, use_cache=False).logits[0].numpy()
    with numerics.official_queries(model):
        cache = numerics.official_cache(model.config)
        return model(tokens, past_key_values=cache, use_cache=True).logits[0].numpy()


@dataclass
class Tap:
    """What one forward pass did, layer by layer (filled by `tap`)."""

    states: list[np.ndarray] = field(default_factory=list)  # (n, 4, n_embd) after each layer
    experts: list[np.ndarray] = field(default_factory=list)  # (n, n_expert_used) sorted ids
    router_logits: list[np.ndarray] = field(default_factory=list)  # (n, n_expert)


@contextmanager
def tap(model: DeepseekV4ForCausalLM):
    """Collect `Tap` during forward passes inside the block."""
    got = Tap()

    def on_layer(_module, _args, out):
        got.states.append(out[0].numpy().copy())

    def on_gate(_module, _args, out):
        got.router_logits.append(out[0].numpy().copy())
        got.experts.append(np.sort(out[2].numpy(), axis=-1))

    handles = []
    for layer in model.model.layers:
        handles.append(layer.register_forward_hook(on_layer))
        handles.append(layer.mlp.gate.register_forward_hook(on_gate))
    try:
        yield got
    finally:
        for h in handles:
            h.remove()


class MTPBlock(nn.Module):
    """The multi-token-prediction block, built from HF's own decoder layer.

    ``x = e_proj(enorm(embed(t[p+1])))`` on all four streams ``+ h_proj(hnorm(h[p]))`` per stream;
    one sliding-window layer; own collapse and norm; the trunk's output matrix. Row p predicts the
    token at p + 2. Source: the published model's MTPBlock (DeepSeek-V3 report, section 2.2).
    """

    def __init__(self, trunk: DeepseekV4ForCausalLM, path: Path) -> None:
        super().__init__()
        f = read_file(path)
        separate = "mtp.0.enorm.weight" in f.tensors
        last = f.meta["block_count"] - 1
        p = "mtp.0." if separate else f"blk.{last}."
        t = f.tensors
        t.setdefault("token_embd.weight", trunk.model.embed_tokens.weight.detach().numpy())
        config = hf_config(f, mtp=True)
        d, eps = config.hidden_size, config.rms_norm_eps
        self.trunk = [trunk]  # in a list: not a submodule
        self.layer = modeling.DeepseekV4DecoderLayer(config, 0)
        self.layer.load_state_dict(_layer_state(f, p), strict=True)
        limits = f.meta["swiglu_clamp_exp"]
        _set_limits(self.layer, limits[-1], f.meta.get("swiglu_clamp_shexp", limits)[-1])
        self.rotary = modeling.DeepseekV4RotaryEmbedding(config)
        self.config = config
        if separate:
            e, h = t[f"{p}e_proj.weight"], t[f"{p}h_proj.weight"]
            norms = [t[f"{p}{n}.weight"] for n in ("enorm", "hnorm", "norm")]
            head = f"{p}hc_head"
        else:
            eh = t[f"{p}nextn.eh_proj.weight"]
            e, h = eh[:, :d], eh[:, d:]
            names = ("enorm", "hnorm", "shared_head_norm")
            norms = [t[f"{p}nextn.{n}.weight"] for n in names]
            head = "output_hc"
        self.e, self.h = (torch.from_numpy(np.ascontiguousarray(x)) for x in (e, h))
        self.enorm, self.hnorm, self.norm = (modeling.DeepseekV4RMSNorm(d, eps) for _ in range(3))
        for module, x in zip((self.enorm, self.hnorm, self.norm), norms, strict=True):
            module.weight.data = torch.from_numpy(x)
        self.hc_head = modeling.DeepseekV4HyperHead(config)
        self.hc_head.load_state_dict(
            {f"hc_{k}": torch.from_numpy(t[f"{head}_{k}.weight"]) for k in ("fn", "base", "scale")}
        )
        self.eval()

    @torch.no_grad()
    def forward(self, ids: list[int], streams: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n - 1, n_vocab) and streams (n - 1, 4, n_embd) for tokens `ids` (n).

        `streams` (n, 4, n_embd): the trunk's state before its head.
        """
        trunk = self.trunk[0]
        nxt = torch.tensor([ids[1:]])
        x = nn.functional.linear(self.enorm(trunk.model.embed_tokens(nxt)), self.e)
        x = x.unsqueeze(2) + nn.functional.linear(self.hnorm(streams[None, :-1]), self.h)
        # Row p sits at the position of the token it embeds; RoPE sees differences only.
        pos = torch.arange(1, len(ids)).unsqueeze(0)
        rope = {"main": self.rotary(x, pos, layer_type="main")}
        rows = torch.arange(len(ids) - 1)
        age = rows[:, None] - rows[None, :]
        mask = torch.zeros(1, 1, *age.shape)
        mask.masked_fill_((age < 0) | (age >= self.config.sliding_window), float("-inf"))
        out = self.layer(
            x,
            position_embeddings=rope,
            position_ids=pos,
            attention_mask=mask,
            input_ids=nxt,
            past_key_values=None,
        )
        return trunk.lm_head(self.norm(self.hc_head(out)))[0], out[0]


@torch.no_grad()
def hf_mtp_logits(
    model: DeepseekV4ForCausalLM, mtp_path: Path, ids: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """MTP logits (n - 1, n_vocab) and the trunk's streams (n, 4, n_embd) that went in."""
    with tap(model) as got:
        hf_logits(model, ids)
    streams = torch.from_numpy(got.states[-1])
    logits, _ = MTPBlock(model, mtp_path)(ids, streams)
    return logits.numpy(), got.states[-1]
