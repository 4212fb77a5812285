"""The CUDA kernel set: the ops of `engine.ops.base` on one device, passes recorded and replayed.

Every op is a thin call of its module's function; what `Backend` documents is not repeated here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from functools import wraps
from typing import Any

import numpy as np

from engine.errors import NonFiniteError
from engine.ops.composed import ComposedOps
from engine.ops.cuda.attention import attention, attention_rows, indexer, select
from engine.ops.cuda.device import store
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context, Recording
from engine.ops.cuda.device.residency import open_residency
from engine.ops.cuda.device.variant import STEPS
from engine.ops.cuda.hyper import hc, hc_enter
from engine.ops.cuda.memory import copy_bytes
from engine.ops.cuda.passes import RecordedPass, horizon_of
from engine.ops.cuda.products import experts, pack, products
from engine.ops.cuda.rows import argmax, compressor, embed, kv, norm, rings, rope, router
from engine.ops.device import Bar, PassTimes
from engine.ops.operands import (
    AngleTable,
    Compressor,
    Layer,
    LayerCache,
    PassKey,
    Position,
    Rings,
    Span,
    Windows,
)
from engine.options import EngineOptions
from engine.shape import Shape
from engine.weights.tensor import Tensor

GRAPH_ROWS = 16  # passes of up to this many rows are replayed as graphs: decode and verification
_Angles = tuple[DeviceArray, DeviceArray]
KEPT_PASSES = 48  # recorded passes per owner; the one that was not run for longest is dropped


def _op(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that is `function` on the set's context."""

    @wraps(function)
    def op(self: Any, *args: Any) -> Any:
        return function(self.ctx, *args)

    return op


