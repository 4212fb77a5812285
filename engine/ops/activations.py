"""The activations of one pass as a record with documented shapes.

It knows shapes and types only: who allocates the arrays, and how many rows they have, is the
caller's matter (see `engine.forward.scratch`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from engine.ops.operands import Array
from engine.shape import Shape


@dataclass(slots=True)
class Activations:
    """Arrays of the n rows of a pass; an op overwrites what it is given as its output.

    W is the width of a compressor's projections: 2 * head_dim for ratio 4, head_dim for 128. All
    arrays are float32 but those marked int32. Names that end in _flat or _grouped are other views
    of the array of that name.
    """

    tokens: Array  # int32 (n,)
    state: Array  # (n, n_hc, n_embd): the residual streams
    state_flat: Array  # (n, n_hc * n_embd)
    # A sublayer's way in (`Backend.enter`) and the output head's.
    flat: Array  # (n, n_hc * n_embd): state, normed
    mix: Array  # (n, hc_mix): logits of the mixing weights
    head_mix: Array  # (n, n_hc): likewise for the output head
    post: Array  # (n, n_hc): how the sublayer's output is spread over streams
    comb: Array  # (n, n_hc, n_hc): how old streams go into new ones
    x: Array  # (n, n_embd): streams mixed into one row
    a: Array  # (n, n_embd): that row, normed; the sublayer's input
    y: Array  # (n, n_embd): the sublayer's output
    # Attention.
    q_a: Array  # (n, n_lora_q): queries' low rank
    q: Array  # (n, n_head, head_dim)
    q_flat: Array  # (n, n_head * head_dim)
    kv: Array  # (n, head_dim): the row that is key and value, not finished yet
    comp_kv: Array  # (n, W of ratio 4): the compressor's values
    comp_gate: Array  # (n, W of ratio 4): and its gates
    comp_kv_128: Array  # (n, W of ratio 128)
    comp_gate_128: Array  # (n, W of ratio 128)
    pooled: Array  # (n, head_dim): windows that end in the pass; at most n of them
    heads: Array  # (n, n_head, head_dim): attention's output
    heads_grouped: Array  # (n, n_out_group, n_head * head_dim / n_out_group)
    low: Array  # (n, n_out_group, n_lora_o): output's low rank
    low_flat: Array  # (n, n_out_group * n_lora_o)
    # The indexer.
    idx_kv: Array  # (n, 2 * idx_head_dim)
    idx_gate: Array  # (n, 2 * idx_head_dim)
    idx_q: Array  # (n, n_idx_head, idx_head_dim)
    idx_q_flat: Array  # (n, n_idx_head * idx_head_dim)
    idx_w: Array  # (n, n_idx_head): weights of the heads' scores
    idx_pooled: Array  # (n, idx_head_dim)
    sel: Array  # int32 (n, idx_top_k): compressed rows that are seen, ascending
    n_sel: Array  # int32 (n,): how many of `sel` count
    sel_margin: Array  # (n,): score of the last row kept minus the first dropped
    # Feed-forward.
    logits_r: Array  # (n, n_expert): the router's
    ids: Array  # int32 (n, n_expert_used)
    weights: Array  # (n, n_expert_used)
    margin: Array  # (n,): as sel_margin, of experts
    shared: Array  # (n, n_embd): the shared expert's output

    def compressor_rows(self, ratio: int) -> tuple[Array, Array]:
        """Values and gates of the compressor of a layer with this ratio."""
        if ratio == 4:
            return self.comp_kv, self.comp_gate
        return self.comp_kv_128, self.comp_gate_128


def layout(shape: Shape) -> dict[str, tuple[tuple[int, ...], type]]:
    """Name -> (trailing dims, dtype) of every activation that is an array of its own."""
    s = shape
    d, f, i = s.n_embd, np.float32, np.int32
    wide = s.comp_width(4) if 4 in s.compress_ratios else s.comp_width(128)
    return {
        "tokens": ((), i),
        "state": ((s.n_hc, d), f),
        "flat": ((s.n_hc * d,), f),
        "mix": ((s.hc_mix,), f),
        "post": ((s.n_hc,), f),
        "comb": ((s.n_hc, s.n_hc), f),
        "x": ((d,), f),
        "a": ((d,), f),
        "y": ((d,), f),
        "q_a": ((s.n_lora_q,), f),
        "q": ((s.n_head, s.head_dim), f),
        "kv": ((s.head_dim,), f),
        "comp_kv": ((wide,), f),
        "comp_gate": ((wide,), f),
        "comp_kv_128": ((s.head_dim,), f),
        "comp_gate_128": ((s.head_dim,), f),
        "idx_kv": ((s.idx_comp_width(),), f),
        "idx_gate": ((s.idx_comp_width(),), f),
        "idx_q": ((s.n_idx_head, s.idx_head_dim), f),
        "idx_w": ((s.n_idx_head,), f),
        "sel": ((max(s.idx_top_k, 1),), i),
        "n_sel": ((), i),
        "sel_margin": ((), f),
        "heads": ((s.n_head, s.head_dim), f),
        "low": ((s.n_out_group, s.n_lora_o), f),
        "logits_r": ((s.n_expert,), f),
        "ids": ((s.n_expert_used,), i),
        "weights": ((s.n_expert_used,), f),
        "margin": ((), f),
        "shared": ((d,), f),
        "head_mix": ((s.n_hc,), f),
        # At most one pooled row per window; windows are at least 4 tokens long.
        "pooled": ((s.head_dim,), f),
        "idx_pooled": ((s.idx_head_dim,), f),
    }


def first_rows(arrays: dict[str, Array], shape: Shape, n: int) -> Activations:
    """The first n rows of arrays made after `layout`, as views."""
    rows = {name: array[:n] for name, array in arrays.items()}
    rows["state_flat"] = rows["state"].reshape(n, -1)
    rows["heads_grouped"] = rows["heads"].reshape(n, shape.n_out_group, -1)
    rows["low_flat"] = rows["low"].reshape(n, -1)
    rows["q_flat"] = rows["q"].reshape(n, -1)
    rows["idx_q_flat"] = rows["idx_q"].reshape(n, -1)
    return Activations(**{f.name: rows[f.name] for f in fields(Activations)})
