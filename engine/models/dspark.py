"""Tensors of a DSpark drafter: names, sizes and spreads of values, as `make` has them of the rest.

Names are those of antirez's support files. What a drafter computes is `engine.spec.dspark`'s, and
how other layouts call its tensors is `engine.weights.dspark`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from engine.models.make import LOGITS_STD, Spec, block_specs, head_specs
from engine.shape import DsparkShape, Shape

FLASH_EMBD = 4096  # from this width on a drafter has the published one's rank
STAGES, BLOCK, TAPS = 3, 5, 3


def dspark_shape(shape: Shape) -> DsparkShape:
    """The drafter of a generated model: the published one's, with a smaller rank where it is small.

    Outputs of the last three layers are tapped, and the last id of the vocabulary is the noise.
    """
    rank = 256 if shape.n_embd >= FLASH_EMBD else 64
    first = max(shape.n_layer - TAPS, 0)
    taps = tuple(range(first, shape.n_layer))
    return DsparkShape(STAGES, BLOCK, rank, shape.n_vocab - 1, taps)


def nano_dspark() -> DsparkShape:
    """The bundled model's drafter; its noise is a token that no text of the model's holds."""
    return DsparkShape(n_stage=3, block=5, rank=64, noise=7, taps=(2, 3, 4))


def stage_prefix(stage: int) -> str:
    """What the names of a stage's tensors start with."""
    return f"mtp.{stage}."


def dspark_specs(shape: Shape, spark: DsparkShape) -> Iterator[Spec]:
    """Every tensor of a drafter, in the order of the file.

    The Markov head adds about a third of the logits' spread, and confidences spread over 0 to 1.
    """
    d, rank = shape.n_embd, spark.rank
    first, last = stage_prefix(0), stage_prefix(spark.n_stage - 1)
    fan_in = spark.n_tap * d
    yield Spec(f"{first}main_proj.weight", (d, fan_in), "dense", 1 / math.sqrt(fan_in))
    yield Spec(f"{first}main_norm.weight", (d,), "vector", 0.1, rule="norm")
    for stage in range(spark.n_stage):
        yield from block_specs(shape, stage_prefix(stage), None)
    yield from head_specs(shape, f"{last}hc_head_", f"{last}norm.weight")
    markov = f"{last}markov_head.markov_w"
    yield Spec(f"{markov}1.weight", (shape.n_vocab, rank), "markov", 1.0)
    yield Spec(f"{markov}2.weight", (shape.n_vocab, rank), "markov", LOGITS_STD / 3 / rank**0.5)
    width = d + rank
    yield Spec(f"{last}confidence_head.proj.weight", (1, width), "confidence", 2 / math.sqrt(width))
