"""What compiled kernels are named after, and the private folder that keeps them.

A kernel's name in the store holds a hash of every source that it is made of: its own file and all
files of the engine that it imports, directly or not. Editing one op compiles its kernels anew and
no others. The folder's name holds the versions of the compilers; each file carries a checksum, and
one that does not fit is made again.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from engine.files.private import ENVIRONMENT, PrivateFolder, kernel_folder
from engine.ops.cuda.build.kernel import Kernel

ROOT = Path(__file__).resolve().parents[4]  # where the package `engine` lies
_COMPILERS = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink")


@cache
def versions() -> dict[str, str]:
    """Versions of what turns sources into machine code; a package that is missing is empty."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in _COMPILERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


@cache
def _imports(path: Path) -> frozenset[Path]:
    """Files of the engine that a file names in its import statements, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in parts if _module_file(name)]
            names = modules if len(modules) == len(parts) else [*modules, node.module]
        for name in names:
            file = _module_file(name) if name.partition(".")[0] == "engine" else None
            if file is not None:
                found.add(file)
    return frozenset(found)


@cache
def _digest(path: Path) -> str:
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += _imports(file)
    # How IR and machine code are made is a source too.
    build = Path(__file__).resolve().parents[1] / "build"
    seen |= {build / name for name in ("offline.py", "compile.py", "kernel.py")}
    digest = hashlib.sha256()
    for file in sorted(seen):
        name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name
        digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def kernel_digest(kernel: Kernel) -> str:
    """Hash of every source that can change a kernel."""
    return _digest(Path(kernel.file).resolve())


@cache
def _folder(base: str | None) -> PrivateFolder:
    key = hashlib.sha256(repr(sorted(versions().items())).encode()).hexdigest()[:16]
    return kernel_folder(f"cuda-{key}")


def folder() -> PrivateFolder:
    """The store's folder, made if missing; DS4_KERNEL_CACHE names another place.

    One that other users could change is left alone, and its notice says so (see
    `engine.files.private`).
    """
    return _folder(os.environ.get(ENVIRONMENT))


n_asked = 0  # how often this process looked for something: each time it loads or makes code


def get(name: str) -> bytes | None:
    """What `put` stored under a name, or None: nothing, or bytes that do not fit their checksum."""
    global n_asked
    n_asked += 1
    path = folder().path
    if path is None:
        return None
    try:
        stored = (path / name).read_bytes()
    except OSError:
        return None
    data = stored[32:]
    return data if hashlib.sha256(data).digest() == stored[:32] else None


def put(name: str, data: bytes) -> None:
    """Keep bytes for a later run; where nothing can be written, the later run makes them anew."""
    path = folder().path
    if path is not None:
        with contextlib.suppress(OSError):
            write(path / name, hashlib.sha256(data).digest() + data)


def write(path: Path, data: bytes) -> None:
    """Whole file or none: another process may be reading."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
