"""From metadata to a validated `Shape`: every hyperparameter with its type, range and relations.

Keys are those of antirez's files and of llama.cpp's converter; what only one of them writes is
optional here. Ranges are wide enough for every published size and narrow enough that no value
can be used as a bound or a divisor unchecked.
"""

from __future__ import annotations

import numpy as np

from engine.errors import LayoutError
from engine.gguf.reader import GGUFFile
from engine.gguf.values import Metadata, escape
from engine.shape import Shape
from engine.weights.names import MTP_PREFIX, TRUNK, eh_proj_name

ARCHITECTURE = "deepseek4"
RATIOS = (0, 4, 128)
GATING_SQRT_SOFTPLUS = 4

MAX_LAYERS = 512
MAX_CONTEXT = 1 << 24
MAX_VOCAB = 1 << 22
_TINY, _HUGE = 1e-30, 1e30


class _Keys:
    """Getters with the architecture's prefix."""

    def __init__(self, metadata: Metadata):
        self.metadata = metadata

    def integer(self, key: str, lo: int, hi: int, **default) -> int:
        return self.metadata.get_u32(f"{ARCHITECTURE}.{key}", lo, hi, **default)

    def number(self, key: str, lo: float, hi: float, **default) -> float:
        return self.metadata.get_f32(f"{ARCHITECTURE}.{key}", lo, hi, **default)

    def per_layer(self, key: str, n_layer: int, **default) -> tuple[float, ...]:
        """An array with a value per layer, or one float for all of them."""
        full = f"{ARCHITECTURE}.{key}"
        if type(self.metadata.get(full)) is float:
            return (self.metadata.get_f32(full, 0.0, _HUGE),) * n_layer
        values = self.metadata.get_floats(full, 0.0, _HUGE, n_layer, **default)
        return values if values is None else tuple(float(v) for v in values[:n_layer])

    def error(self, key: str, expected: str) -> LayoutError:
        return self.metadata.error(f"{ARCHITECTURE}.{key}", expected)


def is_mtp_file(file: GGUFFile) -> bool:
    """True if the file holds an MTP block and no trunk, in either layout."""
    if "blk.0.attn_norm.weight" in file.tensors:
        return False
    layer = n_layers(file)
    return has_antirez_mtp(file) or (layer is not None and eh_proj_name(layer) in file.tensors)


def has_antirez_mtp(file: GGUFFile) -> bool:
    """True if some tensor is named as those of antirez's MTP block, beside a trunk or alone."""
    return any(name.startswith(MTP_PREFIX) for name in file.tensors)


def n_layers(file: GGUFFile) -> int | None:
    """Layers of the trunk: `block_count` less the MTP layers; None without a `block_count`.

    Some trunk files declare MTP layers without counting or carrying them, so the tensors decide.
    """
    if f"{ARCHITECTURE}.block_count" not in file.metadata:
        return None
    keys = _Keys(file.metadata)
    blocks = keys.integer("block_count", 1, MAX_LAYERS)
    nextn = keys.integer("nextn_predict_layers", 0, 8, default=0)
    if nextn < blocks and eh_proj_name(blocks - nextn) in file.tensors:
        return blocks - nextn
    return blocks


