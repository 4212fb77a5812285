"""Where two runs of the same text part: first difference, first flipped decision, what it costs.

Both sides evaluate the same tokens in step. Every intermediate result is compared in the order of
execution, position by position, layer by layer; discrete decisions (expert sets, indexer sets,
rounding codes) are compared as such, with the margin by which they were taken. A second run of
the first side gives the noise floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from engine.engine import Engine
from engine.errors import OptionError
from engine.forward.probe import Probe
from engine.ops.operands import Array
from engine.session import Session

BLOCK = 32  # positions compared at a time; bounds the memory for intermediate results

# Order of execution within a layer, and what each result is.
CONTINUOUS = (
    "attn_norm",
    "q_lora",
    "indexer_query",
    "q",
    "kv",
    "compressed",
    "indexer_rows",
    "heads",
    "attn_out",
    "attn_state",
    "ffn_norm",
    "router_logits",
    "expert_weights",
    "ffn_out",
    "ffn_state",
    "logits",
)
SETS = {"expert_ids": "expert_margin", "indexer_set": "indexer_margin"}
CODES = ("kv", "compressed", "indexer_rows")  # rounded to codes when rows are stored as official
PER_WINDOW = ("compressed", "indexer_rows")  # one row per completed window, not per token
NEAR_TIE = 8.0  # margins below this many times the local difference are near ties


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where one continuous result differs."""

    position: int
    layer: int
    tap: str
    max_abs: float
    relative_rms: float


@dataclass(frozen=True, slots=True)
class Flip:
    """A discrete decision that came out differently.

    Parameters
    ----------
    kind : str
        'expert_ids', 'indexer_set' or a rounded row ('kv', 'compressed', 'indexer_rows').
    margin : float or None
        By how much the first side took its decision; None for codes.
    local : float or None
        Largest difference of the scores behind it, where they are known.
    near_tie : bool or None
        Whether the margin is of the size of that difference: no defect needed.
    count : int
        Members or codes that changed.
    """

    position: int
    layer: int
    kind: str
    margin: float | None
    local: float | None
    near_tie: bool | None
    count: int


@dataclass(frozen=True, slots=True)
class ArgmaxChange:
    position: int
    token_a: int
    token_b: int
    gap: float  # between the first side's two best logits
    max_abs: float


@dataclass(slots=True)
class DriftReport:
    """All findings; `to_json` gives plain values."""

    n_tokens: int
    n_layer: int
    self_noise: float = 0.0
    first_difference: Difference | None = None
    first_flip: Flip | None = None
    first_argmax: ArgmaxChange | None = None
    flips: dict[str, int] = field(default_factory=dict)
    n_argmax: int = 0
    growth: list[float | None] = field(default_factory=list)  # relative rms per layer, no flips yet
    logits_rms: list[float] = field(default_factory=list)  # per position
    forced_rms: float | None = None  # logits rms with the first side's experts forced on the second

    @property
    def mean_rms(self) -> float:
        """Root mean square of the logits' difference over all positions."""
        return float(np.sqrt(np.mean(np.square(self.logits_rms)))) if self.logits_rms else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mean_rms": self.mean_rms}


@dataclass(slots=True)
class Side:
    """One run: an engine, and how many rows it evaluates per pass."""

    engine: Engine
    rows: int = BLOCK


Taps = dict[tuple[str, int], np.ndarray]


class _Recorder:
    """Evaluates a block of tokens and keeps every intermediate result of it."""

    def __init__(self, side: Side, ctx: int) -> None:
        self.session: Session = side.engine.session(ctx)
        self.rows = side.rows
        self.forced: Callable[[int, int], np.ndarray] | None = None

    def block(self, tokens: Sequence[int]) -> Taps:
        parts: dict[tuple[str, int], list[np.ndarray]] = {}

        def tap(name: str, layer: int, array: Array) -> None:
            parts.setdefault((name, layer), []).append(np.array(array))

        layers = self.session.trunk.layers
        for start in range(0, len(tokens), self.rows):
            chunk = tokens[start : start + self.rows]
            forced = None if self.forced is None else _forcer(self.forced, start)
            layers.probe = Probe(tap, forced)
            try:
                self.session.all_logits(chunk)
            finally:
                layers.probe = None
        return {key: np.concatenate(arrays) for key, arrays in parts.items()}


def _forcer(
    ids_of: Callable[[int, int], np.ndarray], start: int
) -> Callable[[int, np.ndarray], None]:
    def force(layer: int, ids: np.ndarray) -> None:
        ids[...] = ids_of(layer, start)[: len(ids)]

    return force


