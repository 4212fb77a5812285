"""Activations of one pass, allocated once per session and viewed at the row count of each call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.shape import Shape


def layout(shape: Shape) -> dict[str, tuple[tuple[int, ...], type]]:
    """Name -> (trailing dims, dtype) of every activation that has one row per token."""
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


def scratch_bytes(shape: Shape, chunk: int) -> int:
    """Bytes of a `Scratch` of this many rows, logits rows excluded."""
    return chunk * sum(
        int(np.prod(dims, dtype=np.int64)) * np.dtype(dtype).itemsize
        for dims, dtype in layout(shape).values()
    )


class Scratch:
    """Arrays of `rows` rows; `view(n)` gives the first n of each, cached for the usual n."""

    def __init__(self, ops: Any, shape: Shape, rows: int) -> None:
        self.rows = rows
        self._arrays = {
            name: ops.new_array((rows, *dims), dtype)
            for name, (dims, dtype) in layout(shape).items()
        }
        self._views: dict[int, SimpleNamespace] = {}

    def view(self, n: int) -> SimpleNamespace:
        view = self._views.get(n)
        if view is None:
            view = SimpleNamespace(**{name: a[:n] for name, a in self._arrays.items()})
            n_hc = view.state.shape[1]
            d = view.state.shape[2]
            view.state_flat = view.state.reshape(n, n_hc * d)
            view.heads_grouped = view.heads.reshape(n, view.low.shape[1], -1)
            view.low_flat = view.low.reshape(n, -1)
            view.q_flat = view.q.reshape(n, -1)
            view.idx_q_flat = view.idx_q.reshape(n, -1)
            if len(self._views) > 64:
                self._views.clear()
            self._views[n] = view
        return view
