"""Facts that the worker reports of model files, prompt and memory, before anything is timed.

They are plain values that `ds4bench.worker.codec` writes and reads; how they are found out they do
not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class FileStat(NamedTuple):
    """A file as the file system knows it; another inode, size or time is another file."""

    path: str
    dev: int
    ino: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Identity of one model file.

    Attributes
    ----------
    id : str
        What must be equal to resume: the hash of the whole file, or, of a very large one, its
        sampled identity.
    path : str
    size : int
        Bytes.
    sha256 : str or None
        Of the whole file; None where it was too large to be hashed.
    header_sha256 : str
    stat : tuple of FileStat
        One for each part of a split file.
    sampled_sha256 : str
        Header and pieces of every tensor; see `engine.gguf.identity`.
    """

    id: str
    path: str
    size: int
    sha256: str | None
    header_sha256: str
    stat: tuple[FileStat, ...]
    sampled_sha256: str = ""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a sweep needs: mapped weights, context, scratch arrays, one snapshot."""

    mapped: int
    context: int
    scratch: int
    snapshot: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What headers alone say of the model files.

    Attributes
    ----------
    name : str
    n_ctx_train, n_vocab, n_layer : int
    has_mtp : bool
    implemented_modes : tuple of str
        Decode modes whose code exists, whatever the model.
    model_id, mtp_id : str, str or None
        `FileFacts.id` of either file.
    files : tuple of FileFacts
    decode_bytes : dict
        Bytes that a plain decode step reads, by context length; of at most 32 frontiers.
    memory : MemoryNeed
    weight_bytes : int
        Copies of weights that are held beside the files: repacked ones, or a device's.
    free_device_bytes : int or None
        Of the device that holds weights and session; None where all is on the host.
    has_dspark : bool
    dspark_id : str or None
    effective : dict
        What options left open and this machine has decided (repacking).
    """

    name: str
    n_ctx_train: int
    n_vocab: int
    n_layer: int
    has_mtp: bool
    implemented_modes: tuple[str, ...]
    model_id: str
    mtp_id: str | None
    files: tuple[FileFacts, ...]
    decode_bytes: dict[int, float]
    memory: MemoryNeed
    weight_bytes: int
    free_device_bytes: int | None
    effective: dict[str, object] = field(default_factory=dict)
    has_dspark: bool = False
    dspark_id: str | None = None


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """Tokens of the prompt, of a long one those that were looked at, and the used ones' hash."""

    n_tokens: int
    n_tokens_once: int
    tokens_sha256: str


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Measured read rate of the memory that decoding reads; no threads: a device's.

    Attributes
    ----------
    read_bytes_per_s : float
        Of the best pass.
    threads : int
    passes_bytes_per_s : tuple of float
        Of every pass.
    """

    read_bytes_per_s: float
    threads: int
    passes_bytes_per_s: tuple[float, ...] = ()

    def joined(self, later: Bandwidth) -> Bandwidth:
        """Both measurements as one."""
        best = max(self.read_bytes_per_s, later.read_bytes_per_s)
        return Bandwidth(best, self.threads, self.passes_bytes_per_s + later.passes_bytes_per_s)
