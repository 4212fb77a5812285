"""Machine code of kernels for one architecture, made the same way at run time, in checks and ahead.

numba-cuda's front end makes IR, NVVM makes link-time IR of it and nvJitLink machine code; neither
needs a driver or a device. Multiplications and additions are never contracted (``-fma=0``), so that
a kernel computes what its source says and two kernels that say the same agree; `ptx.fma_rn` is the
fused one. Results are kept in a private folder that is named after everything that went into them.

A machine without the toolkit, or with other versions of it, uses cubins that were built ahead:

    python -m engine.ops.cuda.compile --cc 9.0 --cc 12.1 --out FOLDER
    DS4_CUDA_CUBINS=FOLDER ds4 ...
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import os
import pkgutil
import re
import stat
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import platformdirs

import engine.ops.cuda as package
from engine.errors import BackendError
from engine.ops.cuda.kernel import REGISTRY, Kernel

_HERE = Path(__file__).resolve().parent
# Other files whose values are compiled into kernels.
_ALSO = ("ops/scalar.py", "quant")
_NOT_COMPILED = ("natsim", "check.py")
_PACKAGES = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink")
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
    """Name of a compute capability with its own instructions: (9, 0) is sm_90a."""
    return f"sm_{cc[0]}{cc[1]}a"


def entry_name(kernel: Kernel) -> str:
    return "ds4_" + re.sub(r"\W", "_", kernel.name)


def sources_digest() -> str:
    """Hash of every source that can change machine code."""
    root = _HERE.parent.parent
    paths = [
        path
        for path in _HERE.rglob("*.py")
        if path.relative_to(_HERE).parts[0] not in _NOT_COMPILED
    ]
    for name in _ALSO:
        path = root / name
        paths += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


@cache
def versions() -> dict[str, str]:
    """Versions of what turns sources into machine code; a package that is missing is empty."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


@cache
def _cache_folder(digest: str) -> Path:
    """Private folder of this state of sources and versions; one that others could write is left."""
    base = os.environ.get("DS4_KERNEL_CACHE")
    root = Path(base) if base else Path(platformdirs.user_cache_dir("ds4bench")) / "kernels"
    key = hashlib.sha256(f"{digest} {sorted(versions().items())}".encode()).hexdigest()[:20]
    for attempt in range(8):
        folder = root / (f"cuda-{key}" if attempt == 0 else f"cuda-{key}-{attempt}")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
        ours = not hasattr(os, "getuid") or info.st_uid == os.getuid()
        if ours and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return folder
    raise BackendError(f"{root}: expected a folder that only this user can write, found others")


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


def _file_name(kernel: Kernel, cc: tuple[int, int]) -> str:
    return f"{entry_name(kernel)}.{architecture(cc)}.cubin"


def _cached(kernel: Kernel, cc: tuple[int, int]) -> bytes:
    """From the cache, where a checksum precedes the code; a file that does not fit is made anew."""
    path = _cache_folder(sources_digest()) / _file_name(kernel, cc)
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        stored = b""
    image = stored[32:]
    if image and hashlib.sha256(image).digest() == stored[:32]:
        return image
    image = build(kernel, cc)
    _write(path, hashlib.sha256(image).digest() + image)
    return image


def _write(path: Path, data: bytes) -> None:
    """Whole file or none: another process may be reading."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def build(kernel: Kernel, cc: tuple[int, int]) -> bytes:
    """Compile a kernel, whatever is stored.

    Raises
    ------
    BackendError
        The toolkit is missing or refuses the kernel.
    """
    from engine.ops.cuda.offline import device_ir

    text, mangled = device_ir(kernel, cc)
    text = text.replace(mangled, entry_name(kernel))
    try:
        from cuda.bindings import nvjitlink
        from numba.cuda.cudadrv import nvvm

        linkable = nvvm.compile_ir(
            [text], arch=f"compute_{architecture(cc)[3:]}", opt=3, fma=False, **{"gen-lto": None}
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
        sources = manifest["sources"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"{folder}: expected a folder of prebuilt cubins with {_MANIFEST}, found {error!r}"
        ) from error
    if sources != sources_digest():
        raise BackendError(
            f"{folder}: expected cubins of these sources ({sources_digest()}), found {sources}"
        )
    return manifest


def _prebuilt(folder: Path, kernel: Kernel, cc: tuple[int, int]) -> bytes:
    name = _file_name(kernel, cc)
    expected = _manifest(folder)["files"].get(name)
    if expected is None:
        raise BackendError(f"{folder}: expected {name}, found none; build the folder again")
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
    return dict(_manifest(Path(folder))["versions"]) if folder else dict(versions())


def registry() -> dict[str, Kernel]:
    """Every kernel that the package defines, by name (kernels of tests are not among them)."""
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in ("check", "compile", "natsim", "ops"):  # these define none
            importlib.import_module(f"{package.__name__}.{module.name}")
    return {
        name: REGISTRY[name]
        for name in sorted(REGISTRY)
        if Path(REGISTRY[name].file).resolve().is_relative_to(_HERE)
    }


def _build_named(job: tuple[str, tuple[int, int]]) -> tuple[str, tuple[int, int], bytes]:
    name, cc = job
    return name, cc, compile_kernel(registry()[name], cc).image


def build_all(
    ccs: Iterable[tuple[int, int]], names: Iterable[str] = (), jobs: int = 1
) -> dict[tuple[str, tuple[int, int]], bytes]:
    """Cubins of all kernels, or of the named ones; in parallel processes if `jobs` is above 1."""
    chosen = list(names) or list(registry())
    unknown = sorted(set(chosen) - set(registry()))
    if unknown:
        raise BackendError(f"kernels: expected names of the registry, found {', '.join(unknown)}")
    work = [(name, cc) for name in chosen for cc in ccs]
    if jobs == 1:
        done = [_build_named(job) for job in work]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(_build_named, work, chunksize=4))
    return {(name, cc): image for name, cc, image in done}


def parse_cc(text: str) -> tuple[int, int]:
    """'9.0' to (9, 0)."""
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a compute capability like 9.0, found {text!r}")
    return int(match[1]), int(match[2])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.ops.cuda.compile", description=__doc__)
    parser.add_argument("--cc", type=parse_cc, action="append", help="9.0 and 12.1 by default")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("names", nargs="*", help="kernels; all by default")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    images = build_all(options.cc or [(9, 0), (12, 1)], options.names, options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    files = {}
    for (name, cc), image in images.items():
        file_name = _file_name(REGISTRY[name], cc)
        _write(options.out / file_name, image)
        files[file_name] = hashlib.sha256(image).hexdigest()
    manifest = {"sources": sources_digest(), "versions": versions(), "files": files}
    _write(options.out / _MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    size = sum(map(len, images.values()))
    seconds = time.perf_counter() - start
    print(f"{len(images)} cubins, {size} bytes, {seconds:.1f} s: {options.out}")


if __name__ == "__main__":
    main()