def shape_from_metadata(file: GGUFFile) -> Shape:
    """Read and validate every hyperparameter.

    Parameters
    ----------
    file : GGUFFile
        A trunk, or an MTP-only file of llama.cpp's converter (whose shape is its trunk's).

    Raises
    ------
    LayoutError
        Naming the key, what was expected and what was found.
    """
    meta = file.metadata
    keys = _Keys(meta)
    if meta.get_str("general.architecture") != ARCHITECTURE:
        raise meta.error("general.architecture", repr(ARCHITECTURE))
    n_layer = n_layers(file)
    if n_layer is None:
        raise keys.error("block_count", f"an integer from 1 to {MAX_LAYERS}")
    n_vocab = _n_vocab(file, keys)
    _refuse_unsupported(meta, keys)

    n_head = keys.integer("attention.head_count", 1, 4096)
    keys.integer("attention.head_count_kv", 1, 1)
    head_dim = keys.integer("attention.key_length", 2, 65_536)
    keys.integer("attention.value_length", head_dim, head_dim, default=head_dim)
    idx_head_dim = keys.integer("attention.indexer.key_length", 2, 4096)
    if idx_head_dim & (idx_head_dim - 1):
        raise keys.error("attention.indexer.key_length", "a power of two (Hadamard transform)")
    n_rot = keys.integer("rope.dimension_count", 2, min(head_dim, idx_head_dim))
    if n_rot % 2:
        raise keys.error("rope.dimension_count", "an even number")
    n_out_group = keys.integer("attention.output_group_count", 1, n_head)
    if n_head % n_out_group:
        raise keys.error("attention.output_group_count", f"a divisor of head_count = {n_head}")
    n_expert = keys.integer("expert_count", 1, 1024)
    limit = keys.per_layer("swiglu_clamp_exp", n_layer)
    n_ctx = keys.integer("context_length", 1, MAX_CONTEXT)
    factor, orig_ctx, beta_fast, beta_slow = _yarn(meta, keys, n_ctx)
    return Shape(
        n_layer=n_layer,
        n_vocab=n_vocab,
        n_embd=keys.integer("embedding_length", 1, 65_536),
        n_ctx_train=n_ctx,
        n_head=n_head,
        head_dim=head_dim,
        n_rot=n_rot,
        n_lora_q=keys.integer("attention.q_lora_rank", 1, 65_536),
        n_lora_o=keys.integer("attention.output_lora_rank", 1, 65_536),
        n_out_group=n_out_group,
        n_swa=keys.integer("attention.sliding_window", 1, 1 << 20),
        compress_ratios=_ratios(meta, keys, n_layer),
        n_idx_head=keys.integer("attention.indexer.head_count", 1, 4096),
        idx_head_dim=idx_head_dim,
        idx_top_k=keys.integer("attention.indexer.top_k", 1, 1 << 20),
        n_expert=n_expert,
        n_expert_used=keys.integer("expert_used_count", 1, n_expert),
        n_expert_shared=keys.integer("expert_shared_count", 1, 16),
        n_ff_exp=keys.integer("expert_feed_forward_length", 1, 1 << 20),
        n_hash_layer=keys.integer("hash_layer_count", 0, n_layer),
        expert_weights_scale=keys.number("expert_weights_scale", _TINY, _HUGE),
        swiglu_limit=limit,
        swiglu_limit_shared=keys.per_layer("swiglu_clamp_shexp", n_layer, default=None) or limit,
        n_hc=keys.integer("hyper_connection.count", 1, 64),
        n_sinkhorn=keys.integer("hyper_connection.sinkhorn_iterations", 1, 1000),
        hc_eps=keys.number("hyper_connection.epsilon", _TINY, 1.0),
        rms_eps=keys.number("attention.layer_norm_rms_epsilon", _TINY, 1.0),
        rope_base=keys.number("rope.freq_base", 1.0, _HUGE),
        rope_base_compress=keys.number("attention.compress_rope_freq_base", 1.0, _HUGE),
        yarn_factor=factor,
        yarn_orig_ctx=orig_ctx,
        yarn_beta_fast=beta_fast,
        yarn_beta_slow=beta_slow,
        name=escape(meta.get_str("general.name", "")),
    )


def mtp_swiglu_limits(file: GGUFFile, shape: Shape) -> tuple[float, float]:
    """Clamps (routed, shared) of the MTP block: the entry behind the trunk's, else its last."""
    keys = _Keys(file.metadata)
    count = shape.n_layer + 1
    limits = []
    for key, fallback in (
        ("swiglu_clamp_exp", shape.swiglu_limit),
        ("swiglu_clamp_shexp", shape.swiglu_limit_shared),
    ):
        value = file.metadata.get(f"{ARCHITECTURE}.{key}")
        if isinstance(value, np.ndarray) and len(value) >= count:
            limits.append(keys.per_layer(key, count)[-1])
        else:
            limits.append(fallback[-1])
    return limits[0], limits[1]


