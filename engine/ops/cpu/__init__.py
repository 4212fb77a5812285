"""CPU kernel set: numba, one order of summation per output whatever the batch or thread count.

`CpuOps` is the set as the engine takes it. The functions of its ops are here by name, for tests and
benchmarks of one op; those that depend on a position take it as a number. `engine.ops.reference`
has the same functions with formulas.
"""

from engine.ops.cpu.attention import attend
from engine.ops.cpu.compressor import compressor_pool, compressor_store
from engine.ops.cpu.embed import embed_hc
from engine.ops.cpu.formats.weight import Weight, prepare, repack_bytes
from engine.ops.cpu.hc import hc_collapse, hc_expand, hc_split
from engine.ops.cpu.indexer import indexer_query, indexer_store, new_index_rows
from engine.ops.cpu.kv import kv_store
from engine.ops.cpu.moe import add, moe_bytes, routed_moe, shared_ffn, swiglu
from engine.ops.cpu.norm import rms_norm
from engine.ops.cpu.ops import CpuOps
from engine.ops.cpu.products import matmul, matmul_grouped, matmul_multi
from engine.ops.cpu.rope import q_norm_rope, rope_tail
from engine.ops.cpu.router import router_hash, router_select
from engine.ops.cpu.runtime.facts import facts, notices
from engine.ops.cpu.runtime.team import set_threads
from engine.ops.cpu.select import indexer_select

__all__ = [
    "CpuOps",
    "Weight",
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
    "moe_bytes",
    "new_index_rows",
    "notices",
    "prepare",
    "q_norm_rope",
    "repack_bytes",
    "rms_norm",
    "rope_tail",
    "routed_moe",
    "router_hash",
    "router_select",
    "set_threads",
    "shared_ffn",
    "swiglu",
]
