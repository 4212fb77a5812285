"""The published model's KV numerics, added to the HF graph, which runs without them.

Raw and compressed KV rows: FP8 E4M3 round trip of the dims without RoPE (blocks of 64, power of
two scales), then every cached value rounded to float16. Indexer queries and rows: Hadamard
transform of 128, then FP4 E2M1 round trip (blocks of 32). Source: DeepSeek-V4's published
inference code (act_quant, fp4_act_quant, rotate_activation). FP8 rounding is torch's own.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from scipy.linalg import hadamard
from transformers import DeepseekV4Config, DynamicCache
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as modeling


def _scale(amax: torch.Tensor, top: float) -> torch.Tensor:
    # frexp gives m * 2^e with m in [0.5, 1): the next power of two, exactly, without log2.
    mantissa, exponent = torch.frexp(amax / top)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.ldexp(torch.ones_like(amax), exponent)


def fp8_round_trip(x: torch.Tensor) -> torch.Tensor:
    """E4M3 round trip of float32 `x` in blocks of 64 along the last axis."""
    blocks = x.reshape(*x.shape[:-1], x.shape[-1] // 64, 64)
    scale = _scale(blocks.abs().amax(-1, keepdim=True).clamp(min=1e-4), 448.0)
    coded = (blocks / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    return (coded.float() * scale).reshape(x.shape)


def fp4_round_trip(x: torch.Tensor) -> torch.Tensor:
    """E2M1 round trip of float32 `x` in blocks of 32 along the last axis; ties to even codes."""
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    blocks = x.reshape(*x.shape[:-1], x.shape[-1] // 32, 32)
    scale = _scale(blocks.abs().amax(-1, keepdim=True).clamp(min=6 * 2.0**-126), 6.0)
    y = blocks / scale
    distance = (y.abs().clamp(max=6).unsqueeze(-1) - values).abs()
    # argmin takes the first of equals; listing the even codes first makes ties go to them.
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    code = order[distance[..., order].argmin(-1)]
    return (torch.copysign(values[code], y) * scale).reshape(x.shape)


def kv_row(x: torch.Tensor, n_rot: int) -> torch.Tensor:
    """A cached attention row (..., head_dim)."""
    nope = fp8_round_trip(x[..., :-n_rot])
    return torch.cat([nope, x[..., -n_rot:]], -1).half().float()


def index_row(x: torch.Tensor) -> torch.Tensor:
    """An indexer query or cached row (..., 128)."""
    d = x.shape[-1]
    h = torch.from_numpy(hadamard(d)).float() * d**-0.5
    return fp4_round_trip(x @ h)


def official_cache(config: DeepseekV4Config) -> DynamicCache:
    """A cache whose layers store rounded rows and hand those to attention."""
    cache = DynamicCache(config=config)
    n_rot = config.qk_rope_head_dim

    def wrap(layer):
        update = layer.update
        layer.update = lambda k, v, *a, **kw: update(*[kv_row(k, n_rot)] * 2, *a, **kw)
        if hasattr(layer, "update_compressor_states"):
            append = layer.update_compressor_states

            def rounded(name, rows):
                rows = index_row(rows) if name == "indexer" else kv_row(rows, n_rot)
                return append(name, rows)

            layer.update_compressor_states = rounded

    for layer in cache.layers:
        wrap(layer)
    return cache


@contextmanager
def official_queries(model: torch.nn.Module):
    """Round the indexer's queries inside the block."""
    handles = [
        m.register_forward_pre_hook(lambda _m, a: (index_row(a[0]), *a[1:]))
        for m in model.modules()
        if isinstance(m, modeling.DeepseekV4IndexerScorer)
    ]
    try:
        yield
    finally:
        for h in handles:
            h.remove()
