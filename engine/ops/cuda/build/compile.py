"""Machine code of kernels for one architecture, made the same way at run time, in checks and ahead.

numba-cuda's front end makes IR, NVVM makes link-time IR of it and nvJitLink machine code; neither
needs a driver or a device. Multiplications and additions are never contracted (``-fma=0``), so that
a kernel computes what its source says and two kernels that say the same agree; `ptx.fma_rn` is the
fused one. Results are kept in a private folder that is named after everything that went into them.

A machine without the toolkit, or with other versions of it, uses cubins that were built ahead:

    python -m engine.ops.cuda.build.compile --cc 9.0 --cc 12.1 --out FOLDER
    DS4_CUDA_CUBINS=FOLDER ds4 ...
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import re
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from engine.errors import BackendError
from engine.ops.cuda.build.kernel import REGISTRY, Kernel
from engine.ops.cuda.device import store

_HERE = Path(__file__).resolve().parents[1]
_PACKAGE = "engine.ops.cuda"  # whose folder that is
_MANIFEST = "cubins.json"


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel.

    Parameters
    ----------
    image : bytes
        ELF that the driver loads.
    entry : str
        Symbol of the kernel.
    """

    image: bytes
    entry: str


def architecture(cc: tuple[int, int]) -> str:
    """Name of a compute capability: (9, 0) is sm_90a, with its own instructions; (8, 6) is sm_86.

    Architectures before 9.0 have none of their own, and the compilers know no such name.
    """
    return f"sm_{cc[0]}{cc[1]}" + ("a" if cc >= (9, 0) else "")


def entry_name(kernel: Kernel) -> str:
    return "ds4_" + re.sub(r"\W", "_", kernel.name)


_held: dict[tuple[Kernel, tuple[int, int]], Cubin] = {}


def compile_kernel(kernel: Kernel, cc: tuple[int, int]) -> Cubin:
    """Machine code of a kernel, from memory, the folder of prebuilt cubins, the cache or made now.

    Parameters
    ----------
    kernel : Kernel
    cc : (int, int)
        Compute capability: (9, 0), (12, 1), ...

    Raises
    ------
    BackendError
        The prebuilt folder does not fit these sources or is damaged, or the toolkit is missing or
        refuses the kernel.
    """
    held = _held.get((kernel, cc))
    if held is None:
        folder = os.environ.get("DS4_CUDA_CUBINS")
        image = _prebuilt(Path(folder), kernel, cc) if folder else _cached(kernel, cc)
        held = _held[kernel, cc] = Cubin(image, entry_name(kernel))
    return held


def file_name(kernel: Kernel, cc: tuple[int, int]) -> str:
    """Name of a cubin, which says what sources it is made of."""
    return f"{entry_name(kernel)}.{store.kernel_digest(kernel)}.{architecture(cc)}.cubin"


def _cached(kernel: Kernel, cc: tuple[int, int]) -> bytes:
    name = file_name(kernel, cc)
    image = store.get(name)
    if image is None:
        image = build(kernel, cc)
        store.put(name, image)
    return image


def build(kernel: Kernel, cc: tuple[int, int]) -> bytes:
    """Machine code made from a kernel's IR, whatever is stored.

    Raises
    ------
    BackendError
        The toolkit is missing or refuses the kernel.
    """
    from engine.ops.cuda.build.offline import device_ir

    ir = device_ir(kernel)
    texts = [text.replace(ir.entry, entry_name(kernel)) for text in ir.texts]
    texts = _awaiting(texts, entry_name(kernel)) if cc >= EARLY_CC else _alone(texts)
    try:
        from cuda.bindings import nvjitlink
        from numba.cuda.cudadrv import nvvm

        linkable = nvvm.compile_ir(
            texts, arch=f"compute_{architecture(cc)[3:]}", opt=3, fma=False, **{"gen-lto": None}
        )
        return _link(nvjitlink, kernel, linkable, architecture(cc))
    except BackendError:
        raise
    except Exception as error:  # bindings, loader and compiler have no common exception
        reason = " ".join(str(error).split())
        raise BackendError(
            f"{kernel.name}: expected a CUDA 13 toolkit that compiles it for {architecture(cc)}, "
            f"found {type(error).__name__}: {reason} (pip install 'ds4bench[cuda]', or set "
            f"DS4_CUDA_CUBINS to a folder of prebuilt cubins)"
        ) from error


# From here on a grid may begin before the one that it depends on has ended.
EARLY_CC = (9, 0)
_WAIT, _RELEASE = "griddepcontrol.wait;", "griddepcontrol.launch_dependents;"


def _awaiting(texts: list[str], entry: str) -> list[str]:
    """Let a kernel's successors begin, and wait for its predecessors, before anything else.

    A kernel that waits by itself (`ptx.depend`) does so where its source says. Every kernel must
    wait, those that return early, too: an end means that everything before has ended.
    """
    lines = [f'  call void asm sideeffect "{_RELEASE}", ""()']
    if not any(_WAIT in text for text in texts):
        lines.append(f'  call void asm sideeffect "{_WAIT}", "~{{memory}}"()')
    begin = re.compile(
        rf'^define [^\n]*@"{re.escape(entry)}"\([^\n]*\n\{{\n[^\n]+:\n', re.MULTILINE
    )
    placed = [begin.sub(lambda found: found[0] + "\n".join(lines) + "\n", text) for text in texts]
    if sum(old != new for old, new in zip(texts, placed)) != 1:
        raise BackendError(
            f"{entry}: expected one definition in the front end's code, found others"
        )
    return placed


