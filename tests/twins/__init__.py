"""Model files with equal headers and other weights, as two published trunks are."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.gguf.reader import open_gguf
from engine.models.bundled import bundled_model


def bundled_copy(folder: Path, name: str = "a.gguf") -> Path:
    """A copy of the bundled model."""
    path = folder / name
    shutil.copyfile(bundled_model("base", "q8").path, path)
    return path


def twin(path: Path, name: str = "b.gguf") -> Path:
    """A copy of a bundled model in which one weight of one tensor is another one.

    The changed byte is a quant, not a scale, in the last third of the tensor: values stay finite,
    and neither the start, the middle nor the end of the tensor knows of it.
    """
    other = path.with_name(name)
    with open_gguf(path) as file:
        tensor = next(
            t
            for t in file.tensors.values()
            if t.format.name == "Q8_0" and t.n_bytes > 50_000 and "exps" in t.name
        )
        block = tensor.format.block_bytes
        at = tensor.n_bytes * 5 // 6 // block * block + 5
        start, _ = file.identity.spans[list(file.tensors).index(tensor.name)]
    shutil.copyfile(path, other)
    with open(other, "r+b") as target:
        target.seek(start + at)
        old = target.read(1)
        target.seek(start + at)
        target.write(bytes([old[0] ^ 0x15]))
    return other
