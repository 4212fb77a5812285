"""The launches of a decode step at DeepSeek V4 Flash's shape, recorded without a GPU or a file.

The kernel set runs the forward pass on a device that does nothing: what is recorded is what a real
device would be asked for, with the grid, the bytes of weights and the effects of every launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from engine.cache.kv import KVCache
from engine.forward.model import Model
from engine.forward.trunk import Trunk
from engine.models.recipes import formats_of
from engine.models.shapes import flash
from engine.ops.operands import Compressor, Head, HyperConnection, Indexer, Layer
from engine.quant.formats import BY_NAME
from engine.shape import Shape

CHUNK = 16  # rows of a pass that are recorded at most


class NoMemory:
    """A device without memory: addresses are handed out, nothing is launched."""

    def __init__(self) -> None:
        self._next = 1 << 40

    def alloc(self, n_bytes: int) -> int:
        address = self._next
        self._next += -(-n_bytes // 256) * 256
        return address

    def free(self, address: int) -> None: ...
    def upload(self, address: int, host: np.ndarray) -> None: ...
    def copy(self, target: int, source: int, n_bytes: int) -> None: ...
    def fill(self, address: int, byte: int, n_bytes: int) -> None: ...
    def launch(self, kernel: Any, grid: Any, args: Any) -> None: ...
    def synchronize(self) -> None: ...

    def download(self, host: np.ndarray, address: int) -> None:
        host[...] = 0

    def free_bytes(self) -> int:
        return 1 << 50

    def facts(self) -> dict[str, Any]:
        return {}

    def notices(self) -> list[str]:
        return []

    def program(self, log: Any, mode: str) -> Any:
        return _Recorded(log)


@dataclass(frozen=True, slots=True)
class _Recorded:
    log: Any

    def replay(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """A launch of a step: kernel, blocks, weight bytes, and places of those that it waits for."""

    kernel: str
    blocks: int
    weight_bytes: int
    before: tuple[int, ...]


class ModelSizes:
    """The weights' sizes and places, by the format of each kind of tensor."""

    def __init__(self, ctx: Any, shape: Shape, formats: Mapping[str, str]) -> None:
        self.ctx, self.shape, self.formats = ctx, shape, formats

    def weight(
        self, kind: str, rows: int, cols: int, n_expert: int = 1, looked_up: bool = False
    ) -> Any:
        from engine.ops.cuda.products.pack import Weight
        from engine.ops.cuda.sizes import layout_bytes

        name = self.formats[kind]
        sizes = layout_bytes(name, rows, cols)
        address = self.ctx.device.alloc(n_expert * sum(sizes))
        scales = address + n_expert * sizes[0]
        factors = scales + n_expert * sizes[1]
        held, stored = n_expert * sum(sizes), n_expert * rows * BY_NAME[name].row_bytes(cols)
        return Weight(
            kind,
            name,
            rows,
            cols,
            n_expert,
            not looked_up,
            address,
            scales,
            factors,
            sizes,
            held,
            stored,
        )

    def vector(self, *shape: int) -> Any:
        return self.ctx.zeros(shape, np.float32)

    def connection(self) -> HyperConnection:
        s = self.shape
        return HyperConnection(
            self.weight("hc", s.hc_mix, s.n_hc * s.n_embd), self.vector(3), self.vector(s.hc_mix)
        )

    def compressor(self, kind: str, ratio: int, dim: int) -> Compressor:
        width = 2 * dim if ratio == 4 else dim
        kv, gate = (self.weight(kind, width, self.shape.n_embd) for _ in range(2))
        return Compressor(kv, gate, self.vector(ratio, width), self.vector(dim))

    def layer(self, ratio: int, hashed: bool) -> Layer:
        s, w, v = self.shape, self.weight, self.vector
        compressor = self.compressor("compressor", ratio, s.head_dim) if ratio else None
        indexer = None
        if ratio == 4:
            indexer = Indexer(
                w("indexer_q", s.n_idx_head * s.idx_head_dim, s.n_lora_q),
                w("indexer", s.n_idx_head, s.n_embd),
                self.compressor("indexer", 4, s.idx_head_dim),
            )
        low, ff = s.n_lora_o * s.n_out_group, s.n_ff_exp
        table = self.ctx.zeros((s.n_vocab, s.n_expert_used), np.int32) if hashed else None
        return Layer(
            ratio=ratio,
            limit=10.0,
            limit_shared=10.0,
            hc_attn=self.connection(),
            hc_ffn=self.connection(),
            attn_norm=v(s.n_embd),
            q_a=w("dense", s.n_lora_q, s.n_embd),
            q_a_norm=v(s.n_lora_q),
            q_b=w("dense", s.n_head * s.head_dim, s.n_lora_q),
            kv=w("dense", s.head_dim, s.n_embd),
            kv_norm=v(s.head_dim),
            sinks=v(s.n_head),
            out_a=w("dense", low, s.group_dim),
            out_b=w("dense", s.n_embd, low),
            compressor=compressor,
            indexer=indexer,
            ffn_norm=v(s.n_embd),
            router=w("router", s.n_expert, s.n_embd),
            router_bias=None if hashed else v(s.n_expert),
            tid2eid=table,
            gate_exps=w("expert_in", ff, s.n_embd, s.n_expert),
            up_exps=w("expert_in", ff, s.n_embd, s.n_expert),
            down_exps=w("expert_out", s.n_embd, ff, s.n_expert),
            gate_shexp=w("dense", ff, s.n_embd),
            up_shexp=w("dense", ff, s.n_embd),
            down_shexp=w("dense", s.n_embd, ff),
        )

    def build(self) -> Model:
        s = self.shape
        embed = self.weight("embed", s.n_vocab, s.n_embd, looked_up=True)
        output = self.weight("output", s.n_vocab, s.n_embd)
        layers = tuple(
            self.layer(s.compress_ratio(i), i < s.n_hash_layer) for i in range(s.n_layer)
        )
        return Model(s, embed, output, self.head(), layers)

    def head(self) -> Head:
        s = self.shape
        return Head(
            self.weight("hc", s.n_hc, s.n_hc * s.n_embd),
            self.vector(1),
            self.vector(s.n_hc),
            self.vector(s.n_embd),
        )


