"""The three layouts in which DSpark drafters of DeepSeek V4 circulate, as tables of names.

    A   antirez's support files: everything below ``mtp.S.``, S the stage
    B   bleysg's and Entrpi's: stages below ``dspark.S.``, the rest below ``dspark.``
    C   llama.cpp's converter, architecture ``dflash``: stages are ``blk.S.``

Leaf names inside a stage are those of a trunk layer in all of them. Which layout a file has is told
by its tensors, never by what it calls itself.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

LAYOUTS = ("A", "B", "C")
# Field of DsparkWeights -> leaf, in layouts A and B; main_proj and main_norm belong to stage 0 in
# A, the others to the last stage.
_FIRST = {"main_proj": "main_proj.weight", "main_norm": "main_norm.weight"}
_HEAD = {
    "norm": "norm.weight",
    "hc_head_fn": "hc_head_fn.weight",
    "hc_head_base": "hc_head_base.weight",
    "hc_head_scale": "hc_head_scale.weight",
}
_OWN_A = {
    "markov_w1": "markov_head.markov_w1.weight",
    "markov_w2": "markov_head.markov_w2.weight",
    "conf_proj": "confidence_head.proj.weight",
}
_OWN_B = {f: f"{f}.weight" for f in ("markov_w1", "markov_w2", "conf_proj")}
_C = {
    "main_proj": "fc.weight",
    "main_norm": "enc.output_norm.weight",
    "norm": "output_norm.weight",
    "hc_head_fn": "output_hc_fn.weight",
    "hc_head_base": "output_hc_base.weight",
    "hc_head_scale": "output_hc_scale.weight",
    "markov_w1": "markov_w1.weight",
    "markov_w2": "markov_w2.weight",
    "conf_proj": "conf_proj.weight",
}
# Copies of the trunk's tensors that layout C may carry; the trunk's own are used.
UNUSED_C = ("token_embd.weight", "output.weight")
_STAGE = {"A": "mtp.{}.", "B": "dspark.{}.", "C": "blk.{}."}
# What a file that carries a trunk as well calls tensors of its drafter.
BESIDE_TRUNK = re.compile(r"mtp\.\d+\..*|dspark\..*")


@dataclass(frozen=True, slots=True)
class Keys:
    """Metadata keys of a layout, in order of preference; `shift` is added to the file's layers."""

    block: tuple[str, ...]
    rank: tuple[str, ...]
    noise: tuple[str, ...]
    taps: tuple[str, ...]
    stages: tuple[str, ...]
    shift: int = 0


def _both(*names: str) -> tuple[str, ...]:
    """Keys of A as B spells them, too: readers of either accept both."""
    return tuple(prefix + name for prefix in ("dspark.", "deepseek4.dspark.") for name in names)


_AB = Keys(
    block=_both("block_size"),
    rank=_both("markov_rank"),
    noise=_both("noise_token_id"),
    taps=_both("target_layer_ids", "target_layers"),
    stages=_both("stage_count", "n_layers", "layer_count"),
)
KEYS = {
    "A": _AB,
    "B": _AB,
    # llama.cpp names the layer whose input is read, one behind the layer whose output that is.
    "C": Keys(
        block=("dflash.block_size",),
        rank=("dflash.markov_rank",),
        noise=("tokenizer.ggml.mask_token_id",),
        taps=("dflash.target_layers",),
        stages=("dflash.block_count",),
        shift=-1,
    ),
}
# Dimensions and constants that layout C repeats below `dflash.`: key -> field of Shape.
REPEATED_C = {
    "embedding_length": "n_embd",
    "vocab_size": "n_vocab",
    "attention.head_count": "n_head",
    "attention.key_length": "head_dim",
    "attention.q_lora_rank": "n_lora_q",
    "attention.output_lora_rank": "n_lora_o",
    "attention.output_group_count": "n_out_group",
    "attention.sliding_window": "n_swa",
    "attention.layer_norm_rms_epsilon": "rms_eps",
    "rope.dimension_count": "n_rot",
    "rope.freq_base": "rope_base",
    "expert_count": "n_expert",
    "expert_used_count": "n_expert_used",
    "expert_shared_count": "n_expert_shared",
    "expert_feed_forward_length": "n_ff_exp",
    "expert_weights_scale": "expert_weights_scale",
    "hyper_connection.count": "n_hc",
    "hyper_connection.sinkhorn_iterations": "n_sinkhorn",
    "hyper_connection.epsilon": "hc_eps",
}


def layout_of(tensors: Container[str]) -> str | None:
    """Layout of the drafter among these tensors; None where there is none."""
    if "mtp.0.main_proj.weight" in tensors:
        return "A"
    if "dspark.main_proj.weight" in tensors:
        return "B"
    if "fc.weight" in tensors and "markov_w1.weight" in tensors:
        return "C"
    return None


def stage_prefix(layout: str, stage: int) -> str:
    """What the names of a stage's tensors start with."""
    return _STAGE[layout].format(stage)


def count_stages(layout: str, tensors: Iterable[str]) -> int:
    """Stages that a file has, by its tensors; some files' keys count something else."""
    pattern = re.compile(_STAGE[layout].replace(".", r"\.").format(r"(\d+)") + ".*")
    return len({m[1] for name in tensors if (m := pattern.fullmatch(name))})


def own_names(layout: str, n_stage: int) -> dict[str, str]:
    """Tensors outside the stages, by field of DsparkWeights."""
    if layout == "C":
        return dict(_C)
    if layout == "B":
        return {f: f"dspark.{leaf}" for f, leaf in (_FIRST | _HEAD | _OWN_B).items()}
    last = stage_prefix("A", n_stage - 1)
    names = {f: stage_prefix("A", 0) + leaf for f, leaf in _FIRST.items()}
    return names | {f: last + leaf for f, leaf in (_HEAD | _OWN_A).items()}
