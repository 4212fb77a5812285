"""CPU kernel set: numba, one order of summation per output whatever the batch or thread count.

`engine.ops.reference` documents every op; the files here have the same names where they can.
"""

from engine.ops.cpu.attention import attend
from engine.ops.cpu.compressor import compressor_pool, compressor_store
from engine.ops.cpu.hc import hc_collapse, hc_expand, hc_split
from engine.ops.cpu.indexer import indexer_query, indexer_store, new_index_rows
from engine.ops.cpu.kv import kv_store
from engine.ops.cpu.norm import rms_norm
from engine.ops.cpu.rope import q_norm_rope, rope_tail
from engine.ops.cpu.router import router_hash, router_select
from engine.ops.cpu.select import indexer_select

__all__ = [
    "attend",
    "compressor_pool",
    "compressor_store",
    "hc_collapse",
    "hc_expand",
    "hc_split",
    "indexer_query",
    "indexer_select",
    "indexer_store",
    "kv_store",
    "new_index_rows",
    "q_norm_rope",
    "rms_norm",
    "rope_tail",
    "router_hash",
    "router_select",
]
