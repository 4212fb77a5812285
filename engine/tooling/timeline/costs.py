"""What one launch of a kernel costs by itself on the H100: a fixed part, and a rate for its bytes.

The fixed part is what the recorded table (speed-bench/h100-8-layers-steps.json, pass of one row)
says beyond streaming, less `EVENT` for the two events around a launch and the gap of a graph. What
kernels cost that came after that table is an estimate, and marked.
"""

from __future__ import annotations

from dataclasses import dataclass

EVENT = 2.8  # microseconds that a measured launch takes longer than the same in a graph
TABLE_GAP = 0.9  # of the machine that the table is of
OTHERS = 1.5  # fixed part of a kernel that nobody measured
STREAM = 0.0  # rate of kernels that read as fast as the machine can

# Fixed part in microseconds, and the greatest rate in MB per microsecond where the kernel itself
# limits it. Names end where the format or the number of threads does not matter.
_COSTS = {
    "mm_q8_0_tiled": (4.05, STREAM),
    "mm_f16_tiled": (4.9, STREAM),
    "mm_": (4.5, STREAM),
    "moe_in_": (3.0, 2.2),  # estimate: its codes are asked for ahead now
    "moe_out_": (1.5, 2.2),  # estimate, likewise
    "moe_sum": (1.45, STREAM),
    "moe_forms": (1.1, STREAM),  # estimate
    "quantise_": (0.75, STREAM),
    "split_": (1.5, STREAM),  # estimate
    "swiglu_values": (0.8, STREAM),
    "hc_mix_": (1.95, STREAM),
    "hc_enter_": (5.5, STREAM),  # estimate: the spread is a launch of its own now
    "hc_spread": (3.0, STREAM),  # estimate: sixteen lanes do what one did
    "hc_expand_columns": (0.8, STREAM),
    "attention_f16_part": (4.65, STREAM),
    "attention_f16_whole": (4.65, STREAM),
    "attention_join": (1.7, STREAM),
    "attention_rows_0": (1.9, STREAM),
    "attention_rows_4": (4.8, STREAM),
    "attention_rows_128": (4.15, STREAM),
    "q_norm_rope_heads": (1.85, STREAM),
    "router_top": (8.6, STREAM),
    "router_table": (1.6, STREAM),
    "indexer_query": (1.4, STREAM),
    "indexer_scores": (1.0, STREAM),
    "indexer_top": (0.75, STREAM),
    "indexer_pieces": (0.75, STREAM),  # estimate, as indexer_top
    "indexer_merge": (0.75, STREAM),  # estimate, as indexer_top
    "indexer_store": (0.5, STREAM),
    "embed_": (5.0, STREAM),
    "ring_rows": (0.3, STREAM),
}
# The same of kernels that have changed since, as they are in the table.
_RECORDED = {"moe_in_": (4.3, 1.38), "moe_out_": (2.1, 1.54), "hc_enter_": (12.0, STREAM)}
# What rows that are seen cost more than at position 0, where the table was taken: estimates.
_DEEP = {
    "attention_f16_part": 3.0,
    "attention_join": 3.0,
    "indexer_scores": 3.0,
    "indexer_top": 5.0,
    "indexer_pieces": 5.0,
    "indexer_merge": 3.0,
}
BLOCK_RATE = 0.03  # MB per microsecond that one block of a product reads: estimate


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds that a launch takes at least, and the rate of its bytes; 0: the machine's."""

    fixed: float
    rate: float


def cost_of(kernel: str, *, deep: bool = False, recorded: bool = False) -> Cost:
    """Cost of a kernel by its name; `deep`: over many stored rows; `recorded`: as in the table."""
    found = max((name for name in _COSTS if kernel.startswith(name)), key=len, default="")
    fixed, rate = _COSTS.get(found, (OTHERS, STREAM))
    if recorded:
        fixed, rate = _RECORDED.get(found, (fixed, rate))
    return Cost(fixed + (_DEEP.get(found, 0.0) if deep else 0.0), rate)
