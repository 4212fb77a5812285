"""The reference kernel set: every op in NumPy float64, rounded only when it writes.

A whole small model can run on it, and every other set is compared with it. It is not fast.
"""

from __future__ import annotations

from typing import Any

from engine.ops.host import HostOps, op
from engine.ops.operands import Windows
from engine.ops.reference.attention import attend
from engine.ops.reference.compressor import compressor_pool, compressor_store
from engine.ops.reference.facts import facts, notices, set_threads
from engine.ops.reference.hc import hc_collapse, hc_expand, hc_split, ring_mean
from engine.ops.reference.indexer import (
    indexer_query,
    indexer_select,
    indexer_store,
    new_index_rows,
)
from engine.ops.reference.kv import kv_store
from engine.ops.reference.matmul import embed_hc, matmul, matmul_grouped, matmul_multi, prepare
from engine.ops.reference.moe import add, routed_moe, shared_ffn
from engine.ops.reference.norm import rms_norm
from engine.ops.reference.rope import q_norm_rope, rope_tail
from engine.ops.reference.router import router_hash, router_select


class ReferenceOps(HostOps):
    """See `Backend`; the functions that are named here say which formula each op is."""

    set_threads = op(set_threads)
    prepare = op(prepare)
    facts = op(facts)
    notices = op(notices)
    new_index_rows = op(new_index_rows)

    embed_hc = op(embed_hc)
    matmul = op(matmul)
    matmul_multi = op(matmul_multi)
    matmul_grouped = op(matmul_grouped)

    rms_norm = op(rms_norm)
    q_norm_rope = op(q_norm_rope)
    rope_tail = op(rope_tail)
    hc_split = op(hc_split)
    hc_expand = op(hc_expand)
    hc_collapse = op(hc_collapse)
    ring_mean = op(ring_mean)
    add = op(add)

    kv_store = op(kv_store)
    compressor_pool = op(compressor_pool)
    indexer_query = op(indexer_query)
    indexer_select = op(indexer_select)
    attend = op(attend)

    router_select = op(router_select)
    router_hash = op(router_hash)
    routed_moe = op(routed_moe)
    shared_ffn = op(shared_ffn)

    def compressor_store(
        self,
        rows: Any,
        pooled: Any,
        weight: Any,
        windows: Windows,
        pos0: Any,
        eps: float,
        official: bool,
    ) -> None:
        angles = windows.cos, windows.sin
        compressor_store(rows, pos0 // windows.ratio, pooled, weight, *angles, eps, official)

    def indexer_store(
        self,
        rows: Any,
        pooled: Any,
        weight: Any,
        windows: Windows,
        pos0: Any,
        eps: float,
        official: bool,
    ) -> None:
        angles = windows.cos, windows.sin
        indexer_store(rows, pos0 // windows.ratio, pooled, weight, *angles, eps, official)
