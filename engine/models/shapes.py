"""Named model shapes: small ones for tests, a middle one for speed, and slices of the real one.

Small shapes obey what other engines need: head_dim differs from the indexer's 128 and exceeds the
64 RoPE dims by a multiple of 64; columns of expert matrices are multiples of 256 (K-quants); at
least 16 indexer heads, since with fewer all of them can be exactly 0 and scores tie.
"""

from __future__ import annotations

import re
from dataclasses import replace

from engine.errors import OptionError
from engine.shape import Shape

MAX_FLASH_LAYERS = 43


def _shape(name: str, ratios: tuple[int, ...], **dims: object) -> Shape:
    defaults = dict(
        n_ctx_train=131072,
        n_rot=64,
        n_swa=128,
        idx_head_dim=128,
        n_idx_head=16,
        n_expert_shared=1,
        expert_weights_scale=1.5,
        swiglu_limit=(10.0,) * len(ratios),
        swiglu_limit_shared=(10.0,) * len(ratios),
        n_hc=4,
        n_sinkhorn=20,
        hc_eps=1e-6,
        rms_eps=1e-6,
        rope_base=10000.0,
        rope_base_compress=160000.0,
        yarn_factor=16.0,
        yarn_orig_ctx=65536,
        yarn_beta_fast=32.0,
        yarn_beta_slow=1.0,
    )
    defaults.update(dims)
    return Shape(name=name, n_layer=len(ratios), compress_ratios=ratios, **defaults)  # type: ignore[arg-type]


def nano() -> Shape:
    """10 M parameters, the bundled model: fast enough for a full sweep on two cores."""
    return _shape(
        "nano",
        (0, 0, 4, 128, 4),
        n_vocab=1024,
        n_embd=256,
        n_head=4,
        head_dim=192,
        n_lora_q=128,
        n_lora_o=128,
        n_out_group=2,
        idx_top_k=64,
        n_expert=6,
        n_expert_used=2,
        n_ff_exp=256,
        n_hash_layer=2,
    )


def tiny() -> Shape:
    """24 M parameters, the shape on which independent engines were compared; top-k acts early."""
    return _shape(
        "tiny",
        (0, 0, 4, 128, 4, 128),
        n_vocab=2048,
        n_embd=256,
        n_head=4,
        head_dim=256,
        n_lora_q=256,
        n_lora_o=128,
        n_out_group=2,
        idx_top_k=16,
        n_expert=16,
        n_expert_used=4,
        n_ff_exp=256,
        n_hash_layer=3,
    )


def tiny_wide() -> Shape:
    """Unequal everything: hidden 512, 6 heads of 320, 3 groups, 5 experts top 3, no YaRN.

    Its constants differ from Flash's too, so an engine that takes one for granted is found out.
    """
    return _shape(
        "tiny-wide",
        (4, 0, 128, 4),
        n_vocab=768,
        n_embd=512,
        n_head=6,
        head_dim=320,
        n_lora_q=192,
        n_lora_o=96,
        n_out_group=3,
        n_idx_head=24,
        idx_top_k=24,
        n_expert=5,
        n_expert_used=3,
        n_ff_exp=512,
        n_hash_layer=0,
        swiglu_limit=(10.0, 7.0, 10.0, 5.0),
        swiglu_limit_shared=(10.0, 7.0, 10.0, 5.0),
        expert_weights_scale=2.0,
        n_sinkhorn=5,
        hc_eps=1e-4,
        rms_eps=1e-4,
        rope_base=5000.0,
        rope_base_compress=80000.0,
        yarn_factor=1.0,
    )


def micro() -> Shape:
    """3 M parameters with every mechanism: the quickest to make and to run."""
    return _shape(
        "micro",
        (0, 4, 128, 4),
        n_vocab=512,
        n_embd=256,
        n_head=2,
        head_dim=192,
        n_lora_q=64,
        n_lora_o=64,
        n_out_group=1,
        idx_top_k=8,
        n_expert=4,
        n_expert_used=2,
        n_ff_exp=256,
        n_hash_layer=1,
        yarn_factor=4.0,
        yarn_orig_ctx=4096,
        n_ctx_train=16384,
    )


def mid() -> Shape:
    """0.9 G parameters, for speed: its matrices leave the caches but load in a second."""
    return _shape(
        "mid",
        (0, 0, 4, 128, 4, 128, 4, 128),
        n_vocab=8192,
        n_embd=1024,
        n_head=16,
        head_dim=512,
        n_lora_q=512,
        n_lora_o=256,
        n_out_group=8,
        idx_top_k=512,
        n_expert=32,
        n_expert_used=6,
        n_ff_exp=1024,
        n_hash_layer=3,
    )


def flash(n_layer: int = MAX_FLASH_LAYERS) -> Shape:
    """DeepSeek V4 Flash's own dimensions, cut to the first n_layer layers.

    Raises
    ------
    OptionError
        If n_layer is not 1 to 43.
    """
    if not 1 <= n_layer <= MAX_FLASH_LAYERS:
        raise OptionError(f"shape: expected 1 to {MAX_FLASH_LAYERS} flash layers, found {n_layer}")
    ratios = tuple(0 if i < 2 else 4 if i % 2 == 0 else 128 for i in range(n_layer))
    return _shape(
        f"flash-{n_layer}-layers",
        ratios,
        n_vocab=129280,
        n_ctx_train=1048576,
        n_embd=4096,
        n_head=64,
        head_dim=512,
        n_lora_q=1024,
        n_lora_o=1024,
        n_out_group=8,
        n_idx_head=64,
        idx_top_k=512,
        n_expert=256,
        n_expert_used=6,
        n_ff_exp=2048,
        n_hash_layer=min(3, n_layer),
    )


NAMED = {"nano": nano, "micro": micro, "tiny": tiny, "tiny-wide": tiny_wide, "mid": mid}


def named_shape(name: str) -> Shape:
    """The shape that a command line names: a key of `NAMED` or ``flash-N-layers``.

    Raises
    ------
    OptionError
        If there is no such shape.
    """
    if name in NAMED:
        return NAMED[name]()
    match = re.fullmatch(r"flash-([0-9]{1,3})-layers", name)
    if match is None:
        known = ", ".join(NAMED)
        raise OptionError(f"shape: expected one of {known}, flash-N-layers, found {name!r}")
    return flash(int(match[1]))


def mtp_block(shape: Shape) -> Shape:
    """`shape` with the draft block appended as one more layer: no compressor, no hash table."""
    return replace(
        shape,
        n_layer=shape.n_layer + 1,
        compress_ratios=(*shape.compress_ratios, 0),
        swiglu_limit=(*shape.swiglu_limit, shape.swiglu_limit[-1]),
        swiglu_limit_shared=(*shape.swiglu_limit_shared, shape.swiglu_limit_shared[-1]),
    )