def check_mtp_ratio(file: GGUFFile, shape: Shape) -> None:
    """Refuse an MTP block that is declared with a compressor.

    Raises
    ------
    LayoutError
        If `compress_ratios` has an entry behind the trunk's and it is not 0.
    """
    keys = _Keys(file.metadata)
    key = "attention.compress_ratios"
    ratios = file.metadata.get_ints(f"{ARCHITECTURE}.{key}", 0, max(RATIOS), shape.n_layer)
    if len(ratios) > shape.n_layer and ratios[shape.n_layer]:
        raise keys.error(key, f"0 for the MTP block (layer {shape.n_layer})")


def _n_vocab(file: GGUFFile, keys: _Keys) -> int:
    """Rows of the embedding, or the declared size where the two agree or only one is there."""
    embedding = file.tensors.get(TRUNK["token_embd"])
    rows = None if embedding is None else embedding.shape[0]
    n_vocab = keys.integer("vocab_size", 1, MAX_VOCAB, default=rows)
    if n_vocab is None or not 1 <= n_vocab <= MAX_VOCAB:
        raise keys.error(
            "vocab_size", f"the key, or a {TRUNK['token_embd']} of 1 to {MAX_VOCAB} rows"
        )
    if rows is not None and rows != n_vocab:
        raise keys.error("vocab_size", f"{rows}, the rows of {TRUNK['token_embd']}")
    tokens = file.metadata.get_strings("tokenizer.ggml.tokens", None)
    if tokens is not None and len(tokens) > n_vocab:
        raise file.metadata.error(
            "tokenizer.ggml.tokens", f"at most vocab_size = {n_vocab} strings"
        )
    return n_vocab


def _refuse_unsupported(meta: Metadata, keys: _Keys) -> None:
    """Values that name another computation than the one this engine has."""
    keys.integer("expert_gating_func", GATING_SQRT_SOFTPLUS, GATING_SQRT_SOFTPLUS,
             default=GATING_SQRT_SOFTPLUS)  # fmt: skip
    keys.integer("expert_group_count", 0, 0, default=0)
    keys.integer("expert_group_used_count", 0, 0, default=0)
    if not meta.get_bool(f"{ARCHITECTURE}.expert_weights_norm"):
        raise keys.error("expert_weights_norm", "True")


def _ratios(meta: Metadata, keys: _Keys, n_layer: int) -> tuple[int, ...]:
    key = "attention.compress_ratios"
    values = meta.get_ints(f"{ARCHITECTURE}.{key}", 0, max(RATIOS), n_layer)
    ratios = tuple(int(v) for v in values[:n_layer])
    for layer, ratio in enumerate(ratios):
        if ratio not in RATIOS:
            expected = f"elements 0, 4 or 128 (layer {layer} has {ratio})"
            raise keys.error(key, expected)
    return ratios


def _yarn(meta: Metadata, keys: _Keys, n_ctx: int) -> tuple[float, int, float, float]:
    kind = meta.get_str(f"{ARCHITECTURE}.rope.scaling.type", None)
    if kind not in (None, "none", "yarn"):
        raise keys.error("rope.scaling.type", "'yarn' or 'none'")
    factor = keys.number("rope.scaling.factor", 1.0, 65_536.0, default=1.0)
    if kind == "none":
        factor = 1.0
    scaled = {} if factor != 1.0 else {"default": n_ctx}
    orig_ctx = keys.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT, **scaled)
    beta_fast = keys.number("rope.scaling.yarn_beta_fast", _TINY, 65_536.0, default=32.0)
    beta_slow = keys.number("rope.scaling.yarn_beta_slow", _TINY, 65_536.0, default=1.0)
    if beta_slow > beta_fast:
        raise keys.error("rope.scaling.yarn_beta_slow", f"at most yarn_beta_fast = {beta_fast:g}")
    return factor, orig_ctx, beta_fast, beta_slow
