"""Small random model files for tests, made once per test run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from engine import EngineOptions, open_engine
from engine.engine import Engine
from engine.models import shapes
from engine.models.make import chunks, draft_specs, trunk_specs
from engine.models.write import write_model
from engine.models.write_dspark import write_dspark
from engine.shape import Shape

SHAPES = {
    "micro": shapes.micro,
    "tiny": shapes.tiny,
    "tiny-wide": shapes.tiny_wide,
    "nano": shapes.nano,
}


def model_file(
    folder: Path, shape: str, recipe: str = "f32", draft: bool = False, layout: str = "antirez"
) -> Path:
    """Path of a generated model; written at the first request."""
    kind = "-mtp" if draft else ""
    path = folder / f"{shape}-{recipe}-{layout}{kind}.gguf"
    if not path.exists():
        made: Shape = SHAPES[shape]()
        write_model(path, made, recipe, seed=7, layout=layout, draft=draft)
    return path


def open_model(
    folder: Path, shape: str, recipe: str = "f32", mtp: bool = False, **options: object
) -> Engine:
    """An engine over a generated model; close it (or use `with`)."""
    path = model_file(folder, shape, recipe)
    mtp_path = model_file(folder, shape, recipe, draft=True) if mtp else None
    settings = {"threads": 2, "repack": "off", **options}
    return open_engine(EngineOptions(path=path, mtp_path=mtp_path, **settings))  # type: ignore[arg-type]


def dspark_file(
    folder: Path, shape: str, recipe: str = "f32", layout: str = "A", combined: bool = False
) -> Path:
    """Path of a generated DSpark drafter; written at the first request."""
    kind = "-combined" if combined else ""
    path = folder / f"{shape}-{recipe}-dspark-{layout}{kind}.gguf"
    if not path.exists():
        write_dspark(path, SHAPES[shape](), recipe=recipe, seed=7, layout=layout, combined=combined)
    return path


def open_dspark(
    folder: Path, shape: str = "micro", recipe: str = "f32", layout: str = "A", **options: object
) -> Engine:
    """As `open_model`, with a DSpark drafter."""
    spark = dspark_file(folder, shape, recipe, layout)
    return open_model(folder, shape, recipe, dspark_path=spark, **options)  # type: ignore[arg-type]


def drawn_weights(shape: Shape, seed: int = 1) -> dict[str, np.ndarray]:
    """Random weights of trunk and draft block, as a training run leaves its own."""
    specs = (*trunk_specs(shape), *draft_specs(shape))
    return {s.name: np.concatenate(list(chunks(s, seed))).reshape(s.shape) for s in specs}


def replaced(engine: Engine, **options: object) -> EngineOptions:
    return dataclasses.replace(engine.options, **options)  # type: ignore[arg-type]
