"""Compiled kernels on disk: damaged files are compiled again, unsafe folders are not used."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from engine.ops.cpu.runtime import jit

@jit.kernel
def triple(x):
    return 3 * x + 1

assert triple(7) == 22
hits = sum(triple.stats.cache_hits.values())
print("hits", hits)
"""


FULL_DISK = """
import builtins, errno, os
from engine.ops.cpu.runtime import facts, jit

plain_open = builtins.open
def full(path, mode="r", *args, **kwargs):
    if "w" in mode and ".nb" in str(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return plain_open(path, mode, *args, **kwargs)
builtins.open = full
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "kernel.py"
    path.write_text(SCRIPT)
    return path


def run(script: Path, cache: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "DS4_KERNEL_CACHE": str(cache),
            "PYTHONPATH": os.getcwd(),
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_damaged_files_are_compiled_again(script, tmp_path):
    cache = tmp_path / "cache"
    assert run(script, cache) == "hits 0"
    assert run(script, cache) == "hits 1"
    files = sorted(p for p in cache.rglob("*.nb[ci]"))
    assert {p.suffix for p in files} == {".nbc", ".nbi"}
    choose = random.Random(4)
    for path in files:
        good = path.read_bytes()
        flipped = bytearray(good)
        flipped[choose.randrange(len(good))] ^= 16
        for bad in (good[: len(good) // 2], bytes(flipped)):
            path.write_bytes(bad)
            run(script, cache)
        assert run(script, cache) == "hits 1", "the repaired file is used"


POSIX = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")


@POSIX
@pytest.mark.parametrize("which", ["itself", "its parent"])
def test_a_folder_that_others_could_change_is_not_used(script, tmp_path, which):
    cache = tmp_path / "above" / "cache"
    run(script, cache)
    (folder,) = cache.iterdir()
    opened = folder if which == "itself" else tmp_path / "above"
    opened.chmod(0o777)

    assert run(script, cache) == "hits 0"
    assert run(script, cache) == "hits 0", "nothing is kept where others write"
    assert list(cache.iterdir()) == [folder]


def test_no_place_at_all_costs_time_only(script, tmp_path):
    """The wanted folder is a file, and the temporary folder is none."""
    cache = tmp_path / "cache"
    cache.write_text("a file")
    assert run(script, cache, TMPDIR=str(cache), TEMP=str(cache), TMP=str(cache)) == "hits 0"


def test_a_disk_that_takes_nothing_more_costs_time_only(tmp_path):
    """The folder serves when the program starts and refuses when a kernel is compiled."""
    path = tmp_path / "kernel.py"
    path.write_text(
        SCRIPT.replace("from engine.ops.cpu.runtime import jit", FULL_DISK)
        + "print(facts.notices()[0])\n"
    )
    assert run(path, tmp_path / "cache").splitlines() == [
        "hits 0",
        "kernels: compiled, but not kept for later runs: [Errno 28] No space left on device",
    ]


def test_versions_of_baked_in_tables_name_the_folder(monkeypatch):
    import importlib.metadata

    from engine.ops.cpu.runtime.kernel_cache import source_digest

    plain = importlib.metadata.version
    seen = {source_digest()}
    for package in ("gguf", "numba", "llvmlite", "numpy"):
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, p=package: plain(name) + "x" * (name == p)
        )
        seen.add(source_digest())
    assert len(seen) == 5
