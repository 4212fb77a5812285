"""Files that never end, never begin, or are larger than a reader takes."""

from __future__ import annotations

import os
import socket

import pytest

from engine.errors import GGUFError, OptionError, StoreError
from engine.files.regular import open_regular, read_regular


def test_the_bytes_of_a_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100_000)
    assert read_regular(path, 100_000) == b"x" * 100_000
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link", 100_000) == b"x" * 100_000
    with open_regular(str(path)) as file:
        assert file.read(3) == b"xxx"


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 11)
    monkeypatch.setattr("engine.files.regular._whole", lambda file, limit: pytest.fail("read"))
    with pytest.raises(OptionError, match=r"f: expected at most 10 bytes, found 11$"):
        read_regular(path, 10)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
def test_a_file_that_hides_its_size_is_held_to_the_limit():
    assert os.stat("/proc/self/maps").st_size == 0
    with pytest.raises(OptionError, match="expected at most 64 bytes, found more"):
        read_regular("/proc/self/maps", 64)


def test_kinds_are_named(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        # Opening a socket's name fails in the operating system.
        with pytest.raises(StoreError, match="s: expected a readable file, found "):
            read_regular(tmp_path / "s", 10, error=StoreError)
    with pytest.raises(
        OptionError, match=r"--file: expected a regular file, found a FIFO: '.*fifo'"
    ):
        read_regular(tmp_path / "fifo", 10, "--file")
    with pytest.raises(GGUFError, match="expected a regular file, found a directory"):
        read_regular(tmp_path, 10, error=GGUFError)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(OptionError, match="found a character device"):
            read_regular(device, 10)


def test_missing_files_keep_their_cause(tmp_path):
    with pytest.raises(OptionError, match="expected a readable file, found No such file") as caught:
        read_regular(tmp_path / "none", 10, "--file")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(OptionError, match="found a null byte in its name"):
        read_regular("a\0b", 10)
