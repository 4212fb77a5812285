"""A session's rows as one block of bytes: written from a cache, read back into one.

Layout, little endian (for the Flash shape the byte count is the `kvcache_bytes` of ds4's
published sweeps):

    u32[13]   magic, version, ctx, prefill chunk, raw cap, raw window, comp cap, n_tokens,
              n_layer, head_dim, idx_head_dim, n_vocab, live raw rows
    u32[n_tokens]                 token ids
    f32[n_vocab]                  last logits
    u32[2 * n_layer]              compressed rows and indexer rows per layer
    per layer: raw rows (live, head_dim); with a compressor: rows (n_comp, head_dim), kv and
               score planes; with an indexer: rows (n_comp, idx_head_dim), kv and score planes

Everything is float32. Planes are canonical: rows that the next window cannot see are 0 with a
score of -1e30, so equal histories give equal bytes whatever way they were reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.cache.kv import KVCache
from engine.errors import SnapshotError
from engine.ops.base import Backend
from engine.ops.operands import Array, LayerCache, Rings
from engine.shape import Shape

MAGIC = 0x53345344  # 'DS4S'
VERSION = 1
HEADER_WORDS = 13
NO_SCORE = np.float32(-1e30)


def plane_rows(ratio: int) -> int:
    """Rows of a saved plane: previous and current window for ratio 4, the current one for 128."""
    return 8 if ratio == 4 else ratio


def snapshot_bytes(shape: Shape, n_tokens: int) -> int:
    """Bytes of a snapshot of n_tokens; for the Flash shape and multiples of 128 from 128 on it
    is 23,995,788 + 13,764 * n_tokens, the figures that ds4's published sweeps carry."""
    total = 4 * HEADER_WORDS + 4 * n_tokens + 4 * shape.n_vocab + 8 * shape.n_layer
    live = min(shape.n_swa, n_tokens)
    for ratio in shape.compress_ratios:
        total += live * shape.head_dim * 4
        if not ratio:
            continue
        n_comp = n_tokens // ratio
        total += n_comp * shape.head_dim * 4
        total += 2 * plane_rows(ratio) * shape.comp_width(ratio) * 4
        if ratio == 4:
            total += n_comp * shape.idx_head_dim * 4
            total += 2 * plane_rows(ratio) * shape.idx_comp_width() * 4
    return total


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A saved timeline; immutable.

    Parameters
    ----------
    data : bytes-like
        The layout above.
    kv : str
        How rows were stored ('official' or 'f32'); restoring needs the same.
    outputs : dict of int to float32 array of shape (k, n_hc, n_embd), optional
        By layer, what it put out for the last k tokens, for drafting; not part of the block nor
        of its size.
    """

    data: memoryview
    kv: str
    outputs: dict[int, np.ndarray] | None = None

    @property
    def n_bytes(self) -> int:
        return len(self.data)


class _Writer:
    def __init__(self, size: int) -> None:
        self._buffer = np.empty(size, np.uint8)
        self._at = 0

    def put(self, array: Array | np.ndarray, dtype: str = "<f4") -> None:
        host = np.ascontiguousarray(array, dtype=dtype)
        stop = self._at + host.nbytes
        self._buffer[self._at : stop] = host.reshape(-1).view(np.uint8)
        self._at = stop

    def done(self) -> memoryview:
        assert self._at == self._buffer.nbytes, (self._at, self._buffer.nbytes)
        return self._buffer.data.toreadonly()


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, shape: tuple[int, ...], dtype: str = "<f4") -> np.ndarray:
        n = int(np.prod(shape, dtype=np.int64))
        size = n * np.dtype(dtype).itemsize
        if self._at + size > len(self._data):
            raise SnapshotError(
                f"snapshot: expected {self._at + size} bytes or more, found {len(self._data)}"
            )
        array = np.frombuffer(self._data, dtype, n, self._at).reshape(shape)
        self._at += size
        return array

    def done(self) -> None:
        if self._at != len(self._data):
            raise SnapshotError(f"snapshot: expected {self._at} bytes, found {len(self._data)}")


def _plane_positions(ratio: int, n_tokens: int) -> tuple[int, int]:
    """First and one past the last position whose rows a saved plane holds."""
    start = n_tokens // ratio * ratio
    return (max(start - 4, 0) if ratio == 4 else start), n_tokens


def _save_planes(out: _Writer, ops: Backend, rings: Rings, ratio: int, n_tokens: int) -> None:
    rows = plane_rows(ratio)
    first, last = _plane_positions(ratio, n_tokens)
    positions = np.arange(first, last)
    target = positions - (n_tokens // ratio * ratio) + (4 if ratio == 4 else 0)
    for ring, empty in ((rings.kv, np.float32(0)), (rings.score, NO_SCORE)):
        plane = np.full((rows, ring.shape[1]), empty, np.float32)
        plane[target] = np.asarray(ops.ring_get(ring, first, last - first))
        out.put(plane)


def _load_planes(source: _Reader, ops: Backend, rings: Rings, ratio: int, n_tokens: int) -> None:
    rows = plane_rows(ratio)
    first, last = _plane_positions(ratio, n_tokens)
    positions = np.arange(first, last)
    target = positions - (n_tokens // ratio * ratio) + (4 if ratio == 4 else 0)
    for ring in (rings.kv, rings.score):
        plane = source.take((rows, ring.shape[1]))
        ops.ring_set(ring, first, plane[target])


def save(
    cache: KVCache,
    tokens: list[int],
    logits: np.ndarray,
    kv: str,
    chunk: int,
    outputs: dict[int, np.ndarray] | None = None,
) -> Snapshot:
    """Copy what the next token needs, and nothing that it does not.

    Parameters
    ----------
    cache : KVCache
    tokens : list of int
    logits : float32 array of shape (n_vocab,)
    kv : str
    chunk : int
        Prefill chunk, noted in the header.
    outputs : dict of int to float32 array of shape (k, n_hc, n_embd), optional
    """
    shape, ops = cache.shape, cache.ops
    n = len(tokens)
    live = min(shape.n_swa, n)
    out = _Writer(snapshot_bytes(shape, n))
    comp_cap = max(
        (len(c.compressed.rows) for c in cache.layers if c.compressed is not None), default=0
    )
    header = [MAGIC, VERSION, cache.ctx, chunk, len(cache.layers[0].raw), shape.n_swa, comp_cap]
    header += [n, shape.n_layer, shape.head_dim, shape.idx_head_dim, shape.n_vocab, live]
    out.put(np.array(header), "<u4")
    out.put(np.array(tokens, np.uint32), "<u4")
    out.put(logits)
    counts = []
    for c in cache.layers:
        n_comp = n // c.ratio if c.ratio else 0
        counts += [n_comp, n_comp if c.ratio == 4 else 0]
    out.put(np.array(counts), "<u4")
    for c in cache.layers:
        out.put(ops.ring_get(c.raw, n - live, live))
        if c.compressed is not None:
            out.put(c.compressed.rows[: n // c.ratio])
            _save_planes(out, ops, c.compressed.rings, c.ratio, n)
        if c.indexed is not None:
            out.put(c.indexed.rows.export(n // c.ratio))
            _save_planes(out, ops, c.indexed.rings, c.ratio, n)
    return Snapshot(out.done(), kv, outputs)


def header(data: memoryview) -> dict[str, int]:
    """The header words by name.

    Raises
    ------
    SnapshotError
        If the block is too short or starts with anything else.
    """
    names = ["magic", "version", "ctx", "chunk", "raw_cap", "n_swa", "comp_cap", "n_tokens"]
    names += ["n_layer", "head_dim", "idx_head_dim", "n_vocab", "live"]
    words = dict(zip(names, _Reader(data).take((HEADER_WORDS,), "<u4").tolist()))
    if words["magic"] != MAGIC or words["version"] != VERSION:
        raise SnapshotError(
            f"snapshot: expected magic {MAGIC:#x} version {VERSION}, "
            f"found {words['magic']:#x} version {words['version']}"
        )
    return words


def load(cache: KVCache, snapshot: Snapshot, kv: str) -> tuple[list[int], np.ndarray]:
    """Fill a cache from a snapshot; nothing is changed unless all of it fits.

    Returns
    -------
    tokens : list of int
    logits : float32 array of shape (n_vocab,)

    Raises
    ------
    SnapshotError
        If it was taken from another shape or another way of storing rows, is longer than this
        context, or has another size than its header says.
    """
    shape = cache.shape
    words = header(snapshot.data)
    n = words["n_tokens"]
    for name in ("n_layer", "head_dim", "idx_head_dim", "n_vocab", "n_swa"):
        if words[name] != getattr(shape, name):
            raise SnapshotError(
                f"snapshot: expected {name} {getattr(shape, name)}, found {words[name]}"
            )
    if snapshot.kv != kv:
        raise SnapshotError(f"snapshot: expected rows stored as {kv!r}, found {snapshot.kv!r}")
    if n > cache.ctx:
        raise SnapshotError(f"snapshot: expected at most {cache.ctx} tokens, found {n}")
    live = min(shape.n_swa, n)
    if words["live"] != live or snapshot.n_bytes != snapshot_bytes(shape, n):
        raise SnapshotError(
            f"snapshot: expected {snapshot_bytes(shape, n)} bytes and {live} raw rows for "
            f"{n} tokens, found {snapshot.n_bytes} and {words['live']}"
        )
    for layer, values in (snapshot.outputs or {}).items():
        if values.shape[1:] != (shape.n_hc, shape.n_embd) or len(values) > n:
            raise SnapshotError(
                f"snapshot: layer {layer}: expected outputs of at most {n} tokens, "
                f"{shape.n_hc} x {shape.n_embd} each, found {' x '.join(map(str, values.shape))}"
            )
    source = _Reader(snapshot.data)
    source.take((HEADER_WORDS,), "<u4")
    tokens = source.take((n,), "<u4").tolist()
    if tokens and max(tokens) >= shape.n_vocab:
        raise SnapshotError(
            f"snapshot: expected token ids below {shape.n_vocab}, found {max(tokens)}"
        )
    logits = source.take((shape.n_vocab,)).copy()
    counts = source.take((2 * shape.n_layer,), "<u4").reshape(-1, 2).tolist()
    for i, c in enumerate(cache.layers):
        n_comp = n // c.ratio if c.ratio else 0
        expected = [n_comp, n_comp if c.ratio == 4 else 0]
        if counts[i] != expected:
            raise SnapshotError(f"snapshot: layer {i}: expected rows {expected}, found {counts[i]}")
    for c in cache.layers:
        _load_layer(source, cache.ops, c, shape, n, live)
    source.done()
    return tokens, logits


def _load_layer(
    source: _Reader, ops: Backend, c: LayerCache, shape: Shape, n: int, live: int
) -> None:
    ops.ring_set(c.raw, n - live, source.take((live, shape.head_dim)))
    if c.compressed is not None:
        c.compressed.rows[: n // c.ratio] = source.take((n // c.ratio, shape.head_dim))
        _load_planes(source, ops, c.compressed.rings, c.ratio, n)
    if c.indexed is not None:
        c.indexed.rows.load(source.take((n // c.ratio, shape.idx_head_dim)))
        _load_planes(source, ops, c.indexed.rings, c.ratio, n)
