"""Tensor names of deepseek4 files, per field; both layouts of the MTP block.

Names are the same in antirez's files and in those of llama.cpp's converter, except for the MTP
block (``mtp.0.*`` against ``blk.N.*`` with ``blk.N.nextn.*``).
"""

from __future__ import annotations

# Field of TrunkWeights -> tensor.
TRUNK = {
    "token_embd": "token_embd.weight",
    "output": "output.weight",
    "output_norm": "output_norm.weight",
    "output_hc_fn": "output_hc_fn.weight",
    "output_hc_scale": "output_hc_scale.weight",
    "output_hc_base": "output_hc_base.weight",
}

# Field of LayerWeights -> leaf behind the layer's prefix, where the leaf is not field + ".weight".
_LEAF = {
    "exp_probs_b": "exp_probs_b.bias",
    "indexer_attn_q_b": "indexer.attn_q_b.weight",
    "indexer_proj": "indexer.proj.weight",
}

# Field of MtpWeights -> tensor of the antirez layout.
MTP_ANTIREZ = {
    field: f"mtp.0.{field}.weight"
    for field in ("e_proj", "h_proj", "enorm", "hnorm", "norm",
                  "hc_head_fn", "hc_head_base", "hc_head_scale")
}  # fmt: skip

# Field of MtpWeights -> tensor of the llama.cpp layout; {} is the layer's prefix.
MTP_LLAMA = {
    "eh_proj": "{}nextn.eh_proj.weight",
    "enorm": "{}nextn.enorm.weight",
    "hnorm": "{}nextn.hnorm.weight",
    "norm": "{}nextn.shared_head_norm.weight",
    "hc_head_fn": "output_hc_fn.weight",
    "hc_head_base": "output_hc_base.weight",
    "hc_head_scale": "output_hc_scale.weight",
}

# Copies of the trunk's tensors that the llama.cpp layout may carry.
MTP_LLAMA_OPTIONAL = {"token_embd": "token_embd.weight", "output": "output.weight"}
MTP_LLAMA_UNUSED = ("output_norm.weight",)

# Present in some files and without meaning for text: bias of hash layers, bias of image tokens.
IGNORED_LEAVES = ("exp_probs_b.bias", "exp_probs_b_vl.bias")


def layer_prefix(layer: int) -> str:
    """What the names of a trunk layer's tensors start with."""
    return f"blk.{layer}."


MTP_PREFIX = "mtp.0."


def leaf(field: str) -> str:
    """The part of a tensor's name behind the layer's prefix, for a field of LayerWeights."""
    return _LEAF.get(field, f"{field}.weight")


def eh_proj_name(layer: int) -> str:
    """The tensor that marks layer `layer` as an MTP block in the llama.cpp layout."""
    return MTP_LLAMA["eh_proj"].format(layer_prefix(layer))
