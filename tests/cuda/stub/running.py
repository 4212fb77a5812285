"""Fixtures that run a session of `stub.sessions` in a process of its own, over the stub library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
NEEDS = [
    pytest.mark.skipif(CC is None, reason="the stub library needs a C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="the stub library is made for Linux"),
]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def stub_folder(tmp_path_factory):
    """Folder with the stub as libcuda.so.1."""
    folder = tmp_path_factory.mktemp("stub")
    source = Path(__file__).with_name("libcuda.c")
    name = ["-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([CC, "-O1", "-shared", "-fPIC", *name, str(source)], check=True)
    return folder


class Outcome:
    def __init__(self, done, log):
        self.status = done.returncode
        self.stderr = done.stderr
        self.calls = log.read_text().splitlines() if log.exists() else []
        self._stdout = done.stdout

    @property
    def answer(self):
        assert self.status == 0, self.stderr
        return json.loads(self._stdout.splitlines()[-1])

    def named(self, name):
        """Calls of one function."""
        return [call for call in self.calls if call.split()[0] == name]


@pytest.fixture
def session(stub_folder, tmp_path):
    """Run a session of `stub.sessions` under given variables."""

    def run(name, *arguments, **variables):
        log = tmp_path / "calls"
        log.unlink(missing_ok=True)
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("DS4_CUDA", "STUB"))
        }
        # Loaded before anything asks: a machine with a GPU has a library of that name of its own.
        environment |= {"LD_PRELOAD": str(stub_folder / "libcuda.so.1"), "STUB_LOG": str(log)}
        environment |= {key: str(value) for key, value in variables.items()}
        command = [sys.executable, "-m", "tests.cuda.stub.sessions", name, *map(str, arguments)]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        return Outcome(done, log)

    return run
