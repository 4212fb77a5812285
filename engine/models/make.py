"""Random weights under which every mechanism of the architecture acts: names, sizes and values.

Widths are chosen so that scores, gates and logits have the spread of a trained model: attention
is neither flat nor one-hot, sinks carry weight, the SwiGLU clamp is met now and then, routers have
clear margins, Sinkhorn needs its iterations. Experts of a layer share half of their variance, so
one changed expert does not swamp every other difference between two computations.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.shape import Shape

SUBLAYER_RMS = 0.5  # output of attention and of the FFN beside an embedding of 1
GATE_STD = 3.5  # of gate and up outputs: one in 450 exceeds the usual clamp of 10
LOGITS_STD = 3.0
DRAFT = "mtp.0."
CHUNK_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class Spec:
    """One tensor to be made.

    Parameters
    ----------
    name : str
        Name in an antirez file; also the key of the tensor's random stream.
    shape : tuple of int
        Row-major: (rows, cols), (n_expert, rows, cols) or (n,).
    kind : str
        One of `recipes.KINDS`.
    std, mean : float
        Of the normal distribution.
    rule : str
        'normal'; 'norm' (log-normal around 1), 'eye' (identity times `mean` plus noise),
        'experts' (a shared part and an own part each) or 'hash' (distinct ids per token).
    n_expert : int
        Number of ids that the rule 'hash' draws from.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    std: float = 0.0
    mean: float = 0.0
    rule: str = "normal"
    n_expert: int = 0


def trunk_specs(shape: Shape) -> Iterator[Spec]:
    """Every tensor of the trunk, in the order of the file."""
    d = shape.n_embd
    yield Spec("token_embd.weight", (shape.n_vocab, d), "embed", 1.0)
    for layer in range(shape.n_layer):
        yield from block_specs(shape, f"blk.{layer}.", layer)
    yield from head_specs(shape, "output_hc_", "output_norm.weight")
    yield Spec("output.weight", (shape.n_vocab, d), "output", LOGITS_STD / math.sqrt(d))


def draft_specs(shape: Shape) -> Iterator[Spec]:
    """Every tensor of the draft block under the names of its own file.

    The projection of the embedding is close to the identity, so the block's state resembles the
    trunk's and a random model's drafts are sometimes right.
    """
    d = shape.n_embd
    yield Spec(f"{DRAFT}e_proj.weight", (d, d), "dense", 0.2 / math.sqrt(d), 1.0, "eye")
    yield Spec(f"{DRAFT}h_proj.weight", (d, d), "dense", 0.3 / math.sqrt(d))
    for name in ("enorm", "hnorm"):
        yield Spec(f"{DRAFT}{name}.weight", (d,), "vector", 0.1, rule="norm")
    yield from block_specs(shape, DRAFT, None)
    yield from head_specs(shape, f"{DRAFT}hc_head_", f"{DRAFT}norm.weight")


def head_specs(shape: Shape, hc: str, norm: str) -> Iterator[Spec]:
    """Tensors that mix the streams into the row which the output matrix multiplies."""
    d, n_hc = shape.n_embd, shape.n_hc
    yield Spec(f"{hc}fn.weight", (n_hc, n_hc * d), "hc", 1 / math.sqrt(n_hc * d))
    yield Spec(f"{hc}base.weight", (n_hc,), "vector", 0.8)
    yield Spec(f"{hc}scale.weight", (1,), "vector", 0.1, 0.8)
    yield Spec(norm, (d,), "vector", 0.15, rule="norm")


def block_specs(shape: Shape, prefix: str, layer: int | None) -> Iterator[Spec]:
    """Tensors of one layer; `layer` None means the draft block (no compressor, no hash)."""
    d = shape.n_embd
    ratio = 0 if layer is None else shape.compress_ratio(layer)
    for half in ("attn", "ffn"):
        fan_in = shape.n_hc * d
        yield Spec(f"{prefix}hc_{half}_fn.weight", (shape.hc_mix, fan_in), "hc", fan_in**-0.5)
        yield Spec(f"{prefix}hc_{half}_base.weight", (shape.hc_mix,), "vector", 1.2)
        yield Spec(f"{prefix}hc_{half}_scale.weight", (3,), "vector", 0.15, 0.8)
    yield Spec(f"{prefix}attn_norm.weight", (d,), "vector", 0.2, rule="norm")
    yield from _attention_specs(shape, prefix)
    if ratio:
        yield from _compressor_specs(
            shape, f"{prefix}attn_compressor_", ratio, shape.comp_width(ratio), shape.head_dim
        )
    if ratio == 4:
        n_idx = shape.n_idx_head
        q_cols = shape.n_lora_q
        yield Spec(
            f"{prefix}indexer.attn_q_b.weight",
            (n_idx * shape.idx_head_dim, q_cols),
            "indexer_q",
            q_cols**-0.5,
        )
        yield Spec(f"{prefix}indexer.proj.weight", (n_idx, d), "indexer", 1 / math.sqrt(d))
        yield from _compressor_specs(
            shape, f"{prefix}indexer_compressor_", 4, shape.idx_comp_width(), shape.idx_head_dim
        )
    yield Spec(f"{prefix}ffn_norm.weight", (d,), "vector", 0.2, rule="norm")
    yield from _ffn_specs(shape, prefix, layer)


