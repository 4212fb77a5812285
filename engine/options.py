"""What a caller may choose when opening a model: plain data, validated on construction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import OptionError

BACKENDS = ("cpu", "reference")  # reference: NumPy float64, for comparisons only
ACTIVATIONS = ("int8", "f32")
KV_MODES = ("official", "f32")
REPACK = ("auto", "on", "off")
# Decode modes; all but the first need an MTP block (see engine.spec).
MODES = ("plain", "mtp-strict", "mtp-batched", "mtp-combined")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of one opened model.

    Parameters
    ----------
    path : Path
        Trunk GGUF file.
    mtp_path : Path or None
        Separate MTP file (either layout); None when the trunk carries it or drafting is off.
    backend : {'cpu', 'reference'}
    threads : int or None
        Worker threads; None takes every core this process may use.
    activations : {'int8', 'f32'}
        Arithmetic of products with quantised weights.
    kv : {'official', 'f32'}
        'official' stores KV rows as the published model does (FP8 round trip, f16, FP4 indexer).
    repack : {'auto', 'on', 'off'}
        Interleaved copy of the weights; 'auto' makes it when it fits in half of the free memory.
    check_values : bool
        Scan block scales for NaN and infinity while loading.
    prefill_chunk : int
        Most tokens evaluated in one pass; results do not depend on it.

    Raises
    ------
    OptionError
        If a value is not in its set or range.
    """

    path: Path
    mtp_path: Path | None = None
    backend: str = "cpu"
    threads: int | None = None
    activations: str = "int8"
    kv: str = "official"
    repack: str = "auto"
    check_values: bool = True
    prefill_chunk: int = 512

    def __post_init__(self) -> None:
        for name, allowed in (
            ("backend", BACKENDS),
            ("activations", ACTIVATIONS),
            ("kv", KV_MODES),
            ("repack", REPACK),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise OptionError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise OptionError(f"threads: expected 1 to 1024, found {self.threads}")
        if not 1 <= self.prefill_chunk <= 8192:
            raise OptionError(f"prefill_chunk: expected 1 to 8192, found {self.prefill_chunk}")
