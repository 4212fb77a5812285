"""Deliberate faults of an opened engine, for negative controls: each must be seen by some test.

A fault changes the engine's shape, weights or ops after opening, the way a mistake in the code
would; sessions made afterwards carry it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from engine.engine import Engine


def _shape(engine: Engine, **changes: Any) -> None:
    shape = replace(engine.shape, **changes)
    engine.shape = shape
    engine.model = replace(engine.model, shape=shape)


def _layers(engine: Engine, change: Callable[[Any], Any]) -> None:
    engine.model = replace(engine.model, layers=tuple(change(x) for x in engine.model.layers))


def _compressor_ape(engine: Engine) -> None:
    def change(layer: Any) -> Any:
        if layer.compressor is None:
            return layer
        ape = np.zeros_like(layer.compressor.ape)
        return replace(layer, compressor=replace(layer.compressor, ape=ape))

    _layers(engine, change)


def _index_ape(engine: Engine) -> None:
    def change(layer: Any) -> Any:
        if layer.indexer is None:
            return layer
        comp = layer.indexer.compressor
        comp = replace(comp, ape=np.zeros_like(comp.ape))
        return replace(layer, indexer=replace(layer.indexer, compressor=comp))

    _layers(engine, change)


def _sinks(value: float) -> Callable[[Engine], None]:
    def fault(engine: Engine) -> None:
        _layers(engine, lambda x: replace(x, sinks=np.full_like(x.sinks, value)))

    return fault


def _router_bias(engine: Engine) -> None:
    def change(layer: Any) -> Any:
        bias = layer.router_bias
        return layer if bias is None else replace(layer, router_bias=np.zeros_like(bias))

    _layers(engine, change)


def _hash_table(engine: Engine) -> None:
    def change(layer: Any) -> Any:
        table = layer.tid2eid
        return layer if table is None else replace(layer, tid2eid=np.roll(table, 1, axis=0))

    _layers(engine, change)


def _clamp(engine: Engine) -> None:
    _layers(engine, lambda x: replace(x, limit=0.0, limit_shared=0.0))


def _comb_transposed(engine: Engine) -> None:
    expand = engine.ops.hc_expand

    def hc_expand(out: Any, y: Any, post: Any, comb: Any, state: Any) -> None:
        turned = np.ascontiguousarray(comb.transpose(0, 2, 1))
        expand(out, y, post, turned, state)

    engine.ops.hc_expand = hc_expand  # type: ignore[method-assign]


def _inverse_rope(engine: Engine) -> None:
    rotate = engine.ops.rope_tail

    def rope_tail(x: Any, cos: Any, sin: Any, inverse: bool) -> None:
        if not inverse:
            rotate(x, cos, sin, inverse)

    engine.ops.rope_tail = rope_tail  # type: ignore[method-assign]


def _late_rope(engine: Engine) -> None:
    """Layers with a compressor turn everything as if it stood one position later than it does,
    but for the compressed rows."""
    make = engine.session

    def session(*args: Any, **options: Any) -> Any:
        made = make(*args, **options)
        table = made.trunk.rope[True]
        at = table.at
        table.at = lambda pos0, n, step=1: at(pos0 + (step == 1), n, step)
        return made

    engine.session = session  # type: ignore[method-assign]


def _top_k(change: Callable[[int], int]) -> Callable[[Engine], None]:
    return lambda engine: _shape(engine, idx_top_k=change(engine.shape.idx_top_k))


FAULTS: dict[str, Callable[[Engine], None]] = {
    "no_sinks": _sinks(-1e30),
    "sinks_zeroed": _sinks(0.0),
    "comb_transposed": _comb_transposed,
    "no_attn_ape": _compressor_ape,
    "no_index_ape": _index_ape,
    "topk_minus_1": _top_k(lambda k: k - 1),
    "topk_plus_1": _top_k(lambda k: k + 1),
    "topk_all": _top_k(lambda k: 4096),
    "window_minus_1": lambda e: _shape(e, n_swa=e.shape.n_swa - 1),
    "window_plus_1": lambda e: _shape(e, n_swa=e.shape.n_swa + 1),
    "no_router_bias": _router_bias,
    "hash_table_off_by_one": _hash_table,
    "clamp_off": _clamp,
    "route_scale_1": lambda e: _shape(e, expert_weights_scale=1.0),
    "compress_theta_1e4": lambda e: _shape(e, rope_base_compress=1e4),
    "yarn_factor_1": lambda e: _shape(e, yarn_factor=1.0),
    "sinkhorn_1": lambda e: _shape(e, n_sinkhorn=1),
    "sinkhorn_10": lambda e: _shape(e, n_sinkhorn=10),
    "hc_eps_1e_3": lambda e: _shape(e, hc_eps=1e-3),
    "no_inverse_rope": _inverse_rope,
    "experts_minus_1": lambda e: _shape(e, n_expert_used=e.shape.n_expert_used - 1),
    "rope_one_late": _late_rope,
    "rms_eps_1e_5": lambda e: _shape(e, rms_eps=1e-5),
}

# Too small to be seen in logits: tests of the op alone catch them (`test_golden.py`).
UNIT_ONLY = ("sinkhorn_10", "rms_eps_1e_5")
