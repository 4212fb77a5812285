"""The launches of a DSpark draft at DeepSeek V4 Flash's shape, and what a drafting step would take.

As `record`, for the three passes of a drafter: context rows of the tokens that the last step
committed, the block, and the walk through its slots. How many drafts are kept is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.cache.kv import ROLLBACK, block_rows
from engine.forward.dspark import DsparkModel, DsparkPass
from engine.forward.trunk import Trunk
from engine.models.dspark import dspark_shape
from engine.models.recipes import dspark_formats, formats_of
from engine.models.shapes import flash
from engine.tooling.timeline.machines import Machine
from engine.tooling.timeline.predict import Prediction, Switches, predict, predicted
from engine.tooling.timeline.record import (
    CHUNK,
    ModelSizes,
    Recorded,
    ops_without_memory,
    recorded_by,
)


@lru_cache(maxsize=4)
def record_draft(
    n_layer: int, position: int, committed: int, k: int, recipe: str = "iq2"
) -> tuple[Recorded, ...]:
    """The launches of one greedy draft.

    Parameters
    ----------
    n_layer : int
        Of the trunk, whose last three layers are tapped.
    position : int
        Of the token that is drafted behind.
    committed : int
        Tokens whose context rows are written first, 1 to 6.
    k : int
        Slots that are walked; the block is run whole.
    recipe : str
        See `engine.models.recipes`; files of layout A.

    Raises
    ------
    BackendError
        The package numba-cuda is missing.
    """
    ops = ops_without_memory()
    shape = flash(n_layer)
    model = ModelSizes(ops.ctx, shape, formats_of(recipe, "antirez")).build()
    trunk = Trunk(ops, model, True, CHUNK, position + CHUNK)
    drafter = _drafter(ModelSizes(ops.ctx, shape, dspark_formats(recipe, "A")))
    cap = block_rows(shape.n_swa, drafter.spark.block)
    passes = DsparkPass(trunk, drafter, shape.n_swa, cap, True)
    kept = shape.n_swa + ROLLBACK, shape.n_hc, shape.n_embd
    passes.store_context([ops.new_array(kept) for _ in drafter.spark.taps], position, committed)
    passes.run_block(0, position, min(shape.n_swa, position), k)
    passes.walk(0, k, np.empty(0, np.int64))
    return recorded_by(ops, passes)


def _drafter(sizes: ModelSizes) -> DsparkModel:
    shape = sizes.shape
    spark = dspark_shape(shape)
    d, n_vocab, rank = shape.n_embd, shape.n_vocab, spark.rank
    return DsparkModel(
        spark,
        tuple(sizes.weight("dense", d, d) for _ in spark.taps),
        sizes.vector(d),
        tuple(sizes.layer(0, False) for _ in range(spark.n_stage)),
        tuple(sizes.vector(spark.block * shape.n_head) for _ in range(spark.n_stage)),
        sizes.head(),
        sizes.weight("markov", n_vocab, rank, looked_up=True),
        sizes.weight("markov", n_vocab, rank),
        sizes.vector(d + rank),
    )


@dataclass(frozen=True, slots=True)
class DraftingStep:
    """What a step with a whole block takes.

    Parameters
    ----------
    draft, verify, plain : Prediction
        The draft, the pass over the token and its drafts, and a step without drafts.
    """

    draft: Prediction
    verify: Prediction
    plain: Prediction

    @property
    def even(self) -> float:
        """Tokens a step from which on drafting is faster than plain decoding."""
        return (self.draft.seconds + self.verify.seconds) / self.plain.seconds


def predict_drafting(machine: Machine, n_layer: int, position: int) -> DraftingStep:
    """A step of DSpark on a machine, three of whose tokens the step before had committed."""
    k = dspark_shape(flash(n_layer)).block
    launches = record_draft(n_layer, position, 3, k)
    return DraftingStep(
        predicted(launches, machine, position, Switches()),
        predict(machine, n_layer, position, rows=k + 1),
        predict(machine, n_layer, position),
    )


def report_drafting(machine: Machine, position: int) -> str:
    """Markdown: parts of a drafting step of all layers."""
    step = predict_drafting(machine, 43, position)
    lines = [
        "## A step of DSpark",
        "",
        "| part | launches | GB | ms |",
        "|---|---|---|---|",
    ]
    parts = {
        "draft of five": step.draft,
        "pass over six rows": step.verify,
        "plain step": step.plain,
    }
    lines += [
        f"| {name} | {p.launches} | {p.weight_bytes / 1e9:.3f} | {p.seconds * 1e3:.3f} |"
        for name, p in parts.items()
    ]
    lines += ["", f"Faster than plain from {step.even:.2f} tokens a step on."]
    return "\n".join(lines) + "\n"
