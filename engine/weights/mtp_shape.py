"""What an MTP file of antirez's layout shows of its trunk: dimensions read off its own tensors.

The file names no dimension in its metadata. Everything that the block's tensors do not show is
filled with the published model's numbers, so the result serves the check of a file by itself and
nothing else: it is never computed with.
"""

from __future__ import annotations

import dataclasses

from engine.errors import LayoutError
from engine.gguf.reader import GGUFFile
from engine.gguf.values import escape
from engine.shape import Shape
from engine.weights import layout, names
from engine.weights.layout import Mismatch

# The published Flash model, cut to the block; its dimensions give way to the file's.
PUBLISHED = Shape(
    n_layer=1, n_vocab=129_280, n_embd=4096, n_ctx_train=1, n_head=64, head_dim=512, n_rot=64,
    n_lora_q=1024, n_lora_o=1024, n_out_group=8, n_swa=128, compress_ratios=(0,), n_idx_head=64,
    idx_head_dim=128, idx_top_k=512, n_expert=256, n_expert_used=6, n_expert_shared=1,
    n_ff_exp=2048, n_hash_layer=0, expert_weights_scale=1.5, swiglu_limit=(10.0,),
    swiglu_limit_shared=(10.0,), n_hc=4, n_sinkhorn=20, hc_eps=1e-6, rms_eps=1e-6, rope_base=1e4,
    rope_base_compress=1.6e5, yarn_factor=1.0, yarn_orig_ctx=1, yarn_beta_fast=32.0,
    yarn_beta_slow=1.0,
)  # fmt: skip


def mtp_shape(file: GGUFFile) -> Shape:
    """Dimensions for which the block's tensors fit together, or the nearest to it.

    Raises
    ------
    LayoutError
        Listing tensors that are missing, or naming one whose size divides none of the others.
    """
    _check_complete(file)
    n_embd = file.tensors[f"{names.MTP_PREFIX}enorm.weight"].shape[-1]
    n_hc = file.tensors[f"{names.MTP_PREFIX}hc_head_base.weight"].shape[-1]
    return layer_shape(file, names.MTP_PREFIX, n_embd, n_hc)


def layer_shape(file: GGUFFile, prefix: str, n_embd: int, n_hc: int) -> Shape:
    """Dimensions that the tensors of one layer show, every one of which must be there.

    Raises
    ------
    LayoutError
        Naming a tensor whose size divides none of the others.
    """

    def dims(leaf: str) -> tuple[int, ...]:
        return file.tensors[prefix + leaf].shape

    n_head, head_dim = dims("attn_sinks.weight")[-1], dims("attn_kv_a_norm.weight")[-1]
    n_ff = (1, *dims("ffn_gate_exps.weight"))[-2]
    low, group_dim = (1, *dims("attn_output_a.weight"))[-2:]
    n_group = _quotient(file, n_head * head_dim, f"{prefix}attn_output_a", group_dim)
    shared = (1, *dims("ffn_gate_shexp.weight"))[-2]
    return dataclasses.replace(
        PUBLISHED,
        n_embd=n_embd,
        n_hc=n_hc,
        n_head=n_head,
        head_dim=head_dim,
        n_lora_q=dims("attn_q_a_norm.weight")[-1],
        n_expert=dims("exp_probs_b.bias")[-1],
        n_ff_exp=n_ff,
        n_out_group=n_group,
        n_lora_o=_quotient(file, low, f"{prefix}attn_output_a", n_group),
        n_expert_shared=_quotient(file, shared, f"{prefix}ffn_gate_shexp", n_ff),
    )


def _check_complete(file: GGUFFile) -> None:
    """Every tensor of a block is there, whatever its shape."""
    block = layout.layer_specs(PUBLISHED, names.MTP_PREFIX, 0, hashed=False)
    specs = [*layout.mtp_specs(PUBLISHED, llama=False).values(), *block.values()]
    missing = [
        Mismatch(spec.name, "a tensor of the MTP block", "no such tensor")
        for spec in specs
        if spec.name not in file.tensors
    ]
    layout.raise_for(escape(file.path.name), missing)


def _quotient(file: GGUFFile, n: int, leaf: str, divisor: int) -> int:
    if n < divisor or n % divisor:
        raise LayoutError(
            f"{escape(file.path.name)}: {leaf}.weight: expected a size that "
            f"divides {n}, found {divisor}"
        )
    return n // divisor
