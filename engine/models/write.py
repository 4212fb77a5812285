"""Writes a generated model as GGUF: metadata of both layouts, tensors streamed in file order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.errors import OptionError
from engine.models import make
from engine.models.container import (
    Content,
    Entry,
    Progress,
    Trained,
    WrittenModel,
    check_target,
    publish,
)
from engine.models.make import DRAFT
from engine.models.recipes import LAYOUTS, RECIPES, formats_of
from engine.models.shapes import mtp_block
from engine.models.vocab import build_vocab
from engine.quant.formats import BY_NAME
from engine.shape import Shape

__all__ = ["Trained", "WrittenModel", "check_target", "metadata", "write_model"]

ARCH = "deepseek4"
_SQRT_SOFTPLUS = 4  # expert_gating_func
# general.file_type (source: `gguf.LlamaFileType`).
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "q4": 15, "iq2": 19}
_FILE_TYPES |= {"q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "tq1_0": 36, "tq2_0": 37}
_FILE_TYPES_LLAMA = _FILE_TYPES | {"f16": 32, "q4": 38}


def write_model(
    path: Path,
    shape: Shape,
    recipe: str = "f32",
    seed: int = 0,
    layout: str = "antirez",
    *,
    draft: bool = False,
    force: bool = False,
    quick: bool = False,
    trained: Trained | None = None,
    progress: Progress | None = None,
) -> WrittenModel:
    """Write the trunk, or with `draft` the draft block's own file.

    The file appears under its name only when it is complete. Equal arguments give equal bytes.

    Parameters
    ----------
    path : Path
    shape : Shape
    recipe, layout : str
        See `recipes`.
    seed : int
        0 or larger; trunk and draft file of one model have the same seed.
    draft : bool
    force : bool
        Replace an existing file.
    quick : bool
        Large tensors repeat a small piece of quantised values (see `stream.encoded`), and nothing
        is hashed or flushed: for measuring speed at full size.
    trained : Trained, optional
        Weights and vocabulary to write; `seed` has no meaning then.
    progress : callable, optional
        Called with (tensor name, bytes written, bytes in all).

    Raises
    ------
    OptionError
        If an argument is out of range, the folder is missing, or the file exists without `force`.
    """
    _check(recipe, layout, seed)
    check_target(path, force)
    vocab = build_vocab(shape.n_vocab) if trained is None else trained.vocab
    entries = (
        _draft_entries(shape, recipe, layout) if draft else _trunk_entries(shape, recipe, layout)
    )
    keys = metadata(shape, recipe, layout, draft)
    if trained is not None:
        keys["general.name"] = trained.name + (" draft block" if draft else "")
    with_vocab = not draft or layout == "llama"
    prefixed = {k if k.startswith("general.") else f"{ARCH}.{k}": v for k, v in keys.items()}
    content = Content(ARCH, prefixed, vocab if with_vocab else None, entries)
    return publish(
        path, content, seed, force=force, quick=quick, trained=trained, progress=progress
    )


def _check(recipe: str, layout: str, seed: int) -> None:
    for name, value, allowed in (("recipe", recipe, RECIPES), ("layout", layout, LAYOUTS)):
        if value not in allowed:
            raise OptionError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")
    if not 0 <= seed < 1 << 63:
        raise OptionError(f"seed: expected 0 to 2^63 - 1, found {seed}")


def _trunk_entries(shape: Shape, recipe: str, layout: str) -> list[Entry]:
    formats = formats_of(recipe, layout)
    return [Entry(s.name, (s,), BY_NAME[formats[s.kind]]) for s in make.trunk_specs(shape)]


def _draft_entries(shape: Shape, recipe: str, layout: str) -> list[Entry]:
    formats = formats_of(recipe, layout, draft=True)
    specs = {s.name: s for s in make.draft_specs(shape)}
    if layout == "antirez":
        return [Entry(s.name, (s,), BY_NAME[formats[s.kind]]) for s in specs.values()]
    # llama.cpp: the block is one more layer; projections are one matrix [e_proj | h_proj]; the
    # file repeats embedding and output, and output_hc_* hold the block's own head.
    layer = f"blk.{shape.n_layer}."
    renamed = {
        "enorm.weight": f"{layer}nextn.enorm.weight",
        "hnorm.weight": f"{layer}nextn.hnorm.weight",
        "norm.weight": f"{layer}nextn.shared_head_norm.weight",
        "hc_head_fn.weight": "output_hc_fn.weight",
        "hc_head_base.weight": "output_hc_base.weight",
        "hc_head_scale.weight": "output_hc_scale.weight",
    }
    trunk = {s.name: s for s in make.trunk_specs(shape)}
    copies = ("token_embd.weight", "output_norm.weight", "output.weight")
    entries = [Entry(n, (trunk[n],), BY_NAME[formats[trunk[n].kind]]) for n in copies]
    sides = tuple(specs.pop(f"{DRAFT}{side}_proj.weight") for side in "eh")
    entries.append(Entry(f"{layer}nextn.eh_proj.weight", sides, BY_NAME[formats["dense"]]))
    for name, spec in specs.items():
        leaf = name.removeprefix(DRAFT)
        entries.append(Entry(renamed.get(leaf, layer + leaf), (spec,), BY_NAME[formats[spec.kind]]))
    return entries


def metadata(shape: Shape, recipe: str, layout: str, draft: bool) -> dict[str, object]:
    """Keys below the architecture's prefix, and general ones; floats are binary32 in the file."""
    llama = layout == "llama"
    if llama:
        # The converter counts the draft block in both of its files' ratios, but in block_count
        # and clamps only of the draft's; llama.cpp refuses clamps that are not block_count long.
        full = mtp_block(shape)
        shape = full if draft else replace(shape, compress_ratios=full.compress_ratios)
    keys: dict[str, object] = {
        "general.name": f"ds4 generated {shape.name}" + (" draft block" if draft else ""),
        "general.file_type": (_FILE_TYPES_LLAMA if llama else _FILE_TYPES)[recipe],
        "general.quantization_version": 2,
        "block_count": shape.n_layer,
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": 1,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": shape.rms_eps,
        "attention.q_lora_rank": shape.n_lora_q,
        "attention.output_lora_rank": shape.n_lora_o,
        "attention.output_group_count": shape.n_out_group,
        "attention.sliding_window": shape.n_swa,
        "attention.indexer.head_count": shape.n_idx_head,
        "attention.indexer.key_length": shape.idx_head_dim,
        "attention.indexer.top_k": shape.idx_top_k,
        "attention.compress_ratios": list(shape.compress_ratios),
        "attention.compress_rope_freq_base": shape.rope_base_compress,
        "rope.dimension_count": shape.n_rot,
        "rope.freq_base": shape.rope_base,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(shape.yarn_factor),
        "rope.scaling.original_context_length": shape.yarn_orig_ctx,
        "rope.scaling.yarn_beta_fast": float(shape.yarn_beta_fast),
        "rope.scaling.yarn_beta_slow": float(shape.yarn_beta_slow),
        "expert_count": shape.n_expert,
        "expert_used_count": shape.n_expert_used,
        "expert_shared_count": shape.n_expert_shared,
        "expert_feed_forward_length": shape.n_ff_exp,
        "expert_weights_scale": float(shape.expert_weights_scale),
        "expert_weights_norm": True,
        "expert_gating_func": _SQRT_SOFTPLUS,
        "expert_group_count": 0,
        "expert_group_used_count": 0,
        "swiglu_clamp_exp": [float(v) for v in shape.swiglu_limit],
        "swiglu_clamp_shexp": [float(v) for v in shape.swiglu_limit_shared],
        "hyper_connection.count": shape.n_hc,
        "hyper_connection.sinkhorn_iterations": shape.n_sinkhorn,
        "hyper_connection.epsilon": shape.hc_eps,
        "hash_layer_count": shape.n_hash_layer,
    }
    if llama:
        keys["embedding_length_out"] = shape.n_hc * shape.n_embd
        if draft:
            keys["nextn_predict_layers"] = 1
    else:
        keys["vocab_size"] = shape.n_vocab
    return keys
