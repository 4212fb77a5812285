"""Reference kernel set: each op in NumPy float64, with its formula.

It accepts arrays of any float type, computes in float64 and rounds only when it writes; a whole
small model can run on it. Nothing here is fast. `ReferenceOps` is the set as the engine takes it;
the functions of its ops are here by name.
"""

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
from engine.ops.reference.moe import add, routed_moe, shared_ffn, swiglu
from engine.ops.reference.norm import rms_norm
from engine.ops.reference.ops import ReferenceOps
from engine.ops.reference.rope import q_norm_rope, rope_tail
from engine.ops.reference.router import router_hash, router_select

__all__ = [
    "ReferenceOps",
    "add",
    "attend",
    "compressor_pool",
    "compressor_store",
    "embed_hc",
    "facts",
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
    "new_index_rows",
    "notices",
    "prepare",
    "q_norm_rope",
    "ring_mean",
    "rms_norm",
    "rope_tail",
    "routed_moe",
    "router_hash",
    "router_select",
    "set_threads",
    "shared_ffn",
    "swiglu",
]