def compare(
    a: Side,
    b: Side,
    tokens: Sequence[int],
    *,
    force: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> DriftReport:
    """Teacher-force both sides over `tokens` and report where they part.

    Parameters
    ----------
    a, b : Side
        Models of the same layers, experts and vocabulary.
    tokens : sequence of int
    force : bool
        Run the second side once more with the first side's experts.
    progress : callable, optional
        ``progress(done, total)`` in tokens.

    Raises
    ------
    OptionError
        If the two models cannot be compared.
    """
    shape, other = a.engine.shape, b.engine.shape
    for name in ("n_layer", "n_vocab", "n_embd", "n_head", "head_dim", "n_expert_used"):
        if getattr(shape, name) != getattr(other, name):
            raise OptionError(
                f"{name}: expected {getattr(shape, name)} on both sides, "
                f"found {getattr(other, name)}"
            )
    ctx = len(tokens)
    report = DriftReport(ctx, shape.n_layer)
    first, again, second = _Recorder(a, ctx), _Recorder(a, ctx), _Recorder(b, ctx)
    third = _Recorder(b, ctx) if force else None
    growth = np.zeros((2, shape.n_layer))  # squares of the difference, and of the first side
    forced_squares = 0.0
    for start in range(0, ctx, BLOCK):
        block = list(tokens[start : start + BLOCK])
        left = first.block(block)
        noise = again.block(block)
        right = second.block(block)
        report.self_noise = max(report.self_noise, _largest(left, noise))
        _walk(report, left, right, start, len(block), shape.compress_ratios)
        flip = report.first_flip
        before = len(block) if flip is None else max(0, min(flip.position - start, len(block)))
        for layer in range(shape.n_layer if before else 0):
            x = left["ffn_state", layer][:before].astype(np.float64)
            growth[0, layer] += np.sum((x - right["ffn_state", layer][:before]) ** 2)
            growth[1, layer] += np.sum(x**2)
        logits = left["logits", shape.n_layer], right["logits", shape.n_layer]
        report.logits_rms += np.sqrt(np.mean((logits[0] - logits[1]) ** 2, axis=1)).tolist()
        if third is not None:
            third.forced = lambda layer, row, taps=left: taps["expert_ids", layer][row:]
            forced = third.block(block)["logits", shape.n_layer]
            forced_squares += float(np.sum((logits[0] - forced) ** 2))
        if progress:
            progress(min(start + BLOCK, ctx), ctx)
    report.growth = [float(np.sqrt(d / x)) if x else None for d, x in growth.T]
    if third is not None:
        report.forced_rms = float(np.sqrt(forced_squares / (ctx * shape.n_vocab)))
    return report


def _largest(a: Taps, b: Taps) -> float:
    """Largest difference between two recordings of the same side; infinite where a set differs."""
    worst = 0.0
    for key, left in a.items():
        if np.array_equal(left, b[key]):
            continue
        with np.errstate(invalid="ignore"):
            gap = np.abs(left.astype(np.float64) - b[key].astype(np.float64))
        worst = max(worst, float(np.nanmax(gap)))
    return worst


def _relative_rms(a: np.ndarray, b: np.ndarray) -> float:
    scale = float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))
    rms = float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))))
    return rms / scale if scale else rms


def _walk(
    report: DriftReport,
    left: Taps,
    right: Taps,
    start: int,
    n: int,
    ratios: Sequence[int],
) -> None:
    """Compare one block in order of position, layer and execution."""
    for row in range(n):
        position = start + row
        for layer in range(report.n_layer + 1):
            for tap in CONTINUOUS:
                key = tap, layer
                if key not in left or key not in right:
                    continue
                at = row
                if tap == "indexer_query" and min(len(left[key]), len(right[key])) < n:
                    continue  # computed only from the pass on in which a row has to be dropped
                if tap in PER_WINDOW:
                    ratio = ratios[layer]
                    if (position + 1) % ratio:
                        continue
                    at = (position + 1) // ratio - 1 - start // ratio
                x, y = left[key][at], right[key][at]
                if np.array_equal(x, y):
                    continue
                if report.first_difference is None:
                    gap = float(np.max(np.abs(x.astype(np.float64) - y)))
                    report.first_difference = Difference(
                        position, layer, tap, gap, _relative_rms(x, y)
                    )
                if tap in CODES:
                    changed = int(np.count_nonzero(x != y))
                    _count(report, Flip(position, layer, tap, None, None, None, changed))
            for kind, margin in SETS.items():
                if (kind, layer) in left:
                    _compare_sets(report, left, right, row, position, layer, kind, margin)
        x, y = (side["logits", report.n_layer][row] for side in (left, right))
        top_a, top_b = int(np.argmax(x)), int(np.argmax(y))
        if top_a != top_b:
            report.n_argmax += 1
            if report.first_argmax is None:
                two = np.partition(x, -2)[-2:]
                report.first_argmax = ArgmaxChange(
                    position, top_a, top_b, float(two[1] - two[0]), float(np.max(np.abs(x - y)))
                )


def _compare_sets(
    report: DriftReport,
    left: Taps,
    right: Taps,
    row: int,
    position: int,
    layer: int,
    kind: str,
    margin: str,
) -> None:
    if (kind, layer) not in right:
        return
    x, y = left[kind, layer][row], right[kind, layer][row]
    missing = set(x[x >= 0].tolist()) ^ set(y[y >= 0].tolist())
    if not missing:
        return
    gap = float(left[margin, layer][row]) if (margin, layer) in left else None
    local = near = None
    if kind == "expert_ids":
        scores = left["router_logits", layer][row], right["router_logits", layer][row]
        local = float(np.max(np.abs(scores[0] - scores[1])))
        near = gap is not None and gap <= NEAR_TIE * local
    _count(report, Flip(position, layer, kind, gap, local, near, len(missing)))


def _count(report: DriftReport, flip: Flip) -> None:
    report.flips[flip.kind] = report.flips.get(flip.kind, 0) + 1
    # Codes flip wherever a rounded value differs at all; sets are the decisions that matter.
    if report.first_flip is None and flip.kind in SETS:
        report.first_flip = flip
