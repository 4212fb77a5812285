"""Facts about code and machine that a record needs to be comparable; unknown facts are absent."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.tooling.results.redact import safe_arguments

PACKAGES = ("ds4bench", "numba", "llvmlite", "numpy", "tokenizers", "pyarrow", "gguf")
# Instruction sets that decide which kernel runs or how fast.
CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "f16c",
    "fma",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


def environment() -> dict[str, Any]:
    """Commit, versions, processor, memory and system; takes tens of milliseconds.

    Returns
    -------
    dict
        Plain JSON values. Hardware names come from the machine and are untrusted text.
    """
    facts: dict[str, Any] = {
        "code": code(),
        "packages": packages(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu(),
        "memory_bytes": memory_bytes(),
    }
    return {key: value for key, value in facts.items() if value is not None}


def code(folder: Path | None = None) -> dict[str, Any]:
    """Commit and whether the tree differs from it, when the code runs from a git checkout."""
    root = folder or Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return {"commit": "", "dirty": None}
    commit = _git(root, "rev-parse", "HEAD")
    # Untracked results beside the code do not change what runs.
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return {"commit": commit or "", "dirty": None if changes is None else bool(changes)}


def sources_sha256(files: Iterable[Path], root: Path) -> str:
    """One hash over names, relative to `root`, and contents of source files."""
    digest = hashlib.sha256()
    for file in files:
        data = file.read_bytes()
        digest.update(f"{file.relative_to(root)}:{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def _git(root: Path, *arguments: str) -> str | None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            timeout=10,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def packages() -> dict[str, str]:
    """Installed versions of what can change a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu() -> dict[str, Any]:
    """Name, relevant flags, cores, governor and highest clock (source: /proc, /sys)."""
    fields: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    facts: dict[str, Any] = {
        "name": fields.get("model name") or fields.get("CPU part") or platform.processor() or None,
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "logical_cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "max_khz": _number("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"),
        "boost": _number("/sys/devices/system/cpu/cpufreq/boost"),
        "virtual": "hypervisor" in flags if flags else None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def usable_cores() -> int:
    """Cores that this process may use; macOS has no affinity, there it is all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def command_line() -> list[str]:
    """How the program was called, without the folder it lies in and without credentials."""
    return safe_arguments([Path(sys.argv[0]).name, *sys.argv[1:]], paths=True)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None