def _attention_specs(shape: Shape, prefix: str) -> Iterator[Spec]:
    d, q = shape.n_embd, shape.n_lora_q
    o_rows = shape.n_out_group * shape.n_lora_o
    yield Spec(f"{prefix}attn_q_a.weight", (q, d), "dense", d**-0.5)
    yield Spec(f"{prefix}attn_q_a_norm.weight", (q,), "vector", 0.2, rule="norm")
    yield Spec(f"{prefix}attn_q_b.weight", (shape.n_head * shape.head_dim, q), "dense", q**-0.5)
    yield Spec(f"{prefix}attn_kv.weight", (shape.head_dim, d), "dense", d**-0.5)
    # Query heads have unit RMS, so this norm alone sets the spread of the scores (about 1.5).
    yield Spec(f"{prefix}attn_kv_a_norm.weight", (shape.head_dim,), "vector", 0.2, 0.4, "norm")
    # Against some hundred rows of scores with that spread, sinks around 3 hold a real share.
    yield Spec(f"{prefix}attn_sinks.weight", (shape.n_head,), "vector", 1.5, 3.0)
    yield Spec(
        f"{prefix}attn_output_a.weight", (o_rows, shape.group_dim), "dense", shape.group_dim**-0.5
    )
    yield Spec(
        f"{prefix}attn_output_b.weight", (d, o_rows), "dense", 1.5 * SUBLAYER_RMS * o_rows**-0.5
    )


def _compressor_specs(
    shape: Shape, prefix: str, ratio: int, width: int, out_dim: int
) -> Iterator[Spec]:
    d = shape.n_embd
    yield Spec(f"{prefix}kv.weight", (width, d), "compressor", d**-0.5)
    yield Spec(f"{prefix}gate.weight", (width, d), "compressor", 1.2 * d**-0.5)
    yield Spec(f"{prefix}ape.weight", (ratio, width), "ape", 0.7)
    yield Spec(f"{prefix}norm.weight", (out_dim,), "vector", 0.2, 0.3, "norm")


def _ffn_specs(shape: Shape, prefix: str, layer: int | None) -> Iterator[Spec]:
    d, ff, n = shape.n_embd, shape.n_ff_exp, shape.n_expert
    yield Spec(f"{prefix}ffn_gate_inp.weight", (n, d), "router", 1.2 * d**-0.5)
    if layer is not None and layer < shape.n_hash_layer:
        n_used = shape.n_expert_used
        yield Spec(
            f"{prefix}ffn_gate_tid2eid.weight",
            (shape.n_vocab, n_used),
            "table",
            rule="hash",
            n_expert=n,
        )
    else:
        yield Spec(f"{prefix}exp_probs_b.bias", (n,), "vector", 0.15)
    in_std = GATE_STD * d**-0.5
    # silu(gate) * up of two such normals has an RMS near 0.55 of the product of their widths.
    out_std = 0.7 * SUBLAYER_RMS / (0.55 * GATE_STD**2) * ff**-0.5
    for name, rows, cols, kind, std in (
        ("gate", ff, d, "expert_in", in_std),
        ("up", ff, d, "expert_in", in_std),
        ("down", d, ff, "expert_out", out_std),
    ):
        yield Spec(f"{prefix}ffn_{name}_exps.weight", (n, rows, cols), kind, std, rule="experts")
        yield Spec(f"{prefix}ffn_{name}_shexp.weight", (rows, cols), "dense", std)


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of one tensor: independent of which other tensors are made."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def chunks(spec: Spec, seed: int) -> Iterator[np.ndarray]:
    """Values of a tensor in order, as pieces of whole rows that fit in a modest buffer.

    Yields
    ------
    float32 arrays of shape (n_row, cols), or int32 for the rule 'hash'
    """
    rng = stream(seed, spec.name)
    if spec.rule == "experts":
        shared = rng.standard_normal(spec.shape[1:], np.float32)
        for _ in range(spec.shape[0]):
            own = rng.standard_normal(spec.shape[1:], np.float32)
            own += shared
            own *= np.float32(spec.std * math.sqrt(0.5))
            yield own
        return
    cols = spec.shape[-1]
    n_rows = math.prod(spec.shape[:-1])
    step = max(1, CHUNK_VALUES // cols)
    for start in range(0, n_rows, step):
        n = min(step, n_rows - start)
        if spec.rule == "hash":
            keys = rng.random((n, spec.n_expert), np.float32)
            yield np.argsort(keys, axis=1)[:, :cols].astype(np.int32)
            continue
        out = rng.standard_normal((n, cols), np.float32)
        out *= np.float32(spec.std)
        if spec.rule == "eye":
            diagonal = np.arange(n)
            out[diagonal, start + diagonal] += np.float32(spec.mean)
        else:
            out += np.float32(spec.mean)
        yield np.exp(out, out=out) if spec.rule == "norm" else out


def draw(spec: Spec, seed: int) -> np.ndarray:
    """All values of a tensor: float32 (int32 for the rule 'hash') array of `spec.shape`."""
    return np.concatenate(list(chunks(spec, seed))).reshape(spec.shape)
