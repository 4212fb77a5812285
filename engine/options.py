"""What a caller may choose when opening a model: plain data, validated on construction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import OptionError

BACKENDS = ("cpu", "cuda", "reference")  # reference: NumPy float64, for comparisons only
ACTIVATIONS = ("int8", "f32")
KV_MODES = ("official", "f32")
REPACK = ("auto", "on", "off")
CHECK_VALUES = ("once", "always", "never")
LAUNCH = ("graph", "prepared", "numba")  # how a recorded pass is launched on a CUDA device
# What a CUDA device alone is asked for; other backends have no use for these fields.
CUDA_FIELDS = ("launch", "residency", "residency_gib", "device")
RESIDENCY = ("auto", "device", "hybrid", "mapped")  # where weights live for a CUDA device
CHUNK = 512  # tokens of a prefill pass on a processor: activations of a layer stay in its caches
CHUNK_CUDA = 2048  # on a GPU: enough tokens for every expert of a layer to have work
# Decode modes; all but the first need a drafter (see engine.spec): an MTP block, or DSpark.
MTP_MODES = ("mtp-strict", "mtp-batched", "mtp-combined")
DSPARK_MODES = ("dspark", "dspark-strict")
MODES = ("plain", *MTP_MODES, *DSPARK_MODES)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of one opened model.

    Parameters
    ----------
    path : Path
        Trunk GGUF file.
    mtp_path : Path or None
        Separate MTP file (either layout); None when drafting with it is off.
    dspark_path : Path or None
        File of a DSpark drafter (any layout), which may be the trunk's own; None without one.
    draft_force : bool
        Take a DSpark drafter that states another checkpoint than the trunk.
    backend : {'cpu', 'cuda', 'reference'}
    threads : int or None
        Worker threads; None takes every core this process may use.
    activations : {'int8', 'f32'}
        Arithmetic of products with quantised weights.
    kv : {'official', 'f32'}
        'official' stores KV rows as the published model does (FP8 round trip, f16, FP4 indexer).
    repack : {'auto', 'on', 'off'}
        Interleaved copy of the weights; 'auto' makes it when it fits in half of the free memory.
    check_values : {'once', 'always', 'never'}
        Scan all values for NaN and infinity while loading; 'once' believes an earlier scan of the
        same file (see `engine.weights.verify`).
    prefill_chunk : int
        Most tokens evaluated in one pass; results do not depend on it. 0 takes the backend's own.
    launch : {'graph', 'prepared', 'numba'}
        CUDA: a pass is replayed as one graph, or launch by launch, or through numba's launcher.
    residency : {'auto', 'device', 'hybrid', 'mapped'}
        CUDA: weights copied to the device, partly copied, or read from the mapped file.
    residency_gib : float or None
        CUDA: most GiB of weights copied to the device; None lets the plan decide.
    device : int
        CUDA: ordinal of the device.

    Raises
    ------
    OptionError
        If a value is not in its set or range.
    """

    path: Path
    mtp_path: Path | None = None
    dspark_path: Path | None = None
    draft_force: bool = False
    backend: str = "cpu"
    threads: int | None = None
    activations: str = "int8"
    kv: str = "official"
    repack: str = "auto"
    check_values: str = "once"
    prefill_chunk: int = 0
    launch: str = "graph"
    residency: str = "auto"
    residency_gib: float | None = None
    device: int = 0

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that is read, the trunk's first, none twice."""
        files = (self.path, self.mtp_path, self.dspark_path)
        return tuple(dict.fromkeys(path for path in files if path is not None))

    def __post_init__(self) -> None:
        for name, allowed in (
            ("backend", BACKENDS),
            ("activations", ACTIVATIONS),
            ("kv", KV_MODES),
            ("repack", REPACK),
            ("check_values", CHECK_VALUES),
            ("launch", LAUNCH),
            ("residency", RESIDENCY),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise OptionError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise OptionError(f"threads: expected 1 to 1024, found {self.threads}")
        if not 0 <= self.prefill_chunk <= 8192:
            raise OptionError(f"prefill_chunk: expected 1 to 8192, found {self.prefill_chunk}")
        if not self.prefill_chunk:
            own = CHUNK_CUDA if self.backend == "cuda" else CHUNK
            object.__setattr__(self, "prefill_chunk", own)
        if self.residency_gib is not None and not 0 <= self.residency_gib < 1 << 20:
            raise OptionError(f"residency_gib: expected 0 or more, found {self.residency_gib}")
        if not 0 <= self.device < 64:
            raise OptionError(f"device: expected 0 to 63, found {self.device}")
        if self.backend == "cuda" and self.activations == "f32":
            raise OptionError("activations: expected int8 with the cuda backend, found f32")
