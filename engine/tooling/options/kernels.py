"""Options that say what computes and where weights live, the same in every program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from engine.errors import OptionError
from engine.options import (
    ACTIVATIONS,
    BACKENDS,
    CUDA_FIELDS,
    KV_MODES,
    LAUNCH,
    REPACK,
    RESIDENCY,
    EngineOptions,
)
from engine.tooling.options.group import OptionGroup
from engine.tooling.options.types import Number, OneOf, Whole, Wholes

MAX_THREADS = 1024
MAX_DEVICE = 63
DEVICE_HELP = (
    "CUDA: ordinal of the device.",
    "CUDA: ordinal of the device, or several such as 0,1: a worker for each.",
)


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """What computes; the fields are those of `EngineOptions`, where they are described."""

    backend: str = "cpu"
    threads: int | None = None
    activations: str = "int8"
    kv: str = "official"
    repack: str = "auto"
    launch: str = "graph"
    residency: str = "auto"
    residency_gib: float | None = None
    device: int = 0
    devices: tuple[int, ...] = ()  # of programs that can use several; `device` is the first

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as keyword arguments."""
        names = [one.name for one in fields(self) if one.name != "devices"]
        return {name: getattr(self, name) for name in names}

    def engine_options(
        self,
        path: Path,
        mtp_path: Path | None = None,
        dspark_path: Path | None = None,
        draft_force: bool = False,
    ) -> EngineOptions:
        """Options of an engine over these files.

        Raises
        ------
        OptionError
            See `EngineOptions`.
        """
        return EngineOptions(
            path=path,
            mtp_path=mtp_path,
            dspark_path=dspark_path,
            draft_force=draft_force,
            **self.to_dict(),
        )


KernelGroup: TypeAlias = OptionGroup[KernelChoice]


def kernel_options(backends: Sequence[str] = BACKENDS, several: bool = False) -> KernelGroup:
    """The group for a program that offers these backends, and one device or `several` at once.

    Parameters
    ----------
    backends : sequence of str
        ds4-bench leaves 'reference' out: float64 NumPy is no subject of a benchmark.
    """
    return OptionGroup(
        "Kernels and weights",
        (
            (
                ("--backend",),
                {
                    "type": OneOf(backends),
                    "default": "cpu",
                    "flags": {f"--{name}": name for name in ("cpu", "cuda", "metal")},
                    "help": "What computes; --cpu and --cuda are short forms.",
                },
            ),
            (
                ("-t", "--threads"),
                {
                    "type": Whole(1, MAX_THREADS),
                    "help": "Worker threads.",
                    "default_text": "every core that this process may use",
                },
            ),
            (
                ("--activations",),
                {
                    "type": OneOf(ACTIVATIONS),
                    "help": "Arithmetic of products with quantised weights.",
                    "default_text": ACTIVATIONS[0],
                },
            ),
            (
                ("--quality",),
                {"is_flag": True, "help": "Exact arithmetic: the same as --activations f32."},
            ),
            (
                ("--kv",),
                {
                    "type": OneOf(KV_MODES),
                    "default": KV_MODES[0],
                    "help": "How KV rows are kept: as the published model does, or as float32.",
                },
            ),
            (
                ("--repack",),
                {
                    "type": OneOf(REPACK),
                    "default": REPACK[0],
                    "help": "Keep a second copy of the weights, interleaved for faster products on "
                    "the CPU; auto makes it when it fits in half of the free memory.",
                },
            ),
            (
                ("--launch",),
                {
                    "type": OneOf(LAUNCH),
                    "help": "CUDA: replay a pass as one graph, launch kernel by kernel, or go "
                    "through numba's launcher.",
                    "default_text": LAUNCH[0],
                },
            ),
            (
                ("--residency",),
                {
                    "type": OneOf(RESIDENCY),
                    "help": "CUDA: where weights live (`ds4-bench residency` prints the plan).",
                    "default_text": RESIDENCY[0],
                },
            ),
            (
                ("--residency-gib",),
                {
                    "type": Number(0),
                    "metavar": "GIB",
                    "help": "CUDA: copy at most this many GiB of weights to the device.",
                    "default_text": "what the plan allows",
                },
            ),
            (
                ("--device",),
                {
                    "type": (Wholes if several else Whole)(0, MAX_DEVICE),
                    "help": DEVICE_HELP[several],
                    "default_text": "0",
                },
            ),
        ),
        _parse,
    )


def _parse(values: dict[str, Any]) -> KernelChoice:
    backend = values["backend"]
    given = {name: values[name] for name in CUDA_FIELDS if values[name] is not None}
    if given and backend != "cuda":
        name = next(iter(given)).replace("_", "-")
        raise OptionError(f"--{name}: expected with --backend cuda, found {backend}")
    if isinstance(given.get("device"), tuple):
        given["devices"] = given["device"]
        given["device"] = given["devices"][0]
    activations = values["activations"]
    if values["quality"]:
        if activations == "int8":
            raise OptionError("--quality: expected --activations f32, found int8")
        activations = "f32"
    if backend == "cuda" and activations == "f32":
        option = "--quality" if values["quality"] else "--activations f32"
        raise OptionError(f"{option}: expected another --backend, found cuda, which has int8 only")
    return KernelChoice(
        backend,
        values["threads"],
        activations or ACTIVATIONS[0],
        values["kv"],
        values["repack"],
        **given,
    )
