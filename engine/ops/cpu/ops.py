"""The CPU kernel set: numba, one order of summation per output whatever the batch or thread count.

It binds functions of the modules beside it to the names of the seam, and computes nothing itself.
"""

from __future__ import annotations

from typing import Any

from engine.ops.cpu.attention import attend
from engine.ops.cpu.compressor import compressor_pool, compressor_store
from engine.ops.cpu.embed import embed_hc
from engine.ops.cpu.formats.weight import prepare
from engine.ops.cpu.hc import hc_collapse, hc_expand, hc_split
from engine.ops.cpu.indexer import indexer_query, indexer_store, new_index_rows
from engine.ops.cpu.kv import kv_store
from engine.ops.cpu.moe import add, routed_moe, shared_ffn
from engine.ops.cpu.norm import rms_norm
from engine.ops.cpu.products import matmul, matmul_grouped, matmul_multi
from engine.ops.cpu.rope import q_norm_rope, rope_tail
from engine.ops.cpu.router import router_hash, router_select
from engine.ops.cpu.runtime.facts import facts, notices
from engine.ops.cpu.runtime.team import set_threads
from engine.ops.cpu.select import indexer_select
from engine.ops.host import HostOps, op
from engine.ops.operands import Windows


class CpuOps(HostOps):
    """See `Backend`."""

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