class CudaOps(ComposedOps):
    """Ops on one device.

    Parameters
    ----------
    ctx : Context
    launch : {'graph', 'prepared', 'numba'}
        How recorded passes are replayed.
    residency : object, optional
        Decides where a tensor's bytes live and copies them there; by default all are copied.
    """

    def __init__(self, ctx: Context, launch: str = "graph", residency: Any = None) -> None:
        self.ctx = ctx
        self.launch = launch
        self.residency = residency
        self._passes: weakref.WeakKeyDictionary[Any, dict[PassKey, RecordedPass]]
        self._passes = weakref.WeakKeyDictionary()
        self._banned: dict[bytes, DeviceArray] = {}
        self._launches: dict[str, int] = {}

    # Memory and passes

    reads_wait = True

    def new_array(self, shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceArray:
        return self.ctx.zeros(shape, dtype)

    def new_kv_rows(self, cap: int, dim: int, official: bool) -> DeviceArray:
        """Official rows are rounded to float16 anyway, so they are stored as float16."""
        return self.ctx.zeros((cap, dim), np.float16 if official else np.float32)

    def vector(self, values: np.ndarray) -> DeviceArray:
        return self.ctx.put(np.ascontiguousarray(values))

    def rope_table(self, table: AngleTable, n_positions: int) -> _Angles:
        """Cosines and sines of every position, (n_positions, n_rot // 2) each, on the device."""
        cos, sin = table.at(0, n_positions)
        return self.vector(cos), self.vector(sin)

    def rotation(self, table: Any, pos0: Position, n: int) -> _Angles:
        """The whole table: kernels index it by the position of the pass, which is this one."""
        assert pos0 is self.ctx.pos, pos0
        return table

    def windows(self, table: Any, pos0: Position, n: int, ratio: int) -> Windows:
        """As many as can end in n rows; kernels leave out those that do not."""
        assert pos0 is self.ctx.pos, pos0
        return Windows(ratio, n, (n + ratio - 1) // ratio, *table)

    def free_bytes(self) -> int:
        return self.ctx.device.free_bytes()

    def run(
        self, owner: object, key: PassKey | None, pos0: int, body: Callable[[Position], None]
    ) -> None:
        """Run a pass, recording it, or replay the owner's recorded pass of this key."""
        ctx = self.ctx
        ctx.forget()
        ctx.set_position(pos0)
        if key is None:
            try:
                body(ctx.pos)
            finally:
                ctx.settle()  # after an error too: nothing of this pass may wait for the next
                ctx.forget()
            return
        horizon = horizon_of(pos0 + int(key[1]))
        key = (*key, horizon)
        passes = self._passes.setdefault(owner, {})
        known = passes.pop(key, None)
        if known is not None:
            passes[key] = known  # the one that was run last is dropped last
            known.pos0 = pos0
            known.program.replay()
        else:
            steps = getattr(ctx.device, "steps", STEPS)
            ctx.horizon = horizon if "horizon" in steps else None
            try:
                with ctx.recording() as log:
                    body(ctx.pos)
            finally:
                ctx.horizon = None
            name, rows = key[0], int(key[1])
            self._launches[f"{name}, {rows} rows"] = sum(e.kind == "launch" for e in log)
            while len(passes) >= KEPT_PASSES:
                passes.pop(next(iter(passes)))
            mode = self.launch if rows <= GRAPH_ROWS or self.launch != "graph" else "prepared"
            passes[key] = RecordedPass(ctx.device.program(log, mode), log, pos0)
        ctx.forget()

    ring_put = _op(rings.ring_put)
    ring_mean = _op(rings.ring_mean)

    def ring_set(self, ring: Any, first: int, rows: np.ndarray) -> None:
        for at, start, stop in rings.pieces_of(len(ring), first, len(rows)):
            ring[at : at + stop - start] = rows[start:stop]

    def ring_get(self, ring: Any, first: int, n: int) -> DeviceArray:
        """A view where the rows lie together, else a copy."""
        pieces = rings.pieces_of(len(ring), first, n)
        if len(pieces) <= 1:
            at = first % len(ring)
            return ring[at : at + n]
        out = self.ctx.empty((n, *ring.shape[1:]), ring.dtype)
        for at, start, stop in pieces:
            self.ctx.copy(out[start:stop], ring[at : at + stop - start])
        return out

    add_streams = _op(rings.add_streams)

    # Weights

    def arrange(
        self,
        tensors: Sequence[Tensor],
        drafts: Collection[str],
        options: EngineOptions,
        bar: Bar | None = None,
    ) -> None:
        self.residency = open_residency(self.ctx.device, tensors, options, drafts, copy_bytes, bar)

    def prepare(self, tensor: Tensor, *, activations: str, repack: bool) -> Any:
        assert activations == "int8", activations
        return pack.prepare(self.ctx, tensor, place=self.residency)

    # Answers to the engine

    def set_threads(self, n: int | None) -> int:
        """Host threads that compute: none of the model's work is done by them."""
        return 1

    def wait(self) -> None:
        """Until the device has done everything."""
        self.ctx.device.synchronize()

    def facts(self) -> dict[str, Any]:
        facts = {"launch": self.launch, "launches": dict(self._launches)}
        facts.update(self.ctx.device.facts())
        if self.residency is not None:
            facts.update(self.residency.facts())
        return facts

    def recorded(self, owner: object) -> list[Recording]:
        """What an owner's recorded passes consist of, the oldest first."""
        return [known.log for known in self._passes.get(owner, {}).values()]

    def time_passes(self, owner: object) -> dict[PassKey, PassTimes]:
        """Seconds include the gaps between launches; of experts, bytes are the expected share."""
        tables: dict[PassKey, PassTimes] = {}
        for key, known in self._passes.get(owner, {}).items():
            # Other passes have left theirs: logits are computed at position 0.
            self.ctx.set_position(known.pos0)
            tables[key] = PassTimes(known.pos0, known.program.time_launches())
        return tables

    def notices(self) -> list[str]:
        placed = self.residency.notices() if self.residency is not None else []
        cache = [notice] if (notice := store.folder().notice) else []
        return self.ctx.device.notices() + placed + cache

    def close(self) -> None:
        """Drop recorded passes; device memory follows as arrays are dropped."""
        self._passes.clear()
        self.ctx.device.synchronize()
        if self.residency is not None:
            self.residency.close()

    # Products

    embed_hc = _op(embed.embed_hc)
    matmul = _op(products.matmul)
    matmul_multi = _op(products.matmul_multi)
    matmul_grouped = _op(products.matmul_grouped)

    # Rows

    rms_norm = _op(norm.rms_norm)
    hc_split = _op(hc.hc_split)

    def rms_norm_for(
        self, out: Any, x: Any, weight: Any, eps: float, following: Sequence[Any]
    ) -> None:
        norm.rms_norm(self.ctx, out, x, weight, eps, _formats(following))

    def enter(self, s: Any, hc: Any, norm: Any, following: Sequence[Any], shape: Shape) -> None:
        if not hc_enter.can_enter(hc.fn, shape.n_embd):
            super().enter(s, hc, norm, following, shape)
            return
        taken = self.ctx.take(s.state)
        before = None if taken is None else (taken[0], taken[1], taken[2])
        hc_enter.hc_enter(
            self.ctx, s.a, s.post, s.comb, s.state, hc.fn, hc.scale, hc.base, norm,
            shape.n_sinkhorn, shape.hc_eps, shape.rms_eps, _formats(following),
            before,
        )  # fmt: skip

    def head(self, s: Any, state: Any, head: Any, output: Any, shape: Shape) -> None:
        if not hc_enter.can_enter(head.fn, shape.n_embd):
            super().head(s, state, head, output, shape)
            return
        hc_enter.hc_head(
            self.ctx, s.x, state, head.fn, head.scale, head.base, head.norm, shape.hc_eps,
            shape.rms_eps, _formats([output]),
        )  # fmt: skip

    def attention_rows(
        self, s: Any, layer: Layer, cache: LayerCache, span: Span, shape: Shape, official: bool
    ) -> None:
        """One launch for few rows; more fill the device with the ops one by one."""
        n, ratio = span.n, layer.ratio
        cos, sin = span.rotation[ratio > 0]
        n_rings = len(cache.compressed.rings.kv) if cache.compressed is not None else 0
        sizes = s.q_a.shape[1], shape.head_dim, cos.shape[1], official, n_rings
        if n > GRAPH_ROWS or not attention_rows.fits(n, ratio, *sizes):
            super().attention_rows(s, layer, cache, span, shape, official)
            return
        following: list[Any] = [layer.q_b]
        comp: tuple[Any, Any] = (None, None)
        pooling = indexing = None
        if layer.compressor is not None and cache.compressed is not None:
            windows = span.windows[ratio]
            pooled, own = s.pooled[: windows.rows], s.compressor_rows(ratio)
            comp = cache.compressed.rows, layer.compressor.norm
            pooling = _pooling(pooled, cache.compressed.rings, own, layer.compressor)
        if layer.indexer is not None and cache.indexed is not None:
            following.append(layer.indexer.q_b)
            idx_pooled, own = s.idx_pooled[: windows.rows], (s.idx_kv, s.idx_gate)
            indexing = _pooling(idx_pooled, cache.indexed.rings, own, layer.indexer.compressor)
        attention_rows.attention_rows(
            self.ctx, s.q_a, _own(layer.q_a_norm), _own(cache.raw), s.kv, _own(layer.kv_norm),
            _own(cos), _own(sin), _own(span.pos0), shape.rms_eps, official, ratio, *comp, pooling,
            indexing, _formats(following),
        )  # fmt: skip
        if layer.indexer is not None and cache.indexed is not None:
            self.indexer_store(
                cache.indexed.rows, idx_pooled, layer.indexer.compressor.norm, windows, span.pos0,
                shape.rms_eps, official,
            )  # fmt: skip

    def hc_expand(self, out: Any, y: Any, post: Any, comb: Any, state: Any) -> None:
        """In place it is put off: the next sublayer's entry does it on the way."""

        def launch() -> None:
            hc.hc_expand(self.ctx, out, y, post, comb, state)

        if out.address != state.address:
            launch()
            return
        self.ctx.wrote(out)
        self.ctx.defer(out, (y, post, comb), launch)

    hc_collapse = _op(hc.hc_collapse)
    q_norm_rope = _op(rope.q_norm_rope)
    rope_tail = _op(rope.rope_tail)
    kv_store = _op(kv.kv_store)
    compressor_pool = _op(compressor.compressor_pool)
    compressor_store = _op(compressor.compressor_store)

    # Indexer and attention

    new_index_rows = _op(indexer.new_index_rows)
    indexer_store = _op(indexer.indexer_store)
    indexer_query = _op(indexer.indexer_query)
    indexer_select = _op(select.indexer_select)
    attend = _op(attention.attend)
    attend_block = _op(attention.attend_block)

    def attend_turned(
        self, out: Any, q: Any, ring: Any, rows: Any, sel: Any, n_sel: Any, sinks: Any,
        pos0: Any, n_swa: int, ratio: int, cos: Any, sin: Any,
    ) -> None:  # fmt: skip
        turn = cos, sin
        attention.attend(self.ctx, out, q, ring, rows, sel, n_sel, sinks, pos0, n_swa, ratio, turn)

    # Feed-forward

    router_select = _op(router.router_select)
    router_hash = _op(router.router_hash)
    routed_moe = _op(experts.routed_moe)
    shared_ffn = _op(experts.shared_ffn)

    def feed_forward(self, s: Any, layer: Any, shape: Shape) -> None:
        shared = None
        if shape.n_expert_shared:
            shared = (layer.gate_shexp, layer.up_shexp, layer.down_shexp, layer.limit_shared)
        experts.feed_forward(
            self.ctx, s.y, s.a, s.ids, s.weights,
            layer.gate_exps, layer.up_exps, layer.down_exps, layer.limit, shared,
        )  # fmt: skip

    add = _op(experts.add)

    # Choice of a token

    first_maxima = _op(argmax.argmax_rows)
    draft_report = _op(argmax.draft_report)

    def choose(self, rows: Any, row: int, banned: np.ndarray) -> int:
        """All rows are looked at in one launch, and the answers kept while the rows are true."""
        kind = f"argmax {banned.tobytes().hex()}"
        found = self.ctx.companion(rows, kind)
        if found is None:
            found = argmax.first_maxima(self.ctx, rows, self._ids(banned))
            self.ctx.keep(rows, kind, found)
        token, finite = int(found[0][row]), bool(found[1][row])
        if not finite:
            raise NonFiniteError("logits: expected finite values, found NaN or infinity")
        return token

    def _ids(self, banned: np.ndarray) -> DeviceArray:
        key = banned.tobytes()
        if key not in self._banned:
            self._banned[key] = self.ctx.put(banned.astype(np.int32))
        return self._banned[key]


def _own(array: Any) -> DeviceArray:
    """An array that went through the seam, as what this set made it."""
    assert isinstance(array, DeviceArray), array
    return array


def _pooling(
    pooled: Any, rings: Rings, own: tuple[Any, Any], weights: Compressor
) -> attention_rows.Pooling:
    """A compressor's arrays, as the launch for few rows takes them."""
    kept = _own(rings.kv), _own(rings.score)
    return attention_rows.Pooling(pooled, *kept, *own, _own(weights.ape))


def _formats(weights: Sequence[Any]) -> set[str]:
    """Formats whose products a row is prepared for in advance."""
    return {w.format for w in weights}
