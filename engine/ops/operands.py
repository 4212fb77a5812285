"""What the ops of a kernel set work on: arrays, weights, one layer, its stored rows, activations.

These are plain records with documented shapes. They know neither which kernel set made their
arrays nor in which order a forward pass uses them. Axis names are `Shape`'s; n is the number of
rows (tokens) of a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType
from typing import Protocol, SupportsIndex, TypeAlias

import numpy as np


class Array(Protocol):
    """A contiguous array of a kernel set: NumPy's, or one in a device's memory.

    Only the set that made an array computes with it. Everybody else may slice rows off (a view),
    reshape it (a view), overwrite rows with host values, and read it with `numpy.asarray`, which
    waits for the device and copies where the array is on one.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice | int, /) -> Array: ...

    def __setitem__(self, key: slice | EllipsisType, value: Array | np.ndarray, /) -> None: ...

    def reshape(self, n: SupportsIndex, /, *shape: SupportsIndex) -> Array: ...

    def __array__(self) -> np.ndarray: ...


# Position of row 0 of a pass, as its ops take it: a number where ops run in host memory; on a
# device one int32 in its memory, which a replay of the pass rewrites. `Backend.run` hands it out.
Position: TypeAlias = "int | Array"

# Cosines and sines of the rows of a pass: what `Backend.rotation` gave, for ops of that pass.
Rotation: TypeAlias = "tuple[Array, Array]"

# Names a pass that its owner may run again: a name, the number of rows, and what else decides
# which launches it makes.
PassKey: TypeAlias = "tuple[str | int, ...]"


