"""What a training run leaves behind: a checkpoint to go on from, and weights in small files.

A file is written under another name, flushed and then renamed, so a killed run leaves whole files.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from engine.errors import OptionError

PART_BYTES = 14 << 20  # several small files travel where one large one may not
PARTS = "weights-{}.npz"


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a new file that then takes the place of `path`.

    As `engine.tooling.results.publish`, which lies above this layer.
    """
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_parts(folder: Path, weights: dict[str, np.ndarray]) -> list[Path]:
    """Write weights as ``weights-N.npz`` of at most `PART_BYTES` each; returns the paths."""
    parts: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, value in weights.items():
        if parts[-1] and size + value.nbytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = value
        size += value.nbytes
    paths = [folder / PARTS.format(i) for i in range(len(parts))]
    for path, part in zip(paths, parts):
        replace_file(path, lambda file, part=part: np.savez(file, **part))  # type: ignore[misc]
    return paths


def load_parts(folder: Path) -> dict[str, np.ndarray]:
    """Weights that `save_parts` wrote.

    Raises
    ------
    OptionError
        If the folder holds none.
    """
    weights: dict[str, np.ndarray] = {}
    paths = sorted(folder.glob(PARTS.format("*")))
    if not paths:
        raise OptionError(f"weights: expected {PARTS.format('N')} in {str(folder)!r}, found none")
    for path in paths:
        with np.load(path, allow_pickle=False) as part:
            weights.update({name: part[name] for name in part.files})
    return weights


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Refuse arguments that were given and are not above 0.

    Raises
    ------
    OptionError
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise OptionError(f"{name}: expected more than 0, found {value}")


def checkpoint_path(path: Path, resume: bool) -> Path:
    """The file of a run's state, which is there when the run is to go on, and only then.

    Raises
    ------
    OptionError
    """
    if path.exists() and not resume:
        raise OptionError(
            f"out: expected a folder without {path.name} (or --resume), found {str(path)!r}"
        )
    if resume and not path.exists():
        raise OptionError(f"resume: expected {str(path)!r}, found no such file")
    return path