@lru_cache(maxsize=8)
def record_step(
    n_layer: int, position: int, rows: int = 1, ctx: int = 0, recipe: str = "iq2"
) -> tuple[Recorded, ...]:
    """The launches of one step: a pass of `rows` rows through the trunk, then the output head.

    Parameters
    ----------
    n_layer : int
        1 to 43.
    position : int
        Of the first row.
    rows : int
        Up to 16.
    ctx : int
        Positions that the session has room for; 0 for as many as the step needs.
    recipe : str
        See `engine.models.recipes`.

    Raises
    ------
    BackendError
        The package numba-cuda is missing.
    """
    ops = ops_without_memory()
    context, shape = ops.ctx, flash(n_layer)
    ctx = max(ctx, position + rows)
    cache = KVCache(ops, shape, ctx, CHUNK, True)
    model = ModelSizes(context, shape, formats_of(recipe, "antirez")).build()
    trunk = Trunk(ops, model, True, CHUNK, ctx)
    state = trunk.evaluate(cache, np.zeros(rows, np.int32), position)
    out = ops.new_array((rows, shape.n_vocab))
    trunk.logits(state, out, name="verify")
    return recorded_by(ops, trunk)


def ops_without_memory() -> Any:
    """The kernel set on a device that does nothing."""
    from engine.ops.cuda.device.context import Context
    from engine.ops.cuda.ops import CudaOps
    from engine.ops.cuda.products.pack import codebook

    context = Context(NoMemory())
    codebook(context)
    return CudaOps(context)


def recorded_by(ops: Any, owner: object) -> tuple[Recorded, ...]:
    """The launches of all passes that an owner has recorded, one pass behind the other."""
    from engine.ops.cuda.device.record import dependencies

    launches: list[Recorded] = []
    for log in ops.recorded(owner):
        launches += _launches(log, dependencies(log), len(launches))
    return tuple(launches)


def _launches(log: Any, before: Sequence[tuple[int, ...]], first: int) -> list[Recorded]:
    """Entries of a pass that begins with launch `first`; its roots follow the pass before."""
    found = []
    for entry, places in zip(log, before):
        behind = tuple(first + place for place in places)
        if not behind and first:
            behind = (first - 1,)
        blocks = int(np.prod(entry.grid)) if entry.grid else 1
        found.append(Recorded(entry.name, blocks, entry.weight_bytes, behind))
    return found
