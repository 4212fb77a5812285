"""Compiled kernels on disk: damaged files are compiled again, unsafe folders are not used."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import BackendError
from engine.ops.cpu.runtime.kernel_cache import cache_dir

SCRIPT = """
from engine.ops.cpu.runtime import jit

@jit.kernel
def triple(x):
    return 3 * x + 1

assert triple(7) == 22
hits = sum(triple.stats.cache_hits.values())
print("hits", hits)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "kernel.py"
    path.write_text(SCRIPT)
    return path


def run(script: Path, cache: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "DS4_KERNEL_CACHE": str(cache), "PYTHONPATH": os.getcwd()},
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


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_folder_that_others_can_write_is_not_used(script, tmp_path):
    cache = tmp_path / "cache"
    run(script, cache)
    (folder,) = cache.iterdir()
    folder.chmod(0o777)
    assert run(script, cache) == "hits 0"
    assert len(list(cache.iterdir())) == 2


def test_folder_that_cannot_be_written_is_one_line_that_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "deeper", "/proc/nowhere"):
        monkeypatch.setenv("DS4_KERNEL_CACHE", str(bad))
        with pytest.raises(BackendError, match="DS4_KERNEL_CACHE: expected a folder") as failure:
            cache_dir()
        assert str(bad) in str(failure.value)
