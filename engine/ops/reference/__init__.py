"""Reference kernel set: each op in NumPy float64, with the op's documentation.

It accepts arrays of any float type, computes in float64 and rounds only when it writes; a whole
small model can run on it. Nothing here is fast.
"""

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
from engine.ops.reference.attention import attend
from engine.ops.reference.compressor import compressor_pool, compressor_store
from engine.ops.reference.facts import facts, moe_bytes, notices, repack_bytes, set_threads
from engine.ops.reference.hc import hc_collapse, hc_expand, hc_split
from engine.ops.reference.head import argmax
from engine.ops.reference.indexer import (
    indexer_query,
    indexer_select,
    indexer_store,
    new_index_rows,
)
from engine.ops.reference.kv import kv_store
from engine.ops.reference.matmul import embed_hc, matmul, matmul_grouped, matmul_multi, prepare
from engine.ops.reference.moe import add, routed_moe, shared_ffn, swiglu
from engine.ops.reference.norm import rms_norm
from engine.ops.reference.rope import q_norm_rope, rope_tail
from engine.ops.reference.router import router_hash, router_select

__all__ = [
    "FUSED",
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
