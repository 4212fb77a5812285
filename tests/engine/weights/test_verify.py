"""How often a file's values are looked at, and that nothing bad is remembered as good."""

from __future__ import annotations

import os

import numpy as np
import pytest

from engine.engine import check_opening, open_engine
from engine.errors import BackendError, EngineError, LayoutError, MemoryBudgetError
from engine.gguf import remembered
from engine.options import EngineOptions
from engine.weights import verify
from engine.weights.files import open_files
from tests.engine.gguf.build import write_trunk
from tests.engine.models import model_file


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is known, and small files are remembered as large ones are."""
    monkeypatch.setattr(remembered, "REMEMBER_FROM", 0)
    monkeypatch.setattr(verify, "_CLEAN", set())


@pytest.fixture
def path(tmp_path):
    return write_trunk(tmp_path / "m.gguf", matrix="Q8_0")


def scanned(path, how, mtp=None):
    """Bytes that were looked at, and bytes that were said to be left to look at."""
    done = []
    with open_files(path, mtp) as files:
        left = verify.unchecked_bytes(files, how)
        verify.verify_values(files, how, done.append)
        whole = sum(t.n_bytes for t in files.weights.tensors)
    assert sum(done) == left
    return sum(done) / whole


def spoil(path):
    """NaN into the last scale of a tensor, with the times of the file as they were."""
    info = os.stat(path)
    with open_files(path) as files:
        tensor = files.weights.trunk.output
        place = list(files.trunk.tensors).index("output.weight")
        _, end = files.trunk.identity.spans[place]
        at = end - tensor.format.block_bytes
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(np.float16(np.nan).tobytes())
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_once_is_once_for_a_file_and_for_every_process(path, monkeypatch):
    assert [scanned(path, "once") for _ in range(2)] == [1, 0]
    monkeypatch.setattr(verify, "_CLEAN", set())  # another process
    assert scanned(path, "once") == 0
    assert scanned(path, "always") == 1
    assert scanned(path, "never") == 0


def test_never_leaves_nothing_behind(path):
    assert [scanned(path, how) for how in ("never", "once")] == [0, 1]


def test_without_a_cache_a_process_still_looks_once(path, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DS4_FILE_CACHE", str(tmp_path / "file" / "below"))
    assert [scanned(path, "once") for _ in range(2)] == [1, 0]
    monkeypatch.setattr(verify, "_CLEAN", set())
    assert scanned(path, "once") == 1


def test_a_copy_is_another_file(path, tmp_path):
    scanned(path, "once")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    assert scanned(copy, "once") == 1


def test_bad_values_are_refused_and_never_remembered(path):
    spoil(path)
    for _ in range(2):
        with pytest.raises(LayoutError, match=r"output\.weight: expected finite values"):
            scanned(path, "once")
    assert scanned(path, "never") == 0


@pytest.mark.parametrize("another_process", [False, True])
def test_a_file_that_was_written_since_is_looked_at_again(path, monkeypatch, another_process):
    scanned(path, "once")
    if another_process:
        monkeypatch.setattr(verify, "_CLEAN", set())
    spoil(path)
    with pytest.raises(LayoutError, match="finite values"):
        scanned(path, "once")


def test_trunk_and_draft_block_are_remembered_apart(tmp_path):
    trunk = model_file(tmp_path, "nano", "q8_0")
    draft = model_file(tmp_path, "nano", "q8_0", draft=True)
    scanned(trunk, "once")
    assert 0 < scanned(trunk, "once", draft) < 1
    assert scanned(trunk, "once", draft) == 0


def test_opening_a_model_looks_as_often_as_its_options_say(path):
    spoil(path)
    with pytest.raises(LayoutError, match="finite values"):
        open_engine(EngineOptions(path))
    open_engine(EngineOptions(path, check_values="never")).close()


CUDA = {"backend": "cuda"}


@pytest.mark.parametrize("program", ["open_engine", "check_opening"])
@pytest.mark.parametrize("refusal", ["format", "device", "memory"])
def test_what_costs_nothing_is_refused_before_values_are_read(
    tmp_path, path, monkeypatch, refusal, program
):
    """A spoilt file of a format without a kernel, without a device, beyond a device's memory."""
    spoil(path)

    def refuse(error):
        def raised(*_):
            raise error

        return raised

    words = "expected what is there"
    if refusal == "format":
        path = write_trunk(tmp_path / "other.gguf", matrix="Q4_0")
        spoil(path)
        words = "expected formats with a kernel for --backend cuda"
    elif refusal == "device":
        for place in ("engine.engine.open_device", "engine.engine._load_ops"):
            monkeypatch.setattr(place, refuse(BackendError(words)))
    else:
        monkeypatch.setattr("engine.engine.open_device", lambda options: None)
        monkeypatch.setattr("engine.engine._load_ops", lambda options: Unused())
        for place in ("engine.engine.plan_weights", "engine.engine._plan_weights"):
            monkeypatch.setattr(place, refuse(MemoryBudgetError(words)))
    monkeypatch.setattr(verify, "check_values", refuse(AssertionError("values were read")))

    call = open_engine if program == "open_engine" else check_opening
    with pytest.raises(EngineError, match=words):
        call(EngineOptions(path, kv="f32", **CUDA))


class Unused:
    """A kernel set that is opened and given back."""

    def set_threads(self, n):
        return 1

    def close(self):
        pass
