"""The CUDA kernel set: the op vocabulary over one device, with passes recorded and replayed.

`engine.ops` documents the vocabulary; every op here is a thin call of its module's function.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

from engine.errors import NonFiniteError
from engine.ops.cuda.attention import attention, attention_rows, indexer, select
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.device.residency import open_residency
from engine.ops.cuda.hyper import hc, hc_enter
from engine.ops.cuda.products import experts, pack, products
from engine.ops.cuda.rows import argmax, compressor, embed, kv, norm, rings, rope, router

GRAPH_ROWS = 16  # passes of up to this many rows are replayed as graphs: decode and verification
KEPT_PASSES = 24  # recorded passes per owner; the oldest is dropped


@dataclass(frozen=True, slots=True)
class _Windows:
    """The windows that n rows complete, wherever they begin; the device works out which."""

    ratio: int
    n: int


@dataclass(frozen=True, slots=True)
class _Pass:
    """A recorded pass: valid for one generation of working memory."""

    generation: int
    program: Any
    charges: dict[str, int]


def _op(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that is `function` on the set's context."""

    @wraps(function)
    def op(self: Any, *args: Any) -> Any:
        return function(self.ctx, *args)

    return op


class _Table:
    """Cosines and sines of every position, (n_positions, n_rot // 2) each, on the device."""

    def __init__(self, ctx: Context, cos: np.ndarray, sin: np.ndarray) -> None:
        self._arrays = (ctx.put(cos), ctx.put(sin))

    def at(self, pos0: int, n: int, step: int = 1) -> tuple[DeviceArray, DeviceArray]:
        """The whole table: kernels index it by position."""
        return self._arrays