class AngleTable(Protocol):
    """Cosines and sines by position, on the host (see `engine.forward.rope.RopeTable`)."""

    def at(self, pos0: int, n: int, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Rows for positions pos0, pos0 + step, ...: two float32 arrays (n, n_rot // 2)."""


class Weight(Protocol):
    """A matrix (or one per expert) that a set has prepared; only that set looks inside."""

    @property
    def name(self) -> str:
        """The tensor's name in the file."""

    @property
    def repacked_bytes(self) -> int:
        """Bytes of a copy made beside the file's own; 0 where there is none."""


class IndexRows(Protocol):
    """Indexer rows of one layer; each set stores them as suits it."""

    @property
    def n_bytes(self) -> int:
        """Bytes that all rows take once written."""

    def export(self, n: int) -> np.ndarray:
        """The first n rows, float32 (n, idx_head_dim), on the host."""

    def load(self, values: np.ndarray) -> None:
        """Replace the first rows by exported ones.

        Raises
        ------
        SnapshotError
            If this storage cannot hold the values exactly.
        """


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of `ratio` positions that end in the n rows of a pass; made by `windows`.

    Parameters
    ----------
    ratio : int
    n : int
        Rows of the pass.
    rows : int
        Rows that the pooled array of a pass has: as many as windows end in it, or, where a pass is
        recorded and replayed at other positions, the most that can.
    cos, sin : Array
        Angles of the first position of each window, as `Rotation` holds them.
    """

    ratio: int
    n: int
    rows: int
    cos: Array
    sin: Array


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one pass.

    Parameters
    ----------
    n : int
        Rows.
    first : int
        Position of row 0 when the pass was built; a recorded pass may be replayed elsewhere.
    pos0 : Position
        The same for ops.
    indexing : bool
        Whether some row sees more compressed rows than the indexer keeps, so that scores decide.
    rotation : dict
        By whether the layer has a compressor.
    windows : dict
        By ratio.
    """

    n: int
    first: int
    pos0: Position
    indexing: bool
    rotation: dict[bool, Rotation]
    windows: dict[int, Windows]


@dataclass(slots=True)
class HyperConnection:
    """One sublayer's mixing parameters: fn (hc_mix, n_hc*n_embd), scale (3,), base (hc_mix,)."""

    fn: Weight
    scale: Array
    base: Array


@dataclass(slots=True)
class Compressor:
    """Pools `ratio` rows into one: kv and gate projections, ape (ratio, W), norm (d,)."""

    kv: Weight
    gate: Weight
    ape: Array
    norm: Array


@dataclass(slots=True)
class Indexer:
    """Scores compressed rows: query and head weight projections, and a compressor of its own."""

    q_b: Weight
    proj: Weight
    compressor: Compressor


@dataclass(slots=True)
class Layer:
    """One decoder layer; `ratio` 0 means no compressor, `tid2eid` None means a top-k router.

    Norms are (n_embd,), (n_lora_q,) and (head_dim,), sinks (n_head,), router_bias (n_expert,), all
    float32; tid2eid is int32 (n_vocab, n_expert_used).
    """

    ratio: int
    limit: float  # SwiGLU clamp of the routed experts
    limit_shared: float
    hc_attn: HyperConnection
    hc_ffn: HyperConnection
    attn_norm: Array
    q_a: Weight
    q_a_norm: Array
    q_b: Weight
    kv: Weight
    kv_norm: Array
    sinks: Array
    out_a: Weight
    out_b: Weight
    compressor: Compressor | None
    indexer: Indexer | None
    ffn_norm: Array
    router: Weight
    router_bias: Array | None
    tid2eid: Array | None
    gate_exps: Weight
    up_exps: Weight
    down_exps: Weight
    gate_shexp: Weight
    up_shexp: Weight
    down_shexp: Weight


@dataclass(slots=True)
class Head:
    """Mixes the streams into one row and norms it.

    fn (n_hc, n_hc*n_embd), scale (1,), base (n_hc,), norm (n_embd,).
    """

    fn: Weight
    scale: Array
    base: Array
    norm: Array


@dataclass(slots=True)
class Rings:
    """The last positions' projections of one compressor, float32 (ring_rows, W) by position."""

    kv: Array
    score: Array


@dataclass(slots=True)
class Compressed:
    """Compressed rows (cap, head_dim) as the set stores them, and the rings that they come from."""

    rows: Array
    rings: Rings


@dataclass(slots=True)
class Indexed:
    """The indexer's rows and the rings that they come from."""

    rows: IndexRows
    rings: Rings


@dataclass(slots=True)
class LayerCache:
    """What a session keeps of one layer.

    Parameters
    ----------
    ratio : int
    raw : Array of shape (raw_cap, head_dim)
        The last rows by position, as the set stores them (`Backend.new_kv_rows`).
    compressed : Compressed or None
        None for a layer without compressor (ratio 0).
    indexed : Indexed or None
        None for a layer without indexer (any ratio but 4).
    """

    ratio: int
    raw: Array
    compressed: Compressed | None = None
    indexed: Indexed | None = None


class Logits:
    """One row of the logits that an evaluation gave, where the kernel set has them.

    `numpy.asarray` gives the row's values, float32 (n_vocab,), on the host.

    Parameters
    ----------
    ops : Chooser
        The set that made them.
    rows : Array of shape (n, n_vocab)
        All rows of the evaluation, so that a set may look at all of them at once.
    row : int
        Which of them is meant.
    """

    __slots__ = ("ops", "row", "rows")

    def __init__(self, ops: Chooser, rows: Array, row: int) -> None:
        self.ops = ops
        self.rows = rows
        self.row = row

    @property
    def values(self) -> Array:
        """The row as an array of the set, (n_vocab,); the next evaluation overwrites it."""
        return self.rows[self.row]

    def choose(self, banned: np.ndarray) -> int:
        """First maximum of the row, never one of `banned` (see `Backend.choose`)."""
        return self.ops.choose(self.rows, self.row, banned)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        values = np.asarray(self.values, dtype)
        return values.copy() if copy else values


class Chooser(Protocol):
    """What `Logits` needs of a kernel set."""

    def choose(self, rows: Array, row: int, banned: np.ndarray) -> int:
        """See `Backend.choose`."""
