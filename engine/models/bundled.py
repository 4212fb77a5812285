"""The model that is used when the user names none: packaged, or generated once per machine.

A generated one lies in the user's cache folder under a hash of everything that decides its bytes,
so another version of the generator makes another file and never reuses a stale one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from engine.errors import OptionError

PACKAGED = Path(__file__).resolve().parent / "data"
SHAPE, RECIPE, SEED = "nano", "iq2", 1
_KINDS = ("base", "mtp")
_LOCK_SECONDS = 300  # making the files takes a few; a waiting process outlasts a busy machine


@dataclass(frozen=True, slots=True)
class BundledModel:
    """Where the model lies, and one line for the user about what it is."""

    path: Path
    notice: str
    made: bool  # True if this call generated it


def bundled_model(kind: str = "base") -> BundledModel:
    """The trunk (`base`) or the draft block (`mtp`) of the bundled model.

    Parameters
    ----------
    kind : {'base', 'mtp'}

    Returns
    -------
    BundledModel

    Raises
    ------
    OptionError
        If the model must be made and the cache folder cannot be written. The environment variable
        DS4_MODEL_CACHE names another folder.
    """
    assert kind in _KINDS, kind
    packaged = PACKAGED / f"{kind}.gguf"
    if packaged.is_file():
        return BundledModel(packaged, f"bundled trained model {packaged}", False)
    folder = _folder()
    path = folder / f"{SHAPE}-{RECIPE}-{kind}.gguf"
    what = f"bundled {SHAPE} model with random weights"
    try:
        made = _make(folder, path, kind)
    except OSError as error:
        raise OptionError(
            f"bundled model: expected a folder that can be written, found {str(folder)!r}:"
            f" {error.strerror or error}; name a model, or a folder in DS4_MODEL_CACHE"
        ) from None
    return BundledModel(path, f"{what}, made now: {path}" if made else f"{what}: {path}", made)


def _make(folder: Path, path: Path, kind: str) -> bool:
    """Generate the file unless it is there; one process at a time."""
    if path.is_file():
        return False
    import filelock

    from engine.models.shapes import named_shape
    from engine.models.write import write_model

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with filelock.FileLock(folder / "lock", timeout=_LOCK_SECONDS):
            if path.is_file():
                return False
            # What a killed process left behind; holding the lock, no other writer is alive.
            for stale in folder.glob(f".{path.name}.*.part"):
                with contextlib.suppress(OSError):
                    stale.unlink()
            write_model(path, named_shape(SHAPE), RECIPE, SEED, draft=kind == "mtp")
            return True
    except filelock.Timeout:
        raise OptionError(
            f"bundled model: expected the lock {str(folder / 'lock')!r} within"
            f" {_LOCK_SECONDS} s, found it held by another process"
        ) from None


def _folder() -> Path:
    base = os.environ.get("DS4_MODEL_CACHE")
    root = Path(base) if base else Path(platformdirs.user_cache_dir("ds4bench")) / "models"
    return root / _digest()


def _digest() -> str:
    """Hash of the generator's and the quantisers' sources and of what they are built on."""
    digest = hashlib.sha256()
    here = Path(__file__).resolve().parent
    for folder in (here, here.parent / "quant"):
        for source in sorted(folder.glob("*.py")):
            digest.update(source.name.encode())
            digest.update(source.read_bytes())
    from engine.text.tokenizer import SPLITS

    digest.update(repr(SPLITS).encode())
    for name in ("gguf", "numpy", "tokenizers"):
        digest.update(f"{name}={importlib.metadata.version(name)}".encode())
    return digest.hexdigest()[:20]