class CudaOps:
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
        self._passes: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]]
        self._passes = weakref.WeakKeyDictionary()
        self._banned: dict[bytes, DeviceArray] = {}
        self._launches: dict[str, int] = {}
        ctx.first_maximum = self._first_maximum

    FUSED = frozenset({"hc_enter", "hc_head", "attention_rows", "attend_turned", "feed_forward"})

    # Memory and passes

    def new_array(self, shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceArray:
        return self.ctx.zeros(shape, dtype)

    def new_kv_rows(self, cap: int, dim: int, official: bool) -> DeviceArray:
        """Official rows are rounded to float16 anyway, so they are stored as float16."""
        return self.ctx.zeros((cap, dim), np.float16 if official else np.float32)

    def vector(self, values: np.ndarray) -> DeviceArray:
        return self.ctx.put(np.ascontiguousarray(values))

    def rope_table(self, table: Any, n_positions: int) -> _Table:
        return _Table(self.ctx, *map(np.ascontiguousarray, table.at(0, n_positions)))

    def windows(self, pos0: int, n: int, ratio: int) -> tuple[_Windows, int]:
        return _Windows(ratio, n), (n + ratio - 1) // ratio

    def free_bytes(self) -> int:
        return self.ctx.device.free_bytes()

    def run(self, owner: object, key: Hashable | None, pos0: int, body: Callable[[], None]) -> None:
        """Run a pass, recording it, or replay the owner's recorded pass of this key."""
        ctx = self.ctx
        ctx.forget()
        ctx.set_position(pos0)
        if key is None:
            body()
            ctx.forget()
            return
        passes = self._passes.setdefault(owner, {})
        known = passes.get(key)
        if known is not None and known.generation == ctx.generation:
            known.program.replay()
        else:
            generation = ctx.generation
            with ctx.recording() as log:
                body()
            rows = key[1] if isinstance(key, tuple) and isinstance(key[1], int) else 0
            name = key[0] if isinstance(key, tuple) else str(key)
            self._launches[f"{name}, {rows} rows"] = sum(e[0] == "launch" for e in log)
            # Working memory that grew during the pass has moved: record again next time.
            if ctx.generation == generation:
                passes.pop(key, None)
                while len(passes) >= KEPT_PASSES:
                    passes.pop(next(iter(passes)))
                mode = self.launch if rows <= GRAPH_ROWS or self.launch != "graph" else "prepared"
                passes[key] = _Pass(generation, ctx.device.program(log, mode), ctx.charges)
        ctx.forget()

    def ring_put(self, ring: DeviceArray, rows: DeviceArray, pos0: int, skip: int = 0) -> None:
        rings.ring_put(self.ctx, ring, rows, skip)

    def ring_set(self, ring: DeviceArray, pos0: int, rows: np.ndarray) -> None:
        for at, first, stop in _pieces(len(ring), pos0, len(rows)):
            ring[at : at + stop - first] = rows[first:stop]

    def ring_get(self, ring: DeviceArray, pos0: int, n: int) -> DeviceArray:
        """A view where the rows lie together, else a copy."""
        pieces = _pieces(len(ring), pos0, n)
        if len(pieces) <= 1:
            at = pos0 % len(ring)
            return ring[at : at + n]
        out = self.ctx.empty((n, *ring.shape[1:]), ring.dtype)
        for at, first, stop in pieces:
            self.ctx.copy(out[first:stop], ring[at : at + stop - first])
        return out

    add_streams = _op(rings.add_streams)

    # Weights

    def arrange(self, tensors: Sequence[Any], drafts: Collection[str], options: Any) -> None:
        """Decide which weights are copied and which are read from the file, before any is prepared.

        Parameters
        ----------
        tensors : sequence of Tensor
            Every matrix that will be prepared.
        drafts : collection of str
            Names of the MTP block's tensors.
        options : EngineOptions

        Raises
        ------
        MemoryBudgetError
            If what must be copied does not fit; nothing was copied.
        """
        self.residency = open_residency(
            self.ctx.device, tensors, options, drafts, pack.repack_bytes
        )

    def prepare(self, tensor: Any, *, activations: str, repack: bool) -> Any:
        assert activations == "int8", activations
        return pack.prepare(self.ctx, tensor, place=self.residency)

    def repack_bytes(self, tensor: Any) -> int:
        return pack.repack_bytes(tensor)

    def moe_bytes(self, n: int, used: int, gate: Any, down: Any) -> int:
        return experts.moe_bytes(n, used, gate, down)

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

    def time_passes(self, owner: object) -> dict[Hashable, dict[str, tuple[int, float, int]]]:
        """Launches, device seconds and weight bytes per kernel of an owner's recorded passes.

        Runs every pass once more, at the present position. Seconds include the gaps between
        launches; bytes are what the weights of the launches hold (of experts: the expected share).
        """
        tables = {}
        for key, known in self._passes.get(owner, {}).items():
            if known.generation == self.ctx.generation:
                times = known.program.time_launches()
                tables[key] = {
                    name: (count, seconds, known.charges.get(name, 0))
                    for name, (count, seconds) in times.items()
                }
        return tables

    def notices(self) -> list[str]:
        placed = self.residency.notices() if self.residency is not None else []
        return self.ctx.device.notices() + placed

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

    def hc_enter(
        self, s: Any, hc_: Any, norm_weight: Any, shape: Any, following: Sequence[Any]
    ) -> None:
        if hc_enter.can_enter(hc_.fn, shape.n_embd):
            hc_enter.hc_enter(
                self.ctx, s.a, s.post, s.comb, s.state, hc_.fn, hc_.scale, hc_.base, norm_weight,
                shape.n_sinkhorn, shape.hc_eps, shape.rms_eps, _formats(following),
            )  # fmt: skip
            return
        self.rms_norm(s.flat, s.state_flat, None, shape.rms_eps)
        self.matmul(s.mix, s.flat, hc_.fn)
        self.hc_split(
            s.x, s.post, s.comb, s.mix, s.state, hc_.scale, hc_.base, shape.n_sinkhorn, shape.hc_eps
        )
        self.rms_norm(s.a, s.x, norm_weight, shape.rms_eps, _formats(following))

    def hc_head(self, s: Any, state: Any, head: Any, output: Any, shape: Any) -> None:
        if hc_enter.can_enter(head.fn, shape.n_embd):
            hc_enter.hc_head(
                self.ctx, s.x, state, head.fn, head.scale, head.base, head.norm, shape.hc_eps,
                shape.rms_eps, _formats([output]),
            )  # fmt: skip
            return
        self.rms_norm(s.flat, state.reshape(len(state), -1), None, shape.rms_eps)
        self.matmul(s.head_mix, s.flat, head.fn)
        self.hc_collapse(s.x, s.head_mix, state, head.scale, head.base, shape.hc_eps)
        self.rms_norm(s.x, s.x, head.norm, shape.rms_eps, _formats([output]))

    def attention_rows(
        self,
        s: Any,
        layer: Any,
        cache: Any,
        pos0: int,
        n: int,
        angles: tuple[Any, Any],
        windows: dict[int, Any],
        shape: Any,
        official: bool,
    ) -> bool:
        ratio, (cos, sin) = layer.ratio, angles
        d, half, d_q = shape.head_dim, cos.shape[1], s.q_a.shape[1]
        rings = len(cache.ring_kv) if ratio else 0
        if n > GRAPH_ROWS or not attention_rows.fits(n, ratio, d_q, d, half, official, rings):
            return False
        formats = {layer.q_b.format}
        comp = comp_norm = pooling = indexing = None
        if ratio:
            row0, n_emit = self.windows(pos0, n, ratio)
            comp, comp_norm = cache.comp, layer.compressor.norm
            kv_rows, gate = (
                (s.comp_kv, s.comp_gate) if ratio == 4 else (s.comp_kv_128, s.comp_gate_128)
            )
            pooling = attention_rows.Pooling(
                s.pooled[:n_emit],
                cache.ring_kv,
                cache.ring_score,
                kv_rows,
                gate,
                layer.compressor.ape,
            )
        if ratio == 4:
            index = layer.indexer.compressor
            formats.add(layer.indexer.q_b.format)
            indexing = attention_rows.Pooling(
                s.idx_pooled[:n_emit],
                cache.idx_ring_kv,
                cache.idx_ring_score,
                s.idx_kv,
                s.idx_gate,
                index.ape,
            )
        attention_rows.attention_rows(
            self.ctx, s.q_a, layer.q_a_norm, cache.raw, s.kv, layer.kv_norm, cos, sin,
            shape.rms_eps, official, ratio, comp, comp_norm, pooling, indexing, formats,
        )  # fmt: skip
        if ratio == 4:
            first_cos, first_sin = windows[4]
            self.indexer_store(
                cache.index, row0, s.idx_pooled[:n_emit], index.norm, first_cos, first_sin,
                shape.rms_eps, official,
            )  # fmt: skip
        return True

    hc_expand = _op(hc.hc_expand)
    hc_collapse = _op(hc.hc_collapse)
    q_norm_rope = _op(rope.q_norm_rope)
    rope_tail = _op(rope.rope_tail)
    kv_store = _op(kv.kv_store)
    compressor_pool = _op(compressor.compressor_pool)

    def compressor_store(
        self,
        rows: Any,
        row0: _Windows,
        pooled: Any,
        weight: Any,
        cos: Any,
        sin: Any,
        eps: float,
        official: bool,
    ) -> None:
        compressor.compressor_store(
            self.ctx, rows, row0.ratio, row0.n, pooled, weight, cos, sin, eps, official
        )

    # Indexer and attention

    new_index_rows = _op(indexer.new_index_rows)

    def indexer_store(
        self,
        rows: Any,
        row0: _Windows,
        pooled: Any,
        weight: Any,
        cos: Any,
        sin: Any,
        eps: float,
        official: bool,
    ) -> None:
        indexer.indexer_store(
            self.ctx, rows, row0.ratio, row0.n, pooled, weight, cos, sin, eps, official
        )

    indexer_query = _op(indexer.indexer_query)
    indexer_select = _op(select.indexer_select)
    attend = _op(attention.attend)

    def attend_turned(self, *args: Any) -> None:
        """`attend`, then `rope_tail` backwards by the angles that come last."""
        self.attend(*args[:-2], args[-2:])

    # Feed-forward

    router_select = _op(router.router_select)
    router_hash = _op(router.router_hash)
    routed_moe = _op(experts.routed_moe)
    shared_ffn = _op(experts.shared_ffn)

    def feed_forward(self, s: Any, layer: Any, shared: bool) -> None:
        """Routed and shared experts of s.a into s.y."""
        extra = None
        if shared:
            extra = (layer.gate_shexp, layer.up_shexp, layer.down_shexp, layer.limit_shared)
        experts.feed_forward(
            self.ctx, s.y, s.a, s.ids, s.weights,
            layer.gate_exps, layer.up_exps, layer.down_exps, layer.limit, extra,
        )  # fmt: skip

    swiglu = _op(experts.swiglu)
    add = _op(experts.add)

    # Choice of a token

    def argmax(self, logits: DeviceArray) -> int:
        return self._first_maximum(logits, np.empty(0, np.int64))

    def _first_maximum(self, logits: DeviceArray, banned: np.ndarray) -> int:
        """First maximum of a row; rows of one verification are all looked at in one launch."""
        rows, row = logits.reshape(1, -1), 0
        parent = logits.owner
        if isinstance(parent, DeviceArray) and parent.ndim == 2:
            row_bytes = parent.nbytes // len(parent)
            if row_bytes == logits.nbytes and len(parent) <= GRAPH_ROWS:
                rows, row = parent, (logits.address - parent.address) // row_bytes
        key = f"argmax {banned.tobytes().hex()}"
        found = self.ctx.companion(rows, key)
        if found is None:
            found = argmax.first_maxima(self.ctx, rows, self._ids(banned))
            self.ctx.keep(rows, key, found)
        token, finite = int(found[0][row]), bool(found[1][row])
        if not finite:
            raise NonFiniteError("logits: expected finite values, found NaN or infinity")
        return token

    def _ids(self, banned: np.ndarray) -> DeviceArray:
        key = banned.tobytes()
        if key not in self._banned:
            self._banned[key] = self.ctx.put(banned.astype(np.int32))
        return self._banned[key]


def _formats(weights: Sequence[Any]) -> set[str]:
    """Formats whose products a row is prepared for in advance."""
    return {w.format for w in weights}


def _pieces(cap: int, pos0: int, n: int) -> list[tuple[int, int, int]]:
    """Runs of a ring: (ring row, first, stop) of rows that lie together; later rows win."""
    pieces = []
    first = max(n - cap, 0)
    while first < n:
        at = (pos0 + first) % cap
        stop = min(n, first + cap - at)
        pieces.append((at, first, stop))
        first = stop
    return pieces
