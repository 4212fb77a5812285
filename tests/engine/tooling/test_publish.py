"""Published files are whole or absent; bad output paths are refused beforehand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import OptionError, StoreError
from engine.tooling.results import publish as module
from engine.tooling.results.publish import (
    check_folder,
    check_output,
    make_folder,
    publish,
    publish_bytes,
    remove_stale,
)


def names(folder):
    return sorted(os.listdir(folder))


def test_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.csv"
    publish_bytes(path, b"old")
    publish_bytes(path, b"new")

    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), RuntimeError("bug")])
def test_failed_writer_keeps_the_old_file(tmp_path, failure):
    path = tmp_path / "a.csv"
    publish_bytes(path, b"old")

    def write(file):
        file.write(b"half")
        raise failure

    with pytest.raises(StoreError if isinstance(failure, OSError) else RuntimeError):
        publish(path, write)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.csv"]


def test_order_of_syncs_and_rename(tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(fd):
        events.append(os.readlink(f"/proc/self/fd/{fd}"))
        real_sync(fd)

    def replace(a, b):
        events.append("replace")
        real_replace(a, b)

    monkeypatch.setattr(module.os, "fsync", sync)
    monkeypatch.setattr(module.os, "replace", replace)
    publish_bytes(tmp_path / "a", b"x")

    temp = str(tmp_path / f".a.tmp.{os.getpid()}")
    assert events == [temp, "replace", str(tmp_path)]


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "a.csv"
    target.write_bytes(b"old")
    link = tmp_path / "a.csv"
    link.symlink_to(target)

    publish_bytes(link, b"new")

    assert link.is_symlink() and target.read_bytes() == b"new"


def test_full_disk_reports_the_path(tmp_path):
    code = (
        "import resource, sys, pathlib\n"
        "from engine.tooling.results.publish import publish_bytes\n"
        "from engine.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n    publish_bytes(pathlib.Path(sys.argv[1]), bytes(1000))\n"
        "except StoreError as e:\n    print(e); sys.exit(e.exit_code)\n"
    )
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)

    assert done.returncode == 5
    assert str(path) in done.stdout and "bytes free" in done.stdout
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.csv"]


def test_stale_files_of_dead_writers_go_and_others_stay(tmp_path):
    for name in (".a.csv.tmp.12", ".a.csv.tmp.x", ".b.csv.tmp.12", "a.csv"):
        (tmp_path / name).touch()

    remove_stale(tmp_path / "a.csv")

    assert names(tmp_path) == [".a.csv.tmp.x", ".b.csv.tmp.12", "a.csv"]


def _fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def _existing(tmp_path):
    (tmp_path / "a").touch()
    return tmp_path / "a"


def _loop(tmp_path):
    (tmp_path / "l").symlink_to(tmp_path / "l")
    return tmp_path / "l"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda t: t, "a folder", id="folder"),
        pytest.param(_fifo, "a FIFO", id="fifo"),
        pytest.param(lambda t: "/dev/full", "a device", id="device"),
        pytest.param(_existing, "--force", id="existing file"),
        pytest.param(lambda t: t / "no" / "a", "existing folder", id="missing folder"),
        pytest.param(lambda t: "/sys/kernel/a.csv", "can be written", id="read-only folder"),
        pytest.param(lambda t: t / ("x" * 300), "path to write", id="name too long"),
        pytest.param(lambda t: str(t / "a\0b"), "path to write", id="NUL in the name"),
        pytest.param(_loop, "path to write", id="link to itself"),
    ],
)
def test_output_paths_that_cannot_work_are_refused(tmp_path, make, words):
    path = Path(make(tmp_path))
    before = names(tmp_path)

    with pytest.raises(OptionError, match=words) as failure:
        check_output(path, "--csv", replace=False)
    assert str(failure.value).startswith("--csv: expected")
    assert names(tmp_path) == before


def test_good_paths_pass_and_are_not_made(tmp_path):
    check_output(tmp_path / "new.csv", "--csv", replace=False)
    check_output(tmp_path / "ünïcode \u2028.csv", "--csv", replace=False)
    assert names(tmp_path) == []
    (tmp_path / "old").touch()
    check_output(tmp_path / "old", "--csv", replace=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(_existing, "expected a folder, found a file '{}/a'", id="file"),
        pytest.param(lambda t: _existing(t) / "b" / "c", "found a file '{}/a'", id="under a file"),
        pytest.param(lambda t: "/sys/kernel/b/c", "can be written", id="read-only folder above"),
        pytest.param(lambda t: t / ("x" * 300) / "b", "expected a", id="name too long"),
        pytest.param(lambda t: str(t / "a\0b"), "expected a", id="NUL in the name"),
    ],
)
def test_folders_that_cannot_be_made_are_refused(tmp_path, make, words):
    path = Path(make(tmp_path))
    before = names(tmp_path)

    with pytest.raises(OptionError) as failure:
        check_folder(path, "--out")

    assert str(failure.value).startswith("--out: expected")
    assert words.format(tmp_path) in str(failure.value)
    assert names(tmp_path) == before


def test_folders_are_made_with_those_above_them(tmp_path, monkeypatch):
    check_folder(tmp_path, "--out")
    check_folder(tmp_path / "a" / "b" / "c", "--out")
    assert names(tmp_path) == []
    monkeypatch.chdir(tmp_path)
    check_folder(Path("x/y"), "--out")
    synced = []
    monkeypatch.setattr(module, "sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    # Each new name is safe when the folder that holds it is.
    assert set(synced[:2]) == {tmp_path, tmp_path / "a"}
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/c: expected to make the folder, found Not a dir"):
        make_folder(tmp_path / "file" / "c")