def _alone(texts: list[str]) -> list[str]:
    """The same without the instructions that an older architecture lacks."""
    return [
        re.sub(r'"(?:griddepcontrol|cp\.async\.bulk\.prefetch)[^"]*"', '""', text) for text in texts
    ]


def _link(nvjitlink: Any, kernel: Kernel, linkable: bytes, arch: str) -> bytes:
    options = [f"-arch={arch}", "-lto", "-O3", "-fma=0", "-ftz=0", "-prec-div=1", "-prec-sqrt=1"]
    if kernel.max_registers:
        options.append(f"-maxrregcount={kernel.max_registers}")
    handle = nvjitlink.create(len(options), options)
    try:
        kind = nvjitlink.InputType.LTOIR
        nvjitlink.add_data(handle, kind, linkable, len(linkable), kernel.name)
        nvjitlink.complete(handle)
        image = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, image)
        return bytes(image)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        reason = " ".join(log.decode(errors="replace").strip("\0").split())
        raise BackendError(f"{kernel.name}: expected code for {arch}, found {reason}") from error
    finally:
        nvjitlink.destroy(handle)


# Prebuilt cubins.


@cache
def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        return {"versions": dict(manifest["versions"]), "files": dict(manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"{folder}: expected a folder of prebuilt cubins with {_MANIFEST}, found {error!r}"
        ) from error


def _prebuilt(folder: Path, kernel: Kernel, cc: tuple[int, int]) -> bytes:
    name = file_name(kernel, cc)
    files = _manifest(folder)["files"]
    expected = files.get(name)
    if expected is None:
        start = f"{entry_name(kernel)}."
        others = [other for other in files if other.startswith(start)]
        found = f"only {', '.join(others)}" if others else "none"
        raise BackendError(f"{folder}: expected {name}, found {found}; build the folder again")
    try:
        image = (folder / name).read_bytes()
    except OSError as error:
        raise BackendError(f"{folder / name}: expected a cubin, found {error!r}") from error
    found = hashlib.sha256(image).hexdigest()
    if found != expected:
        raise BackendError(f"{folder / name}: expected checksum {expected}, found {found}")
    return image


def toolkit() -> dict[str, str]:
    """Versions that made the cubins in use: the prebuilt folder's, or this environment's."""
    folder = os.environ.get("DS4_CUDA_CUBINS")
    return dict(_manifest(Path(folder))["versions"]) if folder else dict(store.versions())


def registry(also: Iterable[str] = ()) -> dict[str, Kernel]:
    """Every kernel that the package defines, by name, and those of the modules `also`."""
    for module in pkgutil.walk_packages([str(_HERE)], f"{_PACKAGE}."):
        if not module.name.endswith((".compile", ".ops")):  # these define none
            importlib.import_module(module.name)
    extra = {str(importlib.import_module(name).__file__) for name in also}
    return {
        name: kernel
        for name, kernel in sorted(REGISTRY.items())
        if Path(kernel.file).resolve().is_relative_to(_HERE) or kernel.file in extra
    }


def _build_named(job: tuple[str, tuple[int, int], tuple[str, ...]]) -> bytes:
    name, cc, also = job
    return compile_kernel(registry(also)[name], cc).image


def build_all(
    ccs: Iterable[tuple[int, int]],
    names: Iterable[str] = (),
    jobs: int = 1,
    also: Iterable[str] = (),
) -> dict[tuple[str, tuple[int, int]], bytes]:
    """Cubins of all kernels, or of the named ones; in parallel processes if `jobs` is above 1."""
    modules, ccs = tuple(also), tuple(ccs)
    known = registry(modules)
    chosen = list(names) or list(known)
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise BackendError(f"kernels: expected names of the registry, found {', '.join(unknown)}")
    keys = [(name, cc) for name in chosen for cc in ccs]
    work = [(name, cc, modules) for name, cc in keys]
    if jobs == 1:
        return dict(zip(keys, map(_build_named, work)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return dict(zip(keys, pool.map(_build_named, work, chunksize=4)))


def parse_cc(text: str) -> tuple[int, int]:
    """'9.0' to (9, 0)."""
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a compute capability like 9.0, found {text!r}")
    return int(match[1]), int(match[2])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m engine.ops.cuda.build.compile", description=__doc__)
    parser.add_argument("--cc", type=parse_cc, action="append", help="9.0 and 12.1 by default")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--module", action="append", default=[], help="kernels of this module too")
    parser.add_argument("names", nargs="*", help="kernels; all by default")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    images = build_all(options.cc or [(9, 0), (12, 1)], options.names, options.jobs, options.module)
    options.out.mkdir(parents=True, exist_ok=True)
    files = {}
    for (name, cc), image in images.items():
        named = file_name(REGISTRY[name], cc)
        store.write(options.out / named, image)
        files[named] = hashlib.sha256(image).hexdigest()
    manifest = {"versions": store.versions(), "files": files}
    store.write(options.out / _MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    size = sum(map(len, images.values()))
    seconds = time.perf_counter() - start
    print(f"{len(images)} cubins, {size} bytes, {seconds:.1f} s: {options.out}")


if __name__ == "__main__":
    main()
