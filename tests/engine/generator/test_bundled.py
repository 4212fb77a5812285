"""The bundled model: made once, under one name, by one process."""

import subprocess
import sys

import pytest

from engine.errors import OptionError
from engine.gguf.reader import open_gguf
from engine.models import bundled
from engine.models.bundled import bundled_model
from engine.models.shapes import nano
from engine.weights.bind import bind_mtp, bind_trunk
from tests.engine.generator import as_stored


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DS4_MODEL_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled, "PACKAGED", tmp_path / "packaged")
    return tmp_path


def test_made_once_then_found(folder):
    first, again = bundled_model("base"), bundled_model("base")
    draft = bundled_model("mtp")

    assert first.made and not again.made and first.path == again.path
    assert "random weights, made now" in first.notice and "made now" not in again.notice
    assert str(first.path) in first.notice and draft.path != first.path
    with open_gguf(first.path) as trunk, open_gguf(draft.path) as block:
        shape, _ = bind_trunk(trunk)
        bind_mtp(block, shape)
    assert shape == as_stored(nano())
    assert first.path.parent.stat().st_mode & 0o077 == 0


def test_processes_that_start_together_make_one_file(folder):
    code = (
        "from engine.models.bundled import bundled_model as b; m = b('mtp'); print(m.made, m.path)"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [run.communicate(timeout=120)[0].split() for run in runs]

    assert sorted(made for made, _ in answers) == ["False", "False", "True"]
    assert len({path for _, path in answers}) == 1
    assert not list(folder.rglob("*.part"))


def test_leftovers_of_a_killed_process_go(folder):
    home = bundled._folder()
    home.mkdir(parents=True)
    stale = home / ".nano-iq2-mtp.gguf.abc.part"
    stale.write_bytes(b"x")

    bundled_model("mtp")

    assert not stale.exists()


def test_a_packaged_model_comes_first(folder):
    (folder / "packaged").mkdir()
    (folder / "packaged" / "base.gguf").write_bytes(b"GGUF")

    found = bundled_model("base")

    assert found.path == folder / "packaged" / "base.gguf" and not found.made


def test_an_unusable_cache_folder_is_one_error(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("DS4_MODEL_CACHE", str(folder / "file"))

    with pytest.raises(OptionError, match="bundled model: expected a folder that can be written"):
        bundled_model("base")
