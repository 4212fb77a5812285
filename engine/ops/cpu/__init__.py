"""CPU kernel set: numba, one order of summation per output whatever the batch or thread count.

`engine.ops.reference` documents every op; the files here have the same names where they can.
"""

from engine.ops.cpu.attention import attend
from engine.ops.cpu.compressor import compressor_pool, compressor_store
from engine.ops.cpu.embed import argmax, embed_hc
from engine.ops.cpu.formats.weight import Weight, prepare, repack_bytes
from engine.ops.cpu.hc import hc_collapse, hc_expand, hc_split
from engine.ops.cpu.indexer import indexer_query, indexer_store, new_index_rows
from engine.ops.cpu.kv import kv_store
from engine.ops.cpu.moe import add, moe_bytes, routed_moe, shared_ffn, swiglu
from engine.ops.cpu.norm import rms_norm
from engine.ops.cpu.products import matmul, matmul_grouped, matmul_multi
from engine.ops.cpu.rope import q_norm_rope, rope_tail
from engine.ops.cpu.router import router_hash, router_select
from engine.ops.cpu.runtime.facts import facts, notices
from engine.ops.cpu.runtime.jit import set_threads
from engine.ops.cpu.select import indexer_select
from engine.ops.host import (
    FUSED,
    add_streams,
    close,
    free_bytes,
    new_array,
    new_kv_rows,
    ring_get,
    ring_put,
    ring_set,
    rope_table,
    run,
    vector,
    wait,
    windows,
)

__all__ = [
    "FUSED",
    "Weight",
    "add",
    "add_streams",
    "argmax",
    "attend",
    "close",
    "compressor_pool",
    "compressor_store",
    "embed_hc",
    "facts",
    "free_bytes",
    "hc_collapse",
    "hc_expand",
    "hc_split",
    "indexer_query",
    "indexer_select",
    "indexer_store",
    "kv_store",
    "matmul",
    "matmul_grouped",
    "matmul_multi",
    "moe_bytes",
    "new_array",
    "new_index_rows",
    "new_kv_rows",
    "notices",
    "prepare",
    "q_norm_rope",
    "repack_bytes",
    "ring_get",
    "ring_put",
    "ring_set",
    "rms_norm",
    "rope_table",
    "rope_tail",
    "routed_moe",
    "router_hash",
    "router_select",
    "run",
    "set_threads",
    "shared_ffn",
    "swiglu",
    "vector",
    "wait",
    "windows",
]
