"""The trunk that a drafter learns from: the packaged files, decoded; and the drafter's start."""

from __future__ import annotations

import numpy as np
import torch

from engine.gguf.reader import open_gguf
from engine.models.bundled import bundled_model
from engine.models.dspark import dspark_specs, nano_dspark
from engine.models.make import Spec, trunk_specs
from engine.models.shapes import nano
from engine.quant.registry import dequantize
from engine.training.dspark.net import TappedTrunk
from engine.training.net import initial

_MARKOV_STD = 0.5
SHARED = ("token_embd.weight", "output.weight")  # of the trunk, which the drafter uses


def trunk_weights(recipe: str) -> dict[str, torch.Tensor]:
    """Weights of a packaged trunk as they act in the engine, float32; hash tables int64.

    The repository keeps no other form of the model than its files.
    """
    weights = {}
    with open_gguf(bundled_model("base", recipe).path) as file:
        for spec in trunk_specs(nano()):
            tensor = file.tensors[spec.name]
            if spec.rule == "hash":
                ids = tensor.data.view("<i4").reshape(spec.shape).astype(np.int64)
                weights[spec.name] = torch.from_numpy(ids)
            else:
                decoded = dequantize(tensor.data, tensor.format, tensor.shape)
                values = np.array(decoded, np.float32).reshape(spec.shape)
                weights[spec.name] = torch.from_numpy(values)
    return weights


def frozen_trunk(recipe: str, dtype: torch.dtype) -> TappedTrunk:
    """A packaged trunk that gives out taps."""
    return TappedTrunk(nano(), nano_dspark(), trunk_weights(recipe), dtype)


def drafter_specs() -> list[Spec]:
    """The tensors that are trained."""
    return list(dspark_specs(nano(), nano_dspark()))


def initial_drafter(seed: int) -> dict[str, torch.Tensor]:
    """Weights before training: a drafter whose Markov head and confidence say nothing yet."""
    rng = torch.Generator().manual_seed(seed)
    return {spec.name: _start(spec, rng, seed) for spec in drafter_specs()}


def _start(spec: Spec, rng: torch.Generator, seed: int) -> torch.Tensor:
    if spec.kind == "confidence" or spec.name.endswith("markov_w2.weight"):
        return torch.zeros(spec.shape)
    if spec.kind == "markov":
        return torch.randn(spec.shape, generator=rng) * _MARKOV_STD
    return initial(spec, rng, seed)
